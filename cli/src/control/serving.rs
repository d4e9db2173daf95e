//! What every connection of a server shares.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wasmfs_fs::{Mounts, Worker};

use super::status::{Status, status};
use crate::ui::Failure;

/// A worker that serves, as the control socket shows it.
pub struct Serving {
    worker: Arc<Worker>,
    /// When this process began to serve, since 1970.
    since: Duration,
    /// Whoever waits for what comes of a reload.
    reload: Mutex<Option<Sender<Result<(), Failure>>>>,
}

impl Serving {
    /// The control socket's side of `worker`, which began to serve at `since`.
    pub fn new(worker: Arc<Worker>, since: Duration) -> Serving {
        Serving { worker, since, reload: Mutex::default() }
    }

    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// What it serves.
    pub fn mounts(&self) -> &Mounts {
        self.worker.mounts()
    }

    /// What it says of itself.
    pub fn status(&self) -> Status {
        status(&self.worker, self.since)
    }

    /// Asks for a successor, and returns when this process lets go, or when it is known that it
    /// stays.
    pub fn reload(&self) -> anyhow::Result<()> {
        let (sender, answer) = channel();
        {
            let mut waiting = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_some() {
                return Err(wasmfs_fs::Error::Reloading.into());
            }
            *waiting = Some(sender);
        }
        if let Err(e) = self.worker.reload() {
            self.answer_reload(Ok(()));
            return Err(e.into());
        }
        Ok(answer.recv().unwrap_or(Err(Failure::of_mount(&wasmfs_fs::Error::Unguarded)))?)
    }

    /// Answers whoever asked for a reload.
    pub fn answer_reload(&self, answer: Result<(), Failure>) {
        let waiting = self.reload.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            // It may have gone.
            let _ = waiting.send(answer);
        }
    }
}
