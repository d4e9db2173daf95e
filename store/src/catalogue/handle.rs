//! The catalogue: the tables in their database.

use std::path::Path;

use super::database::{Bytes, Database, Pair, Unopened};
use super::packed::{self, Writes};
use super::read::Records;
use super::tables::{
    APPLIED, Applied, AppliedLayout, CHUNKS, KeyLayout, PAYLOADS, RawKey, Row, SECTIONS, Span,
    ValueLayout, stands_alone,
};
use crate::error::{Error, Result};
use crate::types::{Sequence, Sha};

/// The tables in their database. It is derived: the history says what was committed, the catalogue
/// answers questions about it quickly, and can be rebuilt.
pub(crate) struct Catalogue {
    db: Database,
    /// A copy that can only be read, while the store's own can't be opened.
    is_copy: bool,
}

impl Catalogue {
    /// Opens what is at `path`, or a new one, without looking at any history.
    pub(super) fn try_open(path: &Path) -> std::result::Result<Catalogue, Unopened> {
        Ok(Catalogue { db: Database::open(path)?, is_copy: false })
    }

    /// The same, with an error of the crate's.
    pub(crate) fn open(path: &Path) -> Result<Catalogue> {
        Catalogue::try_open(path).map_err(|e| e.into_error(path))
    }

    /// The same, to stand in for a store's own.
    pub(super) fn open_copy(path: &Path) -> Result<Catalogue> {
        Ok(Catalogue { is_copy: true, ..Catalogue::open(path)? })
    }

    /// The directory of its files.
    pub(crate) fn path(&self) -> &Path {
        self.db.path()
    }

    /// Whether it is a copy that can only be read.
    pub(crate) fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Whether nothing in it failed since it was opened.
    pub(crate) fn is_sound(&self) -> bool {
        self.db.is_sound()
    }

    /// Whether a row turned out wrong since it was opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.db.is_damaged()
    }

    /// Whether so much was written that it should be opened again.
    pub(crate) fn is_long(&self) -> bool {
        self.db.is_long()
    }

    /// How much its rows need, in bytes, without what the database adds.
    pub(crate) fn content(&self) -> Result<u64> {
        self.db.content()
    }

    /// Copies every row into a new catalogue at `path`. It takes no more space than it needs.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<()> {
        self.db.copy_to(path)
    }

    /// Has all that was written be in its file, where a successor finds it. It is not synced.
    pub(crate) fn flush(&self) -> Result<()> {
        self.db.flush()
    }

    /// Has all that was written outlive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        self.db.sync()
    }

    /// Closes it so that all of it is on disk.
    pub(crate) fn close(self) -> Result<()> {
        self.db.close()
    }

    /// Makes some writes at once. One thread at a time.
    pub(super) fn write(&self, writes: Writes) -> Result<()> {
        self.checked(packed::write(&self.db, writes))
    }

    /// Notes how much of the history it holds, which has another shape now.
    pub(crate) fn note_applied(&self, applied: &Applied) -> Result<()> {
        self.db.put(APPLIED.key(()).as_bytes(), &AppliedLayout::write(applied)?)
    }

    /// The last sequence number applied, whatever the layout.
    pub(super) fn applied_sequence(&self) -> Result<Sequence> {
        let value = self.raw(&APPLIED.key(()))?;
        value.map_or(Ok(Sequence(0)), |value| AppliedLayout::sequence(&value))
    }

    /// Puts a chunk of a payload in, outside of any commit.
    pub(super) fn put_chunk(&self, sha256: &Sha, index: u32, chunk: &[u8]) -> Result<()> {
        self.db.put(CHUNKS.key((sha256, index)).as_bytes(), chunk)
    }

    /// Takes the record of a payload away, by itself.
    pub(super) fn forget_payload(&self, sha256: &Sha) -> Result<()> {
        self.write([(PAYLOADS.key(sha256).into_bytes(), None)].into())
    }

    /// Every row of some, in order. Not of tables whose rows stand by themselves.
    pub(crate) fn scan<K: KeyLayout, V: ValueLayout>(
        &self,
        span: &Span<K, V>,
    ) -> impl Iterator<Item = Result<Row<K, V>>> + use<'_, K, V> {
        let prefix = span.prefix().to_vec();
        self.range(span.from().to_vec())
            .take_while(move |pair| pair.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
            .map(|pair| pair.map(|(key, value)| Row::new(key, value)))
    }

    /// The same, the last first, from the end of what starts alike.
    pub(crate) fn scan_backwards<K: KeyLayout, V: ValueLayout>(
        &self,
        span: &Span<K, V>,
    ) -> Result<impl Iterator<Item = Result<Row<K, V>>> + use<'_, K, V>> {
        let pairs = self.checked(packed::backwards(&self.db, span.prefix()))?;
        Ok(pairs.map(|pair| self.checked(pair).map(|(key, value)| Row::new(key, value))))
    }

    /// Some rows from a key on, as the database has them: not how much is applied, nor parts of
    /// payloads.
    pub(crate) fn page(&self, from: Vec<u8>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let sections = SECTIONS.all();
        let alone_from = from.clone().max(sections.from().to_vec());
        let mut shared = self.range(from).peekable();
        let alone = self.db.range(alone_from..);
        let mut alone = alone
            .take_while(|pair| pair.as_ref().map_or(true, |(key, _)| sections.has(key)))
            .peekable();
        let mut page = Vec::new();
        while page.len() < limit {
            let shared_first = match (shared.peek(), alone.peek()) {
                (Some(Ok((key, _))), Some(Ok((other, _)))) => key < other,
                (first, _) => first.is_some(),
            };
            let next = if shared_first { shared.next() } else { alone.next() };
            let Some((key, value)) = next.transpose()? else { break };
            page.push((key.to_vec(), value.to_vec()));
        }
        Ok(page)
    }

    /// Every entry whose key is at least `from`, in order, of those that share blocks.
    fn range(&self, from: Vec<u8>) -> impl Iterator<Item = Result<Pair>> + use<'_> {
        let (pairs, error) = match self.checked(packed::range(&self.db, from)) {
            Ok(pairs) => (Some(pairs), None),
            Err(e) => (None, Some(Err(e))),
        };
        error.into_iter().chain(pairs.into_iter().flatten().map(|pair| self.checked(pair)))
    }

    /// Notes damage that the database can't see: blocks that can't be read.
    fn checked<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|e| {
            if matches!(e, Error::Inconsistent(_)) {
                self.db.note_damage();
            }
        })
    }
}

impl Records for Catalogue {
    fn raw(&self, key: &RawKey) -> Result<Option<Bytes>> {
        self.checked(packed::get(&self.db, key.as_bytes()))
    }

    fn first_raw(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Pair>> {
        let first = match stands_alone(prefix) {
            true => self.db.range(from.to_vec()..).next().transpose()?,
            false => self.checked(packed::first_from(&self.db, from))?,
        };
        Ok(first.filter(|(key, _)| key.starts_with(prefix)))
    }

    fn note_damage(&self) {
        self.db.note_damage();
    }
}
