//! The trees of names that a mount shows.

use serde::{Deserialize, Serialize};

use super::ids::{EngineNumber, Inode};

/// Inode numbers below this belong to the mount's fixed entries.
pub const FIRST_FREE_INODE: Inode = Inode(16);
/// The root of the mount, and of [`View::Keys`].
pub const ROOT_INODE: Inode = Inode(1);
/// `.wasmfs/versions`, the root of [`View::Versions`].
pub const VERSIONS_INODE: Inode = Inode(3);
/// `.wasmfs/engines`; its entries are the roots of the engines' views.
pub const ENGINES_INODE: Inode = Inode(4);

/// One of the trees of names that the mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum View {
    /// The root: each key leads to the newest version of its default engine.
    Keys,
    /// `.wasmfs/versions`: each key is a directory of its versions.
    Versions,
    /// `.wasmfs/engines/LABEL`: each key leads to that engine's newest version.
    Engine(EngineNumber),
}
