//! The store of wasmfs: artifacts, their versions, and the history that
//! commits them. It knows nothing of FUSE.
//!
//! A store is a directory that one process owns at a time:
//!
//! | path | what |
//! | --- | --- |
//! | `settings.json` | the format and the owner's settings |
//! | `history` | every committed change, one line each: the commit |
//! | `db/` | the catalogue, a sled database that is derived from the history |
//! | `objects/ab/…` | payloads by sha256 |
//! | `reserve` | space that is given back to a disk that is full |
//! | `incoming/` | uploads under way, swept when the store opens |
//! | `state.json` | whether sled was closed, and in which run of the machine |
//! | `lock` | the owner's process number, under a flock |
#![warn(missing_docs)]

pub mod artifact;
mod catalogue;
mod disk;
mod error;
mod gc;
mod history;
mod maintenance;
mod payload;
mod settings;
mod store;
mod types;

pub use catalogue::{
    Changes, ENGINES_INODE, FIRST_FREE_INODE, ROOT_INODE, SCRATCH, Untold, VERSIONS_INODE,
    panics_are_caught,
};
pub use disk::lock::Lock;
pub use error::{Error, Result};
pub use gc::collect::{Candidate, Collected, Fate, Policy, Portion};
pub use gc::compact::Compacted;
pub use maintenance::repair::repair;
pub use maintenance::{archive, verify};
pub use payload::staging::{Staged, StagedSource};
pub use settings::{DEFAULT_INLINE_LIMIT, FORMAT, InlineLimit, Settings, Unlimited};
pub use store::engines::{EngineInfo, Moved};
pub use store::open::Store;
pub use store::publish::{Publish, Published, Source, Status};
pub use store::queries::{KeyInfo, VersionInfo, rfc3339};
pub use store::rollback::Removed;
pub use store::tree;
pub use types::key::{Key, KeyError, MAX_COMPONENT_LEN, MAX_KEY_LEN, RESERVED};
pub use types::sha::Sha;
