//! Bytes of the FUSE protocol that fuser has no call for (include/uapi/linux/fuse.h).

use std::io;
use std::os::fd::BorrowedFd;

use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, write};

/// The smallest buffer the kernel accepts for a request (FUSE_MIN_READ_BUFFER).
pub(super) const MIN_READ_BUFFER: usize = 8192;
/// `struct fuse_in_header`.
const IN_HEADER: usize = 40;
/// `struct fuse_out_header`: length, error, unique.
pub(super) const OUT_HEADER: usize = 16;
pub(super) const NOTIFY_INVAL_INODE: i32 = 2;
pub(super) const NOTIFY_INVAL_ENTRY: i32 = 3;
pub(super) const NOTIFY_RESEND: i32 = 7;
/// Has the kernel ask again what a name leads to, without dropping it (Linux
/// 6.2; before, it is dropped).
pub(super) const EXPIRE_ONLY: u32 = 1;
/// How long the kernel may take to send FUSE_INIT.
const INIT_TIMEOUT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Where a field of `struct fuse_init_out` is, in bytes after the header, and how long it is.
#[derive(Clone, Copy)]
pub(super) struct InitField {
    pub(super) name: &'static str,
    at: usize,
    len: usize,
}

pub(super) const MAJOR: InitField = InitField { name: "major", at: 0, len: 4 };
pub(super) const FLAGS: InitField = InitField { name: "flags", at: 12, len: 4 };
pub(super) const MAX_PAGES: InitField = InitField { name: "max_pages", at: 28, len: 2 };
pub(super) const FLAGS2: InitField = InitField { name: "flags2", at: 32, len: 4 };
pub(super) const MAX_STACK_DEPTH: InitField = InitField { name: "max_stack_depth", at: 36, len: 4 };

impl InitField {
    /// The bytes of it in a reply to FUSE_INIT.
    pub(super) fn of(self, reply: &[u8]) -> Option<&[u8]> {
        reply.get(OUT_HEADER + self.at..OUT_HEADER + self.at + self.len)
    }

    /// Its number, if it is one of 4 bytes; 0 if the reply is too short for it.
    pub(super) fn number(self, reply: &[u8]) -> u32 {
        number_at(self.of(reply), 0)
    }
}

fn number_at(bytes: Option<&[u8]>, at: usize) -> u32 {
    let bytes = bytes.and_then(|bytes| bytes.get(at..at + 4)?.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

/// Whether a FUSE_INIT request offers a capability.
pub(super) fn offers(init: &[u8], capability: InitFlags) -> bool {
    // `struct fuse_init_in`: major, minor, max_readahead, flags, and their upper half, flags2.
    let body = init.get(IN_HEADER..);
    let flags = u64::from(number_at(body, 12)) | u64::from(number_at(body, 16)) << 32;
    InitFlags::from_bits_retain(flags).contains(capability)
}

/// Whether a reply to FUSE_INIT has accepted a capability, of the first 32.
pub(super) fn has_accepted(reply: &[u8], capability: InitFlags) -> bool {
    u64::from(FLAGS.number(reply)) & capability.bits() != 0
}

/// Tells the kernel something that it didn't ask for.
pub(super) fn notify(device: BorrowedFd<'_>, code: i32, body: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(OUT_HEADER + body.len());
    let len = u32::try_from(OUT_HEADER + body.len()).map_err(io::Error::other)?;
    message.extend(len.to_ne_bytes());
    message.extend(code.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend(body);
    write(device, &message)?;
    Ok(())
}

/// Reads the kernel's FUSE_INIT request from a new mount.
pub(crate) fn read_init(device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    if poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&INIT_TIMEOUT))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel sends no FUSE_INIT"));
    }
    let mut request = vec![0; MIN_READ_BUFFER];
    let read = read(device, &mut request)?;
    request.truncate(read);
    Ok(request)
}
