//! What is staged: bytes that are complete and not committed. It is the same from staging to
//! the commit, in one process or from a command to the server.

use std::io::Read;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::incoming::StagedFile;
use super::info::BLOCK_SIZE;
use crate::artifact::{Artifact, ArtifactKind, MAX_ENGINE_SECTION};
use crate::error::{Error, Result};
use crate::types::{Sha, base64_bytes, in_memory};

/// The largest payload whose bytes are staged in memory, in bytes; larger ones are files.
pub(super) const MAX_INLINE_SIZE: u64 = 64 << 10;

/// Bytes that are complete and not committed, and what is known of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StagedPayload {
    pub(crate) sha256: Sha,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) kind: ArtifactKind,
    /// sha256 of each block, one after the other.
    #[serde(with = "base64_bytes")]
    pub(crate) blocks: Vec<u8>,
    pub(super) place: Place,
}

/// Where staged bytes are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    /// Here; in a request they come after all that is known of them.
    Memory(#[serde(skip)] MemoryBytes),
    /// In a file of `incoming/`.
    File(StagedFile),
}

/// Bytes that are staged in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryBytes {
    bytes: Vec<u8>,
    /// What they are counted in.
    total: Option<Arc<AtomicUsize>>,
}

impl MemoryBytes {
    /// Bytes that are counted in `total` already.
    pub(super) fn new(bytes: Vec<u8>, total: &Arc<AtomicUsize>) -> MemoryBytes {
        MemoryBytes { bytes, total: Some(total.clone()) }
    }
}

impl Deref for MemoryBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for MemoryBytes {
    fn drop(&mut self) {
        if let Some(total) = &self.total {
            total.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

impl StagedPayload {
    /// The bytes that are here rather than in a file.
    pub(crate) fn in_memory(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Memory(bytes) => Some(bytes),
            Place::File(_) => None,
        }
    }

    /// Reads the bytes that go with it, if they are no file, and checks what was told of it.
    fn complete(&mut self, from: &mut dyn Read) -> Result<()> {
        let unfit = |reason| Err(Error::UnfitStaged { name: self.sha256.hex(), reason });
        let blocks = self.size.div_ceil(BLOCK_SIZE);
        if self.size == 0 || self.blocks.len() as u64 != blocks.saturating_mul(32) {
            return unfit("it has another number of blocks");
        }
        if let Place::Memory(bytes) = &mut self.place {
            if self.size > MAX_INLINE_SIZE {
                return unfit("it is too large to be in a request");
            }
            let mut read = vec![0; in_memory(self.size)];
            from.read_exact(&mut read).map_err(Error::Input)?;
            *bytes = MemoryBytes { bytes: read, total: None };
            if Sha::of(bytes) != self.sha256 {
                return unfit("its bytes have another sha256");
            }
        }
        Ok(())
    }
}

/// An artifact that is complete and not committed. Dropping it takes it back, in the process that
/// staged it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Staged {
    pub(crate) payload: StagedPayload,
    pub(crate) artifact: Artifact,
}

impl Staged {
    /// The payload's sha256.
    #[must_use]
    pub fn sha256(&self) -> Sha {
        self.payload.sha256
    }

    /// The payload's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.payload.size
    }

    /// What the artifact says of itself.
    #[must_use]
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    pub(crate) fn complete(&mut self, from: &mut dyn Read) -> Result<()> {
        self.payload.complete(from)?;
        let Artifact { section, engine, .. } = &self.artifact;
        let is_told = !section.is_empty() && section.len() as u64 <= MAX_ENGINE_SECTION;
        if !is_told || engine.fingerprint != Sha::of(section) {
            let name = self.payload.sha256.hex();
            return Err(Error::UnfitStaged { name, reason: "its engine is not its section's" });
        }
        Ok(())
    }
}

/// The WebAssembly that an artifact was compiled from, likewise.
#[derive(Debug, Serialize, Deserialize)]
pub struct StagedSource {
    pub(crate) payload: StagedPayload,
}

impl StagedSource {
    pub(crate) fn complete(&mut self, from: &mut dyn Read) -> Result<()> {
        self.payload.complete(from)
    }
}
