//! Directories that are in use for a while.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::clock::now;
use super::dir::Dir;
use super::space::available;
use crate::error::{IoContext, Result};

/// The start of the names of directories that are in use for a while.
pub(crate) const TEMP_PREFIX: &str = ".wasmfs-";
/// How long one may be in use.
const TEMP_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A directory in memory, or where temporary files are, with room for so many bytes.
pub(crate) fn temp_dir_in_memory(bytes: u64) -> Result<TempDir> {
    temp_dir_in(&[Path::new("/dev/shm"), &std::env::temp_dir()], bytes)
}

/// A directory for a catalogue beside that of the store in `dir`, with room for so many bytes. What
/// a kill leaves of it in the store's directory is swept by [`sweep`].
pub(crate) fn temp_dir(dir: &Dir, bytes: u64) -> Result<TempDir> {
    temp_dir_in(&[&std::env::temp_dir(), &dir.through("")], bytes)
}

fn temp_dir_in(places: &[&Path], bytes: u64) -> Result<TempDir> {
    let mut failed = None;
    for place in places.iter().copied() {
        if available(place).unwrap_or(0) < bytes {
            continue;
        }
        match tempfile::Builder::new().prefix(TEMP_PREFIX).tempdir_in(place) {
            Ok(directory) => return Ok(directory),
            Err(e) => failed = Some(e),
        }
    }
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    Err(failed.unwrap_or_else(full)).at("making a copy in", places[0])
}

/// Removes what was left in `dir` of directories that nobody can be using any more: those whose
/// lease is free, by `is_leased`, and those without a lease that are old.
pub(crate) fn sweep(dir: &Dir, is_leased: impl Fn(&str) -> Option<bool>) {
    for (name, _) in dir.entries().unwrap_or_default() {
        let text = name.to_string_lossy();
        let Some(id) = text.strip_prefix(TEMP_PREFIX) else { continue };
        if is_leased(id).map_or_else(|| is_old(dir, &name), |is_leased| !is_leased) {
            let _ = dir.remove_dir(&name);
        }
    }
}

fn is_old(dir: &Dir, name: &OsStr) -> bool {
    let modified = dir.metadata(name).ok().flatten();
    let modified = modified.and_then(|found| u64::try_from(found.st_mtime).ok());
    let age = modified.map(|seconds| (now() / 1_000_000_000).saturating_sub(seconds));
    age.is_some_and(|age| age > TEMP_MAX_AGE.as_secs())
}
