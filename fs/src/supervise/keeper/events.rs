//! What the worker says, and what it is told.

use std::os::fd::{AsFd, OwnedFd};

use super::phase::Happening;
use super::run::Keeper;
use super::worker_process::say;
use crate::backing::allow_descriptors;
use crate::ipc::{KeeperStatus, Message, hand_over_held, pairs, unexpected};
use rustix::process::Signal;

impl Keeper<'_> {
    pub(super) fn last_pause_us(&self) -> Option<u64> {
        self.last_pause.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX))
    }

    /// Tells the worker who keeps it.
    pub(super) fn tell_who(&self) {
        if let Some(worker) = &self.worker {
            say(worker, &Message::Kept(self.status()));
        }
    }

    pub(super) fn status(&self) -> KeeperStatus {
        KeeperStatus {
            pid: std::process::id(),
            version: self.plan.version.to_owned(),
            since: self.since,
            replacements: self.replacements,
            last_pause_us: self.last_pause_us(),
            reload_failed: self.reload_failed.clone(),
        }
    }

    /// The word to serve.
    pub(super) fn start(&self) -> Message {
        Message::Start { suspects: self.suspects.clone(), kept: self.status() }
    }

    pub(super) fn hear_worker(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        match worker.channel.receive() {
            Ok(Some((message, descriptors))) => self.heed_worker(message, descriptors),
            Ok(None) => worker.silent = true,
            Err(e) => {
                log::error!("the worker {} can't be understood: {e}", worker.process.pid());
                worker.process.kill(Signal::KILL);
            }
        }
    }

    pub(super) fn heed_worker(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        match message {
            Message::Held { payloads } => {
                if self.held.is_empty() {
                    allow_descriptors();
                }
                let held = match pairs(payloads, descriptors) {
                    Ok(held) => held,
                    Err(e) => return log::error!("what is in memory is not held: {e}"),
                };
                if let Some(successor) = &self.successor
                    && let Err(e) = hand_over_held(&successor.channel, &held)
                {
                    log::warn!("the next worker has to read payloads from the disk again: {e}");
                }
                self.held
                    .retain(|(known, _)| held.iter().all(|(new, _)| new.sha256 != known.sha256));
                self.held.extend(held);
            }
            Message::LetGo { payloads } => {
                self.held.retain(|(held, _)| !payloads.contains(&held.sha256));
            }
            // A mount that is gone is noticed in any case, now that there is something to hear.
            Message::Prepared | Message::Gone => {}
            Message::Ready => self.worker_ready(),
            Message::Failed { why } => self.reason = Some(why),
            Message::InitReply { connection, reply, request } => {
                self.answer_init(connection, &reply, request);
            }
            Message::Mount { request, mount_point, options } => {
                if let Err(e) = self.mount(&mount_point, options, Some(request)) {
                    self.answer(&Message::MountFailed { request, why: (self.plan.explain)(&e) });
                }
            }
            Message::Back { connection, inode } => {
                let id = self.register(connection, inode, descriptors.first());
                let id = id.map_err(|e| e.to_string());
                self.answer(&Message::Backed { connection, inode, id });
            }
            Message::Unback { connection, inode } => {
                if let Some(known) = self.connections.iter().find(|c| c.name() == connection)
                    && let Err(e) = self.journal.unregister(connection, known.device.as_fd(), inode)
                {
                    log::warn!("what was registered for inode {inode}: {e}");
                }
            }
            Message::Reload => self.reload(),
            Message::Stopped => {
                if let Some(worker) = &self.worker {
                    worker.process.kill(Signal::KILL);
                }
            }
            Message::Released => {
                log::info!("another keeper has taken over");
                self.happened(Happening::TakenOver);
            }
            message => log::warn!("{}", unexpected(&message)),
        }
    }
}
