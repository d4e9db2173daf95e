//! The store: opening it, owning it, closing it.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::catalogue::{self, Catalogue, Txn, Untold, apply, sync_dir};
use crate::disk::lock::Lock;
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::history::log::{Change, Entry, History, line_of};
use crate::payload::staging::{Payloads, Staged, StagedSource};
use crate::settings::{FORMAT, Settings, State, boot_id, raise_format, read_settings, write_json};
use crate::store::recovery::Held;

pub(crate) const SETTINGS: &str = "settings.json";
pub(crate) const HISTORY: &str = "history";
pub(crate) const STATE: &str = "state.json";

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

/// An open store. One process has it at a time; within it, every method can be
/// called from any thread.
pub struct Store {
    dir: PathBuf,
    settings: Settings,
    /// Whether `settings.json` says that the store is of this build's format.
    is_current: AtomicBool,
    pub(crate) catalogue: Held,
    pub(crate) payloads: Payloads,
    pub(crate) writer: Mutex<History>,
    /// Released when the process ends, however it ends.
    _lock: Lock,
}

impl Store {
    /// Opens the store in `dir`, making one if nothing is there.
    pub fn open_or_create(dir: &Path) -> Result<Store> {
        Store::create(dir, &Settings::default())?;
        Store::open(dir)
    }

    /// Makes an empty store with `settings`, unless there is one already.
    pub fn create(dir: &Path, settings: &Settings) -> Result<()> {
        let parent = dir.parent().unwrap_or(dir);
        fs::create_dir_all(parent).at("making", parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => sync_dir(parent)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_owner(dir)?,
            Err(e) => return Err(e).at("making", dir),
        }
        let path = dir.join(SETTINGS);
        for entry in fs::read_dir(dir).at("reading", dir)? {
            let found = entry.at("reading", dir)?.file_name().to_string_lossy().into_owned();
            // Another process makes the same store right now, or was cut off making it.
            if !found.starts_with(&format!(".{SETTINGS}")) && !path.exists() {
                return Err(Error::NotAStore { dir: dir.to_owned(), found });
            }
        }
        if path.exists() { Ok(()) } else { write_json(&path, settings) }
    }

    /// Opens the store in `dir`, which must exist.
    pub fn open(dir: &Path) -> Result<Store> {
        let settings = Store::settings_of(dir)?;
        Store::open_with(dir, settings, Lock::take(dir)?)
    }

    /// Opens the store in `dir` with the right to it that the caller has.
    pub fn open_locked(dir: &Path, lock: Lock) -> Result<Store> {
        Store::open_with(dir, Store::settings_of(dir)?, lock)
    }

    /// Checks that this build can read the store in `dir`, which another
    /// process may have open: its format, and every line of its history.
    pub fn check(dir: &Path) -> Result<()> {
        Store::settings_of(dir)?;
        History::check(&dir.join(HISTORY))
    }

    fn settings_of(dir: &Path) -> Result<Settings> {
        match fs::metadata(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoStore(dir.to_owned()));
            }
            metadata => metadata.at("reading", dir)?,
        };
        check_owner(dir)?;
        let path = dir.join(SETTINGS);
        if !path.exists() {
            return Err(Error::NoStore(dir.to_owned()));
        }
        let settings = read_settings(&path)?;
        if settings.format > FORMAT {
            return Err(Error::NewerFormat {
                dir: dir.to_owned(),
                found: settings.format,
                supported: FORMAT,
            });
        }
        Ok(settings)
    }

    fn open_with(dir: &Path, settings: Settings, lock: Lock) -> Result<Store> {
        let mut history = History::open(&dir.join(HISTORY))?;
        let payloads = Payloads::open(dir)?;
        catalogue::sweep(dir);
        unless_unwritable(sync_dir(dir))?;
        let catalogue = Held::open(dir, &mut history)?;
        let store = Store {
            dir: dir.to_owned(),
            is_current: (settings.format == FORMAT).into(),
            settings,
            catalogue,
            payloads,
            writer: Mutex::new(history),
            _lock: lock,
        };
        if store.last_change() == 0 {
            let (mut writer, mut planned) = store.begin()?;
            planned.add(&writer, Change::Create)?;
            store.commit(&mut writer, planned)?;
        }
        Ok(store)
    }

    /// Closes the store, so that the next open need not look at anything twice.
    /// Dropping it does the same, and logs an error.
    pub fn close(mut self) -> Result<()> {
        self.close_catalogue()
    }

    fn close_catalogue(&mut self) -> Result<()> {
        if let Some(catalogue) = self.catalogue.take() {
            if catalogue.is_elsewhere() {
                return Ok(());
            }
            // What failed while it was open is rebuilt by the next open.
            let trusted = catalogue.is_sound() && !std::thread::panicking();
            if !trusted {
                Store::distrust_catalogue(&self.dir);
            }
            catalogue::close(catalogue)?;
            if trusted {
                let state = State { boot_id: boot_id(), closed: true };
                write_json(&self.dir.join(STATE), &state)?;
            }
        }
        Ok(())
    }

    /// Whether a process has the store in `dir` open.
    pub fn is_in_use(dir: &Path) -> bool {
        Lock::is_taken(dir)
    }

    /// Has the next open rebuild the catalogue of the store in `dir`: for when
    /// reading it made the process fail.
    pub fn distrust_catalogue(dir: &Path) {
        // Without the file nothing is trusted.
        let _ = fs::remove_file(dir.join(STATE));
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The store's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The sequence number of the last change committed.
    pub fn last_change(&self) -> u64 {
        self.writer().end().1
    }

    /// The names that changes after number `told` may have touched.
    pub fn untold_since(&self, told: u64) -> Result<Untold> {
        let entries = self.writer().entries_after(told)?;
        let catalogue = self.catalogue()?;
        let mut untold = Untold::default();
        for entry in &entries {
            untold.add(&catalogue, entry)?;
        }
        Ok(untold)
    }

    /// Takes an artifact in, without publishing it: its bytes are hashed and
    /// kept aside until [`Store::publish`], and taken back if the result is dropped.
    pub fn stage(&self, from: impl Read) -> Result<Staged> {
        self.payloads.stage(from)
    }

    /// Takes the WebAssembly in that an artifact was compiled from, likewise.
    pub fn stage_source(&self, from: impl Read) -> Result<StagedSource> {
        self.payloads.stage_source(from)
    }

    /// The right to write. A writer that panicked left the history as it was.
    pub(crate) fn writer(&self) -> MutexGuard<'_, History> {
        self.writer.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Commits what was planned: history first, then the catalogue.
    /// Has the store be of this build's format, for what only that has.
    pub(crate) fn raise_format(&self) -> Result<()> {
        if !self.is_current.load(Ordering::Relaxed) {
            raise_format(&self.dir.join(SETTINGS))?;
            self.is_current.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn commit(&self, writer: &mut History, planned: Planned) -> Result<()> {
        if planned.is_empty() {
            return Ok(());
        }
        self.check_free_space(planned.weight())?;
        writer.append(&planned.lines, planned.count)?;
        let applied = planned.txn.apply();
        if let Err(e) = applied {
            // Committed, but unknown to the catalogue: opened again, it takes it from the history.
            log::error!("the catalogue failed in a commit: {e}");
            self.recover(writer)?;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = self.close_catalogue() {
            log::error!("closing {}: {e}", self.dir.display());
        }
    }
}

/// Changes with all their numbers given, to be committed together.
pub(crate) struct Planned {
    pub(crate) txn: Txn,
    /// Their lines in the history.
    lines: Vec<u8>,
    count: u64,
}

impl Planned {
    pub(crate) fn new(catalogue: &Arc<Catalogue>) -> Planned {
        Planned { txn: Txn::new(catalogue), lines: Vec::new(), count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much a commit writes, in bytes, sled's own records included: it takes some
    /// 300 bytes for what is 60 to 100.
    pub(crate) fn weight(&self) -> u64 {
        self.lines.len() as u64 + 4 * self.txn.size()
    }

    /// Adds a change, and says which names it will have changed.
    pub(crate) fn add(&mut self, writer: &History, change: Change) -> Result<catalogue::Changes> {
        let (len, after) = writer.end();
        let entry = Entry { seq: after + 1 + self.count, after, time: now(), change };
        let line = line_of(&entry)?;
        let end = len + (self.lines.len() + line.len()) as u64;
        let changes = apply(&mut self.txn, &entry, end)?;
        self.lines.extend(line);
        self.count += 1;
        Ok(changes)
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}
