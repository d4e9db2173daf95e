//! Telling the kernel what a commit changed.
//!
//! The kernel holds a directory's inode lock through a lookup until the answer
//! is there, and takes the same lock to drop a name (fs/fuse/dir.c,
//! `fuse_reverse_inval_entry`). So a name is dropped only after a lookup that
//! may have read the old state was accepted, and no old answer survives; and a
//! notification from a handler, or under a lock that a handler waits for,
//! would never end. Hence a thread of its own, with a queue, for each mount.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use fuser::{INodeNo, Notifier, Session};
use wasmfs_store::{Changes, Store, Untold};

use crate::fuse::adapter::Layer;
use crate::fuse::handshake::Connection;
use crate::ipc::descriptors;
use crate::journal::requests::InHand;
use crate::serve::gc::Probe;

/// What the kernel is to be told.
#[derive(Clone)]
pub(crate) enum News {
    /// What a commit changed.
    Changes(Changes),
    /// What commits may have changed, of which a dead worker may not have told.
    Untold(Arc<Untold>),
    /// Nothing new: names are dropped to find out what is in use.
    Probe(Arc<Probe>),
}

/// News to tell, and whom to tell that it was done.
struct Order {
    news: News,
    done: Sender<()>,
    ticket: Option<Arc<Ticket>>,
}

/// The queue of one mount.
#[derive(Clone)]
pub(crate) struct Queue(Sender<Order>);

/// An order under way.
pub(crate) struct Telling(Receiver<()>);

impl Queue {
    /// Starts the thread of a mount.
    ///
    /// A kill finds it waiting for a lookup that only the next worker can
    /// answer, and it can't end before. So it has descriptors of its own, none
    /// but those it needs: what the process had open is closed without it.
    pub(crate) fn start(
        session: &Session<Layer>,
        connection: Arc<Connection>,
        journal: BorrowedFd<'_>,
    ) -> io::Result<Queue> {
        let (notifier, session) = (session.notifier(), session.as_fd().as_raw_fd());
        let (sender, orders) = channel::<Order>();
        let kept = [connection.device.as_raw_fd(), session, journal.as_raw_fd()];
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            if let Err(e) = descriptors::keep_only(&kept) {
                log::warn!("the notifying thread keeps what this process has open: {e}");
            }
            for order in orders {
                match &order.news {
                    News::Changes(changes) => tell(&notifier, changes),
                    News::Untold(untold) => tell_untold(&notifier, &connection, untold),
                    News::Probe(asked) => probe(&notifier, &connection, asked),
                }
                drop(order.ticket);
                // Nobody waits any more: a slow kernel was waited for long enough.
                let _ = order.done.send(());
            }
        })?;
        Ok(Queue(sender))
    }

    pub(crate) fn tell(&self, news: News, ticket: Option<Arc<Ticket>>) -> Telling {
        let (done, wait) = channel();
        // A mount that ended has no queue; then `done` is dropped, and waiting ends at once.
        let _ = self.0.send(Order { news, done, ticket });
        Telling(wait)
    }
}

impl Telling {
    /// Waits until the kernel was told, and says whether it was before `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        let left = deadline.saturating_duration_since(Instant::now());
        self.0.recv_timeout(left) != Err(Timeout)
    }
}

fn log(what: &dyn std::fmt::Display, result: io::Result<()>) {
    match result {
        // The mount is gone, and with it what it cached.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
        Err(e) => log::warn!("telling the kernel of {what}: {e}"),
        Ok(()) => {}
    }
}

fn drop_entry(notifier: &Notifier, directory: u64, name: &str) {
    let result = notifier.inval_entry(INodeNo(directory), OsStr::new(name));
    log(&format_args!("{name:?} in directory {directory}"), result);
}

/// Drops a directory's attributes. A negative offset touches no page.
fn drop_attributes(notifier: &Notifier, directory: u64) {
    let result = notifier.inval_inode(INodeNo(directory), -1, 0);
    log(&format_args!("directory {directory}"), result);
}

fn tell(notifier: &Notifier, changes: &Changes) {
    for (directory, name) in &changes.names {
        drop_entry(notifier, *directory, name);
    }
    for directory in &changes.directories {
        drop_attributes(notifier, *directory);
    }
}

fn tell_untold(notifier: &Notifier, connection: &Connection, untold: &Untold) {
    for (directory, name) in &untold.files {
        drop_entry(notifier, *directory, name);
    }
    for (directory, name) in &untold.directories {
        let result = connection.expire_entry(*directory, name);
        log(&format_args!("{name:?} in directory {directory}"), result);
    }
    let above = untold.files.iter().chain(&untold.directories).map(|(directory, _)| *directory);
    for directory in above.collect::<BTreeSet<_>>() {
        drop_attributes(notifier, directory);
    }
}

fn probe(notifier: &Notifier, connection: &Connection, asked: &Probe) {
    if asked.void.load(Ordering::Relaxed) {
        return;
    }
    for (directory, name) in &asked.names {
        drop_entry(notifier, *directory, name);
    }
    for inode in &asked.inodes {
        let knows = connection.knows(*inode).unwrap_or_else(|e| {
            log::warn!("asking the kernel for inode {inode}: {e}");
            true
        });
        if knows {
            asked.known.lock().unwrap_or_else(|e| e.into_inner()).insert(*inode);
        }
    }
}

/// Keeps the journal's "told" at what every kernel cache knows of.
pub(crate) struct Ledger {
    store: Arc<Store>,
    in_hand: Arc<InHand>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// The tickets by number, each with the last change before it.
    tickets: BTreeMap<u64, u64>,
}

/// A commit under way. When the last copy is dropped, every kernel cache was told of it.
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Ledger {
    pub(crate) fn new(store: Arc<Store>, in_hand: Arc<InHand>) -> Ledger {
        Ledger { store, in_hand, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().tickets.is_empty()
    }

    /// Begins a commit, or the telling of what came after change number `told`.
    pub(crate) fn begin(self: &Arc<Self>, told: u64) -> Arc<Ticket> {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.tickets.insert(number, told);
        Arc::new(Ticket { ledger: self.clone(), number })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Before the lock: a commit that is in `last` and not told yet has its ticket by then.
        let last = self.ledger.store.last_change();
        let mut open = self.ledger.lock();
        open.tickets.remove(&self.number);
        let told = open.tickets.values().min().copied().unwrap_or(last);
        if let Err(e) = self.ledger.in_hand.journal().set_told(told) {
            log::warn!("noting what the kernel knows: {e}");
        }
    }
}
