//! Directories that are reached by path: the database's own, and temporary ones.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{IoContext, Result};

/// Syncs every file in a directory, and the directory.
pub(crate) fn sync_files(path: &Path) -> Result<()> {
    each_file(path, |file| File::open(file).and_then(|f| f.sync_all()).at("syncing", file))?;
    File::open(path).and_then(|dir| dir.sync_all()).at("syncing", path)
}

/// Takes everything in a directory from others than its owner, whatever the umask left them.
pub(crate) fn protect_files(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).at("reading", path)? {
        let entry = entry.at("reading", path)?;
        let file = entry.path();
        // Not followed: nothing in there is a symbolic link.
        let mode = entry.metadata().at("reading", &file)?.permissions().mode();
        if mode & 0o077 != 0 && !entry.file_type().at("reading", &file)?.is_symlink() {
            let private = fs::Permissions::from_mode(mode & 0o700);
            fs::set_permissions(&file, private).at("protecting", &file)?;
        }
    }
    Ok(())
}

fn each_file(path: &Path, mut each: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(path).at("reading", path)? {
        let entry = entry.at("reading", path)?;
        if entry.file_type().at("reading", path)?.is_file() {
            each(&entry.path())?;
        }
    }
    Ok(())
}
