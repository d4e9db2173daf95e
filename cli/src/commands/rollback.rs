//! `wasmfs rollback`.

use std::path::Path;

use anyhow::Result;
use wasmfs_store::{Key, Status, Version};

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
    key: Key,
    /// The version to bring back [default: the one before what the plain name serves]
    version: Option<Version>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let answer = client.ask(Rollback(VersionOf { key: args.key, version: args.version }))?;
    client.close()?;
    if args.json {
        output::json(&answer)?;
    } else {
        print_published(&answer.outcome)?;
        if let (Status::Published, Some(of)) =
            (answer.outcome.status, answer.outcome.version.rollback_of)
        {
            output::line(format_args!("  has the bytes of @{of}"))?;
        }
    }
    warn_if_not_visible(answer.visible);
    Ok(Outcome::Done)
}
