//! Staging: bytes that are complete, and not committed yet.

use std::fs::{self, File, OpenOptions};
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::blocks::{Hashed, Hashes, fill};
use super::info::BLOCK_SIZE;
use super::reader::drop_pages;
use crate::artifact::{Artifact, ArtifactKind, inspect};
use crate::catalogue::{CHUNK, Catalogue, put_chunks};
use crate::disk::durable::make_dir;
use crate::disk::names::INCOMING;
use crate::error::{Error, IoContext, Result, unless_unwritable};
use crate::types::{Sha, in_memory};

/// What is read at once of an upload, in bytes: whole blocks, and whole chunks.
const STAGING_PIECE: usize = 128 << 10;
const _: () = assert!(
    STAGING_PIECE.is_multiple_of(in_memory(BLOCK_SIZE)) && STAGING_PIECE.is_multiple_of(CHUNK)
);
/// Uploads up to this size, in bytes, wait for their commit in memory.
const IN_MEMORY_SIZE: usize = 16 << 10;
/// Memory that uploads may take together, in bytes; the rest wait in files.
const IN_MEMORY_TOTAL: usize = 64 << 20;

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
pub(super) struct Incoming(PathBuf);

/// The file that an upload waits in.
pub(super) enum WaitingFile<'u> {
    /// All along.
    Own(&'u Incoming),
    /// Since it is to be committed; removed when dropped, unless it was renamed.
    New(Incoming),
}

impl WaitingFile<'_> {
    pub(super) fn path(&self) -> &Path {
        match self {
            WaitingFile::Own(incoming) => &incoming.0,
            WaitingFile::New(incoming) => &incoming.0,
        }
    }
}

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
    #[must_use]
    pub fn sha256(&self) -> Sha {
        self.upload.sha256
    }

    /// The payload's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.upload.size
    }

    /// What the artifact says of itself.
    #[must_use]
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }
}

/// What an artifact is read from.
pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Where bytes are taken in.
pub(crate) struct Staging {
    incoming: PathBuf,
    uploads: AtomicU64,
    in_memory: Arc<AtomicUsize>,
}

impl Staging {
    /// Makes the directory and sweeps what unfinished uploads left.
    pub(crate) fn open(store: &Path) -> Result<Staging> {
        let incoming = store.join(INCOMING);
        unless_unwritable(make_dir(&incoming))?;
        for entry in fs::read_dir(&incoming).into_iter().flatten() {
            let path = entry.at("reading", &incoming)?.path();
            unless_unwritable(fs::remove_file(&path).at("removing", &path))?;
        }
        Ok(Staging { incoming, uploads: AtomicU64::new(0), in_memory: Arc::default() })
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
        let mut first = vec![0; STAGING_PIECE];
        let filled = fill(&mut from, &mut first).map_err(Error::Input)?;
        first.truncate(filled);
        if filled <= IN_MEMORY_SIZE && self.reserve_memory(filled) {
            first.shrink_to_fit();
            let sha256 = Sha::of(&first);
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
            drop_pages(&file, hashes.size(), block.len() as u64);
            hashes.add(&block);
            block.resize(STAGING_PIECE, 0);
            let filled = fill(&mut from, &mut block).map_err(Error::Input)?;
            block.truncate(filled);
        }
        file.seek(SeekFrom::Start(0)).at("reading", &incoming.0)?;
        let (kind, seen) = look(&mut file)?;
        let Hashed { sha256, size, blocks } = hashes.finish();
        let waiting = Waiting::InFile(incoming);
        Ok((Upload { waiting, sha256, size, kind, blocks }, seen))
    }

    /// Whether so many bytes may wait in memory; given back when they are dropped.
    fn reserve_memory(&self, bytes: usize) -> bool {
        let fits = self.in_memory.fetch_add(bytes, Ordering::Relaxed) + bytes <= IN_MEMORY_TOTAL;
        if !fits {
            self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// The file that an upload waits in, open; it is made if the upload waits in memory.
    pub(super) fn file<'u>(&self, upload: &'u Upload) -> Result<(File, WaitingFile<'u>)> {
        match &upload.waiting {
            Waiting::InMemory { bytes, .. } => {
                let (mut file, incoming) = self.new_incoming()?;
                file.write_all(bytes).at("writing", &incoming.0)?;
                Ok((file, WaitingFile::New(incoming)))
            }
            Waiting::InFile(incoming) => {
                let file = File::open(&incoming.0).at("opening", &incoming.0)?;
                Ok((file, WaitingFile::Own(incoming)))
            }
        }
    }

    /// A new file for bytes that wait.
    fn new_incoming(&self) -> Result<(File, Incoming)> {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let path = self.incoming.join(number.to_string());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o400);
        let file = options.open(&path).at("making", &path)?;
        Ok((file, Incoming(path)))
    }
}

/// Makes `uploads` durable as chunks inside the catalogue.
pub(crate) fn keep_inline(catalogue: &Catalogue, uploads: &[&Upload]) -> Result<()> {
    for staged in uploads {
        let incoming = match &staged.waiting {
            Waiting::InMemory { bytes, .. } => {
                put_chunks(catalogue, &staged.sha256, 0, bytes)?;
                continue;
            }
            Waiting::InFile(incoming) => &incoming.0,
        };
        let mut file = File::open(incoming).at("opening", incoming)?;
        let mut piece = vec![0; STAGING_PIECE];
        for first in (0..).step_by(STAGING_PIECE / CHUNK) {
            let filled = fill(&mut file, &mut piece).at("reading", incoming)?;
            if filled == 0 {
                break;
            }
            put_chunks(catalogue, &staged.sha256, first, &piece[..filled])?;
        }
    }
    catalogue.sync()
}

/// What bytes are.
pub(crate) struct Description {
    pub(crate) sha256: Sha,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) kind: ArtifactKind,
    /// sha256 of each block, one after the other.
    pub(crate) blocks: Vec<u8>,
}

/// What the bytes of an artifact are, or of a source.
pub(crate) fn describe(mut from: impl Read + Seek) -> Result<Description> {
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
    let mut piece = vec![0; STAGING_PIECE];
    loop {
        let filled = fill(&mut from, &mut piece).map_err(Error::Input)?;
        if filled == 0 {
            break;
        }
        hashes.add(&piece[..filled]);
    }
    let Hashed { sha256, size, blocks } = hashes.finish();
    Ok(Description { sha256, size, kind, blocks })
}
