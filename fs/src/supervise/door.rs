//! Where a worker can be found by a new keeper.

use std::path::Path;

/// The name of its socket in the store's directory.
pub(super) const KEEPER_SOCKET: &str = "keeper.sock";

/// Removes the socket, when no process has the store any more.
pub(super) fn remove_door(dir: &Path) {
    // It may never have been there.
    let _ = std::fs::remove_file(dir.join(KEEPER_SOCKET));
}
