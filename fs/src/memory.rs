//! Payloads in memory files that nobody can change any more: once a byte of one was served, no
//! disk can keep the rest from its hosts. The keeper holds them as well, so that they outlive
//! workers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use wasmfs_store::tree::VersionRecord;
use wasmfs_store::{BLOCK, Sha, Store};

use crate::error::{IoContext, Result};

/// Bytes that are copied at a time.
const PIECE: usize = 8 * BLOCK as usize;
/// The most payloads: each takes a descriptor of keeper and worker.
const MOST: usize = 1000;

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

/// Who else holds payloads.
pub(crate) trait Holder: Send + Sync {
    /// Holds a payload.
    fn hold(&self, payload: InMemory, file: &File);
    /// Holds these no longer.
    fn let_go(&self, payloads: &[Sha]);
}

/// A payload's place: empty until somebody has put it there, for whom others wait.
type Slot = Arc<Mutex<Option<Arc<File>>>>;

/// The payloads that are in memory.
pub(crate) struct Memory {
    store: Arc<Store>,
    state: Mutex<State>,
    holder: OnceLock<Weak<dyn Holder>>,
}

#[derive(Default)]
struct State {
    budget: u64,
    bytes: u64,
    /// How many payloads may be there.
    most: usize,
    slots: HashMap<Sha, (u64, Slot)>,
    without_room: HashSet<Sha>,
}

impl Memory {
    pub(crate) fn new(store: Arc<Store>) -> Memory {
        Memory { store, state: Mutex::default(), holder: OnceLock::new() }
    }

    /// Says who else holds payloads, once.
    pub(crate) fn set_holder(&self, holder: Weak<dyn Holder>) {
        if self.holder.set(holder).is_err() {
            log::error!("there are two who hold payloads");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets so many bytes be in memory, or as many as another mount needs.
    pub(crate) fn allow(&self, budget: u64) {
        let mut state = self.lock();
        if budget > state.budget {
            state.budget = budget;
            state.without_room.clear();
            // The rest is for everything else.
            let half = allow_descriptors() / 2;
            state.most = usize::try_from(half).unwrap_or(MOST).min(MOST);
        }
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
        let mut state = self.lock();
        state.bytes += payload.size;
        let slot = Arc::new(Mutex::new(Some(Arc::new(File::from(file)))));
        if let Some((size, _)) = state.slots.insert(payload.sha256, (payload.size, slot)) {
            state.bytes -= size;
        }
    }

    /// Everything that is held, for another holder.
    pub(crate) fn held(&self) -> Vec<(InMemory, Arc<File>)> {
        let state = self.lock();
        let held = state.slots.iter().filter_map(|(sha256, (size, slot))| {
            // What is just being put there is told when it is.
            let file = slot.try_lock().ok()?.clone()?;
            Some((InMemory { sha256: *sha256, size: *size }, file))
        });
        held.collect()
    }

    /// All of a version's payload in memory, which it is from now on; `None` if there is no room.
    pub(crate) fn payload(&self, version: &VersionRecord) -> Result<Option<Arc<File>>> {
        loop {
            let Some(slot) = self.slot(version) else { return Ok(None) };
            let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = &*place {
                return Ok(Some(file.clone()));
            }
            if !self.has(version, &slot) {
                // Whoever was to fill it could not.
                continue;
            }
            return self.fill(version, &slot, &mut place).map(Some);
        }
    }

    /// Puts a version's payload into its place.
    fn fill(
        &self,
        version: &VersionRecord,
        slot: &Slot,
        place: &mut Option<Arc<File>>,
    ) -> Result<Arc<File>> {
        let file = sealed(&self.store, version).map(Arc::new);
        let file = file.inspect_err(|_| self.remove_slot(&version.sha256, slot))?;
        *place = Some(file.clone());
        if let Some(holder) = self.holder.get().and_then(Weak::upgrade) {
            let payload = InMemory { sha256: version.sha256, size: version.size };
            holder.hold(payload, &file);
        }
        Ok(file)
    }

    fn has(&self, version: &VersionRecord, slot: &Slot) -> bool {
        let state = self.lock();
        state.slots.get(&version.sha256).is_some_and(|(_, known)| Arc::ptr_eq(known, slot))
    }

    fn remove_slot(&self, sha256: &Sha, slot: &Slot) {
        let mut state = self.lock();
        if let Some((size, _)) = state.slots.get(sha256).filter(|(_, s)| Arc::ptr_eq(s, slot)) {
            state.bytes -= *size;
            state.slots.remove(sha256);
        }
    }

    fn slot(&self, version: &VersionRecord) -> Option<Slot> {
        let VersionRecord { sha256, size, .. } = version;
        let mut state = self.lock();
        if let Some((_, slot)) = state.slots.get(sha256) {
            return Some(slot.clone());
        }
        if state.bytes + size > state.budget || state.slots.len() >= state.most {
            if state.without_room.insert(*sha256) {
                log::error!(
                    "no room in memory for {} version {}, of {size} bytes: {} payloads take {} of the {} bytes \
                     that --in-memory gives. It is served from the disk",
                    version.key,
                    version.version,
                    state.slots.len(),
                    state.bytes,
                    state.budget,
                );
            }
            return None;
        }
        state.without_room.remove(sha256);
        state.bytes += size;
        let slot = Slot::default();
        state.slots.insert(*sha256, (*size, slot.clone()));
        Some(slot)
    }

    fn remove(&self, sha256: &Sha) {
        let mut state = self.lock();
        if let Some((size, _)) = state.slots.remove(sha256) {
            state.bytes -= size;
        }
    }

    /// Up to `len` bytes at `offset` of a version; `None` if there is no room for it.
    pub(crate) fn read(
        &self,
        version: &VersionRecord,
        offset: u64,
        len: usize,
    ) -> Result<Option<Vec<u8>>> {
        if self.is_being_filled(version) {
            // By another read, which waits for it; this one needs not.
            return Ok(None);
        }
        let Some(file) = self.payload(version)? else { return Ok(None) };
        let left = version.size.saturating_sub(offset).min(len as u64);
        let mut bytes = vec![0; left as usize];
        file.read_exact_at(&mut bytes, offset).at("reading", Path::new("a memory file"))?;
        Ok(Some(bytes))
    }

    fn is_being_filled(&self, version: &VersionRecord) -> bool {
        let slot = self.lock().slots.get(&version.sha256).map(|(_, slot)| slot.clone());
        slot.is_some_and(|slot| matches!(slot.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Lets go of everything: no mount has its payloads in memory any more.
    pub(crate) fn give_back(&self) {
        let mut state = self.lock();
        let gone: Vec<Sha> = state.slots.keys().copied().collect();
        *state = State::default();
        drop(state);
        self.let_go(&gone);
    }

    fn let_go(&self, gone: &[Sha]) {
        if let Some(holder) = self.holder.get().and_then(Weak::upgrade)
            && !gone.is_empty()
        {
            holder.let_go(gone);
        }
    }

    /// Lets go of payloads that the store doesn't have any more.
    pub(crate) fn sweep(&self) -> wasmfs_store::Result<()> {
        let all: Vec<Sha> = self.lock().slots.keys().copied().collect();
        let mut gone = Vec::new();
        for sha256 in all {
            if self.store.read_payload(&sha256, 0, 0)?.is_none() {
                self.remove(&sha256);
                gone.push(sha256);
            }
        }
        self.lock().without_room.clear();
        self.let_go(&gone);
        Ok(())
    }
}

/// A sealed memory file with all the bytes of a version, each of which was checked.
pub(crate) fn sealed(store: &Store, version: &VersionRecord) -> Result<File> {
    let here = Path::new("a memory file");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("wasmfs-payload", flags).at("making", here)?);
    let mut at = 0;
    while at < version.size {
        let bytes = store.read(version, at, PIECE)?;
        if bytes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).at("filling", here);
        }
        file.write_all(&bytes).at("writing", here)?;
        at += bytes.len() as u64;
    }
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
