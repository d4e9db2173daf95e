//! The server's process: owns the store, serves the mount and the control
//! socket, and ends when the last mount has no user left.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use wasmfs_fs::Mounts;
use wasmfs_store::Store;

use crate::access;
use crate::control::client::short_path;
use crate::control::server::{Server, accept};
use crate::failure::Failure;
use crate::paths::{LOG, SOCKET};

/// How long commands under way may take to end when the last mount is gone.
const GRACE: Duration = Duration::from_secs(3);

/// What to serve.
#[derive(Clone, Debug)]
pub struct Service {
    pub store: PathBuf,
    pub mount_point: PathBuf,
    pub allow_other: bool,
}

/// What a server in the background tells the command that started it.
#[derive(Serialize, Deserialize)]
enum Started {
    Ready,
    Failed(Failure),
}

/// Starts a server in the background and returns when its mount answers.
pub fn start(service: &Service) -> Result<()> {
    // The directory must be there for the log; opening the store checks the rest.
    Store::create(&service.store, &Default::default())?;
    let log = service.store.join(LOG);
    let log_file = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
    let log_file = log_file.with_context(|| format!("opening {}", log.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("wasmfs").arg("serve").arg(&service.mount_point);
    command.arg("--store").arg(&service.store);
    if service.allow_other {
        command.arg("--allow-other");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
    wasmfs_fs::close_on_exec().context("starting the server")?;
    let mut child = command.spawn().context("starting the server")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("waiting for the server")?;
    }
    match serde_json::from_str(&line) {
        Ok(Started::Ready) => Ok(()),
        Ok(Started::Failed(failure)) => {
            child.wait().context("waiting for the server")?;
            Err(failure.into())
        }
        Err(_) => {
            let status = child.wait().context("waiting for the server")?;
            let hint = format!("its last words are in {}", log.display());
            Err(Failure::new(format!("the server ended before it was ready ({status})"), hint)
                .into())
        }
    }
}

/// The server in the background: says on standard output when it is ready, and
/// leaves terminal, session and directory of the command that started it.
pub fn run_in_background(service: &Service) -> Result<()> {
    // It fails only for a process group leader, which a child of `start` is not.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").context("changing to /")?;
    let log = Some(service.store.join(LOG));
    let mut told = false;
    let result = run(service, log, || {
        told = true;
        tell(&Started::Ready)
    });
    if let (Err(error), false) = (&result, told) {
        tell(&Started::Failed(Failure::of(error)))?;
    }
    result
}

fn tell(started: &Started) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(started)?)?;
    stdout.flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null").context("opening /dev/null")?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}

/// Serves until the last mount is gone.
pub fn run(
    service: &Service,
    log: Option<PathBuf>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let store = Arc::new(access::open_with_patience(&service.store)?);
    let dir = service.store.clone();
    // Should it be the catalogue that makes a thread panic, the next server rebuilds it.
    wasmfs_fs::abort_on_panic(move || Store::distrust_catalogue(&dir));
    log::info!(
        "wasmfs {} serves {} at {}",
        env!("CARGO_PKG_VERSION"),
        service.store.display(),
        service.mount_point.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(service, log, store.clone(), ready));
    runtime.shutdown_timeout(GRACE);
    let closed = close(store);
    result.and(closed)
}

async fn serve(
    service: &Service,
    log: Option<PathBuf>,
    store: Arc<Store>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mounts = Arc::new(Mounts::new(store));
    let (ended, mut endings) = mpsc::unbounded_channel();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let send_ended = {
        let ended = ended.clone();
        move || {
            // Nobody listens any more when the server ends anyway.
            let _ = ended.send(());
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("waiting for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("waiting for signals")?;
    let socket = listen(&service.store)?;
    let listener = UnixListener::from_std(socket).context("listening for commands")?;
    mounts.mount(&service.mount_point, service.allow_other, send_ended.clone())?;
    let server = Arc::new(Server {
        mounts: mounts.clone(),
        mount_ended: Box::new(send_ended),
        since: wasmfs_store::rfc3339(u64::try_from(since.as_nanos()).unwrap_or(0)),
        log,
    });
    let accepting = tokio::spawn(accept(listener, server.clone()));
    if let Err(error) = ready() {
        mounts.detach()?;
        bail!(error);
    }
    while !mounts.end_if_unused() {
        let stop = tokio::select! {
            _ = endings.recv() => false,
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            // A terminal that goes away is no reason to stop serving.
            _ = hang_up.recv() => false,
        };
        if stop {
            log::info!("asked to stop: detaching, and serving on until the last user is gone");
            let mounts = mounts.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(e) = mounts.detach() {
                    log::error!("detaching: {e}");
                }
            });
        }
    }
    // New commands open the store themselves as soon as it is closed; those under way are answered.
    let _ = fs::remove_file(service.store.join(SOCKET));
    accepting.abort();
    let answered = async {
        while Arc::strong_count(&server) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(GRACE, answered).await.is_err() {
        log::warn!("ending while a command is still connected");
    }
    Ok(())
}

/// Listens on the control socket. A socket that is there belonged to a server
/// that is gone: the store is locked by this process.
fn listen(store: &Path) -> Result<std::os::unix::net::UnixListener> {
    let (_dir, path) = short_path(store, SOCKET).context("opening the store's directory")?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).context("the old control socket");
        }
        _ => {}
    }
    // Nobody else can reach it before its mode is set: the directory is 0700.
    let listener = std::os::unix::net::UnixListener::bind(&path).context("the control socket")?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).context("the control socket")?;
    listener.set_nonblocking(true).context("the control socket")?;
    Ok(listener)
}

/// Closes the store once the threads that used it are gone.
fn close(mut store: Arc<Store>) -> Result<()> {
    for _ in 0..GRACE.as_millis() / 10 {
        match Arc::try_unwrap(store) {
            Ok(store) => return Ok(store.close()?),
            Err(shared) => store = shared,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    log::warn!("the store is still in use while the server ends; the next open will look it over");
    Ok(())
}
