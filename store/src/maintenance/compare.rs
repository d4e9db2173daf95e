//! Comparing the catalogue in use with one that was made from the history.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::findings::{Finding, FindingKind, Verified};
use super::live::{Live, Record};
use crate::catalogue::tables::PAYLOADS;
use crate::catalogue::{Catalogue, catch_up};
use crate::disk::Dir;
use crate::disk::names::CATALOGUE;
use crate::error::{Error, Result};
use crate::history::History;
use crate::types::Sequence;

/// How often what differs is looked at again, since commits go on meanwhile.
const COMPARISONS: usize = 5;
/// How many records that differ are looked at again.
const COMPARED_AGAIN: usize = 200;

/// Compares the catalogue in use with the truth; false if the history was compacted meanwhile.
pub(super) fn compare<L: Live>(
    dir: &Dir,
    truth: Arc<Catalogue>,
    live: &L,
    verified: &mut Verified,
) -> Result<bool> {
    // Those that are looked at again; the others are counted.
    let mut differing: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut others = 0u64;
    let mut note = |key: &[u8]| match differing.len() < COMPARED_AGAIN {
        true => drop(differing.insert(key.to_vec())),
        false => others += 1,
    };
    let mut ours = Pages { after: None, page: Vec::new().into_iter() };
    let mut theirs = Pages { after: None, page: Vec::new().into_iter() };
    let mut our = ours.next(&*truth)?;
    let mut their = match theirs.next(live) {
        Ok(their) => their,
        Err(e) => return unreadable(dir, &e, verified),
    };
    while our.is_some() || their.is_some() {
        let order = match (&our, &their) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (None, _) => std::cmp::Ordering::Greater,
            (_, None) => std::cmp::Ordering::Less,
        };
        if order.is_eq() && our != their || order.is_gt() {
            their.iter().for_each(|(key, _)| note(key));
        } else if order.is_lt() && !our.as_ref().is_some_and(is_inside) {
            our.iter().for_each(|(key, _)| note(key));
        }
        if order.is_le() {
            our = ours.next(&*truth)?;
        }
        if order.is_ge() {
            verified.records += 1;
            their = match theirs.next(live) {
                Ok(their) => their,
                Err(e) => return unreadable(dir, &e, verified),
            };
        }
    }
    // What was committed meanwhile is in the history by now.
    for _ in 0..COMPARISONS {
        if differing.is_empty() && others == 0 {
            return Ok(true);
        }
        if differing.is_empty() {
            // So much was committed that it is quicker to start over.
            return Ok(false);
        }
        let mut history = History::open_read_only(dir)?;
        match catch_up(&truth, &mut history, Sequence(0)) {
            Ok(()) => {}
            Err(Error::Inconsistent(_)) => return Ok(false),
            Err(e) => return Err(e),
        }
        for key in differing.clone() {
            let mut before = key.clone();
            before.pop();
            let mut found = None;
            let mut after = Some(before);
            while let Some(at) = after.take() {
                let page = match live.page(Some(&at)) {
                    Ok(page) => page,
                    Err(e) => return unreadable(dir, &e, verified),
                };
                match page.last() {
                    Some((last, _)) if *last < key => after = Some(last.clone()),
                    _ => found = page.into_iter().find(|(at, _)| *at == key).map(|(_, v)| v),
                }
            }
            if value_in(&truth, &key)? == found {
                differing.remove(&key);
            }
        }
    }
    if let Some(key) = differing.first() {
        let detail = format!(
            "{} records differ from the history; the first is {:?}",
            differing.len() as u64 + others,
            String::from_utf8_lossy(key)
        );
        let place = dir.named(CATALOGUE);
        verified.findings.push(Finding::new(FindingKind::Catalogue, place.display(), detail));
    }
    Ok(true)
}

/// The value of a record of the truth.
fn value_in(truth: &Catalogue, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let page = truth.page(key.to_vec(), 1)?;
    Ok(page.into_iter().next().filter(|(found, _)| found == key).map(|(_, value)| value))
}

/// Notes that the catalogue in use can't be read.
fn unreadable(dir: &Dir, e: &dyn std::fmt::Display, verified: &mut Verified) -> Result<bool> {
    let place = dir.named(CATALOGUE);
    let detail = format!("it can't be read: {e}");
    verified.findings.push(Finding::new(FindingKind::Catalogue, place.display(), detail));
    Ok(true)
}

/// Whether a record is that of a payload kept inside the catalogue: lost with an old one, it is
/// missing in the new, and was found to be.
fn is_inside((key, value): &Record) -> bool {
    let row = PAYLOADS.row(key, value);
    row.is_some_and(|row| row.value().is_ok_and(|record| record.inline))
}

/// Goes through records page by page.
struct Pages {
    after: Option<Vec<u8>>,
    page: std::vec::IntoIter<Record>,
}

impl Pages {
    fn next<L: Live>(&mut self, live: &L) -> std::result::Result<Option<Record>, L::Error> {
        if self.page.len() == 0 {
            self.page = live.page(self.after.as_deref())?.into_iter();
        }
        let next = self.page.next();
        if let Some((key, _)) = &next {
            self.after = Some(key.clone());
        }
        Ok(next)
    }
}
