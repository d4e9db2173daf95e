//! Directories that are in use for a while.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::space::available;
use crate::error::{IoContext, Result};

/// The start of the names of directories that are in use for a while.
pub const TEMP_PREFIX: &str = ".wasmfs-";
/// How long one may be in use.
const TEMP_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A directory in memory, or where temporary files are, with room for so many bytes.
pub(crate) fn temp_dir_in_memory(bytes: u64) -> Result<TempDir> {
    temp_dir_in(&[Path::new("/dev/shm"), &std::env::temp_dir()], bytes)
}

/// A directory for a catalogue beside that of the store in `dir`, with room for so many bytes. What
/// a kill leaves of it in the store's directory is swept by [`sweep`].
pub(crate) fn temp_dir(dir: &Path, bytes: u64) -> Result<TempDir> {
    temp_dir_in(&[&std::env::temp_dir(), dir], bytes)
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

/// Removes what was left in `dir` of directories that nobody can be using any more.
pub(crate) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX)
            && age.is_some_and(|age| age > TEMP_MAX_AGE)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
