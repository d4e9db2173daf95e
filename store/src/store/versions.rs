//! Planning a new version of a key: its numbers, its directories, and where it comes from.

use serde::{Deserialize, Serialize};

use super::writer::Writer;
use crate::catalogue::Records;
use crate::catalogue::tables::{KEYS, NAMES, Name};
use crate::error::{Error, Result};
use crate::history::{Change, NewDirectory};
use crate::types::{EngineNumber, Inode, Key, Sha, Version, View};

/// Whether anything changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// There is a new version.
    Published,
    /// The bytes were the current version's already.
    Unchanged,
}

/// What a version has.
pub(crate) struct Contents {
    pub(crate) sha256: Sha,
    pub(crate) size: u64,
    pub(crate) engine: EngineNumber,
    pub(crate) rollback_of: Option<Version>,
    pub(crate) source: Option<Sha>,
    pub(crate) producer: Option<String>,
}

/// A key may not be a directory of another, nor the reverse.
pub(crate) fn check_conflicts(records: &impl Records, key: &Key) -> Result<()> {
    let conflict = |other: String| Err(Error::KeyConflict { key: key.clone(), other });
    for ancestor in key.ancestors() {
        if records.has_versions(ancestor)? {
            return conflict(ancestor.to_owned());
        }
    }
    match records.first(&NAMES.keys_below(key.as_str()))? {
        Some(row) => conflict(row.key()?.key),
        None => Ok(()),
    }
}

/// Plans a version of a key, unless its newest of that engine is the same.
pub(crate) fn plan_version(
    writer: &mut Writer<'_>,
    key: &Key,
    contents: Contents,
    make_default: bool,
) -> Result<(Status, Inode)> {
    let engine = contents.engine;
    let name = key.as_str();
    let record = writer.view().get(&KEYS, name)?;
    let engines_name = Name::in_view(View::Engine(engine), name);
    if let Some(inode) = writer.view().get(&NAMES, engines_name)? {
        let current = writer.view().version_at(inode)?;
        if current.sha256 == contents.sha256 {
            // The first publish may have known less of it.
            let source = contents.source.filter(|_| current.source.is_none());
            let producer = contents.producer.filter(|_| current.producer.is_none());
            plan_origin(writer, key, current.version, source, producer)?;
            if make_default && record.is_some_and(|r| r.default_engine != engine) {
                let keys = vec![name.to_owned()];
                writer.add(Change::Default { keys, engine })?;
            }
            return Ok((Status::Unchanged, inode));
        }
    }
    let view = writer.view();
    let mut next_inode = view.applied()?.next_inode;
    let mut directories = Vec::new();
    let mut number_directory = |of, path: &str| -> Result<()> {
        if view.directory(of, path)?.is_none() {
            directories.push(NewDirectory { view: of, path: path.to_owned(), inode: next_inode });
            next_inode = next_inode.next();
        }
        Ok(())
    };
    for ancestor in key.ancestors() {
        for view in [View::Keys, View::Engine(engine), View::Versions] {
            number_directory(view, ancestor)?;
        }
    }
    number_directory(View::Versions, name)?;
    let inode = next_inode;
    let version = record.map_or(Version(1), |r| r.last_version.next());
    writer.add(Change::Publish {
        key: name.to_owned(),
        version,
        inode,
        sha256: contents.sha256,
        engine,
        default: make_default,
        rollback_of: contents.rollback_of,
        directories,
    })?;
    debug_assert_eq!(writer.view().version_at(inode)?.size, contents.size);
    plan_origin(writer, key, version, contents.source, contents.producer)?;
    Ok((Status::Published, inode))
}

/// Notes where a version comes from, if anything is known of it.
fn plan_origin(
    writer: &mut Writer<'_>,
    key: &Key,
    version: Version,
    source: Option<Sha>,
    producer: Option<String>,
) -> Result<()> {
    if source.is_some() || producer.is_some() {
        writer.add(Change::Origin { key: key.to_string(), version, source, producer })?;
    }
    Ok(())
}
