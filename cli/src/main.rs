//! The `wasmfs` command.

mod client;
mod commands;
mod compile;
mod control;
mod daemon;
mod ingest;
mod paths;
mod ui;

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
        Err(error) if ui::output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            ui::diagnostics::print(&error);
            ExitCode::from(if ui::diagnostics::is_usage(&error) { PARTLY_OR_USAGE } else { 1 })
        }
    }
}
