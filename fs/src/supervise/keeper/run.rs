//! The keeper: the process that owns the mounts and the control socket's
//! listener, and starts the next worker when one dies. Requests and commands
//! wait in the kernel meanwhile.
//!
//! One thread, one `poll`, no memory to speak of. It never opens the store and
//! never looks into a mount of its own: whatever could wait for a worker would
//! keep it from starting one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketType;
use rustix::process::Signal as Kill;
use wasmfs_store::{Lock, StoreDir};

use super::phase::{Happening, Phase};
use super::process::{Child, Program};
use super::worker_process::{Stage, WorkerProcess};
use crate::backing::InMemory;
use crate::error::{Error, IoContext, Result};
use crate::fuse::Connection;
use crate::ipc::{Channel, KeeperStatus, Message, MountRecord, check_peer, listen, now, reach};
use crate::journal::Journal;
use crate::journal::Suspect;
use crate::mount::{self, Options};
use crate::supervise::door::KEEPER_SOCKET;
use crate::supervise::handover::Handover;

/// The pause after a worker that died before it was ready.
pub(super) const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a worker that is as good as dead is waited for, to learn why.
pub(super) const REAP_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a successor may take to look at the store.
pub(super) const PREPARATION_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a worker may take to end its commands for a successor, or to close the store.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What the caller decides for a keeper.
pub struct Plan {
    /// The store's directory.
    pub store: StoreDir,
    /// Where to mount, and how.
    pub mount: (PathBuf, Options),
    /// The version it runs, for `status`.
    pub version: &'static str,
    /// The program on disk that `reload` starts.
    pub program: PathBuf,
    /// The command line of a worker, whose standard input is the channel.
    pub worker: fn(&Path, &Path) -> Command,
    /// An error in words that the caller's other side understands.
    pub explain: fn(&Error) -> String,
    /// The control socket, by its name in the store's directory.
    pub socket: &'static str,
}

/// What to do when a worker ends before it is ready.
pub(super) enum IfUnready {
    /// No worker was ever ready: end, with its reason.
    GiveUp,
    /// The program has served before: start the next one, after a pause.
    Retry,
    /// The program is new since a reload: go back to this one.
    GoBack(Rc<Program>),
}

pub(super) struct Keeper<'a> {
    pub(super) plan: &'a Plan,
    pub(super) lock: OwnedFd,
    pub(super) listener: OwnedFd,
    pub(super) journal: Journal,
    pub(super) connections: Vec<Connection>,
    /// Payloads in memory, so that they outlive workers.
    pub(super) held: Vec<(InMemory, OwnedFd)>,
    pub(super) suspects: Vec<Suspect>,
    pub(super) worker: Option<WorkerProcess>,
    /// What is to replace the worker.
    pub(super) successor: Option<WorkerProcess>,
    /// What is dead but for a thread that waits for its successor.
    pub(super) lingering: Vec<Child>,
    pub(super) program: Rc<Program>,
    pub(super) if_unready: IfUnready,
    pub(super) since: u64,
    pub(super) replacements: u64,
    pub(super) last_pause: Option<Duration>,
    /// When the last worker ended.
    pub(super) ended_at: Option<Instant>,
    /// When the next worker is started.
    pub(super) start_at: Option<Instant>,
    /// Why a worker that ends before it is ready does.
    pub(super) reason: Option<String>,
    /// What is still to be mounted before it is up.
    pub(super) to_mount: Option<(PathBuf, Options)>,
    /// Why the first mount could not be made after all.
    pub(super) failed_to_mount: Option<Error>,
    pub(super) phase: Phase,
    /// Whether it was said that what was to be mounted is served.
    pub(super) is_announced: bool,
    /// Why the last reload came to nothing after all.
    pub(super) reload_failed: Option<String>,
}

/// Whether anybody waits for the word that a keeper is up.
type Up<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// Keeps mounts of a store until the last is gone. If a worker without a keeper
/// serves the store, or one with another keeper, it is adopted; else `lock`
/// takes the right to the store, and the plan's mount is made. `up` is called
/// once the mount is served.
pub fn keep(plan: &Plan, lock: impl FnOnce() -> Result<Lock>, up: Up<'_>) -> Result<()> {
    let signals = signals()?;
    let program = Rc::new(Program::own()?);
    let mut keeper = match Keeper::adopt(plan, &program)? {
        Some(keeper) => keeper,
        None => Keeper::begin(plan, &program, lock()?)?,
    };
    let result = keeper.run(&signals, up);
    // An error is no reason to take a worker from its hosts: it serves on without a keeper.
    let serves_on = result.is_err() && keeper.phase.serves();
    if keeper.phase != Phase::Released && !serves_on {
        keeper.leave();
    }
    result
}

fn signals() -> Result<SignalFd> {
    let here = Path::new("signals");
    let mut set = SigSet::empty();
    // SIGPIPE is ignored by every Rust program; a terminal that goes away is no reason to stop.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().at("blocking", here)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .at("waiting for", here)
}

impl<'a> Keeper<'a> {
    fn new(plan: &'a Plan, program: &Rc<Program>, owned: [OwnedFd; 2], journal: Journal) -> Self {
        let [lock, listener] = owned;
        Keeper {
            plan,
            lock,
            listener,
            journal,
            connections: Vec::new(),
            held: Vec::new(),
            suspects: Vec::new(),
            worker: None,
            successor: None,
            lingering: Vec::new(),
            program: program.clone(),
            if_unready: IfUnready::GiveUp,
            since: now(),
            replacements: 0,
            last_pause: None,
            ended_at: None,
            start_at: None,
            reason: None,
            to_mount: Some(plan.mount.clone()),
            failed_to_mount: None,
            phase: Phase::Starting,
            is_announced: false,
            reload_failed: None,
        }
    }

    /// A keeper of a store that nobody has.
    fn begin(plan: &'a Plan, program: &Rc<Program>, lock: Lock) -> Result<Keeper<'a>> {
        mount::prepare(&plan.mount.0, &plan.mount.1)?;
        let store = plan.store.path();
        let listener = listen(&plan.store, plan.socket, SocketType::STREAM)?;
        let journal = Journal::create().at("making a memory file for", store)?;
        let lock = lock.as_fd().try_clone_to_owned().at("duplicating the lock of", store)?;
        let mut keeper = Keeper::new(plan, program, [lock, listener], journal);
        keeper.start_at = Some(Instant::now());
        Ok(keeper)
    }

    /// The keeper of a worker that is there already.
    fn adopt(plan: &'a Plan, program: &Rc<Program>) -> Result<Option<Keeper<'a>>> {
        let Some(socket) = reach(&plan.store, KEEPER_SOCKET, SocketType::SEQPACKET)? else {
            return Ok(None);
        };
        let pid = check_peer(socket.as_fd()).map_err(Error::Channel)?;
        let process = Child::by_pid(pid).at("watching the worker of", plan.store.path())?;
        let channel = Channel::from(socket);
        // The worker keeps its keeper until it knows that this is one. If it is gone, that shows.
        let _ = channel.send(&Message::Kept(KeeperStatus::of_new(plan.version)), &[]);
        let handover = match Handover::receive(channel) {
            // It is just being started by somebody else, or about to end.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            handover => handover.map_err(Error::Channel)?,
        };
        log::info!("taking over from another keeper; the worker is process {pid}");
        let fds = [handover.lock, handover.listener];
        let mut keeper = Keeper::new(plan, program, fds, handover.journal);
        keeper.connections = handover.connections;
        (keeper.suspects, keeper.replacements) = (handover.suspects, handover.replacements);
        keeper.last_pause = handover.last_pause_us.map(Duration::from_micros);
        (keeper.if_unready, keeper.phase) = (IfUnready::Retry, Phase::Up);
        if let Some(attached) = keeper.connections.iter().find(|c| c.record.is_attached()) {
            if attached.record.options != plan.mount.1 {
                log::warn!("it stays mounted as it was: {:?}", attached.record.options);
            }
            keeper.to_mount = None;
        } else {
            mount::prepare(&plan.mount.0, &plan.mount.1)?;
        }
        keeper.worker = Some(WorkerProcess {
            process,
            channel: handover.channel,
            stage: Stage::Serving,
            program: program.clone(),
            deadline: None,
            silent: false,
        });
        keeper.tell_who();
        Ok(Some(keeper))
    }

    fn run(&mut self, signals: &SignalFd, up: Up<'_>) -> Result<()> {
        loop {
            if let Some(e) = self.failed_to_mount.take() {
                return Err(e);
            }
            if self.is_serving()
                && self.phase.may_mount()
                && let Some((mount_point, options)) = self.to_mount.take()
            {
                self.mount(&mount_point, options, None)?;
            }
            if !self.is_announced && self.phase.may_mount() && self.is_up() {
                self.is_announced = true;
                self.happened(Happening::Served);
                if let Err(e) = up() {
                    log::warn!("nobody hears that the mount is served: {e}");
                }
                super::memory::shed();
            }
            if self.connections.is_empty() && self.to_mount.is_none() {
                self.happened(Happening::Unused);
            }
            if self.phase == Phase::Released
                || (self.phase == Phase::Ending && self.worker.is_none())
            {
                return Ok(());
            }
            if self.worker.is_none() && self.start_at.is_some_and(|at| at <= Instant::now()) {
                self.start_at = None;
                self.start_next();
            }
            self.wait(signals)?;
        }
    }

    /// Goes over to the phase that follows.
    pub(super) fn happened(&mut self, happening: Happening) {
        let before = self.phase;
        self.phase = before.after(happening);
        if self.phase != before {
            log::debug!("{happening:?}: {before:?} -> {:?}", self.phase);
            if self.phase == Phase::Ending {
                self.end();
            }
        }
    }

    fn is_serving(&self) -> bool {
        self.worker.as_ref().is_some_and(|w| w.stage == Stage::Serving)
    }

    /// Whether what was to be mounted is served.
    fn is_up(&self) -> bool {
        self.is_serving()
            && self.to_mount.is_none()
            && self.connections.iter().all(|c| c.record.reply.is_some())
    }

    /// Waits for something to happen, and deals with it.
    fn wait(&mut self, signals: &SignalFd) -> Result<()> {
        let now = Instant::now();
        let deadlines = [&self.worker, &self.successor].into_iter().flatten();
        let next = deadlines.filter_map(|w| w.deadline).chain(self.start_at).min();
        let timeout = next.map(|at| at.saturating_duration_since(now));
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        for worker in [&self.worker, &self.successor].into_iter().flatten() {
            polled.push(PollFd::from_borrowed_fd(worker.channel.as_fd(), PollFlags::IN));
            polled.push(PollFd::from_borrowed_fd(worker.process.as_fd(), PollFlags::IN));
        }
        // Not the mounts: that would wake it for every request. The worker says when one is gone.
        polled.extend(
            self.lingering.iter().map(|p| PollFd::from_borrowed_fd(p.as_fd(), PollFlags::IN)),
        );
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).at("waiting in", self.plan.store.path()),
        }
        let mut happened =
            polled.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
        let mut next = || happened.next().unwrap_or(false);
        if next() {
            self.heed(signals);
        }
        let said = self.worker.is_some().then(|| (next(), next()));
        let successor_said = self.successor.is_some().then(|| (next(), next()));
        let ended: Vec<bool> = happened.collect();
        let mut ended = ended.into_iter();
        self.lingering.retain(|process| {
            let ended = ended.next().unwrap_or(false);
            if ended {
                process.reap();
            }
            !ended
        });
        self.forget_what_is_gone();
        if let Some((message, death)) = successor_said {
            if message {
                self.hear_successor();
            }
            if death && let Some(successor) = self.successor.take() {
                self.give_up_reload(&successor);
            }
        }
        if let Some((message, death)) = said {
            if message {
                self.hear_worker();
            }
            let death = death || self.worker.as_ref().is_some_and(|worker| worker.silent);
            if death && let Some(worker) = self.worker.take() {
                self.bury(worker)?;
            }
        }
        self.keep_time();
        Ok(())
    }

    /// Lets go of mounts that were unmounted and have no user left.
    fn forget_what_is_gone(&mut self) {
        let suspects = &mut self.suspects;
        self.connections.retain(|connection| {
            let gone = connection.is_gone();
            if gone {
                log::info!("the mount at {} is gone", connection.record.mount_point.display());
                forget_registrations(&self.journal, connection.name());
                suspects.retain(|suspect| suspect.connection != connection.name());
            }
            !gone
        });
    }

    fn heed(&mut self, signals: &SignalFd) {
        while let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo == Signal::SIGHUP as u32 {
                continue;
            }
            log::info!("asked to stop: detaching, and serving on until the last user is gone");
            self.to_mount = None;
            self.happened(Happening::AskedToStop);
            detach(self.connections.iter().map(|c| c.record.clone()).collect());
        }
    }

    /// Kills what takes too long.
    fn keep_time(&mut self) {
        let now = Instant::now();
        for worker in [&mut self.worker, &mut self.successor].into_iter().flatten() {
            if worker.deadline.is_some_and(|at| at <= now) {
                worker.deadline = None;
                log::warn!("the worker {} takes too long: killing it", worker.process.pid());
                worker.process.kill(Kill::KILL);
            }
        }
    }
}

/// Detaches mounts. fusermount3 may look into them: not in the thread that keeps them.
pub(super) fn detach(mounts: Vec<MountRecord>) {
    let detach = move || mounts.iter().for_each(MountRecord::detach);
    if let Err(e) = std::thread::Builder::new().stack_size(256 << 10).spawn(detach) {
        log::error!("detaching: {e}");
    }
}

/// The number of a mount that is gone may be another's next.
pub(super) fn forget_registrations(journal: &Journal, connection: u32) {
    if let Err(e) = journal.forget_registrations(connection) {
        log::error!("forgetting what was registered with a mount that is gone: {e}");
    }
}
