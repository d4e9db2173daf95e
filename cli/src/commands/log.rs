//! `wasmfs log`.

use std::path::Path;

use anyhow::Result;
use wasmfs_store::{Key, VersionInfo};

use crate::client::StoreClient;
use crate::control::requests::Latest;
use crate::ui::Outcome;
use crate::ui::output;

/// How many versions `log` shows of a whole store.
const LATEST: usize = 100;

/// Show the versions of a key, or the last 100 of the store, newest first
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs log
  wasmfs log app.cwasm")]
pub struct Args {
    /// The key; without it, the whole store
    key: Option<Key>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let versions: Box<dyn Iterator<Item = Result<VersionInfo>>> = match &args.key {
        Some(key) => Box::new(client.versions(key)),
        None => Box::new(client.ask(Latest { limit: LATEST })?.into_iter().map(Ok)),
    };
    if args.json {
        output::json_list(versions)?;
    } else {
        output::long_table(versions.map(|version| version.map(|version| row(&version))))?;
    }
    Ok(Outcome::Done)
}

fn row(v: &VersionInfo) -> [String; 6] {
    let mut notes = Vec::new();
    if v.served_by_plain_name {
        notes.push("plain name".to_owned());
    } else if v.current {
        notes.push("current".to_owned());
    }
    if let Some(version) = v.rollback_of {
        notes.push(format!("rollback of @{version}"));
    }
    if v.pinned {
        notes.push("pinned".to_owned());
    }
    if v.removed {
        notes.push("removed".to_owned());
    }
    [
        format!("{}@{}", v.key, v.version),
        v.published.clone(),
        output::size(v.size),
        v.sha256.hex()[..12].to_owned(),
        v.engine.clone(),
        notes.join(", "),
    ]
}
