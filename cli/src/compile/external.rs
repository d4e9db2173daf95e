//! Compiling with a wasmtime command of the host's own: `PATH compile`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use wasmfs_store::private_temp_dir;

use super::interrupt::{Interrupts, interrupted};

use crate::ui::Error;

/// A line that is longer is passed on in parts, in bytes.
const LONGEST_LINE: usize = 64 << 10;
/// How often what is left in the pipe is read when the compiler has ended.
const LAST_WORDS: u32 = 64;
/// How long a compiler that is told to end may take.
const MERCY: Duration = Duration::from_secs(3);

/// A wasmtime command.
pub struct External {
    path: PathBuf,
    flags: Vec<OsString>,
    /// What it says of itself: `wasmtime 48.0.2 (…)`.
    pub producer: String,
}

impl External {
    /// Asks the command what it is.
    pub fn new(path: &Path, flags: &[OsString]) -> Result<External> {
        let asked = Command::new(path).arg("--version").stdin(Stdio::null()).output();
        let answer = asked.map_err(|e| cannot_run(path, e))?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let producer = text.lines().next().unwrap_or_default().trim().to_owned();
        if !answer.status.success() || producer.is_empty() {
            let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
            let said = if said.is_empty() { said } else { format!(": {said}") };
            let status = answer.status;
            return Err(Error::NotACompiler { path: path.to_owned(), status, said }.into());
        }
        Ok(External { path: path.to_owned(), flags: flags.to_vec(), producer })
    }

    /// Compiles WebAssembly in binary form, and opens what came of it. `name`
    /// tells several at once apart; each line of the command's goes to `say`.
    pub fn compile(&self, name: &str, source: &[u8], say: impl FnMut(&str)) -> Result<File> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = name.chars().take(100).map(safe).collect();
        // From here on a signal ends the compiler first. The directory is dropped before it acts.
        let interrupts = Interrupts::hold()?;
        // Another compiler may be being ended right now.
        interrupts.check()?;
        let dir = private_temp_dir("wasmfs-compile-").map_err(anyhow::Error::from)?;
        let input = dir.path().join(format!("{name}.wasm"));
        let output = dir.path().join(format!("{name}.cwasm"));
        std::fs::write(&input, source).context("writing the source for the compiler")?;
        let (reader, writer) = io::pipe().context("making a pipe")?;
        let mut command = Command::new(&self.path);
        command.arg("compile").args(&self.flags).arg("-o").arg(&output).arg(&input);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        // A group of its own, so that it can be ended with all that it started.
        command.process_group(0);
        let child = command.spawn().map_err(|e| cannot_run(&self.path, e))?;
        drop(command);
        let status = attend(child, reader, &interrupts, say)?;
        if !status.success() {
            return Err(Error::CompilerFailed { path: self.path.clone(), status }.into());
        }
        // Its bytes are there as long as it is open.
        let wrote_nothing =
            |source| Error::CompilerWroteNothing { path: self.path.clone(), source };
        Ok(File::open(&output).map_err(wrote_nothing)?)
    }
}

fn cannot_run(path: &Path, source: io::Error) -> Error {
    Error::CannotRunCompiler { path: path.to_owned(), source }
}

/// Passes on what a child says until it ends, and ends it if this process is to end.
fn attend(
    mut child: Child,
    mut reader: PipeReader,
    interrupts: &Interrupts,
    mut say: impl FnMut(&str),
) -> Result<ExitStatus> {
    let group = Pid::from_child(&child);
    let ended = pidfd_open(group, PidfdFlags::empty()).context("watching the compiler")?;
    let flags = fcntl_getfl(&reader).context("reading from the compiler")?;
    fcntl_setfl(&reader, flags | OFlags::NONBLOCK).context("reading from the compiler")?;
    let mut lines = Lines::default();
    let mut told_to_end: Option<Instant> = None;
    let mut open = true;
    loop {
        let mut on = vec![PollFd::new(&ended, PollFlags::IN)];
        if open {
            on.push(PollFd::new(&reader, PollFlags::IN));
        }
        if told_to_end.is_none() {
            on.extend(interrupts.poll_fds());
        }
        let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        match poll(&mut on, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e)).context("waiting for the compiler"),
        }
        let has_ended = !on[0].revents().is_empty();
        // What it says last is read after its end.
        open = open && lines.read(&mut reader, &mut say);
        if has_ended {
            // Something that it started may be writing still.
            for _ in 0..LAST_WORDS {
                open = open && lines.read(&mut reader, &mut say);
            }
            break;
        }
        let signal = match told_to_end {
            None if interrupts.check().is_err() => {
                told_to_end = Some(Instant::now());
                Signal::TERM
            }
            Some(since) if since.elapsed() > MERCY => Signal::KILL,
            _ => continue,
        };
        let _ = kill_process_group(group, signal);
    }
    lines.end(&mut say);
    if told_to_end.is_some() {
        // Whatever it had started goes with it. The group is its own until it is waited for.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().context("waiting for the compiler")?;
    if told_to_end.is_some() { Err(interrupted().into()) } else { Ok(status) }
}

/// Splits what is read into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Reads what there is, but not for ever; false at the end.
    fn read(&mut self, from: &mut PipeReader, say: &mut impl FnMut(&str)) -> bool {
        let mut buf = [0; 4096];
        for _ in 0..16 {
            match from.read(&mut buf) {
                Ok(0) => return false,
                Ok(n) => self.0.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            while let Some(at) = self.0.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.0.drain(..=at).collect();
                say(String::from_utf8_lossy(&line[..at]).trim_end());
            }
            if self.0.len() > LONGEST_LINE {
                self.end(say);
            }
        }
        true
    }

    fn end(&mut self, say: &mut impl FnMut(&str)) {
        if !self.0.is_empty() {
            say(&String::from_utf8_lossy(&std::mem::take(&mut self.0)));
        }
    }
}
