use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::Outcome;
use crate::control::Status;
use crate::control::client::Client;
use crate::output;

/// Show who serves the store, and where it is mounted
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    mounted: bool,
    store: &'a Path,
    server: Option<Status>,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let server = Client::status_of(store)?;
    let mounted = server.as_ref().is_some_and(|s| s.mounts.iter().any(|m| m.attached));
    if args.json {
        output::json(&Report { mounted, store, server })?;
        return Ok(Outcome::Done);
    }
    let mut rows = vec![["store".to_owned(), store.display().to_string()]];
    match server {
        None => rows.push(["mount".into(), "not mounted (`wasmfs mount` mounts it)".into()]),
        Some(server) => {
            for mount in server.mounts {
                let state = if mount.attached { "" } else { " (detached, still in use)" };
                let others = if mount.allow_other { " (open to other users)" } else { "" };
                rows.push([
                    "mount".into(),
                    format!("{}{state}{others}", mount.mount_point.display()),
                ]);
            }
            let since =
                format!("wasmfs {}, pid {}, since {}", server.version, server.pid, server.since);
            rows.push(["server".into(), since]);
            rows.push(["memory".into(), output::size(server.resident_bytes)]);
            if let Some(log) = server.log {
                rows.push(["log".into(), log.display().to_string()]);
            }
        }
    }
    output::table(&rows)?;
    Ok(Outcome::Done)
}
