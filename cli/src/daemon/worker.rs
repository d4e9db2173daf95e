//! The worker's process: opens the store, serves the mounts and the control
//! socket, until its keeper has no more use for it.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::io::fcntl_dupfd_cloexec;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wasmfs_fs::{Event, Handover, Worker};
use wasmfs_store::{Store, StoreDir};

use crate::control::{Clients, Server, Serving, accept};
use crate::names::SOCKET;
use crate::ui::Failure;

/// How long commands under way may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// The same for a successor, who can wait as long as hosts are served.
const LONG_GRACE: Duration = Duration::from_secs(10);

/// Serves the store in `dir` for the keeper at the other end of standard input.
pub fn run(path: &Path) -> Result<()> {
    rustix::thread::set_name(c"wasmfs").context("taking a name")?;
    let socket = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context("the keeper's channel")?;
    let null = OpenOptions::new().read(true).open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(null).context("leaving standard input")?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let mut handover = Handover::take(socket)?;
    let opened = StoreDir::open(path).map_err(anyhow::Error::from);
    let opened = opened.and_then(|dir| open(&dir, &mut handover).map(|store| (dir, store)));
    let (dir, store) = match opened {
        Ok((dir, Some(store))) => (dir, Arc::new(store)),
        Ok((_, None)) => return Ok(()),
        Err(error) => {
            handover.failed(Failure::of(&error).encode());
            return Err(error);
        }
    };
    let distrusted = dir.clone();
    wasmfs_fs::abort_on_panic(move || Store::distrust_catalogue(&distrusted));
    let version = env!("CARGO_PKG_VERSION");
    log::info!("wasmfs {version}: process {} serves {}", std::process::id(), path.display());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let result = runtime.block_on(serve(&dir, handover, store.clone()));
    runtime.shutdown_timeout(GRACE);
    let closed = close(store);
    result.and(closed)
}

/// Opens the store, once nobody else has it; `None` if there is no more need.
fn open(dir: &StoreDir, handover: &mut Handover) -> Result<Option<Store>> {
    if handover.is_successor {
        handover.check()?;
        Store::check(dir)?;
    }
    if !handover.wait()? {
        return Ok(None);
    }
    Ok(Some(Store::open_locked(dir, handover.lock(dir)?)?))
}

async fn serve(dir: &StoreDir, handover: Handover, store: Arc<Store>) -> Result<()> {
    let (events, mut heard) = mpsc::unbounded_channel();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let listener = std::os::unix::net::UnixListener::from(handover.listener()?);
    listener.set_nonblocking(true).context("listening for commands")?;
    let worker = Worker::start(handover, store, move |event| {
        // Nobody listens any more when the worker ends anyway.
        let _ = events.send(event);
    })?;
    let serving = Arc::new(Serving::new(worker.clone(), since));
    let server = Arc::new(Server::new(serving.clone()));
    let listener = Arc::new(UnixListener::from_std(listener).context("listening for commands")?);
    let mut clients = Clients::default();
    let mut accepting = tokio::spawn(accept(listener.clone(), server.clone(), clients.clone()));
    let mut stopping: Option<JoinHandle<()>> = None;
    while let Some(event) = heard.recv().await {
        match event {
            Event::Stop => {
                accepting.abort();
                serving.answer_reload(Ok(()));
                let (clients, worker) = (clients.clone(), worker.clone());
                stopping = Some(tokio::spawn(async move {
                    clients.end(LONG_GRACE).await;
                    worker.stopped();
                }));
            }
            Event::End => {
                serving.answer_reload(Err(Failure::of_mount(&wasmfs_fs::Error::Ending)));
                break;
            }
            Event::ReloadFailed(_) | Event::KeeperGone => {
                serving.answer_reload(Err(match event {
                    Event::ReloadFailed(why) => Failure::decode(&why),
                    _ => Failure::of_mount(&wasmfs_fs::Error::Unguarded),
                }));
                if let Some(stopping) = stopping.take() {
                    stopping.abort();
                    clients = Clients::default();
                    let accept = accept(listener.clone(), server.clone(), clients.clone());
                    accepting = tokio::spawn(accept);
                }
            }
        }
    }
    // New commands open the store themselves as soon as it is closed; those under way are answered.
    let _ = dir.remove_file(SOCKET);
    accepting.abort();
    clients.end(GRACE).await;
    Ok(())
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
    log::warn!("the store is still in use while the worker ends; the next open will look it over");
    Ok(())
}
