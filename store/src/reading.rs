//! Reading payloads: what is given out was checked block by block.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::{Deref, Range};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Advice, OFlags, fadvise};
use sha2::{Digest, Sha256};

use crate::blocks::BlockHashes;
use crate::catalogue::Catalogue;
use crate::error::{Error, IoContext, Result};
use crate::payload::{PayloadOf, object_in, read_chunks};
use crate::sha::Sha;

/// Checked blocks kept in memory, 1 MiB of them: those that were asked for in part. A window of
/// the kernel's readahead starts and ends within blocks, and the next one goes on there.
const CACHED_BLOCKS: usize = 32;
/// Object files kept open.
const CACHED_FILES: usize = 64;
/// What memory, offset and length of direct reads are multiples of, in bytes: of the page size,
/// which does for the disks and filesystems there are (statx(2), `stx_dio_mem_align`). Where it
/// doesn't, the read fails, and is made through the page cache.
const ALIGNED: usize = 4 << 10;

/// Reads payloads, and remembers some of it.
pub(crate) struct Reader {
    objects: PathBuf,
    blocks: Recent<(Sha, u64), Vec<u8>, CACHED_BLOCKS>,
    files: Recent<Sha, Object, CACHED_FILES>,
}

/// An object file, open twice.
struct Object {
    file: File,
    /// Past the page cache, where the filesystem can: what is read stays in the cache of the mount
    /// alone, and costs a copy less.
    direct: Option<File>,
    /// Where whoever reads on from the last read would.
    next: AtomicU64,
}

impl Reader {
    pub(crate) fn new(objects: &Path) -> Reader {
        Reader { objects: objects.to_owned(), blocks: Recent::default(), files: Recent::default() }
    }

    /// Reads up to `len` bytes at `offset` of a payload. Every block the bytes come from was
    /// checked against its hash.
    pub(crate) fn read(
        &self,
        catalogue: &Catalogue,
        payload: &PayloadOf,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len as u64).min(payload.size);
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        if out.capacity() == 0 {
            return Ok(out);
        }
        let mut hashes = BlockHashes::of(catalogue, &payload.sha256, payload.size)?;
        let block = hashes.block_size();
        let (first, last) = (offset / block, (end - 1) / block);
        // What is wanted of the bytes from `start` on.
        let wanted = |bytes: &[u8], start: u64| {
            let upto = (end - start).min(bytes.len() as u64) as usize;
            offset.saturating_sub(start) as usize..upto
        };
        let known = |index| self.blocks.find(&(payload.sha256, index));
        let head = known(first);
        let tail = if last > first { known(last) } else { None };
        let unknown = first + u64::from(head.is_some())..last + 1 - u64::from(tail.is_some());
        if let Some(head) = head {
            out.extend_from_slice(&head[wanted(&head, first * block)]);
        }
        if !unknown.is_empty() {
            let start = unknown.start * block;
            let bytes = self.checked(catalogue, payload, &mut hashes, unknown)?;
            let range = wanted(&bytes, start);
            out.extend_from_slice(&bytes[range.clone()]);
            for (index, bytes) in (start / block..).zip(bytes.chunks(block as usize)) {
                let at = ((index * block) - start) as usize;
                if at < range.start || at + bytes.len() > range.end {
                    self.blocks.put((payload.sha256, index), bytes.to_vec());
                }
            }
        }
        if let Some(tail) = tail {
            out.extend_from_slice(&tail[wanted(&tail, last * block)]);
        }
        Ok(out)
    }

    /// Whether all of a payload is there and right: on the disk, not in what was read before.
    pub(crate) fn is_whole(&self, catalogue: &Catalogue, payload: &PayloadOf) -> Result<bool> {
        self.forget(&payload.sha256);
        let mut hashes = BlockHashes::of(catalogue, &payload.sha256, payload.size)?;
        let count = payload.size.div_ceil(hashes.block_size());
        for first in (0..count).step_by(32) {
            let indices = first..(first + 32).min(count);
            match self.checked(catalogue, payload, &mut hashes, indices) {
                Ok(_) => {}
                Err(Error::PayloadDamaged { .. } | Error::Io { .. }) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Has nothing be remembered of a payload: another file may come in its place.
    pub(crate) fn forget(&self, sha256: &Sha) {
        self.files.forget(|sha| sha == sha256);
        self.blocks.forget(|(sha, _)| sha == sha256);
    }

    /// Blocks of a payload, read at once and checked.
    fn checked(
        &self,
        catalogue: &Catalogue,
        payload: &PayloadOf,
        hashes: &mut BlockHashes<'_>,
        indices: Range<u64>,
    ) -> Result<Bytes> {
        let block = hashes.block_size();
        let start = indices.start * block;
        let len = (payload.size.min(indices.end * block) - start) as usize;
        let damaged = |at: u64, reason: String| Error::PayloadDamaged {
            sha256: payload.sha256.hex(),
            at,
            reason,
        };
        let bytes = if payload.inline {
            let bytes = read_chunks(catalogue, &payload.sha256, start, len)?;
            let missing = || damaged(start, "it is missing in the catalogue".into());
            Bytes { buffer: bytes.ok_or_else(missing)?, range: 0..len }
        } else {
            let object = || Object::open(&object_in(&self.objects, &payload.sha256));
            let object = self.files.get(payload.sha256, object)?;
            object.read(start, len).map_err(|e| damaged(start, e.to_string()))?
        };
        for (index, bytes) in indices.zip(bytes.chunks(block as usize)) {
            if !hashes.is(index, &Sha256::digest(bytes))? {
                // Another file may be in its place by the next read.
                self.files.forget(|sha| *sha == payload.sha256);
                let reason = "its sha256 differs from the one published";
                return Err(damaged(index * block, reason.into()));
            }
        }
        Ok(bytes)
    }
}

impl Object {
    fn open(path: &Path) -> Result<Object> {
        let file = File::open(path).at("opening", path)?;
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path).ok();
        Ok(Object { file, direct, next: AtomicU64::new(0) })
    }

    /// Reads `len` bytes at `offset`.
    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let room = len.next_multiple_of(ALIGNED);
        let mut buffer = vec![0; room + ALIGNED];
        // Where it can't be told, a direct read fails.
        let from = buffer.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        let range = from..from + len;
        // Whoever goes on has had the disk read on as well: the page cache does that.
        let goes_on = self.next.swap(offset + len as u64, Ordering::Relaxed) == offset;
        let whole = &mut buffer[from..from + room];
        if let Some(direct) = self.direct.as_ref().filter(|_| !goes_on)
            && matches!(direct.read_at(whole, offset), Ok(read) if read >= len)
        {
            return Ok(Bytes { buffer, range });
        }
        self.file.read_exact_at(&mut buffer[range.clone()], offset)?;
        // Whoever asks keeps the bytes: the page cache of the mount.
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

/// The last `N` values that were asked for. A value is made outside the lock.
struct Recent<K, V, const N: usize>(Mutex<VecDeque<(K, Arc<V>)>>);

impl<K, V, const N: usize> Default for Recent<K, V, N> {
    fn default() -> Self {
        Recent(Mutex::new(VecDeque::with_capacity(N)))
    }
}

impl<K: PartialEq, V, const N: usize> Recent<K, V, N> {
    fn forget(&self, is_meant: impl Fn(&K) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(key, _)| !is_meant(key));
    }

    fn find(&self, key: &K) -> Option<Arc<V>> {
        // A thread that panicked with this lock held left a valid queue.
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(k, _)| k == key)?;
        let entry = recent.remove(at)?;
        let value = entry.1.clone();
        recent.push_front(entry);
        Some(value)
    }

    fn put(&self, key: K, value: V) -> Arc<V> {
        let value = Arc::new(value);
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.truncate(N - 1);
        recent.push_front((key, value.clone()));
        value
    }

    fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        match self.find(&key) {
            Some(value) => Ok(value),
            None => Ok(self.put(key, make()?)),
        }
    }
}
