//! Processes by descriptor: a number may be another process's by the time it is used.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::error::{IoContext, Result};

/// A program, held open: what is on disk under its name may be replaced.
pub(super) struct Program(File);

impl Program {
    /// The one that runs here.
    pub(super) fn own() -> Result<Program> {
        Program::at(Path::new("/proc/self/exe"))
    }

    pub(super) fn at(path: &Path) -> Result<Program> {
        Ok(Program(File::open(path).at("opening", path)?))
    }

    /// A path to execute it by.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// A process that is watched, a child or not.
pub(super) struct Child {
    pid: u32,
    descriptor: OwnedFd,
}

/// How a process ended, as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    Exit(i32),
    Signal(i32),
    /// It was not a child.
    Unknown,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exit(status) => write!(f, "exit status {status}"),
            Death::Signal(signal) => write!(f, "signal {signal}"),
            Death::Unknown => write!(f, "for an unknown reason"),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Child {
    /// Starts `command` with `input` as its standard input.
    pub(super) fn start(mut command: Command, input: OwnedFd) -> io::Result<Child> {
        let child = command.stdin(Stdio::from(input)).spawn()?;
        Child::by_pid(child.id())
    }

    pub(super) fn by_pid(pid: u32) -> io::Result<Child> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Child { pid, descriptor: pidfd_open(number, PidfdFlags::empty())? })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn kill(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    /// Waits for its end, but not for long.
    pub(super) fn reap_within(&self, limit: Duration) -> Option<Death> {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
        let ended = poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&limit));
        ended.is_ok_and(|count| count > 0).then(|| self.reap())
    }

    /// Waits for its end.
    pub(super) fn reap(&self) -> Death {
        match waitid(WaitId::PidFd(self.descriptor.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Death::Exit(status),
                (_, Some(signal)) => Death::Signal(signal),
                _ => Death::Unknown,
            },
            _ => Death::Unknown,
        }
    }
}
