//! A table: keys of one kind and values of one kind, and parts of it.

use std::marker::PhantomData;

use super::layout::{Composite, KeyLayout, Text, ValueLayout};
use crate::catalogue::database::Bytes;
use crate::error::{Error, Result};

/// A key as the database has it. Only a table makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RawKey(Vec<u8>);

impl RawKey {
    pub(in crate::catalogue) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::catalogue) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Keys of layout `K` and values of layout `V`. All tables share one map of the database, so that
/// a commit is one atomic batch; the tag, the first byte of a key, tells them apart.
pub(crate) struct Table<K, V> {
    tag: u8,
    layout: PhantomData<fn() -> (K, V)>,
}

impl<K: KeyLayout, V: ValueLayout> Table<K, V> {
    pub(super) const fn new(tag: u8) -> Table<K, V> {
        Table { tag, layout: PhantomData }
    }

    pub(super) const fn tag(&self) -> u8 {
        self.tag
    }

    /// The key of a row.
    pub(crate) fn key(&self, key: K::Ref<'_>) -> RawKey {
        let mut raw = vec![self.tag];
        K::write(key, &mut raw);
        RawKey(raw)
    }

    /// A row as it is written.
    pub(crate) fn entry(&self, key: K::Ref<'_>, value: V::Ref<'_>) -> Result<(RawKey, Vec<u8>)> {
        Ok((self.key(key), V::write(value)?))
    }

    /// Every row.
    pub(crate) fn all(&self) -> Span<K, V> {
        self.span(vec![self.tag])
    }

    pub(super) fn span(&self, prefix: Vec<u8>) -> Span<K, V> {
        Span { from: prefix.clone(), prefix, layout: PhantomData }
    }

    /// A row of this table, as anybody else got it from the database; `None` if it is another's.
    pub(crate) fn row(&self, key: &[u8], value: &[u8]) -> Option<Row<K, V>> {
        (key.first() == Some(&self.tag)).then(|| Row::new(key.into(), value.into()))
    }
}

impl<V: ValueLayout> Table<Text, V> {
    /// The rows whose key starts with `start`.
    pub(crate) fn starting_with_text(&self, start: &str) -> Span<Text, V> {
        let mut prefix = vec![self.tag];
        Text::write(start, &mut prefix);
        self.span(prefix)
    }
}

impl<K: Composite, V: ValueLayout> Table<K, V> {
    /// The rows whose key starts with `part`.
    pub(crate) fn of(&self, part: K::Part<'_>) -> Span<K, V> {
        let mut prefix = vec![self.tag];
        K::write_part(part, &mut prefix);
        self.span(prefix)
    }
}

/// Rows of a table that stand together: all that start alike, from one on.
pub(crate) struct Span<K, V> {
    prefix: Vec<u8>,
    from: Vec<u8>,
    layout: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Span<K, V> {
    fn clone(&self) -> Self {
        Span { prefix: self.prefix.clone(), from: self.from.clone(), layout: PhantomData }
    }
}

impl<K: KeyLayout, V: ValueLayout> Span<K, V> {
    /// The rows of this that come after the row with this key, whether that is there or not.
    pub(crate) fn after(mut self, key: K::Ref<'_>) -> Span<K, V> {
        self.from.truncate(1);
        K::write(key, &mut self.from);
        self.from.push(0);
        self
    }

    /// The rows of this whose key goes on with `rest`.
    pub(super) fn push(&mut self, rest: &[u8]) {
        self.prefix.extend_from_slice(rest);
        self.from.clone_from(&self.prefix);
    }

    /// The rows of this whose key is at least the common start and `rest`.
    pub(super) fn starting_at(mut self, rest: &[u8]) -> Span<K, V> {
        self.from.clone_from(&self.prefix);
        self.from.extend_from_slice(rest);
        self
    }

    /// What all keys start with.
    pub(in crate::catalogue) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The least key that is one of these, if it is there.
    pub(in crate::catalogue) fn from(&self) -> &[u8] {
        &self.from
    }

    /// Whether a key of the database is one of these.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix) && key >= &self.from[..]
    }

    /// A key of the database that comes before all of these, and after all that do.
    pub(crate) fn just_before(&self) -> Vec<u8> {
        self.prefix.clone()
    }
}

/// A row that was found. Its key and value are read when they are asked for.
pub(crate) struct Row<K, V> {
    key: Bytes,
    value: Bytes,
    layout: PhantomData<fn() -> (K, V)>,
}

impl<K: KeyLayout, V: ValueLayout> Row<K, V> {
    pub(in crate::catalogue) fn new(key: Bytes, value: Bytes) -> Row<K, V> {
        Row { key, value, layout: PhantomData }
    }

    pub(crate) fn key(&self) -> Result<K::Owned> {
        K::read(self.key.get(1..).unwrap_or_default())
            .ok_or_else(|| Error::Inconsistent("a key of the catalogue can't be read".into()))
    }

    /// The value.
    pub(crate) fn value(&self) -> Result<V::Owned> {
        V::read(&self.value)
    }

    /// The value as it was written.
    pub(crate) fn raw_value(&self) -> &[u8] {
        &self.value
    }

    pub(in crate::catalogue) fn raw_key(&self) -> &[u8] {
        &self.key
    }
}
