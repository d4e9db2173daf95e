//! What a server says of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wasmfs_fs::mount::{Mounted, Options, all_mounted, mounted_at};
use wasmfs_fs::{Usage, Worker};

use crate::names::LOG;
use crate::ui::Failure;

/// What a server says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The store's directory.
    pub store: PathBuf,
    /// Its mounts: at most one attached, and those detached but still in use.
    pub mounts: Vec<MountStatus>,
    /// Who owns the mounts; nobody if it died.
    pub keeper: Option<KeeperStatus>,
    /// Who serves them.
    pub worker: WorkerStatus,
    /// How much of the payloads is in memory, if any mount has it so.
    #[serde(default)]
    pub in_memory: Option<Usage>,
    /// Its log, if it is in the store's directory.
    pub log: Option<PathBuf>,
}

/// The keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeeperStatus {
    pub pid: u32,
    /// The version of wasmfs it runs.
    pub version: String,
    /// When it started: RFC 3339, UTC.
    pub since: String,
    /// Why the last reload came to nothing after all, if it did.
    pub reload_failed: Option<String>,
}

/// The worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub pid: u32,
    /// The version of wasmfs it runs.
    pub version: String,
    /// When it started: RFC 3339, UTC.
    pub since: String,
    /// How many workers came before it.
    pub replacements: u64,
    /// How long the last replacement left requests waiting, in milliseconds.
    pub last_pause_ms: Option<f64>,
    /// Its resident memory, in bytes.
    pub resident_bytes: u64,
    /// How many requests of each kind it has answered.
    #[serde(default)]
    pub requests: BTreeMap<String, u64>,
}

impl Status {
    /// Where the store is mounted now.
    pub fn mount_point(&self) -> Option<&Path> {
        Some(&self.attached()?.mount_point)
    }

    /// The mount that is attached.
    pub fn attached(&self) -> Option<&MountStatus> {
        self.mounts.iter().find(|mount| mount.attached)
    }
}

impl MountStatus {
    /// The same mount as the kernel has it: what a server says of a path is no proof.
    pub fn in_kernel(&self) -> Result<Option<Mounted>> {
        let is_it = |found: &Mounted| found.is_own() && found.device.1 == self.connection;
        if let Some(mounted) = mounted_at(&self.mount_point)?.filter(is_it) {
            return Ok(Some(mounted));
        }
        // A directory above it may have another name by now.
        Ok(all_mounted()?.into_iter().find(|found| found.is_whole && is_it(found)))
    }
}

/// A mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where it is, or was.
    pub mount_point: PathBuf,
    /// Whether it can be found there.
    pub attached: bool,
    /// How it is made.
    #[serde(flatten)]
    pub options: Options,
    /// Its name under `/sys/fs/fuse/connections`.
    pub connection: u32,
}

/// What the server of `worker`, which began to serve at `since`, says of itself.
pub fn status(worker: &Worker, since: Duration) -> Status {
    let requests = worker.mounts().requests();
    let mounts = worker.mounts().all().into_iter().map(|mount| MountStatus {
        mount_point: mount.mount_point.clone(),
        attached: mount.is_attached(),
        options: mount.options,
        connection: mount.device.1,
    });
    let log = std::fs::read_link("/proc/self/fd/2").ok();
    Status {
        store: worker.mounts().store().dir().to_owned(),
        mounts: mounts.collect(),
        keeper: worker.keeper().map(|keeper| KeeperStatus {
            pid: keeper.pid,
            version: keeper.version,
            since: wasmfs_store::rfc3339(keeper.since),
            reload_failed: keeper.reload_failed.map(|why| Failure::decode(&why).message),
        }),
        worker: WorkerStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: wasmfs_store::rfc3339(u64::try_from(since.as_nanos()).unwrap_or(0)),
            replacements: worker.replacements(),
            last_pause_ms: worker.last_pause_us().map(|us| us as f64 / 1000.0),
            resident_bytes: resident_bytes(),
            requests: requests.into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect(),
        },
        in_memory: worker.mounts().in_memory(),
        log: log.filter(|path| path.file_name().is_some_and(|name| name == LOG)),
    }
}

/// The second field of `/proc/self/statm` is in pages (proc_pid_statm(5)).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
