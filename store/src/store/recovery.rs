//! The catalogue of an open store, and how it is got back when sled fails.
//!
//! sled 0.34 stops for good at its first failed write: from then on it refuses
//! even to read, and while the disk is full it can't be opened either. So a
//! catalogue that failed is opened again under whoever asks next, with the
//! space of a file that was kept for this; and if it can't be, as long as the
//! disk can't be written, hosts are served from a copy in memory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use crate::catalogue::{self, Catalogue, quietly};
use crate::error::{Error, IoContext, Result};
use crate::history::log::History;
use crate::settings::{State, boot_id, read_state, write_json};
use crate::store::open::{Planned, STATE, Store};
use crate::store::publish::{DISK_MARGIN, available};

/// Space that is given back to a full disk, in bytes: sled writes when it opens.
const RESERVE: u64 = 4 << 20;
const RESERVE_FILE: &str = "reserve";
/// How often reads try to get a failed catalogue back.
const RETRY: Duration = Duration::from_secs(1);
/// How long whoever reads a failed catalogue is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The catalogue of an open store; nothing while it can't be opened.
pub(crate) struct Held {
    current: RwLock<Option<Arc<Catalogue>>>,
    tried: Mutex<Option<Instant>>,
}

impl Held {
    /// Opens the catalogue of the store in `dir`.
    pub(crate) fn open(dir: &Path, history: &mut History) -> Result<Held> {
        let (catalogue, why) = open(dir, history)?;
        if let Some(why) = why {
            log::error!("serving {} without writing to it: {}", dir.display(), why);
        }
        Ok(Held { current: RwLock::new(Some(Arc::new(catalogue))), tried: Mutex::new(None) })
    }

    fn current(&self) -> Option<Arc<Catalogue>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes it out for good, once nobody else uses the store.
    pub(crate) fn take(&mut self) -> Option<Catalogue> {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner).take()?;
        Arc::into_inner(current)
    }

    /// Whether it is time to try once more.
    fn is_due(&self) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let due = tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        if due {
            *tried = Some(Instant::now());
        }
        due
    }
}

impl Store {
    /// The catalogue as it is now. Whoever holds one must not ask for another: a
    /// failed one is replaced when everybody has let go of it.
    pub(crate) fn catalogue(&self) -> Result<Arc<Catalogue>> {
        if let Some(catalogue) = self.catalogue.current()
            && catalogue.is_sound()
        {
            return Ok(catalogue);
        }
        // Whoever writes just now sees to it himself.
        if let Some(mut writer) = self.try_writer()
            && self.catalogue.is_due()
            && let Err(e) = self.recover(&mut writer)
        {
            log::error!("the catalogue of {}: {e}", self.dir().display());
        }
        self.catalogue.current().ok_or(Error::NoCatalogue)
    }

    fn try_writer(&self) -> Option<MutexGuard<'_, History>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The right to write, and a plan without a change in it yet. What an earlier error
    /// left in the way is mended first.
    pub(crate) fn begin(&self) -> Result<(MutexGuard<'_, History>, Planned)> {
        let mut writer = self.writer();
        self.recover(&mut writer)?;
        let catalogue = self.catalogue.current().ok_or(Error::NoCatalogue)?;
        Ok((writer, Planned::new(&catalogue)))
    }

    /// Has a history that can be written and a catalogue that holds all of it, or says why
    /// that can't be had.
    pub(crate) fn recover(&self, writer: &mut History) -> Result<()> {
        // Whoever reads needs no history that can be written.
        let healed = writer.heal();
        // No copy of it may be left here while it is replaced.
        let state =
            self.catalogue.current().map(|c| (c.is_sound() && !c.is_elsewhere(), c.is_long()));
        let recovered = match state {
            Some((true, false)) => {
                make_reserve(self.dir());
                Ok(())
            }
            Some((true, true)) => self.renew(writer),
            _ => {
                if self.catalogue.current().is_some_and(|c| c.is_sound()) {
                    // A copy in memory serves, and is not to be lost in the attempt.
                    check_writable(self.dir())?;
                }
                self.reopen(writer)
            }
        };
        healed.and(recovered)
    }

    /// Has the catalogue that [`catalogue::copy`] made take the place of this one; false if
    /// somebody reads that all the time.
    pub(crate) fn take_copy(&self, writer: &mut History) -> Result<bool> {
        match self.replace(writer, true, Duration::from_millis(100)) {
            Err(Error::NoCatalogue) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Opens the catalogue again.
    fn reopen(&self, writer: &mut History) -> Result<()> {
        self.replace(writer, false, PATIENCE)
    }

    /// Opens the catalogue again, though nothing is wrong with it, if that is no trouble now.
    fn renew(&self, writer: &mut History) -> Result<()> {
        let unused = self.catalogue.current().is_some_and(|c| Arc::strong_count(&c) == 2);
        if !unused || self.check_free_space(RESERVE).is_err() {
            return Ok(());
        }
        match self.replace(writer, false, Duration::ZERO) {
            Err(Error::NoCatalogue) => Ok(()),
            result => result,
        }
    }

    /// Closes the catalogue and opens it again, or a copy of it, while every reader waits.
    fn replace(&self, writer: &mut History, by_copy: bool, patience: Duration) -> Result<()> {
        let mut place = self.catalogue.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = place.take() {
            match alone(old, patience) {
                Ok(old) => {
                    if old.is_damaged() {
                        Store::distrust_catalogue(self.dir());
                    }
                    // Dropping a sled that failed can panic.
                    let _ = quietly(|| {
                        drop(old);
                        Ok(())
                    });
                }
                Err(old) => {
                    *place = Some(old);
                    return Err(Error::NoCatalogue);
                }
            }
        }
        let placed = if by_copy { catalogue::put_in_place(self.dir()) } else { Ok(()) };
        let (catalogue, why) = open(self.dir(), writer)?;
        *place = Some(Arc::new(catalogue));
        log::debug!("the catalogue of {} was opened again", self.dir().display());
        placed.and(why.map_or(Ok(()), Err))
    }
}

/// Waits for everybody else to let go.
fn alone(
    mut shared: Arc<Catalogue>,
    patience: Duration,
) -> std::result::Result<Catalogue, Arc<Catalogue>> {
    let deadline = Instant::now() + patience;
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
fn open(dir: &Path, history: &mut History) -> Result<(Catalogue, Option<Error>)> {
    let trusted = is_trusted(dir);
    let mut opened = open_own(dir, history);
    if opened.as_ref().is_err_and(Error::is_disk_full) && give_back_reserve(dir) {
        log::warn!("the disk of {} is full: using the reserve", dir.display());
        opened = open_own(dir, history);
    }
    match opened {
        Ok(catalogue) => Ok((catalogue, None)),
        Err(e) if e.is_unwritable() => match catalogue::open_elsewhere(dir, history, trusted) {
            Ok(copy) => Ok((copy, Some(e))),
            Err(other) => {
                log::error!("copying the catalogue of {}: {other}", dir.display());
                Err(e)
            }
        },
        Err(e) => Err(e),
    }
}

/// Whether the catalogue in `dir` was closed, or is of this run of the machine.
pub(crate) fn is_trusted(dir: &Path) -> bool {
    read_state(&dir.join(STATE)).is_some_and(|s| s.closed || s.is_of_this_boot())
}

fn open_own(dir: &Path, history: &mut History) -> Result<Catalogue> {
    let state = dir.join(STATE);
    let trusted = is_trusted(dir);
    // Open from here on; and until it is rebuilt, should that be interrupted, not to be trusted.
    let boot_while_opening = if trusted { boot_id() } else { None };
    write_json(&state, &State { boot_id: boot_while_opening, closed: false })?;
    let catalogue = catalogue::open(dir, history, trusted)?;
    if !trusted {
        write_json(&state, &State { boot_id: boot_id(), closed: false })?;
    }
    make_reserve(dir);
    Ok(catalogue)
}

/// Whether a file can be made in `dir` and written.
fn check_writable(dir: &Path) -> Result<()> {
    let path = dir.join(".probe");
    let written = fs::write(&path, [0; 4096]);
    let _ = fs::remove_file(&path);
    written.at("writing", &path)
}

/// Keeps some space, if there is plenty.
fn make_reserve(dir: &Path) {
    let path = dir.join(RESERVE_FILE);
    if path.exists() {
        return;
    }
    let room = available(dir).is_ok_and(|available| available > RESERVE + 2 * DISK_MARGIN);
    if room
        && let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
        && let Err(e) = fallocate(&file, FallocateFlags::empty(), 0, RESERVE)
    {
        log::debug!("reserving space in {}: {e}", dir.display());
        let _ = fs::remove_file(&path);
    }
}

fn give_back_reserve(dir: &Path) -> bool {
    match fs::remove_file(dir.join(RESERVE_FILE)) {
        Ok(()) => true,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                log::warn!("giving back the reserve of {}: {e}", dir.display());
            }
            false
        }
    }
}
