//! A worker's link to its keeper: what it says to it, and what it has it do.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmfs_store::Sha;

use crate::backing::{InMemory, MountInode, PayloadKeeper, Registered, Registrar};
use crate::fuse::Connection;
use crate::ipc::{Channel, KeeperStatus, MAX_DESCRIPTORS, Message};
use crate::journal::{InFlightRequests, Journal};

/// After how long a keeper that has not answered is asked again.
const REGISTRATION_TIMEOUT: Duration = Duration::from_millis(500);
/// After how long a keeper that still has not answered is not asked any more.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(10);
/// How long a keeper whose socket is full is given each time.
const FULL_SOCKET_PAUSE: Duration = Duration::from_millis(20);
/// How long it is given in all.
const FULL_SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// The link to a keeper, while there is one. Without one, a worker registers files by itself, and
/// nobody else holds payloads.
pub(super) struct KeeperLink {
    in_flight: Arc<InFlightRequests>,
    state: Mutex<LinkState>,
    /// The connections that are served, by name.
    connections: Mutex<HashMap<u32, Arc<Connection>>>,
}

struct LinkState {
    /// The keeper's end, while there is a keeper.
    keeper: Option<Arc<Channel>>,
    /// What the last keeper said of itself.
    status: Option<KeeperStatus>,
    /// Files that the keeper is to register, with when it was asked first.
    asked: HashMap<MountInode, (OwnedFd, Instant)>,
    /// When it was last asked to register anything while it had not answered.
    asked_at: Instant,
}

impl KeeperLink {
    pub(super) fn new(
        keeper: Arc<Channel>,
        status: Option<KeeperStatus>,
        in_flight: Arc<InFlightRequests>,
    ) -> KeeperLink {
        let (keeper, asked) = (Some(keeper), HashMap::new());
        let state = LinkState { keeper, status, asked, asked_at: Instant::now() };
        KeeperLink { in_flight, state: Mutex::new(state), connections: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> &Journal {
        self.in_flight.journal()
    }

    /// The keeper's end; `None` if there is no keeper.
    pub(super) fn keeper(&self) -> Option<Arc<Channel>> {
        self.state().keeper.clone()
    }

    /// What the last keeper said of itself.
    pub(super) fn status(&self) -> Option<KeeperStatus> {
        self.state().status.clone()
    }

    /// Notes what the keeper says of itself.
    pub(super) fn set_status(&self, status: KeeperStatus) {
        self.state().status = Some(status);
    }

    /// Notes that the keeper is gone. Gives what it was asked to register and has not answered.
    pub(super) fn lose_keeper(&self) -> HashMap<MountInode, OwnedFd> {
        let mut state = self.state();
        state.keeper = None;
        files(std::mem::take(&mut state.asked))
    }

    /// Has `new` take over: the keeper before is released, and `hand_over` sends the new one all
    /// that it needs. It expects this first, so nobody else says anything meanwhile. Gives what the
    /// one before was asked to register and has not answered; if the handover fails, that stays,
    /// until this keeper is lost.
    pub(super) fn change_keeper(
        &self,
        new: &Arc<Channel>,
        hand_over: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<HashMap<MountInode, OwnedFd>> {
        let mut state = self.state();
        // First: should this process die half-way, there is one keeper at most.
        if let Some(old) = state.keeper.replace(new.clone()) {
            // If sending fails, the keeper is gone.
            let _ = old.send(&Message::Released, &[]);
        }
        hand_over()?;
        Ok(files(std::mem::take(&mut state.asked)))
    }

    /// Says something to the keeper, and whether there is one that heard it.
    pub(super) fn say(&self, message: &Message, with: &[BorrowedFd<'_>]) -> bool {
        self.keeper().is_some_and(|keeper| match keeper.send(message, with) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("sending to the keeper failed: {e}");
                false
            }
        })
    }

    /// The same, for as long as a keeper takes that has much to hear. Not in a thread that
    /// answers the kernel, or hears the keeper.
    fn insist(&self, message: &Message, with: &[BorrowedFd<'_>]) -> bool {
        let deadline = Instant::now() + FULL_SOCKET_TIMEOUT;
        loop {
            let Some(keeper) = self.keeper() else { return false };
            match keeper.send(message, with) {
                Ok(()) => return true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(FULL_SOCKET_PAUSE);
                }
                Err(e) => {
                    log::warn!("sending to the keeper failed: {e}");
                    return false;
                }
            }
        }
    }

    /// Whether the keeper has registrations to answer.
    pub(super) fn awaits_answers(&self) -> bool {
        !self.state().asked.is_empty()
    }

    /// Notes that the keeper has answered.
    pub(super) fn answered(&self, at: MountInode) {
        self.state().asked.remove(&at);
    }

    /// Asks the keeper again for what it has not answered in a while: a socket that is full loses
    /// what is sent. Asking twice does nothing.
    /// Gives what it was asked for too long, and is not any more.
    pub(super) fn ask_again(&self, keeper: &Channel) -> Vec<MountInode> {
        let mut state = self.state();
        if state.asked.is_empty() || state.asked_at.elapsed() < REGISTRATION_TIMEOUT {
            return Vec::new();
        }
        state.asked_at = Instant::now();
        let given_up =
            state.asked.extract_if(|_, (_, since)| since.elapsed() >= REGISTRATION_LIMIT);
        let given_up = given_up.map(|(at, _)| at).collect();
        for (MountInode { connection, inode }, (file, _)) in &state.asked {
            let message = Message::Back { connection: *connection, inode: *inode };
            if keeper.send(&message, &[file.as_fd()]).is_err() {
                break;
            }
        }
        given_up
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u32, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a connection is served.
    pub(super) fn add_connection(&self, connection: &Arc<Connection>) {
        self.connections().insert(connection.name(), connection.clone());
    }

    /// Notes that it isn't any more; another may have its name by now.
    pub(super) fn remove_connection(&self, connection: &Arc<Connection>) {
        let mut connections = self.connections();
        if connections.get(&connection.name()).is_some_and(|known| Arc::ptr_eq(known, connection)) {
            connections.remove(&connection.name());
        }
    }

    fn register_here(&self, at: MountInode, file: &OwnedFd) -> io::Result<u32> {
        let connection = self.connections().get(&at.connection).cloned();
        let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
        let device = connection.device.as_fd();
        self.journal().register(at.connection, device, at.inode, file.as_fd())
    }
}

fn files(asked: HashMap<MountInode, (OwnedFd, Instant)>) -> HashMap<MountInode, OwnedFd> {
    asked.into_iter().map(|(at, (file, _))| (at, file)).collect()
}

impl Registrar for KeeperLink {
    fn register(&self, at: MountInode, file: OwnedFd) -> Option<Registered> {
        let MountInode { connection, inode } = at;
        let deadline = Instant::now() + FULL_SOCKET_TIMEOUT;
        loop {
            let mut state = self.state();
            let Some(keeper) = state.keeper.clone() else { break };
            let sent = keeper.send(&Message::Back { connection, inode }, &[file.as_fd()]);
            if sent.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                drop(state);
                if Instant::now() > deadline {
                    return Some(Err("the keeper takes no more requests".into()));
                }
                std::thread::sleep(FULL_SOCKET_PAUSE);
                continue;
            }
            // If the keeper is lost, that is noticed, and then this is done again.
            if state.asked.is_empty() {
                state.asked_at = Instant::now();
            }
            state.asked.insert(at, (file, Instant::now()));
            return None;
        }
        Some(self.register_here(at, &file).map_err(|e| e.to_string()))
    }

    fn unregister(&self, MountInode { connection, inode }: MountInode) {
        // If sending fails, the keeper keeps the registration, and some space, until the mount
        // ends.
        if self.insist(&Message::Unback { connection, inode }, &[]) || self.keeper().is_some() {
            return;
        }
        let Some(served) = self.connections().get(&connection).cloned() else { return };
        if let Err(e) = self.journal().unregister(connection, served.device.as_fd(), inode) {
            log::warn!("what was registered for inode {inode}: {e}");
        }
    }
}

impl PayloadKeeper for KeeperLink {
    fn hold(&self, payload: InMemory, file: &File) {
        self.insist(&Message::Held { payloads: vec![payload] }, &[file.as_fd()]);
    }

    fn let_go(&self, payloads: &[Sha]) {
        for some in payloads.chunks(MAX_DESCRIPTORS) {
            self.insist(&Message::LetGo { payloads: some.to_vec() }, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::packet_pair;

    /// A link to a keeper, and the keeper's end.
    fn linked() -> (KeeperLink, Channel) {
        let (ours, keeper) = pair();
        let in_flight = InFlightRequests::new(Journal::create().unwrap(), Vec::new());
        (KeeperLink::new(ours, None, Arc::new(in_flight)), keeper)
    }

    fn pair() -> (Arc<Channel>, Channel) {
        let (ours, theirs) = packet_pair().unwrap();
        (Arc::new(Channel::from(ours)), Channel::from(theirs))
    }

    fn heard(keeper: &Channel) -> Message {
        keeper.receive().unwrap().unwrap().0
    }

    #[test]
    fn a_new_keeper_hears_nothing_before_the_handover() {
        let (link, old) = linked();
        let (ours, new) = pair();
        std::thread::scope(|scope| {
            let handed_over = link.change_keeper(&ours, || {
                // Whoever says something now waits.
                let said = scope.spawn(|| link.say(&Message::Gone, &[]));
                std::thread::sleep(Duration::from_millis(50));
                assert!(!said.is_finished());
                ours.send(&Message::Stop, &[])
            });
            assert!(handed_over.unwrap().is_empty());
        });
        assert!(matches!(heard(&old), Message::Released));
        assert!(matches!(heard(&new), Message::Stop));
        assert!(matches!(heard(&new), Message::Gone));
    }

    #[test]
    fn what_is_to_be_registered_outlives_a_handover_that_fails() {
        let (link, _old) = linked();
        let at = MountInode { connection: 7, inode: wasmfs_store::Inode(18) };
        let file = File::open("/dev/null").unwrap();
        assert!(link.register(at, file.into()).is_none());
        let (ours, new) = pair();
        drop(new);
        assert!(link.change_keeper(&ours, || ours.send(&Message::Stop, &[])).is_err());
        assert!(link.lose_keeper().contains_key(&at));
    }
}
