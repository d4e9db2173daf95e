//! Mounting and unmounting as an ordinary user, through `fusermount3`.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::table::mounted_at;
use crate::error::{Error, IoContext, Result};

/// Where root looks for `fusermount3`: where only root can put it. NixOS has it in the last.
const TRUSTED_DIRECTORIES: [&str; 5] =
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/wrappers/bin"];

/// Mounts the store at `store`, and returns the descriptor of `/dev/fuse` to serve the mount by.
pub(super) fn mount(store: &Path, mount_point: &Path, allow_other: bool) -> Result<OwnedFd> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .at("making a socket pair for", mount_point)?;
    fcntl_setfd(&theirs, FdFlags::empty()).at("making a socket pair for", mount_point)?;
    let mut options = OsString::from("ro,nosuid,nodev,default_permissions,subtype=wasmfs,fsname=");
    options.push(escaped(store));
    if allow_other {
        options.push(",allow_other");
    }
    let mut command = program()?;
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()).arg("-o").arg(options).arg("--");
    run_fusermount(command.arg(mount_point)).map_err(|e| match device_fault() {
        Some(fault) => Error::NoFuseDevice(fault),
        None if allow_other && !is_other_allowed() => Error::AllowOtherForbidden,
        None => e,
    })?;
    drop(theirs);
    receive_descriptor(&ours).at("receiving /dev/fuse for", mount_point)
}

/// `fusermount3`. Root takes none from a `PATH` that may be another user's.
fn program() -> Result<Command> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Command::new("fusermount3"));
    }
    let places = TRUSTED_DIRECTORIES.map(|directory| Path::new(directory).join("fusermount3"));
    match places.into_iter().find(|place| place.exists()) {
        Some(place) => Ok(Command::new(place)),
        None => Err(Error::NoFusermount(io::ErrorKind::NotFound.into())),
    }
}

/// A value of an option; a comma would end it (libfuse 3.17, `util/fusermount.c`: `do_mount`).
fn escaped(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().iter();
    let escaped = bytes.flat_map(|&byte| match byte {
        b',' | b'\\' => vec![b'\\', byte],
        _ => vec![byte],
    });
    OsString::from_vec(escaped.collect())
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

/// What of `/dev/fuse` keeps this user from mounting.
fn device_fault() -> Option<io::Error> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse").err()
}

/// Whether `/etc/fuse.conf` lets ordinary users mount for others too, as fusermount3 reads it
/// (libfuse 3.17, `util/fusermount.c`: `read_conf`). What can't be read is left to it to judge.
fn is_other_allowed() -> bool {
    match fs::read_to_string("/etc/fuse.conf") {
        Ok(text) => {
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
            lines.into_iter().any(|line| line == "user_allow_other")
        }
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// Unmounts; with `lazy` it disappears at once, whoever uses it.
pub(super) fn unmount(mount_point: &Path, lazy: bool) -> Result<()> {
    let mut command = program()?;
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    run_fusermount(command.arg("--").arg(mount_point)).map_err(|e| match e {
        // It has only words for what the kernel answered. A mount of this user's that is still
        // there is busy.
        Error::Fusermount(said) if !lazy && is_ours(mount_point) => {
            log::info!("{said}");
            Error::Busy(mount_point.to_owned())
        }
        e => e,
    })
}

/// Whether a mount of this user's is there.
fn is_ours(mount_point: &Path) -> bool {
    let Ok(Some(mounted)) = mounted_at(mount_point) else { return false };
    mounted.user == Some(rustix::process::geteuid().as_raw())
}

fn run_fusermount(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().map_err(Error::NoFusermount)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Fusermount(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
