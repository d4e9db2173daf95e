//! The place of the catalogue of an open store, and how it is got back when it fails.
//!
//! The database stops for good at its first failed write: from then on it refuses even to read, and
//! while the disk is full it can't be opened either. So a catalogue that failed is opened again
//! under whoever asks next, with the space of a file that was kept for this; and if it can't be, as
//! long as the disk can't be written, hosts are served from a copy in memory.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::database::catch_panic;
use super::handle::Catalogue;
use super::open::{open, open_in_memory};
use super::rebuild::put_in_place;
use crate::disk::Dir;
use crate::disk::space::{give_back_reserve, make_reserve};
use crate::error::{Error, Result};
use crate::history::History;
use crate::state::{distrust, is_trusted, note_open};

/// How often reads try to get a failed catalogue back.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

thread_local! {
    static READ_GUARDS: Cell<usize> = const { Cell::new(0) };
}

/// The right to read the catalogue as it is now. It stays what it is until every guard is dropped:
/// so a thread that has one waits for nobody, and replaces no catalogue ([`has_read_guard`]).
pub(crate) struct ReadGuard {
    catalogue: Arc<Catalogue>,
    /// It is counted in the thread that took it.
    not_send: PhantomData<*const ()>,
}

impl ReadGuard {
    fn new(catalogue: Arc<Catalogue>) -> ReadGuard {
        READ_GUARDS.set(READ_GUARDS.get() + 1);
        ReadGuard { catalogue, not_send: PhantomData }
    }

    /// The catalogue, to be shared with what goes on as long as this guard.
    pub(crate) fn shared(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        READ_GUARDS.set(READ_GUARDS.get() - 1);
    }
}

impl Deref for ReadGuard {
    type Target = Catalogue;

    fn deref(&self) -> &Catalogue {
        &self.catalogue
    }
}

/// Whether this thread has a guard, and so must not wait for all to be dropped.
pub(crate) fn has_read_guard() -> bool {
    READ_GUARDS.get() > 0
}

/// How a catalogue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It can be read and written.
    Sound,
    /// The same; so much was written that it should be opened again.
    Long,
    /// It can be read, but not written: the store's own can't be opened.
    Copy,
    /// It failed, or there is none.
    Failed,
}

/// The place of the catalogue of an open store; nothing is there while it can't be opened.
pub(crate) struct CatalogueSlot {
    current: RwLock<Option<Arc<Catalogue>>>,
    tried: Mutex<Option<Instant>>,
}

impl CatalogueSlot {
    /// Opens the catalogue of the store in `dir`.
    pub(crate) fn open(dir: &Dir, history: &mut History) -> Result<CatalogueSlot> {
        let (catalogue, why) = open_for_store(dir, history)?;
        if let Some(why) = why {
            log::error!("serving {} without writing to it: {}", dir.path().display(), why);
        }
        let current = RwLock::new(Some(Arc::new(catalogue)));
        Ok(CatalogueSlot { current, tried: Mutex::new(None) })
    }

    fn current(&self) -> Option<Arc<Catalogue>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The catalogue as it is now, failed or not.
    pub(crate) fn read_guard(&self) -> Result<ReadGuard> {
        self.current().map(ReadGuard::new).ok_or(Error::NoCatalogue)
    }

    /// How it is now.
    pub(crate) fn condition(&self) -> Condition {
        match self.current() {
            Some(catalogue) if !catalogue.is_sound() => Condition::Failed,
            Some(catalogue) if catalogue.is_copy() => Condition::Copy,
            Some(catalogue) if catalogue.is_long() => Condition::Long,
            Some(_) => Condition::Sound,
            None => Condition::Failed,
        }
    }

    /// Whether nobody reads it just now.
    pub(crate) fn is_unused(&self) -> bool {
        // The slot's own, and this one.
        self.current().is_some_and(|catalogue| Arc::strong_count(&catalogue) == 2)
    }

    /// Whether it is time for a reader to try to get a failed one back; then others wait again.
    pub(crate) fn is_due(&self) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let due = tried.is_none_or(|tried| tried.elapsed() >= REOPEN_INTERVAL);
        if due {
            *tried = Some(Instant::now());
        }
        due
    }

    /// Takes it out for good, once nobody else uses the store.
    pub(crate) fn take(&mut self) -> Option<Catalogue> {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner).take()?;
        Arc::into_inner(current)
    }

    /// Closes it and opens it again, or a copy that was made of it, while every reader waits. Gives
    /// up with [`Error::NoCatalogue`] if somebody still reads it after `limit`.
    pub(crate) fn replace(
        &self,
        dir: &Dir,
        history: &mut History,
        by_copy: bool,
        limit: Duration,
    ) -> Result<()> {
        let mut place = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = place.take() {
            match into_sole(old, limit) {
                Ok(old) => {
                    if old.is_damaged() {
                        distrust(dir);
                    }
                    // Dropping one that failed can panic.
                    let _ = catch_panic(|| drop(old));
                }
                Err(old) => {
                    *place = Some(old);
                    return Err(Error::NoCatalogue);
                }
            }
        }
        let placed = if by_copy { put_in_place(dir) } else { Ok(()) };
        let (catalogue, why) = open_for_store(dir, history)?;
        *place = Some(Arc::new(catalogue));
        log::debug!("the catalogue of {} was opened again", dir.path().display());
        placed.and(why.map_or(Ok(()), Err))
    }
}

/// Waits for everybody else to let go.
fn into_sole(
    mut shared: Arc<Catalogue>,
    limit: Duration,
) -> std::result::Result<Catalogue, Arc<Catalogue>> {
    let deadline = Instant::now() + limit;
    loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(catalogue) => return Ok(catalogue),
            Err(shared) if Instant::now() > deadline => return Err(shared),
            Err(shared) => shared,
        };
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Opens the store's own catalogue; or, if the disk can't be written, a copy that can only
/// be read, with the reason.
fn open_for_store(dir: &Dir, history: &mut History) -> Result<(Catalogue, Option<Error>)> {
    let trusted = is_trusted(dir);
    let mut opened = open_own(dir, history);
    if opened.as_ref().is_err_and(Error::is_disk_full) && give_back_reserve(dir) {
        log::warn!("the disk of {} is full: using the reserve", dir.path().display());
        opened = open_own(dir, history);
    }
    match opened {
        Ok(catalogue) => Ok((catalogue, None)),
        Err(e) if e.is_unwritable() => match open_in_memory(dir, history, trusted) {
            Ok(copy) => Ok((copy, Some(e))),
            Err(other) => {
                log::error!("copying the catalogue of {}: {other}", dir.path().display());
                Err(e)
            }
        },
        Err(e) => Err(e),
    }
}

fn open_own(dir: &Dir, history: &mut History) -> Result<Catalogue> {
    let trusted = is_trusted(dir);
    // Open from here on; and until it is rebuilt, should that be interrupted, not to be trusted.
    note_open(dir, trusted)?;
    let catalogue = open(dir, history, trusted)?;
    if !trusted {
        note_open(dir, true)?;
    }
    make_reserve(dir);
    Ok(catalogue)
}
