//! The right to a store: an flock(2) on its `lock` file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::names::{LOCK, SETTINGS};
use crate::error::{Error, IoContext, Result, is_unwritable};

/// Refuses a store of another user, and keeps others out of one's own.
pub(crate) fn check_owner(dir: &Path) -> Result<()> {
    let metadata = fs::metadata(dir).at("reading", dir)?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.uid() != uid {
        return Err(Error::WrongOwner { dir: dir.to_owned(), owner: metadata.uid(), uid });
    }
    if metadata.permissions().mode() & 0o077 != 0 && dir.join(SETTINGS).exists() {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).at("protecting", dir)?;
    }
    Ok(())
}

/// The right to a store. It belongs to every copy of the descriptor, in
/// whichever process, until the last is closed: so it can be handed on without
/// a moment in which nobody has it. Who holds it together with others sees to
/// it that only one of them opens the store.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the right to the store in `dir`, a directory that exists. Fails
    /// with [`Error::InUse`] if somebody has it.
    pub fn take(dir: &Path) -> Result<Lock> {
        check_owner(dir)?;
        let path = dir.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match options.open(&path) {
            // A store on a disk that can't be written can be read all the same.
            Err(e) if is_unwritable(&e) => File::open(&path),
            file => file,
        }
        .at("opening", &path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(Error::InUse { dir: dir.to_owned(), pid: pid.trim().parse().ok() });
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
    pub fn inherited(dir: &Path, descriptor: OwnedFd) -> Result<Lock> {
        let path = dir.join(LOCK);
        let file = File::from(descriptor);
        let (ours, theirs) = (file.metadata().at("reading", &path)?, path.metadata());
        let theirs = theirs.at("reading", &path)?;
        let same = (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino());
        // It succeeds at once for a process that has the lock by the same open file.
        if !same || flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::InUse { dir: dir.to_owned(), pid: None });
        }
        Ok(Lock(file))
    }

    /// Whether somebody has the right to the store in `dir`.
    pub(crate) fn is_taken(dir: &Path) -> bool {
        let Ok(file) = File::open(dir.join(LOCK)) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
