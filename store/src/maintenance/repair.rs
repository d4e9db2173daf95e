//! Repairing a store that nobody has open. Nothing is deleted: what is damaged
//! is moved aside.

use std::path::Path;

use super::findings::{Finding, FindingKind, Verified};
use super::rescue::{Rescued, keep_aside, rescue};
use super::rules::check_catalogue;
use crate::catalogue::from_history;
use crate::disk::names::QUARANTINE;
use crate::disk::temp_dir;
use crate::error::Result;
use crate::history::History;
use crate::store::Store;
use crate::store_dir::StoreDir;

/// Repairs what `verified` found in the store in `dir`, and notes at each finding what was done.
pub fn repair(dir: &StoreDir, verified: &mut Verified) -> Result<()> {
    let lock = dir.lock()?;
    let mut history_damaged = None;
    let breaks_rules = verified.findings.iter().any(|found| found.kind == FindingKind::Rules);
    if breaks_rules {
        // The catalogue has what breaks them.
        Store::distrust_catalogue(dir);
    }
    for finding in &mut verified.findings {
        match finding.kind {
            FindingKind::History | FindingKind::Rules => history_damaged = Some(finding),
            FindingKind::Catalogue => Store::distrust_catalogue(dir),
            _ => {}
        }
    }
    let mut lock = Some(lock);
    if let Some(finding) = history_damaged {
        // The catalogue may know everything all the same.
        let opened = match breaks_rules {
            true => None,
            false => lock.take().map(|lock| Store::open_locked(dir, lock)),
        };
        match opened {
            Some(Ok(store)) => {
                let aside = keep_aside(dir)?;
                store.write_history_anew()?;
                finding.repaired = Some(format!(
                    "written anew from the catalogue, which has all of it; the old one is {}",
                    aside.display()
                ));
                store.close()?;
            }
            _ => {
                lock = Some(lock.take().map_or_else(|| dir.lock(), Ok)?);
                let Rescued { aside, lost, kept } = rescue(dir)?;
                finding.lost = lost > 0;
                finding.detail = format!("{}; {lost} changes are lost", finding.detail);
                match broken_rule(dir)? {
                    None => {
                        finding.repaired = Some(format!(
                            "written anew from {kept} changes that can be read; the old one is {}",
                            aside.display()
                        ));
                    }
                    // Each of its lines makes sense, and not all of them together.
                    Some(rule) => finding.detail = format!("{}; {rule}", finding.detail),
                }
            }
        }
    }
    let lock = lock.map_or_else(|| dir.lock(), Ok)?;
    let store = Store::open_locked(dir, lock)?;
    for finding in &mut verified.findings {
        match finding.kind {
            FindingKind::Catalogue => {
                finding.repaired = Some("rebuilt from the history".into());
            }
            FindingKind::PayloadDamaged | FindingKind::PayloadMissing => {
                finding.lost = true;
                quarantine(dir, finding)?;
            }
            _ => {}
        }
    }
    store.close()
}

/// The rule that the history of the store in `dir` breaks as a whole, if it does.
fn broken_rule(dir: &StoreDir) -> Result<Option<String>> {
    let place = temp_dir(dir, 0)?;
    check_catalogue(&*from_history(place.path(), &mut History::open_read_only(dir)?)?)
}

/// Moves a damaged object file out of the way, so that publishing the same bytes again mends it.
fn quarantine(dir: &StoreDir, finding: &mut Finding) -> Result<()> {
    let place = Path::new(&finding.place);
    let name = place.file_name().unwrap_or_default();
    let within = place.strip_prefix(dir.path());
    let (FindingKind::PayloadDamaged, Ok(within)) = (finding.kind, within) else {
        finding.repaired = Some("nothing could be done; publish it again".into());
        return Ok(());
    };
    dir.make_dir(QUARANTINE)?;
    let to = Path::new(QUARANTINE).join(name);
    dir.subdir(QUARANTINE)?;
    dir.rename(within, &to)?;
    finding.repaired = Some(format!("moved to {}; publish it again", dir.named(to).display()));
    Ok(())
}
