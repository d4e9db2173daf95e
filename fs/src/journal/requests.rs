//! What outlives a worker, though it is the worker that knows it: which
//! requests it has in flight, and up to which commit the kernel was told.
//!
//! A memory file that the keeper makes and every worker writes. Numbers are in
//! the machine's byte order: it never leaves the machine.
//!
//! | offset | what |
//! | --- | --- |
//! | 0 | 1 + the last commit that the kernel knows of; 0 if nobody has said yet |
//! | 16 + 16 i | thread i: the minor device number of a mount, and the kernel's number of the request; 0 if it has none |
//! | 32 KiB | files that are passed through: see `registrations.rs` |

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{pread, pwrite};
use wasmfs_store::{Inode, Sequence};

use super::suspects::Suspect;

/// Set in the number of a request that is sent again (FUSE_UNIQUE_RESEND, Linux
/// 6.9, include/uapi/linux/fuse.h).
pub(crate) const RESENT: u64 = 1 << 63;
/// Set in what stands for work on a whole inode. The kernel counts requests from 2 up in steps of
/// 2 (fs/fuse/dev.c), and won't come so far.
const INODE: u64 = 1 << 62;
/// A request that has killed so many workers is not tried again.
pub(crate) const DEATHS: u32 = 3;
const SLOT: usize = 16;
/// Threads that can have a request in flight: four a mount.
const SLOTS: usize = 1024;
/// The memory file.
#[derive(Debug)]
pub(crate) struct Journal(OwnedFd);

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Journal {
    fn from(file: OwnedFd) -> Journal {
        Journal(file)
    }
}

impl Journal {
    pub(crate) fn create() -> io::Result<Journal> {
        Ok(Journal(memfd_create("wasmfs-journal", MemfdFlags::CLOEXEC)?))
    }

    /// The last commit that the kernel knows of.
    pub(crate) fn told(&self) -> Option<Sequence> {
        let mut number = [0; 8];
        let read = pread(&self.0, &mut number, 0).ok()?;
        if read < 8 { None } else { u64::from_ne_bytes(number).checked_sub(1).map(Sequence) }
    }

    pub(crate) fn set_told(&self, commit: Sequence) -> io::Result<()> {
        pwrite(&self.0, &commit.next().get().to_ne_bytes(), 0)?;
        Ok(())
    }

    fn set(&self, slot: u64, connection: u32, unique: u64) {
        let mut record = [0; SLOT];
        record[..8].copy_from_slice(&u64::from(connection).to_ne_bytes());
        record[8..].copy_from_slice(&unique.to_ne_bytes());
        // Without memory for the journal, requests are answered without it.
        let _ = pwrite(&self.0, &record, (slot + 1) * SLOT as u64);
    }

    /// The requests in flight, as pairs of connection and number, which are
    /// forgotten: their worker is dead.
    pub(crate) fn take_in_flight(&self) -> io::Result<Vec<(u32, u64)>> {
        let mut slots = [0; SLOT * SLOTS];
        let read = pread(&self.0, &mut slots, SLOT as u64)?;
        let mut found = Vec::new();
        for record in slots[..read].as_chunks::<SLOT>().0 {
            let [connection, unique] = [0, 8].map(|at| {
                let mut number = [0; 8];
                number.copy_from_slice(&record[at..at + 8]);
                u64::from_ne_bytes(number)
            });
            if unique != 0 {
                found.push((u32::try_from(connection).unwrap_or(0), unique & !RESENT));
            }
        }
        // What lies behind stays.
        pwrite(&self.0, &[0; SLOT * SLOTS], SLOT as u64)?;
        Ok(found)
    }
}

/// A worker's side: notes what its threads have in flight.
///
/// Requests that were in flight at a death are tried again one at a time, so that
/// only the one that does it can be there at every death.
pub(crate) struct InFlightRequests {
    journal: Journal,
    suspects: Vec<Suspect>,
    alone: Mutex<()>,
    /// The same for what takes longer than a request.
    alone_with_inode: Mutex<()>,
    next_slot: AtomicU64,
}

thread_local! {
    static OWN_SLOT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A request in flight; it is answered when this is dropped.
pub(crate) struct InFlight<'a> {
    requests: &'a InFlightRequests,
    slot: u64,
    _alone: Option<std::sync::MutexGuard<'a, ()>>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.requests.journal.set(self.slot, 0, 0);
    }
}

impl InFlightRequests {
    pub(crate) fn new(journal: Journal, suspects: Vec<Suspect>) -> InFlightRequests {
        let (alone, alone_with_inode) = (Mutex::new(()), Mutex::new(()));
        let next_slot = AtomicU64::new(0);
        InFlightRequests { journal, suspects, alone, alone_with_inode, next_slot }
    }

    pub(crate) fn suspects(&self) -> &[Suspect] {
        &self.suspects
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Takes a request in flight; `None` if it has killed too many workers.
    pub(crate) fn take(&self, connection: u32, unique: u64) -> Option<InFlight<'_>> {
        self.take_alone(connection, unique, &self.alone)
    }

    /// Takes work on a whole inode in flight, whoever asked for it; `None` if that has killed too
    /// many workers.
    pub(crate) fn take_inode(&self, connection: u32, inode: Inode) -> Option<InFlight<'_>> {
        self.take_alone(connection, inode.get() | INODE | RESENT, &self.alone_with_inode)
    }

    fn take_alone<'a>(
        &'a self,
        connection: u32,
        unique: u64,
        one_at_a_time: &'a Mutex<()>,
    ) -> Option<InFlight<'a>> {
        let mut alone = None;
        if unique & RESENT != 0 {
            let unique = unique & !RESENT;
            let suspect = |s: &&Suspect| (s.connection, s.unique) == (connection, unique);
            if let Some(suspect) = self.suspects.iter().find(suspect) {
                if suspect.deaths >= DEATHS {
                    return None;
                }
                alone = Some(one_at_a_time.lock().unwrap_or_else(|e| e.into_inner()));
            }
        }
        let slot = OWN_SLOT.with(|own| {
            let slot = own.get().unwrap_or_else(|| self.next_slot.fetch_add(1, Ordering::Relaxed));
            own.set(Some(slot));
            slot % SLOTS as u64
        });
        self.journal.set(slot, connection, unique);
        Some(InFlight { requests: self, slot, _alone: alone })
    }
}

#[cfg(test)]
mod tests {
    use super::super::suspects::note_deaths;
    use super::*;

    fn copy(journal: &Journal) -> Journal {
        Journal(journal.0.try_clone().unwrap())
    }

    #[test]
    fn what_is_in_flight_outlives_its_holder() {
        let journal = Journal::create().unwrap();
        assert_eq!(journal.told(), None);
        let in_flight = InFlightRequests::new(copy(&journal), Vec::new());
        in_flight.journal().set_told(Sequence(0)).unwrap();
        assert_eq!(journal.told(), Some(Sequence(0)));
        let held = in_flight.take(7, 12).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(in_flight.take(7, 14)));
            scope.spawn(|| std::mem::forget(in_flight.take(9, 16 | RESENT)));
        });
        let mut found = journal.take_in_flight().unwrap();
        found.sort();
        assert_eq!(found, [(7, 12), (9, 16)]);
        drop(held);
        assert_eq!(journal.take_in_flight().unwrap(), []);
        assert_eq!(journal.told(), Some(Sequence(0)));
    }

    #[test]
    fn the_third_death_is_the_last() {
        let mut suspects = Vec::new();
        for death in 1..=3 {
            note_deaths(&mut suspects, &[(7, 12), (7, 100 + death)]);
        }
        let in_flight = InFlightRequests::new(Journal::create().unwrap(), suspects);
        assert!(in_flight.take(7, 12 | RESENT).is_none());
        // Of another mount, or another time around: not the same request.
        assert!(in_flight.take(8, 12 | RESENT).is_some());
        assert!(in_flight.take(7, 12).is_some());
        assert!(in_flight.take(7, 101 | RESENT).is_some());
    }
}
