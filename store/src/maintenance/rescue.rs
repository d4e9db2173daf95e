//! Making a history anew from the lines that can be read, when neither it nor the catalogue is
//! whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::rescuer::Rescuer;
use super::rules::check_change;
use crate::catalogue::tables::Applied;
use crate::catalogue::{Catalogue, Records, bring_inside, catch_panic, put_in_place_of};
use crate::disk::Dir;
use crate::disk::names::{CATALOGUE, HISTORY, NEW_CATALOGUE, NEW_HISTORY, damaged_aside};
use crate::error::{IoContext, Result};
use crate::gc::write_snapshot;
use crate::history::{Change, LogEntry, scan};
use crate::payload::Objects;
use crate::settings::raise_format;
use crate::state::{is_trusted, note_closed};
use crate::types::{Inode, Sequence};

/// Inode numbers that are left out when nobody knows which were given.
const LOST_INODES: u64 = 1 << 20;

/// What came of a rescue.
pub(super) struct Rescued {
    /// Where the old history is.
    pub(super) aside: PathBuf,
    /// How many changes are lost.
    pub(super) lost: u64,
    /// How many are kept.
    pub(super) kept: u64,
}

/// Gives the history, which is about to be replaced, another name as well.
pub(super) fn keep_aside(dir: &Dir) -> Result<PathBuf> {
    let aside = damaged_aside(HISTORY);
    dir.link(Path::new(HISTORY), Path::new(&aside))?;
    Ok(dir.named(aside))
}

/// Makes a history of every line that can be read, on top of what the catalogue knows, if that
/// can be trusted.
/// If it is interrupted it can be done again: what there was is moved aside at the end.
pub(super) fn rescue(dir: &Dir) -> Result<Rescued> {
    let mut old = match dir.has(CATALOGUE)? {
        // An error that says nothing of what the catalogue is may be gone the next time.
        true => match catch_panic(|| Catalogue::open(&dir.through(CATALOGUE))) {
            Ok(Err(e)) if e.is_unwritable() => return Err(e),
            Ok(old) => old.ok(),
            Err(_) => None,
        },
        false => None,
    };
    if is_trusted(dir)
        && let Some(catalogue) = old.take()
    {
        match catch_panic(|| is_readable(&catalogue)) {
            Ok(Ok(())) => {
                let catalogue = Arc::new(catalogue);
                return rescue_onto(dir, catalogue, None);
            }
            Ok(Err(e)) if e.is_unwritable() => return Err(e),
            _ => old = Some(catalogue),
        }
    }
    dir.remove_dir(NEW_CATALOGUE)?;
    dir.make_dir(NEW_CATALOGUE)?;
    let catalogue = Arc::new(Catalogue::open(&dir.through(NEW_CATALOGUE))?);
    let rescued = rescue_onto(dir, catalogue, old)?;
    put_in_place_of(dir, &damaged_aside(CATALOGUE))?;
    note_closed(dir)?;
    Ok(rescued)
}

/// Applies to `catalogue` what it lacks and can be read, closes it, and puts a history of all that
/// in place.
fn rescue_onto(dir: &Dir, catalogue: Arc<Catalogue>, old: Option<Catalogue>) -> Result<Rescued> {
    // Payloads whose lines are lost get such as are written now.
    raise_format(dir)?;
    let known = catalogue.applied()?.seq;
    let next_inode = catalogue.applied()?.next_inode;
    let mut rescuer =
        Rescuer { objects: Objects::open_read_only(dir)?, old, next_inode, catalogue };
    // Numbers that are given anew are given to nothing that any line names.
    let mut lines = Lines::default();
    salvage(dir, |entry| {
        if let Ok(entry) = &entry {
            rescuer.next_inode = rescuer.next_inode.max(largest_inode(&entry.change).next());
        }
        lines.count(entry.map(|entry| entry.seq.get()).ok());
    })?;
    if known == Sequence(0) {
        // A snapshot has its directories last, and they are needed before.
        salvage(dir, |entry| {
            if let Ok(entry @ LogEntry { change: Change::Directory { .. }, .. }) = entry
                && let Err(e) = rescuer.commit(&entry)
            {
                log::error!("change {} can't be rescued: {e}", entry.seq);
            }
        })?;
    }
    let mut kept = 0;
    salvage(dir, |entry| match entry {
        Ok(entry) if entry.seq <= known => {}
        Ok(entry) => match rescuer.apply(&entry) {
            Ok(()) => kept += 1,
            Err(e) => log::error!("change {} can't be rescued: {e}", entry.seq),
        },
        Err(reason) => log::error!("a line of the history is left out: {reason}"),
    })?;
    let last = (lines.last + lines.unreadable_at_end).max(known.get());
    let wanted = last - lines.before_first().max(known.get()).min(last);
    let mut lost = wanted.saturating_sub(kept);
    let Rescuer { catalogue, mut next_inode, old, .. } = rescuer;
    if known == Sequence(0) {
        lost += bring_inside(&catalogue, old.as_ref(), dir)?;
    }
    // What is damaged may panic while it is closed.
    let _ = catch_panic(|| drop(old));
    if lost > 0 {
        // What is lost may have been given numbers that no line tells of any more.
        next_inode.0 += LOST_INODES;
    }
    catalogue.note_applied(&Applied { seq: Sequence(last), next_inode, ..catalogue.applied()? })?;
    let file = dir.new_file(NEW_HISTORY)?;
    let end = write_snapshot(&catalogue, &file, Sequence(last))?;
    file.sync_all().at("syncing", &dir.named(NEW_HISTORY))?;
    let (seq, history_len) = (end.seq, end.len);
    catalogue.note_applied(&Applied { seq, history_len, ..catalogue.applied()? })?;
    if let Some(catalogue) = Arc::into_inner(catalogue) {
        catalogue.close()?;
    }
    let aside = keep_aside(dir)?;
    dir.rename(NEW_HISTORY, HISTORY)?;
    dir.sync()?;
    Ok(Rescued { aside, lost, kept: known.get() + kept })
}

/// Hands every line of the history in `dir` to `each`: the change, or why it is left out.
fn salvage(dir: &Dir, mut each: impl FnMut(std::result::Result<LogEntry, String>)) -> Result<()> {
    scan::salvage(dir, |entry| {
        each(entry.and_then(|entry| check_change(&entry.change).map(|()| entry)));
    })
}

/// Whether every record of a catalogue can be read.
fn is_readable(catalogue: &Catalogue) -> Result<()> {
    catalogue.applied()?;
    catalogue.content()?;
    let mut after = Vec::new();
    while let Some((last, _)) = catalogue.page(after, 1000)?.last() {
        after = [&last[..], b"\0"].concat();
    }
    Ok(())
}

/// Which sequence numbers a damaged history has.
#[derive(Default)]
struct Lines {
    first: Option<u64>,
    unreadable_before_first: u64,
    last: u64,
    unreadable_at_end: u64,
}

impl Lines {
    fn count(&mut self, seq: Option<u64>) {
        match seq {
            Some(seq) => {
                self.first.get_or_insert(seq);
                self.last = self.last.max(seq);
                self.unreadable_at_end = 0;
            }
            None if self.first.is_none() => self.unreadable_before_first += 1,
            None => self.unreadable_at_end += 1,
        }
    }

    /// The number before that of the first line, readable or not.
    fn before_first(&self) -> u64 {
        self.first.map_or(0, |first| first - 1).saturating_sub(self.unreadable_before_first)
    }
}

fn largest_inode(change: &Change) -> Inode {
    match change {
        Change::Publish { inode, directories, .. } => {
            directories.iter().map(|d| d.inode).max().unwrap_or_default().max(*inode)
        }
        Change::Snapshot { next_inode, .. } => Inode(next_inode.get() - 1),
        Change::Engine { inode, .. }
        | Change::Alias { inode, .. }
        | Change::Link { inode, .. }
        | Change::Version { inode, .. } => *inode,
        Change::Directory { directory } => directory.inode,
        _ => Inode(0),
    }
}
