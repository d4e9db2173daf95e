//! The store: what can be done with one.
//!
//! [`Store`] is the handle (`handle.rs`), made by `open.rs`. Whoever changes something takes the
//! one [`Writer`], adds changes of the history to it and commits them; whoever reads takes a guard
//! of the catalogue. A file an operation: publish, rollback and removal, engines, what the mount
//! reads, what users ask. It uses every folder but those for collection and maintenance.

mod engines;
mod handle;
mod open;
mod payloads;
mod publish;
mod queries;
mod rollback;
mod tree;
mod versions;
mod writer;

pub use engines::{EngineInfo, Moved, check_engine};
pub(crate) use engines::{check_alias, section_of};
pub use handle::Store;
pub use payloads::Space;
pub use publish::{Publish, Published, Source};
pub use queries::{KeyInfo, MAX_PAGE, Page, VersionInfo, rfc3339};
pub use rollback::Removed;
pub use tree::{DirEntry, EntryKind, InodeRecord, LinkRecord, VersionRecord};
pub use versions::Status;
pub(crate) use writer::{Quiesced, Writer};
