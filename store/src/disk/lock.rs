//! The right to a store: an flock(2) on its `lock` file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::dir::Dir;
use super::names::LOCK;
use crate::error::{Error, IoContext, Result, is_unwritable};

/// The right to a store. It belongs to every copy of the descriptor, in
/// whichever process, until the last is closed: so it can be handed on without
/// a moment in which nobody has it. Who holds it together with others sees to
/// it that only one of them opens the store.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the right to the store in `dir`. Fails with [`Error::InUse`] if somebody has it.
    pub(crate) fn take_in(dir: &Dir) -> Result<Lock> {
        let path = dir.named(LOCK);
        let mut file = match dir.open_or_make(LOCK) {
            // A store on a disk that can't be written can be read all the same.
            Err(e) if e.is_unwritable() => dir.open_file(LOCK),
            file => file,
        }?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(Error::InUse {
                    dir: dir.path().to_owned(),
                    pid: pid.trim().parse().ok(),
                });
            }
            Err(e) => return Err(e).at("locking", &path),
        }
        match file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            // The number is for people; EINVAL is a file opened for reading.
            Err(e) if !is_unwritable(&e) && e.kind() != io::ErrorKind::InvalidInput => {
                Err(e).at("writing", &path)
            }
            _ => Ok(Lock(file)),
        }
    }

    /// The right to the store in `dir`, from another process that has it.
    pub fn inherited(dir: &Dir, descriptor: OwnedFd) -> Result<Lock> {
        let file = File::from(descriptor);
        let ours = file.metadata().at("reading", &dir.named(LOCK))?;
        let theirs = dir.metadata(LOCK)?;
        let same = theirs.is_some_and(|it| (ours.dev(), ours.ino()) == (it.st_dev, it.st_ino));
        // It succeeds at once for a process that has the lock by the same open file.
        if !same || flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::InUse { dir: dir.path().to_owned(), pid: None });
        }
        Ok(Lock(file))
    }

    /// Whether somebody has the right to the store in `dir`.
    pub(crate) fn is_taken(dir: &Dir) -> bool {
        let Ok(file) = dir.open_file(LOCK) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
