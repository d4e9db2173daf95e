//! The mount of wasmfs: a read-only filesystem over a store, and the FUSE
//! layer that serves it, and the keeper that outlives who serves it. It takes
//! no arguments and prints nothing.
#![warn(missing_docs)]

mod background;
mod backing;
mod error;
mod fault;
mod filesystem;
mod fuse;
mod ipc;
mod journal;
pub mod mount;
mod serve;
mod supervise;

pub use backing::memory::Usage;
pub use error::{Error, Result};
pub use filesystem::{
    Attributes, CACHEDIR_TAG, CACHEDIR_TAG_INODE, Entry, Filesystem, NAME_MAX, RESERVED_INODE,
};
pub use ipc::descriptors::close_on_exec;
pub use ipc::protocol::KeeperStatus;
pub use ipc::socket::short_path;
pub use mount::users::{Holder, holders};
pub use serve::gc;
pub use serve::mounts::{Mount, Mounts, abort_on_panic};
pub use supervise::handover::Charge;
pub use supervise::keeper::run::{Plan, keep};
pub use supervise::worker::{Event, Worker};
