//! The `wasmfs` command.

mod access;
mod batch;
mod commands;
mod compile;
mod control;
mod external;
mod failure;
mod import;
mod interrupt;
mod keeper;
mod links;
mod output;
mod paths;
mod restore;
mod scratch;
mod steady;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Cli;

/// Something went in, something didn't; or the command line was wrong.
const PARTLY_OR_USAGE: u8 = 2;

fn main() -> ExitCode {
    // A reader that goes away (`wasmfs ls | head`) ends the command, quietly.
    match commands::run(Cli::parse()) {
        Ok(commands::Outcome::Done) => ExitCode::SUCCESS,
        Ok(commands::Outcome::Failed) => ExitCode::FAILURE,
        Ok(commands::Outcome::Partly) => ExitCode::from(PARTLY_OR_USAGE),
        Ok(commands::Outcome::Status(status)) => ExitCode::from(status),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::print(&error);
            ExitCode::from(if failure::is_usage(&error) { PARTLY_OR_USAGE } else { 1 })
        }
    }
}
