//! A connection to the kernel that outlives the process that serves it.
//!
//! fuser starts every session with FUSE_INIT, which the kernel sends once. The
//! keeper reads that request and keeps it; each worker lets fuser answer it on
//! a socket, and only then puts the kernel's descriptor in the socket's place.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{DupFlags, Errno, dup3, read, write};

use crate::error::{Error, Result};
use crate::fuse::adapter::{self as fuse, Layer, Terms};
use crate::ipc::protocol::{Record, packet_pair};
use crate::mount::point::{self as mount, mounted_at};

/// Threads that answer the kernel. Reads wait for the disk; lookups don't.
const THREADS: usize = 4;
/// The smallest buffer the kernel accepts for a request (FUSE_MIN_READ_BUFFER).
const MIN_READ_BUFFER: usize = 8192;
/// `struct fuse_out_header` (include/uapi/linux/fuse.h): length, error, unique.
const OUT_HEADER: usize = 16;
const NOTIFY_INVAL_INODE: i32 = 2;
const NOTIFY_INVAL_ENTRY: i32 = 3;
const NOTIFY_RESEND: i32 = 7;
/// Has the kernel ask again what a name leads to, without dropping it (Linux
/// 6.2; before, it is dropped).
const EXPIRE_ONLY: u32 = 1;

/// A mount's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) record: Record,
    /// `/dev/fuse`. The mount is dead when the last copy is closed.
    pub(crate) device: OwnedFd,
}

impl Record {
    /// What may be agreed with the kernel: what was, if it was answered already.
    pub(crate) fn terms(&self) -> Terms {
        let agreed = |at: usize| {
            self.reply.as_ref().map(|reply| {
                let number = reply.get(OUT_HEADER + at..OUT_HEADER + at + 4);
                number.and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
            })
        };
        Terms {
            // FUSE_CACHE_SYMLINKS (linux/fuse.h).
            keep_links: agreed(12).is_none_or(|flags| flags & (1 << 23) != 0),
            stack_depth: agreed(36).unwrap_or(self.stack_depth),
        }
    }

    /// Whether the mount can still be found at its path.
    pub(crate) fn is_attached(&self) -> bool {
        let mounted = mounted_at(&self.mount_point);
        mounted.is_ok_and(|mounted| mounted.is_some_and(|m| m.device == self.device))
    }

    /// Takes the mount from its path, if it is there.
    pub(crate) fn detach(&self) {
        if self.is_attached() {
            mount::detach(&self.mount_point);
        }
    }
}

impl Connection {
    /// The connection's name under `/sys/fs/fuse/connections`.
    pub(crate) fn name(&self) -> u32 {
        self.record.device.1
    }

    /// Whether the kernel can send again what a worker had in hand when it ended:
    /// FUSE_HAS_RESEND, bit 39 of the flags that FUSE_INIT offers (Linux 6.9).
    pub(crate) fn can_resend(&self) -> bool {
        self.offers(39)
    }

    /// Whether the kernel can pass files through: FUSE_PASSTHROUGH, bit 37 (Linux 6.9).
    pub(crate) fn can_pass_through(&self) -> bool {
        self.offers(37)
    }

    /// A bit from 32 on of the flags that FUSE_INIT offers.
    fn offers(&self, bit: u32) -> bool {
        // `struct fuse_init_in`: flags2, the upper half, is at byte 16 after the header of 40.
        let flags2 = self.record.init.get(56..60).and_then(|bytes| bytes.try_into().ok());
        flags2.is_some_and(|bytes| u32::from_ne_bytes(bytes) & (1 << (bit - 32)) != 0)
    }

    /// Writes the first worker's reply to FUSE_INIT. A second one is ENOENT,
    /// and does nothing.
    pub(crate) fn answer_init(&mut self, reply: &[u8]) -> io::Result<()> {
        match write(&self.device, reply) {
            Ok(_) | Err(Errno::NOENT) => {
                self.record.reply = Some(reply.to_vec());
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the kernel has ended it: unmounted, and without a user.
    pub(crate) fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.device, PollFlags::empty())];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ended| ended > 0)
    }

    /// Has the kernel send again what a dead worker had in hand. Never before
    /// FUSE_INIT is answered.
    pub(crate) fn resend(&self) -> io::Result<()> {
        notify(self.device.as_fd(), NOTIFY_RESEND, &[])
    }

    /// Whether the kernel has an inode: because somebody has it open or mapped, or a name leads
    /// to it. A negative offset touches no page (fs/fuse/inode.c, `fuse_reverse_inval_inode`).
    pub(crate) fn knows(&self, inode: u64) -> io::Result<bool> {
        let mut body = inode.to_ne_bytes().to_vec();
        body.extend((-1i64).to_ne_bytes());
        body.extend(0i64.to_ne_bytes());
        match notify(self.device.as_fd(), NOTIFY_INVAL_INODE, &body) {
            Ok(()) => Ok(true),
            // The second: the mount is gone, and nobody can be answered any more.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Has the kernel ask again what `name` leads to.
    pub(crate) fn expire_entry(&self, directory: u64, name: &str) -> io::Result<()> {
        let mut body = directory.to_ne_bytes().to_vec();
        body.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_ne_bytes());
        body.extend(EXPIRE_ONLY.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        match notify(self.device.as_fd(), NOTIFY_INVAL_ENTRY, &body) {
            // It doesn't know the name.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

fn notify(device: BorrowedFd<'_>, code: i32, body: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(OUT_HEADER + body.len());
    message.extend(((OUT_HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend(body);
    write(device, &message)?;
    Ok(())
}

/// Reads the kernel's FUSE_INIT request from a new mount.
pub(crate) fn read_init(device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&limit))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel sends no FUSE_INIT"));
    }
    let mut request = vec![0; MIN_READ_BUFFER];
    let read = read(device, &mut request)?;
    request.truncate(read);
    Ok(request)
}

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
        config.n_threads = Some(THREADS);
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
pub(crate) fn check(record: &Record) -> Result<()> {
    let handshake =
        Handshake::new(fuse::Negotiator(record.terms()), &record.init).map_err(Error::Session)?;
    match &record.reply {
        Some(agreed) => agree(agreed, &handshake.reply),
        None => Ok(()),
    }
}

/// Checks that two replies to FUSE_INIT promise the same, as far as it
/// matters to the kernel from then on.
pub(crate) fn agree(agreed: &[u8], reply: &[u8]) -> Result<()> {
    // `struct fuse_init_out`, after the header: what, where, how many bytes.
    let fields = [("major", 0, 4), ("flags", 12, 4), ("max_pages", 28, 2), ("flags2", 32, 4)];
    let more = [("max_stack_depth", 36, 4)];
    for (field, at, len) in fields.into_iter().chain(more) {
        let of = |bytes: &[u8]| bytes.get(OUT_HEADER + at..OUT_HEADER + at + len).map(Vec::from);
        if of(agreed) != of(reply) {
            return Err(Error::OtherTerms(field));
        }
    }
    Ok(())
}

impl Connection {
    /// Prepares to serve, up to what the kernel is to be answered.
    pub(crate) fn prepare(&self, layer: Layer) -> Result<Handshake<Layer>> {
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
    use crate::mount::point::Options;

    #[test]
    fn a_kernel_that_can_resend_says_so() {
        let connection = |flags2: u32| {
            let mut init = vec![0; 104];
            init[56..60].copy_from_slice(&flags2.to_ne_bytes());
            let mount_point = "/m".into();
            let record = Record {
                mount_point,
                options: Options::default(),
                device: (0, 1),
                init,
                stack_depth: 0,
                reply: None,
            };
            Connection { record, device: std::fs::File::open("/dev/null").unwrap().into() }
        };
        // Linux 6.18 and, as far as this bit goes, 6.8.
        assert!(connection(0x05fd).can_resend());
        assert!(!connection(0x057d).can_resend());
        assert!(connection(0x05fd).can_pass_through());
        assert!(!connection(0x05dd).can_pass_through());
        let mut short = connection(0x05fd);
        short.record.init.truncate(56);
        assert!(!short.can_resend());
    }

    #[test]
    fn a_mount_is_served_on_the_terms_it_was_made_on() {
        // FUSE_INIT of a kernel that offers everything: 7.45, from its header on.
        let mut init = [104u32, 26].map(u32::to_ne_bytes).concat();
        init.resize(40, 0);
        init.extend([7u32, 45, 1 << 20, u32::MAX, u32::MAX].map(u32::to_ne_bytes).concat());
        init.resize(104, 0);
        let answer = |keep_links| {
            let terms = Terms { keep_links, stack_depth: u32::from(keep_links) };
            Handshake::new(fuse::Negotiator(terms), &init).unwrap().reply
        };
        let record = |reply| Record {
            mount_point: "/m".into(),
            options: Options::default(),
            device: (0, 1),
            init: init.clone(),
            stack_depth: 1,
            reply,
        };
        assert!(record(None).terms().keep_links);
        for keep_links in [true, false] {
            let made = record(Some(answer(keep_links)));
            assert_eq!(made.terms().keep_links, keep_links);
            assert_eq!(made.terms().stack_depth, u32::from(keep_links));
            check(&made).unwrap();
            assert!(agree(&answer(!keep_links), &answer(keep_links)).is_err());
        }
    }

    #[test]
    fn only_the_same_terms_agree() {
        let mut agreed = vec![0; OUT_HEADER + 64];
        agreed[OUT_HEADER + 12] = 1;
        assert!(agree(&agreed, &agreed.clone()).is_ok());
        for at in [12, 28, 32, 36] {
            let mut other = agreed.clone();
            other[OUT_HEADER + at] ^= 0x80;
            assert!(matches!(agree(&agreed, &other), Err(Error::OtherTerms(_))), "{at}");
        }
    }
}
