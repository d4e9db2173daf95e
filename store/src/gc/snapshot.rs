//! A snapshot: lines that say what all lines of a history came to.

use std::fs::File;
use std::io::{BufWriter, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::catalogue::tables::{
    AliasRecord, Applied, BLOCKS, DirectoryRecord, ENGINES, EngineRecord, INODES, InodeRecord,
    KEYS, KeyRecord, LinkRecord, PAYLOADS, VERSIONS,
};
use crate::catalogue::{Catalogue, Records};
use crate::disk::clock::now;
use crate::error::{Error, Result};
use crate::history::{Change, End, LogEntry, NewDirectory, line_of};
use crate::store::section_of;
use crate::types::{Inode, Sequence, View};

/// Writes what the catalogue knows after change number `before` as a history, and says where
/// it ends.
pub(crate) fn write_snapshot(catalogue: &Catalogue, file: &File, before: Sequence) -> Result<End> {
    let mut snapshot = Snapshot { out: BufWriter::new(file), before, seq: before, len: 0 };
    snapshot.write(catalogue)?;
    snapshot.out.flush().map_err(unwritten)?;
    Ok(End { len: snapshot.len, seq: snapshot.seq })
}

fn unwritten(source: std::io::Error) -> Error {
    Error::Io { action: "writing", path: "a compacted history".into(), source }
}

struct Snapshot<W> {
    out: W,
    /// The last line that it stands for.
    before: Sequence,
    seq: Sequence,
    len: u64,
}

impl<W: Write> Snapshot<W> {
    fn line(&mut self, time: u64, change: Change) -> Result<()> {
        self.seq = self.seq.next();
        let line = line_of(&LogEntry { seq: self.seq, after: self.before, time, change })?;
        self.len += line.len() as u64;
        self.out.write_all(&line).map_err(unwritten)
    }

    /// Everything that the catalogue knows, in an order in which it can be applied.
    fn write(&mut self, catalogue: &Catalogue) -> Result<()> {
        let Applied { next_inode, next_engine, .. } = catalogue.applied()?;
        let before = self.before;
        self.line(now(), Change::Snapshot { before, next_inode, next_engine })?;
        self.engines(catalogue)?;
        for row in catalogue.scan(&PAYLOADS.all()) {
            let row = row?;
            let sha256 = row.key()?;
            let mut blocks = Vec::new();
            catalogue.for_each(&BLOCKS.of(&sha256), |row| {
                blocks.extend_from_slice(row.raw_value());
                Ok(())
            })?;
            self.line(0, row.value()?.change(sha256, &blocks))?;
        }
        for row in catalogue.scan(&KEYS.all()) {
            let row = row?;
            let key = row.key()?;
            let KeyRecord { default_engine: default, last_version } = row.value()?;
            self.line(0, Change::Key { key: key.clone(), default, last_version })?;
            for version in catalogue.scan(&VERSIONS.of(&key)) {
                self.version(catalogue, version?.value()?)?;
            }
        }
        // Last, since the times of directories are what they are.
        for row in catalogue.scan(&INODES.all()) {
            let row = row?;
            let inode = row.key()?;
            if let InodeRecord::Directory(DirectoryRecord { view, path, mtime }) = row.value()? {
                let directory = NewDirectory { view, path, inode };
                self.line(mtime, Change::Directory { directory })?;
            }
        }
        self.line(now(), Change::SnapshotEnd { before })
    }

    fn engines(&mut self, catalogue: &Catalogue) -> Result<()> {
        for row in catalogue.scan(&ENGINES.all()) {
            let row = row?;
            let number = row.key()?;
            let EngineRecord { label, description, producer, last_publish } = row.value()?;
            let section = section_of(catalogue, number)?;
            let inode = catalogue.directory(View::Engine(number), "")?;
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
        for row in catalogue.scan(&INODES.all()) {
            let row = row?;
            if let InodeRecord::Alias(LinkRecord { target, made }) = row.value()? {
                self.line(made, Change::Link { inode: row.key()?, target })?;
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

    fn version(&mut self, catalogue: &Catalogue, inode: Inode) -> Result<()> {
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
