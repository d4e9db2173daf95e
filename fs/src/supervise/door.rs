//! Where a worker can be found by a new keeper.

use wasmfs_store::StoreDir;

/// The name of its socket in the store's directory.
pub(super) const KEEPER_SOCKET: &str = "keeper.sock";

/// Removes the socket, when no process has the store any more.
pub(super) fn remove_door(dir: &StoreDir) {
    // It may never have been there.
    let _ = dir.remove_file(KEEPER_SOCKET);
}
