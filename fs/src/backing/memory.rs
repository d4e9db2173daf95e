//! Payloads in memory files that nobody can change any more: once a byte of one was served, no
//! disk can keep the rest from its hosts. The keeper holds them as well, so that they outlive
//! workers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use wasmfs_store::VersionRecord;
use wasmfs_store::{Sha, Store};

use super::hugepages;
use crate::error::chain;
use crate::error::{IoContext, Result};

/// Bytes that are copied at a time.
const COPY_PIECE: usize = 1 << 20;
/// The most payloads: each takes a descriptor of keeper and worker.
const MAX_PAYLOADS: usize = 1000;

/// A payload in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InMemory {
    pub(crate) sha256: Sha,
    /// In bytes.
    pub(crate) size: u64,
}

/// How much is in memory, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// How many bytes may be there.
    pub budget: u64,
    /// How many are.
    pub bytes: u64,
    /// Of how many payloads.
    pub payloads: usize,
    /// How many payloads found no room, and are served from the disk.
    pub without_room: usize,
}

/// Who else holds payloads, and so outlives this process with them.
pub(crate) trait PayloadKeeper: Send + Sync {
    /// Holds a payload.
    fn hold(&self, payload: InMemory, file: &File);
    /// Holds these no longer.
    fn let_go(&self, payloads: &[Sha]);
}

/// A payload's place.
#[derive(Default)]
struct Slot {
    file: OnceLock<Arc<File>>,
    /// Of whoever puts it there, for whom others wait.
    filling: Mutex<()>,
}

/// The payloads that are in memory.
pub(crate) struct Memory {
    store: Arc<Store>,
    state: Mutex<MemoryState>,
    keeper: Arc<dyn PayloadKeeper>,
}

#[derive(Default)]
struct MemoryState {
    /// Who has payloads in memory.
    claims: usize,
    budget: u64,
    bytes: u64,
    /// How many payloads may be there.
    most: usize,
    slots: HashMap<Sha, (u64, Arc<Slot>)>,
    /// What is served from the disk.
    without_room: HashSet<Sha>,
}

/// The right to have payloads in memory. When the last one is dropped, all are given back.
pub(crate) struct Claim(Arc<Memory>);

impl std::ops::Deref for Claim {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.claims -= 1;
        if state.claims == 0 {
            let gone: Vec<Sha> = state.slots.keys().copied().collect();
            *state = MemoryState::default();
            drop(state);
            self.0.let_go(&gone);
        }
    }
}

impl Memory {
    pub(crate) fn new(store: Arc<Store>, keeper: Arc<dyn PayloadKeeper>) -> Memory {
        Memory { store, state: Mutex::default(), keeper }
    }

    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets so many bytes be in memory, or as many as another claim needs.
    pub(crate) fn claim(self: &Arc<Self>, budget: u64) -> Claim {
        let mut state = self.lock();
        state.claims += 1;
        if budget > state.budget {
            state.budget = budget;
            state.without_room.clear();
            // The rest is for everything else.
            let half = allow_descriptors() / 2;
            state.most = usize::try_from(half).unwrap_or(MAX_PAYLOADS).min(MAX_PAYLOADS);
        }
        Claim(self.clone())
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        let state = self.lock();
        (state.budget > 0).then(|| Usage {
            budget: state.budget,
            bytes: state.bytes,
            payloads: state.slots.len(),
            without_room: state.without_room.len(),
        })
    }

    /// Takes what an earlier worker put into memory.
    pub(crate) fn adopt(&self, payload: InMemory, file: OwnedFd) {
        let slot = Arc::new(Slot::default());
        slot.file.get_or_init(|| Arc::new(File::from(file)));
        let mut state = self.lock();
        state.bytes += payload.size;
        if let Some((size, _)) = state.slots.insert(payload.sha256, (payload.size, slot)) {
            state.bytes -= size;
        }
    }

    /// Everything that is held, for another holder.
    pub(crate) fn held(&self) -> Vec<(InMemory, Arc<File>)> {
        let state = self.lock();
        let held = state.slots.iter().filter_map(|(sha256, (size, slot))| {
            // What is just being put there is told when it is.
            let file = slot.file.get()?.clone();
            Some((InMemory { sha256: *sha256, size: *size }, file))
        });
        held.collect()
    }

    /// A version's payload as far as that is known without waiting: in memory, or not (`None`).
    pub(crate) fn known(&self, version: &VersionRecord) -> Option<Option<Arc<File>>> {
        let state = self.lock();
        let slot = state.slots.get(&version.sha256);
        match slot.and_then(|(_, slot)| slot.file.get()) {
            Some(file) => Some(Some(file.clone())),
            None => state.without_room.contains(&version.sha256).then_some(None),
        }
    }

    /// All of a version's payload in memory, which it is from now on; `None` if there is no room,
    /// or it can't be had, which is logged.
    pub(crate) fn payload(&self, version: &VersionRecord) -> Option<Arc<File>> {
        loop {
            let slot = self.slot(version)?;
            let _filling = slot.filling.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = slot.file.get() {
                return Some(file.clone());
            }
            // If it isn't in its place any more, whoever was to fill it could not.
            if self.lists(version, &slot) {
                return self.fill(version, &slot);
            }
        }
    }

    fn lists(&self, version: &VersionRecord, slot: &Arc<Slot>) -> bool {
        let state = self.lock();
        state.slots.get(&version.sha256).is_some_and(|(_, known)| Arc::ptr_eq(known, slot))
    }

    fn fill(&self, version: &VersionRecord, slot: &Arc<Slot>) -> Option<Arc<File>> {
        match sealed(&self.store, version) {
            Ok(file) => {
                let file = slot.file.get_or_init(|| Arc::new(file)).clone();
                let payload = InMemory { sha256: version.sha256, size: version.size };
                if self.lists(version, slot) {
                    self.keeper.hold(payload, &file);
                }
                Some(file)
            }
            Err(e) => {
                let VersionRecord { key, version: number, sha256, .. } = version;
                log::error!("{key} version {number} can't be put into memory: {}", chain(&e));
                let mut state = self.lock();
                if let Some((size, _)) = state.slots.remove(sha256) {
                    state.bytes -= size;
                }
                state.without_room.insert(*sha256);
                None
            }
        }
    }

    fn slot(&self, version: &VersionRecord) -> Option<Arc<Slot>> {
        let VersionRecord { key, version: number, sha256, size, .. } = version;
        let mut state = self.lock();
        if let Some((_, slot)) = state.slots.get(sha256) {
            return Some(slot.clone());
        }
        if state.without_room.contains(sha256) {
            return None;
        }
        if state.bytes + size > state.budget || state.slots.len() >= state.most {
            state.without_room.insert(*sha256);
            log::error!(
                "no room in memory for {key} version {number}, of {size} bytes: {} payloads take \
                 {} of the {} bytes that --in-memory gives. It is served from the disk",
                state.slots.len(),
                state.bytes,
                state.budget,
            );
            return None;
        }
        state.bytes += size;
        let slot = Arc::new(Slot::default());
        state.slots.insert(*sha256, (*size, slot.clone()));
        Some(slot)
    }

    fn let_go(&self, gone: &[Sha]) {
        // What is there again by now is held.
        let held: HashSet<Sha> = self.lock().slots.keys().copied().collect();
        let gone: Vec<Sha> = gone.iter().filter(|sha| !held.contains(*sha)).copied().collect();
        self.keeper.let_go(&gone);
    }

    /// Lets go of payloads that the store doesn't have any more.
    pub(crate) fn sweep(&self) -> wasmfs_store::Result<()> {
        let all: Vec<Sha> = self.lock().slots.keys().copied().collect();
        let mut gone = Vec::new();
        for sha256 in all {
            if self.store.read_payload(&sha256, 0, 0)?.is_none() {
                gone.push(sha256);
            }
        }
        let mut state = self.lock();
        for sha256 in &gone {
            if let Some((size, _)) = state.slots.remove(sha256) {
                state.bytes -= size;
            }
        }
        state.without_room.clear();
        drop(state);
        self.let_go(&gone);
        Ok(())
    }
}

/// Up to `len` bytes at `offset` of a payload in memory.
pub(crate) fn read(file: &File, size: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
    let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(len)];
    file.read_exact_at(&mut bytes, offset).at("reading", Path::new("a memory file"))?;
    Ok(bytes)
}

/// A sealed memory file with all the bytes of a version, each of which was checked.
pub(crate) fn sealed(store: &Store, version: &VersionRecord) -> Result<File> {
    let here = Path::new("a memory file");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("wasmfs-payload", flags).at("making", here)?);
    let mut at = 0;
    while at < version.size {
        let bytes = store.read(version, at, COPY_PIECE)?;
        if bytes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).at("filling", here);
        }
        file.write_all(&bytes).at("writing", here)?;
        at += bytes.len() as u64;
    }
    hugepages::collapse(&file, version.size);
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).at("sealing", here)?;
    Ok(file)
}

/// Lets this process have as many descriptors as it may: how many.
pub(crate) fn allow_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let all = Rlimit { current: maximum, maximum };
    match setrlimit(Resource::Nofile, all) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(e) => {
            log::warn!("asking for more descriptors: {e}");
            current.unwrap_or(u64::MAX)
        }
    }
}
