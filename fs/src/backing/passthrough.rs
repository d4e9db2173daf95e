//! Opening files that are passed through: once what is behind an inode was checked from the first
//! byte to the last and registered with the kernel, its pages need no server.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, FileHandle, FopenFlags, ReplyOpen};
use wasmfs_store::{Inode, InodeRecord, Store};

use super::memory::{self, Memory};
use super::verity;
use crate::background::Background;
use crate::error::{Error, IoContext, Result};
use crate::fault;
use crate::journal::{DEATHS, InFlightRequests};

/// An inode of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MountInode {
    /// The connection's name under `/sys/fs/fuse/connections`: the minor device number.
    pub(crate) connection: u32,
    pub(crate) inode: Inode,
}

/// An open that has to be answered.
#[derive(Clone, Copy)]
pub(crate) struct OpenRequest {
    pub(crate) at: MountInode,
    /// Whether its payload is to be in memory, if there is room.
    pub(crate) in_memory: bool,
}

/// What came of having a file registered: the kernel's number, or why there is none.
pub(crate) type Registered = std::result::Result<u32, String>;

/// Who registers files with the kernel.
pub(crate) trait Registrar: Send + Sync {
    /// Registers a file for an inode; `None` if somebody else does, who has
    /// [`Opener::registered`] called.
    fn register(&self, at: MountInode, file: OwnedFd) -> Option<Registered>;
    /// Takes that back.
    fn unregister(&self, at: MountInode);
}

/// Opens files of every mount that passes them through.
pub(crate) struct Opener {
    store: Arc<Store>,
    in_flight: Arc<InFlightRequests>,
    memory: Arc<Memory>,
    state: Mutex<Opens>,
    background: Arc<Background>,
    registrar: Arc<dyn Registrar>,
}

#[derive(Default)]
struct Opens {
    /// What is registered.
    ids: HashMap<MountInode, u32>,
    /// Who waits for what is being checked or registered.
    waiting: HashMap<MountInode, Vec<ReplyOpen>>,
}

impl Opener {
    /// Knows what is registered already.
    pub(crate) fn new(
        store: Arc<Store>,
        in_flight: Arc<InFlightRequests>,
        memory: Arc<Memory>,
        background: Arc<Background>,
        registrar: Arc<dyn Registrar>,
        ids: HashMap<MountInode, u32>,
    ) -> Opener {
        let state = Mutex::new(Opens { ids, waiting: HashMap::new() });
        Opener { store, in_flight, memory, state, background, registrar }
    }

    fn lock(&self) -> MutexGuard<'_, Opens> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a version's inode, at once if it is registered.
    pub(crate) fn open(self: &Arc<Self>, request: OpenRequest, reply: ReplyOpen) {
        let at = request.at;
        let mut state = self.lock();
        if let Some(id) = state.ids.get(&at) {
            // With the lock held: what is registered stays so until it is answered.
            return pass_through(reply, *id);
        }
        let waiting = state.waiting.entry(at).or_default();
        waiting.push(reply);
        let first = waiting.len() == 1;
        drop(state);
        if first {
            let opener = self.clone();
            self.background.run(move || opener.check(request));
        }
    }

    /// Checks what is behind an inode, and has it registered.
    fn check(&self, OpenRequest { at, in_memory }: OpenRequest) {
        let inode = at.inode;
        let Some(_in_flight) = self.in_flight.take_inode(at.connection, inode) else {
            log::error!("a check of inode {inode} has killed {DEATHS} workers");
            return self.refuse(at, Errno::EIO);
        };
        fault::strike("check", inode);
        match self.checked(inode, in_memory) {
            Ok(file) => {
                if let Some(result) = self.registrar.register(at, file) {
                    self.registered(at, result);
                }
            }
            Err(e) => {
                log::error!("inode {inode} can't be opened");
                self.refuse(at, e.answer());
            }
        }
    }

    /// A file with all the bytes of a version, each of which was checked.
    fn checked(&self, inode: Inode, in_memory: bool) -> Result<OwnedFd> {
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
    pub(crate) fn registered(&self, at: MountInode, result: Registered) {
        match result {
            Ok(id) => {
                let mut state = self.lock();
                state.ids.insert(at, id);
                for reply in state.waiting.remove(&at).into_iter().flatten() {
                    pass_through(reply, id);
                }
            }
            Err(why) => {
                log::error!("inode {} can't be opened: {why}", at.inode);
                self.refuse(at, Errno::EIO);
            }
        }
    }

    fn refuse(&self, at: MountInode, errno: Errno) {
        let waiting = self.lock().waiting.remove(&at);
        waiting.into_iter().flatten().for_each(|reply| reply.error(errno));
    }

    /// Takes back what is registered for an inode that the kernel doesn't know any more, in
    /// whichever mount.
    pub(crate) fn unregister(&self, inode: Inode) {
        let mut state = self.lock();
        let registered: Vec<_> = state.ids.extract_if(|at, _| at.inode == inode).collect();
        drop(state);
        for (at, _) in registered {
            self.registrar.unregister(at);
        }
    }

    /// Forgets a mount: another may get its number.
    pub(crate) fn forget_mount(&self, connection: u32) {
        let mut state = self.lock();
        state.ids.retain(|at, _| at.connection != connection);
        state.waiting.retain(|at, _| at.connection != connection);
    }
}

fn pass_through(reply: ReplyOpen, id: u32) {
    // SAFETY: the number is of a registration with this session's connection, as the journal or
    // whoever made it says, and `into_raw` keeps it from being closed here.
    let backing = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &backing);
    backing.into_raw();
}
