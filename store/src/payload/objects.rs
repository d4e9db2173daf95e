//! Object files: payloads by their sha256, complete and durable before any change names them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::renameat;

use super::blocks::check_file;
use super::info::PayloadInfo;
use super::object_place::ObjectPlace;
use super::reader::{Reader, drop_pages};
use super::staged::StagedPayload;
use super::staging::Staging;
use crate::catalogue::Catalogue;
use crate::disk::Dir;
use crate::disk::names::{OBJECTS, object_in};
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::types::Sha;

/// What is wrong with an object file.
#[derive(Debug)]
pub(crate) enum ObjectFault {
    /// Its bytes differ from what was published.
    Damaged(String),
    /// It is not there.
    Missing(String),
    /// It can't be read, which says nothing of what it is.
    Unreadable(String),
}

impl ObjectFault {
    fn of(error: &io::Error) -> ObjectFault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => {
                ObjectFault::Missing(error.to_string())
            }
            _ => ObjectFault::Unreadable(error.to_string()),
        }
    }
}

/// The object files of a store.
pub(crate) struct Objects {
    store: Dir,
    /// `objects/`; missing where the disk can't be written and never had it.
    dir: Option<Dir>,
    /// Directories of object files whose own names this process has made durable.
    named: Mutex<BTreeSet<PathBuf>>,
    reader: Reader,
}

impl Objects {
    /// The object files of the store in `dir`, whose directory is made if it is missing.
    pub(crate) fn open(store: &Dir) -> Result<Objects> {
        unless_unwritable(store.make_dir(OBJECTS))?;
        Objects::open_read_only(store)
    }

    /// The same as they are, to be read only.
    pub(crate) fn open_read_only(store: &Dir) -> Result<Objects> {
        let dir = match store.subdir(OBJECTS) {
            Err(e) if e.is_missing() => None,
            opened => Some(opened?),
        };
        let reader = Reader::new(store.named(OBJECTS), dir.clone());
        Ok(Objects { store: store.clone(), dir, named: Mutex::default(), reader })
    }

    fn dir(&self) -> Result<&Dir> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.dir.as_ref().ok_or_else(missing).at("opening", &self.store.named(OBJECTS))
    }

    /// What reads payloads.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Where the object file of a payload is, for messages.
    pub(crate) fn path(&self, sha256: &Sha) -> PathBuf {
        object_in(&self.store.named(OBJECTS), sha256)
    }

    /// Where the object file of a payload is to be; its directory is made if it is missing.
    fn place(&self, sha256: &Sha) -> Result<ObjectPlace> {
        let name = sha256.hex();
        self.dir()?.make_dir(&name[..2])?;
        Ok(ObjectPlace { directory: self.dir()?.subdir(&name[..2])?, name })
    }

    /// Where it is; `None` if not even its directory is there.
    pub(crate) fn place_if_there(&self, sha256: &Sha) -> Result<Option<ObjectPlace>> {
        let name = sha256.hex();
        match self.dir().and_then(|dir| dir.subdir(&name[..2])) {
            Err(e) if e.is_missing() => Ok(None),
            directory => Ok(Some(ObjectPlace { directory: directory?, name })),
        }
    }

    /// Takes a file that is open, complete and synced in as the object file of a payload.
    pub(crate) fn bring(&self, from: &Dir, name: &str, sha256: &Sha) -> Result<()> {
        let place = self.place(sha256)?;
        renameat(from, name, &place.directory, &place.name).at("renaming", &from.named(name))
    }

    /// The size of an object file in bytes; `None` if there is none.
    pub(crate) fn size(&self, sha256: &Sha) -> Result<Option<u64>> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let found = dir.metadata(object_in(Path::new(""), sha256))?;
        Ok(found.map(|found| found.st_size.unsigned_abs()))
    }

    /// Has directories of object files outlive a power cut, and their names.
    pub(crate) fn sync(&self, directories: impl IntoIterator<Item = String>) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        directories.into_iter().try_for_each(|name| dir.subdir(name)?.sync())?;
        dir.sync()
    }

    fn open_object(&self, sha256: &Sha) -> Result<File> {
        self.dir()?.open_file(object_in(Path::new(""), sha256))
    }

    /// Makes staged payloads durable as object files: each file is synced, then its
    /// name, then each directory once.
    pub(crate) fn keep(&self, payloads: &[&StagedPayload], staging: &Staging) -> Result<()> {
        let mut directories = BTreeMap::new();
        for payload in payloads {
            let place = self.place(&payload.sha256)?;
            if !self.named().contains(place.directory.path()) {
                let dir = self.dir()?;
                directories.insert(dir.path().to_owned(), dir.clone());
            }
            staging.keep(payload, &place)?;
            directories.insert(place.directory.path().to_owned(), place.directory);
            // Another file may have been open in its place, which this one mends.
            self.reader.forget(&payload.sha256);
        }
        directories.values().try_for_each(Dir::sync)?;
        self.named().extend(directories.into_keys());
        Ok(())
    }

    fn named(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the object file of a payload that is gone.
    pub(crate) fn remove(&self, sha256: &Sha) -> Result<()> {
        self.reader.forget(sha256);
        match self.place_if_there(sha256)? {
            Some(place) => place.directory.remove_file(&place.name),
            None => Ok(()),
        }
    }

    /// Calls `each` with every directory of object files.
    pub(crate) fn each_directory(&self, mut each: impl FnMut(&Dir) -> Result<()>) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        for (name, kind) in dir.entries()? {
            if kind.is_dir() {
                each(&dir.subdir(name)?)?;
            }
        }
        Ok(())
    }

    /// Checks an object file, by hashes of `truth`; what is read isn't kept in memory.
    pub(crate) fn check(
        &self,
        truth: &Catalogue,
        payload: &PayloadInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<ObjectFault>> {
        let file = match self.open_object(&payload.sha256) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) => return Ok(Some(ObjectFault::of(&source))),
            Err(e) => return Err(e),
        };
        let checked = check_file(truth, payload, &file, &mut |at, len| {
            drop_pages(&file, at, len);
            progress(at + len);
        })?;
        Ok(match checked {
            Err(e) => Some(ObjectFault::of(&e)),
            Ok(found) => found.map(ObjectFault::Damaged),
        })
    }

    /// All bytes of an object file, which were checked; `None` if there is none.
    pub(crate) fn read_whole(&self, sha256: &Sha) -> Result<Option<Vec<u8>>> {
        let mut file = match self.open_object(sha256) {
            Err(e) if e.is_missing() => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at("reading", &self.path(sha256))?;
        if Sha::of(&bytes) != *sha256 {
            let reason = "its bytes differ from what was published".to_owned();
            return Err(Error::PayloadDamaged { sha256: sha256.hex(), reason });
        }
        Ok(Some(bytes))
    }

    /// The object file of a payload, open.
    pub(crate) fn open_file(&self, sha256: &Sha) -> Result<File> {
        self.open_object(sha256)
    }
}
