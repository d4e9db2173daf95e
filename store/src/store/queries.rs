//! What a store tells its users about keys and versions.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::handle::Store;
use crate::artifact::{ArtifactKind, Compiler};
use crate::catalogue::tables::{INODES, InodeRecord, KEYS, NAMES, Name, VERSIONS};
use crate::catalogue::{Catalogue, PendingInvalidations, Records};
use crate::error::{Error, Result};
use crate::types::{Inode, Key, Sequence, Sha, Version, View};

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The key.
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
    /// The key.
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

/// Why a plain name leads nowhere.
pub(crate) fn not_served(records: &impl Records, key: &Key) -> Error {
    match records.has_versions(key.as_str()) {
        Ok(true) => Error::NotServed(key.clone()),
        Ok(false) => Error::NoKey(key.clone()),
        Err(e) => e,
    }
}

impl Store {
    /// Every version of a key, oldest first, removed ones included.
    pub fn versions(&self, key: &Key) -> Result<Vec<VersionInfo>> {
        let catalogue = self.catalogue()?;
        let mut versions = Vec::new();
        for row in catalogue.scan(&VERSIONS.of(key.as_str())) {
            versions.extend(if_there(&catalogue, row?.value()?)?);
        }
        if versions.is_empty() { Err(Error::NoKey(key.clone())) } else { Ok(versions) }
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

    /// The last `limit` versions published in the whole store, newest first.
    pub fn latest(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        let catalogue = self.catalogue()?;
        let mut versions = Vec::new();
        for row in catalogue.scan_backwards(&INODES.all())? {
            let row = row?;
            if versions.len() == limit {
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
        let catalogue = self.catalogue()?;
        let mut keys: Vec<KeyInfo> = Vec::new();
        for row in catalogue.scan(&NAMES.starting_with(View::Versions, prefix)) {
            let row = row?;
            let Some(info) = if_there(&catalogue, row.value()?)? else { continue };
            if keys.last().is_none_or(|last| last.key != info.key) {
                let record = catalogue
                    .get(&KEYS, info.key.as_str())?
                    .ok_or_else(|| Error::NoKey(info.key.clone()))?;
                keys.push(KeyInfo {
                    key: info.key.clone(),
                    default_engine: catalogue.engine(record.default_engine)?.label,
                    serves: None,
                    engines: Vec::new(),
                    versions: 0,
                });
            }
            let Some(key) = keys.last_mut() else { continue };
            key.versions += 1;
            if info.served_by_plain_name {
                key.serves = Some(info.clone());
            }
            if info.current {
                key.engines.push(info);
            }
        }
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(keys)
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
