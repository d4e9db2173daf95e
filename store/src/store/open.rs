//! Making a store, and opening one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::handle::Store;
use crate::catalogue::CatalogueSlot;
use crate::disk::{Lock, sweep};
use crate::error::{Error, Result, unless_unwritable};
use crate::history::{Change, History, scan};
use crate::payload::{Incoming, Objects, Staging};
use crate::settings::{FORMAT, Settings, read_settings, say_store};
use crate::store_dir::StoreDir;
use crate::types::Sequence;

impl Store {
    /// Opens the store at `path`, which is absolute; makes one if nothing is there.
    pub fn open_or_create(path: &Path) -> Result<Store> {
        Store::open_in(&StoreDir::open_or_create(path, &Settings::default())?)
    }

    /// Opens the store at `path`, which is absolute and must exist.
    pub fn open(path: &Path) -> Result<Store> {
        Store::open_in(&StoreDir::open(path)?)
    }

    /// Opens the store in `dir`.
    pub fn open_in(dir: &StoreDir) -> Result<Store> {
        let settings = Store::settings_of(dir)?;
        Store::open_with(dir, settings, dir.lock()?)
    }

    /// Opens the store in `dir` with the right to it that the caller has.
    pub fn open_locked(dir: &StoreDir, lock: Lock) -> Result<Store> {
        Store::open_with(dir, Store::settings_of(dir)?, lock)
    }

    /// Checks that this build can read the store in `dir`, which another
    /// process may have open: its format, and every line of its history.
    pub fn check(dir: &StoreDir) -> Result<()> {
        Store::settings_of(dir)?;
        scan::check(dir)
    }

    fn settings_of(dir: &StoreDir) -> Result<Settings> {
        let settings = read_settings(dir)?;
        if settings.format > FORMAT {
            return Err(Error::NewerFormat {
                dir: dir.path().to_owned(),
                found: settings.format,
                supported: FORMAT,
            });
        }
        Ok(settings)
    }

    fn open_with(dir: &StoreDir, settings: Settings, lock: Lock) -> Result<Store> {
        unless_unwritable(say_store(dir))?;
        let mut history = History::open(dir)?;
        let incoming = Arc::new(Incoming::open(dir)?);
        incoming.sweep(true)?;
        let staging = Staging::new(dir, incoming.clone(), &settings);
        let objects = Objects::open(dir)?;
        sweep(dir, |id| incoming.is_leased(id));
        unless_unwritable(dir.sync())?;
        let slot = CatalogueSlot::open(dir, &mut history)?;
        let store = Store {
            dir: dir.clone(),
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
