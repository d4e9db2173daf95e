//! Payloads: the bytes of artifacts and sources, stored once per sha256.
//!
//! They are staged ([`Staging`]), kept as object files ([`Objects`]) or, when small, as chunks
//! inside the catalogue ([`keep_inline`]), and read block by block, each checked (`reader.rs`).
//! Which versions have them is no concern of this folder's. It uses the catalogue and the disk.

mod blocks;
mod cache;
mod info;
mod objects;
mod reader;
mod staging;
#[cfg(test)]
mod tests;

pub(crate) use blocks::{BlockChecker, check_file};
pub(crate) use info::PayloadInfo;
pub(crate) use objects::{ObjectFault, Objects};
pub(crate) use staging::{Description, ReadSeek, Staging, Upload, describe, keep_inline};
pub use staging::{Staged, StagedSource};
