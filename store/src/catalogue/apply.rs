//! Applying a change of the history to the catalogue, and finding out which
//! names it changed.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::invalidation::{Affected, Changes};
use super::overlay::Overlay;
use super::read::Records;
use super::tables::{
    ALIASES, APPLIED, AliasRecord, BLOCKS, CHUNKS, DIRECTORIES, DirectoryRecord, ENGINE_KEYS,
    ENGINES, EngineRecord, FINGERPRINTS, HASHES_PER_RECORD, INODES, InodeRecord, KEYS, KeyRecord,
    LABELS, LinkRecord, NAMES, Name, PAYLOADS, PayloadRecord, SECTION_PIECE, SECTIONS, USERS,
    VERSIONS, VersionRecord,
};
use crate::artifact::{EngineDescription, decode};
use crate::error::{Error, Result};
use crate::history::{Blocks, Change, CollectedVersion, LogEntry, NewDirectory};
use crate::types::{
    ENGINES_INODE, EngineNumber, Inode, ROOT_INODE, Sha, VERSIONS_INODE, Version, View,
};

/// Applies `entry`, the end of whose line is at byte `history_len`, as one
/// atomic change of `overlay`; one of many keys as one for each, and a last that says that
/// the line is applied.
pub(crate) fn apply(overlay: &mut Overlay, entry: &LogEntry, history_len: u64) -> Result<Changes> {
    let mut applied = overlay.applied()?;
    let mut changes = Changes::default();
    match &entry.change {
        Change::Create => {
            for (view, inode) in [(View::Keys, ROOT_INODE), (View::Versions, VERSIONS_INODE)] {
                add_directory(overlay, view, "", inode, entry.time)?;
            }
            // The directory of engines has no names of its own kind; its time is kept the same way.
            let record = DirectoryRecord {
                view: View::Engine(EngineNumber(0)),
                path: String::new(),
                mtime: entry.time,
            };
            overlay.set(&INODES, ENGINES_INODE, &InodeRecord::Directory(record))?;
        }
        Change::Engine { number, inode, label, description, section, producer, last_publish } => {
            let section = BASE64
                .decode(section)
                .map_err(|e| Error::Inconsistent(format!("the section of engine {label}: {e}")))?;
            let mut description = description.clone();
            if !section.is_empty() {
                // Today's tables may know more than those of when it was seen first.
                let pulley = description.pulley;
                description = EngineDescription { pulley, ..decode(&section).description };
            }
            overlay.set(&LABELS, label, number)?;
            overlay.set(&FINGERPRINTS, &description.fingerprint, number)?;
            for (index, piece) in (0..).zip(section.chunks(SECTION_PIECE)) {
                overlay.set(&SECTIONS, (*number, index), piece)?;
            }
            let known = overlay.get(&ENGINES, *number)?;
            if known.is_none() {
                add_directory(overlay, View::Engine(*number), "", *inode, entry.time)?;
            }
            let (told_producer, told_publish) =
                known.map_or((None, 0), |known| (known.producer, known.last_publish));
            let producer = producer.clone().or(told_producer);
            let last_publish = last_publish.unwrap_or(told_publish);
            let label = label.clone();
            let record = EngineRecord { label, description, producer, last_publish };
            overlay.set(&ENGINES, *number, &record)?;
            applied.next_engine = applied.next_engine.max(number.next());
            applied.next_inode = applied.next_inode.max(inode.next());
        }
        Change::Alias { name, engine, inode, before } => {
            let affected = Affected::alias_before(overlay, name, [Some(*engine), *before])?;
            let link = LinkRecord { target: overlay.engine(*engine)?.label, made: entry.time };
            overlay.set(&INODES, *inode, &InodeRecord::Alias(link))?;
            overlay.set(&ALIASES, name, &AliasRecord { engine: *engine, inode: *inode })?;
            applied.next_inode = applied.next_inode.max(inode.next());
            affected.after(overlay, entry.time, &mut changes)?;
        }
        Change::Unalias { name, engine } => {
            let affected = Affected::alias_before(overlay, name, [Some(*engine), None])?;
            overlay.remove(&ALIASES, name);
            affected.after(overlay, entry.time, &mut changes)?;
        }
        Change::Payload { sha256, size, kind, inline, blocks } => {
            let (large_blocks, blocks) = match blocks {
                Blocks::Small(blocks) => (false, blocks),
                Blocks::Large(blocks) => (true, blocks),
            };
            let blocks = BASE64
                .decode(blocks)
                .map_err(|e| Error::Inconsistent(format!("block hashes of {sha256}: {e}")))?;
            for (index, hashes) in (0..).zip(blocks.chunks(HASHES_PER_RECORD * 32)) {
                overlay.set(&BLOCKS, (sha256, index), hashes)?;
            }
            let (size, kind, inline) = (*size, *kind, *inline);
            let record = PayloadRecord { size, kind, inline, large_blocks };
            overlay.set(&PAYLOADS, sha256, &record)?;
        }
        Change::Publish {
            key,
            version,
            inode,
            sha256,
            engine,
            default,
            rollback_of,
            directories,
        } => {
            let affected = Affected::before(overlay, key, &[*engine].into(), &[*version])?;
            for new in directories {
                add_directory(overlay, new.view, &new.path, new.inode, entry.time)?;
                applied.next_inode = applied.next_inode.max(new.inode.next());
            }
            applied.next_inode = applied.next_inode.max(inode.next());
            let payload = overlay.payload(sha256)?.ok_or_else(|| {
                Error::Inconsistent(format!("{key} version {version} has no payload record"))
            })?;
            let record = VersionRecord {
                key: key.clone(),
                version: *version,
                sha256: *sha256,
                size: payload.size,
                engine: *engine,
                published: entry.time,
                rollback_of: *rollback_of,
                removed: None,
                pinned: false,
                source: None,
                producer: None,
            };
            let mut compiled_by = overlay.engine(*engine)?;
            compiled_by.last_publish = entry.time;
            overlay.set(&ENGINES, *engine, &compiled_by)?;
            set_version(overlay, *inode, record)?;
            let old = overlay.get(&KEYS, key)?;
            let default_engine = match &old {
                Some(old) if !default => old.default_engine,
                _ => *engine,
            };
            overlay.set(&KEYS, key, &KeyRecord { default_engine, last_version: *version })?;
            point_plain_name(overlay, key)?;
            affected.after(overlay, entry.time, &mut changes)?;
        }
        Change::Origin { key, version, source, producer } => {
            let Some((inode, mut record)) = overlay.version(key, *version)? else {
                return Err(Error::Inconsistent(format!("{key} has no version {version}")));
            };
            if let (Some(source), Some(before)) = (source, record.source)
                && *source != before
            {
                overlay.remove(&USERS, (&before, inode));
            }
            record.source = source.or(record.source);
            if let Some(source) = record.source {
                overlay.set(&USERS, (&source, inode), ())?;
            }
            if producer.is_some() {
                record.producer = producer.clone();
                let mut engine = overlay.engine(record.engine)?;
                engine.producer = producer.clone();
                overlay.set(&ENGINES, record.engine, &engine)?;
            }
            overlay.set(&INODES, inode, &InodeRecord::Version(record))?;
        }
        Change::Remove { key, version } => {
            remove(overlay, key, *version, entry.time, &mut changes)?;
        }
        Change::Default { keys, engine } => {
            for key in keys {
                let affected = Affected::before(overlay, key, &BTreeSet::new(), &[])?;
                let mut record = overlay
                    .get(&KEYS, key)?
                    .ok_or_else(|| Error::Inconsistent(format!("key {key} has no record")))?;
                record.default_engine = *engine;
                overlay.set(&KEYS, key, &record)?;
                point_plain_name(overlay, key)?;
                affected.after(overlay, entry.time, &mut changes)?;
                // Key by key: one batch for all would have every reader wait for it. What is
                // interrupted is applied again from the start, which changes nothing twice.
                overlay.end_change();
            }
        }
        Change::Pin { key, version } => set_pinned(overlay, key, *version, true)?,
        Change::Unpin { key, version } => set_pinned(overlay, key, *version, false)?,
        Change::Collect { versions, payloads } => {
            // One by one, as with many plain names.
            for gone in versions {
                collect(overlay, gone, entry.time, &mut changes)?;
                overlay.end_change();
            }
            for sha256 in payloads {
                remove_payload(overlay, sha256)?;
            }
        }
        Change::Snapshot { next_inode, next_engine, .. } => {
            applied.next_inode = *next_inode;
            applied.next_engine = *next_engine;
        }
        Change::Directory { directory: NewDirectory { view, path, inode } } => {
            if *inode == ENGINES_INODE {
                let record = DirectoryRecord { view: *view, path: path.clone(), mtime: entry.time };
                overlay.set(&INODES, *inode, &InodeRecord::Directory(record))?;
            } else {
                add_directory(overlay, *view, path, *inode, entry.time)?;
            }
        }
        Change::Link { inode, target } => {
            let link = LinkRecord { target: target.clone(), made: entry.time };
            overlay.set(&INODES, *inode, &InodeRecord::Alias(link))?;
        }
        Change::Key { key, default, last_version } => {
            let record = KeyRecord { default_engine: *default, last_version: *last_version };
            overlay.set(&KEYS, key, &record)?;
        }
        Change::Version {
            key,
            version,
            inode,
            sha256,
            size,
            engine,
            rollback_of,
            removed,
            pinned,
            source,
            producer,
        } => {
            let record = VersionRecord {
                key: key.clone(),
                version: *version,
                sha256: *sha256,
                size: *size,
                engine: *engine,
                published: entry.time,
                rollback_of: *rollback_of,
                removed: *removed,
                pinned: *pinned,
                source: *source,
                producer: producer.clone(),
            };
            set_version(overlay, *inode, record)?;
            point_plain_name(overlay, key)?;
        }
        Change::SnapshotEnd { .. } => {}
    }
    applied.seq = entry.seq;
    applied.history_len = history_len;
    overlay.set(&APPLIED, (), &applied)?;
    overlay.end_change();
    Ok(changes)
}

fn add_directory(
    overlay: &mut Overlay,
    view: View,
    path: &str,
    inode: Inode,
    time: u64,
) -> Result<()> {
    overlay.set(&DIRECTORIES, (view, path), inode)?;
    let record = DirectoryRecord { view, path: path.to_owned(), mtime: time };
    overlay.set(&INODES, inode, &InodeRecord::Directory(record))
}

/// Puts a version in, newer than any other of its engine; its names lead to it unless they were
/// taken away.
fn set_version(overlay: &mut Overlay, inode: Inode, record: VersionRecord) -> Result<()> {
    let VersionRecord { key, version, engine, .. } = &record;
    overlay.set(&VERSIONS, (key, *version), inode)?;
    if record.removed.is_none() {
        overlay.set(&NAMES, Name::of_version(key, *version), inode)?;
        point_engine_name(overlay, *engine, key, Some(inode))?;
    }
    for payload in [Some(record.sha256), record.source].into_iter().flatten() {
        overlay.set(&USERS, (&payload, inode), ())?;
    }
    overlay.set(&INODES, inode, &InodeRecord::Version(record))
}

fn set_pinned(overlay: &mut Overlay, key: &str, version: Version, pinned: bool) -> Result<()> {
    let Some((inode, record)) = overlay.version(key, version)? else {
        return Err(Error::Inconsistent(format!("{key} has no version {version}")));
    };
    overlay.set(&INODES, inode, &InodeRecord::Version(VersionRecord { pinned, ..record }))
}

/// Gives a version up. It is nobody's newest: no name but its own leads to it.
fn collect(
    overlay: &mut Overlay,
    gone: &CollectedVersion,
    time: u64,
    changes: &mut Changes,
) -> Result<()> {
    let CollectedVersion { key, version, inode } = gone;
    // It may be applied already.
    let Some((found, record)) = overlay.version(key, *version)? else { return Ok(()) };
    if found != *inode {
        return Err(Error::Inconsistent(format!("{key} version {version} is not inode {inode}")));
    }
    let affected = Affected::before(overlay, key, &BTreeSet::new(), &[*version])?;
    overlay.remove(&NAMES, Name::of_version(key, *version));
    overlay.remove(&VERSIONS, (key, *version));
    overlay.remove(&INODES, *inode);
    for payload in [Some(record.sha256), record.source].into_iter().flatten() {
        overlay.remove(&USERS, (&payload, *inode));
    }
    affected.after(overlay, time, changes)
}

/// Takes a payload's records away, and its bytes if they are kept inside; in small pieces, since
/// readers wait for a batch.
fn remove_payload(overlay: &mut Overlay, sha256: &Sha) -> Result<()> {
    overlay.remove_all(&CHUNKS.of(sha256))?;
    overlay.remove_all(&BLOCKS.of(sha256))?;
    overlay.remove(&PAYLOADS, sha256);
    overlay.end_change();
    Ok(())
}

fn remove(
    overlay: &mut Overlay,
    key: &str,
    version: Option<Version>,
    time: u64,
    changes: &mut Changes,
) -> Result<()> {
    let mut gone = Vec::new();
    for number in version.map_or_else(|| overlay.live_versions(key), |version| Ok(vec![version]))? {
        gone.extend(overlay.version(key, number)?);
    }
    let engines: BTreeSet<_> = gone.iter().map(|(_, record)| record.engine).collect();
    let numbers: Vec<_> = gone.iter().map(|(_, record)| record.version).collect();
    let affected = Affected::before(overlay, key, &engines, &numbers)?;
    for (inode, mut record) in gone {
        record.removed = Some(time);
        overlay.remove(&NAMES, Name::of_version(key, record.version));
        overlay.set(&INODES, inode, &InodeRecord::Version(record))?;
    }
    // What is left, newest last: each engine's name leads to its last.
    let mut newest = BTreeMap::new();
    for number in overlay.live_versions(key)? {
        if let Some((inode, record)) = overlay.version(key, number)? {
            newest.insert(record.engine, inode);
        }
    }
    for engine in engines {
        point_engine_name(overlay, engine, key, newest.get(&engine).copied())?;
    }
    point_plain_name(overlay, key)?;
    affected.after(overlay, time, changes)
}

/// Has the name of a key in an engine's view lead to a version, or nowhere; and counts the names.
fn point_engine_name(
    overlay: &mut Overlay,
    engine: EngineNumber,
    key: &str,
    inode: Option<Inode>,
) -> Result<()> {
    let name = Name::in_view(View::Engine(engine), key);
    let before = overlay.get(&NAMES, name)?.is_some();
    let count = overlay.get(&ENGINE_KEYS, engine)?.unwrap_or(0);
    match inode {
        Some(inode) => overlay.set(&NAMES, name, inode)?,
        None => overlay.remove(&NAMES, name),
    }
    match (before, inode.is_some()) {
        (false, true) => overlay.set(&ENGINE_KEYS, engine, &(count + 1)),
        (true, false) if count > 1 => overlay.set(&ENGINE_KEYS, engine, &(count - 1)),
        (true, false) => {
            overlay.remove(&ENGINE_KEYS, engine);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The plain name leads where the name of the key's default engine leads.
fn point_plain_name(overlay: &mut Overlay, key: &str) -> Result<()> {
    let Some(record) = overlay.get(&KEYS, key)? else { return Ok(()) };
    let plain = Name::plain(key);
    match overlay.get(&NAMES, Name::in_view(View::Engine(record.default_engine), key))? {
        Some(inode) => overlay.set(&NAMES, plain, inode)?,
        None => overlay.remove(&NAMES, plain),
    }
    Ok(())
}
