//! Invalidation: what a commit changed is taken out of the kernel's caches.
//!
//! The kernel holds a directory's inode lock through a lookup until the answer
//! is there, and takes the same lock to drop a name (fs/fuse/dir.c,
//! `fuse_reverse_inval_entry`). So a name is dropped only after a lookup that
//! may have read the old state was accepted, and no old answer survives; and a
//! notification from a handler, or under a lock that a handler waits for,
//! would never end. Hence a thread of its own, with a queue, for each mount.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use fuser::{INodeNo, Notifier, Session};
use wasmfs_store::{Changes, Inode, PendingInvalidations};

use super::ledger::Ticket;
use crate::fuse::{Adapter, Connection};
use crate::ipc::keep_only;

/// What the kernel is asked, and its answer.
#[derive(Default)]
pub(crate) struct Probe {
    /// Names to drop first: the inode number of their directory, and the name in it.
    pub(crate) names: BTreeSet<(Inode, String)>,
    /// The inodes that it is asked for.
    pub(crate) inodes: Vec<Inode>,
    /// Those that it knows.
    pub(crate) known: Mutex<HashSet<Inode>>,
    /// The asker has stopped waiting for the answer.
    pub(crate) void: AtomicBool,
}

/// What the kernel is to invalidate.
#[derive(Clone)]
pub(crate) enum Invalidation {
    /// What a commit changed.
    Changes(Changes),
    /// What commits may have changed, of which a dead worker may not have told the kernel.
    Pending(Arc<PendingInvalidations>),
    /// Nothing new: names are dropped to find out what is in use.
    Probe(Arc<Probe>),
}

/// An invalidation, and whom to tell that it was done.
struct Job {
    invalidation: Invalidation,
    done: Sender<()>,
    ticket: Option<Arc<Ticket>>,
}

/// The queue of one mount.
#[derive(Clone)]
pub(crate) struct Queue(Sender<Job>);

/// The acknowledgment of an invalidation, which a commit may wait for.
pub(crate) struct Acknowledgment(Receiver<()>);

impl Queue {
    /// Starts the thread of a mount.
    ///
    /// A kill finds it waiting for a lookup that only the next worker can
    /// answer, and it can't end before. So it has descriptors of its own, none
    /// but those it needs: what the process had open is closed without it.
    pub(crate) fn start(
        session: &Session<Adapter>,
        connection: Arc<Connection>,
        journal: BorrowedFd<'_>,
    ) -> io::Result<Queue> {
        let (notifier, session) = (session.notifier(), session.as_fd().as_raw_fd());
        let (sender, jobs) = channel::<Job>();
        let kept = [connection.device.as_raw_fd(), session, journal.as_raw_fd()];
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            if let Err(e) = keep_only(&kept) {
                log::warn!("the notifying thread keeps what this process has open: {e}");
            }
            for job in jobs {
                match &job.invalidation {
                    Invalidation::Changes(changes) => invalidate(&notifier, changes),
                    Invalidation::Pending(pending) => expire(&notifier, &connection, pending),
                    Invalidation::Probe(asked) => probe(&notifier, &connection, asked),
                }
                drop(job.ticket);
                // The asker has stopped waiting: a slow kernel was waited for long enough.
                let _ = job.done.send(());
            }
        })?;
        Ok(Queue(sender))
    }

    /// Has an invalidation be sent to the kernel, after all that was queued before.
    pub(crate) fn push(
        &self,
        invalidation: Invalidation,
        ticket: Option<Arc<Ticket>>,
    ) -> Acknowledgment {
        let (done, wait) = channel();
        // A mount that ended has no queue; then `done` is dropped, and waiting ends at once.
        let _ = self.0.send(Job { invalidation, done, ticket });
        Acknowledgment(wait)
    }
}

impl Acknowledgment {
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
        Err(e) => log::warn!("invalidating {what} in the kernel: {e}"),
        Ok(()) => {}
    }
}

fn drop_entry(notifier: &Notifier, directory: Inode, name: &str) {
    let result = notifier.inval_entry(INodeNo(directory.get()), OsStr::new(name));
    log(&format_args!("{name:?} in directory {directory}"), result);
}

/// Drops a directory's attributes. A negative offset touches no page.
fn drop_attributes(notifier: &Notifier, directory: Inode) {
    let result = notifier.inval_inode(INodeNo(directory.get()), -1, 0);
    log(&format_args!("directory {directory}"), result);
}

fn invalidate(notifier: &Notifier, changes: &Changes) {
    for (directory, name) in &changes.names {
        drop_entry(notifier, *directory, name);
    }
    for directory in &changes.directories {
        drop_attributes(notifier, *directory);
    }
}

fn expire(notifier: &Notifier, connection: &Connection, pending: &PendingInvalidations) {
    for (directory, name) in &pending.files {
        drop_entry(notifier, *directory, name);
    }
    for (directory, name) in &pending.directories {
        let result = connection.expire_entry(*directory, name);
        log(&format_args!("{name:?} in directory {directory}"), result);
    }
    let above = pending.files.iter().chain(&pending.directories).map(|(directory, _)| *directory);
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
