//! What the server's files in the store's directory are called.

/// The control socket, in the store's directory.
pub const SOCKET: &str = "control.sock";
/// The log of a server in the background, in the store's directory.
pub const LOG: &str = "wasmfs.log";
