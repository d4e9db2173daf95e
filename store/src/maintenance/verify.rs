//! Verifying a store: history, catalogue and payloads against each other.
//!
//! The history is the truth that the rest is checked against: a catalogue of
//! its own is made from it, beside, and compared record by record with the
//! one in use, which may belong to a server that goes on meanwhile.

use super::compare::compare;
use super::findings::{Finding, FindingKind, Verified};
use super::live::Live;
use super::payloads::{Course, check_orphans, check_payloads};
use super::permissions::check_permissions;
use super::rules::{check_catalogue, check_change};
use crate::catalogue::from_history;
use crate::disk::names::{CATALOGUE, HISTORY};
use crate::disk::temp_dir;
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::scan::salvage;
use crate::payload::Objects;
use crate::store_dir::StoreDir;

/// How often verification starts over when the history is compacted under it.
const VERIFY_ATTEMPTS: usize = 3;

/// Verifies the store in `dir`. Its catalogue in use is `live`, or it can't be opened for this
/// reason. Nothing is changed.
pub fn verify<L: Live>(
    dir: &StoreDir,
    live: std::result::Result<&L, &Error>,
    course: &mut Course<'_>,
) -> Result<Verified> {
    for _ in 1..VERIFY_ATTEMPTS {
        if let Some(verified) = attempt(dir, live, course)? {
            return Ok(verified);
        }
    }
    attempt(dir, live, course)?
        .ok_or_else(|| Error::Inconsistent("the history is compacted again and again".into()))
}

/// The first line that breaks a rule, and which one.
fn broken_line(dir: &StoreDir) -> Result<Option<String>> {
    let mut broken = None;
    salvage(dir, |entry| {
        if let Ok(entry) = entry
            && let Err(rule) = check_change(&entry.change)
        {
            broken.get_or_insert_with(|| format!("line {}: {rule}", entry.seq));
        }
    })?;
    Ok(broken)
}

/// Nothing, if the history was compacted meanwhile.
fn attempt<L: Live>(
    dir: &StoreDir,
    live: std::result::Result<&L, &Error>,
    course: &mut Course<'_>,
) -> Result<Option<Verified>> {
    let mut verified = Verified::default();
    check_permissions(dir, &mut verified)?;
    let path = dir.named(HISTORY);
    let len = dir.metadata(HISTORY)?.map_or(0, |found| found.st_size.unsigned_abs());
    let place = temp_dir(dir, len)?;
    let mut history = History::open_read_only(dir)?;
    let broken = broken_line(dir)?;
    let breaks =
        |rule: &dyn std::fmt::Display| Finding::new(FindingKind::Rules, path.display(), rule);
    let truth = match from_history(place.path(), &mut history) {
        Ok(truth) => truth,
        // Its lines can be read, and come to nothing.
        Err(e @ Error::Inconsistent(_)) => {
            let found = broken.as_ref().map_or_else(|| breaks(&e), |broken| breaks(broken));
            verified.findings.push(found);
            return Ok(Some(verified));
        }
        Err(e @ Error::HistoryDamaged { .. }) => {
            verified.findings.push(Finding::new(FindingKind::History, path.display(), e));
            return Ok(Some(verified));
        }
        Err(e) => return Err(e),
    };
    verified.changes = history.lines()?;
    let broken = broken.map_or_else(|| check_catalogue(&truth), |broken| Ok(Some(broken)))?;
    verified.findings.extend(broken.map(|broken| breaks(&broken)));
    let objects = Objects::open_read_only(dir)?;
    check_payloads(&objects, &truth, live.ok(), course, &mut verified)?;
    check_orphans(&objects, &truth, &mut verified)?;
    match live {
        Ok(live) => {
            if !compare(dir, truth, live, &mut verified)? {
                return Ok(None);
            }
        }
        // It ends too early: the catalogue has more of it.
        Err(e @ Error::HistoryDamaged { path, .. }) => {
            verified.findings.push(Finding::new(FindingKind::History, path.display(), e));
        }
        Err(e) => {
            let place = dir.named(CATALOGUE);
            verified.findings.push(Finding::new(FindingKind::Catalogue, place.display(), e));
        }
    }
    Ok(Some(verified))
}
