//! `wasmfs rollback`.

use std::path::Path;

use anyhow::Result;
use wasmfs_store::{Status, Version};

use crate::args::KeyVersion;
use crate::client::StoreClient;
use crate::control::requests::{Rollback, VersionOf};
use crate::ui::output;
use crate::ui::{Outcome, print_published, warn_if_not_visible};

/// Publish an earlier version of a key again, as a new version
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs rollback app.cwasm
  wasmfs rollback app.cwasm 2")]
pub struct Args {
    /// The key, or the version to publish again
    #[arg(value_name = "KEY[@VERSION]")]
    of: KeyVersion,
    /// The version to publish again [default: the one before what the plain name leads to, of the
    /// same engine; after a rollback, the one before what was rolled back to]
    version: Option<Version>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let VersionOf { key, version } = args.of.resolve(&client)?;
    let answer = client.ask(Rollback(VersionOf { key, version: args.version.or(version) }))?;
    client.close()?;
    if args.json {
        output::json(&answer)?;
    } else {
        print_published(&answer.outcome)?;
        if let (Status::Published, Some(of)) =
            (answer.outcome.status, answer.outcome.version.rollback_of)
        {
            output::line(format_args!("  same bytes as @{of}"))?;
        }
    }
    warn_if_not_visible(answer.visible);
    Ok(Outcome::Done)
}
