//! Blocks: the pieces of a payload that have a sha256 each, by which whatever is read of it is
//! checked.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::info::{BLOCK_SIZE, PayloadInfo};
use crate::catalogue::tables::{BLOCKS, HASHES_PER_RECORD};
use crate::catalogue::{Bytes, Catalogue, Records};
use crate::error::Result;
use crate::types::{Sha, in_memory};

/// What is read at once of what is checked from start to end, in bytes.
pub(crate) const CHECKED_PIECE: usize = 1 << 20;

/// The hashes of bytes that come piece by piece.
#[derive(Default)]
pub(crate) struct Hashes {
    whole: Sha256,
    size: u64,
    blocks: Vec<u8>,
}

/// The hashes of bytes that came.
pub(crate) struct Hashed {
    pub(crate) sha256: Sha,
    /// How many bytes there were.
    pub(crate) size: u64,
    /// sha256 of each block, one after the other.
    pub(crate) blocks: Vec<u8>,
}

impl Hashes {
    /// Takes the next bytes: whole blocks, but for the last.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.whole.update(piece);
        for block in piece.chunks(in_memory(BLOCK_SIZE)) {
            self.blocks.extend_from_slice(&Sha256::digest(block));
        }
        self.size += piece.len() as u64;
    }

    /// How many bytes came until now.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(self) -> Hashed {
        let Hashes { whole, size, blocks } = self;
        Hashed { sha256: Sha(whole.finalize().into()), size, blocks }
    }
}

/// The hashes of a payload's blocks, as they were taken when it was published.
pub(crate) struct BlockHashes<'a> {
    catalogue: &'a Catalogue,
    sha256: Sha,
    /// The record that was asked for last, and its number.
    record: Option<(u32, Option<Bytes>)>,
}

impl<'a> BlockHashes<'a> {
    pub(crate) fn of(catalogue: &'a Catalogue, payload: &PayloadInfo) -> BlockHashes<'a> {
        BlockHashes { catalogue, sha256: payload.sha256, record: None }
    }

    /// The sha256 of a block; `None` if the catalogue has lost it.
    pub(crate) fn get(&mut self, index: u64) -> Result<Option<Sha>> {
        let per_record = HASHES_PER_RECORD as u64;
        let Ok(number) = u32::try_from(index / per_record) else { return Ok(None) };
        let at = in_memory(index % per_record);
        if self.record.as_ref().is_none_or(|(held, _)| *held != number) {
            let record = self.catalogue.raw(&BLOCKS.key((&self.sha256, number)))?;
            self.record = Some((number, record));
        }
        let record = self.record.as_ref().and_then(|(_, record)| record.as_ref());
        let hash = record.and_then(|record| record.get(at * 32..at * 32 + 32));
        Ok(hash.and_then(|hash| hash.try_into().ok()).map(Sha))
    }
}

/// What is said of a block whose bytes are not those that were published.
pub(crate) fn differs(at: u64) -> String {
    format!("the block at byte {at} differs from what was published")
}

/// Checks the bytes of a payload, piece by piece, against the hashes of its blocks.
pub(crate) struct BlockChecker<'a> {
    hashes: BlockHashes<'a>,
    size: u64,
    block_size: u64,
    at: u64,
    block: Sha256,
}

impl<'a> BlockChecker<'a> {
    pub(crate) fn new(catalogue: &'a Catalogue, payload: &PayloadInfo) -> BlockChecker<'a> {
        let PayloadInfo { size, block_size, .. } = *payload;
        let hashes = BlockHashes::of(catalogue, payload);
        BlockChecker { hashes, size, block_size, at: 0, block: Sha256::new() }
    }

    /// Takes the next bytes; what is wrong, if anything is.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<Option<String>> {
        let block_size = self.block_size;
        while !bytes.is_empty() {
            let left = (block_size - self.at % block_size).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(in_memory(left));
            self.block.update(now);
            self.at += left;
            bytes = later;
            if self.at > self.size {
                return Ok(Some(format!("it has more than its {} bytes", self.size)));
            }
            if self.at.is_multiple_of(block_size)
                && let Some(wrong) = self.end_block()?
            {
                return Ok(Some(wrong));
            }
        }
        Ok(None)
    }

    /// What is wrong at the end, if anything is.
    pub(crate) fn finish(mut self) -> Result<Option<String>> {
        if self.at < self.size {
            return Ok(Some(format!("it has {} of its {} bytes", self.at, self.size)));
        }
        if self.at.is_multiple_of(self.block_size) { Ok(None) } else { self.end_block() }
    }

    fn end_block(&mut self) -> Result<Option<String>> {
        let index = (self.at - 1) / self.block_size;
        let found = Sha(self.block.finalize_reset().into());
        let wrong = self.hashes.get(index)? != Some(found);
        Ok(wrong.then(|| differs(index * self.block_size)))
    }
}

/// Checks all that a descriptor reads, by hashes of `truth`: what is wrong, if anything is, or
/// why it can't be read. `progress` hears of each piece, its offset and length.
pub(crate) fn check_file(
    truth: &Catalogue,
    payload: &PayloadInfo,
    file: &File,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<io::Result<Option<String>>> {
    let mut checker = BlockChecker::new(truth, payload);
    let mut piece = vec![0; CHECKED_PIECE];
    let mut at = 0;
    loop {
        let filled = match fill(&mut &*file, &mut piece) {
            Ok(0) => return Ok(Ok(checker.finish()?)),
            Ok(filled) => filled,
            Err(e) => return Ok(Err(e)),
        };
        if let Some(found) = checker.take(&piece[..filled])? {
            return Ok(Ok(Some(found)));
        }
        progress(at, filled as u64);
        at += filled as u64;
    }
}

/// Reads until `buf` is full or the input ends.
pub(crate) fn fill(from: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match from.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
