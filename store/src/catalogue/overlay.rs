//! Changes that are decided but not yet in the catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::packed::Writes;
use super::{Catalogue, Records, encode};
use crate::error::Result;

/// Changes in one batch of sled, which writes to its file for each.
const CHANGES_PER_BATCH: usize = 64;

/// An overlay over the catalogue: reads see its writes, and [`Txn::apply`]
/// hands them over, once the history has them on disk.
pub(crate) struct Txn {
    base: Arc<Catalogue>,
    overlay: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    open: Writes,
    /// Whole changes in `open`.
    changes: usize,
    /// Keys and values, in bytes.
    size: u64,
    batches: Vec<Writes>,
}

impl Txn {
    pub(crate) fn new(base: &Arc<Catalogue>) -> Self {
        Txn {
            base: base.clone(),
            overlay: BTreeMap::new(),
            open: Writes::new(),
            changes: 0,
            size: 0,
            batches: Vec::new(),
        }
    }

    pub(crate) fn set<T: Serialize>(&mut self, key: Vec<u8>, record: &T) -> Result<()> {
        self.write(key, Some(encode(record)?));
        Ok(())
    }

    pub(crate) fn set_number(&mut self, key: Vec<u8>, number: u64) {
        self.write(key, Some(number.to_be_bytes().to_vec()));
    }

    pub(crate) fn set_bytes(&mut self, key: Vec<u8>, bytes: Vec<u8>) {
        self.write(key, Some(bytes));
    }

    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.write(key, None);
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.size += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
        self.open.insert(key.clone(), value.clone());
        self.overlay.insert(key, value);
    }

    /// How much is written to sled, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Ends one change, or one key of a change of many: what was written since the last end
    /// is atomic.
    pub(crate) fn end_change(&mut self) {
        self.changes += 1;
        if self.changes == CHANGES_PER_BATCH {
            self.end_batch();
        }
    }

    fn end_batch(&mut self) {
        self.batches.push(std::mem::take(&mut self.open));
        self.changes = 0;
    }

    /// The catalogue under it.
    pub(crate) fn base(&self) -> &Arc<Catalogue> {
        &self.base
    }

    /// Hands what was written to sled, in order; what is atomic is whole in one batch. When
    /// this returns, it is in sled's file, so that nothing is left that a disk which fills up
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

impl Records for Txn {
    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>> {
        match self.overlay.get(key) {
            Some(value) => Ok(value.as_deref().map(sled::IVec::from)),
            None => self.base.get(key),
        }
    }

    fn note_damage(&self) {
        self.base.note_damage();
    }

    fn first_from(&self, prefix: &[u8], from: &[u8]) -> Result<Option<(sled::IVec, sled::IVec)>> {
        let added = self
            .overlay
            .range(from.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .find_map(|(key, value)| Some((key, value.as_deref()?)));
        let mut stored = None;
        let mut at = from.to_vec();
        while let Some((key, value)) = self.base.first_from(prefix, &at)? {
            // Beyond what was added nothing stored is first: a commit of many names in one
            // directory would look at all of them for each.
            if added.is_some_and(|(first, _)| key.as_ref() >= &first[..]) {
                break;
            }
            if !self.overlay.contains_key(key.as_ref()) {
                stored = Some((key, value));
                break;
            }
            at = [&key[..], b"\0"].concat();
        }
        Ok(match (added, stored) {
            (Some((key, _)), Some(stored)) if stored.0.as_ref() < key.as_slice() => Some(stored),
            (Some((key, value)), _) => Some((key.as_slice().into(), value.into())),
            (None, stored) => stored,
        })
    }
}
