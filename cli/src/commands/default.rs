//! `wasmfs default`.

use std::path::Path;

use anyhow::Result;
use wasmfs_store::Key;

use crate::client::StoreClient;
use crate::control::requests::SetDefault;
use crate::ui::output;
use crate::ui::{Error, Outcome, warn_if_not_visible};

/// Move plain names to another engine
///
/// All of them move with one commit: a host that starts meanwhile opens the old version or the new
/// one, and after a crash all have moved or none. Files that hosts have open stay what they are.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs default app.cwasm prod
  wasmfs default --all wasmtime-48-x86_64-c6d3db11")]
#[command(override_usage = "wasmfs default KEY... ENGINE\n       wasmfs default --all ENGINE")]
pub struct Args {
    /// Every key that the engine has; the others stay, and are listed
    #[arg(long)]
    all: bool,
    /// The keys, and the engine: an alias, a label, or the start of a fingerprint
    #[arg(required = true, value_name = "KEY... ENGINE")]
    names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, mut args: Args) -> Result<Outcome> {
    let engine = args.names.pop().unwrap_or_default();
    let keys = match (args.all, args.names.is_empty()) {
        (true, true) => None,
        (false, false) => Some(args.names.iter().map(Key::new).collect::<Result<_, _>>()?),
        (true, false) => {
            let message = "--all means every key, and keys were named as well";
            return Err(Error::usage(message, "leave one of them out").into());
        }
        (false, true) => {
            return Err(Error::usage(
                "name the keys, and then the engine",
                "`wasmfs default KEY... ENGINE`, or `wasmfs default --all ENGINE`; `wasmfs engines` \
                 lists the engines",
            )
            .into());
        }
    };
    let client = StoreClient::open(store)?;
    let answer = client.ask(SetDefault { keys, engine })?;
    client.close()?;
    let moved = &answer.outcome;
    if args.json {
        output::json(&answer)?;
    } else {
        if let [key] = &moved.moved[..] {
            output::line(format_args!("{key} now leads to {}", moved.engine))?;
        } else {
            let (moved, unchanged) = (moved.moved.len(), moved.unchanged);
            let engine = &answer.outcome.engine;
            output::line(format_args!(
                "{moved} plain names moved to {engine}, {unchanged} led to it already"
            ))?;
        }
        for key in &moved.lacking {
            output::line(format_args!("  {key} stays: this engine has no version of it"))?;
        }
    }
    warn_if_not_visible(answer.visible);
    Ok(Outcome::Done)
}
