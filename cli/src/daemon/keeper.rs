//! The keeper's process: how it is started, and how it says that it is up.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::Mode;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use wasmfs_fs::mount::Options;
use wasmfs_fs::{Error as FsError, Plan, keep};
use wasmfs_store::{Error as StoreError, Lock, Settings, StoreDir};

use crate::control::Client;
use crate::names::{LOG, SOCKET};
use crate::ui::{Error, Failure};

/// How long a keeper waits for a command that has the store open.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What to keep.
#[derive(Clone, Debug)]
pub struct Service {
    pub store: PathBuf,
    pub mount_point: PathBuf,
    pub options: Options,
}

impl Service {
    fn command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("wasmfs").arg("keeper").arg(&self.mount_point);
        command.arg("--store").arg(&self.store);
        for (flag, wanted) in [
            ("--allow-other", self.options.allow_other),
            ("--passthrough", self.options.passthrough),
        ] {
            if wanted {
                command.arg(flag);
            }
        }
        if let Some(budget) = self.options.in_memory {
            command.arg(format!("--in-memory={budget}"));
        }
        command
    }
}

/// What a keeper in the background tells the command that started it.
#[derive(Serialize, Deserialize)]
enum Started {
    Ready,
    Failed(Failure),
}

/// Starts a keeper in the background and returns when its mount is served.
pub fn start(service: &Service) -> Result<()> {
    // The directory must be there for the log; opening the store checks the rest.
    let store = StoreDir::open_or_create(&service.store, &Settings::default())?;
    let (log, log_file) = (store.named(LOG), store.open_to_append(LOG)?);
    let mut command = service.command();
    command.arg("--background");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
    wasmfs_fs::close_on_exec().context("starting the keeper")?;
    let mut child = command.spawn().context("starting the keeper")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("waiting for the keeper")?;
    }
    match serde_json::from_str(&line) {
        Ok(Started::Ready) => Ok(()),
        Ok(Started::Failed(failure)) => {
            child.wait().context("waiting for the keeper")?;
            Err(failure.into())
        }
        Err(_) => {
            let status = child.wait().context("waiting for the keeper")?;
            Err(Error::KeeperEnded { status, log }.into())
        }
    }
}

/// Becomes the keeper; returns only if that fails.
pub fn become_keeper(service: &Service) -> Result<()> {
    StoreDir::open_or_create(&service.store, &Settings::default())?;
    wasmfs_fs::close_on_exec().context("starting the keeper")?;
    Err(service.command().exec()).context("starting the keeper")
}

/// Keeps until the last mount is gone. In the background it says on standard
/// output when it is up, and leaves terminal, session and directory of the
/// command that started it.
pub fn run(service: &Service, background: bool) -> Result<()> {
    // Else it has the name of the file it was started by, /proc/self/exe.
    rustix::thread::set_name(c"wasmfs").context("taking a name")?;
    if background {
        // It fails only for a process group leader, which a child of `start` is not.
        let _ = rustix::process::setsid();
        std::env::set_current_dir("/").context("changing to /")?;
    }
    // Whatever it makes is its user's alone, and so is what its workers make.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let store = StoreDir::open(&service.store)?;
    let plan = Plan {
        store: store.clone(),
        mount: (service.mount_point.clone(), service.options),
        version: env!("CARGO_PKG_VERSION"),
        program: program()?,
        worker,
        explain,
        socket: SOCKET,
    };
    let mut told = false;
    let mut up = || {
        told = true;
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        if background { tell(&Started::Ready) } else { Ok(()) }
    };
    let result = keep(&plan, || lock(&store), &mut up).map_err(anyhow::Error::from);
    if let (Err(error), false, true) = (&result, told, background) {
        tell(&Started::Failed(Failure::of(error)))?;
    }
    result
}

/// Where the program is that runs here, or was before an upgrade replaced it.
fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("looking for this program")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or(path.clone(), PathBuf::from))
}

fn worker(program: &Path, store: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg0("wasmfs").arg("worker").arg("--store").arg(store);
    // Out of the reach of a terminal's Ctrl-C, which is for the keeper.
    command.stdout(Stdio::null()).process_group(0);
    command
}

/// A failure that the worker hands on to a command.
fn explain(error: &FsError) -> String {
    Failure::of_mount(error).encode()
}

fn tell(started: &Started) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(started)?)?;
    stdout.flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}

/// Takes the right to a store, once a command that has it open is done.
fn lock(dir: &StoreDir) -> wasmfs_fs::Result<Lock> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match dir.lock() {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                // Another keeper was faster.
                if let Ok(Some(status)) = Client::status_of(dir)
                    && let Some(mount_point) = status.mount_point()
                {
                    return Err(FsError::MountedElsewhere(mount_point.to_owned()));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return Ok(result?),
        }
    }
}
