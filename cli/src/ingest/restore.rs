//! Taking in what `wasmfs export` wrote: into an empty store to the byte, into
//! another whatever that hasn't got.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use wasmfs_store::maintenance::{self as archive, Archived};
use wasmfs_store::{
    Key, KeyInfo, MAX_PAGE, Publish, Settings, Sha, Source, Staging, Store, StoreDir, Version,
    VersionInfo,
};

use crate::client::stable_file::open_named;
use crate::client::{Batch, StoreClient};
use crate::control::Client;
use crate::control::requests::{Alias, Engines, Pin, SetDefault};
use crate::ui::progress;
use crate::ui::{Failure, is_gone, is_no_key};

/// What a batch takes, in bytes, and how many versions.
const BATCH: (u64, usize) = (64 << 20, 500);
/// The first bytes of what zstd compressed (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What came of it.
#[derive(Default, Serialize)]
pub struct Restored {
    /// What the archive has.
    #[serde(flatten)]
    pub archived: Archived,
    /// Whether the store is the archived one now, to the byte.
    pub exact: bool,
    /// Versions that were added to a store that has others.
    pub added: usize,
    /// Versions that it had.
    pub unchanged: usize,
    /// Versions that are older than what it has.
    pub older: usize,
    pub failed: Vec<NotAdded>,
    /// Names of engines that mean other engines here.
    pub aliases_left: Vec<String>,
    /// Whether the kernel knows.
    pub visible: bool,
}

/// A version that could not be added.
#[derive(Serialize)]
pub struct NotAdded {
    pub key: Key,
    /// Its version in the archive.
    pub version: Version,
    pub code: String,
    pub error: String,
    pub hint: Option<String>,
}

/// Takes the archive at `file` into the store in `dir`; `-` is standard input.
pub fn restore(dir: &Path, file: &Path) -> Result<Restored> {
    if file == Path::new("-") {
        return take(dir, io::stdin().lock());
    }
    let opened = open_named(file).with_context(|| format!("opening {}", file.display()))?;
    take(dir, opened).with_context(|| file.display().to_string())
}

fn take(path: &Path, from: impl Read) -> Result<Restored> {
    let mut from = BufReader::with_capacity(1 << 20, from);
    let compressed = from.fill_buf().context("reading")?.starts_with(&ZSTD);
    let plain: Box<dyn Read + '_> = match compressed {
        true => Box::new(zstd::Decoder::with_buffer(from).context("decompressing")?),
        false => Box::new(from),
    };
    let bar = progress::bar(0, true);
    let mut progress = |done, _: Option<u64>| {
        bar.set_length(done);
        bar.set_position(done);
    };
    let dir = StoreDir::open_if_there(path)?;
    let is_empty = match &dir {
        Some(dir) => Client::reach(dir)?.is_none() && archive::is_empty(dir)?,
        None => true,
    };
    let (Some(dir), false) = (&dir, is_empty) else {
        let make = |settings: &_| match &dir {
            Some(dir) => Ok(dir.clone()),
            None => StoreDir::open_or_create(path, settings),
        };
        let archived = archive::restore(&make, plain, &mut progress)?;
        bar.finish_and_clear();
        return Ok(Restored { archived, exact: true, visible: true, ..Restored::default() });
    };
    // A store of its own first, in this one's directory: then it can be asked for everything.
    let staging = Staging::beside(dir)?;
    let place = staging.temporary()?;
    let make = |settings: &_| StoreDir::open_or_create_in(&place, "store", settings);
    let archived = archive::restore(&make, plain, &mut progress)?;
    bar.finish_and_clear();
    let theirs = Store::open_in(&make(&Settings::default())?)?;
    let mut client = StoreClient::open_in(dir)?;
    let merged = Merge::new(&theirs, &staging, archived).run(&mut client)?;
    client.close()?;
    theirs.close()?;
    Ok(merged)
}

/// Adding one store to another.
struct Merge<'a> {
    theirs: &'a Store,
    report: Restored,
    staging: &'a Staging,
    /// Versions to publish, and what is to be published.
    waiting: Vec<(VersionInfo, Result<Publish>)>,
    size: u64,
}

impl<'a> Merge<'a> {
    fn new(theirs: &'a Store, staging: &'a Staging, archived: Archived) -> Merge<'a> {
        let report = Restored { archived, visible: true, ..Restored::default() };
        Merge { theirs, report, staging, waiting: Vec::new(), size: 0 }
    }

    fn run(mut self, client: &mut StoreClient) -> Result<Restored> {
        let bar = progress::count(0);
        let mut after = None;
        loop {
            let page = self.theirs.keys_page("", after.as_ref(), MAX_PAGE)?;
            bar.inc_length(page.items.len() as u64);
            for key in &page.items {
                bar.inc(1);
                self.key(client, key)?;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.publish(client);
        bar.finish_and_clear();
        self.names(client)?;
        Ok(self.report)
    }

    /// Has what is lacking of a key wait for its batch.
    fn key(&mut self, client: &mut StoreClient, key: &KeyInfo) -> Result<()> {
        let ours = ours(client, &key.key)?;
        let mut theirs = self.theirs.versions(&key.key)?;
        theirs.retain(|version| !version.removed);
        let lacking = lacking(&ours, &theirs);
        let known = theirs.iter().filter(|v| ours.iter().any(|own| is_same(own, v))).count();
        // One that is to be added may have the bytes of one that both have.
        self.report.unchanged += known;
        self.report.older += (theirs.len() - known).saturating_sub(lacking.len());
        lacking.into_iter().for_each(|version| self.add(version));
        // A key goes in whole, so that doing it again after an interruption finds all or nothing.
        if self.size >= BATCH.0 || self.waiting.len() >= BATCH.1 {
            self.publish(client);
        }
        Ok(())
    }

    /// Has a version wait for its batch.
    fn add(&mut self, version: VersionInfo) {
        let item = self.item(&version);
        self.size += version.size;
        self.waiting.push((version, item));
    }

    fn item(&self, version: &VersionInfo) -> Result<Publish> {
        let payload = |sha256| Payload { store: self.theirs, sha256, at: 0 };
        let source = match version.source {
            Some(source) => Some(Source::Staged(self.staging.stage_source(payload(source))?)),
            None => None,
        };
        let staged = self.staging.stage(payload(version.sha256))?;
        let producer = version.producer.clone();
        Ok(Publish { source, producer, ..Publish::new(version.key.clone(), staged) })
    }

    fn publish(&mut self, client: &mut StoreClient) {
        // A key goes in whole, with one commit.
        let mut batch = Batch::once_through(client);
        let mut versions = Vec::new();
        for (version, item) in std::mem::take(&mut self.waiting) {
            versions.push(version);
            batch.add(item);
        }
        self.size = 0;
        let (results, visible) = batch.finish();
        self.report.visible &= visible;
        for (VersionInfo { key, version, .. }, result) in versions.into_iter().zip(results) {
            match result {
                Ok(_) => self.report.added += 1,
                Err(Failure { code, message: error, hint, .. }) => {
                    self.report.failed.push(NotAdded { key, version, code, error, hint });
                }
            }
        }
    }

    /// What is not in versions: default engines of keys that have nothing of their own here, pins,
    /// and names of engines.
    fn names(&mut self, client: &StoreClient) -> Result<()> {
        let theirs = self.theirs.engines()?;
        let mut moved: BTreeMap<Sha, Vec<Key>> = BTreeMap::new();
        let (mut page, mut next) = (VecDeque::new(), Some(None));
        loop {
            if page.is_empty() {
                let Some(after) = next.take() else { break };
                let read = self.theirs.keys_page("", Option::as_ref(&after), MAX_PAGE)?;
                page = read.items.into();
                next = read.next.map(Some);
                continue;
            }
            let Some(KeyInfo { key, default_engine, .. }) = page.pop_front() else { continue };
            let key = &key;
            let ours = ours(client, key)?;
            let versions = self.theirs.versions(key)?;
            let brought = |own: &VersionInfo| versions.iter().any(|their| is_same(own, their));
            let wanted = theirs.iter().find(|engine| engine.label == default_engine);
            let Some(wanted) = wanted.map(|engine| engine.engine.description.fingerprint) else {
                continue;
            };
            let elsewhere =
                |v: &VersionInfo| v.fingerprint == wanted && v.current && !v.served_by_plain_name;
            if ours.iter().all(brought) && ours.iter().any(elsewhere) {
                moved.entry(wanted).or_default().push(key.clone());
            }
            for pinned in versions.iter().filter(|v| v.pinned && !v.removed) {
                let same: Vec<_> = ours.iter().filter(|own| is_same(own, pinned)).collect();
                if let (Some(own), false) = (same.last(), same.iter().any(|own| own.pinned)) {
                    client.ask(Pin { key: key.clone(), version: own.version, pinned: true })?;
                }
            }
        }
        for (engine, keys) in moved {
            let change = SetDefault { keys: Some(keys), engine: engine.hex() };
            self.report.visible &= client.ask(change)?.visible;
        }
        let taken: BTreeMap<String, Sha> = client
            .ask(Engines {})?
            .into_iter()
            .flat_map(|engine| {
                let fingerprint = engine.engine.description.fingerprint;
                engine.aliases.into_iter().map(move |alias| (alias, fingerprint))
            })
            .collect();
        for engine in &theirs {
            let wanted = engine.engine.description.fingerprint;
            for name in &engine.aliases {
                match taken.get(name) {
                    Some(there) if *there == wanted => {}
                    Some(_) => self.report.aliases_left.push(name.clone()),
                    None => {
                        let (name, engine) = (name.clone(), wanted.hex());
                        match client.ask(Alias::Set { name: name.clone(), engine }) {
                            Ok(answer) => self.report.visible &= answer.visible,
                            // Nothing that it compiled is here.
                            Err(e) if !is_gone(&e) => self.report.aliases_left.push(name),
                            Err(e) => return Err(e),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_same(one: &VersionInfo, other: &VersionInfo) -> bool {
    one.sha256 == other.sha256 && one.fingerprint == other.fingerprint
}

/// Those of `theirs` that are to be added: of each engine what came after the last version that
/// both have, unless what is here is newer than that. So an old archive brings nothing old back.
fn lacking(ours: &[VersionInfo], theirs: &[VersionInfo]) -> Vec<VersionInfo> {
    let mut engines: Vec<Sha> = theirs.iter().map(|version| version.fingerprint).collect();
    engines.sort_unstable();
    engines.dedup();
    let mut lacking = Vec::new();
    for engine in engines {
        let theirs: Vec<_> = theirs.iter().filter(|v| v.fingerprint == engine).collect();
        let common = theirs.iter().rposition(|v| ours.iter().any(|own| is_same(own, v)));
        let later = &theirs[common.map_or(0, |common| common + 1)..];
        let current = ours.iter().find(|own| own.fingerprint == engine && own.current);
        // RFC 3339 in UTC: the order of the text is that of time.
        let is_newer = |own: &VersionInfo| later.iter().all(|v| v.published < own.published);
        if !current.is_some_and(is_newer) {
            lacking.extend(later.iter().map(|v| (*v).clone()));
        }
    }
    lacking.sort_by_key(|version| version.version);
    lacking
}

/// The versions of a key that are here, oldest first.
fn ours(client: &StoreClient, key: &Key) -> Result<Vec<VersionInfo>> {
    let versions: Result<Vec<_>> = client.versions(key).collect();
    match versions {
        Ok(mut versions) => {
            versions.retain(|version| !version.removed);
            versions.reverse();
            Ok(versions)
        }
        Err(e) if is_no_key(&e) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// A payload of a store, to be read.
struct Payload<'a> {
    store: &'a Store,
    sha256: Sha,
    at: u64,
}

impl Read for Payload<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.store.read_payload(&self.sha256, self.at, buf.len());
        let bytes = bytes.map_err(io::Error::other)?.unwrap_or_default();
        buf[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}
