//! What the files and directories of a store are called.

use std::path::{Path, PathBuf};

use crate::types::Sha;

/// The format, and what the owner wants.
pub(crate) const SETTINGS: &str = "settings.json";
/// Every committed change, a line each.
pub(crate) const HISTORY: &str = "history";
/// What is to take the place of [`HISTORY`].
pub(crate) const NEW_HISTORY: &str = "history.new";
/// Whether the catalogue can be trusted.
pub(crate) const STATE: &str = "state.json";
/// The owner's process number, under a flock.
pub(crate) const LOCK: &str = "lock";
/// The catalogue.
pub(crate) const CATALOGUE: &str = "db";
/// Where a catalogue is made that is to take the place of [`CATALOGUE`].
pub(crate) const NEW_CATALOGUE: &str = "db.new";
/// Object files: payloads by their sha256.
pub(crate) const OBJECTS: &str = "objects";
/// What is staged and not committed.
pub(crate) const INCOMING: &str = "incoming";
/// Damaged payloads, by their sha256.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Space that is given back to a full disk.
pub(crate) const RESERVE: &str = "reserve";

/// Where the object file of a payload is, in a directory of such: `ab/ab34…`.
pub(crate) fn object_in(objects: &Path, sha256: &Sha) -> PathBuf {
    let hex = sha256.hex();
    objects.join(&hex[..2]).join(hex)
}

/// A name for what is damaged, to be kept beside what takes its place.
pub(crate) fn damaged_aside(name: &str) -> String {
    format!("{name}.damaged-{}", super::clock::now() / 1_000_000)
}
