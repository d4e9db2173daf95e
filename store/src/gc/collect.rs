//! Collection: giving up versions that nobody needs, and the payloads that only
//! they had.
//!
//! What the store knows is decided here: what is newest, pinned, or kept by the
//! policy. Whether somebody has a version open or mapped only the kernel knows;
//! whoever serves mounts asks it before [`Store::collect`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalogue::records::*;
use crate::catalogue::{Catalogue, Changes, Records, be_u64, for_each_under};
use crate::error::{Error, IoContext, Result};
use crate::history::log::{Change, CollectedVersion, Entry, History};
use crate::payload::staging::{sha_of_key, whole_inline};
use crate::store::open::{HISTORY, Planned, Store, now};
use crate::types::key::Key;
use crate::types::sha::Sha;

/// Keys looked at for one [`Portion`], and versions in it, at most.
const PORTION: (usize, usize) = (10_000, 256);

/// What collection leaves alone, though nobody uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many versions of each key and engine stay, the newest included; at least 1.
    #[serde(default = "one")]
    pub keep: u64,
    /// How long a version stays after a newer one came or its names were taken away.
    #[serde(default, with = "duration")]
    pub older_than: Duration,
}

fn one() -> u64 {
    1
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { keep: one(), older_than: Duration::ZERO }
    }
}

/// Durations as people write them: `30d`, `12h 30m`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

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
    /// The key.
    pub key: Key,
    /// Its number.
    pub version: u64,
    /// Its inode number.
    pub inode: u64,
    /// Its payload.
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
    pub seen: u64,
    /// The key to go on after; nothing at the end.
    pub next: Option<String>,
}

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
    /// Some of the versions that nothing in the store keeps: of keys after `after`.
    pub fn collectable(&self, policy: &Policy, after: Option<&str>) -> Result<Portion> {
        let seen = self.last_change();
        let catalogue = self.catalogue()?;
        let from = match after {
            Some(key) => [&key_key(key)[..], b"\0"].concat(),
            None => key_key(""),
        };
        let mut portion = Portion { candidates: Vec::new(), seen, next: None };
        let now = now();
        for (count, entry) in catalogue.range(from).enumerate() {
            let (name, _) = entry?;
            if !name.starts_with(&key_key("")) {
                break;
            }
            let key = String::from_utf8_lossy(&name[1..]).into_owned();
            let fates = fates(&catalogue, &key, policy, now)?;
            portion.candidates.extend(fates.into_iter().filter(|c| c.fate == Fate::Free));
            if count + 1 >= PORTION.0 || portion.candidates.len() >= PORTION.1 {
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
    pub fn users(&self, sha256: &Sha) -> Result<Vec<(Key, u64)>> {
        let catalogue = self.catalogue()?;
        if catalogue.payload(sha256)?.is_none() {
            return Err(Error::NoPayload(*sha256));
        }
        let users = users(&*catalogue, sha256)?;
        let mut versions = Vec::new();
        for inode in users {
            // It may be collected meanwhile.
            if let Some(InodeRecord::Version(version)) = catalogue.inode(inode)? {
                versions.push((Key::new(version.key)?, version.version));
            }
        }
        Ok(versions)
    }

    /// Gives up those of `candidates`, found when change number `seen` was the last, to which
    /// nothing has happened since; and the payloads that only they had. Nobody may have them
    /// open or mapped, nor be able to get at them by a name.
    pub fn collect(&self, candidates: &[Candidate], seen: u64) -> Result<(Collected, Changes)> {
        let (mut writer, planned) = self.begin()?;
        let changed = writer.entries_after(seen)?;
        let changed: HashSet<&str> = changed.iter().flat_map(changed_keys).collect();
        let unchanged = candidates.iter().filter(|c| !changed.contains(c.key.as_str()));
        let (versions, payloads) = gone_with(&planned.txn, unchanged)?;
        self.give_up(&mut writer, planned, versions, payloads)
    }

    /// What giving up `candidates` would free.
    pub fn would_collect(&self, candidates: &[Candidate]) -> Result<Collected> {
        let catalogue = self.catalogue()?;
        let (versions, payloads) = gone_with(&catalogue, candidates.iter())?;
        collected(&catalogue, &versions, &payloads)
    }

    /// Gives up payloads that no version has, and object files that no payload has: what a crash
    /// left, and sources whose version was never kept.
    pub fn collect_orphans(&self) -> Result<Collected> {
        let mut total = Collected::default();
        let mut from = payload_key(&Sha::default());
        loop {
            let (mut writer, planned) = self.begin()?;
            let mut orphans = Vec::new();
            let mut next = None;
            for (count, entry) in planned.txn.base().range(from).enumerate() {
                let (key, _) = entry?;
                if !key.starts_with(b"p") {
                    break;
                }
                if count >= PORTION.0 || orphans.len() >= PORTION.1 {
                    next = Some(key.to_vec());
                    break;
                }
                let sha256 = sha_of_key(&key)?;
                if !planned.txn.any_under(&users_prefix(&sha256))? {
                    orphans.push(sha256);
                }
            }
            let (orphans, _) = self.unused(planned.txn.base(), orphans)?;
            total.add(&self.give_up(&mut writer, planned, Vec::new(), orphans)?.0);
            drop(writer);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        let mut found = Vec::new();
        self.payloads.each_object_directory(|directory| {
            let catalogue = self.catalogue()?;
            for entry in fs::read_dir(directory).at("reading", directory)? {
                let name = entry.at("reading", directory)?.file_name();
                let Ok(sha256) = name.to_string_lossy().parse::<Sha>() else { continue };
                match catalogue.payload(&sha256)? {
                    None => found.push(sha256),
                    // What an import brought, and is inside by now.
                    Some(record) if record.inline => {
                        if whole_inline(&catalogue, &sha256, record.size).is_some() {
                            self.payloads.remove_object(&sha256)?;
                        }
                    }
                    Some(_) => {}
                }
            }
            drop(catalogue);
            if found.len() >= PORTION.0 {
                total.add(&self.remove_objects(std::mem::take(&mut found))?);
            }
            Ok(())
        })?;
        total.add(&self.remove_objects(found)?);
        Ok(total)
    }

    /// Removes object files that no payload has.
    fn remove_objects(&self, found: Vec<Sha>) -> Result<Collected> {
        let mut removed = Collected::default();
        if found.is_empty() {
            return Ok(removed);
        }
        // With the right to write: whoever publishes puts an object in place first.
        let (_writer, planned) = self.begin()?;
        let mut orphans = Vec::new();
        for sha256 in found {
            // It may have been committed since it was found.
            if planned.txn.payload(&sha256)?.is_none() {
                orphans.push(sha256);
            }
        }
        let (unused, given_up) = self.unused(planned.txn.base(), orphans)?;
        for sha256 in unused {
            let object = self.payloads.object(&sha256);
            // What was given up was counted then.
            if !given_up.contains(&sha256) {
                removed.bytes += fs::metadata(&object).map_or(0, |file| file.len());
                removed.payloads += 1;
            }
            self.payloads.remove_object(&sha256)?;
        }
        Ok(removed)
    }

    /// Those of `payloads` that no version has by the history either, and which were given up. If
    /// one has a user that the catalogue doesn't know of, that has lost records, and is not
    /// trusted any more.
    fn unused(
        &self,
        catalogue: &Catalogue,
        mut payloads: Vec<Sha>,
    ) -> Result<(Vec<Sha>, BTreeSet<Sha>)> {
        if payloads.is_empty() {
            return Ok((payloads, BTreeSet::new()));
        }
        let (used, given_up) =
            History::used(&self.dir().join(HISTORY), payloads.iter().copied().collect())?;
        for sha256 in &used {
            if !catalogue.any_under(&users_prefix(sha256))? {
                catalogue.note_damage();
                return Err(Error::Inconsistent(format!("it has lost who needs payload {sha256}")));
            }
        }
        payloads.retain(|sha256| !used.contains(sha256));
        Ok((payloads, given_up))
    }

    /// Commits that versions and payloads are gone. What bytes were in object files is removed by
    /// [`Store::collect_orphans`], which asks the history first.
    fn give_up(
        &self,
        writer: &mut History,
        mut planned: Planned,
        versions: Vec<CollectedVersion>,
        payloads: Vec<Sha>,
    ) -> Result<(Collected, Changes)> {
        if versions.is_empty() && payloads.is_empty() {
            return Ok((Collected::default(), Changes::default()));
        }
        let collected = collected(&planned.txn, &versions, &payloads)?;
        let changes = planned.add(writer, Change::Collect { versions, payloads })?;
        self.commit(writer, planned)?;
        Ok((collected, changes))
    }

    /// Protects a version from collection, whatever becomes of its names.
    pub fn pin(&self, key: &Key, version: u64) -> Result<bool> {
        self.set_pinned(key, version, true)
    }

    /// Takes the protection away.
    pub fn unpin(&self, key: &Key, version: u64) -> Result<bool> {
        self.set_pinned(key, version, false)
    }

    /// Whether it changed.
    fn set_pinned(&self, key: &Key, version: u64, pinned: bool) -> Result<bool> {
        let (mut writer, mut planned) = self.begin()?;
        let Some((_, record)) = planned.txn.version(key.as_str(), version)? else {
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
        planned.add(&writer, change)?;
        self.commit(&mut writer, planned)?;
        Ok(true)
    }
}

/// The keys whose versions another change may have made newest, or have made somebody's.
fn changed_keys(entry: &Entry) -> Vec<&str> {
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
    let gone: HashSet<u64> = versions.iter().map(|v| v.inode).collect();
    let mut unused = Vec::new();
    for sha256 in payloads {
        if users(records, &sha256)?.iter().all(|user| gone.contains(user)) {
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

fn users(records: &impl Records, sha256: &Sha) -> Result<Vec<u64>> {
    let prefix = users_prefix(sha256);
    let mut users = Vec::new();
    for_each_under(records, &prefix, |key, _| {
        users.push(be_u64(&key[prefix.len()..])?);
        Ok(())
    })?;
    Ok(users)
}

/// Every version of a key, oldest first, and what becomes of it.
fn fates(records: &impl Records, key: &str, policy: &Policy, now: u64) -> Result<Vec<Candidate>> {
    let prefix = versions_prefix(key);
    let mut found = Vec::new();
    for_each_under(records, &prefix, |_, inode| {
        let inode = be_u64(inode)?;
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
