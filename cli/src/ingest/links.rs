//! Symbolic links into a mount.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, readlinkat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use wasmfs_fs::mount::Mounted;
use wasmfs_store::{Dir, Key, RESERVED, Sha};

use crate::client::stable_file::{Stamp, open_within};

/// What a link is called, with the number of the process, before it is put in its place.
pub const ASIDE: &str = ".wasmfs-link.";

/// Where a link to a key leads: to its plain name, or to an engine's view.
pub fn target(mount_point: &Path, engine: Option<&str>, key: &Key) -> PathBuf {
    match engine {
        None => mount_point.join(key.as_str()),
        Some(name) => mount_point.join(RESERVED).join("engines").join(name).join(key.as_str()),
    }
}

/// Whether a file with these bytes is to be found at `target`, in this very mount. That it is in it
/// the kernel says; what it is says the mount.
pub fn leads_to(target: &Path, mount: &Mounted, sha256: &Sha) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(target, flags, Mode::empty()) else { return false };
    if !mount.holds(&file) {
        return false;
    }
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(Dir::path_of(&file), "user.wasmfs.sha256", &mut value[..]);
    length.is_ok_and(|length| value[..length] == *sha256.hex().as_bytes())
}

/// Whether `path` is a link that leads into one of these mounts.
pub fn leads_into(path: &Path, mounts: &[Mounted]) -> bool {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = file {
        return mounts.iter().any(|mount| mount.holds(&file));
    }
    // To a name that is gone, or was never published.
    let leads = |target: PathBuf| mounts.iter().any(|m| target.starts_with(&m.mount_point));
    fs::read_link(path).is_ok_and(leads)
}

/// Puts a link in the place of a file that still is what it was; false if it
/// isn't. Both are exchanged first, so that nothing is lost that somebody writes.
pub fn replace_file(root: &OwnedFd, path: &Path, target: &Path, stamp: Stamp) -> Result<bool> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = open_within(root, parent.unwrap_or(Path::new(".")), flags);
    let parent = parent.context("opening its directory")?;
    let Some(name) = path.file_name() else { return Ok(false) };
    let aside = format!("{ASIDE}{}", std::process::id());
    let _ = unlinkat(&parent, &aside, AtFlags::empty());
    symlinkat(target, &parent, &aside).context("making a link")?;
    let put = exchange(&parent, Path::new(&aside), Path::new(name), target, stamp);
    if !matches!(put, Ok(true)) && is_link(&parent, Path::new(&aside), target) {
        let _ = unlinkat(&parent, &aside, AtFlags::empty());
    }
    match put {
        // It was taken away.
        Err(Errno::NOENT) => Ok(false),
        put => put.map_err(std::io::Error::from).context("putting a link in its place"),
    }
}

/// Exchanges the link at `aside` and the file at `name`, and back if that is not what it was:
/// the newest that somebody wrote ends at `name`.
fn exchange(
    parent: &OwnedFd,
    aside: &Path,
    name: &Path,
    target: &Path,
    stamp: Stamp,
) -> rustix::io::Result<bool> {
    let rename = |from, to, flags| renameat_with(parent, from, parent, to, flags);
    match rename(aside, name, RenameFlags::EXCHANGE) {
        // A file system that can't (NFS): it may be rewritten between these two.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if stamp.is_still(parent, name) => {
            return rename(aside, name, RenameFlags::empty()).map(|()| true);
        }
        exchanged => exchanged?,
    }
    if stamp.is_still(parent, aside) {
        return unlinkat(parent, aside, AtFlags::empty()).map(|()| true);
    }
    match rename(aside, name, RenameFlags::EXCHANGE) {
        // It was written once more while the link was there.
        Ok(()) if !is_link(parent, aside, target) => rename(aside, name, RenameFlags::empty())?,
        Ok(()) => {}
        // The link was taken away, or also replaced.
        Err(Errno::NOENT) => match rename(aside, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => unlinkat(parent, aside, AtFlags::empty())?,
            back => back?,
        },
        Err(e) => return Err(e),
    }
    Ok(false)
}

fn is_link(parent: &OwnedFd, path: &Path, target: &Path) -> bool {
    readlinkat(parent, path, Vec::new())
        .is_ok_and(|link| link.as_bytes() == target.as_os_str().as_encoded_bytes())
}
