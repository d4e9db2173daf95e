//! The worker's side of being kept: what its keeper tells it, and what it hands
//! on when another keeper comes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketType;
use wasmfs_store::{Sha, Store};

use crate::backing::memory::{Holder, InMemory};
use crate::backing::passthrough::{Place, Registrar};
use crate::error::{Error, Result};
use crate::fuse::adapter::Layer;
use crate::fuse::handshake::{Connection, Handshake};
use crate::ipc::protocol::{
    Channel, KeeperStatus, MAX_DESCRIPTORS, Message, Record, hand_over_held, protocol, unexpected,
};
use crate::ipc::socket as packets;
use crate::mount::point as mount;
use crate::mount::point::Options;
use crate::serve::mounts::{Mount, Mounts};
use crate::supervise::handover::Charge;

/// Where a worker can be found by a new keeper, in the store's directory.
pub(crate) const KEEPER_SOCKET: &str = "keeper.sock";
/// How long a worker that serves waits for its keeper to know.
const ACKNOWLEDGMENT: Duration = Duration::from_secs(1);
/// How often a keeper that has to answer is asked again, and after how long.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const ASKED_LONG_AGO: Duration = Duration::from_millis(500);
/// How long a keeper whose socket is full is given each time, and in all.
const FULL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a worker without a keeper looks whether it is over.
const UNGUARDED: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

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
    lock: OwnedFd,
    listener: OwnedFd,
    state: Mutex<State>,
    on_event: Box<dyn Fn(Event) + Send + Sync>,
}

struct State {
    /// The keeper's end, while there is a keeper.
    keeper: Option<Arc<Channel>>,
    /// What the last keeper said of itself.
    kept: Option<KeeperStatus>,
    /// Mounts that were asked for.
    requests: HashMap<u64, (Sender<Result<()>>, Options)>,
    next_request: u64,
    /// The end was decided; there is nothing more to hear.
    over: bool,
    /// New mounts whose FUSE_INIT the keeper has to answer.
    unanswered: HashMap<u32, Unanswered>,
    /// Files that the keeper is to register.
    backing: HashMap<Place, OwnedFd>,
    /// When it was last asked to register anything while it had not answered.
    asked: Instant,
    /// Dropped when the keeper has heard that this worker serves, or is gone.
    acknowledged: Option<Sender<()>>,
}

struct Unanswered {
    connection: Connection,
    handshake: Handshake<Layer>,
    request: Option<u64>,
}

impl Worker {
    /// Serves what it was given, and says so. Whatever the keeper wants from
    /// then on goes to `on_event`, which must not wait.
    pub fn start(
        charge: Charge,
        store: Arc<Store>,
        on_event: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Arc<Worker>> {
        let Charge { channel, journal, lock, listener, connections, suspects, held, .. } = charge;
        let keeper = Arc::new(channel);
        // The place where a new keeper finds it, should this one be lost.
        let door = packets::listen(store.dir(), KEEPER_SOCKET, SocketType::SEQPACKET)
            .inspect_err(|e| {
                // On a disk that can't be written hosts are served all the same.
                log::error!("no new keeper will find this worker: {e}");
            })
            .ok();
        let (acknowledged, acknowledgment) = std::sync::mpsc::channel();
        let state = State {
            keeper: Some(keeper.clone()),
            kept: charge.kept,
            requests: HashMap::new(),
            next_request: 1,
            over: false,
            unanswered: HashMap::new(),
            backing: HashMap::new(),
            asked: Instant::now(),
            acknowledged: Some(acknowledged),
        };
        let worker = Arc::new(Worker {
            mounts: Arc::new(Mounts::new(store, journal, suspects)),
            lock,
            listener,
            state: Mutex::new(state),
            on_event: Box::new(on_event),
        });
        let registrar: Weak<dyn Registrar> = Arc::<Worker>::downgrade(&worker);
        worker.mounts.opener().set_registrar(registrar);
        let holder: Weak<dyn Holder> = Arc::<Worker>::downgrade(&worker);
        worker.mounts.memory().set_holder(holder);
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
            Some(policy) => worker.mounts.start_policy(policy).map_err(Error::Session),
            None => Ok(()),
        });
        if let Err(e) = started {
            log::error!("nothing is collected by itself: {}", crate::filesystem::chain(&e));
        }
        worker.say(&Message::Ready, &[]);
        // Whoever asks this worker how often it was replaced is to count this time as well.
        let _ = acknowledgment.recv_timeout(ACKNOWLEDGMENT);
        Ok(worker)
    }

    /// The mounts it serves.
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// Who keeps it; `None` if nobody does.
    pub fn keeper(&self) -> Option<KeeperStatus> {
        let state = self.state();
        state.keeper.as_ref().and(state.kept.clone())
    }

    /// How often the worker was replaced until now.
    pub fn replacements(&self) -> u64 {
        self.state().kept.as_ref().map_or(0, |kept| kept.replacements)
    }

    /// How long the last replacement left requests waiting, in microseconds.
    pub fn last_pause_us(&self) -> Option<u64> {
        self.state().kept.as_ref().and_then(|kept| kept.last_pause_us)
    }

    /// Mounts at `mount_point`, which must be absolute.
    pub fn mount(&self, mount_point: &Path, options: Options) -> Result<()> {
        // It may ask another mount, which may not answer: not with a lock held.
        if self.mounts.attached().is_none() {
            mount::prepare(mount_point)?;
        }
        let (sender, answer) = channel();
        let mut state = self.state();
        let request = state.next_request;
        state.next_request += 1;
        state.requests.insert(request, (sender, options));
        drop(state);
        let mount_point = mount_point.to_owned();
        if !self.say(&Message::Mount { request, mount_point, options }, &[]) {
            self.state().requests.remove(&request);
            return Err(Error::Unguarded);
        }
        answer.recv().unwrap_or(Err(Error::Unguarded))
    }

    /// Asks for this worker to be replaced by what is on disk now.
    pub fn reload(&self) -> Result<()> {
        if self.say(&Message::Reload, &[]) { Ok(()) } else { Err(Error::Unguarded) }
    }

    /// Says that the commands have ended.
    pub fn stopped(&self) {
        self.say(&Message::Stopped, &[]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Says something to the keeper, and whether there is one to hear it.
    fn say(&self, message: &Message, with: &[BorrowedFd<'_>]) -> bool {
        let keeper = self.state().keeper.clone();
        keeper.is_some_and(|keeper| match keeper.send(message, with) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("the keeper doesn't hear: {e}");
                false
            }
        })
    }

    /// The same, for as long as a keeper takes that has much to hear. Not in a thread that
    /// answers the kernel, or hears the keeper.
    fn insist(&self, message: &Message, with: &[BorrowedFd<'_>]) -> bool {
        let start = Instant::now();
        loop {
            let Some(keeper) = self.state().keeper.clone() else { return false };
            match keeper.send(message, with) {
                Ok(()) => return true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                    std::thread::sleep(FULL);
                }
                Err(e) => {
                    log::warn!("the keeper doesn't hear: {e}");
                    return false;
                }
            }
        }
    }

    /// Hears the keeper, and whoever wants to become it.
    fn listen(self: &Arc<Self>, door: Option<&OwnedFd>) {
        while !self.state().over {
            let keeper = self.state().keeper.clone();
            let limit = match &keeper {
                // Without a keeper it is not here that the end is heard of.
                None => Some(&UNGUARDED),
                Some(_) if !self.state().backing.is_empty() => Some(&AGAIN),
                Some(_) => None,
            };
            let doors = door.iter().map(|door| PollFd::new(*door, PollFlags::IN));
            let keepers = keeper.iter().map(|k| PollFd::from_borrowed_fd(k.as_fd(), PollFlags::IN));
            let mut waiting: Vec<_> = doors.chain(keepers).collect();
            if let Err(e) = poll(&mut waiting, limit)
                && e != rustix::io::Errno::INTR
            {
                log::error!("waiting for the keeper: {e}");
                std::thread::sleep(std::time::Duration::from_secs(1));
                continue;
            }
            if let Some(keeper) = &keeper {
                self.ask_again(keeper);
            }
            let mut heard = waiting.iter().map(|waited| !waited.revents().is_empty());
            let someone = door.filter(|_| heard.next() == Some(true));
            let said = heard.next() == Some(true);
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
            if let Some(door) = someone
                && let Err(e) = self.welcome(door)
            {
                log::warn!("a new keeper could not take over: {e}");
            }
        }
    }

    fn lose_keeper(self: &Arc<Self>) {
        let mut state = self.state();
        (state.keeper, state.acknowledged) = (None, None);
        state.requests.clear();
        let unanswered = std::mem::take(&mut state.unanswered);
        let backing = std::mem::take(&mut state.backing);
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
        for (place, file) in backing {
            self.register(place, file);
        }
        self.end_if_unused();
    }

    /// Asks the keeper again for what it has not answered in a while: a socket that is full loses
    /// what is sent. Asking twice does nothing.
    fn ask_again(&self, keeper: &Channel) {
        let mut state = self.state();
        if state.backing.is_empty() || state.asked.elapsed() < ASKED_LONG_AGO {
            return;
        }
        state.asked = Instant::now();
        for ((connection, inode), file) in &state.backing {
            let asked = Message::Back { connection: *connection, inode: *inode };
            if keeper.send(&asked, &[file.as_fd()]).is_err() {
                break;
            }
        }
    }

    /// Without a keeper to say so, a worker ends by itself with its last mount.
    fn end_if_unused(&self) {
        if self.state().keeper.is_none() && self.mounts.all().is_empty() {
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
                let mut state = self.state();
                (state.kept, state.acknowledged) = (Some(kept), None);
            }
            Message::Connection { record, request } => {
                let Some(device) = descriptors.pop() else { return };
                let place = record.mount_point.clone();
                let asked = request.and_then(|r| Some(self.state().requests.get(&r)?.1));
                let result = match asked.is_none_or(|asked| asked == record.options) {
                    true => self.take_on(Connection { record, device }, request),
                    false => Err(Error::OldKeeper),
                };
                if let Err(error) = result {
                    log::error!("serving a mount: {error}");
                    mount::detach(&place);
                    self.answer(request, Err(error));
                }
            }
            Message::InitAnswered { connection } => {
                let new = self.state().unanswered.remove(&connection);
                if let Some(Unanswered { mut connection, handshake, request }) = new {
                    connection.record.reply = Some(handshake.reply.clone());
                    let place = connection.record.mount_point.clone();
                    let result = self.serve(connection, handshake);
                    self.answer(request, result.inspect_err(|_| mount::detach(&place)));
                }
            }
            Message::MountFailed { request, why } => {
                self.answer(Some(request), Err(Error::Explained(why)));
            }
            Message::Backed { connection, inode, id } => {
                let place = (connection, inode);
                self.state().backing.remove(&place);
                self.mounts.opener().registered(place, id);
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
            // Whoever asked may have gone.
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
        self.say(&Message::InitReply { connection: name, reply, request }, &[]);
        Ok(())
    }

    fn serve(self: &Arc<Self>, connection: Connection, handshake: Handshake<Layer>) -> Result<()> {
        let place = connection.record.mount_point.clone();
        let worker = self.clone();
        let connection_number = connection.name();
        let ended = move || {
            let heard = worker.say(&Message::Gone, &[]);
            let guarded = heard || worker.state().keeper.is_some();
            if !guarded && let Err(e) = worker.mounts.journal().forget_backings(connection_number) {
                log::warn!("forgetting what was registered: {e}");
            }
            worker.end_if_unused();
        };
        self.mounts.serve(connection, handshake, ended)?;
        log::info!("serving the mount at {}", place.display());
        Ok(())
    }

    /// Lets whoever knocks take over from the keeper.
    fn welcome(&self, door: &OwnedFd) -> io::Result<()> {
        let new = Arc::new(Channel::from(packets::accept(door)?));
        packets::check_peer(new.as_fd())?;
        let mut state = self.state();
        if state.over || !state.unanswered.is_empty() {
            return Err(io::Error::other("a mount is just being made"));
        }
        let mounts: Vec<Arc<Mount>> = self.mounts.all();
        if mounts.is_empty() {
            return Err(io::Error::other("there is no mount yet"));
        }
        let charge = Message::Charge {
            protocol: protocol(mounts.iter().map(|mount| &mount.options)),
            connections: mounts.len(),
            replacements: state.kept.as_ref().map_or(0, |kept| kept.replacements),
            last_pause_us: state.kept.as_ref().and_then(|kept| kept.last_pause_us),
            suspects: self.mounts.suspects().to_vec(),
            successor: false,
        };
        // First: should this process die half-way, there is one keeper at most.
        if let Some(old) = state.keeper.replace(new.clone()) {
            // If it doesn't hear, it is gone.
            let _ = old.send(&Message::Released, &[]);
        }
        state.requests.clear();
        state.acknowledged = None;
        let descriptors = [self.lock.as_fd(), self.listener.as_fd(), self.mounts.journal().as_fd()];
        new.send(&charge, &descriptors)?;
        for mount in &mounts {
            let record: Record = mount.connection.record.clone();
            let message = Message::Connection { record, request: None };
            new.send(&message, &[mount.connection.device.as_fd()])?;
        }
        if let Err(e) = hand_over_held(&new, &self.mounts.memory().held()) {
            log::warn!("the new keeper doesn't hold what is in memory: {e}");
        }
        let backing = std::mem::take(&mut state.backing);
        drop(state);
        log::info!("another keeper has taken over");
        for (place, file) in backing {
            self.register(place, file);
        }
        (self.on_event)(Event::KeeperGone);
        Ok(())
    }
}

/// By the keeper, or without one by itself.
impl Registrar for Worker {
    fn register(&self, place: Place, file: OwnedFd) {
        let (connection, inode) = place;
        loop {
            let mut state = self.state();
            let Some(keeper) = state.keeper.clone() else { break };
            let sent = keeper.send(&Message::Back { connection, inode }, &[file.as_fd()]);
            if sent.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                drop(state);
                std::thread::sleep(FULL);
                continue;
            }
            // If it is lost, that is noticed, and then this is done again.
            if state.backing.is_empty() {
                state.asked = Instant::now();
            }
            state.backing.insert(place, file);
            return;
        }
        let id = self.mounts.mount(connection).ok_or(io::ErrorKind::NotConnected.into());
        let id = id.and_then(|mount| {
            let device = mount.connection.device.as_fd();
            self.mounts.journal().register(connection, device, inode, file.as_fd())
        });
        self.mounts.opener().registered(place, id.map_err(|e| e.to_string()));
    }

    fn unregister(&self, (connection, inode): Place) {
        // A keeper that doesn't hear keeps the registration, and some space, until the mount ends.
        if self.insist(&Message::Unback { connection, inode }, &[]) || self.state().keeper.is_some()
        {
            return;
        }
        let Some(mount) = self.mounts.mount(connection) else { return };
        let device = mount.connection.device.as_fd();
        if let Err(e) = self.mounts.journal().unregister(connection, device, inode) {
            log::warn!("what was registered for inode {inode}: {e}");
        }
    }
}

/// The keeper; without one, nobody.
impl Holder for Worker {
    fn hold(&self, payload: InMemory, file: &File) {
        self.insist(&Message::Held { payloads: vec![payload] }, &[file.as_fd()]);
    }

    fn let_go(&self, payloads: &[Sha]) {
        for some in payloads.chunks(MAX_DESCRIPTORS) {
            self.insist(&Message::LetGo { payloads: some.to_vec() }, &[]);
        }
    }
}

/// Takes the keeper's door away, when the store is nobody's any more.
pub(crate) fn remove_door(dir: &Path) {
    // It may never have been there.
    let _ = fs::remove_file(dir.join(KEEPER_SOCKET));
}
