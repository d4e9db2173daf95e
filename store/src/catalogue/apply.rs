//! Applying a change of the history to the catalogue, and finding out which
//! names it changed.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::invalidation::{Changes, Touched};
use super::records::*;
use super::{ENGINES_INODE, ROOT_INODE, Records, Txn, VERSIONS_INODE};
use crate::artifact::engine::{EngineDescription, decode};
use crate::error::{Error, Result};
use crate::history::log::{Blocks, Change, CollectedVersion, Entry, NewDirectory};
use crate::payload::blocks::HASHES_PER_RECORD;
use crate::types::key::join_path;
use crate::types::sha::Sha;

/// Applies `entry`, the end of whose line is at byte `history_len`, as one
/// atomic change of `txn`; one of many keys as one for each, and a last that says that
/// the line is applied.
pub(crate) fn apply(txn: &mut Txn, entry: &Entry, history_len: u64) -> Result<Changes> {
    let mut applied = txn.applied()?;
    let mut changes = Changes::default();
    match &entry.change {
        Change::Create => {
            for (view, inode) in [(View::Keys, ROOT_INODE), (View::Versions, VERSIONS_INODE)] {
                add_directory(txn, view, "", inode, entry.time)?;
            }
            // The directory of engines has no names of its own kind; its time is kept the same way.
            let record =
                DirectoryRecord { view: View::Engine(0), path: String::new(), mtime: entry.time };
            txn.set(inode_key(ENGINES_INODE), &InodeRecord::Directory(record))?;
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
            txn.set(label_key(label), number)?;
            txn.set(fingerprint_key(&description.fingerprint), number)?;
            for (index, piece) in section.chunks(SECTION_PIECE).enumerate() {
                txn.set_bytes(section_key(*number, index as u32), piece.to_vec());
            }
            let known: Option<EngineRecord> = txn.record(&engine_key(*number))?;
            if known.is_none() {
                add_directory(txn, View::Engine(*number), "", *inode, entry.time)?;
            }
            let (told_producer, told_publish) =
                known.map_or((None, 0), |known| (known.producer, known.last_publish));
            let producer = producer.clone().or(told_producer);
            let last_publish = last_publish.unwrap_or(told_publish);
            let label = label.clone();
            let record = EngineRecord { label, description, producer, last_publish };
            txn.set(engine_key(*number), &record)?;
            applied.next_engine = applied.next_engine.max(number + 1);
            applied.next_inode = applied.next_inode.max(inode + 1);
        }
        Change::Alias { name, engine, inode, before } => {
            let touched = Touched::alias_before(txn, name, [Some(*engine), *before])?;
            let link = LinkRecord { target: txn.engine(*engine)?.label, made: entry.time };
            txn.set(inode_key(*inode), &InodeRecord::Alias(link))?;
            txn.set(alias_key(name), &AliasRecord { engine: *engine, inode: *inode })?;
            applied.next_inode = applied.next_inode.max(inode + 1);
            touched.after(txn, entry.time, &mut changes)?;
        }
        Change::Unalias { name, engine } => {
            let touched = Touched::alias_before(txn, name, [Some(*engine), None])?;
            txn.remove(alias_key(name));
            touched.after(txn, entry.time, &mut changes)?;
        }
        Change::Payload { sha256, size, kind, inline, blocks } => {
            let (large_blocks, blocks) = match blocks {
                Blocks::Small(blocks) => (false, blocks),
                Blocks::Large(blocks) => (true, blocks),
            };
            let blocks = BASE64
                .decode(blocks)
                .map_err(|e| Error::Inconsistent(format!("block hashes of {sha256}: {e}")))?;
            for (index, hashes) in blocks.chunks(HASHES_PER_RECORD * 32).enumerate() {
                txn.set_bytes(blocks_key(sha256, index as u32), hashes.to_vec());
            }
            let (size, kind, inline) = (*size, *kind, *inline);
            let record = PayloadRecord { size, kind, inline, large_blocks };
            txn.set(payload_key(sha256), &record)?;
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
            let touched = Touched::before(txn, key, &[*engine].into(), &[*version])?;
            for new in directories {
                add_directory(txn, new.view, &new.path, new.inode, entry.time)?;
                applied.next_inode = applied.next_inode.max(new.inode + 1);
            }
            applied.next_inode = applied.next_inode.max(inode + 1);
            let payload = txn.payload(sha256)?.ok_or_else(|| {
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
            let mut compiled_by = txn.engine(*engine)?;
            compiled_by.last_publish = entry.time;
            txn.set(engine_key(*engine), &compiled_by)?;
            set_version(txn, *inode, record)?;
            let old: Option<KeyRecord> = txn.record(&key_key(key))?;
            let default_engine = match &old {
                Some(old) if !default => old.default_engine,
                _ => *engine,
            };
            txn.set(key_key(key), &KeyRecord { default_engine, last_version: *version })?;
            point_plain_name(txn, key)?;
            touched.after(txn, entry.time, &mut changes)?;
        }
        Change::Origin { key, version, source, producer } => {
            let Some((inode, mut record)) = txn.version(key, *version)? else {
                return Err(Error::Inconsistent(format!("{key} has no version {version}")));
            };
            if let (Some(source), Some(before)) = (source, record.source)
                && *source != before
            {
                txn.remove(user_key(&before, inode));
            }
            record.source = source.or(record.source);
            if let Some(source) = record.source {
                txn.set_bytes(user_key(&source, inode), Vec::new());
            }
            if producer.is_some() {
                record.producer = producer.clone();
                let mut engine = txn.engine(record.engine)?;
                engine.producer = producer.clone();
                txn.set(engine_key(record.engine), &engine)?;
            }
            txn.set(inode_key(inode), &InodeRecord::Version(record))?;
        }
        Change::Remove { key, version } => remove(txn, key, *version, entry.time, &mut changes)?,
        Change::Default { keys, engine } => {
            for key in keys {
                let touched = Touched::before(txn, key, &BTreeSet::new(), &[])?;
                let mut record: KeyRecord = txn
                    .record(&key_key(key))?
                    .ok_or_else(|| Error::Inconsistent(format!("key {key} has no record")))?;
                record.default_engine = *engine;
                txn.set(key_key(key), &record)?;
                point_plain_name(txn, key)?;
                touched.after(txn, entry.time, &mut changes)?;
                // Key by key: one batch for all would have every reader wait for it. What is
                // interrupted is applied again from the start, which changes nothing twice.
                txn.end_change();
            }
        }
        Change::Pin { key, version } => set_pinned(txn, key, *version, true)?,
        Change::Unpin { key, version } => set_pinned(txn, key, *version, false)?,
        Change::Collect { versions, payloads } => {
            // Piece by piece, as with many plain names.
            for gone in versions {
                collect(txn, gone, entry.time, &mut changes)?;
                txn.end_change();
            }
            for sha256 in payloads {
                remove_payload(txn, sha256)?;
            }
        }
        Change::Snapshot { next_inode, next_engine, .. } => {
            applied.next_inode = *next_inode;
            applied.next_engine = *next_engine;
        }
        Change::Directory { directory: NewDirectory { view, path, inode } } => {
            if *inode == ENGINES_INODE {
                let record = DirectoryRecord { view: *view, path: path.clone(), mtime: entry.time };
                txn.set(inode_key(*inode), &InodeRecord::Directory(record))?;
            } else {
                add_directory(txn, *view, path, *inode, entry.time)?;
            }
        }
        Change::Link { inode, target } => {
            let link = LinkRecord { target: target.clone(), made: entry.time };
            txn.set(inode_key(*inode), &InodeRecord::Alias(link))?;
        }
        Change::Key { key, default, last_version } => {
            let record = KeyRecord { default_engine: *default, last_version: *last_version };
            txn.set(key_key(key), &record)?;
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
            set_version(txn, *inode, record)?;
            point_plain_name(txn, key)?;
        }
        Change::SnapshotEnd { .. } => {}
    }
    applied.seq = entry.seq;
    applied.history_len = history_len;
    txn.set(APPLIED.to_vec(), &applied)?;
    txn.end_change();
    Ok(changes)
}

fn add_directory(txn: &mut Txn, view: View, path: &str, inode: u64, time: u64) -> Result<()> {
    txn.set_number(directory_key(view, path), inode);
    let record = DirectoryRecord { view, path: path.to_owned(), mtime: time };
    txn.set(inode_key(inode), &InodeRecord::Directory(record))
}

/// Puts a version in, newer than any other of its engine; its names lead to it unless they were
/// taken away.
fn set_version(txn: &mut Txn, inode: u64, record: VersionRecord) -> Result<()> {
    let VersionRecord { key, version, engine, .. } = &record;
    txn.set_number(version_key(key, *version), inode);
    if record.removed.is_none() {
        txn.set_number(name_key(View::Versions, key, *version), inode);
        txn.set_number(name_key(View::Engine(*engine), key, 0), inode);
    }
    for payload in [Some(record.sha256), record.source].into_iter().flatten() {
        txn.set_bytes(user_key(&payload, inode), Vec::new());
    }
    txn.set(inode_key(inode), &InodeRecord::Version(record))
}

fn set_pinned(txn: &mut Txn, key: &str, version: u64, pinned: bool) -> Result<()> {
    let Some((inode, record)) = txn.version(key, version)? else {
        return Err(Error::Inconsistent(format!("{key} has no version {version}")));
    };
    txn.set(inode_key(inode), &InodeRecord::Version(VersionRecord { pinned, ..record }))
}

/// Gives a version up. It is nobody's newest: no name but its own leads to it.
fn collect(txn: &mut Txn, gone: &CollectedVersion, time: u64, changes: &mut Changes) -> Result<()> {
    let CollectedVersion { key, version, inode } = gone;
    // It may be applied already.
    let Some((found, record)) = txn.version(key, *version)? else { return Ok(()) };
    if found != *inode {
        return Err(Error::Inconsistent(format!("{key} version {version} is not inode {inode}")));
    }
    let touched = Touched::before(txn, key, &BTreeSet::new(), &[*version])?;
    txn.remove(name_key(View::Versions, key, *version));
    txn.remove(version_key(key, *version));
    txn.remove(inode_key(*inode));
    for payload in [Some(record.sha256), record.source].into_iter().flatten() {
        txn.remove(user_key(&payload, *inode));
    }
    touched.after(txn, time, changes)
}

/// Takes a payload's records away, and its bytes if they are kept inside; in small pieces, since
/// whoever reads waits for a batch.
fn remove_payload(txn: &mut Txn, sha256: &Sha) -> Result<()> {
    for prefix in [chunks_prefix(sha256), blocks_prefix(sha256)] {
        let mut keys = Vec::new();
        super::for_each_under(txn, &prefix, |key, _| {
            keys.push(key.to_vec());
            Ok(())
        })?;
        for key in keys {
            txn.remove(key);
            txn.end_change();
        }
    }
    txn.remove(payload_key(sha256));
    txn.end_change();
    Ok(())
}

fn remove(
    txn: &mut Txn,
    key: &str,
    version: Option<u64>,
    time: u64,
    changes: &mut Changes,
) -> Result<()> {
    let mut gone = Vec::new();
    for number in version.map_or_else(|| live_versions(txn, key), |version| Ok(vec![version]))? {
        gone.extend(txn.version(key, number)?);
    }
    let engines: BTreeSet<_> = gone.iter().map(|(_, record)| record.engine).collect();
    let numbers: Vec<_> = gone.iter().map(|(_, record)| record.version).collect();
    let touched = Touched::before(txn, key, &engines, &numbers)?;
    for (inode, mut record) in gone {
        record.removed = Some(time);
        txn.remove(name_key(View::Versions, key, record.version));
        txn.set(inode_key(inode), &InodeRecord::Version(record))?;
    }
    // What is left, newest last: each engine's name leads to its last.
    let mut newest = BTreeMap::new();
    for number in live_versions(txn, key)? {
        if let Some((inode, record)) = txn.version(key, number)? {
            newest.insert(record.engine, inode);
        }
    }
    for engine in engines {
        let name = name_key(View::Engine(engine), key, 0);
        match newest.get(&engine) {
            Some(inode) => txn.set_number(name, *inode),
            None => txn.remove(name),
        }
    }
    point_plain_name(txn, key)?;
    touched.after(txn, time, changes)
}

/// The numbers of a key's versions that were not removed, oldest first.
pub(crate) fn live_versions(records: &impl Records, key: &str) -> Result<Vec<u64>> {
    let prefix = name_key(View::Versions, key, 0);
    let prefix = &prefix[..prefix.len() - 8];
    let mut numbers = Vec::new();
    super::for_each_under(records, prefix, |name, _| {
        numbers.push(super::be_u64(&name[prefix.len()..])?);
        Ok(())
    })?;
    Ok(numbers)
}

/// The plain name leads where the name of the key's default engine leads.
fn point_plain_name(txn: &mut Txn, key: &str) -> Result<()> {
    let Some(record) = txn.record::<KeyRecord>(&key_key(key))? else { return Ok(()) };
    let plain = name_key(View::Keys, key, 0);
    match txn.number(&name_key(View::Engine(record.default_engine), key, 0))? {
        Some(inode) => txn.set_number(plain, inode),
        None => txn.remove(plain),
    }
    Ok(())
}

/// The inode number of a directory that shows, that is, with a live name under it.
/// The roots of the views of keys and versions always show, that of an engine while it has an alias.
pub(crate) fn live_directory(
    records: &impl Records,
    view: View,
    path: &str,
) -> Result<Option<u64>> {
    let under = if path.is_empty() { String::new() } else { join_path(path, "") };
    let shows = records.any_under(&names_prefix(view, &under))?
        || path.is_empty()
            && match view {
                View::Keys | View::Versions => true,
                // An environment's directory is there before anything is published for it.
                View::Engine(number) => {
                    records.aliases()?.iter().any(|(_, alias)| alias.engine == number)
                }
            };
    if shows { records.number(&directory_key(view, path)) } else { Ok(None) }
}
