//! `wasmfs link`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use wasmfs_store::Key;

use crate::args::default_mount_point;
use crate::client::{NamedEngine, StoreClient};
use crate::ingest::link_dir::{LinkDir, Put};
use crate::ingest::links;
use crate::ui::Outcome;
use crate::ui::output;

/// Make or renew a writable directory of symbolic links into the mount
///
/// It is for hosts that write into their cache on a miss, or look for X.wasm beside X.cwasm. Run it
/// again after publishing or removing keys. It replaces and removes only links that lead into the
/// mount, never a file.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs link ~/.cache/app --engine dev
  wasmfs link ~/.cache/zellij-linked zellij")]
pub struct Args {
    /// The directory, made if it is missing
    dir: PathBuf,
    /// Link only the keys under this directory, and leave it out of the names of the links
    prefix: Option<Key>,
    /// Link only artifacts of this engine: an alias, a label, or the start of a fingerprint
    #[arg(long)]
    engine: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was done, by path under the directory.
#[derive(Default, Serialize)]
struct Report {
    #[serde(serialize_with = "output::paths")]
    linked: Vec<PathBuf>,
    unchanged: usize,
    #[serde(serialize_with = "output::paths")]
    removed: Vec<PathBuf>,
    /// Files of the hosts' own in the place of a link.
    #[serde(serialize_with = "output::paths")]
    kept: Vec<PathBuf>,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let mount_point = match client.mount()? {
        Some(mount) => mount.mount_point,
        None => default_mount_point()?,
    };
    let wanted = wanted(&client, &args, &mount_point)?;
    client.close()?;
    let dir = LinkDir::open(&args.dir, &mount_point)?;
    let removed = dir.remove_all_but(|path| wanted.contains_key(path))?;
    let mut report = Report { removed, ..Report::default() };
    for (path, target) in &wanted {
        match dir.put(path, target)? {
            Put::Linked => report.linked.push(path.clone()),
            Put::Unchanged => report.unchanged += 1,
            Put::Kept => report.kept.push(path.clone()),
        }
    }
    if args.json {
        output::json(&report)?;
        return Ok(Outcome::Done);
    }
    for path in &report.kept {
        output::note(format_args!(
            "wasmfs: {} is a file of its own and was left alone",
            args.dir.join(path).display()
        ));
    }
    let Report { linked, unchanged, removed, .. } = &report;
    output::line(format_args!(
        "{}: {} linked, {} removed, {} unchanged",
        args.dir.display(),
        linked.len(),
        removed.len(),
        unchanged
    ))?;
    Ok(Outcome::Done)
}

/// The links to have: paths under the directory, and where they lead.
fn wanted(
    client: &StoreClient,
    args: &Args,
    mount_point: &Path,
) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let under = args.prefix.as_ref().map_or(String::new(), |prefix| format!("{prefix}/"));
    // A typo would take every link away.
    let engine = client.named_engine(args.engine.as_deref())?;
    let name = engine.as_ref().map(NamedEngine::view_name);
    let mut wanted = BTreeMap::new();
    for info in client.keys(&under) {
        let info = info?;
        let linked = match &engine {
            None => info.serves.is_some(),
            Some(engine) => info.engines.iter().any(|version| version.engine == engine.info.label),
        };
        if linked {
            let path = info.key.as_str().strip_prefix(&under).unwrap_or(info.key.as_str());
            let target = links::target(mount_point, name, &info.key);
            wanted.insert(PathBuf::from(path), target);
        }
    }
    Ok(wanted)
}
