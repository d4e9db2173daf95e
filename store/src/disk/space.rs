//! Free space: what a commit leaves, and what is kept for a disk that is full.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::dir::Dir;
use super::names::RESERVE;
use crate::error::{Error, IoContext, Result};

/// Free space that a commit leaves, in bytes: the catalogue must not meet a full disk.
const COMMIT_MARGIN: u64 = 8 << 20;
/// The size of the reserve in bytes: the catalogue writes when it is opened.
pub(crate) const RESERVE_SIZE: u64 = 4 << 20;

/// The space of a disk that ordinary users may have, in bytes.
pub(crate) fn available(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses to start what a full disk would interrupt: so many bytes, and a margin.
pub(crate) fn check_free_space(dir: &Dir, bytes: u64) -> Result<()> {
    let available = available(&dir.through("")).at("asking for the free space of", dir.path())?;
    let needed = bytes.saturating_add(COMMIT_MARGIN);
    if available < needed {
        return Err(Error::DiskFull { dir: dir.path().to_owned(), needed, available });
    }
    Ok(())
}

/// Whether a file can be made in `dir` and written.
pub(crate) fn check_writable(dir: &Path) -> Result<()> {
    let path = dir.join(format!(".probe.{}", std::process::id()));
    let written = File::create_new(&path).and_then(|mut file| file.write_all(&[0; 4096]));
    let _ = fs::remove_file(&path);
    written.at("writing", &path)
}

/// Keeps some space in `dir`, if there is plenty.
pub(crate) fn make_reserve(dir: &Dir) {
    if dir.has(RESERVE).unwrap_or(true) {
        return;
    }
    let plenty = RESERVE_SIZE + 2 * COMMIT_MARGIN;
    if available(&dir.through("")).is_ok_and(|available| available > plenty)
        && let Ok(file) = dir.new_file(RESERVE)
        && let Err(e) = fallocate(&file, FallocateFlags::empty(), 0, RESERVE_SIZE)
    {
        log::debug!("reserving space in {}: {e}", dir.path().display());
        let _ = dir.remove_file(RESERVE);
    }
}

/// Gives the reserve back, and says whether there was one.
pub(crate) fn give_back_reserve(dir: &Dir) -> bool {
    if !dir.has(RESERVE).unwrap_or(false) {
        return false;
    }
    let removed = dir.remove_file(RESERVE);
    if let Err(e) = &removed {
        log::warn!("giving back the reserve of {}: {e}", dir.path().display());
    }
    removed.is_ok()
}
