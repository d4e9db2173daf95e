//! The store: what an open one is made of, and how it is closed.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalogue::CatalogueSlot;
use crate::disk::{Lock, sweep};
use crate::error::Result;
use crate::history::History;
use crate::payload::{Incoming, Objects, Staged, StagedSource, Staging};
use crate::settings::{Settings, raise_format};
use crate::state::{distrust, note_closed};
use crate::store_dir::StoreDir;
use crate::types::{Sequence, Sha};

/// An open store. One process has it at a time; within it, every method can be
/// called from any thread.
pub struct Store {
    pub(super) dir: StoreDir,
    pub(super) settings: Settings,
    /// Whether `settings.json` says that the store is of this build's format.
    pub(super) is_current: AtomicBool,
    pub(super) slot: CatalogueSlot,
    pub(super) incoming: Arc<Incoming>,
    pub(crate) staging: Staging,
    pub(crate) objects: Objects,
    pub(super) history: Mutex<History>,
    /// Released when the process ends, however it ends.
    pub(super) _lock: Lock,
}

impl Store {
    /// Closes the store, so that the next open need not look at anything twice.
    /// Dropping it does the same, and logs an error.
    pub fn close(mut self) -> Result<()> {
        self.close_catalogue()
    }

    fn close_catalogue(&mut self) -> Result<()> {
        if let Some(catalogue) = self.slot.take() {
            if catalogue.is_copy() {
                return Ok(());
            }
            // What failed while it was open is rebuilt by the next open.
            let trusted = catalogue.is_sound() && !std::thread::panicking();
            if !trusted {
                Store::distrust_catalogue(&self.dir);
            }
            catalogue.close()?;
            if trusted {
                note_closed(&self.dir)?;
            }
        }
        Ok(())
    }

    /// All bytes of a payload that is an object file of the store in `dir`, which another process
    /// may have open; checked by their sha256. `None` if there is no such file.
    pub fn read_object(dir: &StoreDir, sha256: &Sha) -> Result<Option<Vec<u8>>> {
        Objects::open_read_only(dir)?.read_whole(sha256)
    }

    /// Has the next open rebuild the catalogue of the store in `dir`: for when
    /// reading it made the process fail.
    pub fn distrust_catalogue(dir: &StoreDir) {
        distrust(dir);
    }

    /// The store's directory, as it was given when the store was opened.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The store's directory, open.
    pub fn open_dir(&self) -> &StoreDir {
        &self.dir
    }

    /// The store's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The sequence number of the last change committed.
    pub fn last_change(&self) -> Sequence {
        self.lock_history().end().seq
    }

    /// The history. A writer that panicked left it as it was.
    pub(super) fn lock_history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what commands staged that were killed.
    pub fn sweep_staged(&self) -> Result<()> {
        sweep(&self.dir, |id| self.incoming.is_leased(id));
        self.incoming.sweep(true)
    }

    /// Stages an artifact, without publishing it: its bytes are hashed and
    /// kept aside until [`Store::publish`], and taken back if the result is dropped.
    pub fn stage(&self, from: impl Read) -> Result<Staged> {
        self.staging.stage(from)
    }

    /// Stages the WebAssembly that an artifact was compiled from, likewise.
    pub fn stage_source(&self, from: impl Read) -> Result<StagedSource> {
        self.staging.stage_source(from)
    }

    /// Has the store be of this build's format, for what only that has.
    pub(crate) fn raise_format(&self) -> Result<()> {
        if !self.is_current.load(Ordering::Relaxed) {
            raise_format(&self.dir)?;
            self.is_current.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = self.close_catalogue() {
            log::error!("closing {}: {e}", self.dir().display());
        }
    }
}
