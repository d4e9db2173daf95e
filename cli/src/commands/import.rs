//! `wasmfs import`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use wasmfs_store::Key;
use wasmfs_store::maintenance::Archived;

use crate::client::StoreClient;
use crate::ingest::restore;
use crate::ingest::scan::{self as import, Import, Imported};
use crate::ui::output;
use crate::ui::{Error, Outcome, print_failure, print_published, warn_if_not_visible};

/// Publish the artifacts of a cache directory, or take in an archive of `wasmfs export`
///
/// Of a directory, each artifact becomes a key with its relative path. What the store has already
/// is skipped, and so is what is no artifact. Symbolic links are not followed. A file that changes
/// while it is read is not taken, so that an application can go on using the directory.
///
/// An archive makes an empty store an exact copy of the exported one. To another store it adds what
/// is missing. Both can be repeated after an interruption.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs import ~/.cache/zellij --prefix zellij
  wasmfs import backup.tar")]
pub struct Args {
    /// The archive, or `-` for standard input; or the directory
    #[arg(value_name = "ARCHIVE|DIR")]
    dir: PathBuf,
    /// A directory to put before the keys
    #[arg(long, value_name = "DIR")]
    prefix: Option<Key>,
    /// Refuse artifacts of other engines; ENGINE is an alias, a label, or the start of a
    /// fingerprint
    #[arg(long)]
    engine: Option<String>,
    /// Replace the imported files by links into the mount
    #[arg(long)]
    link: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    imported: Imported,
    #[serde(serialize_with = "output::paths")]
    linked: Vec<PathBuf>,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    if args.dir == Path::new("-") || args.dir.is_file() {
        return archive(store, args);
    }
    let mut client = StoreClient::open_or_create(store)?;
    let mount = if args.link { client.mount()? } else { None };
    if args.link && mount.is_none() {
        return Err(Error::LinksLeadNowhere.into());
    }
    let engine = client.named_engine(args.engine.as_deref())?;
    let root = Arc::new(import::open_root(&args.dir)?);
    let what = Import { dir: &args.dir, root, prefix: args.prefix.as_ref(), engine };
    let mut imported = import::import(&mut client, &what)?;
    client.close()?;
    let linked = match &mount {
        Some(mount) => import::link(&mut imported, &what, mount)?,
        None => Vec::new(),
    };
    let report = Report { imported, linked };
    if args.json {
        output::json(&report)?;
    } else {
        for taken in &report.imported.imported {
            if let Some(published) = &taken.published {
                print_published(published)?;
            }
        }
        for left in &report.imported.left {
            output::line(format_args!("skipped {}: {}", left.path.display(), left.reason))?;
        }
        let linked = match args.link {
            true => format!(", {} linked", report.linked.len()),
            false => String::new(),
        };
        output::line(format_args!(
            "{}: {}{linked}",
            args.dir.display(),
            summary(&report.imported)
        ))?;
    }
    print_failures(&args.dir, &report.imported);
    warn_if_not_visible(report.imported.visible);
    Ok(outcome(&report.imported))
}

fn archive(store: &Path, args: Args) -> Result<Outcome> {
    if args.prefix.is_some() || args.engine.is_some() || args.link {
        return Err(Error::usage(
            "--prefix, --engine and --link are for a directory, and this is an archive",
            "leave them out",
        )
        .into());
    }
    let report = restore::restore(store, &args.dir)?;
    if args.json {
        output::json(&report)?;
    } else {
        let Archived { changes, payloads, bytes, .. } = report.archived;
        let size = output::size(bytes);
        match report.exact {
            true => output::line(format_args!(
                "{} is an exact copy: {changes} changes, {payloads} payloads of {size}",
                store.display()
            ))?,
            false => output::line(format_args!(
                "{} versions added, {} existed already{}{}",
                report.added,
                report.unchanged,
                match report.older {
                    0 => String::new(),
                    n => format!(", {n} are older than what is here"),
                },
                match report.failed.len() {
                    0 => String::new(),
                    n => format!(", {n} not added"),
                }
            ))?,
        }
    }
    for name in &report.aliases_left {
        output::note(format_args!(
            "wasmfs: the name {name} was left out: it means another engine here, or there is nothing of its engine"
        ));
    }
    for failed in &report.failed {
        let message = format!("{}@{}: {}", failed.key, failed.version, failed.error);
        print_failure(&message, failed.hint.as_deref());
    }
    warn_if_not_visible(report.visible);
    Ok(match (report.failed.len(), report.added + report.unchanged) {
        (0, _) => Outcome::Done,
        (_, 0) => Outcome::Failed,
        _ => Outcome::Partly,
    })
}

/// How many files went where.
pub fn summary(report: &Imported) -> String {
    let Imported { imported, unchanged, left, failed, .. } = report;
    let failed = match failed.len() {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    format!(
        "{} imported, {} unchanged, {} skipped{failed}",
        imported.len(),
        unchanged.len(),
        left.len()
    )
}

/// Says why artifacts were not taken.
pub fn print_failures(dir: &Path, report: &Imported) {
    for failed in &report.failed {
        let message = format!("{}: {}", dir.join(&failed.path).display(), failed.error);
        print_failure(&message, failed.hint.as_deref());
    }
}

/// How a command ends that imported.
pub fn outcome(report: &Imported) -> Outcome {
    match (report.failed.is_empty(), report.imported.len() + report.unchanged.len()) {
        (true, _) => Outcome::Done,
        (false, 0) => Outcome::Failed,
        (false, _) => Outcome::Partly,
    }
}
