//! The rules that a history keeps, whoever wrote it: checked when it comes from outside, and by
//! `verify`. A checksum says that a line is as it was written, and not that it makes sense.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::catalogue::tables::{ENGINES, INODES, InodeRecord, KEYS, VERSIONS};
use crate::catalogue::{Catalogue, Records};
use crate::error::Result;
use crate::history::{Blocks, Change, NewDirectory, decode};
use crate::payload::{BLOCK_SIZE, LARGE_BLOCK};
use crate::store::check_alias;
use crate::types::{
    ENGINES_INODE, EngineNumber, FIRST_FREE_INODE, Inode, Key, ROOT_INODE, VERSIONS_INODE, Version,
    View,
};

/// Why something breaks a rule.
type Rule = std::result::Result<(), String>;

/// Whether a line, if it can be read at all, keeps the rules of names and numbers.
pub(super) fn check_line(line: &[u8]) -> Rule {
    match decode(line) {
        Ok(entry) => check_change(&entry.change),
        Err(_) => Ok(()),
    }
}

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
    if number.get() > 0 { Ok(()) } else { Err("version numbers start at 1".into()) }
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
    let mut versions = 0u64;
    for row in truth.scan(&INODES.all()) {
        let row = row?;
        let own = row.key()?;
        let InodeRecord::Version(record) = row.value()? else { continue };
        versions += 1;
        let (name, number) = (&record.key, record.version);
        let Ok(key) = Key::new(name.clone()) else {
            return Ok(Some(format!("{name:?} can't be a key")));
        };
        let is_found = truth.get(&VERSIONS, (key.as_str(), number))? == Some(own);
        if !is_found {
            return Ok(Some(format!(
                "{name}@{number} has an inode number that something else has"
            )));
        }
        if truth.get(&ENGINES, record.engine)?.is_none() {
            return Ok(Some(format!(
                "{name}@{number} is of engine {}, of which nothing is known",
                record.engine
            )));
        }
        let known = truth.get(&KEYS, key.as_str())?;
        if known.is_none_or(|known| known.last_version < number) {
            return Ok(Some(format!("{name}@{number} is not among the versions of its key")));
        }
    }
    let mut named = 0u64;
    for row in truth.scan(&VERSIONS.all()) {
        row?;
        named += 1;
    }
    if named != versions {
        return Ok(Some("two versions have the same inode number".into()));
    }
    Ok(None)
}
