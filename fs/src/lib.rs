//! The mount of wasmfs: a read-only filesystem over a store, and the FUSE
//! layer that serves it. It takes no arguments and prints nothing.
#![warn(missing_docs)]

mod descriptors;
mod error;
mod filesystem;
mod fuse;
mod holders;
pub mod mount;
mod notify;
mod session;

pub use descriptors::close_on_exec;
pub use error::{Error, Result};
pub use filesystem::{
    Attributes, CACHEDIR_TAG, CACHEDIR_TAG_INODE, Entry, Filesystem, NAME_MAX, RESERVED_INODE,
};
pub use holders::{Holder, holders};
pub use session::{Mount, Mounts, abort_on_panic};
