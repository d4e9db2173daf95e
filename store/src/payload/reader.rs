//! Reading payloads: what is given out was checked block by block.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, OFlags, fadvise};

use super::blocks::{BlockHashes, CHECKED_PIECE, differs};
use super::cache::Recent;
use super::info::PayloadInfo;
use crate::catalogue::{Catalogue, read_chunks};
use crate::disk::Dir;
use crate::disk::names::object_in;
use crate::error::{Error, IoContext, Result};
use crate::types::{Sha, in_memory};

/// Checked blocks kept in memory, 1 MiB of them (4 of large ones): those that were asked for in
/// part. A window of the kernel's readahead starts and ends within blocks, and the next one goes on
/// there.
const CACHED_BLOCKS: usize = 32;
/// Object files kept open, each twice.
const CACHED_FILES: usize = 32;
/// What memory, offset and length of direct reads are multiples of, in bytes: of the page size,
/// which does for the disks and filesystems there are (statx(2), `stx_dio_mem_align`). Where it
/// doesn't, the read fails, and is made through the page cache.
const ALIGNED: usize = 4 << 10;

/// Reads payloads, and remembers some of it.
pub(crate) struct Reader {
    /// For messages.
    objects: PathBuf,
    directory: Option<Dir>,
    /// By their own sha256: whatever becomes of the payload, these are its bytes.
    blocks: Recent<Sha, Vec<u8>, CACHED_BLOCKS>,
    files: Recent<Sha, Object, CACHED_FILES>,
}

/// An object file, open twice.
struct Object {
    file: File,
    /// Past the page cache, where the filesystem can: what is read is in the cache of the mount
    /// alone, and costs a copy less. The disk isn't asked to read ahead: of the kernel's pages some
    /// would always be left over, and the mount's own readahead asks for the next window in time.
    direct: Option<File>,
}

impl Reader {
    pub(crate) fn new(objects: PathBuf, directory: Option<Dir>) -> Reader {
        Reader { objects, directory, blocks: Recent::default(), files: Recent::default() }
    }

    /// Reads up to `len` bytes at `offset` of a payload. Every block the bytes come from was
    /// checked against its hash.
    pub(crate) fn read(
        &self,
        catalogue: &Catalogue,
        payload: &PayloadInfo,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len as u64).min(payload.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(in_memory(end - offset));
        let mut hashes = BlockHashes::of(catalogue, payload);
        let block = payload.block_size;
        let (first, last) = (offset / block, (end - 1) / block);
        // What is wanted of a block, or of several from `start` on.
        let wanted = |start: u64, len: usize| {
            in_memory(offset.saturating_sub(start))..in_memory(end - start).min(len)
        };
        let mut known = |index| -> Result<Option<Arc<Vec<u8>>>> {
            let bytes = hashes.get(index)?.and_then(|hash| self.blocks.find(&hash));
            let full = in_memory((payload.size - index * block).min(block));
            Ok(bytes.filter(|bytes| bytes.len() == full))
        };
        let head = known(first)?;
        let tail = if last > first { known(last)? } else { None };
        let unknown = first + u64::from(head.is_some())..last + 1 - u64::from(tail.is_some());
        if let Some(head) = head {
            out.extend_from_slice(&head[wanted(first * block, head.len())]);
        }
        if !unknown.is_empty() {
            let start = unknown.start * block;
            let (bytes, digests) = self.checked(catalogue, payload, &mut hashes, unknown)?;
            let range = wanted(start, bytes.len());
            out.extend_from_slice(&bytes[range.clone()]);
            let mut at = 0;
            for (digest, bytes) in digests.into_iter().zip(bytes.chunks(in_memory(block))) {
                if at < range.start || at + bytes.len() > range.end {
                    self.blocks.put(digest, bytes.to_vec());
                }
                at += bytes.len();
            }
        }
        if let Some(tail) = tail {
            out.extend_from_slice(&tail[wanted(last * block, tail.len())]);
        }
        Ok(out)
    }

    /// Whether all of a payload is there and right, as it is now.
    pub(crate) fn is_whole(&self, catalogue: &Catalogue, payload: &PayloadInfo) -> Result<bool> {
        self.forget(&payload.sha256);
        let mut hashes = BlockHashes::of(catalogue, payload);
        let count = payload.size.div_ceil(payload.block_size);
        let at_once = CHECKED_PIECE as u64 / payload.block_size;
        for first in (0..count).step_by(in_memory(at_once)) {
            let indices = first..(first + at_once).min(count);
            match self.checked(catalogue, payload, &mut hashes, indices) {
                Ok(_) => {}
                Err(Error::PayloadDamaged { .. } | Error::Io { .. }) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Has the object file of a payload be opened again: another one may come in its place.
    pub(crate) fn forget(&self, sha256: &Sha) {
        self.files.forget(sha256);
    }

    fn open(&self, sha256: &Sha) -> Result<Object> {
        let missing = || Err(io::Error::from(io::ErrorKind::NotFound));
        let name = object_in(Path::new(""), sha256);
        let object = self.directory.as_ref().map_or_else(missing, |dir| Object::open(dir, &name));
        object.at("opening", &object_in(&self.objects, sha256))
    }

    /// Blocks of a payload, read at once and checked; and their hashes.
    fn checked(
        &self,
        catalogue: &Catalogue,
        payload: &PayloadInfo,
        hashes: &mut BlockHashes<'_>,
        indices: Range<u64>,
    ) -> Result<(Bytes, Vec<Sha>)> {
        let block = payload.block_size;
        let start = indices.start * block;
        let len = in_memory(payload.size.min(indices.end.saturating_mul(block)) - start);
        let damaged = |reason| Error::PayloadDamaged { sha256: payload.sha256.hex(), reason };
        let bytes = if payload.inline {
            let bytes = read_chunks(catalogue, &payload.sha256, start, len)?;
            let missing = || damaged(format!("bytes from {start} on are missing in the catalogue"));
            Bytes { buffer: bytes.ok_or_else(missing)?, range: 0..len }
        } else {
            let open = || self.open(&payload.sha256);
            let object = self.files.get(payload.sha256, open)?;
            let failed = |e| damaged(format!("reading {len} bytes at {start}: {e}"));
            object.read(start, len).map_err(failed)?
        };
        let mut digests = Vec::new();
        for (index, bytes) in indices.zip(bytes.chunks(in_memory(block))) {
            let digest = Sha::of(bytes);
            if hashes.get(index)? != Some(digest) {
                // Another file may be in its place by the next read.
                self.forget(&payload.sha256);
                return Err(damaged(differs(index * block)));
            }
            digests.push(digest);
        }
        Ok((bytes, digests))
    }
}

impl Object {
    fn open(dir: &Dir, name: &Path) -> io::Result<Object> {
        let file = dir.open_with(name, OFlags::empty()).map_err(|(e, _)| e)?;
        let direct = dir.open_with(name, OFlags::DIRECT).ok();
        Ok(Object { file, direct })
    }

    /// Reads `len` bytes at `offset`.
    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let room = len.next_multiple_of(ALIGNED);
        let mut buffer = vec![0; room + ALIGNED];
        // Where it can't be told, a direct read fails.
        let from = buffer.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        let range = from..from + len;
        let whole = &mut buffer[from..from + room];
        let direct = self.direct.as_ref().map(|direct| direct.read_at(whole, offset));
        // Not here, or not so: through the page cache, which says what is wrong, if anything is.
        if !matches!(direct, Some(Ok(read)) if read >= len) {
            self.file.read_exact_at(&mut buffer[range.clone()], offset)?;
        }
        // Whoever asks keeps the bytes: the page cache of the mount. Some filesystems make a
        // direct read through their own all the same.
        drop_pages(&self.file, offset, len as u64);
        Ok(Bytes { buffer, range })
    }
}

/// A part of a buffer.
struct Bytes {
    buffer: Vec<u8>,
    range: Range<usize>,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

/// Has the kernel forget pages of a file that nobody has mapped; and begin to write those that
/// are dirty, without waiting (mm/fadvise.c).
pub(crate) fn drop_pages(file: &File, at: u64, len: u64) {
    // It is advice: nothing depends on it.
    let _ = fadvise(file, at, NonZeroU64::new(len), Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From here and there, and to the end; and not past it.
    fn check(object: &Object, good: &[u8]) {
        for (at, len) in [(32_768, 65_536), (0, 4096), (4096, 4096), (294_912, 5089)] {
            let read = object.read(at, len).unwrap();
            assert!(*read == good[at as usize..][..len], "{len} at {at}");
        }
        let past = object.read(294_912, 5090).err().map(|e| e.kind());
        assert_eq!(past, Some(io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn an_object_reads_the_same_past_the_page_cache_and_through_it() {
        let good: Vec<u8> = (0..300_001u32).map(|at| (at >> 8) as u8 ^ at as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("object"), &good).unwrap();
        let opened = Dir::open(dir.path(), crate::disk::Missing::Fail).unwrap();
        let open = || Object::open(&opened, Path::new("object")).unwrap();
        check(&open(), &good);
        check(&Object { direct: None, ..open() }, &good);
        // A direct read of a piece that isn't aligned fails; it is made all the same.
        assert!(*open().read(99, 1000).unwrap() == good[99..1099]);
        // With nothing to read but past the page cache.
        let empty = File::open("/dev/null").unwrap();
        if let Some(direct) = open().direct {
            check(&Object { file: empty, direct: Some(direct) }, &good);
        }
    }
}
