//! Staging: bytes that are complete, and not committed yet.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::blocks::{Hashed, Hashes, fill};
use super::incoming::{Incoming, Lease, LeasedDir};
use super::info::BLOCK_SIZE;
use super::object_place::ObjectPlace;
use super::reader::drop_pages;
use super::staged::{MAX_INLINE_SIZE, MemoryBytes, Place, Staged, StagedPayload, StagedSource};
use crate::artifact::{ArtifactKind, inspect};
use crate::catalogue::{CHUNK, Catalogue, put_chunks};
use crate::disk::Dir;
use crate::disk::names::{OBJECTS, object_in};
use crate::disk::space::check_free_space;
use crate::error::{Error, IoContext, Result};
use crate::settings::{Settings, read_settings};
use crate::store_dir::StoreDir;
use crate::types::{Sha, in_memory};

/// What is read at once of what is staged, in bytes: whole blocks, and whole chunks.
const STAGING_PIECE: usize = 128 << 10;
const _: () = assert!(
    STAGING_PIECE.is_multiple_of(in_memory(BLOCK_SIZE)) && STAGING_PIECE.is_multiple_of(CHUNK)
);
/// After how many bytes it is looked again whether the disk has room.
const ROOM_CHECK_SIZE: u64 = 32 << 20;
/// What is staged in memory together, in bytes at most; the rest is staged in files.
pub const MAX_INLINE_TOTAL: usize = 32 << 20;

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

/// What an artifact is read from.
pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Where bytes are taken in: by the process that has the store open, or by a command beside it.
pub struct Staging {
    incoming: Arc<Incoming>,
    store: Dir,
    /// Payloads up to this size, in bytes, are staged in memory.
    inline: u64,
    /// Held by what is staged in files.
    lease: Mutex<Weak<Lease>>,
    /// Bytes that are staged in memory.
    in_memory: Arc<AtomicUsize>,
}

impl Staging {
    /// Stages for the store in `dir`, which another process of its owner may have open: that one
    /// decides whether it takes what is staged. What commands left that were killed is swept.
    pub fn beside(dir: &StoreDir) -> Result<Staging> {
        let settings = read_settings(dir)?;
        let incoming = Arc::new(Incoming::open(dir)?);
        if let Err(e) = incoming.sweep(false) {
            log::warn!("sweeping what dead commands staged: {e}");
        }
        Ok(Staging::new(dir, incoming, &settings))
    }

    pub(crate) fn new(dir: &Dir, incoming: Arc<Incoming>, settings: &Settings) -> Staging {
        Staging {
            incoming,
            store: dir.clone(),
            inline: settings.inline_limit.bytes().min(MAX_INLINE_SIZE),
            lease: Mutex::default(),
            in_memory: Arc::default(),
        }
    }

    /// Takes an artifact in, and reads what it says of itself. Large ones go to `incoming/`,
    /// synced.
    pub fn stage(&self, from: impl Read) -> Result<Staged> {
        let (payload, artifact) = self.take_in(from, |bytes| {
            let artifact = inspect(bytes)?;
            Ok((artifact.kind, artifact))
        })?;
        Ok(Staged { payload, artifact })
    }

    /// Takes the WebAssembly in that an artifact was compiled from.
    pub fn stage_source(&self, from: impl Read) -> Result<StagedSource> {
        let (payload, ()) = self.take_in(from, |bytes| Ok((source_kind(bytes)?, ())))?;
        Ok(StagedSource { payload })
    }

    /// Takes bytes in, hashing them, and has `look` say what they are.
    fn take_in<T>(
        &self,
        mut from: impl Read,
        look: impl FnOnce(&mut dyn ReadSeek) -> Result<(ArtifactKind, T)>,
    ) -> Result<(StagedPayload, T)> {
        let mut first = vec![0; STAGING_PIECE];
        let filled = fill(&mut from, &mut first).map_err(Error::Input)?;
        first.truncate(filled);
        if filled as u64 <= self.inline && self.reserve_memory(filled) {
            first.shrink_to_fit();
            let looked = look(&mut Cursor::new(&first[..]));
            let mut hashes = Hashes::default();
            hashes.add(&first);
            let Hashed { sha256, size, blocks } = hashes.finish();
            let place = Place::Memory(MemoryBytes::new(first, &self.in_memory));
            let (kind, seen) = looked?;
            return Ok((StagedPayload { sha256, size, kind, blocks, place }, seen));
        }
        let (mut file, mut staged) = self.lease()?.create()?;
        let path = staged.path(&self.incoming);
        let mut hashes = Hashes::default();
        let mut block = first;
        while !block.is_empty() {
            if hashes.size() > 0 && hashes.size().is_multiple_of(ROOM_CHECK_SIZE) {
                // It may go on without end.
                self.check_room(0)?;
            }
            file.write_all(&block).at("writing", &path)?;
            // It begins to be written to the disk while the rest is hashed.
            drop_pages(&file, hashes.size(), block.len() as u64);
            hashes.add(&block);
            block.resize(STAGING_PIECE, 0);
            let filled = fill(&mut from, &mut block).map_err(Error::Input)?;
            block.truncate(filled);
        }
        file.seek(SeekFrom::Start(0)).at("reading", &path)?;
        let (kind, seen) = look(&mut file)?;
        let Hashed { sha256, size, blocks } = hashes.finish();
        // What the store has already is hardly ever kept once more.
        let object = self.store.metadata(object_in(Path::new(OBJECTS), &sha256)).ok().flatten();
        if object.is_none_or(|object| object.st_size.unsigned_abs() != size) {
            file.sync_all().at("syncing", &path)?;
            staged.is_synced = true;
        }
        let place = Place::File(staged);
        Ok((StagedPayload { sha256, size, kind, blocks, place }, seen))
    }

    /// Refuses to begin with so many bytes if the disk has no room for them.
    ///
    /// # Errors
    /// [`Error::DiskFull`].
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        check_free_space(&self.store, bytes)
    }

    /// A directory of this process's own in the store's, which is removed when it is dropped, or
    /// swept once the process is dead.
    pub fn temporary(&self) -> Result<LeasedDir> {
        LeasedDir::make(&self.store, Lease::take(&self.incoming)?)
    }

    fn lease(&self) -> Result<Arc<Lease>> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = lease.upgrade() {
            return Ok(lease);
        }
        let taken = Lease::take(&self.incoming)?;
        *lease = Arc::downgrade(&taken);
        Ok(taken)
    }

    /// Whether so many bytes may be staged in memory; given back when they are dropped.
    fn reserve_memory(&self, bytes: usize) -> bool {
        let fits = self.in_memory.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_INLINE_TOTAL;
        if !fits {
            self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Refuses what can't be kept, of a payload whose object file is or would be at `object`.
    pub(crate) fn check(
        &self,
        payload: &StagedPayload,
        object: impl FnOnce() -> Result<Option<ObjectPlace>>,
    ) -> Result<()> {
        let Place::File(staged) = &payload.place else { return Ok(()) };
        match self.incoming.open_staged(staged, payload.size) {
            Err(gone @ Error::StagedGone(_)) => match object()? {
                // A server that died over this commit had renamed it.
                Some(object) if staged.is_at(&object, payload.size) => Ok(()),
                _ => Err(gone),
            },
            opened => opened.map(drop),
        }
    }

    /// Makes a staged payload durable as the object file at `object`, but for its name.
    pub(super) fn keep(&self, payload: &StagedPayload, object: &ObjectPlace) -> Result<()> {
        let made;
        let staged = match &payload.place {
            Place::Memory(bytes) => {
                let (mut file, staged) = self.lease()?.create()?;
                let path = staged.path(&self.incoming);
                file.write_all(bytes).and_then(|()| file.sync_all()).at("writing", &path)?;
                made = staged;
                &made
            }
            Place::File(staged) => {
                let file = match self.incoming.open_staged(staged, payload.size) {
                    // A server that died over this commit had renamed it.
                    Err(Error::StagedGone(_)) if staged.is_at(object, payload.size) => {
                        return object.directory.sync_file(&object.name);
                    }
                    opened => opened?,
                };
                if !staged.is_synced {
                    file.sync_all().at("syncing", &staged.path(&self.incoming))?;
                }
                staged
            }
        };
        self.incoming.rename_to(staged, object)
    }

    /// Makes staged payloads durable as chunks inside the catalogue.
    pub(crate) fn keep_inline(
        &self,
        catalogue: &Catalogue,
        payloads: &[&StagedPayload],
    ) -> Result<()> {
        for payload in payloads {
            let staged = match &payload.place {
                Place::Memory(bytes) => {
                    put_chunks(catalogue, &payload.sha256, 0, bytes)?;
                    continue;
                }
                Place::File(staged) => staged,
            };
            let path = staged.path(&self.incoming);
            let mut file = self.incoming.open_staged(staged, payload.size)?;
            let mut piece = vec![0; STAGING_PIECE];
            for first in (0..).step_by(STAGING_PIECE / CHUNK) {
                let filled = fill(&mut file, &mut piece).at("reading", &path)?;
                if filled == 0 {
                    break;
                }
                put_chunks(catalogue, &payload.sha256, first, &piece[..filled])?;
            }
        }
        catalogue.sync()
    }
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
