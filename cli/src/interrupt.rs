//! Being interrupted while a program of somebody else's runs.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::failure::Failure;

/// While it lives, the signals that end a program wait. When it is dropped they
/// do what they do, so that whoever waits for this process sees that it was
/// interrupted: what has to be tidied up must be dropped before it.
pub struct Interrupts {
    signals: SignalFd,
    set: SigSet,
}

impl Interrupts {
    /// Has the signals wait, in this thread and those that it starts from now on. Nothing
    /// that starts threads, such as opening a store, may come before it.
    pub fn hold() -> Result<Interrupts> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            set.add(signal);
        }
        set.thread_block().context("holding signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).context("holding signals")?;
        Ok(Interrupts { signals, set })
    }

    /// Takes one signal that waits.
    pub fn take(&self) -> Option<Signal> {
        let info = self.signals.read_signal().ok()??;
        Signal::try_from(info.ssi_signo as i32).ok()
    }

    /// An error if a signal waits.
    pub fn check(&self) -> Result<()> {
        let mut waiting = [rustix::event::PollFd::new(self, rustix::event::PollFlags::IN)];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut waiting, Some(&none)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(interrupted().into()),
        }
    }
}

impl AsFd for Interrupts {
    /// Readable while a signal waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let _ = self.set.thread_unblock();
    }
}

/// What a command that was interrupted ends with.
pub fn interrupted() -> Failure {
    Failure::new("interrupted; nothing was published", "give the command again")
}
