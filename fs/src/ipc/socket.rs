//! Sockets with a name in the store's directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, connect,
    socket_with, sockopt,
};

/// As many who wait as the system allows (listen(2)).
const BACKLOG: i32 = -1;

/// A path to `name` in `dir` that fits into a socket address, whose limit is
/// 107 bytes (unix(7)), however long `dir` is; valid while the file is open.
pub fn short_path(dir: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let dir = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    Ok((dir, path.into()))
}

fn new_socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// Listens on `name` in `dir`, whoever did before.
pub(crate) fn listen(dir: &Path, name: &str, kind: SocketType) -> io::Result<OwnedFd> {
    let (_dir, path) = short_path(dir, name)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = new_socket(kind)?;
    // Nobody else can reach it before its mode is set: the directory is 0700.
    bind(&socket, &SocketAddrUnix::new(&path)?)?;
    chmod(&path, Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts whoever is waiting.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(acceptfrom_with(listener, SocketFlags::CLOEXEC)?.0)
}

/// Connects to `name` in `dir`; `None` if nobody listens.
pub(crate) fn reach(dir: &Path, name: &str) -> io::Result<Option<OwnedFd>> {
    let (_dir, path) = short_path(dir, name)?;
    let socket = new_socket(SocketType::SEQPACKET)?;
    match connect(&socket, &SocketAddrUnix::new(&path)?) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Refuses another user at the other end.
pub(crate) fn check_peer(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let peer = sockopt::socket_peercred(socket)?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
}
