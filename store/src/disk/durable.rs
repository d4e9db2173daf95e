//! Writes that a crash leaves undone or done, and directories.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, IoContext, Result};

/// Syncs a directory, so that names made in it stay.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).at("syncing", path)
}

/// Syncs a file.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).at("syncing", path)
}

/// Syncs the directory that a path is in.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Syncs every file in a directory, and the directory.
pub(crate) fn sync_files(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).at("reading", path)? {
        let entry = entry.at("reading", path)?;
        if entry.file_type().at("reading", path)?.is_file() {
            let file = entry.path();
            File::open(&file).and_then(|f| f.sync_all()).at("syncing", &file)?;
        }
    }
    sync_dir(path)
}

/// Writes a small file so that a crash leaves the old one or the new.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Settings { path: path.to_owned(), source })?;
    text.push(b'\n');
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Not by tempfile: its errors have lost the errno, which tells a disk that fails from others.
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = new_file(&new)?;
    file.write_all(&text).and_then(|()| file.sync_all()).at("writing", &new)?;
    fs::rename(&new, path).at("renaming", &new)?;
    sync_parent(path)
}

/// Makes the file at `path`, or empties it: what is to take another's place.
pub(crate) fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    options.open(path).at("making", path)
}

/// Makes a directory that only its owner may look into, unless it is there.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).at("making", path),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", path),
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", path),
        _ => Ok(()),
    }
}
