//! What has to be known of a payload to read it.

use crate::catalogue::tables::PayloadRecord;
use crate::catalogue::{Catalogue, Records};
use crate::error::Result;
use crate::types::Sha;

/// How every payload starts: an artifact, which is an ELF file, or WebAssembly.
pub(crate) const PAYLOAD_STARTS: [[u8; 4]; 2] = [*b"\x7fELF", *b"\0asm"];
/// The size of a block in bytes; the last of a payload may be shorter. A page fault asks for 128
/// KiB that begin anywhere: small blocks keep what is read and hashed beyond that small.
pub(crate) const BLOCK_SIZE: u64 = 32 << 10;
/// The size of the blocks of payloads in stores of format 1, in bytes.
pub(crate) const LARGE_BLOCK: u64 = 128 << 10;

/// What reading a payload takes.
#[derive(Clone, Debug)]
pub(crate) struct PayloadInfo {
    pub(crate) sha256: Sha,
    pub(crate) size: u64,
    pub(crate) inline: bool,
    /// The size of its blocks in bytes.
    pub(crate) block_size: u64,
}

impl PayloadInfo {
    pub(crate) fn new(sha256: &Sha, record: &PayloadRecord) -> PayloadInfo {
        let PayloadRecord { size, inline, large_blocks, .. } = *record;
        let block_size = if large_blocks { LARGE_BLOCK } else { BLOCK_SIZE };
        PayloadInfo { sha256: *sha256, size, inline, block_size }
    }

    /// What the catalogue says of a payload; `None` if there is no such payload.
    pub(crate) fn find(catalogue: &Catalogue, sha256: &Sha) -> Result<Option<PayloadInfo>> {
        Ok(catalogue.payload(sha256)?.map(|record| PayloadInfo::new(sha256, &record)))
    }
}
