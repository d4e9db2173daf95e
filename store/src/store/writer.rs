//! Writing: the one writer of a store, and how reading and writing go on after an error.

use std::sync::{MutexGuard, TryLockError};
use std::time::Duration;

use super::handle::Store;
use crate::catalogue::{
    Catalogue, Changes, Condition, Overlay, ReadGuard, apply, has_read_guard, weight,
};
use crate::disk::clock::now;
use crate::disk::space::{RESERVE_SIZE, check_free_space, check_writable, make_reserve};
use crate::error::{Error, Result};
use crate::history::{Change, History, LogEntry, line_of};

/// How long readers of a failed catalogue are waited for.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long readers are waited for when a copy is to take the catalogue's place.
const COPY_TIMEOUT: Duration = Duration::from_millis(100);

/// The right to write a store: nobody else commits while it lives. Changes are added, which gives
/// all their numbers, and committed together; those of a writer that is dropped never were.
pub(crate) struct Writer<'s> {
    store: &'s Store,
    history: MutexGuard<'s, History>,
    guard: ReadGuard,
    overlay: Overlay,
    /// The lines of what was added.
    lines: Vec<u8>,
    count: u64,
    changes: Changes,
}

impl Writer<'_> {
    /// What the store will have once what was added is committed.
    pub(crate) fn view(&self) -> &Overlay {
        &self.overlay
    }

    /// The catalogue as it is before.
    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.guard
    }

    /// The history as it is before.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much a commit writes, in bytes, what the database adds included.
    pub(crate) fn weight(&self) -> u64 {
        self.lines.len() as u64 + weight(self.overlay.size())
    }

    /// Adds a change.
    pub(crate) fn add(&mut self, change: Change) -> Result<()> {
        let end = self.history.end();
        let (mut seq, after) = (end.seq.next(), end.seq);
        seq.0 += self.count;
        let entry = LogEntry { seq, after, time: now(), change };
        let line = line_of(&entry)?;
        let len = end.len + (self.lines.len() + line.len()) as u64;
        self.changes.extend(apply(&mut self.overlay, &entry, len)?);
        self.lines.extend(line);
        self.count += 1;
        Ok(())
    }

    /// Commits what was added: history first, then the catalogue. Says what it changed of what the
    /// kernel may have cached.
    pub(crate) fn commit(self) -> Result<Changes> {
        if self.is_empty() {
            return Ok(self.changes);
        }
        check_free_space(self.store.open_dir(), self.weight())?;
        let Writer { store, mut history, guard, overlay, lines, count, changes } = self;
        history.append(&lines, count)?;
        let applied = overlay.apply();
        drop(guard);
        if let Err(e) = applied {
            // Committed, but unknown to the catalogue: opened again, it takes it from the history.
            log::error!("the catalogue failed in a commit: {e}");
            store.recover(&mut history)?;
        }
        Ok(changes)
    }
}

/// A store in which nobody else commits, with its history and its catalogue, both sound.
pub(crate) struct Quiesced<'s> {
    pub(crate) history: MutexGuard<'s, History>,
    pub(crate) guard: ReadGuard,
}

impl Store {
    /// The right to write. What an earlier error left in the way is mended first.
    pub(crate) fn writer(&self) -> Result<Writer<'_>> {
        let Quiesced { history, guard } = self.quiesce()?;
        let overlay = Overlay::new(guard.shared());
        let (lines, count, changes) = (Vec::new(), 0, Changes::default());
        Ok(Writer { store: self, history, guard, overlay, lines, count, changes })
    }

    /// Has nobody commit as long as the result lives.
    pub(crate) fn quiesce(&self) -> Result<Quiesced<'_>> {
        debug_assert!(!has_read_guard(), "whoever waits for readers is one");
        let mut history = self.lock_history();
        self.recover(&mut history)?;
        let guard = self.slot.read_guard()?;
        Ok(Quiesced { history, guard })
    }

    /// The catalogue as it is now.
    pub(crate) fn catalogue(&self) -> Result<ReadGuard> {
        if matches!(self.slot.condition(), Condition::Failed)
            && !has_read_guard()
            // A writer sees to it itself.
            && let Some(mut history) = self.try_lock_history()
            && self.slot.is_due()
            && let Err(e) = self.recover(&mut history)
        {
            log::error!("the catalogue of {}: {e}", self.dir().display());
        }
        self.slot.read_guard()
    }

    /// Whether the catalogue failed, and is opened again by the next writer.
    pub(crate) fn catalogue_has_failed(&self) -> bool {
        self.slot.condition() == Condition::Failed
    }

    fn try_lock_history(&self) -> Option<MutexGuard<'_, History>> {
        match self.history.try_lock() {
            Ok(history) => Some(history),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// How many lines the history has.
    pub(crate) fn history_lines(&self) -> Result<u64> {
        self.lock_history().lines()
    }

    /// Has a history that can be written and a catalogue that holds all of it, or says why
    /// that can't be had.
    fn recover(&self, history: &mut History) -> Result<()> {
        // Readers need no history that can be written.
        let healed = history.heal();
        let recovered = match self.slot.condition() {
            Condition::Sound => {
                make_reserve(self.open_dir());
                Ok(())
            }
            Condition::Long => self.renew(history),
            // It serves, and is not to be lost in the attempt.
            Condition::Copy => {
                check_writable(&self.open_dir().through("")).and_then(|()| self.reopen(history))
            }
            Condition::Failed => self.reopen(history),
        };
        healed.and(recovered)
    }

    fn reopen(&self, history: &mut History) -> Result<()> {
        self.slot.replace(self.open_dir(), history, false, REOPEN_TIMEOUT)
    }

    /// Opens the catalogue again, though nothing is wrong with it, if that is no trouble now.
    fn renew(&self, history: &mut History) -> Result<()> {
        if !self.slot.is_unused() || check_free_space(self.open_dir(), RESERVE_SIZE).is_err() {
            return Ok(());
        }
        match self.slot.replace(self.open_dir(), history, false, Duration::ZERO) {
            Err(Error::NoCatalogue) => Ok(()),
            result => result,
        }
    }

    /// Has a copy of the catalogue that was made beside it take its place; false if somebody reads
    /// that all the time.
    pub(crate) fn take_copy(&self, history: &mut History) -> Result<bool> {
        match self.slot.replace(self.open_dir(), history, true, COPY_TIMEOUT) {
            Err(Error::NoCatalogue) => Ok(false),
            result => result.map(|()| true),
        }
    }
}
