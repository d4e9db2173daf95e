//! Mounting and unmounting: as root by mount(2), else through `fusermount3`.

use std::ffi::{CString, OsStr};
use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::filesystem::chain;

/// The type that a mount shows in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.wasmfs";

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

/// What is mounted at a path, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub mount_point: PathBuf,
    /// The file system type.
    pub fs_type: String,
    /// The device number, major and minor; for FUSE the minor is the
    /// connection's name under `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
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

/// The topmost mount at exactly `path`, which must be absolute.
pub fn mounted_at(path: &Path) -> Result<Option<Mounted>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).at("reading", table)?;
    let lines = text.split(|&b| b == b'\n').rev();
    Ok(lines.filter_map(parse_mountinfo).find(|m| m.mount_point == path))
}

fn parse_mountinfo(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = unescape(fields.nth(1)?);
    fields.by_ref().find(|field| *field == b"-")?;
    Some(Mounted {
        mount_point: PathBuf::from(OsStr::from_bytes(&mount_point)),
        fs_type: String::from_utf8_lossy(fields.next()?).into_owned(),
        device: (major.parse().ok()?, minor.parse().ok()?),
    })
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
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
        return Err(Error::NotEmpty { mount_point: mount_point.to_owned(), found });
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
    mount_by_fusermount(mount_point, allow_other)
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

fn mount_by_fusermount(mount_point: &Path, allow_other: bool) -> Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .at("making a socket pair for", mount_point)?;
    fcntl_setfd(&theirs, FdFlags::empty()).at("making a socket pair for", mount_point)?;
    let mut options =
        String::from("ro,nosuid,nodev,default_permissions,fsname=wasmfs,subtype=wasmfs");
    if allow_other {
        options.push_str(",allow_other");
    }
    let mut command = Command::new("fusermount3");
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()).args(["-o", &options, "--"]);
    run_fusermount(command.arg(mount_point), mount_point)?;
    drop(theirs);
    receive_descriptor(&ours).at("receiving /dev/fuse for", mount_point)
}

fn receive_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(io::Error::other("fusermount3 sent no descriptor"))
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
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    run_fusermount(command.arg("--").arg(mount_point), mount_point)
}

/// Unmounts lazily where nobody could be told of an error but the log.
pub(crate) fn detach(mount_point: &Path) {
    if let Err(e) = unmount(mount_point, true) {
        log::error!("unmounting {}: {}", mount_point.display(), chain(&e));
    }
}

fn run_fusermount(command: &mut Command, mount_point: &Path) -> Result<()> {
    // English messages, since two of them are told apart below.
    let command = command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(Error::NoFusermount)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(if message.contains("only allowed if 'user_allow_other' is set") {
        Error::AllowOtherForbidden
    } else if message.ends_with("Device or resource busy") {
        Error::Busy(mount_point.to_owned())
    } else {
        Error::Fusermount(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = b"36 35 0:48 / /mnt/a\\040b ro,nosuid shared:1 master:2 - fuse.wasmfs wasmfs ro";
        let mounted = parse_mountinfo(line).unwrap();
        assert_eq!(mounted.mount_point, Path::new("/mnt/a b"));
        assert_eq!((mounted.fs_type.as_str(), mounted.device), (FS_TYPE, (0, 48)));
        assert_eq!(parse_mountinfo(b""), None);
    }

    #[test]
    fn only_whole_escapes_are_undone() {
        assert_eq!(unescape(b"a\\134b\\04"), b"a\\b\\04");
    }
}
