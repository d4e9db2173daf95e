//! The server in the background, as `wasmfs mount` starts it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Outcome;
use crate::serve::{Service, run_in_background};

/// Serves a mount; started by `wasmfs mount`.
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub struct Args {
    mount_point: PathBuf,
    #[arg(long)]
    allow_other: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let Args { mount_point, allow_other } = args;
    run_in_background(&Service { store: store.to_owned(), mount_point, allow_other })?;
    Ok(Outcome::Done)
}
