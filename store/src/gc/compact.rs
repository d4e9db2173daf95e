//! Compaction: the history written anew, as what all its lines came to; and the
//! catalogue copied, when the database keeps too much room for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::snapshot::write_snapshot;
use crate::catalogue::tables::{
    ALIASES, Applied, ENGINES, INODES, KEYS, KeyLayout, PAYLOADS, Span, ValueLayout,
};
use crate::catalogue::{Catalogue, Records, catch_up, from_history, is_too_large};
use crate::disk::names::{CATALOGUE, HISTORY, NEW_CATALOGUE};
use crate::disk::space::check_free_space;
use crate::disk::temp_dir;
use crate::error::{IoContext, Result};
use crate::history::{End, History};
use crate::store::{Quiesced, Store};
use crate::types::Sequence;

/// A history is compacted if at most one line in so many is left.
const WORTHWHILE: u64 = 2;
/// Shorter histories are left alone: readable files of a few seconds of publishing.
const SHORT: u64 = 1000;

/// What compaction did, of the history or of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// The length before, in bytes.
    pub before: u64,
    /// After.
    pub after: u64,
}

impl Store {
    /// Writes the history anew, as what its lines came to, if much of it is about what is gone, or
    /// if it is `wanted` anyway. Puts the new one in the old one's place atomically. Every kernel
    /// cache has to know of change number `told`, and nothing may have happened since; else nothing
    /// is done.
    ///
    /// What the lines come to is found out anew: should the catalogue have lost records, they are
    /// not lost to the history as well.
    pub fn compact(&self, told: Sequence, wanted: bool) -> Result<Option<Compacted>> {
        self.compact_if(&|last| last == told, wanted)
    }

    /// The same, if `is_told` says of the last change that every kernel cache knows of it; it is
    /// asked with the right to write.
    pub fn compact_if(
        &self,
        is_told: &dyn Fn(Sequence) -> bool,
        wanted: bool,
    ) -> Result<Option<Compacted>> {
        let lines = self.history_lines()?;
        if !wanted && !is_worthwhile(&*self.catalogue()?, lines)? {
            return Ok(None);
        }
        let dir = self.open_dir();
        let size = dir.metadata(HISTORY)?.map_or(0, |found| found.st_size.unsigned_abs());
        let place = temp_dir(dir, size)?;
        let truth = from_history(place.path(), &mut History::open_read_only(dir)?)?;
        // Most of what was committed meanwhile, and the rest while nobody commits.
        catch_up(&truth, &mut History::open_read_only(dir)?, Sequence(0))?;
        let mut quiesced = self.quiesce()?;
        catch_up(&truth, &mut History::open_read_only(dir)?, Sequence(0))?;
        let last = quiesced.history.end().seq;
        if !is_told(last) || truth.applied()?.seq != last {
            return Ok(None);
        }
        put_snapshot(&mut quiesced.history, &truth, &quiesced.guard).map(Some)
    }

    /// Writes the history anew as what the catalogue has, which is trusted to have all of it.
    pub(crate) fn write_history_anew(&self) -> Result<Compacted> {
        let Quiesced { mut history, guard } = self.quiesce()?;
        put_snapshot(&mut history, &guard, &guard)
    }

    /// Copies the catalogue if that leaves much less of it on the disk: the database gives nothing
    /// back. Readers wait for the moment in which the copy is opened.
    pub fn shrink(&self) -> Result<Option<Compacted>> {
        let Quiesced { mut history, guard: catalogue } = self.quiesce()?;
        let before = size_of(catalogue.path())?;
        let content = catalogue.content()?;
        if !is_too_large(before, content) {
            return Ok(None);
        }
        let dir = self.open_dir();
        check_free_space(dir, content.saturating_mul(2))?;
        dir.remove_dir(NEW_CATALOGUE)?;
        dir.make_dir(NEW_CATALOGUE)?;
        catalogue.copy_to(&dir.through(NEW_CATALOGUE))?;
        drop(catalogue);
        if !self.take_copy(&mut history)? {
            return Ok(None);
        }
        let after = size_of(&dir.through(CATALOGUE))?;
        Ok(Some(Compacted { before, after }))
    }
}

/// How much disk a directory of files takes, in bytes.
fn size_of(dir: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir).at("reading", dir)? {
        let metadata = entry.and_then(|entry| entry.metadata()).at("reading", dir)?;
        size += metadata.blocks() * 512;
    }
    Ok(size)
}

fn is_worthwhile(catalogue: &Catalogue, lines: u64) -> Result<bool> {
    if lines < SHORT {
        return Ok(false);
    }
    let limit = lines / WORTHWHILE;
    let rows = count(catalogue, &INODES.all(), limit)?;
    let rows = rows + count(catalogue, &KEYS.all(), limit)?;
    let rows = rows + count(catalogue, &PAYLOADS.all(), limit)?;
    let rows = rows + count(catalogue, &ENGINES.all(), limit)?;
    Ok(rows + count(catalogue, &ALIASES.all(), limit)? <= limit)
}

/// Puts a snapshot of `truth` in the history's place, and notes in the catalogue in use, `live`,
/// that it has all of it.
fn put_snapshot(history: &mut History, truth: &Catalogue, live: &Catalogue) -> Result<Compacted> {
    let End { len: before, seq: last } = history.end();
    let file = history.new_file()?;
    // Half a file has no use.
    let end = write_snapshot(truth, &file, last).inspect_err(|_| history.drop_new_file())?;
    let applied = Applied { seq: end.seq, history_len: end.len, ..live.applied()? };
    history.replace(file, end)?;
    // Should this be lost, opening finds out: the snapshot stands for what was applied.
    live.note_applied(&applied)?;
    Ok(Compacted { before, after: end.len })
}

/// How many rows of some there are, counted to just over `limit`.
fn count<K: KeyLayout, V: ValueLayout>(
    catalogue: &Catalogue,
    span: &Span<K, V>,
    limit: u64,
) -> Result<u64> {
    let mut rows = 0;
    for row in catalogue.scan(span) {
        row?;
        rows += 1;
        if rows > limit {
            break;
        }
    }
    Ok(rows)
}
