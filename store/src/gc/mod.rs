//! Collection: what nothing needs is deleted, and what is left is written compactly.
//!
//! [`Store::collectable`](crate::Store::collectable) says what nothing in the store keeps; whoever
//! serves mounts asks the kernel, and then [`Store::collect`](crate::Store::collect)s. Orphans and
//! compaction come after. It uses the store's writer; nothing of the store uses it.

mod candidates;
mod collect;
mod compact;
mod limits;
mod orphans;
mod snapshot;

pub use candidates::{Candidate, Fate, Portion};
pub use collect::Collected;
pub use compact::Compacted;
pub(crate) use snapshot::write_snapshot;
