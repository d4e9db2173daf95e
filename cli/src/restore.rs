//! Taking in what `wasmfs export` wrote: into an empty store to the byte, into
//! another whatever that hasn't got.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use wasmfs_store::archive::{self, Archived};
use wasmfs_store::{Key, Sha, Store, VersionInfo};

use crate::access::Access;
use crate::batch::{self, Bytes, Input, SourceBytes};
use crate::control::Terms;
use crate::control::changes::{Alias, Pin, SetDefault};
use crate::control::client::Client;
use crate::failure::{self, Failure};
use crate::scratch::{Scratch, Section};

/// What a batch takes, in bytes, and how many versions.
const BATCH: (u64, usize) = (64 << 20, 500);
/// The first bytes of what zstd compressed (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What came of it.
#[derive(Serialize)]
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
    /// What could not be added.
    pub failed: Vec<NotAdded>,
    /// Names of engines that mean other engines here.
    pub aliases_left: Vec<String>,
    /// Whether the kernel knows.
    pub visible: bool,
}

/// A version that could not be added.
#[derive(Serialize)]
pub struct NotAdded {
    /// The key.
    pub key: Key,
    /// Its version in the archive.
    pub version: u64,
    /// Why.
    pub error: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Takes the archive at `file` into the store in `dir`; `-` is standard input.
pub fn restore(dir: &Path, file: &Path) -> Result<Restored> {
    if file == Path::new("-") {
        return take(dir, io::stdin().lock());
    }
    let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    take(dir, opened).with_context(|| file.display().to_string())
}

fn take(dir: &Path, from: impl Read) -> Result<Restored> {
    let mut from = BufReader::with_capacity(1 << 20, from);
    let compressed = from.fill_buf().context("reading")?.starts_with(&ZSTD);
    let plain: Box<dyn Read + '_> = match compressed {
        true => Box::new(zstd::Decoder::with_buffer(from).context("decompressing")?),
        false => Box::new(from),
    };
    let bar = batch::bar(0, true);
    let mut progress = |done, _: Option<u64>| {
        bar.set_length(done);
        bar.set_position(done);
    };
    if Client::reach(dir)?.is_none() && archive::is_empty(dir)? {
        let archived = archive::restore(dir, plain, &mut progress)?;
        bar.finish_and_clear();
        let (failed, aliases_left) = (Vec::new(), Vec::new());
        let (added, unchanged, visible) = (0, 0, true);
        let exact = true;
        return Ok(Restored { archived, exact, added, unchanged, failed, aliases_left, visible });
    }
    // A store of its own first, beside this one: then it can be asked for everything.
    let beside = dir.parent().unwrap_or(dir);
    let place = tempfile::Builder::new().prefix(".wasmfs-import-").tempdir_in(beside);
    let place = place.with_context(|| format!("making a directory in {}", beside.display()))?;
    let copy = place.path().join("store");
    let archived = archive::restore(&copy, plain, &mut progress)?;
    bar.finish_and_clear();
    let theirs = Store::open(&copy)?;
    let mut access = Access::open_or_create(dir)?;
    let merged = Merge::new(&theirs, archived).run(&mut access)?;
    access.close()?;
    theirs.close()?;
    Ok(merged)
}

/// Adding one store to another.
struct Merge<'a> {
    theirs: &'a Store,
    report: Restored,
    /// Versions to publish, and what is to be published.
    waiting: Vec<(VersionInfo, Result<Input>)>,
    size: u64,
    scratch: Scratch,
}

impl<'a> Merge<'a> {
    fn new(theirs: &'a Store, archived: Archived) -> Merge<'a> {
        let report = Restored {
            archived,
            exact: false,
            added: 0,
            unchanged: 0,
            failed: Vec::new(),
            aliases_left: Vec::new(),
            visible: true,
        };
        Merge { theirs, report, waiting: Vec::new(), size: 0, scratch: Scratch::default() }
    }

    fn run(mut self, access: &mut Access) -> Result<Restored> {
        let keys = self.theirs.keys("")?;
        let mut new_keys = BTreeMap::new();
        let bar = batch::count(keys.len() as u64);
        for key in &keys {
            bar.inc(1);
            let ours = ours(access, &key.key)?;
            if ours.is_empty() {
                new_keys.insert(key.key.clone(), key.default_engine.clone());
            }
            for version in self.theirs.versions(&key.key)? {
                if version.removed {
                    continue;
                }
                if ours.iter().any(|own| is_same(own, &version)) {
                    self.report.unchanged += 1;
                    continue;
                }
                self.add(version);
            }
            // A key goes in whole, so that doing it again after an interruption finds all or nothing.
            if self.size >= BATCH.0 || self.waiting.len() >= BATCH.1 {
                self.publish(access)?;
            }
        }
        self.publish(access)?;
        bar.finish_and_clear();
        self.names(access, new_keys)?;
        Ok(self.report)
    }

    /// Has a version wait for its batch.
    fn add(&mut self, version: VersionInfo) {
        let input = self.input(&version);
        self.size += version.size;
        self.waiting.push((version, input));
    }

    fn input(&mut self, version: &VersionInfo) -> Result<Input> {
        let source = match &version.source {
            Some(source) => Some(SourceBytes::Kept(self.section(source)?)),
            None => None,
        };
        let producer = version.producer.clone();
        let bytes = Bytes::Kept(self.section(&version.sha256)?);
        Ok(Input { source, producer, ..Input::new(version.key.clone(), bytes) })
    }

    fn section(&mut self, sha256: &Sha) -> Result<Section> {
        Ok(self.scratch.add(Payload { store: self.theirs, sha256: *sha256, at: 0 })?)
    }

    fn publish(&mut self, access: &mut Access) -> Result<()> {
        let (versions, inputs): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().unzip();
        if !inputs.is_empty() {
            let hidden = ProgressBar::hidden();
            let (outcomes, visible) = batch::publish(access, &inputs, &Terms::default(), &hidden)?;
            self.report.visible &= visible;
            for (version, outcome) in versions.into_iter().zip(outcomes) {
                match outcome {
                    Ok(_) => self.report.added += 1,
                    Err(Failure { message: error, hint, .. }) => {
                        let VersionInfo { key, version, .. } = version;
                        self.report.failed.push(NotAdded { key, version, error, hint });
                    }
                }
            }
        }
        (self.size, self.scratch) = (0, Scratch::default());
        Ok(())
    }

    /// What is not in versions: default engines of new keys, pins, and names of engines.
    fn names(&mut self, access: &Access, new_keys: BTreeMap<Key, String>) -> Result<()> {
        let theirs = self.theirs.engines()?;
        let fingerprint = |label: &str| {
            let engine = theirs.iter().find(|engine| engine.label == label);
            engine.map(|engine| engine.engine.description.fingerprint)
        };
        let mut moved: BTreeMap<Sha, Vec<Key>> = BTreeMap::new();
        for (key, label) in new_keys {
            let ours = ours(access, &key)?;
            if let Some(wanted) = fingerprint(&label)
                && ours
                    .iter()
                    .any(|v| v.fingerprint == wanted && v.current && !v.served_by_plain_name)
            {
                moved.entry(wanted).or_default().push(key);
            }
        }
        for (engine, keys) in moved {
            let change = SetDefault { keys: Some(keys), engine: engine.hex() };
            self.report.visible &= access.change(change)?.visible;
        }
        for key in self.theirs.keys("")? {
            for pinned in self.theirs.versions(&key.key)?.iter().filter(|v| v.pinned && !v.removed)
            {
                let ours = ours(access, &key.key)?;
                if let Some(own) = ours.iter().find(|own| is_same(own, pinned) && !own.pinned) {
                    access.change(Pin {
                        key: key.key.clone(),
                        version: own.version,
                        pinned: true,
                    })?;
                }
            }
        }
        let taken: BTreeMap<String, Sha> = access
            .engines()?
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
                        match access.change(Alias::Set { name: name.clone(), engine }) {
                            Ok(answer) => self.report.visible &= answer.visible,
                            // Nothing that it compiled is here.
                            Err(_) => self.report.aliases_left.push(name),
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

fn ours(access: &Access, key: &Key) -> Result<Vec<VersionInfo>> {
    match access.versions(key) {
        Ok(versions) => Ok(versions),
        Err(e) if failure::is_no_key(&e) => Ok(Vec::new()),
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
