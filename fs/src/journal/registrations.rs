//! Registrations of backing files. With FUSE passthrough the pages of a file in the mount are those
//! of another file, which was registered with the connection; whoever serves the mount has no part
//! in it.
//!
//! While somebody has an inode open, the kernel takes one registration for it and no other
//! (fs/fuse/iomode.c), whichever worker answers. So what is registered is noted behind the
//! journal, which outlives keeper and worker: records of three numbers of 8 bytes, from 32 KiB
//! on: the minor device number of the mount, the inode, and the kernel's number of the
//! registration; 0 if the record is free. One process writes them: the keeper, or a worker that
//! has none.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::BackingId;
use rustix::fs::{FsWord, fstatfs};
use rustix::io::{Errno, pread, pwrite};
use rustix::ioctl::{Setter, ioctl, opcode};
use wasmfs_store::Inode;

use super::requests::Journal;
use crate::error::{Error, Result};

/// Where the records begin, behind everything else in the journal.
const FIRST_RECORD: u64 = 32 << 10;
const RECORD: usize = 24;
/// Records that are read at a time.
const RECORDS_AT_ONCE: usize = 512;
/// `FUSE_DEV_IOC_BACKING_CLOSE` (include/uapi/linux/fuse.h, Linux 6.9).
const BACKING_CLOSE: rustix::ioctl::Opcode = opcode::write::<u32>(229, 2);
/// `OVERLAYFS_SUPER_MAGIC` (include/uapi/linux/magic.h).
const OVERLAYFS: FsWord = 0x794c_7630;

struct Registration {
    place: u64,
    connection: u32,
    inode: Inode,
    id: u32,
}

impl Journal {
    /// Calls `each` with every record, free ones too, until it returns false; where the next would
    /// be.
    fn each_registration(&self, mut each: impl FnMut(Registration) -> bool) -> io::Result<u64> {
        let mut place = FIRST_RECORD;
        let mut some = [0; RECORDS_AT_ONCE * RECORD];
        loop {
            let read = pread(self.as_fd(), &mut some, place)?;
            let (records, _) = some[..read].as_chunks::<RECORD>();
            for record in records {
                let (numbers, _) = record.as_chunks::<8>();
                let number = |at: usize| numbers.get(at).map_or(0, |n| u64::from_ne_bytes(*n));
                let [connection, id] =
                    [number(0), number(2)].map(|n| u32::try_from(n).unwrap_or(0));
                if !each(Registration { place, connection, inode: Inode(number(1)), id }) {
                    return Ok(place);
                }
                place += RECORD as u64;
            }
            if records.len() < RECORDS_AT_ONCE {
                return Ok(place);
            }
        }
    }

    fn put_registration(&self, place: u64, numbers: [u64; 3]) -> io::Result<()> {
        let record = numbers.map(u64::to_ne_bytes).concat();
        match pwrite(self.as_fd(), &record, place)? {
            RECORD => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// What is registered with every connection: numbers by connection and inode.
    pub(crate) fn registrations(&self) -> io::Result<HashMap<(u32, Inode), u32>> {
        let mut found = HashMap::new();
        self.each_registration(|record| {
            if record.id != 0 {
                found.insert((record.connection, record.inode), record.id);
            }
            true
        })?;
        Ok(found)
    }

    /// The record of an inode, else the first free one; and the number in it.
    fn registration(&self, connection: u32, inode: Inode) -> io::Result<(u64, Option<u32>)> {
        let (mut free, mut found) = (None, None);
        let end = self.each_registration(|record| {
            if record.id == 0 {
                free.get_or_insert(record.place);
            } else if (record.connection, record.inode) == (connection, inode) {
                found = Some((record.place, Some(record.id)));
            }
            found.is_none()
        })?;
        Ok(found.unwrap_or((free.unwrap_or(end), None)))
    }

    /// Registers `file` for an inode, if none is; the kernel's number of what is registered.
    pub(crate) fn register(
        &self,
        connection: u32,
        device: BorrowedFd<'_>,
        inode: Inode,
        file: BorrowedFd<'_>,
    ) -> io::Result<u32> {
        let _alone = writing();
        let (place, known) = self.registration(connection, inode)?;
        if let Some(id) = known {
            return Ok(id);
        }
        let id = BackingId::create_raw(device, file)?;
        let noted = self.put_registration(place, [connection.into(), inode.get(), id.into()]);
        noted.inspect_err(|_| close(device, id))?;
        Ok(id)
    }

    /// Takes the registration of an inode back. A process that has it open or mapped keeps it.
    pub(crate) fn unregister(
        &self,
        connection: u32,
        device: BorrowedFd<'_>,
        inode: Inode,
    ) -> io::Result<()> {
        let _alone = writing();
        if let (place, Some(id)) = self.registration(connection, inode)? {
            self.put_registration(place, [0; 3])?;
            close(device, id);
        }
        Ok(())
    }

    /// Forgets the registrations of a connection that is gone, whose number another may get.
    pub(crate) fn forget_registrations(&self, connection: u32) -> io::Result<()> {
        let _alone = writing();
        let mut gone = Vec::new();
        self.each_registration(|record| {
            if record.connection == connection && record.id != 0 {
                gone.push(record.place);
            }
            true
        })?;
        gone.into_iter().try_for_each(|place| self.put_registration(place, [0; 3]))
    }
}

/// The right to change records: of one thread at a time.
fn writing() -> MutexGuard<'static, ()> {
    static WRITING: Mutex<()> = Mutex::new(());
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(device: BorrowedFd<'_>, id: u32) {
    // SAFETY: the kernel reads one u32 (fs/fuse/dev.c, `fuse_dev_ioctl_backing_close`), and a
    // number that it doesn't know is ENOENT.
    let closed = unsafe { ioctl(device, Setter::<BACKING_CLOSE, u32>::new(id)) };
    if let Err(e) = closed {
        log::warn!("taking back the registration {id}: {e}");
    }
}

/// How many filesystems may lie one upon the other, from the disk to the mount, for files of
/// `like`'s filesystem to be passed through: one for each that is itself upon another.
pub(crate) fn stack_depth(like: BorrowedFd<'_>) -> u32 {
    let over_another = fstatfs(like).is_ok_and(|fs| fs.f_type == OVERLAYFS);
    if over_another { 2 } else { 1 }
}

/// Finds out whether files of `like`'s filesystem can be passed through by a connection.
pub(crate) fn try_passthrough(device: BorrowedFd<'_>, like: BorrowedFd<'_>) -> Result<()> {
    match BackingId::create_raw(device, like) {
        Ok(id) => {
            close(device, id);
            Ok(())
        }
        Err(e) => Err(Error::NoPassthrough(match Errno::from_io_error(&e) {
            Some(Errno::PERM) => {
                "the kernel lets only root register files for it (CAP_SYS_ADMIN, outside of any container)".into()
            }
            Some(Errno::LOOP) => {
                "the store's filesystem lies upon too many others for one more".into()
            }
            Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => {
                format!("the kernel can't do it with files of the store's filesystem ({e})")
            }
            _ => format!("registering a file fails ({e})"),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_reused_and_forgotten() {
        let journal = Journal::create().unwrap();
        assert!(journal.registrations().unwrap().is_empty());
        let many = 3 * RECORDS_AT_ONCE as u64;
        for inode in 0..many {
            let (place, known) = journal.registration(7, Inode(inode)).unwrap();
            assert_eq!(known, None);
            journal.put_registration(place, [7 + inode % 2, inode, inode + 1]).unwrap();
        }
        assert_eq!(journal.registrations().unwrap().len(), many as usize);
        let (place, known) = journal.registration(8, Inode(1025)).unwrap();
        assert_eq!(known, Some(1026));
        assert_eq!(journal.registration(7, Inode(1025)).unwrap().1, None);
        journal.put_registration(place, [0; 3]).unwrap();
        assert_eq!(journal.registration(8, Inode(1025)).unwrap(), (place, None));
        journal.forget_registrations(8).unwrap();
        let left = journal.registrations().unwrap();
        assert_eq!(left.len(), many as usize / 2);
        assert!(left.keys().all(|(connection, _)| *connection == 7));
        // What is noted of requests in flight is apart.
        assert_eq!(journal.take_in_flight().unwrap(), []);
        assert_eq!(journal.registrations().unwrap(), left);
    }
}
