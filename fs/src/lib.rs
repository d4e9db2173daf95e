//! The mount of wasmfs: a read-only filesystem over a store, and the FUSE
//! layer that serves it, and the keeper that outlives who serves it. It takes
//! no arguments and prints nothing.
#![warn(missing_docs)]

mod backings;
mod channel;
mod charge;
pub mod collect;
mod connection;
mod descriptors;
mod error;
mod fault;
mod filesystem;
mod fuse;
mod holders;
mod huge;
mod journal;
mod keeper;
mod later;
mod memory;
pub mod mount;
mod notify;
mod packets;
mod passthrough;
mod requests;
mod session;
mod verity;
mod worker;

pub use channel::KeeperStatus;
pub use charge::Charge;
pub use descriptors::close_on_exec;
pub use error::{Error, Result};
pub use filesystem::{
    Attributes, CACHEDIR_TAG, CACHEDIR_TAG_INODE, Entry, Filesystem, NAME_MAX, RESERVED_INODE,
};
pub use holders::{Holder, holders};
pub use keeper::{Plan, keep};
pub use memory::Usage;
pub use packets::short_path;
pub use session::{Mount, Mounts, abort_on_panic};
pub use worker::{Event, Worker};
