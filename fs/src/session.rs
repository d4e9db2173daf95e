//! Serving mounts of one store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use wasmfs_store::{Changes, Store};

use crate::error::{Error, IoContext, Result};
use crate::filesystem::{Filesystem, chain};
use crate::fuse::Layer;
use crate::mount::{self, Mounted, mounted_at};
use crate::notify::Queue;

/// Threads that answer the kernel. Reads wait for the disk; lookups don't.
const THREADS: usize = 4;
/// How long a commit waits for the kernel to be told of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The mounts of one store: at most one that is attached to a path, and those
/// that were detached but are still in use.
pub struct Mounts {
    store: Arc<Store>,
    filesystem: Arc<Filesystem>,
    mounts: Mutex<List>,
    /// Held while a mount is made or detached, so that no two are made at once.
    changing: Mutex<()>,
}

#[derive(Default)]
struct List {
    mounts: Vec<Arc<Mount>>,
    /// Set when no mount is made any more.
    ending: bool,
}

/// One mount.
pub struct Mount {
    /// Where it is, or was.
    pub mount_point: PathBuf,
    /// Whether other users may look into it.
    pub allow_other: bool,
    /// Its device number; see [`Mounted::device`].
    pub device: (u32, u32),
    queue: Queue,
}

impl Mount {
    /// Whether it can still be found at its path.
    pub fn is_attached(&self) -> bool {
        let mounted = mounted_at(&self.mount_point);
        mounted.is_ok_and(|mounted| mounted.is_some_and(|m| m.device == self.device))
    }
}

impl Mounts {
    /// No mounts yet.
    pub fn new(store: Arc<Store>) -> Mounts {
        let filesystem = Arc::new(Filesystem::new(store.clone()));
        Mounts { store, filesystem, mounts: Mutex::default(), changing: Mutex::default() }
    }

    /// The store they all show.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.mounts.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The mounts that are served.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        self.lock().mounts.clone()
    }

    /// Lets no new mount be made if there is none, and says whether there is none.
    pub fn end_if_unused(&self) -> bool {
        let mut list = self.lock();
        list.ending |= list.mounts.is_empty();
        list.ending
    }

    /// The mount that can be found at its path, if there is one.
    pub fn attached(&self) -> Option<Arc<Mount>> {
        self.all().into_iter().find(|mount| mount.is_attached())
    }

    /// Mounts at `mount_point`, which must be absolute, and serves it with
    /// threads of its own until the last user is gone; then calls `ended`.
    pub fn mount(
        self: &Arc<Self>,
        mount_point: &Path,
        allow_other: bool,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Mount>> {
        // It may ask another mount, which may not answer: not with a lock held.
        if self.attached().is_none() {
            mount::prepare(mount_point)?;
        }
        let _changing = self.changing.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(mount) = self.attached() {
            return Err(if mount.mount_point == mount_point {
                Error::AlreadyMounted(mount_point.to_owned())
            } else {
                Error::MountedElsewhere(mount.mount_point.clone())
            });
        }
        let mount_point = &*mount::absolute(mount_point).at("resolving", mount_point)?;
        let fuse = mount::mount(mount_point, allow_other)?;
        let unmount_again = UnmountOnDrop(mount_point);
        let Some(Mounted { device, .. }) = mounted_at(mount_point)? else {
            return Err(Error::NotMounted(mount_point.to_owned()));
        };
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        // Who may look in is the kernel's to decide, by the mount's options.
        let layer = Layer::new(self.filesystem.clone());
        let session =
            Session::from_fd(layer, fuse, SessionACL::All, config).map_err(Error::Session)?;
        let queue = Queue::start(session.notifier()).map_err(Error::Session)?;
        let mount =
            Arc::new(Mount { mount_point: mount_point.to_owned(), allow_other, device, queue });
        {
            let mut list = self.lock();
            if list.ending {
                return Err(Error::Ending);
            }
            list.mounts.push(mount.clone());
        }
        let (mounts, served) = (self.clone(), mount.clone());
        let serve = move || {
            if let Err(e) = session.run() {
                log::error!("serving {} ended: {}", served.mount_point.display(), chain(&e));
            }
            mounts.lock().mounts.retain(|mount| !Arc::ptr_eq(mount, &served));
            log::info!("the mount at {} is gone", served.mount_point.display());
            ended();
        };
        let thread = std::thread::Builder::new().name("serve".into()).spawn(serve);
        if let Err(e) = thread {
            self.lock().mounts.retain(|other| !Arc::ptr_eq(other, &mount));
            return Err(Error::Session(e));
        }
        std::mem::forget(unmount_again);
        log::info!("mounted at {}", mount_point.display());
        Ok(mount)
    }

    /// Detaches the attached mount: its path is free at once, and its users are
    /// served until the last is gone.
    pub fn detach(&self) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(|e| e.into_inner());
        match self.attached() {
            Some(mount) => mount::unmount(&mount.mount_point, true),
            None => Ok(()),
        }
    }

    /// Tells every kernel cache what a commit changed. Whether they all know
    /// when this returns; otherwise they will, once a stuck lookup ends.
    pub fn tell(&self, changes: &Changes) -> bool {
        if *changes == Changes::default() {
            return true;
        }
        let deadline = Instant::now() + PATIENCE;
        let tellings: Vec<_> =
            self.all().iter().map(|mount| mount.queue.tell(changes.clone())).collect();
        tellings.iter().all(|telling| telling.wait(deadline))
    }
}

struct UnmountOnDrop<'a>(&'a Path);

impl Drop for UnmountOnDrop<'_> {
    fn drop(&mut self) {
        if let Err(e) = mount::unmount(self.0, true) {
            log::error!("unmounting {}: {}", self.0.display(), chain(&e));
        }
    }
}

/// Makes a panic in any thread end the process, with its message and backtrace
/// in the log: a server that lost one thread would leave a mount that hangs.
/// Call it once the store is open, since opening a damaged sled panics and is
/// recovered from.
///
/// `last_act` is called before the end, and must not wait for anything.
pub fn abort_on_panic(last_act: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        log::error!("{panic}\n{backtrace}");
        last_act();
        std::process::abort();
    }));
}
