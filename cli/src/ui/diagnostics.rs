//! Printing errors.

use serde::Serialize;

use super::failure::Failure;
use super::output::{self, note};

/// Prints an error and its hint to standard error.
pub fn print_error(error: &anyhow::Error) {
    let failure = Failure::of(error);
    print_failure(&failure.message, failure.hint.as_deref());
}

/// Prints a message and a hint to standard error.
pub fn print_failure(message: &str, hint: Option<&str>) {
    note(format_args!("wasmfs: {message}"));
    if let Some(hint) = hint {
        note(format_args!("hint: {hint}"));
    }
}

/// What a command with `--json` prints when it fails.
#[derive(Serialize)]
struct Failed<'a> {
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    code: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}

/// Prints an error to standard output, as JSON.
pub fn print_error_as_json(failure: &Failure) {
    let Failure { code, message, hint, .. } = failure;
    // If nobody reads it, the exit status says that something failed.
    let _ = output::json(&Failed { error: Told { code, message, hint: hint.as_deref() } });
}
