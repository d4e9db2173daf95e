//! The worker, as its keeper starts it.

use std::path::Path;

use anyhow::Result;

use crate::ui::Outcome;

/// Serves a store for a keeper, at the other end of standard input.
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub struct Args {}

pub fn run(store: &Path, _: Args) -> Result<Outcome> {
    crate::daemon::worker::run(store)?;
    Ok(Outcome::Done)
}
