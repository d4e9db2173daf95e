//! The words of the store: keys, digests, numbers, views.
//!
//! They are plain values that check themselves and know of no file. Every other folder may use
//! them; they use nothing but each other.

pub(crate) mod base64_bytes;
mod ids;
mod key;
mod sha;
mod size;
mod view;

pub use ids::{EngineNumber, Inode, Sequence, Version};
pub use key::{InvalidKey, Key, KeyError, MAX_COMPONENT_LEN, MAX_KEY_LEN, RESERVED};
pub(crate) use key::{join_path, split_path};
pub use sha::Sha;
pub(crate) use size::in_memory;
pub use view::{ENGINES_INODE, FIRST_FREE_INODE, ROOT_INODE, VERSIONS_INODE, View};
