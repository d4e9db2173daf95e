//! Going back to earlier versions, and taking names away.

use serde::{Deserialize, Serialize};

use super::handle::Store;
use super::publish::{Published, published};
use super::queries::{absent, not_served};
use super::versions::{Contents, check_conflicts, plan_version};
use crate::catalogue::tables::{NAMES, Name, VersionRecord};
use crate::catalogue::{Changes, Records};
use crate::error::{Error, Result};
use crate::history::Change;
use crate::payload::PayloadInfo;
use crate::types::{Key, Version};

/// What came of a removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The key whose names were taken away.
    pub key: Key,
    /// The versions whose names are gone.
    pub versions: Vec<Version>,
    /// The version that the plain name serves now, if any.
    pub now_serves: Option<Version>,
}

impl Store {
    /// Publishes the payload of an earlier version again: of `version`, or of
    /// the one before the version that the plain name serves. Rolling back
    /// twice goes back two versions.
    pub fn rollback(&self, key: &Key, version: Option<Version>) -> Result<(Published, Changes)> {
        let mut writer = self.writer()?;
        let view = writer.view();
        let target = match version {
            Some(version) => {
                view.version(key.as_str(), version)?
                    .ok_or_else(|| Error::NoVersion { key: key.clone(), version })?
                    .1
            }
            None => version_before_current(view, key)?,
        };
        check_conflicts(view, key)?;
        let payload = view.payload(&target.sha256)?;
        let is_here = |record| {
            let payload = PayloadInfo::new(&target.sha256, record);
            self.objects.reader().is_whole(writer.catalogue(), &payload)
        };
        if !payload.as_ref().map_or(Ok(false), is_here)? {
            return Err(Error::PayloadDamaged {
                sha256: target.sha256.hex(),
                reason: "its bytes are missing or damaged".into(),
            });
        }
        let contents = Contents {
            sha256: target.sha256,
            size: target.size,
            engine: target.engine,
            rollback_of: Some(target.rollback_of.unwrap_or(target.version)),
            source: target.source,
            producer: target.producer,
        };
        let (status, inode) = plan_version(&mut writer, key, contents, false)?;
        let published = published(writer.view(), key, inode, status)?;
        Ok((published, writer.commit()?))
    }

    /// Removes one version of a key, or all: takes their names away. The bytes stay
    /// for processes that use them, and numbers are not given again.
    pub fn remove(&self, key: &Key, version: Option<Version>) -> Result<(Removed, Changes)> {
        let mut writer = self.writer()?;
        let live = writer.view().live_versions(key.as_str())?;
        let versions = match version {
            None if live.is_empty() => return Err(absent(writer.view(), key)),
            None => live,
            Some(version) if live.contains(&version) => vec![version],
            Some(version) => {
                let key = key.clone();
                return Err(match writer.view().version(key.as_str(), version)? {
                    Some(_) => Error::VersionRemoved { key, version },
                    None => Error::NoVersion { key, version },
                });
            }
        };
        writer.add(Change::Remove { key: key.to_string(), version })?;
        let now_serves = writer
            .view()
            .get(&NAMES, Name::plain(key.as_str()))?
            .map(|inode| writer.view().version_at(inode).map(|v| v.version))
            .transpose()?;
        Ok((Removed { key: key.clone(), versions, now_serves }, writer.commit()?))
    }
}

/// The version to go back to from what the plain name serves.
fn version_before_current(records: &impl Records, key: &Key) -> Result<VersionRecord> {
    let name = key.as_str();
    let inode = records.get(&NAMES, Name::plain(name))?;
    let inode = inode.ok_or_else(|| not_served(records, key))?;
    let current = records.version_at(inode)?;
    let origin = current.rollback_of.unwrap_or(current.version);
    for number in records.live_versions(name)?.into_iter().rev().filter(|n| *n < origin) {
        if let Some((_, version)) = records.version(name, number)?
            && version.engine == current.engine
            && version.sha256 != current.sha256
        {
            return Ok(version);
        }
    }
    Err(Error::NoEarlierVersion(key.clone()))
}
