//! Verifying a store: history, catalogue and payloads against each other.
//!
//! The history is the truth that the rest is checked against: a catalogue of
//! its own is made from it, beside, and compared record by record with the
//! one in use, which may belong to a server that goes on meanwhile.

use std::path::Path;

use super::compare::compare;
use super::findings::{Finding, FindingKind, Verified};
use super::live::Live;
use super::payloads::{Course, check_orphans, check_payloads};
use super::permissions::check_permissions;
use crate::catalogue::from_history;
use crate::disk::names::{CATALOGUE, HISTORY};
use crate::disk::temp_dir;
use crate::error::{Error, IoContext, Result};
use crate::history::History;
use crate::payload::Objects;

/// How often verification starts over when the history is compacted under it.
const VERIFY_ATTEMPTS: usize = 3;

/// Verifies the store in `dir`. Its catalogue in use is `live`, or it can't be opened for this
/// reason. Nothing is changed.
pub fn verify<L: Live>(
    dir: &Path,
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

/// Nothing, if the history was compacted meanwhile.
fn attempt<L: Live>(
    dir: &Path,
    live: std::result::Result<&L, &Error>,
    course: &mut Course<'_>,
) -> Result<Option<Verified>> {
    let mut verified = Verified::default();
    check_permissions(dir, &mut verified)?;
    let path = dir.join(HISTORY);
    let place = temp_dir(dir, path.metadata().at("reading", &path)?.len())?;
    let mut history = History::open_read_only(&path)?;
    let truth = match from_history(place.path(), &mut history) {
        Ok(truth) => truth,
        Err(e @ Error::HistoryDamaged { .. }) => {
            verified.findings.push(Finding::new(FindingKind::History, path.display(), e));
            return Ok(Some(verified));
        }
        Err(e) => return Err(e),
    };
    verified.changes = history.lines()?;
    let objects = Objects::open_read_only(dir);
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
            let place = dir.join(CATALOGUE);
            verified.findings.push(Finding::new(FindingKind::Catalogue, place.display(), e));
        }
    }
    Ok(Some(verified))
}
