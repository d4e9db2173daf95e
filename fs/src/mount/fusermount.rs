//! Mounting and unmounting as an ordinary user, through `fusermount3`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use crate::error::{Error, IoContext, Result};

/// Mounts, and returns the descriptor of `/dev/fuse` to serve the mount by.
pub(super) fn mount(mount_point: &Path, allow_other: bool) -> Result<OwnedFd> {
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

/// Unmounts; with `lazy` it disappears at once, whoever uses it.
pub(super) fn unmount(mount_point: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    run_fusermount(command.arg("--").arg(mount_point), mount_point)
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
