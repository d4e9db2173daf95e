//! Reading rows, of the catalogue itself or of changes over it that are not in it yet.

use std::sync::Arc;

use super::database::{Bytes, Pair};
use super::tables::{
    ALIASES, APPLIED, AliasRecord, Applied, AppliedLayout, DIRECTORIES, ENGINES, EngineRecord,
    INODES, InodeRecord, KeyLayout, NAMES, PAYLOADS, PayloadRecord, RawKey, Row, Span, Table,
    USERS, VERSIONS, ValueLayout, VersionRecord,
};
use crate::error::{Error, Result};
use crate::types::{EngineNumber, Inode, Sha, Version, View};

/// Where rows are read from.
pub(crate) trait Records {
    /// The value of a row, as it was written.
    fn raw(&self, key: &RawKey) -> Result<Option<Bytes>>;

    /// The first entry whose key is at least `from` and starts with `prefix`.
    fn first_raw(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Pair>>;

    /// Notes that a row can't be what was written.
    fn note_damage(&self);

    /// The value of a row.
    fn get<K: KeyLayout, V: ValueLayout>(
        &self,
        table: &Table<K, V>,
        key: K::Ref<'_>,
    ) -> Result<Option<V::Owned>> {
        let value = self.raw(&table.key(key))?;
        value.map(|value| V::read(&value)).transpose().inspect_err(|_| self.note_damage())
    }

    /// The first row of some.
    fn first<K: KeyLayout, V: ValueLayout>(&self, span: &Span<K, V>) -> Result<Option<Row<K, V>>> {
        let found = self.first_raw(span.prefix(), span.from())?;
        Ok(found.map(|(key, value)| Row::new(key, value)))
    }

    /// Whether there is any row of some.
    fn any<K: KeyLayout, V: ValueLayout>(&self, span: &Span<K, V>) -> Result<bool> {
        Ok(self.first(span)?.is_some())
    }

    /// Hands every row of some to `each`, in order.
    fn for_each<K: KeyLayout, V: ValueLayout>(
        &self,
        span: &Span<K, V>,
        mut each: impl FnMut(Row<K, V>) -> Result<()>,
    ) -> Result<()>
    where
        Self: Sized,
    {
        let mut from = span.from().to_vec();
        while let Some((key, value)) = self.first_raw(span.prefix(), &from)? {
            from.clear();
            from.extend_from_slice(&key);
            from.push(0);
            each(Row::new(key, value))?;
        }
        Ok(())
    }

    /// How much of the history is in here, and the numbers to give next.
    fn applied(&self) -> Result<Applied> {
        // A catalogue of another layout is not damaged.
        let Some(value) = self.raw(&APPLIED.key(()))? else { return Ok(Applied::NOTHING) };
        let read = AppliedLayout::read(&value);
        if read.is_err() && AppliedLayout::is_todays(&value) {
            self.note_damage();
        }
        read
    }

    fn inode(&self, inode: Inode) -> Result<Option<InodeRecord>> {
        self.get(&INODES, inode)
    }

    /// The version with this inode number, which must exist.
    fn version_at(&self, inode: Inode) -> Result<VersionRecord> {
        match self.inode(inode)? {
            Some(InodeRecord::Version(version)) => Ok(version),
            _ => Err(Error::Inconsistent(format!("inode {inode} belongs to no version"))),
        }
    }

    /// A version by key and number, removed ones included, with its inode number.
    fn version(&self, key: &str, version: Version) -> Result<Option<(Inode, VersionRecord)>> {
        self.get(&VERSIONS, (key, version))?
            .map(|inode| Ok((inode, self.version_at(inode)?)))
            .transpose()
    }

    fn engine(&self, number: EngineNumber) -> Result<EngineRecord> {
        self.get(&ENGINES, number)?
            .ok_or_else(|| Error::Inconsistent(format!("engine {number} is missing")))
    }

    fn alias(&self, name: &str) -> Result<Option<AliasRecord>> {
        self.get(&ALIASES, name)
    }

    /// Every alias by its name.
    fn aliases(&self) -> Result<Vec<(String, AliasRecord)>>
    where
        Self: Sized,
    {
        let mut aliases = Vec::new();
        self.for_each(&ALIASES.all(), |row| {
            aliases.push((row.key()?, row.value()?));
            Ok(())
        })?;
        Ok(aliases)
    }

    /// The inode number of a directory of a view, whether it shows or not.
    fn directory(&self, view: View, path: &str) -> Result<Option<Inode>> {
        self.get(&DIRECTORIES, (view, path))
    }

    /// The same of one that must exist.
    fn existing_directory(&self, view: View, path: &str) -> Result<Inode> {
        self.directory(view, path)?
            .ok_or_else(|| Error::Inconsistent(format!("directory {path:?} has no inode number")))
    }

    /// The inode number of a directory that shows, that is, with a live name under it. The roots of
    /// the views of keys and versions always show, that of an engine while it has an alias.
    fn live_directory(&self, view: View, path: &str) -> Result<Option<Inode>>
    where
        Self: Sized,
    {
        let shows = self.any(&NAMES.below(view, path))?
            || path.is_empty()
                && match view {
                    View::Keys | View::Versions => true,
                    // An environment's directory is there before anything is published for it.
                    View::Engine(number) => {
                        self.aliases()?.iter().any(|(_, alias)| alias.engine == number)
                    }
                };
        if shows { self.directory(view, path) } else { Ok(None) }
    }

    /// Whether a key has a version that was not removed.
    fn has_versions(&self, key: &str) -> Result<bool> {
        self.any(&NAMES.numbers(key))
    }

    /// The numbers of a key's versions that were not removed, oldest first.
    fn live_versions(&self, key: &str) -> Result<Vec<Version>>
    where
        Self: Sized,
    {
        let mut numbers = Vec::new();
        self.for_each(&NAMES.numbers(key), |row| {
            numbers.extend(row.key()?.version);
            Ok(())
        })?;
        Ok(numbers)
    }

    fn payload(&self, sha256: &Sha) -> Result<Option<PayloadRecord>> {
        self.get(&PAYLOADS, sha256)
    }

    /// The versions that are, or were compiled from, a payload.
    fn users(&self, sha256: &Sha) -> Result<Vec<Inode>>
    where
        Self: Sized,
    {
        let mut users = Vec::new();
        self.for_each(&USERS.of(sha256), |row| {
            users.push(row.key()?.1);
            Ok(())
        })?;
        Ok(users)
    }
}

impl<R: Records> Records for Arc<R> {
    fn raw(&self, key: &RawKey) -> Result<Option<Bytes>> {
        (**self).raw(key)
    }

    fn first_raw(&self, prefix: &[u8], from: &[u8]) -> Result<Option<Pair>> {
        (**self).first_raw(prefix, from)
    }

    fn note_damage(&self) {
        (**self).note_damage();
    }
}
