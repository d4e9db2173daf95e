//! `wasmfs pin` and `wasmfs unpin`.

use std::path::Path;

use anyhow::Result;

use crate::args::KeyVersion;
use crate::client::StoreClient;
use crate::control::requests::{Pin, VersionAt, VersionOf};
use crate::ui::output;
use crate::ui::{Error, Outcome};

/// Protect a version from `wasmfs gc`, whatever is published over it
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs pin app.cwasm@2")]
pub struct PinArgs {
    #[command(flatten)]
    of: Of,
}

/// Remove the pin of a version, so that `wasmfs gc` can collect it
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs unpin app.cwasm@2")]
pub struct UnpinArgs {
    #[command(flatten)]
    of: Of,
}

#[derive(clap::Args, Debug)]
struct Of {
    /// The version; without @VERSION, the one that the plain name leads to
    #[arg(value_name = "KEY[@VERSION]")]
    of: KeyVersion,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn pin(store: &Path, args: PinArgs) -> Result<Outcome> {
    run(store, args.of, true)
}

pub fn unpin(store: &Path, args: UnpinArgs) -> Result<Outcome> {
    run(store, args.of, false)
}

fn run(store: &Path, args: Of, pinned: bool) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let VersionOf { key, version } = args.of.resolve(&client)?;
    let version = match version {
        Some(version) => version,
        None => client.ask(VersionAt { key: key.clone(), version: None })?.version,
    };
    let answer = client.ask(Pin { key: key.clone(), version, pinned })?;
    client.close()?;
    if !pinned && !answer.outcome.changed {
        return Err(Error::NotPinned { key, version }.into());
    }
    if args.json {
        output::json(&answer)?;
    } else {
        let done = if pinned { "pinned" } else { "not pinned any more" };
        output::line(format_args!("{key}@{version} is {done}"))?;
    }
    Ok(Outcome::Done)
}
