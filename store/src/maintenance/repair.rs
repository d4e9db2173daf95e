//! Repairing a store that nobody has open. Nothing is deleted: what is damaged
//! is moved aside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::findings::{Finding, FindingKind, Verified};
use super::permissions::too_open;
use super::rescue::{Rescued, keep_aside, rescue};
use crate::disk::Lock;
use crate::disk::names::{HISTORY, QUARANTINE};
use crate::error::{IoContext, Result};
use crate::store::Store;

/// Repairs what `verified` found in the store in `dir`, and notes at each finding what was done.
pub fn repair(dir: &Path, verified: &mut Verified) -> Result<()> {
    let lock = Lock::take(dir)?;
    repair_permissions(dir, verified)?;
    let mut history_damaged = None;
    for finding in &mut verified.findings {
        match finding.kind {
            FindingKind::History => history_damaged = Some(finding),
            FindingKind::Catalogue => Store::distrust_catalogue(dir),
            _ => {}
        }
    }
    let mut lock = Some(lock);
    if let Some(finding) = history_damaged {
        // The catalogue may know everything all the same.
        let opened = lock.take().map(|lock| Store::open_locked(dir, lock));
        match opened {
            Some(Ok(store)) => {
                let aside = keep_aside(&dir.join(HISTORY))?;
                store.write_history_anew()?;
                finding.repaired = Some(format!(
                    "written anew from the catalogue, which has all of it; the old one is {}",
                    aside.display()
                ));
                store.close()?;
            }
            _ => {
                lock = Some(Lock::take(dir)?);
                let Rescued { aside, lost, kept } = rescue(dir)?;
                finding.repaired = Some(format!(
                    "written anew from {kept} changes that can be read; the old one is {}",
                    aside.display()
                ));
                finding.lost = lost > 0;
                finding.detail = format!("{}; {lost} changes are lost", finding.detail);
            }
        }
    }
    let lock = lock.map_or_else(|| Lock::take(dir), Ok)?;
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

fn repair_permissions(dir: &Path, verified: &mut Verified) -> Result<()> {
    for (path, mode) in too_open(dir)? {
        let mended = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        let place = path.display().to_string();
        for finding in &mut verified.findings {
            if finding.kind == FindingKind::Permissions && finding.place == place {
                finding.repaired = match &mended {
                    Ok(()) => Some(format!("its mode is {mode:o}")),
                    Err(_) => None,
                };
            }
        }
    }
    Ok(())
}

/// Moves a damaged object file out of the way, so that publishing the same bytes again mends it.
fn quarantine(dir: &Path, finding: &mut Finding) -> Result<()> {
    let object = PathBuf::from(&finding.place);
    let name = object.file_name().unwrap_or_default();
    if finding.kind != FindingKind::PayloadDamaged || !object.starts_with(dir) {
        finding.repaired = Some("nothing could be done; publish it again".into());
        return Ok(());
    }
    let quarantine = dir.join(QUARANTINE);
    fs::create_dir_all(&quarantine).at("making", &quarantine)?;
    fs::set_permissions(&quarantine, fs::Permissions::from_mode(0o700))
        .at("protecting", &quarantine)?;
    let to = quarantine.join(name);
    fs::rename(&object, &to).at("renaming", &object)?;
    finding.repaired = Some(format!("moved to {}; publish it again", to.display()));
    Ok(())
}
