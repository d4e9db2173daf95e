//! Directories that are in use for a while.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::fstat;
use rustix::process::geteuid;
use tempfile::TempDir;

use super::clock::now;
use super::dir::Dir;
use super::space::available;
use super::way::{End, Missing, open_way};
use crate::error::{Error, IoContext, Result};

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
        if available(place).unwrap_or(0) < bytes || !is_safe(place) {
            continue;
        }
        match private_in(place, TEMP_PREFIX) {
            Ok(directory) => return Ok(directory),
            Err(e) => failed = Some(e),
        }
    }
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    Err(failed.unwrap_or_else(full)).at("making a copy in", places[0])
}

/// A directory of this process's own where temporary files are, which nobody else looks into. It is
/// removed when it is dropped.
///
/// # Errors
/// [`Error::UnsafeTempDir`] if somebody else could put another one in its place.
pub fn private_temp_dir(prefix: &str) -> Result<TempDir> {
    let place = std::env::temp_dir();
    if !is_safe(&place) {
        return Err(Error::UnsafeTempDir(place));
    }
    private_in(&place, prefix).at("making a directory in", &place)
}

fn private_in(place: &Path, prefix: &str) -> io::Result<TempDir> {
    let private = Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix(prefix).permissions(private).tempdir_in(place)
}

/// Whether what this user makes in a directory stays where it is: the directory is root's or this
/// user's, and others can't rename in it.
fn is_safe(place: &Path) -> bool {
    let Ok(place) = std::path::absolute(place) else { return false };
    let opened = open_way(&place, Missing::Fail, End::LikeTheWay);
    let Some(stat) = opened.ok().and_then(|opened| fstat(opened).ok()) else { return false };
    let is_trusted = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
    is_trusted && (stat.st_mode & 0o022 == 0 || stat.st_mode & 0o1000 != 0)
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
