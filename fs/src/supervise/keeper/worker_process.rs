//! A worker, as its keeper sees it.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

use super::process::{Child, Program};
use crate::fuse::Connection;
use crate::ipc::{Channel, Message};

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It looks whether it could serve.
    Preparing,
    /// It could.
    Prepared,
    /// It opens the store.
    Starting,
    Serving,
    /// It ends its commands, for a successor or for good.
    Stopping,
}

pub(super) struct WorkerProcess {
    pub(super) process: Child,
    pub(super) channel: Channel,
    pub(super) stage: Stage,
    pub(super) program: Rc<Program>,
    /// When it is killed if its stage has not changed.
    pub(super) deadline: Option<Instant>,
    /// Whether its end of the channel is closed. No worker does that while it
    /// lives, so all of it is dead but for threads with descriptors of their
    /// own, which may wait for its successor.
    pub(super) silent: bool,
}

/// Tells a worker something. One that can't be reached has died, which is noticed.
pub(super) fn say(worker: &WorkerProcess, message: &Message) {
    if let Err(e) = worker.channel.send(message, &[]) {
        log::debug!("the worker {} can't be reached: {e}", worker.process.pid());
    }
}

/// Gives a worker a mount.
pub(super) fn hand_over(worker: &WorkerProcess, connection: &Connection, request: Option<u64>) {
    let message = Message::Connection { record: connection.record.clone(), request };
    if let Err(e) = worker.channel.send(&message, &[connection.device.as_fd()]) {
        log::warn!("the worker {} doesn't take a mount: {e}", worker.process.pid());
    }
}
