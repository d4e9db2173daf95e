//! Sockets with a name in the store's directory.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, fchmod, fstat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, connect,
    socket_with, sockopt,
};
use rustix::process::geteuid;
use wasmfs_store::{Dir, StoreDir};

use crate::error::{Error, IoContext, Result};

/// As many who wait as the system allows (listen(2)).
const BACKLOG: i32 = -1;

/// Listens on `name` in the store's directory, whoever did before.
pub(crate) fn listen(dir: &StoreDir, name: &str, kind: SocketType) -> Result<OwnedFd> {
    dir.remove_file(name)?;
    let listening = || -> io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        // Its file gets the mode of the socket (net/unix/af_unix.c, `unix_bind_bsd`).
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        // An address has 107 bytes at most (unix(7)), and the store's path may be longer.
        bind(&socket, &SocketAddrUnix::new(dir.through(name))?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listening().at("listening at", &dir.named(name))
}

/// Accepts whoever is waiting.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(acceptfrom_with(listener, SocketFlags::CLOEXEC)?.0)
}

/// Connects to `name` in the store's directory; `None` if nobody listens. Whoever listens is this
/// user: the socket's file is, and so was who began to listen (`SO_PEERCRED`, unix(7)), though that
/// process may be long gone.
///
/// # Errors
/// [`Error::ForeignServer`] for anybody else, before a byte is sent.
pub fn reach(dir: &StoreDir, name: &str, kind: SocketType) -> Result<Option<OwnedFd>> {
    let path = dir.named(name);
    let Some(file) = dir.look_at(name)? else { return Ok(None) };
    let stat = fstat(&file).at("reading", &path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::from(rustix::io::Errno::NOTSOCK)).at("connecting to", &path);
    }
    let own = geteuid().as_raw();
    if stat.st_uid != own {
        return Err(Error::ForeignServer { path, owner: stat.st_uid });
    }
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let socket = socket.at("connecting to", &path)?;
    let address = SocketAddrUnix::new(Dir::path_of(&file)).at("connecting to", &path)?;
    match connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(e) => return Err(e).at("connecting to", &path),
    }
    let peer = sockopt::socket_peercred(&socket).at("connecting to", &path)?;
    match peer.uid.as_raw() {
        uid if uid == own => Ok(Some(socket)),
        owner => Err(Error::ForeignServer { path, owner }),
    }
}

/// The process at the other end, which has to be this user's.
pub(crate) fn check_peer(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let peer = sockopt::socket_peercred(socket)?;
    if peer.uid != geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
}
