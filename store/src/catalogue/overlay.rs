//! Changes that are decided but not yet in the catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::database::{Bytes, Pair};
use super::handle::Catalogue;
use super::packed::Writes;
use super::read::Records;
use super::tables::{KeyLayout, RawKey, Span, Table, ValueLayout};
use crate::error::Result;

/// Changes in one batch of the database, which writes to its file for each.
const CHANGES_PER_BATCH: usize = 64;

/// An overlay over the catalogue: reads see its writes, and [`Overlay::apply`]
/// hands them over, once the history has them on disk.
pub(crate) struct Overlay {
    base: Arc<Catalogue>,
    overlay: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    open: Writes,
    /// Whole changes in `open`.
    changes: usize,
    /// Keys and values, in bytes.
    size: u64,
    batches: Vec<Writes>,
}

impl Overlay {
    pub(crate) fn new(base: &Arc<Catalogue>) -> Self {
        Overlay {
            base: base.clone(),
            overlay: BTreeMap::new(),
            open: Writes::new(),
            changes: 0,
            size: 0,
            batches: Vec::new(),
        }
    }

    /// Puts a row in, or another value into one that is there.
    pub(super) fn set<K: KeyLayout, V: ValueLayout>(
        &mut self,
        table: &Table<K, V>,
        key: K::Ref<'_>,
        value: V::Ref<'_>,
    ) -> Result<()> {
        self.write(table.key(key).into_bytes(), Some(V::write(value)?));
        Ok(())
    }

    /// Takes a row away, if it is there.
    pub(super) fn remove<K: KeyLayout, V: ValueLayout>(
        &mut self,
        table: &Table<K, V>,
        key: K::Ref<'_>,
    ) {
        self.write(table.key(key).into_bytes(), None);
    }

    /// Takes rows away in small pieces: readers wait for a batch.
    pub(super) fn remove_all<K: KeyLayout, V: ValueLayout>(
        &mut self,
        span: &Span<K, V>,
    ) -> Result<()> {
        let mut keys = Vec::new();
        self.for_each(span, |row| {
            keys.push(row.raw_key().to_vec());
            Ok(())
        })?;
        for key in keys {
            self.write(key, None);
            self.end_change();
        }
        Ok(())
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.size += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
        self.open.insert(key.clone(), value.clone());
        self.overlay.insert(key, value);
    }

    /// How much is written to the database, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Ends one change, or one key of a change of many: what was written since the last end
    /// is atomic.
    pub(super) fn end_change(&mut self) {
        self.changes += 1;
        if self.changes == CHANGES_PER_BATCH {
            self.end_batch();
        }
    }

    fn end_batch(&mut self) {
        self.batches.push(std::mem::take(&mut self.open));
        self.changes = 0;
    }

    /// Hands what was written to the database, in order; what is atomic is whole in one batch. When
    /// this returns, it is in its file, so that nothing is left that a disk which fills up
    /// could keep from getting there.
    pub(crate) fn apply(mut self) -> Result<()> {
        if self.changes > 0 {
            self.end_batch();
        }
        for batch in std::mem::take(&mut self.batches) {
            self.base.write(batch)?;
        }
        self.base.flush()
    }
}

impl Records for Overlay {
    fn raw(&self, key: &RawKey) -> Result<Option<Bytes>> {
        match self.overlay.get(key.as_bytes()) {
            Some(value) => Ok(value.as_deref().map(Bytes::from)),
            None => self.base.raw(key),
        }
    }

    fn note_damage(&self) {
        self.base.note_damage();
    }

    fn first_raw(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Pair>> {
        let added = self
            .overlay
            .range(from.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .find_map(|(key, value)| Some((key, value.as_deref()?)));
        let mut stored = None;
        let mut at = from.to_vec();
        while let Some((key, value)) = self.base.first_raw(prefix, &at)? {
            // Beyond what was added nothing stored is first: a commit of many names in one
            // directory would look at all of them for each.
            if added.is_some_and(|(first, _)| key[..] >= first[..]) {
                break;
            }
            if !self.overlay.contains_key(&key[..]) {
                stored = Some((key, value));
                break;
            }
            at = [&key[..], b"\0"].concat();
        }
        Ok(match (added, stored) {
            (Some((key, _)), Some(stored)) if stored.0[..] < key[..] => Some(stored),
            (Some((key, value)), _) => Some((key[..].into(), value.into())),
            (None, stored) => stored,
        })
    }
}
