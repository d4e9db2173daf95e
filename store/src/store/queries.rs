//! What a store tells its users about keys and versions.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::handle::Store;
use crate::artifact::{ArtifactKind, Compiler};
use crate::catalogue::tables::{INODES, InodeRecord, KEYS, NAMES, Name, VERSIONS};
use crate::catalogue::{Catalogue, PendingInvalidations, Records};
use crate::error::{Error, Result};
use crate::types::{EngineNumber, Inode, Key, Sequence, Sha, Version, View};

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The name that it was published under.
    pub key: Key,
    /// Its number, from 1 for each key.
    pub version: Version,
    /// Its inode number in every mount of the store, for ever.
    pub inode: Inode,
    /// The payload's sha256.
    pub sha256: Sha,
    /// The payload's size in bytes.
    pub size: u64,
    /// Module or component.
    pub kind: ArtifactKind,
    /// The label of the engine that compiled it.
    pub engine: String,
    /// That engine's fingerprint.
    pub fingerprint: Sha,
    /// That engine's wasmtime version, as the artifact gives it.
    pub wasmtime: String,
    /// That engine's target.
    pub target: String,
    /// That engine's compiler.
    pub compiler: Compiler,
    /// Whether it is Pulley bytecode.
    pub pulley: bool,
    /// When it was published: RFC 3339, UTC.
    pub published: String,
    /// The version whose payload a rollback brought back.
    pub rollback_of: Option<Version>,
    /// The payload that is the WebAssembly it was compiled from, if that was kept.
    pub source: Option<Sha>,
    /// What compiled it, if that is known.
    pub producer: Option<String>,
    /// Whether it is the newest of its engine.
    pub current: bool,
    /// Whether the plain name leads to it.
    pub served_by_plain_name: bool,
    /// Whether its names were taken away.
    pub removed: bool,
    /// Whether it is protected from collection.
    #[serde(default)]
    pub pinned: bool,
}

/// A key with at least one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its name, as hosts open it under the mount.
    pub key: Key,
    /// The label of the engine that the plain name serves.
    pub default_engine: String,
    /// What the plain name leads to; nothing if only other engines have versions left.
    pub serves: Option<VersionInfo>,
    /// The newest version of every engine that has one.
    pub engines: Vec<VersionInfo>,
    /// How many versions there are that were not removed.
    pub versions: usize,
}

/// Part of a long answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T, C> {
    /// What comes next in order; there may be none before the end.
    pub items: Vec<T>,
    /// Where the next page begins; nothing at the end.
    pub next: Option<C>,
}

/// The most items of a page.
pub const MAX_PAGE: usize = 1000;
/// How many rows are looked at for one page.
const PAGE_ROWS: usize = 10 * MAX_PAGE;

/// Nanoseconds since 1970 as RFC 3339 text, UTC, to the second.
#[must_use]
pub fn rfc3339(nanoseconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(nanoseconds)).to_string()
}

/// What is told of a version, which must exist.
pub(crate) fn version_info(records: &impl Records, inode: Inode) -> Result<VersionInfo> {
    let record = records.version_at(inode)?;
    let engine = records.engine(record.engine)?;
    let leads_here = |view| -> Result<bool> {
        Ok(records.get(&NAMES, Name::in_view(view, &record.key))? == Some(inode))
    };
    Ok(VersionInfo {
        version: record.version,
        inode,
        sha256: record.sha256,
        size: record.size,
        kind: records.payload(&record.sha256)?.map_or(ArtifactKind::Module, |p| p.kind),
        engine: engine.label,
        fingerprint: engine.description.fingerprint,
        wasmtime: engine.description.wasmtime,
        target: engine.description.target,
        compiler: engine.description.compiler,
        pulley: engine.description.pulley,
        published: rfc3339(record.published),
        rollback_of: record.rollback_of,
        current: leads_here(View::Engine(record.engine))?,
        served_by_plain_name: leads_here(View::Keys)?,
        removed: record.removed.is_some(),
        pinned: record.pinned,
        source: record.source,
        producer: record.producer,
        key: Key::new(record.key)?,
    })
}

/// The same, unless it was collected since it was found.
fn if_there(catalogue: &Catalogue, inode: Inode) -> Result<Option<VersionInfo>> {
    match catalogue.inode(inode)? {
        Some(_) => version_info(catalogue, inode).map(Some).or_else(|e| {
            // In this very moment.
            if catalogue.inode(inode)?.is_none() { Ok(None) } else { Err(e) }
        }),
        None => Ok(None),
    }
}

/// What is told of a key; nothing if it has no version left.
fn key_info(
    catalogue: &Catalogue,
    key: &Key,
    default_engine: EngineNumber,
) -> Result<Option<KeyInfo>> {
    let mut found: Option<KeyInfo> = None;
    for row in catalogue.scan(&NAMES.numbers(key.as_str())) {
        let Some(version) = if_there(catalogue, row?.value()?)? else { continue };
        let info = match &mut found {
            Some(info) => info,
            none => none.insert(KeyInfo {
                key: key.clone(),
                default_engine: catalogue.engine(default_engine)?.label,
                serves: None,
                engines: Vec::new(),
                versions: 0,
            }),
        };
        info.versions += 1;
        if version.served_by_plain_name {
            info.serves = Some(version.clone());
        }
        if version.current {
            info.engines.push(version);
        }
    }
    Ok(found)
}

/// Why a plain name leads nowhere.
pub(crate) fn not_served(records: &impl Records, key: &Key) -> Error {
    match records.has_versions(key.as_str()) {
        Ok(true) => Error::NotServed(key.clone()),
        Ok(false) => absent(records, key),
        Err(e) => e,
    }
}

/// Why a key has no version.
pub(crate) fn absent(records: &impl Records, key: &Key) -> Error {
    match records.get(&KEYS, key.as_str()) {
        Ok(Some(_)) => Error::KeyRemoved(key.clone()),
        Ok(None) => Error::NoKey(key.clone()),
        Err(e) => e,
    }
}

impl Store {
    /// Every version of a key, oldest first, removed ones included.
    pub fn versions(&self, key: &Key) -> Result<Vec<VersionInfo>> {
        let mut versions = Vec::new();
        let mut before = None;
        loop {
            let page = self.versions_page(key, before, MAX_PAGE)?;
            versions.extend(page.items);
            before = page.next;
            if before.is_none() {
                versions.reverse();
                return Ok(versions);
            }
        }
    }

    /// Some versions of a key, newest first, from the one before `before` on, removed ones
    /// included. `limit` is at most [`MAX_PAGE`].
    pub fn versions_page(
        &self,
        key: &Key,
        before: Option<Version>,
        limit: usize,
    ) -> Result<Page<VersionInfo, Version>> {
        let catalogue = self.catalogue()?;
        let all = VERSIONS.of(key.as_str());
        let (Some(record), true) = (catalogue.get(&KEYS, key.as_str())?, catalogue.any(&all)?)
        else {
            return Err(Error::NoKey(key.clone()));
        };
        let last = record.last_version.next();
        let mut end = before.map_or(last, |before| before.min(last)).get();
        let limit = limit.clamp(1, MAX_PAGE);
        let mut window = limit as u64;
        loop {
            let start = end.saturating_sub(window).max(1);
            let mut rows = VecDeque::new();
            for row in
                catalogue.scan(&VERSIONS.of(key.as_str()).after((key.as_str(), Version(start - 1))))
            {
                let row = row?;
                let number = row.key()?.1;
                if number.get() >= end {
                    break;
                }
                rows.push_back((number, row.value()?));
                if rows.len() > limit {
                    rows.pop_front();
                }
            }
            if let (None, true) = (rows.front(), start > 1) {
                // Many were collected: the next ones may be far down.
                (end, window) = (start, window.saturating_mul(2));
                continue;
            }
            let first = rows.front().map(|(number, _)| *number);
            let mut items = Vec::new();
            for (_, inode) in rows.into_iter().rev() {
                items.extend(if_there(&catalogue, inode)?);
            }
            return Ok(Page { items, next: first.filter(|first| first.get() > 1) });
        }
    }

    /// One version of a key, or the one its plain name leads to.
    pub fn version(&self, key: &Key, version: Option<Version>) -> Result<VersionInfo> {
        let catalogue = self.catalogue()?;
        let inode = match version {
            Some(version) => catalogue
                .get(&VERSIONS, (key.as_str(), version))?
                .ok_or_else(|| Error::NoVersion { key: key.clone(), version })?,
            None => catalogue
                .get(&NAMES, Name::plain(key.as_str()))?
                .ok_or_else(|| not_served(&*catalogue, key))?,
        };
        version_info(&*catalogue, inode)
    }

    /// The last `limit` versions published in the whole store, newest first; at most [`MAX_PAGE`].
    pub fn latest(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        let catalogue = self.catalogue()?;
        let mut versions = Vec::new();
        for row in catalogue.scan_backwards(&INODES.all())? {
            let row = row?;
            if versions.len() >= limit.min(MAX_PAGE) {
                break;
            }
            if let InodeRecord::Version(_) = row.value()? {
                versions.extend(if_there(&catalogue, row.key()?)?);
            }
        }
        Ok(versions)
    }

    /// Every key with at least one version whose name starts with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let page = self.keys_page(prefix, after.as_ref(), MAX_PAGE)?;
            keys.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(keys);
            }
        }
    }

    /// Some keys with at least one version whose names start with `prefix`, in order, after the
    /// key `after`. `limit` is at most [`MAX_PAGE`].
    pub fn keys_page(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page<KeyInfo, Key>> {
        let limit = limit.clamp(1, MAX_PAGE);
        let catalogue = self.catalogue()?;
        let mut span = KEYS.starting_with_text(prefix);
        if let Some(after) = after {
            span = span.after(after.as_str());
        }
        let mut items = Vec::new();
        for (count, row) in (1..).zip(catalogue.scan(&span)) {
            let row = row?;
            let key = Key::new(row.key()?)?;
            let record = row.value()?;
            items.extend(key_info(&catalogue, &key, record.default_engine)?);
            // Keys without a version are passed over, but not without end.
            if items.len() >= limit || count >= PAGE_ROWS {
                return Ok(Page { items, next: Some(key) });
            }
        }
        Ok(Page { items, next: None })
    }

    /// What is told of one key.
    pub fn key(&self, key: &Key) -> Result<KeyInfo> {
        let catalogue = self.catalogue()?;
        let record = catalogue.get(&KEYS, key.as_str())?;
        let info = record.map(|record| key_info(&catalogue, key, record.default_engine));
        info.transpose()?.flatten().ok_or_else(|| absent(&*catalogue, key))
    }

    /// The names that changes after number `told` may have affected.
    pub fn pending_invalidations(&self, told: Sequence) -> Result<PendingInvalidations> {
        let entries = self.lock_history().entries_after(told)?;
        let catalogue = self.catalogue()?;
        let mut pending = PendingInvalidations::default();
        for entry in &entries {
            pending.add(&catalogue, entry)?;
        }
        Ok(pending)
    }
}
