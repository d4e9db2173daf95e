//! Telling the kernel what a commit changed.
//!
//! The kernel holds a directory's inode lock through a lookup until the answer
//! is there, and takes the same lock to drop a name (fs/fuse/dir.c,
//! `fuse_reverse_inval_entry`). So a name is dropped only after a lookup that
//! may have read the old state was accepted, and no old answer survives; and a
//! notification from a handler, or under a lock that a handler waits for,
//! would never end. Hence a thread of its own, with a queue, for each mount.

use std::ffi::OsStr;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use fuser::{INodeNo, Notifier};
use wasmfs_store::Changes;

/// Changes to tell, and whom to tell that it was done.
struct Order {
    changes: Changes,
    done: Sender<()>,
}

/// The queue of one mount.
#[derive(Clone)]
pub(crate) struct Queue(Sender<Order>);

/// An order under way.
pub(crate) struct Telling(Receiver<()>);

impl Queue {
    /// Starts the thread of a mount.
    pub(crate) fn start(notifier: Notifier) -> io::Result<Queue> {
        let (sender, orders) = channel::<Order>();
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            for order in orders {
                tell(&notifier, &order.changes);
                // Nobody waits any more: a slow kernel was waited for long enough.
                let _ = order.done.send(());
            }
        })?;
        Ok(Queue(sender))
    }

    pub(crate) fn tell(&self, changes: Changes) -> Telling {
        let (done, wait) = channel();
        // A mount that ended has no queue; then `done` is dropped, and waiting ends at once.
        let _ = self.0.send(Order { changes, done });
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

fn tell(notifier: &Notifier, changes: &Changes) {
    let log = |what: &dyn std::fmt::Display, result: io::Result<()>| match result {
        // The mount is gone, and with it what it cached.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
        Err(e) => log::warn!("telling the kernel of {what}: {e}"),
        Ok(()) => {}
    };
    for (directory, name) in &changes.names {
        let result = notifier.inval_entry(INodeNo(*directory), OsStr::new(name));
        log(&format_args!("{name:?} in directory {directory}"), result);
    }
    for directory in &changes.directories {
        // A negative offset drops the attributes and touches no page.
        log(
            &format_args!("directory {directory}"),
            notifier.inval_inode(INodeNo(*directory), -1, 0),
        );
    }
}
