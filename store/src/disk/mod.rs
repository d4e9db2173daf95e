//! The store's directory as files: names, durable writes, free space, the lock, the clock.
//!
//! What is in the files is no concern of this folder's. Whoever writes a file of the store does it
//! through here, by the directory's descriptor, so that a crash leaves the old one or the new. It uses [`crate::types`] and
//! [`crate::error`] alone.

pub(crate) mod by_path;
pub(crate) mod clock;
mod dir;
mod lock;
pub(crate) mod names;
pub(crate) mod space;
mod temp;
mod way;

pub use dir::Dir;
pub use lock::Lock;
pub use temp::private_temp_dir;
pub(crate) use temp::{TEMP_PREFIX, sweep, temp_dir, temp_dir_in_memory};
pub(crate) use way::foreign_owner;
pub use way::{End, Missing, check_parent, open_directory, open_parent, open_way};
