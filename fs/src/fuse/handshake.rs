//! Beginning to serve a connection.
//!
//! fuser starts every session with FUSE_INIT, which the kernel sends once. The
//! keeper reads that request and keeps it; each worker lets fuser answer it on
//! a socket, and only then puts the kernel's descriptor in the socket's place.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fuser::{Config, Session, SessionACL};
use rustix::io::{DupFlags, dup3, read, write};

use super::adapter::Adapter;
use super::connection::Connection;
use super::negotiate::Negotiator;
use super::wire::{FLAGS, FLAGS2, MAJOR, MAX_PAGES, MAX_STACK_DEPTH, MIN_READ_BUFFER};
use crate::error::{Error, Result};
use crate::ipc::{MountRecord, packet_pair};

/// Threads that answer the kernel. Reads wait for the disk; lookups don't.
const SESSION_THREADS: usize = 4;
/// A session that fuser believes to be with the kernel, and what it answered.
pub(crate) struct Handshake<FS: fuser::Filesystem> {
    session: Session<FS>,
    pub(crate) reply: Vec<u8>,
}

impl<FS: fuser::Filesystem> Handshake<FS> {
    /// Lets fuser answer `init`.
    pub(crate) fn new(filesystem: FS, init: &[u8]) -> io::Result<Handshake<FS>> {
        let (kernel, ours) = packet_pair()?;
        write(&kernel, init)?;
        let mut config = Config::default();
        config.n_threads = Some(SESSION_THREADS);
        // Who may look in is the kernel's to decide, by the mount's options.
        let session = Session::from_fd(filesystem, ours, SessionACL::All, config)?;
        let mut reply = vec![0; MIN_READ_BUFFER];
        let length = read(&kernel, &mut reply)?;
        reply.truncate(length);
        Ok(Handshake { session, reply })
    }

    /// Puts the kernel's descriptor in the place of the socket.
    pub(crate) fn connect(self, device: BorrowedFd<'_>) -> io::Result<Session<FS>> {
        let number = self.session.as_fd().as_raw_fd();
        // SAFETY: the number is the session's, which is owned here and lives on; whoever
        // holds it can't tell the difference, and `ManuallyDrop` leaves closing it to the session.
        let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
        dup3(device, &mut place, DupFlags::CLOEXEC)?;
        Ok(self.session)
    }
}

/// Checks that a worker of this build would agree with the kernel on what the
/// first one agreed on: the kernel is not asked again.
pub(crate) fn check(record: &MountRecord) -> Result<()> {
    let handshake =
        Handshake::new(Negotiator(record.agreement()), &record.init).map_err(Error::Session)?;
    match &record.reply {
        Some(agreed) => agree(agreed, &handshake.reply),
        None => Ok(()),
    }
}

/// Checks that two replies to FUSE_INIT promise the same, as far as it
/// matters to the kernel from then on.
pub(crate) fn agree(agreed: &[u8], reply: &[u8]) -> Result<()> {
    for field in [MAJOR, FLAGS, MAX_PAGES, FLAGS2, MAX_STACK_DEPTH] {
        if field.of(agreed) != field.of(reply) {
            return Err(Error::OtherAgreement(field.name));
        }
    }
    Ok(())
}

impl Connection {
    /// Prepares to serve, up to what the kernel is to be answered.
    pub(crate) fn prepare(&self, layer: Adapter) -> Result<Handshake<Adapter>> {
        let handshake = Handshake::new(layer, &self.record.init).map_err(Error::Session)?;
        if let Some(agreed) = &self.record.reply {
            agree(agreed, &handshake.reply)?;
        }
        Ok(handshake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::negotiate::Agreement;
    use crate::fuse::wire::OUT_HEADER;
    use crate::mount::Options;

    #[test]
    fn a_mount_is_served_on_the_agreement_it_was_made_on() {
        // FUSE_INIT of a kernel that offers everything: 7.45, from its header on.
        let mut init = [104u32, 26].map(u32::to_ne_bytes).concat();
        init.resize(40, 0);
        init.extend([7u32, 45, 1 << 20, u32::MAX, u32::MAX].map(u32::to_ne_bytes).concat());
        init.resize(104, 0);
        let answer = |keep_links| {
            let agreement = Agreement { keep_links, stack_depth: u32::from(keep_links) };
            Handshake::new(Negotiator(agreement), &init).unwrap().reply
        };
        let record = |reply| MountRecord {
            mount_point: "/m".into(),
            options: Options::default(),
            device: (0, 1),
            init: init.clone(),
            stack_depth: 1,
            reply,
        };
        assert!(record(None).agreement().keep_links);
        for keep_links in [true, false] {
            let made = record(Some(answer(keep_links)));
            assert_eq!(made.agreement().keep_links, keep_links);
            assert_eq!(made.agreement().stack_depth, u32::from(keep_links));
            check(&made).unwrap();
            assert!(agree(&answer(!keep_links), &answer(keep_links)).is_err());
        }
    }

    #[test]
    fn only_the_same_agreement_agrees() {
        let mut agreed = vec![0; OUT_HEADER + 64];
        agreed[OUT_HEADER + 12] = 1;
        assert!(agree(&agreed, &agreed.clone()).is_ok());
        for at in [12, 28, 32, 36] {
            let mut other = agreed.clone();
            other[OUT_HEADER + at] ^= 0x80;
            assert!(matches!(agree(&agreed, &other), Err(Error::OtherAgreement(_))), "{at}");
        }
    }
}
