//! How a command ends.

use super::output::note;

/// How a command ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// Some of it was.
    Partly,
    /// None of it was, and the user was told why.
    Failed,
    /// As a command that it ran did.
    Status(u8),
}

/// Says that a change is committed but that the kernel could not be told yet.
pub fn warn_if_not_visible(visible: bool) {
    if !visible {
        note(format_args!(
            "wasmfs: committed, but not visible in the mount yet: a process holds a directory of it"
        ));
        note(format_args!(
            "hint: it will be as soon as that process is answered; nothing needs to be done"
        ));
    }
}
