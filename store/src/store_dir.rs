//! The directory of a store: opened once, and known to be one before anything in it is touched.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use rustix::fs::{FileType, Mode, fchmod, fstat};
use rustix::process::geteuid;

use crate::disk::names::{
    CATALOGUE, HISTORY, INCOMING, LOCK, OBJECTS, QUARANTINE, RESERVE, SETTINGS, STATE,
};
use crate::disk::{Dir, Lock, Missing, TEMP_PREFIX, foreign_owner};
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::history::scan;
use crate::settings::{MAX_SETTINGS, Settings, say_store, says_store};
use crate::state::is_state;

/// A directory of the database's own, in the catalogue's.
const BLOBS: &str = "blobs";
/// The name of the server's log, which is there before anything else.
const LOG: &str = "wasmfs.log";

/// The directory of a store, open: this user's, and proven to be a store. Whoever has it reaches
/// everything in it by descriptor, whatever becomes of the path.
#[derive(Clone, Debug)]
pub struct StoreDir(Dir);

impl Deref for StoreDir {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.0
    }
}

impl StoreDir {
    /// Opens the store at `path`, which is absolute. Nothing in the directory is touched unless it
    /// is a store; then others are kept out of it.
    ///
    /// # Errors
    /// [`Error::NoStore`] if there is none, [`Error::NotAStore`] if it is something else,
    /// [`Error::WrongOwner`] if it is another user's, [`Error::ForeignPart`] if something in it is,
    /// and those of [`crate::open_way`].
    pub fn open(path: &Path) -> Result<StoreDir> {
        StoreDir::open_if_there(path)?.ok_or_else(|| Error::NoStore(path.to_owned()))
    }

    /// The same; `None` if there is none.
    pub fn open_if_there(path: &Path) -> Result<Option<StoreDir>> {
        StoreDir::open_with_parts(path)?.map(StoreDir::check_parts).transpose()
    }

    /// The same, whoever its parts belong to: to find and mend that, and for nothing else.
    ///
    /// # Errors
    /// Those of [`StoreDir::open`].
    pub fn open_to_verify(path: &Path) -> Result<StoreDir> {
        StoreDir::open_with_parts(path)?.ok_or_else(|| Error::NoStore(path.to_owned()))
    }

    fn open_with_parts(path: &Path) -> Result<Option<StoreDir>> {
        match Dir::open(path, Missing::Fail) {
            Err(e) if e.is_missing() => Ok(None),
            opened => StoreDir::prove(opened?),
        }
    }

    /// Opens the store at `path`, and makes one with `settings` if nothing is there.
    ///
    /// # Errors
    /// Those of [`StoreDir::open`].
    pub fn open_or_create(path: &Path, settings: &Settings) -> Result<StoreDir> {
        StoreDir::create(Dir::open(path, Missing::Make(0o700))?, settings)
    }

    /// The same, called `name` in another directory.
    ///
    /// # Errors
    /// Those of [`StoreDir::open`].
    pub fn open_or_create_in(dir: &Dir, name: &str, settings: &Settings) -> Result<StoreDir> {
        dir.make_dir(name)?;
        StoreDir::create(dir.subdir(name)?, settings)
    }

    fn create(dir: Dir, settings: &Settings) -> Result<StoreDir> {
        let path = dir.path().to_owned();
        if let Some(store) = StoreDir::prove(dir.clone())? {
            return store.check_parts();
        }
        // Another process makes the same store right now, or was cut off making it.
        let is_of_making = |name: &str| name.starts_with(&format!(".{SETTINGS}"));
        for (name, _) in dir.entries()? {
            let found = name.to_string_lossy().into_owned();
            if dir.has(SETTINGS)? {
                break;
            }
            if !is_of_making(&found) {
                return Err(Error::NotAStore { dir: path, found });
            }
        }
        if !dir.has(SETTINGS)? {
            dir.write_json(SETTINGS, settings)?;
        }
        StoreDir::prove(dir)?.ok_or(Error::NoStore(path))?.check_parts()
    }

    /// The right to the store. Fails with [`Error::InUse`] if somebody has it.
    pub fn lock(&self) -> Result<Lock> {
        Lock::take_in(self)
    }

    /// Whether somebody has the right to the store.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        Lock::is_taken(self)
    }

    /// Whether both are the same directory.
    #[must_use]
    pub fn is_same(&self, other: &StoreDir) -> bool {
        let number = |dir: &StoreDir| dir.stat().ok().map(|stat| (stat.st_dev, stat.st_ino));
        number(self).is_some_and(|own| number(other) == Some(own))
    }

    /// Takes a directory for a store, if it is one; `None` if it has no settings.
    fn prove(dir: Dir) -> Result<Option<StoreDir>> {
        let path = dir.path().to_owned();
        if let Some(owner) = foreign_owner(&dir).at("reading", &path)? {
            return Err(Error::WrongOwner { dir: path, owner, uid: geteuid().as_raw() });
        }
        if !dir.has(SETTINGS)? {
            return Ok(None);
        }
        if !is_store(&dir)? {
            return Err(Error::NotAStore { dir: path, found: SETTINGS.into() });
        }
        if dir.stat()?.st_mode & 0o077 != 0 {
            // Nobody can change what is on a disk that can't be written.
            unless_unwritable(fchmod(&dir, Mode::RWXU).at("protecting", &path))?;
        }
        Ok(Some(StoreDir(dir)))
    }

    /// Refuses a store with parts of another user's, who could change them, or have them be
    /// written: the directory was once open to others.
    fn check_parts(self) -> Result<StoreDir> {
        for name in [SETTINGS, HISTORY, STATE, LOCK, RESERVE, LOG] {
            check_part(&self, Path::new(name), Some(FileType::RegularFile))?;
        }
        for name in [CATALOGUE, INCOMING, OBJECTS, QUARANTINE] {
            check_part(&self, Path::new(name), Some(FileType::Directory))?;
        }
        // The database opens its files by name.
        let blobs = Path::new(CATALOGUE).join(BLOBS);
        for dir in [Path::new(CATALOGUE), &blobs] {
            if !self.has(dir)? {
                continue;
            }
            let dir = self.subdir(dir)?;
            for (name, _) in dir.entries()? {
                check_part(&dir, Path::new(&name), None)?;
            }
        }
        Ok(self)
    }
}

/// Refuses what is in a store if it is another user's, or something else than it should be, a file or
/// a directory; and keeps others out of a directory.
fn check_part(dir: &Dir, name: &Path, wanted: Option<FileType>) -> Result<()> {
    let Some(found) = dir.look_at(name)? else { return Ok(()) };
    let path = dir.named(name);
    let stat = fstat(&found).at("reading", &path)?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(Error::ForeignPart { path, owner: stat.st_uid });
    }
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_any = matches!(kind, FileType::RegularFile | FileType::Directory);
    if !is_any || wanted.is_some_and(|wanted| kind != wanted) {
        return Err(Error::NotAFile(path));
    }
    if kind == FileType::Directory && stat.st_mode & 0o077 != 0 {
        unless_unwritable(fchmod(dir.subdir(name)?, Mode::RWXU).at("protecting", &path))?;
    }
    Ok(())
}

/// Whether a directory with a file `settings.json` is a store: one that says so; else, since older
/// ones don't, one whose files agree that it is.
fn is_store(dir: &Dir) -> Result<bool> {
    let text = |name| -> Result<Vec<u8>> {
        let mut text = Vec::new();
        if let Some(file) = dir.open_if_there(name)? {
            file.take(MAX_SETTINGS).read_to_end(&mut text).at("reading", &dir.named(name))?;
        }
        Ok(text)
    };
    let settings = text(SETTINGS)?;
    if says_store(&settings) {
        return Ok(true);
    }
    let is = |name: &str, kind| -> Result<bool> {
        let found = dir.metadata(name)?;
        Ok(found.is_some_and(|found| FileType::from_raw_mode(found.st_mode) == kind))
    };
    let history: Option<File> = dir.open_if_there(HISTORY)?;
    let has_line = history.as_ref().is_some_and(scan::has_line);
    if has_line && is(OBJECTS, FileType::Directory)? {
        return Ok(true);
    }
    let has_format = serde_json::from_slice::<Settings>(&settings).is_ok();
    // Its history may be damaged, or its settings.
    let others = is_state(&text(STATE)?)
        && is(&format!("{CATALOGUE}/conf"), FileType::RegularFile)?
        && is(&format!("{CATALOGUE}/db"), FileType::RegularFile)?
        && is(OBJECTS, FileType::Directory)?
        && is(INCOMING, FileType::Directory)?;
    if (has_format && has_line) || others {
        return Ok(true);
    }
    let is_new = has_format && is_unused(dir)?;
    if is_new {
        // Somebody wrote the settings beforehand. It is a store from here on.
        unless_unwritable(say_store(dir))?;
    }
    Ok(is_new)
}

/// Whether nothing is in a directory but what a store that was just made may have.
fn is_unused(dir: &Dir) -> Result<bool> {
    for (name, kind) in dir.entries()? {
        let name = name.to_string_lossy();
        let size = dir.metadata(&*name)?.map_or(0, |found| found.st_size);
        let is_own = match &*name {
            SETTINGS | RESERVE | LOG => kind.is_file(),
            LOCK => kind.is_file() && size < 16,
            HISTORY | STATE => kind.is_file() && size == 0,
            CATALOGUE | INCOMING | OBJECTS | QUARANTINE => {
                kind.is_dir() && dir.subdir(&*name)?.entries()?.is_empty()
            }
            other => other.starts_with(&format!(".{SETTINGS}")) || other.starts_with(TEMP_PREFIX),
        };
        if !is_own {
            return Ok(false);
        }
    }
    Ok(true)
}
