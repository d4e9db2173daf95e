//! Archives: a whole store in one tar file, for backups and other machines.
//!
//! | entry | what |
//! | --- | --- |
//! | `wasmfs/settings.json` | the store's settings; always first |
//! | `wasmfs/objects/ab/…` | every payload by its sha256, those kept inside the catalogue too |
//! | `wasmfs/history` | the history; always last, so that it commits what came before |

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::names::{OBJECTS, object_in};
use crate::error::Error;
use crate::types::Sha;

/// What all entries are under.
pub(super) const ROOT: &str = "wasmfs";

/// What an archive has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// Changes of the history.
    pub changes: u64,
    /// Payloads.
    pub payloads: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Payloads that were there already, from an import that was interrupted.
    pub skipped: u64,
}

/// Told of payload bytes done, and how many there are, if that is known.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// The name of a payload in an archive, under [`ROOT`].
pub(super) fn object_name(sha256: &Sha) -> PathBuf {
    object_in(Path::new(OBJECTS), sha256)
}

/// A payload that is not what was published.
pub(super) fn damaged(sha256: &Sha, reason: &str) -> Error {
    Error::PayloadDamaged { sha256: sha256.hex(), reason: reason.into() }
}

/// Hashes what is read through it.
pub(super) struct HashingReader<R> {
    from: R,
    hash: Sha256,
    len: u64,
}

impl<R> HashingReader<R> {
    pub(super) fn new(from: R) -> HashingReader<R> {
        HashingReader { from, hash: Sha256::new(), len: 0 }
    }

    /// The sha256 of what was read, and how many bytes that was.
    pub(super) fn finish(self) -> (Sha, u64) {
        (Sha(self.hash.finalize().into()), self.len)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.hash.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }
}
