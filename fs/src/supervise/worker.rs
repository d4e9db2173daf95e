//! The worker's side of being kept: what its keeper tells it, and what it hands
//! on when another keeper comes.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketType;
use wasmfs_store::Store;

use super::door::KEEPER_SOCKET;
use super::handover::Handover;
use super::keeper_link::KeeperLink;
use super::newcomers::Newcomers;
use crate::backing::{MountInode, Registrar};
use crate::error::{Error, Result, chain};
use crate::fuse::{Adapter, Connection, Handshake};
use crate::ipc::{Channel, KeeperStatus, Message, hand_over_held, listen, protocol, unexpected};
use crate::journal::InFlightRequests;
use crate::mount::{Options, detach, prepare};
use crate::serve::{Mount, Mounts, start_policy};

/// How long a worker that serves waits for its keeper to know.
const ACKNOWLEDGMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a worker looks whether a keeper that has to answer did.
const ANSWER_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How often a worker without a keeper looks whether it is over.
const UNGUARDED_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// The pause after a wait that failed.
const POLL_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// What the keeper wants, or what happened to it.
#[derive(Debug)]
pub enum Event {
    /// End the commands under way, then call [`Worker::stopped`]; go on serving mounts.
    Stop,
    /// Close the store and end: the last mount is gone.
    End,
    /// A reload that was asked for is not possible, for this reason.
    ReloadFailed(String),
    /// The keeper is gone, or another has taken over: what it was asked for is void.
    KeeperGone,
}

/// A worker that serves.
pub struct Worker {
    mounts: Arc<Mounts>,
    link: Arc<KeeperLink>,
    lock: OwnedFd,
    listener: OwnedFd,
    state: Mutex<WorkerState>,
    on_event: Box<dyn Fn(Event) + Send + Sync>,
}

struct WorkerState {
    /// Mounts that were asked for.
    requests: HashMap<u64, (Sender<Result<()>>, Options)>,
    next_request: u64,
    /// The end was decided; there is nothing more to hear.
    over: bool,
    /// New mounts whose FUSE_INIT the keeper has to answer.
    unanswered: HashMap<u32, Unanswered>,
    /// Dropped when the keeper has heard that this worker serves, or is gone.
    acknowledged: Option<Sender<()>>,
}

struct Unanswered {
    connection: Connection,
    handshake: Handshake<Adapter>,
    request: Option<u64>,
}

impl Worker {
    /// Serves what it was given, and says so. Whatever the keeper wants from
    /// then on goes to `on_event`, which must not wait.
    pub fn start(
        handover: Handover,
        store: Arc<Store>,
        on_event: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Arc<Worker>> {
        let Handover { channel, journal, lock, listener, connections, suspects, held, .. } =
            handover;
        let in_flight = Arc::new(InFlightRequests::new(journal, suspects));
        let link = KeeperLink::new(Arc::new(channel), handover.keeper, in_flight.clone());
        let link = Arc::new(link);
        // The place where a new keeper finds it, should this one be lost.
        let door = listen(store.open_dir(), KEEPER_SOCKET, SocketType::SEQPACKET)
            .inspect_err(|e| {
                // On a disk that can't be written hosts are served all the same.
                log::error!("no new keeper will find this worker: {}", chain(e));
            })
            .ok();
        let (acknowledged, acknowledgment) = std::sync::mpsc::channel();
        let state = WorkerState {
            requests: HashMap::new(),
            next_request: 1,
            over: false,
            unanswered: HashMap::new(),
            acknowledged: Some(acknowledged),
        };
        let worker = Arc::new(Worker {
            mounts: Arc::new(Mounts::new(store, in_flight, link.clone(), link.clone())),
            link,
            lock,
            listener,
            state: Mutex::new(state),
            on_event: Box::new(on_event),
        });
        for (payload, file) in held {
            worker.mounts.memory().adopt(payload, file);
        }
        // Until every mount has been taken on, none of them is the last to need it.
        let claim = worker.mounts.memory().claim(0);
        for connection in connections {
            worker.take_on(connection, None)?;
        }
        drop(claim);
        let listening = worker.clone();
        std::thread::Builder::new()
            .name("kept".into())
            .spawn(move || listening.listen(door.as_ref()))
            .map_err(Error::Session)?;
        worker.mounts.catch_up()?;
        let policy = worker.mounts.store().settings().policy().map_err(Error::from);
        let started = policy.and_then(|policy| match policy {
            Some(policy) => start_policy(&worker.mounts, policy).map_err(Error::Session),
            None => Ok(()),
        });
        if let Err(e) = started {
            log::error!("nothing is collected by itself: {}", chain(&e));
        }
        worker.link.say(&Message::Ready, &[]);
        // Whoever asks this worker how often it was replaced is to count this time as well.
        let _ = acknowledgment.recv_timeout(ACKNOWLEDGMENT_TIMEOUT);
        Ok(worker)
    }

    /// The mounts it serves.
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// Who keeps it; `None` if nobody does.
    pub fn keeper(&self) -> Option<KeeperStatus> {
        self.link.keeper().and(self.link.status())
    }

    /// How often the worker was replaced until now.
    pub fn replacements(&self) -> u64 {
        self.link.status().map_or(0, |keeper| keeper.replacements)
    }

    /// How long the last replacement left requests waiting, in microseconds.
    pub fn last_pause_us(&self) -> Option<u64> {
        self.link.status().and_then(|keeper| keeper.last_pause_us)
    }

    /// Mounts at `mount_point`, which must be absolute.
    pub fn mount(&self, mount_point: &Path, options: Options) -> Result<()> {
        // It may ask another mount, which may not answer: not with a lock held.
        if self.mounts.attached().is_none() {
            prepare(mount_point, &options)?;
        }
        let (sender, answer) = channel();
        let mut state = self.state();
        let request = state.next_request;
        state.next_request += 1;
        state.requests.insert(request, (sender, options));
        drop(state);
        let mount_point = mount_point.to_owned();
        if !self.link.say(&Message::Mount { request, mount_point, options }, &[]) {
            self.state().requests.remove(&request);
            return Err(Error::Unguarded);
        }
        answer.recv().unwrap_or(Err(Error::Unguarded))
    }

    /// Asks for this worker to be replaced by what is on disk now.
    pub fn reload(&self) -> Result<()> {
        if self.link.say(&Message::Reload, &[]) { Ok(()) } else { Err(Error::Unguarded) }
    }

    /// Says that the commands have ended.
    pub fn stopped(&self) {
        self.link.say(&Message::Stopped, &[]);
    }

    fn state(&self) -> MutexGuard<'_, WorkerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the keeper, and a process that wants to become the keeper.
    fn listen(self: &Arc<Self>, door: Option<&OwnedFd>) {
        let mut newcomers = Newcomers::default();
        while !self.state().over {
            let keeper = self.link.keeper();
            let limit = match &keeper {
                // Without a keeper it is not here that the end is heard of.
                None => Some(&UNGUARDED_INTERVAL),
                Some(_) if self.link.awaits_answers() || !newcomers.is_empty() => {
                    Some(&ANSWER_INTERVAL)
                }
                Some(_) => None,
            };
            let doors = door.iter().map(|door| PollFd::new(*door, PollFlags::IN));
            let keepers = keeper.iter().map(|k| PollFd::from_borrowed_fd(k.as_fd(), PollFlags::IN));
            let mut waiting: Vec<_> = doors.chain(keepers).chain(newcomers.polled()).collect();
            if let Err(e) = poll(&mut waiting, limit)
                && e != rustix::io::Errno::INTR
            {
                log::error!("waiting for the keeper: {e}");
                std::thread::sleep(POLL_ERROR_PAUSE);
                continue;
            }
            if let Some(keeper) = &keeper {
                for at in self.link.ask_again(keeper) {
                    let failed = Err("the keeper doesn't answer".to_owned());
                    self.mounts.opener().registered(at, failed);
                }
            }
            let heard: Vec<_> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(waiting);
            let mut heard = heard.into_iter();
            let someone = door.filter(|_| heard.next() == Some(true));
            let said = keeper.is_some() && heard.next() == Some(true);
            let proven = newcomers.heard(heard);
            if let (true, Some(keeper)) = (said, &keeper) {
                match keeper.receive() {
                    Ok(Some((message, descriptors))) => self.hear(message, descriptors),
                    Ok(None) => self.lose_keeper(),
                    Err(e) => {
                        log::error!("hearing the keeper: {e}");
                        self.lose_keeper();
                    }
                }
            }
            if let Some(door) = someone {
                newcomers.accept(door);
            }
            for new in proven {
                if let Err(e) = self.welcome(new) {
                    log::warn!("a new keeper could not take over: {e}");
                }
            }
        }
    }

    fn lose_keeper(self: &Arc<Self>) {
        let asked = self.link.lose_keeper();
        let mut state = self.state();
        state.acknowledged = None;
        state.requests.clear();
        let unanswered = std::mem::take(&mut state.unanswered);
        drop(state);
        log::error!(
            "unguarded: the keeper is gone. The mount is served, but nobody will replace this \
             process if it dies; `wasmfs mount` guards it again"
        );
        (self.on_event)(Event::KeeperGone);
        for (_, mut new) in unanswered {
            let reply = new.handshake.reply.clone();
            if let Err(e) = new.connection.answer_init(&reply) {
                log::error!("answering FUSE_INIT: {e}");
            } else if let Err(e) = self.serve(new.connection, new.handshake) {
                log::error!("serving a mount: {e}");
            }
        }
        self.register_all(asked);
        self.end_if_unused();
    }

    /// Without a keeper to say so, a worker ends by itself with its last mount.
    fn end_if_unused(&self) {
        if self.link.keeper().is_none() && self.mounts.all().is_empty() {
            self.end();
        }
    }

    fn end(&self) {
        self.state().over = true;
        (self.on_event)(Event::End);
    }

    fn hear(self: &Arc<Self>, message: Message, mut descriptors: Vec<OwnedFd>) {
        match message {
            Message::Kept(kept) => {
                self.link.set_status(kept);
                self.state().acknowledged = None;
            }
            Message::Connection { record, request } => {
                let Some(device) = descriptors.pop() else { return };
                let (place, number) = (record.mount_point.clone(), record.device);
                let asked = request.and_then(|r| Some(self.state().requests.get(&r)?.1));
                let result = match asked.is_none_or(|asked| asked == record.options) {
                    true => self.take_on(Connection { record, device }, request),
                    false => Err(Error::OldKeeper),
                };
                if let Err(error) = result {
                    log::error!("serving a mount: {error}");
                    detach(&place, number);
                    self.answer(request, Err(error));
                }
            }
            Message::InitAnswered { connection } => {
                let new = self.state().unanswered.remove(&connection);
                if let Some(Unanswered { mut connection, handshake, request }) = new {
                    connection.record.reply = Some(handshake.reply.clone());
                    let place = connection.record.mount_point.clone();
                    let number = connection.record.device;
                    let result = self.serve(connection, handshake);
                    self.answer(request, result.inspect_err(|_| detach(&place, number)));
                }
            }
            Message::MountFailed { request, why } => {
                self.answer(Some(request), Err(Error::Explained(why)));
            }
            Message::Backed { connection, inode, id } => {
                let at = MountInode { connection, inode };
                self.link.answered(at);
                self.mounts.opener().registered(at, id);
            }
            Message::ReloadFailed { why } => (self.on_event)(Event::ReloadFailed(why)),
            Message::Stop => (self.on_event)(Event::Stop),
            Message::End => self.end(),
            message => log::warn!("{}", unexpected(&message)),
        }
    }

    fn answer(&self, request: Option<u64>, result: Result<()>) {
        if let Some(request) = request
            && let Some((waiting, _)) = self.state().requests.remove(&request)
        {
            // The asker may have gone.
            let _ = waiting.send(result);
        }
    }

    /// Serves a connection, at once if FUSE_INIT is answered already.
    fn take_on(self: &Arc<Self>, connection: Connection, request: Option<u64>) -> Result<()> {
        if connection.record.reply.is_none() {
            // Whatever was known of another mount with this number is of no use for a new one.
            self.mounts.opener().forget_mount(connection.name());
        }
        let handshake = self.mounts.prepare(&connection)?;
        if connection.record.reply.is_some() {
            return self.serve(connection, handshake);
        }
        let (name, reply) = (connection.name(), handshake.reply.clone());
        let new = Unanswered { connection, handshake, request };
        self.state().unanswered.insert(name, new);
        self.link.say(&Message::InitReply { connection: name, reply, request }, &[]);
        Ok(())
    }

    fn serve(
        self: &Arc<Self>,
        connection: Connection,
        handshake: Handshake<Adapter>,
    ) -> Result<()> {
        let place = connection.record.mount_point.clone();
        let connection = Arc::new(connection);
        self.link.add_connection(&connection);
        let (worker, served) = (self.clone(), connection.clone());
        let ended = move || {
            worker.link.remove_connection(&served);
            let heard = worker.link.say(&Message::Gone, &[]);
            let guarded = heard || worker.link.keeper().is_some();
            if !guarded && let Err(e) = worker.mounts.journal().forget_registrations(served.name())
            {
                log::warn!("forgetting what was registered: {e}");
            }
            worker.end_if_unused();
        };
        let result = self.mounts.serve(connection.clone(), handshake, ended);
        result.inspect_err(|_| self.link.remove_connection(&connection))?;
        log::info!("serving the mount at {}", place.display());
        Ok(())
    }

    /// Has files registered, by the keeper or, without one, here.
    fn register_all(&self, files: HashMap<MountInode, OwnedFd>) {
        for (at, file) in files {
            if let Some(result) = self.link.register(at, file) {
                self.mounts.opener().registered(at, result);
            }
        }
    }

    /// Lets a new keeper take over.
    fn welcome(&self, new: Channel) -> io::Result<()> {
        let new = Arc::new(new);
        let mut state = self.state();
        if state.over || !state.unanswered.is_empty() {
            return Err(io::Error::other("a mount is just being made"));
        }
        let mounts: Vec<Arc<Mount>> = self.mounts.all();
        if mounts.is_empty() {
            return Err(io::Error::other("there is no mount yet"));
        }
        let kept = self.link.status();
        let handover = Message::Handover {
            protocol: protocol(mounts.iter().map(|mount| &mount.options)),
            connections: mounts.len(),
            replacements: kept.as_ref().map_or(0, |kept| kept.replacements),
            last_pause_us: kept.and_then(|kept| kept.last_pause_us),
            suspects: self.mounts.suspects().to_vec(),
            successor: false,
        };
        state.requests.clear();
        state.acknowledged = None;
        let asked = self.link.change_keeper(&new, || {
            let own = [self.lock.as_fd(), self.listener.as_fd(), self.mounts.journal().as_fd()];
            new.send(&handover, &own)?;
            for mount in &mounts {
                let record = mount.connection.record.clone();
                let message = Message::Connection { record, request: None };
                new.send(&message, &[mount.connection.device.as_fd()])?;
            }
            if let Err(e) = hand_over_held(&new, &self.mounts.memory().held()) {
                log::warn!("the new keeper doesn't hold what is in memory: {e}");
            }
            Ok(())
        })?;
        drop(state);
        log::info!("another keeper has taken over");
        self.register_all(asked);
        (self.on_event)(Event::KeeperGone);
        Ok(())
    }
}
