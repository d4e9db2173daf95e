//! Arguments that several commands take: the store, the mount, a key with a version.

mod key_version;
mod mount_options;
mod places;

pub use key_version::{KeyVersion, has_key};
pub use mount_options::OptionArgs;
pub use places::{MountArg, StoreArg, StorePath, absolute, default_mount_point};
