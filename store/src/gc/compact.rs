//! Compaction: the history written anew, as what all its lines came to; and the
//! catalogue copied, when sled keeps too much room for it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::catalogue::records::*;
use crate::catalogue::{
    Catalogue, Records, be_u64, catch_up, decode, for_each_under, from_history, scratch,
};
use crate::error::{Error, IoContext, Result};
use crate::history::log::{Change, Entry, History, NewDirectory, line_of, new_file};
use crate::payload::staging::sha_of_key;
use crate::store::open::{HISTORY, Store};

/// A history is compacted if that leaves less than this part of its lines.
const WORTHWHILE: f64 = 0.5;
/// Shorter histories are left alone: readable files of a few seconds of publishing.
const SHORT: u64 = 1000;

/// How many times its content a catalogue may take on the disk.
const SLED_OVERHEAD: u64 = 3;
/// Smaller catalogues are left alone, in bytes: sled works in segments of 512 KiB.
const SMALL_CATALOGUE: u64 = 16 << 20;

/// What compaction did, of the history or of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// The length before, in bytes.
    pub before: u64,
    /// After.
    pub after: u64,
}

impl Store {
    /// Writes the history anew, as what its lines came to, if much of it is about what is gone,
    /// or if it is `wanted` anyway. Puts the new one in the old one's place atomically. Every kernel cache has to
    /// know of change number `told`, and nothing may have happened since; else nothing is done.
    ///
    /// What the lines come to is found out anew: should sled have lost records, they are not lost
    /// to the history as well.
    pub fn compact(&self, told: u64, wanted: bool) -> Result<Option<Compacted>> {
        self.compact_if(&|last| last == told, wanted)
    }

    /// The same, if `is_told` says of the last change that every kernel cache knows of it; it is
    /// asked with the right to write.
    pub fn compact_if(
        &self,
        is_told: &dyn Fn(u64) -> bool,
        wanted: bool,
    ) -> Result<Option<Compacted>> {
        let lines = self.writer().lines()?;
        if !wanted && !is_worthwhile(&*self.catalogue()?, lines)? {
            return Ok(None);
        }
        let path = self.dir().join(HISTORY);
        let size = path.metadata().at("reading", &path)?.len();
        let place = scratch(self.dir(), size)?;
        let truth = from_history(place.path(), &mut History::look(&path)?)?;
        // Most of what was committed meanwhile, and the rest while nobody commits.
        catch_up(&truth, &mut History::look(&path)?, 0)?;
        let (mut writer, planned) = self.begin()?;
        catch_up(&truth, &mut History::look(&path)?, 0)?;
        let last = writer.end().1;
        if !is_told(last) || truth.applied()?.seq != last {
            return Ok(None);
        }
        let live = planned.txn.base().clone();
        drop(planned);
        self.put_snapshot(&mut writer, &truth, &live).map(Some)
    }

    /// Writes the history anew as what the catalogue has, which is trusted to have all of it.
    pub(crate) fn write_history_anew(&self) -> Result<Compacted> {
        let (mut writer, planned) = self.begin()?;
        let live = planned.txn.base().clone();
        drop(planned);
        self.put_snapshot(&mut writer, &live, &live)
    }

    /// Puts a snapshot of `truth` in the history's place, and notes in the catalogue in use, `live`,
    /// that it has all of it.
    fn put_snapshot(
        &self,
        writer: &mut History,
        truth: &Catalogue,
        live: &Catalogue,
    ) -> Result<Compacted> {
        let (before, last) = writer.end();
        let path = writer.successor();
        let file = new_file(&path)?;
        let (len, seq) = write_snapshot(truth, &file, last).inspect_err(|_| {
            // Half a file has no use; if it stays, the next compaction starts it over.
            let _ = fs::remove_file(&path);
        })?;
        let applied = Applied { seq, history_len: len, ..live.applied()? };
        writer.replace(file, len, seq)?;
        // Should this be lost, opening finds out: the snapshot stands for what was applied.
        live.note_applied(&applied)?;
        Ok(Compacted { before, after: len })
    }
}

impl Store {
    /// Copies the catalogue if that leaves much less of it on the disk: sled gives nothing back.
    /// Readers wait for the moment in which the copy is opened.
    pub fn shrink(&self) -> Result<Option<Compacted>> {
        let (mut writer, planned) = self.begin()?;
        let catalogue = planned.txn.base().clone();
        drop(planned);
        let before = size_of(catalogue.path())?;
        let content = catalogue.content()?;
        if before < SMALL_CATALOGUE || before < content.saturating_mul(SLED_OVERHEAD) {
            return Ok(None);
        }
        self.check_free_space(content.saturating_mul(2))?;
        crate::catalogue::copy(&catalogue, self.dir())?;
        drop(catalogue);
        if !self.take_copy(&mut writer)? {
            return Ok(None);
        }
        let after = size_of(&self.dir().join("db"))?;
        Ok(Some(Compacted { before, after }))
    }
}

/// How much disk a directory of files takes, in bytes.
fn size_of(dir: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir).at("reading", dir)? {
        let metadata = entry.and_then(|entry| entry.metadata()).at("reading", dir)?;
        size += metadata.blocks() * 512;
    }
    Ok(size)
}

fn is_worthwhile(catalogue: &Catalogue, lines: u64) -> Result<bool> {
    if lines < SHORT {
        return Ok(false);
    }
    let limit = (lines as f64 * WORTHWHILE) as u64;
    let mut needed = 0;
    for prefix in [b"i", b"k", b"p", b"e", b"a"] {
        for entry in catalogue.scan(prefix) {
            entry?;
            needed += 1;
            if needed > limit {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Writes what the catalogue knows after change number `before` as a history, and returns its length
/// in bytes and its last sequence number.
pub(crate) fn write_snapshot(
    catalogue: &Catalogue,
    file: &File,
    before: u64,
) -> Result<(u64, u64)> {
    let mut snapshot = Snapshot { out: BufWriter::new(file), before, seq: before, len: 0 };
    snapshot.write(catalogue)?;
    snapshot.out.flush().map_err(unwritten)?;
    Ok((snapshot.len, snapshot.seq))
}

fn unwritten(source: std::io::Error) -> Error {
    Error::Io { action: "writing", path: "a compacted history".into(), source }
}

struct Snapshot<W> {
    out: W,
    /// The last line that it stands for.
    before: u64,
    seq: u64,
    len: u64,
}

impl<W: Write> Snapshot<W> {
    fn line(&mut self, time: u64, change: Change) -> Result<()> {
        self.seq += 1;
        let line = line_of(&Entry { seq: self.seq, after: self.before, time, change })?;
        self.len += line.len() as u64;
        self.out.write_all(&line).map_err(unwritten)
    }

    /// Everything that the catalogue knows, in an order in which it can be applied.
    fn write(&mut self, catalogue: &Catalogue) -> Result<()> {
        let Applied { next_inode, next_engine, .. } = catalogue.applied()?;
        let before = self.before;
        self.line(crate::store::open::now(), Change::Snapshot { before, next_inode, next_engine })?;
        self.engines(catalogue)?;
        for entry in catalogue.scan(b"p") {
            let (key, value) = entry?;
            let sha256 = sha_of_key(&key)?;
            let record: PayloadRecord = decode(&value)?;
            let mut blocks = Vec::new();
            for_each_under(catalogue, &blocks_prefix(&sha256), |_, hashes| {
                blocks.extend_from_slice(hashes);
                Ok(())
            })?;
            self.line(0, Change::payload(sha256, &record, &blocks))?;
        }
        for entry in catalogue.scan(b"k") {
            let (key, value) = entry?;
            let key = String::from_utf8_lossy(&key[1..]).into_owned();
            let KeyRecord { default_engine: default, last_version } = decode(&value)?;
            self.line(0, Change::Key { key: key.clone(), default, last_version })?;
            for version in catalogue.scan(&versions_prefix(&key)) {
                self.version(catalogue, be_u64(&version?.1)?)?;
            }
        }
        // Last, since the times of directories are what they are.
        for entry in catalogue.scan(b"i") {
            let (key, value) = entry?;
            let inode = be_u64(&key[1..])?;
            if let InodeRecord::Directory(DirectoryRecord { view, path, mtime }) = decode(&value)? {
                let directory = NewDirectory { view, path, inode };
                self.line(mtime, Change::Directory { directory })?;
            }
        }
        self.line(crate::store::open::now(), Change::SnapshotEnd { before })
    }

    fn engines(&mut self, catalogue: &Catalogue) -> Result<()> {
        for entry in catalogue.scan(&engines_prefix()) {
            let (key, value) = entry?;
            let number = crate::store::engines::engine_number_of(&key)?;
            let EngineRecord { label, description, producer, last_publish } = decode(&value)?;
            let mut section = Vec::new();
            for_each_under(catalogue, &section_prefix(number), |_, piece| {
                section.extend_from_slice(piece);
                Ok(())
            })?;
            let inode = catalogue.number(&directory_key(View::Engine(number), ""))?;
            let inode =
                inode.ok_or_else(|| Error::Inconsistent(format!("{label} has no inode")))?;
            let (section, last_publish) = (BASE64.encode(section), Some(last_publish));
            let engine = Change::Engine {
                number,
                inode,
                label,
                description,
                section,
                producer,
                last_publish,
            };
            self.line(0, engine)?;
        }
        for entry in catalogue.scan(b"i") {
            let (key, value) = entry?;
            if let InodeRecord::Alias(LinkRecord { target, made }) = decode(&value)? {
                self.line(made, Change::Link { inode: be_u64(&key[1..])?, target })?;
            }
        }
        for (name, AliasRecord { engine, inode }) in catalogue.aliases()? {
            let made = match catalogue.inode(inode)? {
                Some(InodeRecord::Alias(link)) => link.made,
                _ => return Err(Error::Inconsistent(format!("alias {name} has no link"))),
            };
            self.line(made, Change::Alias { name, engine, inode, before: None })?;
        }
        Ok(())
    }

    fn version(&mut self, catalogue: &Catalogue, inode: u64) -> Result<()> {
        let record = catalogue.version_at(inode)?;
        let change = Change::Version {
            key: record.key,
            version: record.version,
            inode,
            sha256: record.sha256,
            size: record.size,
            engine: record.engine,
            rollback_of: record.rollback_of,
            removed: record.removed,
            pinned: record.pinned,
            source: record.source,
            producer: record.producer,
        };
        self.line(record.published, change)
    }
}
