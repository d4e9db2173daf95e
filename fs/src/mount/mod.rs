//! Mounts as the kernel has them: making, finding and removing them, and who uses them.
//!
//! A mount is made always `ro,nosuid,nodev` and never `noexec`. Nothing here serves one. It uses
//! nothing of this crate's but errors.

mod fusermount;
mod point;
mod table;
mod users;

pub use point::{Options, absolute, prepare, unmount};
pub(crate) use point::{detach, mount};
pub use table::{FS_TYPE, Mounted, all_mounted, mounted_at};
pub use users::{MountUser, mount_users};
