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

pub mod archive;
pub mod artifact;
mod blocks;
mod catalogue;
mod collect;
mod compact;
pub mod engine;
mod engines;
mod error;
mod history;
mod info;
mod key;
mod lock;
mod payload;
mod publish;
mod reading;
mod recovery;
mod repair;
mod rollback;
mod settings;
mod sha;
mod store;
pub mod tree;
pub mod verify;
mod whole;

pub use catalogue::{
    Changes, ENGINES_INODE, FIRST_FREE_INODE, ROOT_INODE, SCRATCH, Untold, VERSIONS_INODE,
    panics_are_caught,
};
pub use collect::{Candidate, Collected, Fate, Policy, Portion};
pub use compact::Compacted;
pub use engines::{EngineInfo, Moved};
pub use error::{Error, Result};
pub use info::{KeyInfo, VersionInfo, rfc3339};
pub use key::{Key, KeyError, MAX_COMPONENT_LEN, MAX_KEY_LEN, RESERVED};
pub use lock::Lock;
pub use payload::{Staged, StagedSource};
pub use publish::{Publish, Published, Source, Status};
pub use repair::repair;
pub use rollback::Removed;
pub use settings::{DEFAULT_INLINE_LIMIT, FORMAT, InlineLimit, Settings, Unlimited};
pub use sha::Sha;
pub use store::Store;
