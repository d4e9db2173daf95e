//! Object files: payloads by their sha256, complete and durable before any change names them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::blocks::check_file;
use super::info::PayloadInfo;
use super::reader::{Reader, drop_pages};
use super::staged::StagedPayload;
use super::staging::Staging;
use crate::catalogue::Catalogue;
use crate::disk::durable::{make_dir, remove_file, sync_dir};
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
    dir: PathBuf,
    /// Directories of object files whose own names this process has made durable.
    named: Mutex<BTreeSet<PathBuf>>,
    reader: Reader,
}

impl Objects {
    /// The object files of the store in `dir`, whose directory is made if it is missing.
    pub(crate) fn open(store: &Path) -> Result<Objects> {
        unless_unwritable(make_dir(&store.join(OBJECTS)))?;
        Ok(Objects::open_read_only(store))
    }

    /// The same as they are, to be read only.
    pub(crate) fn open_read_only(store: &Path) -> Objects {
        let dir = store.join(OBJECTS);
        Objects { named: Mutex::default(), reader: Reader::new(&dir), dir }
    }

    /// What reads payloads.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Where the object file of a payload is.
    pub(crate) fn path(&self, sha256: &Sha) -> PathBuf {
        object_in(&self.dir, sha256)
    }

    /// Makes staged payloads durable as object files: each file is synced, then its
    /// name, then each directory once.
    pub(crate) fn keep(&self, payloads: &[&StagedPayload], staging: &Staging) -> Result<()> {
        let mut directories = Vec::new();
        for payload in payloads {
            let object = self.path(&payload.sha256);
            let directory = object.parent().unwrap_or(&self.dir).to_owned();
            make_dir(&directory)?;
            if !self.named().contains(&directory) {
                directories.push(self.dir.clone());
            }
            staging.keep(payload, &object)?;
            directories.push(directory);
            // Another file may have been open in its place, which this one mends.
            self.reader.forget(&payload.sha256);
        }
        directories.sort();
        directories.dedup();
        directories.iter().try_for_each(|dir| sync_dir(dir))?;
        self.named().extend(directories);
        Ok(())
    }

    fn named(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the object file of a payload that is gone.
    pub(crate) fn remove(&self, sha256: &Sha) -> Result<()> {
        self.reader.forget(sha256);
        let path = self.path(sha256);
        remove_file(&path)
    }

    /// Calls `each` with every directory of object files.
    pub(crate) fn each_directory(&self, mut each: impl FnMut(&Path) -> Result<()>) -> Result<()> {
        for entry in fs::read_dir(&self.dir).at("reading", &self.dir)? {
            let path = entry.at("reading", &self.dir)?.path();
            if path.is_dir() {
                each(&path)?;
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
        let path = self.path(&payload.sha256);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) => return Ok(Some(ObjectFault::of(&e))),
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
        let path = self.path(sha256);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.at("reading", &path)?,
        };
        if Sha::of(&bytes) != *sha256 {
            let reason = "its bytes differ from what was published".to_owned();
            return Err(Error::PayloadDamaged { sha256: sha256.hex(), reason });
        }
        Ok(Some(bytes))
    }

    /// The object file of a payload, open.
    pub(crate) fn open_file(&self, sha256: &Sha) -> Result<File> {
        let path = self.path(sha256);
        File::open(&path).at("opening", &path)
    }
}
