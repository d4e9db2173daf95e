//! A connection to the kernel that outlives the process that serves it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use wasmfs_store::Inode;

use super::negotiate::Agreement;
use super::wire::{
    EXPIRE_ONLY, MAX_STACK_DEPTH, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NOTIFY_RESEND,
    has_accepted, notify, offers,
};
use crate::ipc::MountRecord;
use crate::mount::{detach, mounted_at};

/// A mount's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) record: MountRecord,
    /// `/dev/fuse`. The mount is dead when the last copy is closed.
    pub(crate) device: OwnedFd,
}

impl MountRecord {
    /// What may be agreed with the kernel: what was, if it was answered already.
    pub(crate) fn agreement(&self) -> Agreement {
        match &self.reply {
            Some(reply) => Agreement {
                keep_links: has_accepted(reply, InitFlags::FUSE_CACHE_SYMLINKS),
                stack_depth: MAX_STACK_DEPTH.number(reply),
            },
            None => Agreement { keep_links: true, stack_depth: self.stack_depth },
        }
    }

    /// Whether the mount can still be found at its path.
    pub(crate) fn is_attached(&self) -> bool {
        let mounted = mounted_at(&self.mount_point);
        mounted.is_ok_and(|mounted| mounted.is_some_and(|m| m.device == self.device))
    }

    /// Takes the mount from its path, if it is there.
    pub(crate) fn detach(&self) {
        detach(&self.mount_point, self.device);
    }
}

impl Connection {
    /// The connection's name under `/sys/fs/fuse/connections`.
    pub(crate) fn name(&self) -> u32 {
        self.record.device.1
    }

    /// Whether the kernel can send again what a worker had in flight when it ended (Linux 6.9).
    pub(crate) fn can_resend(&self) -> bool {
        offers(&self.record.init, InitFlags::FUSE_HAS_RESEND)
    }

    /// Whether the kernel can pass files through (Linux 6.9).
    pub(crate) fn can_pass_through(&self) -> bool {
        offers(&self.record.init, InitFlags::FUSE_PASSTHROUGH)
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

    /// Has the kernel send again what a dead worker had in flight. Never before
    /// FUSE_INIT is answered.
    pub(crate) fn resend(&self) -> io::Result<()> {
        notify(self.device.as_fd(), NOTIFY_RESEND, &[])
    }

    /// Whether the kernel has an inode: because somebody has it open or mapped, or a name leads
    /// to it. A negative offset touches no page (fs/fuse/inode.c, `fuse_reverse_inval_inode`).
    pub(crate) fn knows(&self, inode: Inode) -> io::Result<bool> {
        let mut body = inode.get().to_ne_bytes().to_vec();
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
    pub(crate) fn expire_entry(&self, directory: Inode, name: &str) -> io::Result<()> {
        let mut body = directory.get().to_ne_bytes().to_vec();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Options;

    #[test]
    fn a_kernel_that_can_resend_says_so() {
        let connection = |flags2: u32| {
            let mut init = vec![0; 104];
            init[56..60].copy_from_slice(&flags2.to_ne_bytes());
            let mount_point = "/m".into();
            let record = MountRecord {
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
}
