//! Going back to earlier versions, and taking names away.

use serde::{Deserialize, Serialize};

use crate::catalogue::records::*;
use crate::catalogue::{Changes, Records, Txn, live_versions};
use crate::error::{Error, Result};
use crate::history::log::Change;
use crate::payload::staging::PayloadOf;
use crate::store::open::Store;
use crate::store::publish::{Contents, Published, check_conflicts, plan_version};
use crate::types::key::Key;

/// What came of a removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The key.
    pub key: Key,
    /// The versions whose names are gone.
    pub versions: Vec<u64>,
    /// The version that the plain name serves now, if any.
    pub now_serves: Option<u64>,
}

impl Store {
    /// Publishes the payload of an earlier version again: of `version`, or of
    /// the one before the version that the plain name serves. Rolling back
    /// twice goes back two versions.
    pub fn rollback(&self, key: &Key, version: Option<u64>) -> Result<(Published, Changes)> {
        let (mut writer, mut planned) = self.begin()?;
        let mut changes = Changes::default();
        let target = match version {
            Some(version) => {
                planned
                    .txn
                    .version(key.as_str(), version)?
                    .ok_or_else(|| Error::NoVersion { key: key.clone(), version })?
                    .1
            }
            None => version_before_current(&planned.txn, key)?,
        };
        check_conflicts(&planned.txn, key)?;
        let payload = planned.txn.payload(&target.sha256)?;
        let here = |record| self.has_payload(&planned.txn, &PayloadOf::new(&target.sha256, record));
        if !payload.as_ref().map_or(Ok(false), here)? {
            return Err(Error::PayloadDamaged {
                sha256: target.sha256.hex(),
                reason: "its bytes are missing or damaged".into(),
            });
        }
        let contents = Contents {
            sha256: target.sha256,
            size: target.size,
            engine: target.engine,
            rollback_of: Some(target.rollback_of.unwrap_or(target.version)),
            source: target.source,
            producer: target.producer,
        };
        let (status, inode) =
            plan_version((&mut planned, &writer), key, contents, false, &mut changes)?;
        self.commit(&mut writer, planned)?;
        Ok((self.published(key, inode, status)?, changes))
    }

    /// Takes away the names of one version of a key, or of all. The bytes stay
    /// for whoever uses them, and numbers are not given again.
    pub fn remove(&self, key: &Key, version: Option<u64>) -> Result<(Removed, Changes)> {
        let (mut writer, mut planned) = self.begin()?;
        let live = live_versions(&planned.txn, key.as_str())?;
        let versions = match version {
            None if live.is_empty() => return Err(Error::NoKey(key.clone())),
            None => live,
            Some(version) if live.contains(&version) => vec![version],
            Some(version) => return Err(Error::NoVersion { key: key.clone(), version }),
        };
        let changes = planned.add(&writer, Change::Remove { key: key.to_string(), version })?;
        let now_serves = planned
            .txn
            .number(&name_key(View::Keys, key.as_str(), 0))?
            .map(|inode| planned.txn.version_at(inode).map(|v| v.version))
            .transpose()?;
        self.commit(&mut writer, planned)?;
        Ok((Removed { key: key.clone(), versions, now_serves }, changes))
    }
}

/// The version to go back to from what the plain name serves.
fn version_before_current(txn: &Txn, key: &Key) -> Result<VersionRecord> {
    let name = key.as_str();
    let inode =
        txn.number(&name_key(View::Keys, name, 0))?.ok_or_else(|| Error::NoKey(key.clone()))?;
    let current = txn.version_at(inode)?;
    let origin = current.rollback_of.unwrap_or(current.version);
    for number in live_versions(txn, name)?.into_iter().rev().filter(|n| *n < origin) {
        if let Some((_, version)) = txn.version(name, number)?
            && version.engine == current.engine
            && version.sha256 != current.sha256
        {
            return Ok(version);
        }
    }
    Err(Error::NoEarlierVersion(key.clone()))
}
