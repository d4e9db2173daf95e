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

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use rustix::fs::Mode;

use crate::cli::{Cli, run};
use crate::ui::{Failure, Outcome};

/// Something went in, something didn't; or the command line was wrong.
const PARTLY_OR_USAGE: u8 = 2;

fn main() -> ExitCode {
    // Files that their own maker can't open are of no use to anybody.
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask & !Mode::RWXU);
    let wants_json = wants_json(std::env::args_os());
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are what was asked for.
            if error.use_stderr() && wants_json {
                let message = error.render().to_string();
                let message = message.lines().next().unwrap_or_default();
                let message = message.strip_prefix("error: ").unwrap_or(message);
                let hint = "`wasmfs COMMAND --help` says how it is used";
                ui::print_error_as_json(&ui::Error::usage(message, hint).into());
            }
            if error.use_stderr() {
                // The command line may have been made of names of files.
                ui::output::note(format_args!("{}", error.render()));
                return ExitCode::from(PARTLY_OR_USAGE);
            }
            error.exit()
        }
    };
    // A reader that goes away (`wasmfs ls | head`) ends the command, quietly.
    match run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Partly) => ExitCode::from(PARTLY_OR_USAGE),
        Ok(Outcome::Status(status)) => ExitCode::from(status),
        Err(error) if ui::output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::of(&error);
            if wants_json {
                ui::print_error_as_json(&failure);
            }
            ui::print_failure(&failure.message, failure.hint.as_deref());
            ExitCode::from(if failure.usage { PARTLY_OR_USAGE } else { 1 })
        }
    }
}

/// Whether `--json` is among the options, which `--` ends.
fn wants_json(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.by_ref().take_while(|argument| argument != "--").any(|argument| argument == "--json")
}
