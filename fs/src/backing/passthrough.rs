//! Opening files that are passed through: once what is behind an inode was checked from the first
//! byte to the last and registered with the kernel, its pages need no server.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use fuser::{Errno, FileHandle, FopenFlags, ReplyOpen};
use wasmfs_store::Store;
use wasmfs_store::tree::InodeRecord;

use crate::background::Later;
use crate::backing::memory::{self, Memory};
use crate::backing::verity;
use crate::error::{Error, IoContext, Result};
use crate::fuse::adapter::answer;
use crate::journal::requests::{DEATHS, InHand};

/// A mount, by its minor device number, and an inode in it.
pub(crate) type Place = (u32, u64);

/// An open that has to be answered.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    pub(crate) place: Place,
    /// Whether its payload is to be in memory, if there is room.
    pub(crate) in_memory: bool,
}

/// Who registers files with the kernel.
pub(crate) trait Registrar: Send + Sync {
    /// Has a file registered for an inode, and [`Opener::registered`] hear of it.
    fn register(&self, place: Place, file: OwnedFd);
    /// Takes that back.
    fn unregister(&self, place: Place);
}

/// Opens files of every mount that passes them through.
pub(crate) struct Opener {
    store: Arc<Store>,
    in_hand: Arc<InHand>,
    memory: Arc<Memory>,
    state: Mutex<State>,
    later: Arc<Later>,
    registrar: OnceLock<Weak<dyn Registrar>>,
}

#[derive(Default)]
struct State {
    /// What is registered.
    ids: HashMap<Place, u32>,
    /// Who waits for what is being checked or registered.
    waiting: HashMap<Place, Vec<ReplyOpen>>,
}

impl Opener {
    /// Knows what is registered already.
    pub(crate) fn new(
        store: Arc<Store>,
        in_hand: Arc<InHand>,
        memory: Arc<Memory>,
        later: Arc<Later>,
        ids: HashMap<Place, u32>,
    ) -> Opener {
        let state = Mutex::new(State { ids, waiting: HashMap::new() });
        Opener { store, in_hand, memory, state, later, registrar: OnceLock::new() }
    }

    /// Says who registers files, once.
    pub(crate) fn set_registrar(&self, registrar: Weak<dyn Registrar>) {
        if self.registrar.set(registrar).is_err() {
            log::error!("there are two who register files");
        }
    }

    fn registrar(&self) -> Option<Arc<dyn Registrar>> {
        self.registrar.get().and_then(Weak::upgrade)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a version's inode, at once if it is registered.
    pub(crate) fn open(self: &Arc<Self>, order: Order, reply: ReplyOpen) {
        let place = order.place;
        let mut state = self.lock();
        if let Some(id) = state.ids.get(&place) {
            // With the lock held: what is registered stays so until it is answered.
            return pass_through(reply, *id);
        }
        let waiting = state.waiting.entry(place).or_default();
        waiting.push(reply);
        let first = waiting.len() == 1;
        drop(state);
        if first {
            let opener = self.clone();
            self.later.run(move || opener.check(order));
        }
    }

    /// Checks what is behind an inode, and has it registered.
    fn check(&self, Order { place, in_memory }: Order) {
        let Some(_held) = self.in_hand.take_inode(place.0, place.1) else {
            log::error!("a check of inode {} has killed {DEATHS} workers", place.1);
            return self.refuse(place, Errno::EIO);
        };
        crate::fault::strike("check", place.1);
        match self.checked(place.1, in_memory) {
            Ok(file) => match self.registrar() {
                Some(registrar) => registrar.register(place, file),
                None => self.refuse(place, Errno::EIO),
            },
            Err(e) => {
                log::error!("inode {} can't be opened", place.1);
                self.refuse(place, answer(&e));
            }
        }
    }

    /// A file with all the bytes of a version, each of which was checked.
    fn checked(&self, inode: u64, in_memory: bool) -> Result<OwnedFd> {
        let Some(InodeRecord::Version(version)) = self.store.inode(inode)? else {
            return Err(Error::NotFound);
        };
        let here = Path::new("a memory file");
        if in_memory && let Some(file) = self.memory.payload(&version) {
            return Ok(file.try_clone().at("duplicating", here)?.into());
        }
        match self.store.open_object(&version)? {
            Some(file) => {
                // First: what is checked then stays so.
                verity::enable(&file);
                self.store.check_whole(&version, &file)?;
                Ok(file.into())
            }
            None => Ok(memory::sealed(&self.store, &version)?.into()),
        }
    }

    /// What came of having a file registered.
    pub(crate) fn registered(&self, place: Place, result: std::result::Result<u32, String>) {
        match result {
            Ok(id) => {
                let mut state = self.lock();
                state.ids.insert(place, id);
                for reply in state.waiting.remove(&place).into_iter().flatten() {
                    pass_through(reply, id);
                }
            }
            Err(why) => {
                log::error!("inode {} can't be opened: {why}", place.1);
                self.refuse(place, Errno::EIO);
            }
        }
    }

    fn refuse(&self, place: Place, errno: Errno) {
        let waiting = self.lock().waiting.remove(&place);
        waiting.into_iter().flatten().for_each(|reply| reply.error(errno));
    }

    /// Takes back what is registered for an inode that the kernel doesn't know any more, in
    /// whichever mount.
    pub(crate) fn unregister(&self, inode: u64) {
        let mut state = self.lock();
        let places: Vec<_> = state.ids.extract_if(|(_, of), _| *of == inode).collect();
        drop(state);
        for (place, _) in places {
            if let Some(registrar) = self.registrar() {
                registrar.unregister(place);
            }
        }
    }

    /// Forgets a mount: another may get its number.
    pub(crate) fn forget_mount(&self, connection: u32) {
        let mut state = self.lock();
        state.ids.retain(|(of, _), _| *of != connection);
        state.waiting.retain(|(of, _), _| *of != connection);
    }
}

fn pass_through(reply: ReplyOpen, id: u32) {
    // SAFETY: the number is of a registration with this session's connection, as the journal or
    // whoever made it says, and `into_raw` keeps it from being closed here.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &backing);
    backing.into_raw();
}
