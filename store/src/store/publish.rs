//! Publishing.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::artifact::engine::printable;
use crate::catalogue::records::*;
use crate::catalogue::{Changes, Records, Txn};
use crate::error::{Error, IoContext, Result};
use crate::history::log::{Change, History, NewDirectory};
use crate::payload::staging::{PayloadOf, Staged, StagedSource, Upload};
use crate::store::engines::{described, find_engine, plan_engine};
use crate::store::open::{Planned, Store};
use crate::store::queries::{VersionInfo, version_info};
use crate::types::key::{Key, RESERVED};
use crate::types::sha::Sha;

/// Free space that a commit leaves, in bytes: a disk that fills up under sled poisons it.
pub(crate) const DISK_MARGIN: u64 = 8 << 20;

/// An artifact to publish.
#[derive(Debug)]
pub struct Publish {
    /// Under which name.
    pub key: Key,
    /// The upload.
    pub staged: Staged,
    /// Whether the plain name moves to the artifact's engine.
    pub make_default: bool,
    /// The engine it must be of: an alias, a label, or the start of a fingerprint.
    pub engine: Option<String>,
    /// The WebAssembly it was compiled from.
    pub source: Option<Source>,
    /// What compiled it.
    pub producer: Option<String>,
    /// The version of the key whose source it was compiled from. A newer version of
    /// another source, of this engine or behind the plain name, is not to be undone by it.
    pub recompiled_from: Option<u64>,
}

impl Publish {
    /// An artifact of which nothing else is known or asked.
    pub fn new(key: Key, staged: Staged) -> Publish {
        Publish {
            key,
            staged,
            make_default: false,
            engine: None,
            source: None,
            producer: None,
            recompiled_from: None,
        }
    }
}

/// The WebAssembly that an artifact was compiled from.
#[derive(Debug)]
pub enum Source {
    /// An upload.
    Staged(StagedSource),
    /// In the store already.
    Stored(Sha),
}

/// What came of a publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// `published`, or `unchanged` if this was the key's current version for its engine already.
    pub status: Status,
    /// The version that has the bytes now.
    #[serde(flatten)]
    pub version: VersionInfo,
    /// Where hosts of this engine find it, under the mount.
    pub path: String,
    /// The engine whose versions the plain name serves.
    pub default_engine: String,
    /// The version that the plain name serves, if that engine has one.
    pub plain_name_serves: Option<u64>,
}

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
    pub(crate) rollback_of: Option<u64>,
    pub(crate) source: Option<Sha>,
    pub(crate) producer: Option<String>,
}

/// Uploads that a commit keeps.
#[derive(Default)]
struct Uploads<'a> {
    inside: Vec<&'a Upload>,
    objects: Vec<&'a Upload>,
    seen: HashSet<Sha>,
}

impl Store {
    /// Publishes all of `requests` with one commit; those that are refused don't
    /// hold up the rest, unless they are to go in `together`: then all do, or none.
    /// Plain names that exist then move to an engine with one line of the history, after
    /// all versions: a crash leaves all of them moved, or none.
    /// When this returns, the published ones are durable.
    pub fn publish(
        &self,
        requests: Vec<Publish>,
        together: bool,
    ) -> Result<(Vec<Result<Published>>, Changes)> {
        let (mut writer, mut planned) = self.begin()?;
        let mut changes = Changes::default();
        let mut uploads = Uploads::default();
        let mut results = Vec::new();
        for request in &requests {
            results.push(self.plan_publish(
                request,
                request.make_default && !together,
                (&mut planned, &writer),
                &mut uploads,
                &mut changes,
            ));
        }
        if together && results.iter().any(Result::is_err) {
            let held_back = |result: Result<_>| Err(result.err().unwrap_or(Error::HeldBack));
            return Ok((results.into_iter().map(held_back).collect(), Changes::default()));
        }
        if together {
            changes.extend(plan_defaults(&mut planned, &writer, &requests, &results)?);
        }
        let Uploads { inside, objects, .. } = uploads;
        if !planned.is_empty() || !inside.is_empty() || !objects.is_empty() {
            let inside: u64 = inside.iter().map(|upload| upload.size).sum();
            self.check_free_space(2 * inside + planned.weight())?;
        }
        self.payloads.keep_as_objects(&objects)?;
        if !inside.is_empty() {
            self.payloads.keep_inline(planned.txn.base(), &inside)?;
        }
        self.commit(&mut writer, planned)?;
        let results = requests
            .iter()
            .zip(results)
            .map(|(request, planned)| {
                let (status, inode) = planned?;
                self.published(&request.key, inode, status)
            })
            .collect();
        Ok((results, changes))
    }

    fn plan_publish<'a>(
        &self,
        request: &'a Publish,
        make_default: bool,
        (planned, writer): (&mut Planned, &History),
        uploads: &mut Uploads<'a>,
        changes: &mut Changes,
    ) -> Result<(Status, u64)> {
        let Publish { key, staged, engine, source, producer, .. } = request;
        let artifact = &staged.artifact;
        if let Some(called) = engine {
            let number = find_engine(&planned.txn, called)?;
            artifact.check_engine(&described(&planned.txn, number)?, called)?;
        }
        check_conflicts(&planned.txn, key)?;
        // Whatever can be refused is refused before anything of it is planned.
        check_not_overtaken(&planned.txn, request)?;
        let source = match source {
            None => None,
            Some(Source::Stored(sha256)) => match planned.txn.payload(sha256)? {
                Some(_) => Some(*sha256),
                None => return Err(Error::NoPayload(*sha256)),
            },
            Some(Source::Staged(StagedSource { upload })) => {
                changes.extend(self.plan_payload(upload, (planned, writer), uploads)?);
                Some(upload.sha256)
            }
        };
        changes.extend(self.plan_payload(&staged.upload, (planned, writer), uploads)?);
        let engine = plan_engine(planned, writer, &artifact.engine, &artifact.section, changes)?;
        let contents = Contents {
            sha256: staged.upload.sha256,
            size: staged.upload.size,
            engine,
            rollback_of: None,
            source,
            producer: producer.as_deref().map(printable).filter(|text| !text.is_empty()),
        };
        plan_version((planned, writer), key, contents, make_default, changes)
    }

    /// Notes a payload that the store hasn't got yet, and what of `upload` is to be kept.
    fn plan_payload<'a>(
        &self,
        upload: &'a Upload,
        (planned, writer): (&mut Planned, &History),
        uploads: &mut Uploads<'a>,
    ) -> Result<Changes> {
        let Upload { sha256, size, kind, .. } = *upload;
        let known = planned.txn.payload(&sha256)?;
        let limit = self.settings().inline_limit;
        let inline = known.as_ref().map_or(limit.admits(size), |record| record.inline);
        let mut changes = Changes::default();
        if known.is_none() {
            self.raise_format()?;
            let record = PayloadRecord { size, kind, inline, large_blocks: false };
            changes = planned.add(writer, Change::payload(sha256, &record, &upload.blocks))?;
        }
        let here = |record| self.has_payload(&planned.txn, &PayloadOf::new(&sha256, record));
        if uploads.seen.insert(sha256) && !known.as_ref().map_or(Ok(false), here)? {
            if inline { uploads.inside.push(upload) } else { uploads.objects.push(upload) }
        }
        Ok(changes)
    }

    pub(crate) fn published(&self, key: &Key, inode: u64, status: Status) -> Result<Published> {
        let catalogue = self.catalogue()?;
        let version = version_info(&catalogue, inode)?;
        let record: KeyRecord =
            catalogue.record(&key_key(key.as_str()))?.ok_or_else(|| Error::NoKey(key.clone()))?;
        let default_engine = catalogue.engine(record.default_engine)?.label;
        let path = if version.served_by_plain_name {
            key.to_string()
        } else {
            format!("{RESERVED}/engines/{}/{key}", version.engine)
        };
        let plain_name_serves = catalogue
            .number(&name_key(View::Keys, key.as_str(), 0))?
            .map(|inode| catalogue.version_at(inode).map(|v| v.version))
            .transpose()?;
        Ok(Published { status, version, path, default_engine, plain_name_serves })
    }

    pub(crate) fn has_payload(&self, txn: &Txn, payload: &PayloadOf) -> Result<bool> {
        self.payloads.reader.is_whole(txn.base(), payload)
    }

    /// Refuses to start what a full disk would interrupt: so many bytes, and a margin.
    pub(crate) fn check_free_space(&self, bytes: u64) -> Result<()> {
        let available = available(self.dir()).at("asking for the free space of", self.dir())?;
        let needed = bytes.saturating_add(DISK_MARGIN);
        if available < needed {
            return Err(Error::DiskFull { dir: self.dir().to_owned(), needed, available });
        }
        Ok(())
    }
}

/// The space of a disk that ordinary users may have, in bytes.
pub(crate) fn available(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses what was compiled again if there is something newer that it would take the
/// place of, and that is not the same.
fn check_not_overtaken(txn: &Txn, request: &Publish) -> Result<()> {
    let Some(from) = request.recompiled_from else { return Ok(()) };
    let (key, upload) = (&request.key, &request.staged.upload);
    let source = request.source.as_ref().map(|source| match source {
        Source::Stored(sha256) => *sha256,
        Source::Staged(source) => source.upload.sha256,
    });
    let fingerprint = fingerprint_key(&request.staged.artifact.engine.fingerprint);
    let engine = txn.engine_number(&fingerprint)?.map(View::Engine);
    for view in [Some(View::Keys), engine].into_iter().flatten() {
        let Some(inode) = txn.number(&name_key(view, key.as_str(), 0))? else { continue };
        let there = txn.version_at(inode)?;
        let same =
            there.sha256 == upload.sha256 || (there.source.is_some() && there.source == source);
        if there.version > from && !same {
            let (key, version) = (key.clone(), there.version);
            return Err(Error::Overtaken { key, version, source_known: there.source.is_some() });
        }
    }
    Ok(())
}

/// A key may not be a directory of another, nor the reverse.
pub(crate) fn check_conflicts(txn: &Txn, key: &Key) -> Result<()> {
    let conflict = |other: String| Err(Error::KeyConflict { key: key.clone(), other });
    for ancestor in key.ancestors() {
        if txn.has_versions(ancestor)? {
            return conflict(ancestor.to_owned());
        }
    }
    let under = names_prefix(View::Versions, &format!("{key}/"));
    let first = names_prefix(View::Versions, &format!("{key}/\x01"));
    if let Some((name, _)) = txn.first_from(&under, &first)? {
        let start = under.len() - key.as_str().len() - 1;
        let other = String::from_utf8_lossy(&name[start..]).into_owned();
        return conflict(other.split("/\0").next().unwrap_or_default().to_owned());
    }
    Ok(())
}

pub(crate) fn plan_version(
    (planned, writer): (&mut Planned, &History),
    key: &Key,
    contents: Contents,
    make_default: bool,
    changes: &mut Changes,
) -> Result<(Status, u64)> {
    let engine = contents.engine;
    let name = key.as_str();
    let record: Option<KeyRecord> = planned.txn.record(&key_key(name))?;
    if let Some(inode) = planned.txn.number(&name_key(View::Engine(engine), name, 0))? {
        let current = planned.txn.version_at(inode)?;
        if current.sha256 == contents.sha256 {
            // Whoever published it first may have known less of it.
            let source = contents.source.filter(|_| current.source.is_none());
            let producer = contents.producer.filter(|_| current.producer.is_none());
            plan_origin((planned, writer), key, current.version, source, producer)?;
            if make_default && record.is_some_and(|r| r.default_engine != engine) {
                let keys = vec![name.to_owned()];
                changes.extend(planned.add(writer, Change::Default { keys, engine })?);
            }
            return Ok((Status::Unchanged, inode));
        }
    }
    let mut next_inode = planned.txn.applied()?.next_inode;
    let mut directories = Vec::new();
    let mut number_directory = |txn: &Txn, view, path: &str| -> Result<()> {
        if txn.number(&directory_key(view, path))?.is_none() {
            directories.push(NewDirectory { view, path: path.to_owned(), inode: next_inode });
            next_inode += 1;
        }
        Ok(())
    };
    for ancestor in key.ancestors() {
        for view in [View::Keys, View::Engine(engine), View::Versions] {
            number_directory(&planned.txn, view, ancestor)?;
        }
    }
    number_directory(&planned.txn, View::Versions, name)?;
    let inode = next_inode;
    let version = record.map_or(1, |r| r.last_version + 1);
    changes.extend(planned.add(
        writer,
        Change::Publish {
            key: name.to_owned(),
            version,
            inode,
            sha256: contents.sha256,
            engine,
            default: make_default,
            rollback_of: contents.rollback_of,
            directories,
        },
    )?);
    debug_assert_eq!(planned.txn.version_at(inode)?.size, contents.size);
    plan_origin((planned, writer), key, version, contents.source, contents.producer)?;
    Ok((Status::Published, inode))
}

/// Notes where a version comes from, if anything is known of it.
fn plan_origin(
    (planned, writer): (&mut Planned, &History),
    key: &Key,
    version: u64,
    source: Option<Sha>,
    producer: Option<String>,
) -> Result<()> {
    if source.is_some() || producer.is_some() {
        planned.add(writer, Change::Origin { key: key.to_string(), version, source, producer })?;
    }
    Ok(())
}

/// Moves the plain names of what was planned: with one change, if it is all of one engine, as
/// what one compiler made is.
fn plan_defaults(
    planned: &mut Planned,
    writer: &History,
    requests: &[Publish],
    results: &[Result<(Status, u64)>],
) -> Result<Changes> {
    let mut keys: BTreeMap<EngineNumber, Vec<String>> = BTreeMap::new();
    for (request, result) in requests.iter().zip(results).filter(|(r, _)| r.make_default) {
        if let Ok((_, inode)) = result {
            let version = planned.txn.version_at(*inode)?;
            let record: Option<KeyRecord> = planned.txn.record(&key_key(&version.key))?;
            if record.is_some_and(|record| record.default_engine != version.engine) {
                keys.entry(version.engine).or_default().push(request.key.to_string());
            }
        }
    }
    let mut changes = Changes::default();
    for (engine, keys) in keys {
        changes.extend(planned.add(writer, Change::Default { keys, engine })?);
    }
    Ok(changes)
}

/// Why a plain name leads nowhere.
pub(crate) fn not_served(records: &impl Records, key: &Key) -> Error {
    match records.has_versions(key.as_str()) {
        Ok(true) => Error::NotServed(key.clone()),
        Ok(false) => Error::NoKey(key.clone()),
        Err(e) => e,
    }
}
