//! Serving mounts of one store.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fuser::Session;
use wasmfs_store::{Changes, Store};

use crate::background::Later;
use crate::backing::memory::{Memory, Usage};
use crate::backing::passthrough::Opener;
use crate::error::{Error, Result};
use crate::fault;
use crate::filesystem::{Filesystem, chain};
use crate::fuse::adapter::{Layer, Parts};
use crate::fuse::handshake::{Connection, Handshake};
use crate::fuse::operation::Requests;
use crate::ipc::protocol::Suspect;
use crate::journal::requests::{InHand, Journal};
use crate::mount::point::Options;
use crate::serve::gc::Activity;
use crate::serve::invalidate::{Ledger, News, Queue, Telling, Ticket};

/// How long a commit waits for the kernel to be told of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The mounts of one store: at most one that is attached to a path, and those
/// that were detached but are still in use.
pub struct Mounts {
    store: Arc<Store>,
    filesystem: Arc<Filesystem>,
    in_hand: Arc<InHand>,
    ledger: Arc<Ledger>,
    opener: Arc<Opener>,
    memory: Arc<Memory>,
    later: Arc<Later>,
    requests: Arc<Requests>,
    mounts: Mutex<Vec<Arc<Mount>>>,
    /// One collection at a time.
    pub(crate) collecting: Mutex<()>,
    /// Held from before a commit until its news are in every queue: so whoever takes it after he
    /// saw a commit comes after that commit's news.
    telling: Mutex<()>,
    /// Commits that failed half-way, and of which it is not known yet what they changed.
    owed: Mutex<Vec<(u64, Arc<Ticket>)>>,
}

/// One mount.
pub struct Mount {
    /// Where it is, or was.
    pub mount_point: PathBuf,
    /// How it was made.
    pub options: Options,
    /// Its device number; see [`Mounted::device`](crate::mount::point::Mounted::device).
    pub device: (u32, u32),
    pub(crate) connection: Arc<Connection>,
    queue: Queue,
}

impl Mount {
    /// Whether it can still be found at its path.
    pub fn is_attached(&self) -> bool {
        self.connection.record.is_attached()
    }

    pub(crate) fn tell(&self, news: News, ticket: Option<&Arc<Ticket>>) -> Telling {
        self.queue.tell(news, ticket.cloned())
    }
}

impl Mounts {
    /// No mounts yet. What is in hand is noted in `journal`.
    pub(crate) fn new(store: Arc<Store>, journal: Journal, suspects: Vec<Suspect>) -> Mounts {
        let filesystem = Arc::new(Filesystem::new(store.clone()));
        let in_hand = Arc::new(InHand::new(journal, suspects));
        let ledger = Arc::new(Ledger::new(store.clone(), in_hand.clone()));
        let later = Arc::new(Later::default());
        let memory = Arc::new(Memory::new(store.clone()));
        let registered = in_hand.journal().backings().unwrap_or_else(|e| {
            log::error!("what is registered with the kernel can't be read: {e}");
            Default::default()
        });
        let opener = Arc::new(Opener::new(
            store.clone(),
            in_hand.clone(),
            memory.clone(),
            later.clone(),
            registered,
        ));
        let requests = Arc::default();
        let (mounts, collecting) = (Mutex::default(), Mutex::default());
        let (telling, owed) = (Mutex::default(), Mutex::default());
        Mounts {
            store,
            filesystem,
            in_hand,
            ledger,
            opener,
            memory,
            later,
            requests,
            mounts,
            collecting,
            telling,
            owed,
        }
    }

    /// The store they all show.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mount>>> {
        self.mounts.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The mounts that are served.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        self.lock().clone()
    }

    /// The mount that can be found at its path, if there is one.
    pub fn attached(&self) -> Option<Arc<Mount>> {
        self.all().into_iter().find(|mount| mount.is_attached())
    }

    /// The mount of a connection.
    pub(crate) fn mount(&self, connection: u32) -> Option<Arc<Mount>> {
        self.all().into_iter().find(|mount| mount.device.1 == connection)
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
    pub(crate) fn is_settled(&self, last: u64) -> bool {
        self.ledger.is_empty() && self.journal().told() == Some(last)
    }

    /// How much has happened since this process began to serve.
    pub(crate) fn activity(&self) -> Activity {
        Activity { requests: self.requests.total(), changes: self.store.last_change() }
    }

    /// How many requests of each kind this process has answered.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.requests.by_kind()
    }

    /// What is noted of requests in hand, for whoever comes next.
    pub(crate) fn journal(&self) -> &Journal {
        self.in_hand.journal()
    }

    /// Requests that were in the hands of workers when they died.
    pub(crate) fn suspects(&self) -> &[Suspect] {
        self.in_hand.suspects()
    }

    /// Prepares to serve a connection, up to what the kernel is to be answered
    /// if nothing was yet.
    pub(crate) fn prepare(&self, connection: &Connection) -> Result<Handshake<Layer>> {
        let layer = {
            let (filesystem, in_hand) = (self.filesystem.clone(), self.in_hand.clone());
            let (opener, requests) = (self.opener.clone(), self.requests.clone());
            let in_memory = connection.record.options.in_memory;
            let memory = in_memory.map(|budget| Arc::new(self.memory.claim(budget)));
            let later = self.later.clone();
            let (connection, terms) = (connection.name(), connection.record.terms());
            let parts = Parts { filesystem, in_hand, opener, memory, later, requests };
            Layer::new(parts, connection, terms)
        };
        let handshake = connection.prepare(layer)?;
        fault::strike("init", 0);
        Ok(handshake)
    }

    /// Serves a connection, whose FUSE_INIT is answered, with threads of its own
    /// until the last user is gone; then calls `ended`.
    pub(crate) fn serve(
        self: &Arc<Self>,
        connection: Connection,
        handshake: Handshake<Layer>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let session = handshake.connect(connection.device.as_fd()).map_err(Error::Session)?;
        if let Err(e) = connection.resend() {
            log::warn!(
                "this kernel can't send again what a dead worker had in hand (Linux 6.9 can): \
                 a request that was being answered when a worker dies is never answered ({e})"
            );
        }
        let connection = Arc::new(connection);
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

    fn run(&self, session: Session<Layer>, mount: &Arc<Mount>) {
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
        let telling = self.telling.lock().unwrap_or_else(|e| e.into_inner());
        self.pay_owed();
        let before = self.store.last_change();
        let ticket = self.ledger.begin(before);
        let committed = commit(&self.store);
        let news = match &committed {
            Ok((_, changes)) => News::Changes(changes.clone()),
            Err(_) => {
                // It may be in the history all the same.
                if self.store.last_change() != before {
                    self.owed.lock().unwrap_or_else(|e| e.into_inner()).push((before, ticket));
                    self.pay_owed();
                }
                return committed.map(|(result, _)| (result, false));
            }
        };
        let deadline = Instant::now() + PATIENCE;
        let tellings: Vec<_> =
            self.all().iter().map(|mount| mount.tell(news.clone(), Some(&ticket))).collect();
        drop((telling, ticket));
        let told = tellings.iter().all(|telling| telling.wait(deadline));
        committed.map(|(result, _)| (result, told))
    }

    /// Waits until the news of every commit that can be seen in the store are in every queue.
    pub(crate) fn wait_for_news(&self) {
        let _telling = self.telling.lock().unwrap_or_else(|e| e.into_inner());
        self.pay_owed();
    }

    /// Tells of what failed commits may have changed, as soon as that can be found out.
    fn pay_owed(&self) {
        let mut owed = self.owed.lock().unwrap_or_else(|e| e.into_inner());
        owed.retain(|(before, ticket)| match self.store.untold_since(*before) {
            Ok(untold) => {
                let untold = Arc::new(untold);
                for mount in self.all() {
                    mount.tell(News::Untold(untold.clone()), Some(ticket));
                }
                false
            }
            Err(e) => {
                log::error!("what a commit changed can't be told yet: {}", chain(&e));
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
            let untold = Arc::new(self.store.untold_since(told)?);
            for mount in self.all() {
                mount.tell(News::Untold(untold.clone()), Some(&ticket));
            }
        }
        Ok(())
    }
}

/// Makes a panic in any thread end the process, with its message and backtrace
/// in the log: a server that lost one thread would leave a mount that hangs.
/// Call it once the store is open, since opening a damaged sled panics and is
/// recovered from.
///
/// If it was sled that panicked, `distrust` is called before the end; it must
/// not wait for anything.
pub fn abort_on_panic(distrust: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        if wasmfs_store::panics_are_caught() {
            return log::error!("{panic}");
        }
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        log::error!("{panic}\n{backtrace}");
        let in_sled = panic.location().is_some_and(|at| at.file().contains("/sled-"));
        // A frame is named by its function, or by its file.
        if in_sled || backtrace.contains("sled::") || backtrace.contains("/sled-") {
            distrust();
        }
        std::process::abort();
    }));
}
