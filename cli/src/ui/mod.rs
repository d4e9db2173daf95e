//! What a user sees: output, progress, errors with their hints, and how a command ends.
//!
//! Nothing else prints. It knows errors of the other crates, and nothing of commands.

mod diagnostics;
mod outcome;
pub mod output;
pub mod progress;
mod published;

pub use diagnostics::{Failure, is_no_key, is_usage, print_error, print_failure};
pub use outcome::{Outcome, warn_if_not_visible};
pub use published::print_published;
