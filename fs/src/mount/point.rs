//! Mount points: readied, mounted and unmounted, as root by mount(2), else through `fusermount3`.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::fusermount;
use super::table::{FS_TYPE, mounted_at};
use crate::error::{Error, IoContext, Result, chain};

/// How a mount is made, which it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether other users may look in.
    pub allow_other: bool,
    /// Whether the kernel reads files by itself, without the server (FUSE passthrough, Linux 6.9).
    #[serde(default)]
    pub passthrough: bool,
    /// Whether payloads are served from memory alone, and how many bytes they may take there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_memory: Option<u64>,
}

/// Makes `path` absolute and resolves its symbolic links, as far as it exists.
/// Asks no server: the kernel knows by itself that a mount's root is no link.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    // Without a slash at the end, for which realpath(3) would look into the mount.
    let path: PathBuf = std::path::absolute(path)?.components().collect();
    for existing in path.ancestors() {
        match existing.canonicalize() {
            Ok(resolved) => {
                let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
                return Ok(if rest.as_os_str().is_empty() {
                    resolved
                } else {
                    resolved.join(rest)
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(path)
}

/// Readies a mount point: made if missing, cleared if a dead mount of ours is
/// on it, refused if it holds anything or is mounted already.
pub fn prepare(mount_point: &Path) -> Result<()> {
    while let Some(mounted) = mounted_at(mount_point)?
        && mounted.fs_type == FS_TYPE
    {
        // A question that the kernel can't answer from what it remembers of a dead server.
        match rustix::fs::statvfs(mount_point) {
            Err(Errno::NOTCONN) => {
                log::info!("{}: clearing a dead mount", mount_point.display());
                unmount(mount_point, true)?;
            }
            _ => return Err(Error::AlreadyMounted(mount_point.to_owned())),
        }
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(mount_point);
    if let Err(e) = made {
        if fs::metadata(mount_point).is_ok_and(|m| !m.is_dir()) {
            return Err(Error::MountPointNotADirectory(mount_point.to_owned()));
        }
        return Err(e).at("making", mount_point);
    }
    let mut entries = fs::read_dir(mount_point).at("reading", mount_point)?;
    if let Some(entry) = entries.next() {
        let found = entry.at("reading", mount_point)?.file_name().to_string_lossy().into_owned();
        return Err(Error::MountPointNotEmpty { mount_point: mount_point.to_owned(), found });
    }
    Ok(())
}

/// Mounts at `mount_point`, and returns the descriptor of `/dev/fuse` to serve
/// it by. Always `ro,nosuid,nodev`, never `noexec`: hosts map pages executable.
pub fn mount(mount_point: &Path, allow_other: bool) -> Result<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        match mount_directly(mount_point, allow_other) {
            // Root of a container without CAP_SYS_ADMIN.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
            result => return result,
        }
    }
    fusermount::mount(mount_point, allow_other)
}

fn mount_directly(mount_point: &Path, allow_other: bool) -> Result<OwnedFd> {
    let device = Path::new("/dev/fuse");
    let fuse = OpenOptions::new().read(true).write(true).open(device).at("opening", device)?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        fuse.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if allow_other { ",allow_other" } else { "" },
    );
    let data = CString::new(data).map_err(io::Error::from).at("mounting", mount_point)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("wasmfs", mount_point, FS_TYPE, flags, &*data)
        .at("mounting", mount_point)?;
    Ok(fuse.into())
}

/// Unmounts `mount_point`. With `lazy` it disappears at once, and whoever has
/// something of it open or mapped is served on.
pub fn unmount(mount_point: &Path, lazy: bool) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        match rustix::mount::unmount(mount_point, flags | UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => return Err(Error::Busy(mount_point.to_owned())),
            Err(Errno::PERM) => {}
            result => return result.at("unmounting", mount_point),
        }
    }
    fusermount::unmount(mount_point, lazy)
}

/// Unmounts lazily where nobody could be told of an error but the log.
pub(crate) fn detach(mount_point: &Path) {
    if let Err(e) = unmount(mount_point, true) {
        log::error!("unmounting {}: {}", mount_point.display(), chain(&e));
    }
}
