//! The mount of wasmfs: a read-only filesystem over a store, and the FUSE
//! layer that serves it, and the keeper that outlives who serves it. It takes
//! no arguments and prints nothing.
#![warn(missing_docs, unreachable_pub)]
#![warn(clippy::must_use_candidate, clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

mod background;
mod backing;
mod error;
mod fault;
mod filesystem;
mod fuse;
mod heap;
mod ipc;
mod journal;
pub mod mount;
mod serve;
mod supervise;

pub use backing::Usage;
pub use error::{Error, Result};
pub use filesystem::{
    Attributes, CACHEDIR_TAG, CACHEDIR_TAG_INODE, Filesystem, NAME_MAX, RESERVED_INODE,
};
pub use heap::give_back_memory;
pub use ipc::{KeeperStatus, SocketType, close_on_exec, reach};
pub use serve::{Mount, Mounts, abort_on_panic, gc};
pub use supervise::{Event, Handover, Plan, Worker, keep};
