//! The rules that a history keeps, whoever wrote it: checked when it comes from outside, and by
//! `verify`. A checksum says that a line is as it was written, and not that it makes sense.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::catalogue::tables::{
    ALIASES, DIRECTORIES, DirectoryRecord, ENGINES, FINGERPRINTS, INODES, InodeRecord, KEYS,
    LABELS, VERSIONS, VersionRecord,
};
use crate::catalogue::{Catalogue, Records};
use crate::error::Result;
use crate::history::{Blocks, Change, NewDirectory};
use crate::payload::{BLOCK_SIZE, LARGE_BLOCK};
use crate::store::check_alias;
use crate::types::{
    ENGINES_INODE, EngineNumber, FIRST_FREE_INODE, Inode, Key, ROOT_INODE, VERSIONS_INODE, Version,
    View,
};

/// How many digits of the fingerprint a label ends with, at least.
const LABEL_DIGITS: usize = 8;

/// Why something breaks a rule.
type Rule = std::result::Result<(), String>;

/// Whether a change keeps the rules of names and numbers.
pub(super) fn check_change(change: &Change) -> Rule {
    match change {
        Change::Create | Change::SnapshotEnd { .. } => Ok(()),
        Change::Snapshot { next_inode, .. } => inode(*next_inode),
        Change::Engine { number, inode: own, label, section, .. } => {
            engine(*number)?;
            inode(*own)?;
            component(label)?;
            let section = BASE64.decode(section);
            section.map(drop).map_err(|e| format!("the section of engine {label:?}: {e}"))
        }
        Change::Alias { name, engine: number, inode: own, before } => {
            alias(name)?;
            inode(*own)?;
            [Some(*number), *before].into_iter().flatten().try_for_each(engine)
        }
        Change::Unalias { name, engine: number } => alias(name).and(engine(*number)),
        Change::Payload { sha256, size, blocks, .. } => {
            let (block_size, blocks) = match blocks {
                Blocks::Small(blocks) => (BLOCK_SIZE, blocks),
                Blocks::Large(blocks) => (LARGE_BLOCK, blocks),
            };
            let hashes = BASE64.decode(blocks).map_or(0, |bytes| bytes.len() as u64);
            match *size > 0 && hashes == size.div_ceil(block_size).saturating_mul(32) {
                true => Ok(()),
                false => Err(format!("payload {sha256} has another number of blocks")),
            }
        }
        Change::Publish { key: name, version: number, inode: own, engine: by, .. } => {
            key(name)?;
            version(*number)?;
            inode(*own)?;
            engine(*by)?;
            let Change::Publish { rollback_of, directories, .. } = change else { return Ok(()) };
            rollback_of.map_or(Ok(()), version)?;
            directories.iter().try_for_each(directory)
        }
        Change::Version {
            key: name, version: number, inode: own, engine: by, rollback_of, ..
        } => {
            key(name)?;
            version(*number)?;
            inode(*own)?;
            engine(*by)?;
            rollback_of.map_or(Ok(()), version)
        }
        Change::Origin { key: name, version: number, .. }
        | Change::Pin { key: name, version: number }
        | Change::Unpin { key: name, version: number } => key(name).and(version(*number)),
        Change::Remove { key: name, version: number } => {
            key(name).and(number.map_or(Ok(()), version))
        }
        Change::Default { keys, engine: number } => {
            keys.iter().try_for_each(|name| key(name)).and(engine(*number))
        }
        Change::Collect { versions, .. } => versions
            .iter()
            .try_for_each(|gone| key(&gone.key).and(version(gone.version)).and(inode(gone.inode))),
        Change::Directory { directory: new } => directory(new),
        Change::Link { inode: own, target } => inode(*own).and(component(target)),
        Change::Key { key: name, default, last_version } => {
            key(name).and(engine(*default)).and(version(*last_version))
        }
    }
}

fn key(name: &str) -> Rule {
    Key::new(name).map(drop).map_err(|e| format!("{e}"))
}

fn version(number: Version) -> Rule {
    match (1..u64::MAX >> 1).contains(&number.get()) {
        true => Ok(()),
        false => Err(format!("version number {number} is not one to give")),
    }
}

fn engine(number: EngineNumber) -> Rule {
    if number.get() > 0 { Ok(()) } else { Err("engine numbers start at 1".into()) }
}

fn inode(number: Inode) -> Rule {
    match (FIRST_FREE_INODE..Inode(u64::MAX >> 1)).contains(&number) {
        true => Ok(()),
        false => Err(format!("inode number {number} is not one to give")),
    }
}

/// A name that is one component of a path.
fn component(name: &str) -> Rule {
    match Key::new(name) {
        Ok(_) if !name.contains('/') => Ok(()),
        _ => Err(format!("{name:?} can't be a name in a directory")),
    }
}

fn alias(name: &str) -> Rule {
    check_alias(name).map_err(|e| e.to_string())
}

fn directory(new: &NewDirectory) -> Rule {
    let fixed = match new.view {
        View::Keys => Some(ROOT_INODE),
        View::Versions => Some(VERSIONS_INODE),
        View::Engine(EngineNumber(0)) => Some(ENGINES_INODE),
        View::Engine(_) => None,
    };
    match (new.path.as_str(), fixed) {
        // The root of a view.
        ("", Some(fixed)) if new.inode == fixed => Ok(()),
        ("", None) => inode(new.inode),
        (path, _) => inode(new.inode).and(key(path)),
    }
}

/// The first rule of references that what a history came to breaks, if it does.
pub(super) fn check_catalogue(truth: &Catalogue) -> Result<Option<String>> {
    let checks = [check_numbers, check_inodes, check_names];
    for check in checks {
        if let Some(broken) = check(truth)? {
            return Ok(Some(broken));
        }
    }
    Ok(None)
}

/// Numbers that are given next were never given before.
fn check_numbers(truth: &Catalogue) -> Result<Option<String>> {
    let applied = truth.applied()?;
    for row in truth.scan(&INODES.all()) {
        let own = row?.key()?;
        if own >= applied.next_inode {
            return Ok(Some(format!("inode number {own} would be given again")));
        }
    }
    for row in truth.scan(&ENGINES.all()) {
        let number = row?.key()?;
        if number >= applied.next_engine {
            return Ok(Some(format!("engine number {number} would be given again")));
        }
    }
    Ok(None)
}

/// What an inode number means is what is said of it elsewhere.
fn check_inodes(truth: &Catalogue) -> Result<Option<String>> {
    let mut counts = (0u64, 0u64);
    for row in truth.scan(&INODES.all()) {
        let row = row?;
        let own = row.key()?;
        let broken = match row.value()? {
            InodeRecord::Version(record) => {
                counts.0 += 1;
                check_version(truth, own, &record)?
            }
            InodeRecord::Directory(DirectoryRecord {
                view: View::Engine(EngineNumber(0)), ..
            }) => None,
            InodeRecord::Directory(record) => {
                counts.1 += 1;
                let known = truth.directory(record.view, &record.path)?;
                (known != Some(own))
                    .then(|| format!("directory {:?} has another inode number", record.path))
            }
            InodeRecord::Alias(_) => None,
        };
        if broken.is_some() {
            return Ok(broken);
        }
    }
    let versions = count(truth.scan(&VERSIONS.all()))?;
    let directories = count(truth.scan(&DIRECTORIES.all()))?;
    let same = counts == (versions, directories);
    Ok((!same).then(|| "one inode number was given to two".into()))
}

fn count<T>(rows: impl Iterator<Item = Result<T>>) -> Result<u64> {
    let mut count = 0;
    for row in rows {
        row?;
        count += 1;
    }
    Ok(count)
}

fn check_version(truth: &Catalogue, own: Inode, record: &VersionRecord) -> Result<Option<String>> {
    let (key, number) = (record.key.as_str(), record.version);
    let broken = |what: &str| Ok(Some(format!("{key:?}@{number} {what}")));
    if Key::new(key).is_err() {
        return broken("can't be a key");
    }
    if truth.get(&VERSIONS, (key, number))? != Some(own) {
        return broken("has an inode number that something else has");
    }
    if truth.get(&ENGINES, record.engine)?.is_none() {
        return broken("is of an engine of which nothing is known");
    }
    // A payload whose bytes are lost is no matter of rules.
    let payload = truth.payload(&record.sha256)?;
    if payload.is_some_and(|payload| payload.size != record.size) {
        return broken("has another size than its payload");
    }
    match truth.get(&KEYS, key)? {
        Some(known) if known.last_version >= number => Ok(None),
        _ => broken("is not among the versions of its key"),
    }
}

/// Names lead somewhere, and none is in the way of another.
fn check_names(truth: &Catalogue) -> Result<Option<String>> {
    for row in truth.scan(&KEYS.all()) {
        let row = row?;
        let (key, record) = (row.key()?, row.value()?);
        if truth.get(&ENGINES, record.default_engine)?.is_none() {
            return Ok(Some(format!("{key:?} has a default engine of which nothing is known")));
        }
        let Ok(key) = Key::new(key.clone()) else {
            return Ok(Some(format!("{key:?} can't be a key")));
        };
        let is_live = |name: &str| -> Result<bool> { Ok(!truth.live_versions(name)?.is_empty()) };
        for above in key.ancestors() {
            if truth.get(&KEYS, above)?.is_some() && is_live(above)? && is_live(key.as_str())? {
                return Ok(Some(format!("{key} is in {above}, which is a key as well")));
            }
        }
    }
    for row in truth.scan(&ALIASES.all()) {
        let row = row?;
        let (name, record) = (row.key()?, row.value()?);
        let link = truth.inode(record.inode)?;
        let leads = matches!(link, Some(InodeRecord::Alias(_)));
        if !leads || truth.get(&ENGINES, record.engine)?.is_none() {
            return Ok(Some(format!("alias {name:?} leads nowhere")));
        }
    }
    for row in truth.scan(&ENGINES.all()) {
        let row = row?;
        let (number, record) = (row.key()?, row.value()?);
        let fingerprint = &record.description.fingerprint;
        if truth.get(&LABELS, record.label.as_str())? != Some(number)
            || truth.get(&FINGERPRINTS, fingerprint)? != Some(number)
        {
            return Ok(Some(format!("engine {:?} is there twice", record.label)));
        }
        let digits = record.label.rsplit('-').next().unwrap_or_default();
        if digits.len() < LABEL_DIGITS || !fingerprint.hex().starts_with(digits) {
            return Ok(Some(format!("{:?} is not the label of its engine", record.label)));
        }
    }
    Ok(None)
}
