//! Collecting what nobody uses: who does, only the kernel knows.
//!
//! Names first, then the question. From some moment on, whoever looks for a
//! version by its own name is noted. Then each mount's notifying thread, which
//! comes after every lookup that was answered before that moment (see
//! [`crate::notify`]), drops the name and asks whether the kernel still has the
//! inode: open, mapped, or on the way. If not, and if nobody has looked for it
//! meanwhile, it is doomed: from then on it isn't found. Another name leads to
//! it only after a commit of its key, and then it is not given up.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasmfs_store::tree::View;
use wasmfs_store::{Candidate, Changes, Collected, Compacted, Fate, Key, Policy, Portion, Store};

use crate::serve::invalidate::News;
use crate::serve::mounts::{Mounts, PATIENCE};

/// How long nothing may happen before the policy is carried out, and how far apart its two looks are.
const QUIET: Duration = Duration::from_secs(60);
/// Requests a minute that are as good as nothing: somebody who looks around.
const FEW: u64 = 100;
/// How often the policy is carried out.
const INTERVAL: Duration = Duration::from_secs(3600);

/// What came of looking at some keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collection {
    /// What was given up, or would be.
    pub collected: Collected,
    /// Which versions that was.
    pub versions: Vec<Candidate>,
    /// What the store would give up, but somebody has open or mapped.
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
    /// Whether somebody has it open or mapped. Asked only for what nothing else keeps.
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

/// What the kernel is asked, and its answer.
#[derive(Default)]
pub(crate) struct Probe {
    /// Names to drop first: the inode number of their directory, and the name in it.
    pub(crate) names: BTreeSet<(u64, String)>,
    /// The inodes that it is asked for.
    pub(crate) inodes: Vec<u64>,
    /// Those that it knows.
    pub(crate) known: Mutex<HashSet<u64>>,
    /// Nobody waits for the answer any more.
    pub(crate) void: AtomicBool,
}

impl Mounts {
    /// Gives up versions that neither the store keeps nor anybody uses, of some keys after
    /// `after`; or says which it would. Only those `among` some inode numbers, if they are given.
    pub fn collect(
        &self,
        policy: &Policy,
        after: Option<&str>,
        dry_run: bool,
        among: Option<&HashSet<u64>>,
    ) -> wasmfs_store::Result<Collection> {
        let _alone = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let Portion { mut candidates, seen, next } = self.store().collectable(policy, after)?;
        candidates.retain(|candidate| among.is_none_or(|among| among.contains(&candidate.inode)));
        if candidates.is_empty() {
            return Ok(Collection { next, ..Collection::default() });
        }
        // What made these candidates is told before they are asked for.
        self.wait_for_news();
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
        let _alone = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let fates = self.store().fates(key, policy)?;
        let free: Vec<_> = fates.iter().filter(|c| c.fate == Fate::Free).cloned().collect();
        self.wait_for_news();
        let known = self.ask_kernel(&free)?;
        let in_use = |c: &Candidate| {
            c.fate == Fate::Free && known.as_ref().is_none_or(|known| known.contains(&c.inode))
        };
        Ok(fates.into_iter().map(|c| Kept { in_use: in_use(&c), candidate: c }).collect())
    }

    /// Which candidates the kernel knows; nothing if it could not be asked in time.
    fn ask_kernel(&self, candidates: &[Candidate]) -> wasmfs_store::Result<Option<HashSet<u64>>> {
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
        let deadline = Instant::now() + PATIENCE;
        let mounts = self.all();
        let tellings: Vec<_> =
            mounts.iter().map(|mount| mount.tell(News::Probe(probe.clone()), None)).collect();
        if !tellings.iter().all(|telling| telling.wait(deadline)) {
            probe.void.store(true, Ordering::Relaxed);
            log::warn!("nothing is collected: a lookup in the mount is not answered");
            return Ok(None);
        }
        let known = probe.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(known.clone()))
    }

    /// Removes what no version has, and compacts what is due.
    pub fn tidy(&self) -> wasmfs_store::Result<Tidied> {
        let _alone = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Carries out the policy of the store's settings, when nothing else happens.
    pub(crate) fn start_policy(self: &Arc<Self>, policy: Policy) -> std::io::Result<()> {
        let mounts = Arc::downgrade(self);
        let run = move || carry_out(&mounts, &policy);
        std::thread::Builder::new().name("policy".into()).spawn(run).map(drop)
    }
}

fn carry_out(mounts: &Weak<Mounts>, policy: &Policy) {
    let mut activity = None;
    let mut last_run: Option<Instant> = None;
    loop {
        std::thread::sleep(QUIET);
        let Some(now) = mounts.upgrade().map(|mounts| mounts.activity()) else { return };
        let quiet = activity.is_some_and(|before| now.is_near(before));
        activity = Some(now);
        if !quiet || last_run.is_some_and(|last| last.elapsed() < INTERVAL) {
            continue;
        }
        last_run = Some(Instant::now());
        match look_twice(mounts, policy) {
            Ok(None) => {}
            Ok(Some(Collected { versions, payloads, bytes })) => {
                log::info!("collected {versions} versions and {payloads} payloads of {bytes} bytes")
            }
            Err(e) => log::error!("collecting: {}", crate::filesystem::chain(&e)),
        }
    }
}

/// Gives up what is unused now and a minute later; nothing if there is nothing. Whoever ends the
/// server need not wait for this longer than for one portion.
fn look_twice(mounts: &Weak<Mounts>, policy: &Policy) -> wasmfs_store::Result<Option<Collected>> {
    let mut unused = HashSet::new();
    each_portion(mounts, policy, true, None, |looked| {
        unused.extend(looked.versions.iter().map(|version| version.inode));
    })?;
    if unused.is_empty() {
        return Ok(None);
    }
    std::thread::sleep(QUIET);
    let mut total = Collected::default();
    each_portion(mounts, policy, false, Some(&unused), |done| total.add(&done.collected))?;
    let Some(mounts) = mounts.upgrade() else { return Ok(None) };
    total.add(&mounts.tidy()?.orphans);
    Ok(Some(total))
}

fn each_portion(
    mounts: &Weak<Mounts>,
    policy: &Policy,
    dry_run: bool,
    among: Option<&HashSet<u64>>,
    mut each: impl FnMut(&Collection),
) -> wasmfs_store::Result<()> {
    let mut after: Option<String> = None;
    while let Some(mounts) = mounts.upgrade() {
        let portion = mounts.collect(policy, after.as_deref(), dry_run, among)?;
        each(&portion);
        after = portion.next;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

/// How much has happened.
#[derive(Clone, Copy)]
pub(crate) struct Activity {
    pub(crate) requests: u64,
    pub(crate) changes: u64,
}

impl Activity {
    fn is_near(self, before: Activity) -> bool {
        self.changes == before.changes && self.requests - before.requests < FEW
    }
}
