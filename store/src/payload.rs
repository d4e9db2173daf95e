//! Payloads: the bytes of artifacts, stored once per sha256, as object files
//! or, when small, as chunks inside sled; and checked block by block whenever
//! they are read.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use crate::artifact::{Artifact, ArtifactKind, inspect};
use crate::catalogue::records::{blocks_key, chunk_key};
use crate::catalogue::{Catalogue, Records, sync_dir, sync_files};
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::sha::Sha;
use crate::verify::{Kind, is_unreadable};

/// The unit in which payloads are checked, in bytes.
pub const BLOCK: u64 = 128 << 10;
/// Block hashes in one record: 4,064 bytes.
pub(crate) const HASHES_PER_RECORD: usize = 127;
/// Bytes of a payload in one record of sled.
const CHUNK: usize = 4 << 10;
/// Verified blocks kept in memory: 4 MiB. Readahead windows straddle blocks,
/// so that each block is asked for twice in a row.
const CACHED_BLOCKS: usize = 32;
/// Object files kept open.
const CACHED_FILES: usize = 64;

/// Uploads up to this size, in bytes, wait for their commit in memory.
const SMALL: usize = 16 << 10;
/// Memory that uploads may take together, in bytes; the rest wait in files.
const SMALL_TOTAL: usize = 64 << 20;

/// What is taken of bytes, block by block.
#[derive(Default)]
struct Hashes {
    whole: Sha256,
    size: u64,
    /// sha256 of each block, one after the other.
    blocks: Vec<u8>,
}

impl Hashes {
    fn add(&mut self, block: &[u8]) {
        self.whole.update(block);
        self.blocks.extend_from_slice(&Sha256::digest(block));
        self.size += block.len() as u64;
    }
}

/// What WebAssembly in binary form says of itself.
fn source_kind(mut bytes: impl Read) -> Result<ArtifactKind> {
    let mut head = [0; 8];
    if fill(&mut bytes, &mut head).map_err(Error::Input)? < head.len() {
        return Err(Error::NotWasm);
    }
    match head {
        [b'\0', b'a', b's', b'm', _, _, 0, _] => Ok(ArtifactKind::Module),
        [b'\0', b'a', b's', b'm', ..] => Ok(ArtifactKind::Component),
        _ => Err(Error::NotWasm),
    }
}

/// sha256, size in bytes, kind, and the sha256 of each block, one after the other.
pub(crate) type Described = (Sha, u64, ArtifactKind, Vec<u8>);

/// Bytes that are complete but not committed. Dropping them takes them back.
#[derive(Debug)]
pub(crate) struct Upload {
    waiting: Waiting,
    pub(crate) sha256: Sha,
    pub(crate) size: u64,
    pub(crate) kind: ArtifactKind,
    /// sha256 of each block, one after the other.
    pub(crate) blocks: Vec<u8>,
}

/// An artifact that is complete but not committed. Dropping it takes it back.
#[derive(Debug)]
pub struct Staged {
    pub(crate) upload: Upload,
    pub(crate) artifact: Artifact,
}

/// The WebAssembly that an artifact was compiled from, likewise.
#[derive(Debug)]
pub struct StagedSource {
    pub(crate) upload: Upload,
}

/// Where an upload's bytes wait for the commit.
#[derive(Debug)]
enum Waiting {
    InMemory { bytes: Vec<u8>, total: Arc<AtomicUsize> },
    InFile(Incoming),
}

/// A file in `incoming/`; removed when dropped, unless a commit renamed it.
#[derive(Debug)]
struct Incoming(PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Waiting::InMemory { bytes, total } = self {
            total.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Staged {
    /// The payload's sha256.
    pub fn sha256(&self) -> Sha {
        self.upload.sha256
    }

    /// The payload's size in bytes.
    pub fn size(&self) -> u64 {
        self.upload.size
    }

    /// What the artifact says of itself.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }
}

/// What an artifact is read from.
pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// The directories of payloads.
pub(crate) struct Payloads {
    incoming: PathBuf,
    objects: PathBuf,
    uploads: AtomicU64,
    /// Directories of object files whose own names this process has made durable.
    named: Mutex<BTreeSet<PathBuf>>,
    in_memory: Arc<AtomicUsize>,
    blocks: Recent<(Sha, u64), Vec<u8>, CACHED_BLOCKS>,
    files: Recent<Sha, File, CACHED_FILES>,
}

impl Payloads {
    /// Makes the directories and sweeps what unfinished uploads left.
    pub(crate) fn open(store: &Path) -> Result<Payloads> {
        let (incoming, objects) = (store.join("incoming"), store.join("objects"));
        for dir in [&incoming, &objects] {
            unless_unwritable(make_dir(dir))?;
        }
        for entry in fs::read_dir(&incoming).into_iter().flatten() {
            let path = entry.at("reading", &incoming)?.path();
            unless_unwritable(fs::remove_file(&path).at("removing", &path))?;
        }
        Ok(Payloads::look(store))
    }

    /// The directories as they are, to be looked at only.
    pub(crate) fn look(store: &Path) -> Payloads {
        Payloads {
            incoming: store.join("incoming"),
            objects: store.join("objects"),
            uploads: AtomicU64::new(0),
            named: Mutex::default(),
            in_memory: Arc::default(),
            blocks: Recent::default(),
            files: Recent::default(),
        }
    }

    /// Takes an artifact in, and reads what it says of itself.
    pub(crate) fn stage(&self, from: impl Read) -> Result<Staged> {
        let (upload, artifact) = self.take_in(from, |bytes| {
            let artifact = inspect(bytes)?;
            Ok((artifact.kind, artifact))
        })?;
        Ok(Staged { upload, artifact })
    }

    /// Takes the WebAssembly in that an artifact was compiled from.
    pub(crate) fn stage_source(&self, from: impl Read) -> Result<StagedSource> {
        let (upload, ()) = self.take_in(from, |bytes| Ok((source_kind(bytes)?, ())))?;
        Ok(StagedSource { upload })
    }

    /// Takes bytes in, hashing them, and has `look` say what they are. Large
    /// ones go to `incoming/`.
    fn take_in<T>(
        &self,
        mut from: impl Read,
        look: impl FnOnce(&mut dyn ReadSeek) -> Result<(ArtifactKind, T)>,
    ) -> Result<(Upload, T)> {
        let mut first = vec![0; BLOCK as usize];
        let filled = fill(&mut from, &mut first).map_err(Error::Input)?;
        first.truncate(filled);
        if filled <= SMALL && self.reserve_memory(filled) {
            first.shrink_to_fit();
            let sha256 = Sha(Sha256::digest(&first).into());
            let looked = look(&mut Cursor::new(&first[..]));
            let waiting = Waiting::InMemory { bytes: first, total: self.in_memory.clone() };
            let (size, blocks) = (filled as u64, sha256.0.to_vec());
            let (kind, seen) = looked?;
            return Ok((Upload { waiting, sha256, size, kind, blocks }, seen));
        }
        let (mut file, incoming) = self.new_incoming()?;
        let mut hashes = Hashes::default();
        let mut block = first;
        while !block.is_empty() {
            file.write_all(&block).at("writing", &incoming.0)?;
            // It begins to be written to the disk while the rest is hashed.
            drop_pages(&file, hashes.size, block.len() as u64);
            hashes.add(&block);
            block.resize(BLOCK as usize, 0);
            let filled = fill(&mut from, &mut block).map_err(Error::Input)?;
            block.truncate(filled);
        }
        file.seek(SeekFrom::Start(0)).at("reading", &incoming.0)?;
        let (kind, seen) = look(&mut file)?;
        let Hashes { whole, size, blocks } = hashes;
        let (waiting, sha256) = (Waiting::InFile(incoming), Sha(whole.finalize().into()));
        Ok((Upload { waiting, sha256, size, kind, blocks }, seen))
    }

    /// Whether so many bytes may wait in memory; given back when they are dropped.
    fn reserve_memory(&self, bytes: usize) -> bool {
        let fits = self.in_memory.fetch_add(bytes, Ordering::Relaxed) + bytes <= SMALL_TOTAL;
        if !fits {
            self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn new_incoming(&self) -> Result<(File, Incoming)> {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let path = self.incoming.join(number.to_string());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o400);
        let file = options.open(&path).at("making", &path)?;
        Ok((file, Incoming(path)))
    }

    /// Where the object file of a payload is.
    pub(crate) fn object(&self, sha256: &Sha) -> PathBuf {
        object_in(&self.objects, sha256)
    }

    /// Makes `uploads` durable as object files: each file is synced, then its
    /// name, then each directory once.
    pub(crate) fn keep_as_objects(&self, uploads: &[&Upload]) -> Result<()> {
        let mut directories = Vec::new();
        for staged in uploads {
            let object = self.object(&staged.sha256);
            let directory = object.parent().unwrap_or(&self.objects).to_owned();
            make_dir(&directory)?;
            if !self.named().contains(&directory) {
                directories.push(self.objects.clone());
            }
            let written;
            let (file, incoming) = match &staged.waiting {
                Waiting::InMemory { bytes, .. } => {
                    let (mut file, incoming) = self.new_incoming()?;
                    file.write_all(bytes).at("writing", &incoming.0)?;
                    written = incoming;
                    (file, &written)
                }
                Waiting::InFile(incoming) => {
                    (File::open(&incoming.0).at("opening", &incoming.0)?, incoming)
                }
            };
            file.sync_all().at("syncing", &incoming.0)?;
            fs::rename(&incoming.0, &object).at("renaming", &incoming.0)?;
            directories.push(directory);
            // Another file may have been open in its place, which this one mends.
            self.forget(&staged.sha256);
        }
        directories.sort();
        directories.dedup();
        directories.iter().try_for_each(|dir| sync_dir(dir))?;
        self.named().extend(directories);
        Ok(())
    }

    fn named(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `uploads` durable as chunks inside sled.
    pub(crate) fn keep_inline(&self, catalogue: &Catalogue, uploads: &[&Upload]) -> Result<()> {
        for staged in uploads {
            let incoming = match &staged.waiting {
                Waiting::InMemory { bytes, .. } => {
                    put_chunks(catalogue, &staged.sha256, 0, bytes)?;
                    continue;
                }
                Waiting::InFile(incoming) => &incoming.0,
            };
            let mut file = File::open(incoming).at("opening", incoming)?;
            let mut block = vec![0; BLOCK as usize];
            let mut at = 0;
            loop {
                let filled = fill(&mut file, &mut block).at("reading", incoming)?;
                if filled == 0 {
                    break;
                }
                put_chunks(catalogue, &staged.sha256, at, &block[..filled])?;
                at += (filled / CHUNK) as u32;
            }
        }
        catalogue.flush()?;
        // After a failed fsync a second one proves nothing; sled would not write the same again.
        sync_files(catalogue.path()).inspect_err(|_| catalogue.note_damage())
    }

    /// Reads up to `len` bytes at `offset` of a payload of `size` bytes. Every
    /// block the bytes come from was checked against its hash.
    pub(crate) fn read(
        &self,
        catalogue: &Catalogue,
        payload: &PayloadOf,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len as u64).min(payload.size);
        let mut out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let index = at / BLOCK;
            let start = index * BLOCK;
            let block = self.block(catalogue, payload, index)?;
            let upto = (end - start).min(BLOCK) as usize;
            out.extend_from_slice(&block[(at - start) as usize..upto]);
            at = start + upto as u64;
        }
        Ok(out)
    }

    /// Removes the object file of a payload that is gone.
    pub(crate) fn remove_object(&self, sha256: &Sha) -> Result<()> {
        self.forget(sha256);
        let path = self.object(sha256);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", &path),
            _ => Ok(()),
        }
    }

    /// Calls `each` with every directory of object files.
    pub(crate) fn each_object_directory(
        &self,
        mut each: impl FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        for entry in fs::read_dir(&self.objects).at("reading", &self.objects)? {
            let path = entry.at("reading", &self.objects)?.path();
            if path.is_dir() {
                each(&path)?;
            }
        }
        Ok(())
    }

    /// What the bytes of an artifact are, or of a source.
    pub(crate) fn describe(mut from: impl Read + Seek) -> Result<Described> {
        let rewound = |from: &mut dyn ReadSeek| from.seek(SeekFrom::Start(0)).map_err(Error::Input);
        let kind = match inspect(&mut from) {
            Ok(artifact) => artifact.kind,
            Err(_) => {
                rewound(&mut from)?;
                source_kind(&mut from)?
            }
        };
        rewound(&mut from)?;
        let mut hashes = Hashes::default();
        let mut block = vec![0; BLOCK as usize];
        loop {
            let filled = fill(&mut from, &mut block).map_err(Error::Input)?;
            if filled == 0 {
                break;
            }
            hashes.add(&block[..filled]);
        }
        let Hashes { whole, size, blocks } = hashes;
        Ok((Sha(whole.finalize().into()), size, kind, blocks))
    }

    /// Checks an object file, by hashes of `truth`; what is read isn't kept in memory.
    pub(crate) fn check_object(
        &self,
        truth: &Catalogue,
        payload: &PayloadOf,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<(Kind, String)>> {
        let path = self.object(&payload.sha256);
        let unreadable = |e: io::Error| match is_unreadable(&e) {
            true => (Kind::PayloadUnreadable, e.to_string()),
            false => (Kind::PayloadMissing, e.to_string()),
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) => return Ok(Some(unreadable(e))),
        };
        let checked = check_file(truth, payload, &file, &mut |at, len| {
            drop_pages(&file, at, len);
            progress(at + len);
        })?;
        Ok(match checked {
            Err(e) => Some(unreadable(e)),
            Ok(found) => found.map(|found| (Kind::PayloadDamaged, found)),
        })
    }

    /// The object file of a payload, open.
    pub(crate) fn open_object(&self, sha256: &Sha) -> Result<File> {
        let path = self.object(sha256);
        File::open(&path).at("opening", &path)
    }

    fn forget(&self, sha256: &Sha) {
        self.files.forget(|sha| sha == sha256);
        self.blocks.forget(|(sha, _)| sha == sha256);
    }

    /// Whether all of a payload is there and right.
    pub(crate) fn is_whole(&self, catalogue: &Catalogue, payload: &PayloadOf) -> Result<bool> {
        // What is on the disk counts, not what was read from it before.
        self.forget(&payload.sha256);
        for index in 0..payload.size.div_ceil(BLOCK) {
            match self.block(catalogue, payload, index) {
                Ok(_) => {}
                Err(Error::PayloadDamaged { .. } | Error::Io { .. }) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    fn block(
        &self,
        catalogue: &Catalogue,
        payload: &PayloadOf,
        index: u64,
    ) -> Result<Arc<Vec<u8>>> {
        self.blocks.get((payload.sha256, index), || {
            let start = index * BLOCK;
            let len = (payload.size - start).min(BLOCK) as usize;
            let damaged = |reason: String| Error::PayloadDamaged {
                sha256: payload.sha256.hex(),
                block: index,
                reason,
            };
            let bytes = if payload.inline {
                read_chunks(catalogue, &payload.sha256, start, len)?
                    .ok_or_else(|| damaged("it is missing in the catalogue".into()))?
            } else {
                let file = self.files.get(payload.sha256, || self.open_object(&payload.sha256))?;
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, start).map_err(|e| damaged(e.to_string()))?;
                // Whoever asks keeps the bytes: the page cache of the mount.
                drop_pages(&file, start, len as u64);
                bytes
            };
            let expected = block_hash(catalogue, &payload.sha256, index)?;
            if expected != Some(Sha(Sha256::digest(&bytes).into())) {
                // Another file may be in its place by the next read.
                self.files.forget(|sha| *sha == payload.sha256);
                return Err(damaged("its sha256 differs from the one published".into()));
            }
            Ok(bytes)
        })
    }
}

/// Checks the bytes of a payload, piece by piece, against the hashes of its blocks.
pub(crate) struct BlockChecker<'a> {
    catalogue: &'a Catalogue,
    sha256: Sha,
    size: u64,
    at: u64,
    block: Sha256,
}

impl<'a> BlockChecker<'a> {
    pub(crate) fn new(catalogue: &'a Catalogue, sha256: Sha, size: u64) -> BlockChecker<'a> {
        BlockChecker { catalogue, sha256, size, at: 0, block: Sha256::new() }
    }

    /// Takes the next bytes; what is wrong, if anything is.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<Option<String>> {
        while !bytes.is_empty() {
            let left = (BLOCK - self.at % BLOCK).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(left as usize);
            self.block.update(now);
            self.at += left;
            bytes = later;
            if self.at > self.size {
                return Ok(Some(format!("it has more than its {} bytes", self.size)));
            }
            if self.at.is_multiple_of(BLOCK)
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
        if self.at.is_multiple_of(BLOCK) { Ok(None) } else { self.end_block() }
    }

    fn end_block(&mut self) -> Result<Option<String>> {
        let index = (self.at - 1) / BLOCK;
        let found = Sha(self.block.finalize_reset().into());
        let expected = block_hash(self.catalogue, &self.sha256, index)?;
        let wrong = expected != Some(found);
        Ok(wrong.then(|| format!("block {index} (of 128 KiB) differs from what was published")))
    }
}

/// Has the kernel forget pages of a file that nobody has mapped; and begin to write those that
/// are dirty, without waiting (mm/fadvise.c).
fn drop_pages(file: &File, at: u64, len: u64) {
    // It is advice: nothing depends on it.
    let _ = fadvise(file, at, NonZeroU64::new(len), Advice::DontNeed);
}

/// Checks all that a descriptor reads, by hashes of `truth`: what is wrong, if anything is, or
/// why it can't be read. `progress` hears of each piece, its offset and length.
pub(crate) fn check_file(
    truth: &Catalogue,
    payload: &PayloadOf,
    file: &File,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<io::Result<Option<String>>> {
    let mut checker = BlockChecker::new(truth, payload.sha256, payload.size);
    let mut piece = vec![0; 8 * BLOCK as usize];
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

/// What reading a payload takes.
#[derive(Clone, Debug)]
pub(crate) struct PayloadOf {
    pub(crate) sha256: Sha,
    pub(crate) size: u64,
    pub(crate) inline: bool,
}

impl PayloadOf {
    /// What the catalogue says of a payload; `None` if there is no such payload.
    pub(crate) fn find(catalogue: &Catalogue, sha256: &Sha) -> Result<Option<PayloadOf>> {
        let record = catalogue.payload(sha256)?;
        Ok(record.map(|r| PayloadOf { sha256: *sha256, size: r.size, inline: r.inline }))
    }
}

fn block_hash(catalogue: &Catalogue, sha256: &Sha, index: u64) -> Result<Option<Sha>> {
    let per_record = HASHES_PER_RECORD as u64;
    let record = catalogue.get(&blocks_key(sha256, (index / per_record) as u32))?;
    let at = (index % per_record) as usize * 32;
    Ok(record.and_then(|hashes| Some(Sha(hashes.get(at..at + 32)?.try_into().ok()?))))
}

fn read_chunks(
    catalogue: &Catalogue,
    sha256: &Sha,
    start: u64,
    len: usize,
) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(len + CHUNK);
    let mut index = (start / CHUNK as u64) as u32;
    while bytes.len() < len {
        match catalogue.get(&chunk_key(sha256, index))? {
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
    (Sha256::digest(&bytes)[..] == sha256.0).then_some(bytes)
}

/// Where the object file of a payload is, in a directory of such.
pub(crate) fn object_in(objects: &Path, sha256: &Sha) -> PathBuf {
    let hex = sha256.hex();
    objects.join(&hex[..2]).join(hex)
}

/// A payload as an object file, if that has all of it.
pub(crate) fn whole_object(objects: &Path, sha256: &Sha) -> Option<Vec<u8>> {
    let bytes = fs::read(object_in(objects, sha256)).ok()?;
    (Sha256::digest(&bytes)[..] == sha256.0).then_some(bytes)
}

/// Puts bytes of a payload into `catalogue` as chunks, from chunk `first` on.
pub(crate) fn put_chunks(
    catalogue: &Catalogue,
    sha256: &Sha,
    first: u32,
    bytes: &[u8],
) -> Result<()> {
    for (index, chunk) in (first..).zip(bytes.chunks(CHUNK)) {
        catalogue.put(&chunk_key(sha256, index), chunk)?;
    }
    Ok(())
}

/// The sha256 in the key of a payload's record.
pub(crate) fn sha_of_key(key: &[u8]) -> Result<Sha> {
    key.get(1..)
        .and_then(|sha| sha.try_into().ok())
        .map(Sha)
        .ok_or_else(|| Error::Inconsistent("a payload's key is no sha256".into()))
}

fn make_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).at("making", path),
        _ => Ok(()),
    }
}

/// Reads until `buf` is full or the input ends.
fn fill(from: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
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

/// The last `N` values that were asked for. A value is made outside the lock.
struct Recent<K, V, const N: usize>(std::sync::Mutex<VecDeque<(K, Arc<V>)>>);

impl<K, V, const N: usize> Default for Recent<K, V, N> {
    fn default() -> Self {
        Recent(std::sync::Mutex::new(VecDeque::with_capacity(N)))
    }
}

impl<K: PartialEq, V, const N: usize> Recent<K, V, N> {
    fn forget(&self, is_meant: impl Fn(&K) -> bool) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).retain(|(key, _)| !is_meant(key));
    }

    fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        // A thread that panicked with this lock held left a valid queue.
        let lock = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        {
            let mut recent = lock();
            if let Some(at) = recent.iter().position(|(k, _)| *k == key)
                && let Some(entry) = recent.remove(at)
            {
                let value = entry.1.clone();
                recent.push_front(entry);
                return Ok(value);
            }
        }
        let value = Arc::new(make()?);
        let mut recent = lock();
        recent.truncate(N - 1);
        recent.push_front((key, value.clone()));
        Ok(value)
    }
}
