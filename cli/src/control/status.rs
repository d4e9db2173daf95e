//! What a server says of itself.

use std::time::Duration;

use wasmfs_fs::Worker;

use super::messages::{KeeperStatus, MountStatus, Status, WorkerStatus};
use crate::names::LOG;
use crate::ui::Failure;

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
