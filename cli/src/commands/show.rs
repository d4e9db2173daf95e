//! `wasmfs show`.

use std::path::Path;

use anyhow::Result;

use crate::args::KeyVersion;
use crate::client::StoreClient;
use crate::control::requests::VersionAt;
use crate::ui::Outcome;
use crate::ui::output;

/// Show one version, or the one that a key's plain name leads to
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs show app.cwasm
  wasmfs show app.cwasm@2 --json")]
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
    let of = args.of.resolve(&client)?;
    let v = client.ask(VersionAt { key: of.key, version: of.version })?;
    if args.json {
        output::json(&v)?;
        return Ok(Outcome::Done);
    }
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let pulley = if v.pulley { " (Pulley bytecode)" } else { "" };
    output::table(&[
        ["key".into(), v.key.to_string()],
        ["version".into(), v.version.to_string()],
        ["kind".into(), format!("{:?}", v.kind).to_lowercase() + pulley],
        ["size".into(), format!("{} ({} bytes)", output::size(v.size), v.size)],
        ["sha256".into(), v.sha256.hex()],
        ["engine".into(), v.engine],
        ["wasmtime".into(), v.wasmtime],
        ["target".into(), v.target],
        ["compiler".into(), v.compiler.to_string()],
        ["compiled by".into(), v.producer.unwrap_or("unknown".into())],
        ["source".into(), v.source.map_or("not kept".into(), |sha256| sha256.hex())],
        ["published".into(), v.published],
        ["inode".into(), v.inode.to_string()],
        ["rollback of".into(), v.rollback_of.map_or("-".into(), |n| format!("@{n}"))],
        ["plain name".into(), yes_no(v.served_by_plain_name)],
        ["removed".into(), yes_no(v.removed)],
        ["pinned".into(), yes_no(v.pinned)],
    ])?;
    Ok(Outcome::Done)
}
