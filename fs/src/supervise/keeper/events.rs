//! Starting workers, hearing them, and what to do when they end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use super::memory;
use super::process::{Child, Death, Program};
use super::run::{
    Keeper, PREPARATION_TIMEOUT, REAP_TIMEOUT, RESTART_PAUSE, STOP_TIMEOUT, Stage, WorkerProcess,
    detach, forget_registrations,
};
use crate::backing::allow_descriptors;
use crate::error::chain;
use crate::error::{Error, IoContext, Result};
use crate::fuse::{Connection, read_init};
use crate::ipc::{
    Channel, KeeperStatus, Message, MountRecord, hand_over_held, packet_pair, protocol, unexpected,
};
use crate::journal::note_deaths;
use crate::journal::{stack_depth, try_passthrough};
use crate::mount::{self, Options, mounted_at};
use crate::supervise::door::remove_door;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, geteuid};
use wasmfs_store::Inode;

impl Keeper<'_> {
    /// Starts a worker, and gives it what goes with serving.
    fn start_worker(&self, program: Rc<Program>, successor: bool) -> Result<WorkerProcess> {
        let store = &self.plan.store;
        let (ours, theirs) = packet_pair().at("making a socket pair for", store)?;
        let channel = Channel::from(ours);
        let command = (self.plan.worker)(&program.path(), store);
        let process = Child::start(command, theirs).at("starting a worker for", store)?;
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
        // A worker that doesn't hear has died, and is buried soon.
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

    fn last_pause_us(&self) -> Option<u64> {
        self.last_pause.map(|pause| u64::try_from(pause.as_micros()).unwrap_or(u64::MAX))
    }

    /// Tells the worker who keeps it.
    pub(super) fn tell_who(&self) {
        if let Some(worker) = &self.worker {
            say(worker, &Message::Kept(self.status()));
        }
    }

    fn status(&self) -> KeeperStatus {
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
    fn start(&self) -> Message {
        Message::Start { suspects: self.suspects.clone(), kept: self.status() }
    }

    /// The last mount is gone, and with it the need for a worker.
    pub(super) fn end(&mut self) {
        self.ending = true;
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
        let _ = fs::remove_file(self.plan.store.join(self.plan.socket));
        remove_door(&self.plan.store);
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

    fn heed_worker(&mut self, message: Message, descriptors: Vec<OwnedFd>) {
        match message {
            Message::Held { payloads } => {
                if self.held.is_empty() {
                    allow_descriptors();
                }
                let held: Vec<_> = payloads.into_iter().zip(descriptors).collect();
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
                let known = self.connections.iter_mut().find(|c| c.name() == connection);
                if let Some(known) = known {
                    // The first reply stands; a later worker has checked that it agrees.
                    if known.record.reply.is_none()
                        && let Err(e) = known.answer_init(&reply)
                    {
                        // The mount is gone; its descriptor says so as well.
                        log::warn!("answering FUSE_INIT: {e}");
                    }
                    let passes = match known.record.options.passthrough {
                        true => try_passthrough(known.device.as_fd(), self.lock.as_fd()),
                        false => Ok(()),
                    };
                    if let Err(e) = passes {
                        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                        if unmount(&known.record.mount_point, flags).is_err() {
                            detach(vec![known.record.clone()]);
                        }
                        match request {
                            // Before it is served, which then ends at once.
                            Some(request) => {
                                let why = (self.plan.explain)(&e);
                                self.worker.iter().for_each(|worker| {
                                    say(
                                        worker,
                                        &Message::MountFailed { request, why: why.clone() },
                                    );
                                });
                            }
                            None if self.up => log::error!("{}", chain(&e)),
                            None => self.failed_to_mount = Some(e),
                        }
                    }
                    if let Some(worker) = &self.worker {
                        say(worker, &Message::InitAnswered { connection });
                    }
                    // It was made meanwhile, and is the successor's as it is from here on.
                    if let Some(successor) = &self.successor {
                        hand_over(successor, known, None);
                    }
                }
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
                self.released = true;
            }
            message => log::warn!("{}", unexpected(&message)),
        }
    }

    fn register(&self, connection: u32, inode: Inode, file: Option<&OwnedFd>) -> io::Result<u32> {
        let known = self.connections.iter().find(|c| c.name() == connection);
        let (Some(known), Some(file)) = (known, file) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.journal.register(connection, known.device.as_fd(), inode, file.as_fd())
    }

    fn answer(&self, message: &Message) {
        if let Some(worker) = &self.worker {
            say(worker, message);
        }
    }

    fn worker_ready(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        (worker.stage, worker.deadline) = (Stage::Serving, None);
        let pid = worker.process.pid();
        (self.proven, self.previous, self.reason) = (true, None, None);
        if let Some(ended_at) = self.ended_at.take() {
            self.replacements += 1;
            self.last_pause = Some(ended_at.elapsed());
            log::info!("process {pid} serves, after {:?}", ended_at.elapsed());
        }
        self.tell_who();
        if self.up {
            memory::shed();
        }
    }

    /// Makes a mount, and has the worker serve it.
    pub(super) fn mount(
        &mut self,
        mount_point: &Path,
        options: Options,
        request: Option<u64>,
    ) -> Result<()> {
        if self.ending {
            return Err(Error::Ending);
        }
        if let Some(other) = self.connections.iter().find(|c| c.record.is_attached()) {
            let other = other.record.mount_point.clone();
            return Err(if other == mount_point {
                Error::AlreadyMounted(other)
            } else {
                Error::MountedElsewhere(other)
            });
        }
        if options.passthrough && !geteuid().is_root() {
            return Err(Error::NoPassthrough("only root can have files registered for it".into()));
        }
        let mount_point = mount::absolute(mount_point).at("resolving", mount_point)?;
        let device = mount::mount(&mount_point, options.allow_other)?;
        let connection = (|| {
            let mounted = mounted_at(&mount_point)?;
            let mounted = mounted.ok_or_else(|| Error::NotMounted(mount_point.clone()))?;
            let init = read_init(device.as_fd()).map_err(Error::Session)?;
            let record = MountRecord {
                mount_point: mount_point.clone(),
                options,
                device: mounted.device,
                init,
                stack_depth: if options.passthrough { stack_depth(self.lock.as_fd()) } else { 0 },
                reply: None,
            };
            let connection = Connection { record, device };
            if options.passthrough && !connection.can_pass_through() {
                return Err(Error::NoPassthrough(
                    "this kernel has no FUSE passthrough (Linux 6.9 has it, with \
                     CONFIG_FUSE_PASSTHROUGH)"
                        .into(),
                ));
            }
            Ok(connection)
        })();
        let connection = connection.inspect_err(|_: &Error| mount::detach(&mount_point))?;
        forget_registrations(&self.journal, connection.name());
        log::info!("mounted at {}", mount_point.display());
        if let Some(worker) = &self.worker {
            hand_over(worker, &connection, request);
        }
        self.connections.push(connection);
        Ok(())
    }

    /// Starts a successor from what is on disk now.
    fn reload(&mut self) {
        let successor = if self.successor.is_some() || self.ending {
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
                Message::Released => self.released = true,
                // What it was promised for holds for the next one as well.
                Message::Held { .. } | Message::LetGo { .. } | Message::Unback { .. } => {
                    self.heed_worker(message, descriptors);
                }
                _ => {}
            }
        }
        let death = worker.process.reap_within(REAP_TIMEOUT);
        if self.released {
            return Ok(());
        }
        let (pid, stage) = (worker.process.pid(), worker.stage);
        if death.is_none() && !self.ending {
            worker.process.kill(Signal::KILL);
            self.lingering.push(worker.process);
        }
        let death = death.unwrap_or(Death::Unknown);
        let in_flight = self.journal.take_in_flight().unwrap_or_else(|e| {
            log::warn!("reading what the worker had in flight: {e}");
            Vec::new()
        });
        // Whoever sends SIGKILL or SIGTERM is somebody else; what a request does is another signal.
        if !matches!(death, Death::Signal(9 | 15)) {
            note_deaths(&mut self.suspects, &in_flight);
        }
        if self.ending {
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
                self.previous = Some(self.program.clone());
                self.program = successor.program.clone();
                self.worker = Some(successor);
            } else {
                log::error!(
                    "the worker {pid} died ({death}) with {} requests in flight: starting the next",
                    in_flight.len()
                );
                self.start_at = Some(now);
            }
        } else if !self.proven {
            let why = self.reason.take().map(Error::Explained);
            return Err(why.unwrap_or_else(|| Error::WorkerDied(death.to_string())));
        } else {
            let why = self.take_reason(death);
            log::error!("the worker {pid} ended before it was ready ({death}): {why}");
            if let Some(previous) = self.previous.take() {
                log::error!("going back to the program that served before the reload");
                self.program = previous;
                self.reload_failed = Some(why);
            } else {
                log::error!("trying again in {RESTART_PAUSE:?}");
            }
            self.start_at = Some(now + RESTART_PAUSE);
        }
        self.drop_successor();
        Ok(())
    }

    fn drop_successor(&mut self) {
        if let Some(successor) = self.successor.take() {
            successor.process.kill(Signal::KILL);
            successor.process.reap();
        }
    }

    /// Why a worker ended before it was ready, in the caller's words: its own, if it had any.
    fn take_reason(&mut self, death: Death) -> String {
        let own = self.reason.take();
        own.unwrap_or_else(|| (self.plan.explain)(&Error::WorkerDied(death.to_string())))
    }
}

fn say(worker: &WorkerProcess, message: &Message) {
    if let Err(e) = worker.channel.send(message, &[]) {
        log::debug!("the worker {} can't be reached: {e}", worker.process.pid());
    }
}

fn hand_over(worker: &WorkerProcess, connection: &Connection, request: Option<u64>) {
    let message = Message::Connection { record: connection.record.clone(), request };
    if let Err(e) = worker.channel.send(&message, &[connection.device.as_fd()]) {
        log::warn!("the worker {} doesn't take a mount: {e}", worker.process.pid());
    }
}
