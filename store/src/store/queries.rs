//! What a store tells its users about keys and versions.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::artifact::engine::Compiler;
use crate::artifact::inspect::ArtifactKind;
use crate::catalogue::records::*;
use crate::catalogue::{Catalogue, Records};
use crate::error::{Error, Result};
use crate::store::open::Store;
use crate::store::publish::not_served;
use crate::types::key::Key;
use crate::types::sha::Sha;

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The key.
    pub key: Key,
    /// Its number, from 1 for each key.
    pub version: u64,
    /// Its inode number in every mount of the store, for ever.
    pub inode: u64,
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
    pub rollback_of: Option<u64>,
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
    /// How many versions there are.
    pub versions: usize,
}

/// Nanoseconds since 1970 as RFC 3339 text, UTC, to the second.
pub fn rfc3339(nanoseconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(nanoseconds)).to_string()
}

pub(crate) fn version_info(catalogue: &Catalogue, inode: u64) -> Result<VersionInfo> {
    let record = catalogue.version_at(inode)?;
    let engine = catalogue.engine(record.engine)?;
    let leads_here = |view| -> Result<bool> {
        Ok(catalogue.number(&name_key(view, &record.key, 0))? == Some(inode))
    };
    Ok(VersionInfo {
        version: record.version,
        inode,
        sha256: record.sha256,
        size: record.size,
        kind: catalogue.payload(&record.sha256)?.map_or(ArtifactKind::Module, |p| p.kind),
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
fn if_there(catalogue: &Catalogue, inode: u64) -> Result<Option<VersionInfo>> {
    match catalogue.inode(inode)? {
        Some(_) => version_info(catalogue, inode).map(Some).or_else(|e| {
            // In this very moment.
            if catalogue.inode(inode)?.is_none() { Ok(None) } else { Err(e) }
        }),
        None => Ok(None),
    }
}

impl Store {
    /// Every version of a key, oldest first, removed ones included.
    pub fn versions(&self, key: &Key) -> Result<Vec<VersionInfo>> {
        let catalogue = self.catalogue()?;
        let mut versions = Vec::new();
        for entry in catalogue.scan(&versions_prefix(key.as_str())) {
            versions.extend(if_there(&catalogue, crate::catalogue::be_u64(&entry?.1)?)?);
        }
        if versions.is_empty() { Err(Error::NoKey(key.clone())) } else { Ok(versions) }
    }

    /// One version of a key, or the one its plain name leads to.
    pub fn version(&self, key: &Key, version: Option<u64>) -> Result<VersionInfo> {
        let catalogue = self.catalogue()?;
        let inode = match version {
            Some(version) => catalogue
                .number(&version_key(key.as_str(), version))?
                .ok_or_else(|| Error::NoVersion { key: key.clone(), version })?,
            None => catalogue
                .number(&name_key(View::Keys, key.as_str(), 0))?
                .ok_or_else(|| not_served(&catalogue, key))?,
        };
        version_info(&catalogue, inode)
    }

    /// The last `limit` versions published in the whole store, newest first.
    pub fn latest(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        let catalogue = self.catalogue()?;
        let mut versions = Vec::new();
        for entry in catalogue.scan_backwards(b"i")? {
            let (key, value) = entry?;
            if versions.len() == limit {
                break;
            }
            if let InodeRecord::Version(_) = crate::catalogue::decode(&value)? {
                versions.extend(if_there(&catalogue, crate::catalogue::be_u64(&key[1..])?)?);
            }
        }
        Ok(versions)
    }

    /// Every key with at least one version whose name starts with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Result<Vec<KeyInfo>> {
        let catalogue = self.catalogue()?;
        let mut keys: Vec<KeyInfo> = Vec::new();
        let start = names_prefix(View::Versions, prefix);
        let base = start.len() - prefix.len();
        for entry in catalogue.scan(&start) {
            let (name, inode) = entry?;
            let name = &name[base..];
            let name = name.get(..name.len().saturating_sub(10)).unwrap_or_default();
            let info = if_there(&catalogue, crate::catalogue::be_u64(&inode)?)?;
            let Some(info) = info else { continue };
            if keys.last().is_none_or(|last| last.key.as_str().as_bytes() != name) {
                let record: KeyRecord = catalogue
                    .record(&key_key(info.key.as_str()))?
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
}
