//! `state.json`: whether the next process that opens the store can trust the catalogue.

use serde::{Deserialize, Serialize};

use crate::disk::Dir;
use crate::disk::clock::boot_id;
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
pub(crate) fn is_trusted(dir: &Dir) -> bool {
    let read = || serde_json::from_slice::<RunState>(&dir.read(STATE).ok()?).ok();
    read().is_some_and(|s| s.closed || s.boot_id.is_some() && s.boot_id == boot_id())
}

/// Whether this is the text of a `state.json`, and of nobody else's file of that name.
pub(crate) fn is_state(text: &[u8]) -> bool {
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(text) else { return false };
    let boot_id = state.get("boot_id");
    // A number of 36 characters (random(4)), or that there is none.
    let is_id = boot_id
        .is_some_and(|id| id.is_null() || id.as_str().is_some_and(|id| id.trim().len() == 36));
    is_id && state.get("closed").is_some_and(serde_json::Value::is_boolean)
}

/// Notes that the catalogue is open; `trusted` if the same run of the machine may trust it.
pub(crate) fn note_open(dir: &Dir, trusted: bool) -> Result<()> {
    let boot_id = if trusted { boot_id() } else { None };
    dir.write_json(STATE, &RunState { boot_id, closed: false })
}

/// Notes that the catalogue was closed and synced.
pub(crate) fn note_closed(dir: &Dir) -> Result<()> {
    dir.write_json(STATE, &RunState { boot_id: boot_id(), closed: true })
}

/// Has the next open rebuild the catalogue.
pub(crate) fn distrust(dir: &Dir) {
    let _ = dir.remove_file(STATE);
}
