//! Making a store, and opening one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::handle::Store;
use crate::catalogue::CatalogueSlot;
use crate::disk::durable::{sync_dir, write_json};
use crate::disk::names::{HISTORY, SETTINGS};
use crate::disk::{Lock, check_owner, sweep};
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::history::{Change, History, scan};
use crate::payload::{Incoming, Objects, Staging};
use crate::settings::{FORMAT, Settings, read_settings};
use crate::types::Sequence;

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
        scan::check(&dir.join(HISTORY))
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
        let incoming = Arc::new(Incoming::open(dir)?);
        incoming.sweep(true)?;
        let staging = Staging::new(dir, incoming.clone(), &settings);
        let objects = Objects::open(dir)?;
        sweep(dir);
        unless_unwritable(sync_dir(dir))?;
        let slot = CatalogueSlot::open(dir, &mut history)?;
        let store = Store {
            dir: dir.to_owned(),
            is_current: (settings.format == FORMAT).into(),
            settings,
            slot,
            incoming,
            staging,
            objects,
            history: Mutex::new(history),
            _lock: lock,
        };
        if store.last_change() == Sequence(0) {
            let mut writer = store.writer()?;
            writer.add(Change::Create)?;
            writer.commit()?;
        }
        Ok(store)
    }
}
