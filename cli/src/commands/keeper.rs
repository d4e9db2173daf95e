//! The keeper, as `wasmfs mount` starts it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::args::OptionArgs;
use crate::daemon::keeper::{self, Service};
use crate::ui::Outcome;

/// Keeps a mount; started by `wasmfs mount`.
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub struct Args {
    mount_point: PathBuf,
    #[command(flatten)]
    options: OptionArgs,
    /// Say on standard output when the mount is served, and leave the terminal
    #[arg(long)]
    background: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let Args { mount_point, options, background } = args;
    let service = Service { store: store.to_owned(), mount_point, options: options.into() };
    keeper::run(&service, background)?;
    Ok(Outcome::Done)
}
