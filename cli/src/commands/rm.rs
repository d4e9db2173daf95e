//! `wasmfs rm`.

use std::path::Path;

use anyhow::Result;

use crate::args::KeyVersion;
use crate::client::Access;
use crate::control::changes::Remove;
use crate::ui::output;
use crate::ui::{Outcome, warn_if_not_visible};

/// Take away the names of a key, or of one of its versions
///
/// Whoever has it open or mapped keeps it. `wasmfs rollback KEY VERSION`
/// brings a removed version back.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(value_name = "KEY[@VERSION]")]
    of: KeyVersion,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let access = Access::open(store)?;
    let answer = access.change(Remove(args.of.clone().resolve(&access)?))?;
    access.close()?;
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
