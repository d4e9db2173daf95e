//! The `wasmfs` command.
#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod cli;
mod client;
mod commands;
mod compile;
mod control;
mod daemon;
mod ingest;
mod names;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, run};
use crate::ui::Outcome;

/// Something went in, something didn't; or the command line was wrong.
const PARTLY_OR_USAGE: u8 = 2;

fn main() -> ExitCode {
    // A reader that goes away (`wasmfs ls | head`) ends the command, quietly.
    match run(Cli::parse()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Partly) => ExitCode::from(PARTLY_OR_USAGE),
        Ok(Outcome::Status(status)) => ExitCode::from(status),
        Err(error) if ui::output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            ui::print_error(&error);
            ExitCode::from(if ui::is_usage(&error) { PARTLY_OR_USAGE } else { 1 })
        }
    }
}
