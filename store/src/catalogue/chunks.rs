//! Payloads that are kept inside the catalogue, chunk by chunk.

use super::handle::Catalogue;
use super::read::Records;
use super::tables::CHUNKS;
use crate::error::Result;
use crate::types::Sha;

/// Bytes of a payload in one row: the database keeps no larger values well.
pub(crate) const CHUNK: usize = 4 << 10;
/// What is set aside for bytes that are read, at most, before they are there.
const READ_CAPACITY: usize = 128 << 10;

/// Puts bytes of a payload into `catalogue`, from chunk `first` on.
pub(crate) fn put_chunks(
    catalogue: &Catalogue,
    sha256: &Sha,
    first: u32,
    bytes: &[u8],
) -> Result<()> {
    for (index, chunk) in (first..).zip(bytes.chunks(CHUNK)) {
        catalogue.put_chunk(sha256, index, chunk)?;
    }
    Ok(())
}

/// `len` bytes at `start`, a multiple of a chunk, of a payload kept inside `catalogue`; `None` if
/// some are missing.
pub(crate) fn read_chunks(
    catalogue: &Catalogue,
    sha256: &Sha,
    start: u64,
    len: usize,
) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(len.min(READ_CAPACITY) + CHUNK);
    let Ok(mut index) = u32::try_from(start / CHUNK as u64) else { return Ok(None) };
    while bytes.len() < len {
        match catalogue.raw(&CHUNKS.key((sha256, index)))? {
            Some(chunk) if !chunk.is_empty() => bytes.extend_from_slice(&chunk),
            _ => return Ok(None),
        }
        index += 1;
    }
    bytes.truncate(len);
    Ok(Some(bytes))
}

/// A payload kept inside `catalogue`, if all of it is there and right.
pub(crate) fn whole_inline(catalogue: &Catalogue, sha256: &Sha, size: u64) -> Option<Vec<u8>> {
    let bytes = read_chunks(catalogue, sha256, 0, usize::try_from(size).ok()?).ok()??;
    (Sha::of(&bytes) == *sha256).then_some(bytes)
}
