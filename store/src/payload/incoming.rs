//! `incoming/`: files that are staged and not committed.
//!
//! Commands stage here beside the process that has the store open. What somebody still stages is
//! told from what a dead process left by a lease: a file `ID.lease` that its owner holds an
//! flock(2) on, and `ID.0`, `ID.1`, … that go with it. One lease holds any number of files, since a
//! process may have fewer descriptors than files to publish. There are no directories in here:
//! programs that know no leases empty it file by file when they open the store.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::object_place::ObjectPlace;
use crate::disk::names::INCOMING;
use crate::disk::{Dir, TEMP_PREFIX};
use crate::error::{Error, IoContext, Result, is_unwritable, unless_unwritable};

/// What the name of a lease ends with.
const LEASE: &str = "lease";
/// How often a lease is made again that another process swept in the moment it was made.
const LEASE_ATTEMPTS: usize = 100;

/// The directory of what is staged, open.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: PathBuf,
    /// Missing where the disk can't be written and never had it.
    directory: Option<Dir>,
}

impl Incoming {
    /// Opens the directory of the store in `store`; makes it if it is missing.
    pub(crate) fn open(store: &Dir) -> Result<Incoming> {
        let path = store.named(INCOMING);
        unless_unwritable(store.make_dir(INCOMING))?;
        match store.subdir(INCOMING) {
            Ok(directory) => Ok(Incoming { path, directory: Some(directory) }),
            Err(e) if e.is_missing() => Ok(Incoming { path, directory: None }),
            Err(e) => Err(e),
        }
    }

    fn directory(&self) -> Result<&Dir> {
        let missing = || io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        self.directory.as_ref().ok_or_else(missing).at("opening", &self.path)
    }

    fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = openat(self.directory()?, name, flags, Mode::RUSR);
        match made.map_err(io::Error::from) {
            // Whoever publishes is the owner, but sees the directory from where it can't be
            // written: through a read-only bind mount, say.
            Err(e) if is_refused(&e) => {
                Err(Error::CannotStage { dir: self.path.clone(), source: e })
            }
            made => Ok(made.at("making", &self.path.join(name))?.into()),
        }
    }

    fn remove(&self, name: &str) {
        if let Ok(directory) = self.directory() {
            let _ = unlinkat(directory, name, AtFlags::empty());
        }
    }

    /// Removes what dead processes left. Without the right to the store only what had a lease:
    /// another program may have it, and stage in its own way.
    pub(crate) fn sweep(&self, has_store: bool) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut names = Vec::new();
        for (name, _) in directory.entries()? {
            names.extend(name.into_string());
        }
        // Those whose lease is free, which this process has while it removes them.
        let mut dead: Vec<(&str, Option<File>)> = Vec::new();
        for id in names.iter().filter_map(|name| id_of(name)) {
            if dead.iter().any(|(known, _)| *known == id) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(directory, format!("{id}.{LEASE}"), flags, Mode::empty()) {
                Ok(lease) => {
                    if flock(&lease, FlockOperation::NonBlockingLockExclusive).is_ok() {
                        dead.push((id, Some(lease.into())));
                    }
                }
                Err(Errno::NOENT) => dead.push((id, None)),
                Err(e) => log::warn!("sweeping {}: {e}", self.path.display()),
            }
        }
        for name in &names {
            let is_dead = match id_of(name) {
                Some(id) => dead.iter().any(|(known, _)| *known == id),
                None => has_store,
            };
            if is_dead {
                match unlinkat(directory, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) if is_unwritable(&e.into()) => return Ok(()),
                    Err(e) => return Err(e).at("removing", &self.path.join(name)),
                }
            }
        }
        Ok(())
    }

    /// Whether somebody holds the lease with this name; nothing if it can't be one.
    pub(crate) fn is_leased(&self, id: &str) -> Option<bool> {
        if !is_id(id) {
            return None;
        }
        let lease = self.directory().ok()?.open_if_there(format!("{id}.{LEASE}")).ok()?;
        let Some(lease) = lease else { return Some(false) };
        Some(flock(&lease, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
    }

    /// Opens a staged file, which has to be what it was said to be: a regular file of this
    /// user's, with one name, of this inode number and size.
    pub(super) fn open_staged(&self, file: &StagedFile, size: u64) -> Result<File> {
        let unfit = |reason| Error::UnfitStaged { name: file.name.clone(), reason };
        if !file.name.split_once('.').is_some_and(|(id, n)| is_id(id) && is_number(n)) {
            return Err(unfit("no staged file has such a name"));
        }
        let path = self.path.join(&file.name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match openat(self.directory()?, &file.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(Error::StagedGone(file.name.clone())),
            Err(Errno::LOOP) => return Err(unfit("it is a symbolic link")),
            opened => File::from(opened.at("opening", &path)?),
        };
        let found = opened.metadata().at("reading", &path)?;
        let wrong = [
            (!found.is_file(), "it is no regular file"),
            (found.uid() != rustix::process::geteuid().as_raw(), "it is another user's"),
            (found.nlink() != 1, "it has another link as well"),
            (found.ino() != file.inode, "it is another file by now"),
            (found.size() != size, "its size is not the one that the command announced"),
        ];
        match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, reason)) => Err(unfit(reason)),
            None => Ok(opened),
        }
    }

    /// Gives what was staged its name as an object file.
    pub(super) fn rename_to(&self, file: &StagedFile, object: &ObjectPlace) -> Result<()> {
        let renamed = renameat(self.directory()?, &file.name, &object.directory, &object.name);
        renamed.at("renaming", &self.path.join(&file.name))
    }
}

/// Whether a disk or a mount keeps this process from writing.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// The start of the name of a lease and of its files.
fn id_of(name: &str) -> Option<&str> {
    let (id, rest) = name.split_once('.')?;
    (is_id(id) && (rest == LEASE || is_number(rest))).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() < 20 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Holds staged files: they are not swept as long as this process lives and has it.
#[derive(Debug)]
pub(super) struct Lease {
    incoming: Arc<Incoming>,
    id: String,
    next: AtomicU64,
    /// Under the flock.
    _file: File,
}

impl Lease {
    pub(super) fn take(incoming: &Arc<Incoming>) -> Result<Arc<Lease>> {
        for _ in 0..LEASE_ATTEMPTS {
            let mut random = [0; 8];
            let got = getrandom(&mut random, GetRandomFlags::empty());
            got.at("naming a file in", &incoming.path)?;
            let id = format!("{:016x}", u64::from_ne_bytes(random));
            let name = format!("{id}.{LEASE}");
            let file = incoming.create(&name)?;
            let path = incoming.path.join(&name);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A process that sweeps has it for a moment, and removes it.
                Err(Errno::WOULDBLOCK) => continue,
                locked => locked.at("locking", &path)?,
            }
            if file.metadata().at("reading", &path)?.nlink() == 0 {
                continue;
            }
            let (incoming, next) = (incoming.clone(), AtomicU64::new(0));
            return Ok(Arc::new(Lease { incoming, id, next, _file: file }));
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy)).at("making a lease in", &incoming.path)
    }

    /// A new file, which is removed when the result is dropped, unless a commit renamed it.
    pub(super) fn create(self: &Arc<Lease>) -> Result<(File, StagedFile)> {
        let name = format!("{}.{}", self.id, self.next.fetch_add(1, Ordering::Relaxed));
        let file = self.incoming.create(&name)?;
        let inode = file.metadata().at("reading", &self.incoming.path.join(&name))?.ino();
        Ok((file, StagedFile { name, inode, is_synced: false, lease: Some(self.clone()) }))
    }
}

/// A directory beside what is staged, for as long as this process lives and has it.
#[derive(Debug)]
pub struct LeasedDir {
    store: Dir,
    name: String,
    dir: Dir,
    _lease: Arc<Lease>,
}

impl LeasedDir {
    /// Makes one in the store's directory: there are no directories in `incoming/`.
    pub(super) fn make(store: &Dir, lease: Arc<Lease>) -> Result<LeasedDir> {
        let name = format!("{TEMP_PREFIX}{}", lease.id);
        store.make_dir(&name)?;
        let dir = store.subdir(&name)?;
        Ok(LeasedDir { store: store.clone(), name, dir, _lease: lease })
    }
}

impl Deref for LeasedDir {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for LeasedDir {
    fn drop(&mut self) {
        if let Err(e) = self.store.remove_dir(&self.name) {
            log::warn!("what was in use for a while: {e}");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.incoming.remove(&format!("{}.{LEASE}", self.id));
    }
}

/// A file in `incoming/`. In the process that staged it, it is removed when this is dropped,
/// unless a commit renamed it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StagedFile {
    name: String,
    inode: u64,
    /// Whether its bytes outlive a power cut.
    pub(super) is_synced: bool,
    #[serde(skip)]
    lease: Option<Arc<Lease>>,
}

impl StagedFile {
    /// Where it is, for messages.
    pub(super) fn path(&self, incoming: &Incoming) -> PathBuf {
        incoming.path.join(&self.name)
    }

    /// Whether it has become the object file at `object`.
    pub(super) fn is_at(&self, object: &ObjectPlace, size: u64) -> bool {
        let found = object.directory.metadata(&object.name).ok().flatten();
        found.is_some_and(|it| (it.st_ino, it.st_size.unsigned_abs()) == (self.inode, size))
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            lease.incoming.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::disk::Missing;

    fn opened(store: &Path) -> Incoming {
        Incoming::open(&Dir::open(store, Missing::Fail).unwrap()).unwrap()
    }

    fn names(store: &Path) -> Vec<String> {
        let entries = fs::read_dir(store.join(INCOMING)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_staged_is_swept_only_once_its_lease_is_free() {
        let store = tempfile::tempdir().unwrap();
        let incoming = Arc::new(opened(store.path()));
        let lease = Lease::take(&incoming).unwrap();
        let (_file, staged) = lease.create().unwrap();
        let other = opened(store.path());
        other.sweep(true).unwrap();
        assert_eq!(names(store.path()).len(), 2);
        // A process that was killed: nothing is dropped, but its descriptors are closed.
        let (lease_name, file_name) = (format!("{}.{LEASE}", lease.id), staged.name.clone());
        drop((staged, lease));
        assert_eq!(names(store.path()), [""; 0]);
        for name in [&lease_name, &file_name, "0", "notes"] {
            fs::write(store.path().join(INCOMING).join(name), "x").unwrap();
        }
        other.sweep(false).unwrap();
        assert_eq!(names(store.path()), ["0", "notes"]);
        other.sweep(true).unwrap();
        assert_eq!(names(store.path()), [""; 0]);
    }

    #[test]
    fn what_is_not_as_it_was_staged_is_refused() {
        let store = tempfile::tempdir().unwrap();
        let incoming = Arc::new(opened(store.path()));
        let lease = Lease::take(&incoming).unwrap();
        let (file, staged) = lease.create().unwrap();
        file.set_len(5).unwrap();
        let told = |name: &str, inode| StagedFile {
            name: name.to_owned(),
            inode,
            is_synced: false,
            lease: None,
        };
        let why = |file: &StagedFile, size| match incoming.open_staged(file, size) {
            Ok(_) => "fit".to_owned(),
            Err(e) => e.to_string(),
        };
        assert_eq!(why(&staged, 5), "fit");
        assert!(why(&staged, 6).ends_with("its size is not the one that the command announced"));
        assert!(why(&told(&staged.name, staged.inode + 1), 5).ends_with("another file by now"));
        for name in ["../settings.json", "", "0", ".", "x/0", &format!("{}.lease", lease.id)] {
            assert!(why(&told(name, 1), 5).ends_with("no staged file has such a name"), "{name}");
        }
        let other = |n| format!("{}.{n}", lease.id);
        let path = |n| store.path().join(INCOMING).join(other(n));
        assert!(why(&told(&other(7), 1), 5).contains("gone"));
        symlink("/etc/passwd", path(7)).unwrap();
        assert!(why(&told(&other(7), 1), 5).ends_with("it is a symbolic link"));
        fs::create_dir(path(8)).unwrap();
        assert!(why(&told(&other(8), 1), 5).ends_with("it is no regular file"));
        fs::hard_link(path(0), path(9)).unwrap();
        assert!(why(&staged, 5).ends_with("it has another link as well"));
    }
}
