//! Bringing a catalogue up to the history.

use std::path::Path;
use std::sync::Arc;

use super::apply::apply;
use super::database::catch_panic;
use super::handle::Catalogue;
use super::overlay::Overlay;
use super::read::Records;
use crate::error::{Error, Result};
use crate::history::{End, History, LogEntry};
use crate::types::Sequence;

/// Changes applied with one hand-over while replaying, and bytes of the history.
const REPLAY_GROUP: (usize, u64) = (256, 1 << 20);

/// Applies what the history has and the catalogue lacks. Lines up to `acknowledged` must be there.
pub(crate) fn catch_up(
    catalogue: &Arc<Catalogue>,
    history: &mut History,
    acknowledged: Sequence,
) -> Result<()> {
    let mut applied = catalogue.applied()?;
    if let Some(End { len, seq }) = history.snapshot_of(applied.seq)? {
        // The history was compacted, and this is what it was compacted from.
        (applied.history_len, applied.seq) = (len, seq);
        catalogue.note_applied(&applied)?;
    }
    if !history.has_line_ending_at(applied.history_len, applied.seq)? {
        return Err(Error::Inconsistent(format!(
            "the history has no line {} where the catalogue saw it",
            applied.seq
        )));
    }
    let mut pending: Vec<(LogEntry, u64)> = Vec::new();
    let hand_over = |pending: &mut Vec<(LogEntry, u64)>| -> Result<()> {
        let mut overlay = Overlay::new(catalogue);
        for (entry, len) in pending.drain(..) {
            apply(&mut overlay, &entry, len)?;
        }
        overlay.apply()
    };
    let mut handed_over = applied.history_len;
    history.replay(applied.history_len, applied.seq, acknowledged, |entry, len| {
        pending.push((entry.clone(), len));
        if pending.len() < REPLAY_GROUP.0 && len - handed_over < REPLAY_GROUP.1 {
            return Ok(());
        }
        handed_over = len;
        hand_over(&mut pending)
    })?;
    hand_over(&mut pending)
}

/// A catalogue of the history alone, in an empty directory of its own.
pub(crate) fn from_history(place: &Path, history: &mut History) -> Result<Arc<Catalogue>> {
    let made = catch_panic(|| {
        let new = Arc::new(Catalogue::open(place)?);
        catch_up(&new, history, Sequence(0))?;
        Ok(new)
    });
    made.unwrap_or_else(|panic| Err(Error::Inconsistent(panic)))
}
