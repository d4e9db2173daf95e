//! What a user sees: output, progress, errors with their hints, and how a command ends.
//!
//! Nothing else prints, and all of it is escaped on its way (`escape.rs`). It knows errors of the other crates, and nothing of commands.

mod diagnostics;
mod error;
mod escape;
mod failure;
mod hints;
mod outcome;
pub mod output;
pub mod progress;
mod published;
#[cfg(test)]
mod tests;

pub use diagnostics::{print_error, print_error_as_json, print_failure};
pub use error::Error;
pub use escape::one_line;
pub use failure::{Failure, is_ending, is_gone, is_no_key, was_lost};
pub use outcome::{Outcome, warn_if_not_visible};
pub use published::print_published;
