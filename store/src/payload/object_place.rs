//! Where an object file is.

use crate::disk::Dir;

/// Where the object file of a payload is, or is to be.
pub(crate) struct ObjectPlace {
    /// One of the directories in `objects/`.
    pub(super) directory: Dir,
    /// Its name in there.
    pub(super) name: String,
}
