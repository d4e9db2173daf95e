//! Free space: what a commit leaves, and what is kept for a disk that is full.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

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
pub(crate) fn check_free_space(dir: &Path, bytes: u64) -> Result<()> {
    let available = available(dir).at("asking for the free space of", dir)?;
    let needed = bytes.saturating_add(COMMIT_MARGIN);
    if available < needed {
        return Err(Error::DiskFull { dir: dir.to_owned(), needed, available });
    }
    Ok(())
}

/// Whether a file can be made in `dir` and written.
pub(crate) fn check_writable(dir: &Path) -> Result<()> {
    let path = dir.join(".probe");
    let written = fs::write(&path, [0; 4096]);
    let _ = fs::remove_file(&path);
    written.at("writing", &path)
}

/// Keeps some space in `dir`, if there is plenty.
pub(crate) fn make_reserve(dir: &Path) {
    let path = dir.join(RESERVE);
    if path.exists() {
        return;
    }
    let plenty = RESERVE_SIZE + 2 * COMMIT_MARGIN;
    if available(dir).is_ok_and(|available| available > plenty)
        && let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
        && let Err(e) = fallocate(&file, FallocateFlags::empty(), 0, RESERVE_SIZE)
    {
        log::debug!("reserving space in {}: {e}", dir.display());
        let _ = fs::remove_file(&path);
    }
}

/// Gives the reserve back, and says whether there was one.
pub(crate) fn give_back_reserve(dir: &Path) -> bool {
    match fs::remove_file(dir.join(RESERVE)) {
        Ok(()) => true,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                log::warn!("giving back the reserve of {}: {e}", dir.display());
            }
            false
        }
    }
}
