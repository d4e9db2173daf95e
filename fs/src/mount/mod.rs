//! Mounting and unmounting, and who uses a mount.

pub(crate) mod point;
pub(crate) mod users;

pub use point::{FS_TYPE, Mounted, Options, absolute, mount, mounted_at, prepare, unmount};
