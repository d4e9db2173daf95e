//! Collection: giving up versions that nobody needs, and the payloads that only
//! they had.
//!
//! What the store knows is decided in [`super::candidates`]: what is newest, pinned, or kept by the
//! policy. Whether somebody has a version open or mapped only the kernel knows; whoever serves
//! mounts asks it before [`Store::collect`].

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::candidates::Candidate;
use crate::catalogue::{Changes, Records};
use crate::error::{Error, Result};
use crate::history::{Change, CollectedVersion, LogEntry};
use crate::store::{Store, Writer};
use crate::types::{Inode, Key, Sequence, Sha, Version};

/// What was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// How many versions.
    pub versions: u64,
    /// How many payloads.
    pub payloads: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Collected {
    /// Adds what was given up later.
    pub fn add(&mut self, later: &Collected) {
        self.versions += later.versions;
        self.payloads += later.payloads;
        self.bytes += later.bytes;
    }
}

impl Store {
    /// Gives up those of `candidates`, found when change number `seen` was the last, to which
    /// nothing has happened since; and the payloads that only they had. Nobody may have them
    /// open or mapped, nor be able to get at them by a name.
    pub fn collect(
        &self,
        candidates: &[Candidate],
        seen: Sequence,
    ) -> Result<(Collected, Changes)> {
        let writer = self.writer()?;
        let changed = writer.history().entries_after(seen)?;
        let changed: HashSet<&str> = changed.iter().flat_map(changed_keys).collect();
        let unchanged = candidates.iter().filter(|c| !changed.contains(c.key.as_str()));
        let (versions, payloads) = gone_with(writer.view(), unchanged)?;
        give_up(writer, versions, payloads)
    }

    /// What giving up `candidates` would free.
    pub fn would_collect(&self, candidates: &[Candidate]) -> Result<Collected> {
        let catalogue = self.catalogue()?;
        let (versions, payloads) = gone_with(&*catalogue, candidates.iter())?;
        collected(&*catalogue, &versions, &payloads)
    }

    /// Protects a version from collection, whatever becomes of its names.
    pub fn pin(&self, key: &Key, version: Version) -> Result<bool> {
        self.set_pinned(key, version, true)
    }

    /// Takes the protection away.
    pub fn unpin(&self, key: &Key, version: Version) -> Result<bool> {
        self.set_pinned(key, version, false)
    }

    /// Whether it changed.
    fn set_pinned(&self, key: &Key, version: Version, pinned: bool) -> Result<bool> {
        let mut writer = self.writer()?;
        let Some((_, record)) = writer.view().version(key.as_str(), version)? else {
            return Err(Error::NoVersion { key: key.clone(), version });
        };
        if record.pinned == pinned {
            return Ok(false);
        }
        let key = key.to_string();
        let change = match pinned {
            true => Change::Pin { key, version },
            false => Change::Unpin { key, version },
        };
        writer.add(change)?;
        writer.commit()?;
        Ok(true)
    }
}

/// Commits that versions and payloads are gone. What bytes were in object files is removed by
/// [`Store::collect_orphans`], which asks the history first.
pub(super) fn give_up(
    mut writer: Writer<'_>,
    versions: Vec<CollectedVersion>,
    payloads: Vec<Sha>,
) -> Result<(Collected, Changes)> {
    if versions.is_empty() && payloads.is_empty() {
        return Ok((Collected::default(), Changes::default()));
    }
    let collected = collected(writer.view(), &versions, &payloads)?;
    writer.add(Change::Collect { versions, payloads })?;
    Ok((collected, writer.commit()?))
}

/// The keys whose versions another change may have made newest, or have made somebody's.
fn changed_keys(entry: &LogEntry) -> Vec<&str> {
    match &entry.change {
        Change::Publish { key, .. }
        | Change::Remove { key, .. }
        | Change::Pin { key, .. }
        | Change::Unpin { key, .. } => vec![key],
        Change::Default { keys, .. } => keys.iter().map(String::as_str).collect(),
        Change::Collect { versions, .. } => versions.iter().map(|v| v.key.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Those of `candidates` that are still there, and the payloads that nothing else has.
fn gone_with<'a>(
    records: &impl Records,
    candidates: impl Iterator<Item = &'a Candidate>,
) -> Result<(Vec<CollectedVersion>, Vec<Sha>)> {
    let (mut versions, mut payloads) = (Vec::new(), Vec::new());
    for Candidate { key, version, inode, .. } in candidates {
        if let Some((found, record)) = records.version(key.as_str(), *version)?
            && found == *inode
        {
            payloads.extend([Some(record.sha256), record.source].into_iter().flatten());
            let (key, version, inode) = (key.to_string(), *version, *inode);
            versions.push(CollectedVersion { key, version, inode });
        }
    }
    payloads.sort_unstable();
    payloads.dedup();
    let gone: HashSet<Inode> = versions.iter().map(|v| v.inode).collect();
    let mut unused = Vec::new();
    for sha256 in payloads {
        if records.users(&sha256)?.iter().all(|user| gone.contains(user)) {
            unused.push(sha256);
        }
    }
    Ok((versions, unused))
}

fn collected(
    records: &impl Records,
    versions: &[CollectedVersion],
    payloads: &[Sha],
) -> Result<Collected> {
    let mut collected = Collected { versions: versions.len() as u64, ..Collected::default() };
    for sha256 in payloads {
        if let Some(record) = records.payload(sha256)? {
            collected.payloads += 1;
            collected.bytes += record.size;
        }
    }
    Ok(collected)
}
