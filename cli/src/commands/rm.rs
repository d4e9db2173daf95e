//! `wasmfs rm`.

use std::path::Path;

use anyhow::Result;

use crate::args::KeyVersion;
use crate::client::StoreClient;
use crate::control::requests::Remove;
use crate::ui::output;
use crate::ui::{Outcome, warn_if_not_visible};

/// Remove a key, or one of its versions, from the mount
///
/// A process that has the file open or mapped keeps it. `wasmfs rollback KEY VERSION` brings a
/// removed version back, until `wasmfs gc` collects it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs rm app.cwasm
  wasmfs rm app.cwasm@2")]
pub struct Args {
    /// The key, or one version of it
    #[arg(value_name = "KEY[@VERSION]")]
    of: KeyVersion,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let answer = client.ask(Remove(args.of.clone().resolve(&client)?))?;
    client.close()?;
    if args.json {
        output::json(&answer)?;
    } else {
        match answer.outcome.now_serves {
            Some(version) => output::line(format_args!(
                "{} is removed; the plain name serves @{version}",
                args.of
            ))?,
            None => output::line(format_args!("{} is removed; the plain name is gone", args.of))?,
        }
    }
    warn_if_not_visible(answer.visible);
    Ok(Outcome::Done)
}
