//! Serving mounts of one store.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::Session;
use wasmfs_store::{Changes, Inode, PendingInvalidations, Sequence, Store};

use super::invalidate::{Acknowledgment, Invalidation, Queue};
use super::ledger::{Ledger, Ticket};
use crate::background::Background;
use crate::backing::{Memory, MountInode, Opener, PayloadKeeper, Registrar, Usage};
use crate::error::{Error, Result, chain};
use crate::fault;
use crate::filesystem::Filesystem;
use crate::fuse::{Adapter, Connection, Handshake, Parts, RequestCounts};
use crate::journal::{InFlightRequests, Journal, Suspect};
use crate::mount::Options;

/// How long a commit waits for the kernel to be told of it.
const COMMIT_NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// The mounts of one store: at most one that is attached to a path, and those
/// that were detached but are still in use.
pub struct Mounts {
    store: Arc<Store>,
    filesystem: Arc<Filesystem>,
    in_flight: Arc<InFlightRequests>,
    ledger: Arc<Ledger>,
    opener: Arc<Opener>,
    memory: Arc<Memory>,
    background: Arc<Background>,
    requests: Arc<RequestCounts>,
    mounts: Mutex<Vec<Arc<Mount>>>,
    /// One collection at a time.
    collecting: Mutex<()>,
    /// Held from before a commit until its invalidation is in every queue: so whoever takes it
    /// after he saw a commit comes after that commit's invalidation.
    committing: Mutex<()>,
    /// Commits that failed half-way, and of which it is not known yet what they changed; each with
    /// the last change before it.
    unsettled: Mutex<Vec<(Sequence, Arc<Ticket>)>>,
}

/// One mount.
pub struct Mount {
    /// Where it is, or was.
    pub mount_point: PathBuf,
    /// How it was made.
    pub options: Options,
    /// Its device number; see [`Mounted::device`](crate::mount::Mounted::device).
    pub device: (u32, u32),
    pub(crate) connection: Arc<Connection>,
    queue: Queue,
}

impl Mount {
    /// Whether it can still be found at its path.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.connection.record.is_attached()
    }

    pub(super) fn push(
        &self,
        invalidation: Invalidation,
        ticket: Option<&Arc<Ticket>>,
    ) -> Acknowledgment {
        self.queue.push(invalidation, ticket.cloned())
    }
}

impl Mounts {
    /// No mounts yet. `registrar` and `keeper` have what of them is to outlive this process.
    pub(crate) fn new(
        store: Arc<Store>,
        in_flight: Arc<InFlightRequests>,
        registrar: Arc<dyn Registrar>,
        keeper: Arc<dyn PayloadKeeper>,
    ) -> Mounts {
        let filesystem = Arc::new(Filesystem::new(store.clone()));
        let ledger = Arc::new(Ledger::new(store.clone(), in_flight.clone()));
        let background = Arc::new(Background::default());
        let memory = Arc::new(Memory::new(store.clone(), keeper));
        let registered = in_flight.journal().registrations().unwrap_or_else(|e| {
            log::error!("what is registered with the kernel can't be read: {e}");
            Default::default()
        });
        let at = |((connection, inode), id)| (MountInode { connection, inode }, id);
        let opener = Arc::new(Opener::new(
            store.clone(),
            in_flight.clone(),
            memory.clone(),
            background.clone(),
            registrar,
            registered.into_iter().map(at).collect(),
        ));
        let requests = Arc::default();
        let (mounts, collecting) = (Mutex::default(), Mutex::default());
        let (committing, unsettled) = (Mutex::default(), Mutex::default());
        Mounts {
            store,
            filesystem,
            in_flight,
            ledger,
            opener,
            memory,
            background,
            requests,
            mounts,
            collecting,
            committing,
            unsettled,
        }
    }

    /// The store they all show.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mount>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mounts that are served.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        self.lock().clone()
    }

    /// The mount that can be found at its path, if there is one.
    pub fn attached(&self) -> Option<Arc<Mount>> {
        self.all().into_iter().find(|mount| mount.is_attached())
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// How much is in memory, if any mount has it so.
    pub fn in_memory(&self) -> Option<Usage> {
        self.memory.usage()
    }

    pub(crate) fn opener(&self) -> &Arc<Opener> {
        &self.opener
    }

    pub(crate) fn filesystem(&self) -> &Filesystem {
        &self.filesystem
    }

    /// Whether every kernel cache knows of everything up to change number `last`.
    pub(crate) fn is_settled(&self, last: Sequence) -> bool {
        self.ledger.is_empty() && self.journal().told() == Some(last)
    }

    /// How many requests this process has answered.
    pub(super) fn request_total(&self) -> u64 {
        self.requests.total()
    }

    /// The right to collect: one at a time.
    pub(super) fn lock_collection(&self) -> MutexGuard<'_, ()> {
        self.collecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests of each kind this process has answered.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.requests.by_name()
    }

    /// What is noted of requests in flight, for the next worker.
    pub(crate) fn journal(&self) -> &Journal {
        self.in_flight.journal()
    }

    /// Requests that were in flight in workers when they died.
    pub(crate) fn suspects(&self) -> &[Suspect] {
        self.in_flight.suspects()
    }

    /// Prepares to serve a connection, up to what the kernel is to be answered
    /// if nothing was yet.
    pub(crate) fn prepare(&self, connection: &Connection) -> Result<Handshake<Adapter>> {
        let adapter = {
            let (filesystem, in_flight) = (self.filesystem.clone(), self.in_flight.clone());
            let (opener, requests) = (self.opener.clone(), self.requests.clone());
            let in_memory = connection.record.options.in_memory;
            let memory = in_memory.map(|budget| Arc::new(self.memory.claim(budget)));
            let background = self.background.clone();
            let (connection, agreement) = (connection.name(), connection.record.agreement());
            let parts = Parts { filesystem, in_flight, opener, memory, background, requests };
            Adapter::new(parts, connection, agreement)
        };
        let handshake = connection.prepare(adapter)?;
        fault::strike("init", Inode(0));
        Ok(handshake)
    }

    /// Serves a connection, whose FUSE_INIT is answered, with threads of its own
    /// until the last user is gone; then calls `ended`.
    pub(crate) fn serve(
        self: &Arc<Self>,
        connection: Arc<Connection>,
        handshake: Handshake<Adapter>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let session = handshake.connect(connection.device.as_fd()).map_err(Error::Session)?;
        if let Err(e) = connection.resend() {
            log::warn!(
                "this kernel can't send again what a dead worker had in flight (Linux 6.9 can): \
                 a request that was being answered when a worker dies is never answered ({e})"
            );
        }
        let queue = Queue::start(&session, connection.clone(), self.journal().as_fd())
            .map_err(Error::Session)?;
        let record = &connection.record;
        let mount = Arc::new(Mount {
            mount_point: record.mount_point.clone(),
            options: record.options,
            device: record.device,
            connection,
            queue,
        });
        self.lock().push(mount.clone());
        let (mounts, served) = (self.clone(), mount.clone());
        let serve = move || {
            mounts.run(session, &served);
            ended();
        };
        let thread = std::thread::Builder::new().name("serve".into()).spawn(serve);
        if let Err(e) = thread {
            self.lock().retain(|other| !Arc::ptr_eq(other, &mount));
            return Err(Error::Session(e));
        }
        Ok(())
    }

    fn run(&self, session: Session<Adapter>, mount: &Arc<Mount>) {
        if let Err(e) = session.run() {
            log::error!("serving {} ended: {}", mount.mount_point.display(), chain(&e));
        }
        self.lock().retain(|other| !Arc::ptr_eq(other, mount));
        let (connection, mounts) = (mount.device.1, self.all());
        // Another one may have its number already.
        if mounts.iter().all(|other| other.device.1 != connection) {
            self.opener.forget_mount(connection);
        }
        log::info!("the mount at {} is gone", mount.mount_point.display());
    }

    /// Makes a commit and tells every kernel cache what it changed. Whether they
    /// all know when this returns; otherwise they will, once a stuck lookup ends.
    /// A commit of nothing waits for what is being told as well: it may be
    /// somebody's who asks again after a worker died.
    pub fn commit<T>(
        &self,
        commit: impl FnOnce(&Store) -> wasmfs_store::Result<(T, Changes)>,
    ) -> wasmfs_store::Result<(T, bool)> {
        let committing = self.lock_commits();
        self.settle_failed_commits();
        let before = self.store.last_change();
        let ticket = self.ledger.begin(before);
        let committed = commit(&self.store);
        let invalidation = match &committed {
            Ok((_, changes)) => Invalidation::Changes(changes.clone()),
            Err(_) => {
                // It may be in the history all the same.
                if self.store.last_change() != before {
                    self.lock_unsettled().push((before, ticket));
                    self.settle_failed_commits();
                }
                return committed.map(|(result, _)| (result, false));
            }
        };
        let deadline = Instant::now() + COMMIT_NOTIFY_TIMEOUT;
        let queued: Vec<_> = self
            .all()
            .iter()
            .map(|mount| mount.push(invalidation.clone(), Some(&ticket)))
            .collect();
        drop((committing, ticket));
        let told = queued.iter().all(|acknowledgment| acknowledgment.wait(deadline));
        committed.map(|(result, _)| (result, told))
    }

    /// Waits until the invalidation of every commit that can be seen in the store is in every
    /// queue.
    pub(super) fn wait_until_queued(&self) {
        let _committing = self.lock_commits();
        self.settle_failed_commits();
    }

    fn lock_commits(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_unsettled(&self) -> MutexGuard<'_, Vec<(Sequence, Arc<Ticket>)>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel invalidate what failed commits may have changed, as soon as that can be found
    /// out.
    fn settle_failed_commits(&self) {
        let mut unsettled = self.lock_unsettled();
        unsettled.retain(|(before, ticket)| match self.store.pending_invalidations(*before) {
            Ok(pending) => {
                self.push_pending(pending, ticket);
                false
            }
            Err(e) => {
                log::error!("what a commit changed can't be invalidated yet: {}", chain(&e));
                true
            }
        });
    }

    /// Tells every kernel cache of what earlier workers committed and may not
    /// have told. Doesn't wait: a lookup may have to be answered first.
    pub(crate) fn catch_up(&self) -> Result<()> {
        let last = self.store.last_change();
        // Of a new keeper's journal nothing is known: it has no mount that could know anything.
        let told = self.journal().told().unwrap_or(last);
        let ticket = self.ledger.begin(told);
        if told < last {
            self.push_pending(self.store.pending_invalidations(told)?, &ticket);
        }
        Ok(())
    }

    fn push_pending(&self, pending: PendingInvalidations, ticket: &Arc<Ticket>) {
        let pending = Arc::new(pending);
        for mount in self.all() {
            mount.push(Invalidation::Pending(pending.clone()), Some(ticket));
        }
    }
}
