//! Publishing.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::engines::{check_engine, described, find_engine, plan_engine};
use super::handle::Store;
use super::queries::{VersionInfo, version_info};
use super::versions::{Contents, Status, check_conflicts, plan_version};
use super::writer::Writer;
use crate::artifact::printable;
use crate::catalogue::tables::{FINGERPRINTS, KEYS, NAMES, Name, PayloadRecord};
use crate::catalogue::{Changes, Records};
use crate::disk::space::check_free_space;
use crate::error::{Error, Result};
use crate::history::Change;
use crate::payload::{PayloadInfo, Staged, StagedPayload, StagedSource};
use crate::types::{EngineNumber, Inode, Key, RESERVED, Sha, Version, View};

/// An artifact to publish. It is the same from the command that staged it to the commit.
#[derive(Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Under which name.
    pub key: Key,
    /// The artifact.
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
    pub recompiled_from: Option<Version>,
}

impl Publish {
    /// An artifact of which nothing else is known or asked.
    #[must_use]
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

    /// The bytes that are staged in memory. In a request they come after all that is known of
    /// them, in this order.
    pub fn bytes_in_memory(&self) -> impl Iterator<Item = &[u8]> {
        let source = match &self.source {
            Some(Source::Staged(source)) => Some(&source.payload),
            _ => None,
        };
        let payloads = std::iter::once(&self.staged.payload).chain(source);
        payloads.filter_map(StagedPayload::in_memory)
    }

    /// What it takes in JSON, in bytes, about: hashes and engine in base64, and the rest.
    #[must_use]
    pub fn json_size(&self) -> usize {
        let source = match &self.source {
            Some(Source::Staged(source)) => source.payload.blocks.len(),
            _ => 0,
        };
        let encoded =
            self.staged.payload.blocks.len() + self.staged.artifact.section.len() + source;
        encoded * 4 / 3 + 1024
    }

    /// Reads these bytes on the other side, and checks what was told of what is staged.
    pub fn complete(&mut self, from: &mut dyn Read) -> Result<()> {
        self.staged.complete(from)?;
        match &mut self.source {
            Some(Source::Staged(source)) => source.complete(from),
            _ => Ok(()),
        }
    }
}

/// The WebAssembly that an artifact was compiled from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Staged as well.
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
    pub plain_name_serves: Option<Version>,
}

/// What comes of each request; and what is to be committed, if anything, with the payloads
/// that become object files before.
type PlannedBatch<'a> = (Vec<Result<Published>>, Option<(Writer<'a>, Vec<&'a StagedPayload>)>);

/// Staged payloads that a commit keeps.
#[derive(Default)]
struct Kept<'a> {
    inside: Vec<&'a StagedPayload>,
    objects: Vec<&'a StagedPayload>,
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
        let (published, planned) = match self.plan_all(&requests, together) {
            // The database tells of a write that failed in the background with whatever it is
            // asked next: by now the disk may have room again, and nothing was done yet.
            Err(_) if self.catalogue_has_failed() => self.plan_all(&requests, together)?,
            planned => planned?,
        };
        let Some((writer, objects)) = planned else { return Ok((published, Changes::default())) };
        self.objects.keep(&objects, &self.staging)?;
        Ok((published, writer.commit()?))
    }

    /// Plans all of `requests`, and makes those payloads durable that the catalogue keeps.
    fn plan_all<'a>(&'a self, requests: &'a [Publish], together: bool) -> Result<PlannedBatch<'a>> {
        let mut writer = self.writer()?;
        let mut kept = Kept::default();
        let mut results = Vec::new();
        for request in requests {
            let make_default = request.make_default && !together;
            results.push(self.plan_publish(&mut writer, request, make_default, &mut kept));
        }
        self.check_catalogue(&mut results)?;
        if together && results.iter().any(Result::is_err) {
            let held_back = |result: Result<_>| Err(result.err().unwrap_or(Error::HeldBack));
            return Ok((results.into_iter().map(held_back).collect(), None));
        }
        if together {
            plan_defaults(&mut writer, requests, &results)?;
        }
        let published = requests.iter().zip(results).map(|(request, planned)| {
            let (status, inode) = planned?;
            published(writer.view(), &request.key, inode, status)
        });
        let mut published = published.collect();
        self.check_catalogue(&mut published)?;
        let Kept { inside, objects, .. } = kept;
        if !writer.is_empty() || !inside.is_empty() || !objects.is_empty() {
            let inside: u64 = inside.iter().map(|payload| payload.size).sum();
            check_free_space(self.open_dir(), 2 * inside + writer.weight())?;
        }
        if !inside.is_empty() {
            self.staging.keep_inline(writer.catalogue(), &inside)?;
        }
        Ok((published, Some((writer, objects))))
    }

    /// What went wrong, if it was the catalogue that failed rather than a request.
    fn check_catalogue<T>(&self, results: &mut Vec<Result<T>>) -> Result<()> {
        let failed = results.iter().position(Result::is_err);
        match failed.filter(|_| self.catalogue_has_failed()) {
            Some(at) => results.swap_remove(at).map(drop),
            None => Ok(()),
        }
    }

    fn plan_publish<'a>(
        &self,
        writer: &mut Writer<'_>,
        request: &'a Publish,
        make_default: bool,
        kept: &mut Kept<'a>,
    ) -> Result<(Status, Inode)> {
        let Publish { key, staged, engine, source, producer, .. } = request;
        let artifact = &staged.artifact;
        if let Some(called) = engine {
            let number = find_engine(writer.view(), called)?;
            check_engine(artifact, &described(writer.view(), number)?, called)?;
        }
        check_conflicts(writer.view(), key)?;
        // Whatever can be refused is refused before anything of it is planned.
        check_not_overtaken(writer.view(), request)?;
        let source = match source {
            None => None,
            Some(Source::Stored(sha256)) => match writer.view().payload(sha256)? {
                Some(_) => Some(*sha256),
                None => return Err(Error::NoPayload(*sha256)),
            },
            Some(Source::Staged(StagedSource { payload })) => {
                self.plan_payload(writer, payload, kept)?;
                Some(payload.sha256)
            }
        };
        self.plan_payload(writer, &staged.payload, kept)?;
        let engine = plan_engine(writer, &artifact.engine, &artifact.section)?;
        let contents = Contents {
            sha256: staged.payload.sha256,
            size: staged.payload.size,
            engine,
            rollback_of: None,
            source,
            producer: producer.as_deref().map(printable).filter(|text| !text.is_empty()),
        };
        plan_version(writer, key, contents, make_default)
    }

    /// Notes a payload that the store hasn't got yet, and whether its bytes are to be kept.
    fn plan_payload<'a>(
        &self,
        writer: &mut Writer<'_>,
        staged: &'a StagedPayload,
        kept: &mut Kept<'a>,
    ) -> Result<()> {
        let StagedPayload { sha256, size, kind, .. } = *staged;
        let known = writer.view().payload(&sha256)?;
        let limit = self.settings().inline_limit;
        let inline = known.as_ref().map_or(size <= limit.bytes(), |record| record.inline);
        if known.is_none() {
            self.raise_format()?;
            let record = PayloadRecord { size, kind, inline, large_blocks: false };
            writer.add(record.change(sha256, &staged.blocks))?;
        }
        let is_here = |record| {
            let payload = PayloadInfo::new(&sha256, record);
            self.objects.reader().is_whole(writer.catalogue(), &payload)
        };
        if kept.seen.insert(sha256) && !known.as_ref().map_or(Ok(false), is_here)? {
            // What can't be kept is this request's fault alone.
            self.staging.check(staged, || self.objects.place_if_there(&sha256))?;
            if inline { kept.inside.push(staged) } else { kept.objects.push(staged) }
        }
        Ok(())
    }
}

/// What is told of a version that was published.
pub(super) fn published(
    records: &impl Records,
    key: &Key,
    inode: Inode,
    status: Status,
) -> Result<Published> {
    let version = version_info(records, inode)?;
    let record = records.get(&KEYS, key.as_str())?.ok_or_else(|| Error::NoKey(key.clone()))?;
    let default_engine = records.engine(record.default_engine)?.label;
    let path = if version.served_by_plain_name {
        key.to_string()
    } else {
        format!("{RESERVED}/engines/{}/{key}", version.engine)
    };
    let plain_name_serves = records
        .get(&NAMES, Name::plain(key.as_str()))?
        .map(|inode| records.version_at(inode).map(|v| v.version))
        .transpose()?;
    Ok(Published { status, version, path, default_engine, plain_name_serves })
}

/// Refuses what was compiled again if there is something newer that it would take the
/// place of, and that is not the same.
fn check_not_overtaken(records: &impl Records, request: &Publish) -> Result<()> {
    let Some(from) = request.recompiled_from else { return Ok(()) };
    let (key, payload) = (&request.key, &request.staged.payload);
    let source = request.source.as_ref().map(|source| match source {
        Source::Stored(sha256) => *sha256,
        Source::Staged(source) => source.payload.sha256,
    });
    let fingerprint = &request.staged.artifact.engine.fingerprint;
    let engine = records.get(&FINGERPRINTS, fingerprint)?.map(View::Engine);
    for view in [Some(View::Keys), engine].into_iter().flatten() {
        let name = Name::in_view(view, key.as_str());
        let Some(inode) = records.get(&NAMES, name)? else { continue };
        let there = records.version_at(inode)?;
        let same =
            there.sha256 == payload.sha256 || (there.source.is_some() && there.source == source);
        if there.version > from && !same {
            let (key, version) = (key.clone(), there.version);
            return Err(Error::Overtaken { key, version, source_known: there.source.is_some() });
        }
    }
    Ok(())
}

/// Moves the plain names of what was planned: with one change, if it is all of one engine, as
/// what one compiler made is.
fn plan_defaults(
    writer: &mut Writer<'_>,
    requests: &[Publish],
    results: &[Result<(Status, Inode)>],
) -> Result<()> {
    let mut keys: BTreeMap<EngineNumber, Vec<String>> = BTreeMap::new();
    for (request, result) in requests.iter().zip(results).filter(|(r, _)| r.make_default) {
        if let Ok((_, inode)) = result {
            let version = writer.view().version_at(*inode)?;
            let record = writer.view().get(&KEYS, &version.key)?;
            if record.is_some_and(|record| record.default_engine != version.engine) {
                keys.entry(version.engine).or_default().push(request.key.to_string());
            }
        }
    }
    for (engine, keys) in keys {
        writer.add(Change::Default { keys, engine })?;
    }
    Ok(())
}
