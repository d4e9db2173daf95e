//! `wasmfs status`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use wasmfs_fs::Usage;
use wasmfs_fs::mount::Options;
use wasmfs_store::StoreDir;

use crate::control::Client;
use crate::control::{KeeperStatus, MountStatus, WorkerStatus};
use crate::ui::Outcome;
use crate::ui::output;

/// Show the server of the store, and where it is mounted
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs status
  wasmfs status --json")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    mounted: bool,
    /// Whether a worker serves that nobody would replace.
    unguarded: bool,
    store: &'a Path,
    keeper: Option<KeeperStatus>,
    worker: Option<WorkerStatus>,
    mounts: Vec<MountStatus>,
    in_memory: Option<Usage>,
    log: Option<PathBuf>,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let dir = StoreDir::open_if_there(store)?;
    let status = dir.map_or(Ok(None), |dir| Client::status_of(&dir))?;
    let report = match status {
        None => Report {
            mounted: false,
            unguarded: false,
            store,
            keeper: None,
            worker: None,
            mounts: Vec::new(),
            in_memory: None,
            log: None,
        },
        Some(status) => Report {
            mounted: status.mounts.iter().any(|mount| mount.attached),
            unguarded: status.keeper.is_none(),
            store,
            keeper: status.keeper,
            worker: Some(status.worker),
            mounts: status.mounts,
            in_memory: status.in_memory,
            log: status.log,
        },
    };
    if args.json {
        output::json(&report)?;
    } else {
        print(report)?;
    }
    Ok(Outcome::Done)
}

fn print(report: Report<'_>) -> Result<()> {
    let mut rows = vec![["store".to_owned(), report.store.display().to_string()]];
    let mut row = |name: &str, text: String| rows.push([name.to_owned(), text]);
    for mount in &report.mounts {
        let state = if mount.attached { "" } else { " (detached, still in use)" };
        let Options { allow_other, passthrough, in_memory: _ } = mount.options;
        let others = if allow_other { " (open to other users)" } else { "" };
        let passthrough = if passthrough { " (the kernel reads files by itself)" } else { "" };
        row("mount", format!("{}{state}{others}{passthrough}", mount.mount_point.display()));
    }
    let Some(worker) = report.worker else {
        row("mount", "not mounted (`wasmfs mount` mounts it)".into());
        return output::table(&rows);
    };
    let process =
        |pid, version: &str, since: &str| format!("process {pid}, wasmfs {version}, since {since}");
    row(
        "keeper",
        match &report.keeper {
            Some(keeper) => process(keeper.pid, &keeper.version, &keeper.since),
            None => "none: UNGUARDED. If the worker dies, so does the mount; `wasmfs mount` \
                     guards it again"
                .into(),
        },
    );
    row("worker", process(worker.pid, &worker.version, &worker.since));
    let pause = worker.last_pause_ms.map(|ms| format!(", the last with a pause of {ms:.1} ms"));
    row("replaced", output::count(worker.replacements, "time") + &pause.unwrap_or_default());
    row("memory", output::size(worker.resident_bytes));
    if let Some(Usage { budget, bytes, payloads, without_room }) = report.in_memory {
        let without_room = match without_room {
            0 => String::new(),
            _ => format!("; NO ROOM for {without_room}, which are served from the disk"),
        };
        let (bytes, budget) = (output::size(bytes), output::size(budget));
        row("in memory", format!("{bytes} of {budget}, {payloads} payloads{without_room}"));
    }
    let requests: Vec<_> = worker.requests.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    if !requests.is_empty() {
        row("requests", requests.join(", "));
    }
    if let Some(log) = &report.log {
        row("log", log.display().to_string());
    }
    output::table(&rows)
}
