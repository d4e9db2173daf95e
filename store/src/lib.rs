//! The store of wasmfs: artifacts, their versions, and the history that
//! commits them. It knows nothing of FUSE.
//!
//! A store is a directory that one process owns at a time:
//!
//! | path | what |
//! | --- | --- |
//! | `settings.json` | the format and the owner's settings |
//! | `history` | every committed change, one line each: the commit |
//! | `db/` | the catalogue, a database that is derived from the history |
//! | `objects/ab/…` | payloads by sha256 |
//! | `reserve` | space that is given back to a disk that is full |
//! | `incoming/` | what is staged, by this process or by commands beside it |
//! | `state.json` | whether the catalogue was closed, and in which run of the machine |
//! | `lock` | the owner's process number, under a flock |
//!
//! ```
//! use wasmfs_store::{Error, Key, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let store = Store::open_or_create(&dir.path().join("store"))?;
//! let key = Key::new("zellij/strider.cwasm")?;
//! assert!(matches!(store.versions(&key), Err(Error::NoKey(_))));
//! // What is no artifact is refused, and leaves nothing.
//! assert!(matches!(store.stage(&b"no ELF"[..]), Err(Error::NotAnArtifact(_))));
//! store.close()?;
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs, unreachable_pub)]
#![warn(clippy::must_use_candidate, clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

pub mod artifact;
mod catalogue;
mod disk;
mod error;
mod gc;
mod history;
pub mod maintenance;
mod payload;
mod settings;
mod state;
mod store;
mod store_dir;
mod types;

pub use catalogue::{
    Changes, DATABASE_LOG_FILTER, PendingInvalidations, is_database_panic, panics_are_caught,
};
pub use disk::{
    Dir, End, Lock, Missing, check_parent, open_directory, open_parent, open_way, private_temp_dir,
};
pub use error::{Error, Result};
pub use gc::{Candidate, Collected, Compacted, Fate, Portion};
pub use payload::{LeasedDir, MAX_INLINE_TOTAL, Staged, StagedSource, Staging};
pub use settings::{DEFAULT_INLINE_LIMIT, FORMAT, InlineLimit, Magic, Policy, Settings, Unlimited};
pub use store::{
    DirEntry, EngineInfo, EntryKind, InodeRecord, KeyInfo, LinkRecord, MAX_PAGE, Moved, Page,
    Publish, Published, Removed, Source, Space, Status, Store, VersionInfo, VersionRecord,
    check_engine, rfc3339,
};
pub use store_dir::StoreDir;
pub use types::{
    ENGINES_INODE, EngineNumber, FIRST_FREE_INODE, Inode, InvalidKey, Key, KeyError,
    MAX_COMPONENT_LEN, MAX_KEY_LEN, RESERVED, ROOT_INODE, Sequence, Sha, VERSIONS_INODE, Version,
    View,
};
