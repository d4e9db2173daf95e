//! `wasmfs link`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use wasmfs_store::Key;

use crate::args::default_mount_point;
use crate::client::{NamedEngine, StoreClient};
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
    let mount_point = match client.mount_point()? {
        Some(mount_point) => mount_point,
        None => default_mount_point()?,
    };
    let wanted = wanted(&client, &args, &mount_point)?;
    client.close()?;
    let made = fs::create_dir_all(&args.dir);
    made.with_context(|| format!("making {}", args.dir.display()))?;

    let mut report = Report::default();
    remove_stale(&args.dir, Path::new(""), &mount_point, &wanted, &mut report)?;
    for (path, target) in &wanted {
        put_link(&args.dir, path, target, &mount_point, &mut report)?;
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

fn remove_stale(
    root: &Path,
    under: &Path,
    mount_point: &Path,
    wanted: &BTreeMap<PathBuf, PathBuf>,
    report: &mut Report,
) -> Result<()> {
    let dir = root.join(under);
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let path = under.join(entry.file_name());
        let kind = entry.file_type().with_context(|| format!("reading {}", dir.display()))?;
        if kind.is_dir() {
            let before = report.removed.len();
            remove_stale(root, &path, mount_point, wanted, report)?;
            if report.removed.len() > before {
                // It stays if the host has something of its own in it.
                let _ = fs::remove_dir(entry.path());
            }
        } else if links::own(&entry.path(), mount_point).is_some() && !wanted.contains_key(&path) {
            let removed = fs::remove_file(entry.path());
            removed.with_context(|| format!("removing {}", entry.path().display()))?;
            report.removed.push(path);
        }
    }
    Ok(())
}

fn put_link(
    root: &Path,
    path: &Path,
    target: &Path,
    mount_point: &Path,
    report: &mut Report,
) -> Result<()> {
    let place = root.join(path);
    let kept = |report: &mut Report| {
        report.kept.push(path.to_owned());
        Ok(())
    };
    let parent = place.parent().unwrap_or(root);
    match fs::create_dir_all(parent) {
        // A file of the host's where the key has a directory.
        Err(e)
            if matches!(e.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) =>
        {
            return kept(report);
        }
        made => made.with_context(|| format!("making {}", parent.display()))?,
    }
    // Never over what a host wrote, not even a moment ago.
    let put = match symlink(target, &place) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match links::own(&place, mount_point)
        {
            None => return kept(report),
            Some(now) if now == target => {
                report.unchanged += 1;
                return Ok(());
            }
            Some(_) => links::replace(&place, target),
        },
        put => put,
    };
    put.with_context(|| format!("linking {}", place.display()))?;
    report.linked.push(path.to_owned());
    Ok(())
}
