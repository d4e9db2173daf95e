//! Payloads: the bytes of artifacts, stored once per sha256, as object files
//! or, when small, as chunks inside sled.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::artifact::inspect::{Artifact, ArtifactKind, inspect};
use crate::catalogue::records::{PayloadRecord, chunk_key};
use crate::catalogue::{Catalogue, Records, sync_dir, sync_files};
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::maintenance::verify::{Kind, is_unreadable};
use crate::payload::blocks::{BLOCK, Hashes, LARGE_BLOCK, check_file, fill};
use crate::payload::reader::{Reader, drop_pages};
use crate::types::sha::Sha;

/// Bytes of a payload in one record of sled.
const CHUNK: usize = 4 << 10;
/// What is read at once of an upload, in bytes: whole blocks, and whole chunks.
const PIECE: usize = 128 << 10;
const _: () = assert!(PIECE.is_multiple_of(BLOCK as usize) && PIECE.is_multiple_of(CHUNK));
/// Uploads up to this size, in bytes, wait for their commit in memory.
const SMALL: usize = 16 << 10;
/// Memory that uploads may take together, in bytes; the rest wait in files.
const SMALL_TOTAL: usize = 64 << 20;

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
    pub(crate) reader: Reader,
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
            reader: Reader::new(&store.join("objects")),
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
        let mut first = vec![0; PIECE];
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
            block.resize(PIECE, 0);
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
            self.reader.forget(&staged.sha256);
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
            let mut block = vec![0; PIECE];
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

    /// Removes the object file of a payload that is gone.
    pub(crate) fn remove_object(&self, sha256: &Sha) -> Result<()> {
        self.reader.forget(sha256);
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
        let mut block = vec![0; PIECE];
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
}

/// What reading a payload takes.
#[derive(Clone, Debug)]
pub(crate) struct PayloadOf {
    pub(crate) sha256: Sha,
    pub(crate) size: u64,
    pub(crate) inline: bool,
    /// The size of its blocks in bytes.
    pub(crate) block_size: u64,
}

impl PayloadOf {
    pub(crate) fn new(sha256: &Sha, record: &PayloadRecord) -> PayloadOf {
        let PayloadRecord { size, inline, large_blocks, .. } = *record;
        let block_size = if large_blocks { LARGE_BLOCK } else { BLOCK };
        PayloadOf { sha256: *sha256, size, inline, block_size }
    }

    /// What the catalogue says of a payload; `None` if there is no such payload.
    pub(crate) fn find(catalogue: &Catalogue, sha256: &Sha) -> Result<Option<PayloadOf>> {
        Ok(catalogue.payload(sha256)?.map(|record| PayloadOf::new(sha256, &record)))
    }
}

/// `len` bytes at `start`, a multiple of a chunk, of a payload kept inside `catalogue`; `None` if
/// some are missing.
pub(crate) fn read_chunks(
    catalogue: &Catalogue,
    sha256: &Sha,
    start: u64,
    len: usize,
) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(len.min(PIECE) + CHUNK);
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
