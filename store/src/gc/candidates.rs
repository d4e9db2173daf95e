//! What of a store nothing in it keeps, and why the rest is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{PORTION_ROWS, PORTION_SIZE};
use crate::catalogue::Records;
use crate::catalogue::tables::{InodeRecord, KEYS, VERSIONS};
use crate::disk::clock::now;
use crate::error::{Error, Result};
use crate::settings::Policy;
use crate::store::Store;
use crate::types::{EngineNumber, Inode, Key, Sequence, Sha, Version};

/// Why the store keeps a version, or that it need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is the newest of its engine.
    Current,
    /// It is pinned.
    Pinned,
    /// It is among the newest that the policy keeps.
    Newest,
    /// It has not been superseded, or removed, for long enough.
    Recent,
    /// Nothing in the store keeps it.
    Free,
}

/// A version, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The name that it was published under.
    pub key: Key,
    /// Counted for its key; collected numbers are never given again.
    pub version: Version,
    /// What the kernel is asked by, whether anybody uses it.
    pub inode: Inode,
    /// Of its bytes; several versions may share them.
    pub sha256: Sha,
    /// The payload's size in bytes.
    pub size: u64,
    /// Whether its names were taken away.
    pub removed: bool,
    /// What becomes of it.
    pub fate: Fate,
}

/// Versions that nothing in the store keeps.
#[derive(Clone, Debug)]
pub struct Portion {
    /// The versions.
    pub candidates: Vec<Candidate>,
    /// The last change that this was found with.
    pub seen: Sequence,
    /// The key to go on after; nothing at the end.
    pub next: Option<String>,
}

impl Store {
    /// Some of the versions that nothing in the store keeps: of keys after `after`.
    pub fn collectable(&self, policy: &Policy, after: Option<&str>) -> Result<Portion> {
        let seen = self.last_change();
        let catalogue = self.catalogue()?;
        let keys = match after {
            Some(key) => KEYS.all().after(key),
            None => KEYS.all(),
        };
        let mut portion = Portion { candidates: Vec::new(), seen, next: None };
        let now = now();
        for (count, row) in catalogue.scan(&keys).enumerate() {
            let key = row?.key()?;
            let fates = fates(&*catalogue, &key, policy, now)?;
            portion.candidates.extend(fates.into_iter().filter(|c| c.fate == Fate::Free));
            if count + 1 >= PORTION_ROWS || portion.candidates.len() >= PORTION_SIZE {
                portion.next = Some(key);
                break;
            }
        }
        Ok(portion)
    }

    /// Every version of a key, oldest first, and what becomes of it.
    pub fn fates(&self, key: &Key, policy: &Policy) -> Result<Vec<Candidate>> {
        fates(&*self.catalogue()?, key.as_str(), policy, now())
    }

    /// The versions that are, or were compiled from, a payload.
    pub fn users(&self, sha256: &Sha) -> Result<Vec<(Key, Version)>> {
        let catalogue = self.catalogue()?;
        if catalogue.payload(sha256)?.is_none() {
            return Err(Error::NoPayload(*sha256));
        }
        let mut versions = Vec::new();
        for inode in Records::users(&*catalogue, sha256)? {
            // It may be collected meanwhile.
            if let Some(InodeRecord::Version(version)) = catalogue.inode(inode)? {
                versions.push((Key::new(version.key)?, version.version));
            }
        }
        Ok(versions)
    }
}

/// Every version of a key, oldest first, and what becomes of it.
fn fates(records: &impl Records, key: &str, policy: &Policy, now: u64) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    records.for_each(&VERSIONS.of(key), |row| {
        let inode = row.value()?;
        if let Some(InodeRecord::Version(version)) = records.inode(inode)? {
            found.push((inode, version));
        }
        Ok(())
    })?;
    let patience = u64::try_from(policy.older_than.as_nanos()).unwrap_or(u64::MAX);
    let mut candidates = Vec::new();
    // Of each engine: how many live versions are newer, and when the next newer one came.
    let mut newer: BTreeMap<EngineNumber, (u64, u64)> = BTreeMap::new();
    for (inode, record) in found.into_iter().rev() {
        let (live, superseded) = newer.entry(record.engine).or_insert((0, u64::MAX));
        let over = record.removed.unwrap_or(u64::MAX).min(*superseded);
        let fate = match record.removed {
            None if *live == 0 => Fate::Current,
            _ if record.pinned => Fate::Pinned,
            None if *live < policy.keep => Fate::Newest,
            _ if now.saturating_sub(over) < patience => Fate::Recent,
            _ => Fate::Free,
        };
        if record.removed.is_none() {
            *live += 1;
        }
        // One that was taken away again while it was the newest left the others where they were.
        if record.removed.is_none_or(|removed| removed >= *superseded) {
            *superseded = record.published;
        }
        candidates.push(Candidate {
            key: Key::new(record.key)?,
            version: record.version,
            inode,
            sha256: record.sha256,
            size: record.size,
            removed: record.removed.is_some(),
            fate,
        });
    }
    candidates.reverse();
    Ok(candidates)
}
