//! Being interrupted while a program of somebody else's runs.
//!
//! Signals have handlers rather than a mask: programs that are started have
//! neither, as they expect it.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::{emulate_default_handler, pipe};

use crate::ui::Error;

/// While one lives, the signals that end a program wait. When the last is dropped, a signal
/// that was not taken does what it does, so that whoever waits for this process sees that it was
/// interrupted: what has to be tidied up must be dropped before.
pub struct Interrupts(&'static Handlers);

struct Handlers {
    /// For each signal, what becomes readable when it arrives.
    signals: Vec<(i32, UnixStream)>,
    /// How many [`Interrupts`] live.
    holding: Mutex<usize>,
    /// Whether signals do what they do by themselves.
    acting: Arc<AtomicBool>,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

impl Handlers {
    fn install() -> std::io::Result<Handlers> {
        let acting = Arc::new(AtomicBool::new(true));
        let ignored = ignored();
        let mut signals = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            // What nohup(1) has ignored stays ignored.
            if ignored & (1 << (signal - 1)) != 0 {
                continue;
            }
            // In this order: a signal that doesn't act is in the pipe already when it is decided
            // whether one waits.
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            pipe::register(signal, writer)?;
            signal_hook::flag::register_conditional_default(signal, acting.clone())?;
            signals.push((signal, reader));
        }
        Ok(Handlers { signals, holding: Mutex::new(0), acting })
    }
}

/// The signals that this process ignores, a bit each (proc_pid_status(5)).
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

impl Interrupts {
    /// Has the signals wait.
    pub fn hold() -> Result<Interrupts> {
        static INSTALLING: Mutex<()> = Mutex::new(());
        let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        let handlers = match HANDLERS.get() {
            Some(handlers) => handlers,
            None => {
                let handlers = Handlers::install().context("handling signals")?;
                HANDLERS.get_or_init(|| handlers)
            }
        };
        let mut holding = handlers.holding.lock().unwrap_or_else(PoisonError::into_inner);
        *holding += 1;
        handlers.acting.store(false, Ordering::SeqCst);
        Ok(Interrupts(handlers))
    }

    /// What to poll for: readable while a signal waits.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.0.signals.iter().map(|(_, reader)| PollFd::new(reader, PollFlags::IN))
    }

    /// Takes one signal that waits.
    pub fn take(&self) -> Option<i32> {
        let waits = |reader: &UnixStream| matches!((&*reader).read(&mut [0]), Ok(1..));
        self.0.signals.iter().find(|(_, reader)| waits(reader)).map(|(signal, _)| *signal)
    }

    /// An error if a signal waits.
    pub fn check(&self) -> Result<()> {
        let mut on: Vec<_> = self.poll_fds().collect();
        match poll(&mut on, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(interrupted().into()),
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let mut holding = self.0.holding.lock().unwrap_or_else(PoisonError::into_inner);
        *holding -= 1;
        if *holding == 0 {
            self.0.acting.store(true, Ordering::SeqCst);
            if let Some(signal) = self.take() {
                let _ = emulate_default_handler(signal);
            }
        }
    }
}

/// What a command that was interrupted ends with.
pub fn interrupted() -> Error {
    Error::Interrupted
}
