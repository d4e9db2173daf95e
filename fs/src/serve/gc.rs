//! Collecting what no process uses: only the kernel knows which do.
//!
//! Collection first watches its candidates: from then on a lookup of `.wasmfs/versions/KEY/N` marks
//! that version as claimed. Then each mount's notifying thread drops the names of the candidates
//! and asks whether the kernel still has their inodes: open, mapped, or on the way. It comes after
//! every lookup that was answered before the watch (see [`super::invalidate`]). A version that the
//! kernel has not, and that nobody has claimed, is doomed: from then on no lookup finds it. Another
//! name leads to it only after a commit of its key, and then it is not given up.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasmfs_store::{
    Candidate, Changes, Collected, Compacted, Fate, Inode, Key, Policy, Portion, Store, View,
};

use super::invalidate::{Invalidation, Probe};
use super::mounts::Mounts;

/// How long the kernel is waited for when it is asked what is in use.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What came of looking at some keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collection {
    /// What was given up, or would be.
    pub collected: Collected,
    /// Which versions that was.
    pub versions: Vec<Candidate>,
    /// What the store would give up, but a process has open or mapped.
    pub in_use: Vec<Candidate>,
    /// Whether the kernel could not be asked, so that nothing was given up: a lookup in a mount
    /// is not answered.
    pub unanswered: bool,
    /// The key to go on after; nothing at the end.
    pub next: Option<String>,
}

/// What came of tidying up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tidied {
    /// Payloads and files that no version had.
    pub orphans: Collected,
    /// What compaction did to the history, if it was due.
    pub compacted: Option<Compacted>,
    /// What copying did to the catalogue, if it was due.
    pub shrunk: Option<Compacted>,
}

/// A version, and what keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The version, and what of the store keeps it.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// Whether a process has it open or mapped. Asked only for what nothing else keeps.
    pub in_use: bool,
}

/// Gives up versions that nothing keeps, of some keys after `after`, in a store that is not
/// mounted, so that nobody uses it; or says which it would.
pub fn collect_unmounted(
    store: &Store,
    policy: &Policy,
    after: Option<&str>,
    dry_run: bool,
) -> wasmfs_store::Result<Collection> {
    let Portion { candidates, seen, next } = store.collectable(policy, after)?;
    let collected = match dry_run {
        true => store.would_collect(&candidates)?,
        false => store.collect(&candidates, seen)?.0,
    };
    let in_use = Vec::new();
    Ok(Collection { collected, versions: candidates, in_use, unanswered: false, next })
}

/// Removes what no version has, and compacts what is due, in a store that is not mounted.
pub fn tidy_unmounted(store: &Store) -> wasmfs_store::Result<Tidied> {
    let orphans = store.collect_orphans()?;
    let compacted = store.compact(store.last_change(), false)?;
    Ok(Tidied { orphans, compacted, shrunk: store.shrink()? })
}

impl Mounts {
    /// Gives up versions that neither the store keeps nor anybody uses, of some keys after
    /// `after`; or says which it would. Only those `among` some inode numbers, if they are given.
    pub fn collect(
        &self,
        policy: &Policy,
        after: Option<&str>,
        dry_run: bool,
        among: Option<&HashSet<Inode>>,
    ) -> wasmfs_store::Result<Collection> {
        let _alone = self.lock_collection();
        let Portion { mut candidates, seen, next } = self.store().collectable(policy, after)?;
        candidates.retain(|candidate| among.is_none_or(|among| among.contains(&candidate.inode)));
        if candidates.is_empty() {
            return Ok(Collection { next, ..Collection::default() });
        }
        // What made these candidates is told before they are asked for.
        self.wait_until_queued();
        let watch = self.filesystem().watch(candidates.iter().map(|candidate| candidate.inode));
        let Some(known) = self.ask_kernel(&candidates)? else {
            return Ok(Collection { unanswered: true, ..Collection::default() });
        };
        let (in_use, free): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| {
            known.contains(&candidate.inode) || !dry_run && !watch.doom(candidate.inode)
        });
        let collected = match dry_run {
            true => self.store().would_collect(&free)?,
            false => {
                // What is registered would keep its space on the disk.
                free.iter().for_each(|candidate| self.opener().unregister(candidate.inode));
                self.commit(|store| store.collect(&free, seen))?.0
            }
        };
        Ok(Collection { collected, versions: free, in_use, unanswered: false, next })
    }

    /// What becomes of each version of a key, oldest first.
    pub fn fates(&self, key: &Key, policy: &Policy) -> wasmfs_store::Result<Vec<Kept>> {
        let _alone = self.lock_collection();
        let fates = self.store().fates(key, policy)?;
        let free: Vec<_> = fates.iter().filter(|c| c.fate == Fate::Free).cloned().collect();
        self.wait_until_queued();
        let known = self.ask_kernel(&free)?;
        let in_use = |c: &Candidate| {
            c.fate == Fate::Free && known.as_ref().is_none_or(|known| known.contains(&c.inode))
        };
        Ok(fates.into_iter().map(|c| Kept { in_use: in_use(&c), candidate: c }).collect())
    }

    /// Which candidates the kernel knows; nothing if it could not be asked in time.
    fn ask_kernel(&self, candidates: &[Candidate]) -> wasmfs_store::Result<Option<HashSet<Inode>>> {
        if candidates.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        let mut names = BTreeSet::new();
        for Candidate { key, version, .. } in candidates.iter().filter(|c| !c.removed) {
            let directory = self.store().directory(View::Versions, key.as_str())?;
            names.extend(directory.map(|directory| (directory, version.to_string())));
        }
        let inodes = candidates.iter().map(|candidate| candidate.inode).collect();
        let probe = Arc::new(Probe { names, inodes, ..Probe::default() });
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let mounts = self.all();
        let asked: Vec<_> = mounts
            .iter()
            .map(|mount| mount.push(Invalidation::Probe(probe.clone()), None))
            .collect();
        if !asked.iter().all(|answer| answer.wait(deadline)) {
            probe.void.store(true, Ordering::Relaxed);
            log::warn!("nothing is collected: a lookup in the mount is not answered");
            return Ok(None);
        }
        let known = probe.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(known.clone()))
    }

    /// Removes what no version has, and compacts what is due.
    pub fn tidy(&self) -> wasmfs_store::Result<Tidied> {
        let _alone = self.lock_collection();
        let orphans = self.store().collect_orphans()?;
        self.memory().sweep()?;
        self.settle()?;
        let compacted = self.store().compact_if(&|last| self.is_settled(last), false)?;
        self.settle()?;
        Ok(Tidied { orphans, compacted, shrunk: self.store().shrink()? })
    }

    /// Has the journal say that the kernel knows of everything, if it does.
    fn settle(&self) -> wasmfs_store::Result<()> {
        self.commit(|_| Ok(((), Changes::default()))).map(drop)
    }
}
