//! Starting workers, replacing them, and what follows when they end.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

use super::memory;
use super::phase::{Happening, Phase};
use super::process::{Child, Death, Program};
use super::run::{
    IfUnready, Keeper, PREPARATION_TIMEOUT, REAP_TIMEOUT, RESTART_PAUSE, STOP_TIMEOUT,
};
use super::worker_process::{Stage, WorkerProcess, hand_over, say};
use crate::error::chain;
use crate::error::{Error, IoContext, Result};
use crate::fuse::Connection;
use crate::ipc::{Channel, Message, hand_over_held, packet_pair, protocol, unexpected};
use crate::journal::note_deaths;
use crate::supervise::door::remove_door;
use rustix::process::Signal;

impl Keeper<'_> {
    /// Starts a worker, and gives it what goes with serving.
    pub(super) fn start_worker(
        &self,
        program: Rc<Program>,
        successor: bool,
    ) -> Result<WorkerProcess> {
        let store = &self.plan.store;
        let (ours, theirs) = packet_pair().at("making a socket pair for", store.path())?;
        let channel = Channel::from(ours);
        let command = (self.plan.worker)(&program.path(), store.path());
        let process = Child::start(command, theirs).at("starting a worker for", store.path())?;
        let worker = WorkerProcess {
            process,
            channel,
            stage: Stage::Preparing,
            program,
            deadline: None,
            silent: false,
        };
        let handover = Message::Handover {
            protocol: protocol(self.connections.iter().map(|c| &c.record.options)),
            connections: self.connections.len(),
            replacements: self.replacements,
            last_pause_us: self.last_pause_us(),
            suspects: self.suspects.clone(),
            successor,
        };
        let descriptors = [self.lock.as_fd(), self.listener.as_fd(), self.journal.as_fd()];
        // If sending fails, the worker has died, and is buried soon.
        let _ = worker.channel.send(&handover, &descriptors);
        for connection in &self.connections {
            hand_over(&worker, connection, None);
        }
        if let Err(e) = hand_over_held(&worker.channel, &self.held) {
            log::warn!("the worker has to read payloads from the disk again: {e}");
        }
        Ok(worker)
    }

    /// Starts the next worker, which may serve at once.
    pub(super) fn start_next(&mut self) {
        match self.start_worker(self.program.clone(), false) {
            Ok(mut worker) => {
                worker.stage = Stage::Starting;
                if worker.channel.send(&self.start(), &[]).is_err() {
                    // It would wait for ever.
                    worker.process.kill(Signal::KILL);
                }
                self.worker = Some(worker);
            }
            Err(e) => {
                log::error!("{}", chain(&e));
                self.start_at = Some(Instant::now() + RESTART_PAUSE);
            }
        }
    }

    /// The last mount is gone, and with it the need for a worker.
    pub(super) fn end(&mut self) {
        self.start_at = None;
        self.to_mount = None;
        self.drop_successor();
        if let Some(worker) = &mut self.worker {
            say(worker, &Message::End);
            worker.deadline = Some(Instant::now() + STOP_TIMEOUT);
        }
    }

    /// Leaves nothing behind: the last thing a keeper does.
    pub(super) fn leave(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.process.kill(Signal::KILL);
            worker.process.reap();
        }
        self.drop_successor();
        for Connection { record, device } in self.connections.drain(..) {
            // Nobody serves it, and unmounting may ask it something.
            drop(device);
            record.detach();
        }
        // They may never have been there.
        let _ = self.plan.store.remove_file(self.plan.socket);
        remove_door(&self.plan.store);
    }

    pub(super) fn worker_ready(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        (worker.stage, worker.deadline) = (Stage::Serving, None);
        let pid = worker.process.pid();
        (self.if_unready, self.reason) = (IfUnready::Retry, None);
        if let Some(ended_at) = self.ended_at.take() {
            self.replacements += 1;
            self.last_pause = Some(ended_at.elapsed());
            log::info!("process {pid} serves, after {:?}", ended_at.elapsed());
        }
        self.tell_who();
        if self.is_announced {
            memory::shed();
        }
    }

    /// Starts a successor from what is on disk now.
    pub(super) fn reload(&mut self) {
        let successor = if self.successor.is_some() || self.phase.is_over() {
            Err(Error::Reloading)
        } else if !self.connections.iter().all(Connection::can_resend) {
            Err(Error::NoResend)
        } else {
            Program::at(&self.plan.program)
                .and_then(|program| self.start_worker(Rc::new(program), true))
        };
        match successor {
            Ok(mut successor) => {
                log::info!(
                    "reload: process {} looks whether it can serve",
                    successor.process.pid()
                );
                successor.deadline = Some(Instant::now() + PREPARATION_TIMEOUT);
                (self.reason, self.reload_failed) = (None, None);
                self.successor = Some(successor);
            }
            Err(e) => self.answer(&Message::ReloadFailed { why: (self.plan.explain)(&e) }),
        }
    }

    pub(super) fn hear_successor(&mut self) {
        let Some(successor) = &mut self.successor else { return };
        match successor.channel.receive() {
            Ok(Some((Message::Prepared, _))) => {
                (successor.stage, successor.deadline) = (Stage::Prepared, None);
                if let Some(worker) = &mut self.worker {
                    say(worker, &Message::Stop);
                    worker.stage = Stage::Stopping;
                    worker.deadline = Some(Instant::now() + STOP_TIMEOUT);
                }
            }
            Ok(Some((Message::Failed { why }, _))) => self.reason = Some(why),
            Ok(Some((message, _))) => log::warn!("{}", unexpected(&message)),
            // It ends, and is to be seen as it does.
            Ok(None) => successor.process.kill(Signal::KILL),
            Err(e) => {
                log::error!("the new worker can't be understood: {e}");
                successor.process.kill(Signal::KILL);
            }
        }
    }

    /// A successor has ended: what serves goes on.
    pub(super) fn give_up_reload(&mut self, successor: &WorkerProcess) {
        while let Ok(Some((message, _))) = successor.channel.receive() {
            if let Message::Failed { why } = message {
                self.reason = Some(why);
            }
        }
        let death = successor.process.reap();
        let why = self.take_reason(death);
        log::error!("reload: the new worker ended ({death}); the old one stays");
        if let Some(worker) = &mut self.worker {
            (worker.stage, worker.deadline) = (Stage::Serving, None);
        }
        self.answer(&Message::ReloadFailed { why });
    }

    /// A worker has ended: the next one starts, if one is needed. One that is to
    /// end may still be closing the store; nobody waits for it but who wants the lock.
    pub(super) fn bury(&mut self, worker: WorkerProcess) -> Result<()> {
        while let Ok(Some((message, descriptors))) = worker.channel.receive() {
            match message {
                Message::Failed { why } => self.reason = Some(why),
                Message::Released => self.happened(Happening::TakenOver),
                // What it was promised for holds for the next one as well.
                Message::Held { .. } | Message::LetGo { .. } | Message::Unback { .. } => {
                    self.heed_worker(message, descriptors);
                }
                _ => {}
            }
        }
        let death = worker.process.reap_within(REAP_TIMEOUT);
        if self.phase == Phase::Released {
            return Ok(());
        }
        let (pid, stage) = (worker.process.pid(), worker.stage);
        if death.is_none() && self.phase != Phase::Ending {
            worker.process.kill(Signal::KILL);
            self.lingering.push(worker.process);
        }
        let death = death.unwrap_or(Death::Unknown);
        let in_flight = self.journal.take_in_flight().unwrap_or_else(|e| {
            log::warn!("reading what the worker had in flight: {e}");
            Vec::new()
        });
        // SIGKILL and SIGTERM come from another process; a request that crashes is another signal.
        if !matches!(death, Death::Signal(9 | 15)) {
            note_deaths(&mut self.suspects, &in_flight);
        }
        if self.phase == Phase::Ending {
            return Ok(());
        }
        let now = Instant::now();
        self.ended_at.get_or_insert(now);
        if matches!(stage, Stage::Serving | Stage::Stopping) {
            let prepared = self.successor.take_if(|s| s.stage == Stage::Prepared);
            if let Some(mut successor) = prepared {
                say(&successor, &self.start());
                successor.stage = Stage::Starting;
                successor.deadline = Some(Instant::now() + PREPARATION_TIMEOUT);
                self.if_unready = IfUnready::GoBack(self.program.clone());
                self.program = successor.program.clone();
                self.worker = Some(successor);
            } else {
                log::error!(
                    "the worker {pid} died ({death}) with {} requests in flight: starting the next",
                    in_flight.len()
                );
                self.start_at = Some(now);
            }
        } else {
            self.bury_unready(pid, death)?;
            self.start_at = Some(now + RESTART_PAUSE);
        }
        self.drop_successor();
        Ok(())
    }

    /// A worker has ended before it was ready.
    pub(super) fn bury_unready(&mut self, pid: u32, death: Death) -> Result<()> {
        match std::mem::replace(&mut self.if_unready, IfUnready::Retry) {
            IfUnready::GiveUp => {
                let why = self.reason.take().map(Error::Explained);
                return Err(why.unwrap_or_else(|| Error::WorkerDied(death.to_string())));
            }
            IfUnready::Retry => {
                let why = self.take_reason(death);
                log::error!("the worker {pid} ended before it was ready ({death}): {why}");
                log::error!("trying again in {RESTART_PAUSE:?}");
            }
            IfUnready::GoBack(previous) => {
                let why = self.take_reason(death);
                log::error!("the worker {pid} ended before it was ready ({death}): {why}");
                log::error!("going back to the program that served before the reload");
                self.program = previous;
                self.reload_failed = Some(why);
            }
        }
        Ok(())
    }

    pub(super) fn drop_successor(&mut self) {
        if let Some(successor) = self.successor.take() {
            successor.process.kill(Signal::KILL);
            successor.process.reap();
        }
    }

    /// Why a worker ended before it was ready, in the caller's words: its own, if it had any.
    pub(super) fn take_reason(&mut self, death: Death) -> String {
        let own = self.reason.take();
        own.unwrap_or_else(|| (self.plan.explain)(&Error::WorkerDied(death.to_string())))
    }
}
