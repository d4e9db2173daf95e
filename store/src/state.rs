//! `state.json`: whether the next process that opens the store can trust the catalogue.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::clock::boot_id;
use crate::disk::durable::write_json;
use crate::disk::names::STATE;
use crate::error::Result;

/// What `state.json` says. Without the file nothing is trusted.
#[derive(Serialize, Deserialize)]
struct RunState {
    /// The machine's run that wrote this; nothing while the catalogue is not to be trusted.
    boot_id: Option<String>,
    /// Whether the catalogue was closed and synced.
    closed: bool,
}

/// Whether the catalogue in `dir` was closed, or is of this run of the machine: a power cut harms
/// it silently, a kill never.
pub(crate) fn is_trusted(dir: &Path) -> bool {
    let read = || serde_json::from_slice::<RunState>(&fs::read(dir.join(STATE)).ok()?).ok();
    read().is_some_and(|s| s.closed || s.boot_id.is_some() && s.boot_id == boot_id())
}

/// Notes that the catalogue is open; `trusted` if the same run of the machine may trust it.
pub(crate) fn note_open(dir: &Path, trusted: bool) -> Result<()> {
    let boot_id = if trusted { boot_id() } else { None };
    write_json(&dir.join(STATE), &RunState { boot_id, closed: false })
}

/// Notes that the catalogue was closed and synced.
pub(crate) fn note_closed(dir: &Path) -> Result<()> {
    write_json(&dir.join(STATE), &RunState { boot_id: boot_id(), closed: true })
}

/// Has the next open rebuild the catalogue.
pub(crate) fn distrust(dir: &Path) {
    let _ = fs::remove_file(dir.join(STATE));
}
