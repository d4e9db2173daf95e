//! Payloads: the bytes of artifacts and sources, stored once per sha256.
//!
//! They are staged ([`Staging`], in `incoming/` or in memory), kept as object files ([`Objects`])
//! or, when small, as chunks inside the catalogue, and read block by block, each checked
//! (`reader.rs`). Which versions have them is no concern of this folder's. It uses the catalogue
//! and the disk.

mod blocks;
mod cache;
mod incoming;
mod info;
mod object_place;
mod objects;
mod reader;
mod staged;
mod staging;
#[cfg(test)]
mod tests;

pub(crate) use blocks::{BlockChecker, check_file};
pub(crate) use incoming::Incoming;
pub use incoming::LeasedDir;
pub(crate) use info::{BLOCK_SIZE, LARGE_BLOCK, PAYLOAD_STARTS, PayloadInfo};
pub(crate) use objects::{ObjectFault, Objects};
pub(crate) use staged::StagedPayload;
pub use staged::{Staged, StagedSource};
pub(crate) use staging::{Description, ReadSeek, describe};
pub use staging::{MAX_INLINE_TOTAL, Staging};
