//! `wasmfs ls`.

use std::path::Path;

use anyhow::Result;
use wasmfs_store::KeyInfo;

use crate::client::StoreClient;
use crate::ui::Outcome;
use crate::ui::output;

/// List keys, with the version that each plain name leads to
///
/// `-` stands for a plain name that leads to no version, `+N engines` for versions of N other
/// engines.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs ls
  wasmfs ls zellij/ --json")]
pub struct Args {
    /// Only keys that start with this text
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let client = StoreClient::open(store)?;
    let keys = client.keys(&args.prefix);
    if args.json {
        output::json_list(keys)?;
    } else {
        output::long_table(keys.map(|key| key.map(|key| row(&key))))?;
    }
    Ok(Outcome::Done)
}

fn row(key: &KeyInfo) -> [String; 6] {
    let others = key.engines.iter().filter(|v| !v.served_by_plain_name).count();
    let (version, size, published) = match &key.serves {
        Some(v) => (format!("@{}", v.version), output::size(v.size), v.published.clone()),
        None => ("-".into(), "-".into(), "-".into()),
    };
    let more = if others == 0 {
        String::new()
    } else {
        format!("+{}", output::count(others as u64, "engine"))
    };
    [key.key.to_string(), version, size, published, key.default_engine.clone(), more]
}
