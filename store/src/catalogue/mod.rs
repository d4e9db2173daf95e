//! The catalogue: everything the store knows of its names, in one sled tree.
//!
//! It is derived: the history says what was committed, the catalogue answers
//! questions about it quickly, and can be rebuilt.

mod apply;
mod invalidation;
mod open;
mod overlay;
mod packed;
pub(crate) mod records;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, is_out_of_room, is_unwritable};
use crate::types::sha::Sha;
use packed::Writes;
use records::*;

pub(crate) use apply::{apply, live_directory, live_versions};
pub use invalidation::{Changes, Untold};
pub use open::{SCRATCH, panics_are_caught};
pub(crate) use open::{
    aside, bring_inside, catch_up, close, copy, from_history, open, open_alone, open_elsewhere,
    put_in_place, put_in_place_of, quietly, remove_dir, scratch, sweep, sync_dir, sync_files,
};
pub(crate) use overlay::Txn;

/// Inode numbers below this belong to the mount's fixed entries.
pub const FIRST_FREE_INODE: u64 = 16;
/// The root of the mount, and of [`View::Keys`].
pub const ROOT_INODE: u64 = 1;
/// `.wasmfs/versions`, the root of [`View::Versions`].
pub const VERSIONS_INODE: u64 = 3;
/// `.wasmfs/engines`; its entries are the roots of the engines' views.
pub const ENGINES_INODE: u64 = 4;

/// Reads of records, from the catalogue itself or from a transaction over it.
pub(crate) trait Records {
    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>>;

    /// The first entry whose key is at least `from` and starts with `prefix`.
    fn first_from(&self, prefix: &[u8], from: &[u8]) -> Result<Option<(sled::IVec, sled::IVec)>>;

    /// Notes that a record can't be what was written.
    fn note_damage(&self);

    fn record<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let record = self.get(key)?.map(|bytes| decode(&bytes)).transpose();
        record.inspect_err(|_| self.note_damage())
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>> {
        self.get(key)?.map(|bytes| be_u64(&bytes)).transpose()
    }

    fn any_under(&self, prefix: &[u8]) -> Result<bool> {
        Ok(self.first_from(prefix, prefix)?.is_some())
    }

    fn applied(&self) -> Result<Applied> {
        let Some(bytes) = self.get(APPLIED)? else {
            return Ok(Applied {
                mark: 0,
                layout: LAYOUT,
                seq: 0,
                history_len: 0,
                next_inode: FIRST_FREE_INODE,
                next_engine: 1,
            });
        };
        if !bytes.starts_with(&[0, LAYOUT as u8]) {
            return Err(Error::Inconsistent("another version of wasmfs made it".into()));
        }
        decode(&bytes).inspect_err(|_| self.note_damage())
    }

    /// The last sequence number applied, whatever the layout.
    fn applied_seq(&self) -> Result<u64> {
        let Some(bytes) = self.get(APPLIED)? else { return Ok(0) };
        match bytes.first() {
            Some(0) => Ok(decode::<(u32, u32, u64)>(&bytes)?.2),
            _ => decode(&bytes),
        }
    }

    fn inode(&self, inode: u64) -> Result<Option<InodeRecord>> {
        self.record(&inode_key(inode))
    }

    /// The version with this inode number, which must exist.
    fn version_at(&self, inode: u64) -> Result<VersionRecord> {
        match self.inode(inode)? {
            Some(InodeRecord::Version(version)) => Ok(version),
            _ => Err(Error::Inconsistent(format!("inode {inode} is no version"))),
        }
    }

    /// A version by key and number, removed ones included, with its inode number.
    fn version(&self, key: &str, version: u64) -> Result<Option<(u64, VersionRecord)>> {
        self.number(&version_key(key, version))?
            .map(|inode| Ok((inode, self.version_at(inode)?)))
            .transpose()
    }

    fn engine(&self, number: EngineNumber) -> Result<EngineRecord> {
        self.record(&engine_key(number))?
            .ok_or_else(|| Error::Inconsistent(format!("engine {number} is missing")))
    }

    fn engine_number(&self, key: &[u8]) -> Result<Option<EngineNumber>> {
        self.record(key)
    }

    fn alias(&self, name: &str) -> Result<Option<AliasRecord>> {
        self.record(&alias_key(name))
    }

    /// Every alias by its name.
    fn aliases(&self) -> Result<Vec<(String, AliasRecord)>>
    where
        Self: Sized,
    {
        let prefix = aliases_prefix();
        let mut aliases = Vec::new();
        for_each_under(self, &prefix, |key, value| {
            let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            aliases.push((name, decode(value)?));
            Ok(())
        })?;
        Ok(aliases)
    }

    /// Whether a key has a version that was not removed.
    fn has_versions(&self, key: &str) -> Result<bool> {
        self.any_under(&names_prefix(View::Versions, &format!("{key}/\0")))
    }

    fn payload(&self, sha256: &Sha) -> Result<Option<PayloadRecord>> {
        self.record(&payload_key(sha256))
    }
}

/// What may be written before it is opened again, in bytes: reading it takes sled some 100 ms.
const LONG: u64 = 32 << 20;

/// The sled database and its one tree.
pub(crate) struct Catalogue {
    db: sled::Db,
    /// Where its files are.
    path: PathBuf,
    /// A copy that can only be read, while the store's own can't be opened.
    elsewhere: bool,
    /// Bytes handed to sled since it was opened.
    written: AtomicU64,
    /// Set when sled could not read or write: opened again, it may be able to.
    failed: AtomicBool,
    /// Set when a record can't be what was written, or sled says so: it must not be trusted.
    damaged: AtomicBool,
}

impl Catalogue {
    /// Some records from a key on: not how much is applied, nor parts of payloads.
    pub(crate) fn page(&self, from: Vec<u8>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut shared = self.range(from.clone()).peekable();
        // Sections stand by themselves.
        let alone_from = if from < b"s".to_vec() { b"s".to_vec() } else { from };
        let mut alone = self.db.range(alone_from..b"t".to_vec());
        let mut next_alone = || self.checked(alone.next().transpose().map_err(Error::from));
        let mut section = next_alone()?;
        let mut page = Vec::new();
        while page.len() < limit {
            let first = match (shared.peek(), &section) {
                (Some(Ok((key, _))), Some((other, _))) => key < other,
                (first, _) => first.is_some(),
            };
            let (key, value) = match first {
                true => match shared.next().transpose()? {
                    Some(entry) => entry,
                    None => break,
                },
                false => match section.take() {
                    Some(entry) => entry,
                    None => break,
                },
            };
            if !first {
                section = next_alone()?;
            }
            page.push((key.to_vec(), value.to_vec()));
        }
        Ok(page)
    }

    /// How much its records need, in bytes, without what sled adds.
    pub(crate) fn content(&self) -> Result<u64> {
        let mut total = 0;
        for entry in self.db.iter() {
            let (key, value) = self.checked(entry.map_err(Error::from))?;
            total += (key.len() + value.len()) as u64;
        }
        Ok(total)
    }

    /// Notes how much of the history it holds, which has another shape now.
    pub(crate) fn note_applied(&self, applied: &Applied) -> Result<()> {
        self.put(APPLIED, &encode(applied)?)
    }

    /// Puts a record in that stands by itself, outside of any transaction: part of a payload.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        debug_assert!(packed::is_alone(key));
        self.written.fetch_add(value.len() as u64, Ordering::Relaxed);
        self.checked(self.db.insert(key, value).map_err(Error::from)).map(drop)
    }

    /// Makes some writes at once. One thread at a time.
    fn write(&self, writes: Writes) -> Result<()> {
        let (batch, size) = self.checked(packed::batch(&self.db, writes))?;
        self.written.fetch_add(size, Ordering::Relaxed);
        self.checked(self.db.apply_batch(batch).map_err(Error::from))
    }

    /// The directory of its files.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing in it failed since it was opened.
    pub(crate) fn is_sound(&self) -> bool {
        !self.is_damaged() && !self.failed.load(Ordering::Relaxed)
    }

    /// Whether a record turned out wrong since it was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Whether so much was written that it should be opened again: sled 0.34 notes where
    /// everything is when it opens, and only then; the next open reads all that was written since.
    pub(crate) fn is_long(&self) -> bool {
        self.written.load(Ordering::Relaxed) > LONG
    }

    /// Whether it is a copy that can only be read.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    fn checked<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| match e {
            // What a full or failing disk leaves; whatever is asked after that is refused as well.
            Error::Catalogue(sled::Error::Io(source)) => {
                self.failed.store(true, Ordering::Relaxed);
                // sled tells the same error again and again as text, but for its kind.
                let source = match is_unwritable(&source) {
                    true if source.kind() == std::io::ErrorKind::Other => source,
                    true if !is_out_of_room(&source) => {
                        // What could not be written once may seem to be the next time.
                        self.note_damage();
                        rustix::io::Errno::IO.into()
                    }
                    true => source.kind().into(),
                    false => source,
                };
                Error::Io { action: "using the catalogue in", path: self.path.clone(), source }
            }
            e => {
                self.note_damage();
                e
            }
        })
    }

    /// Takes a record away by itself.
    fn remove(&self, key: &[u8]) -> Result<()> {
        self.write([(key.to_vec(), None)].into())
    }

    /// Makes what was inserted visible to a successor; sled's `flush` writes
    /// but does not sync.
    pub(crate) fn flush(&self) -> Result<()> {
        self.checked(self.db.flush().map_err(Error::from)).map(drop)
    }

    /// Every entry whose key starts with `prefix`, in order. Not of records that stand by themselves.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec)>> + use<'_> {
        let prefix = prefix.to_vec();
        self.range(prefix.clone()).take_while(move |entry| {
            entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))
        })
    }

    /// The same, the last first.
    pub(crate) fn scan_backwards(
        &self,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<(sled::IVec, sled::IVec)>> + use<'_>> {
        let entries = self.checked(packed::backwards(&self.db, prefix))?;
        Ok(entries.map(|entry| self.checked(entry)))
    }

    /// Every entry whose key is at least `from`, in order. Not of records that stand by themselves.
    pub(crate) fn range(
        &self,
        from: Vec<u8>,
    ) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec)>> + use<'_> {
        let (entries, error) = match self.checked(packed::range(&self.db, from)) {
            Ok(entries) => (Some(entries), None),
            Err(e) => (None, Some(Err(e))),
        };
        error.into_iter().chain(entries.into_iter().flatten().map(|entry| self.checked(entry)))
    }
}

impl Records for Catalogue {
    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>> {
        self.checked(packed::get(&self.db, key))
    }

    fn note_damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    fn first_from(&self, prefix: &[u8], from: &[u8]) -> Result<Option<(sled::IVec, sled::IVec)>> {
        let first = match packed::is_alone(prefix) {
            true => {
                let first = self.db.range(from.to_vec()..).next();
                self.checked(first.transpose().map_err(Error::from))?
            }
            false => self.checked(packed::first_from(&self.db, from))?,
        };
        Ok(first.filter(|(key, _)| key.starts_with(prefix)))
    }
}

impl<R: Records> Records for Arc<R> {
    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>> {
        (**self).get(key)
    }

    fn note_damage(&self) {
        (**self).note_damage();
    }

    fn first_from(&self, prefix: &[u8], from: &[u8]) -> Result<Option<(sled::IVec, sled::IVec)>> {
        (**self).first_from(prefix, from)
    }
}

/// Hands every record whose key starts with `prefix` to `each`, in order.
pub(crate) fn for_each_under(
    records: &impl Records,
    prefix: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut from = prefix.to_vec();
    while let Some((key, value)) = records.first_from(prefix, &from)? {
        each(&key, &value)?;
        from = [&key[..], b"\0"].concat();
    }
    Ok(())
}

pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(record).map_err(|e| Error::Inconsistent(format!("encoding a record: {e}")))
}

/// Decodes a record, or the start of one: what comes after it is ignored.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes)
        .map_err(|e| Error::Inconsistent(format!("a record can't be decoded: {e}")))
}

pub(crate) fn be_u64(bytes: &[u8]) -> Result<u64> {
    bytes
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| Error::Inconsistent("a number has not 8 bytes".into()))
}
