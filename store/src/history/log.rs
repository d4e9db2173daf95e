//! The history: the append-only file that is the commit.
//!
//! One line a change: `{"sum":"<16 hex digits>","entry":{…}}`, where the sum
//! is the start of the sha256 of the entry's text. A change is committed when
//! its line is on disk; everything else is derived from it. Several changes
//! are appended with one fsync, and each says which one was the last on disk
//! before them (`after`): so a line that can't be read was never acknowledged
//! unless a later line counts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::artifact::engine::EngineDescription;
use crate::artifact::inspect::ArtifactKind;
use crate::catalogue::records::{EngineNumber, PayloadRecord, View};
use crate::catalogue::sync_dir;
use crate::error::{Error, IoContext, Result};
use crate::maintenance::archive::{Listed, list};
use crate::types::sha::Sha;

/// One committed change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// The last sequence number known to be on disk when this was written.
    pub after: u64,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// What a line of the history says. It gives every number that was decided, so
/// that applying it again gives the same catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Change {
    /// The store was made.
    Create,
    /// An engine was seen for the first time.
    Engine {
        /// Its number in this store.
        number: EngineNumber,
        /// The inode number of its directory in the mount.
        inode: u64,
        /// Its name in the mount.
        label: String,
        /// What its artifacts say of it.
        description: EngineDescription,
        /// The section of its artifacts that says so, base64.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        section: String,
        /// In a snapshot: what compiled the last of its versions of which that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        producer: Option<String>,
        /// In a snapshot: when a version of it was last published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_publish: Option<u64>,
    },
    /// An engine got another name in the mount.
    Alias {
        /// The name.
        name: String,
        /// The engine's number.
        engine: EngineNumber,
        /// The inode number of the symbolic link.
        inode: u64,
        /// The engine that had the name before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<EngineNumber>,
    },
    /// Such a name was taken away.
    Unalias {
        /// The name.
        name: String,
        /// The engine that had it.
        engine: EngineNumber,
    },
    /// The bytes of an artifact, or of a source, are durable.
    Payload {
        /// Its sha256.
        sha256: Sha,
        /// Its size in bytes.
        size: u64,
        /// Module or component, compiled or not.
        kind: ArtifactKind,
        /// Whether it is kept inside sled.
        inline: bool,
        /// The hashes of its blocks.
        #[serde(flatten)]
        blocks: Blocks,
    },
    /// A version of a key.
    Publish {
        /// The key.
        key: String,
        /// The version number.
        version: u64,
        /// The version's inode number.
        inode: u64,
        /// The payload.
        sha256: Sha,
        /// The engine's number.
        engine: EngineNumber,
        /// Whether the plain name moves to this engine.
        default: bool,
        /// The version whose payload a rollback brings back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollback_of: Option<u64>,
        /// Directories that get their inode number here.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        directories: Vec<NewDirectory>,
    },
    /// Where the bytes of a version come from, as far as it is known.
    Origin {
        /// The key.
        key: String,
        /// The version number.
        version: u64,
        /// The payload that is the WebAssembly it was compiled from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Sha>,
        /// What compiled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        producer: Option<String>,
    },
    /// Names were taken away.
    Remove {
        /// The key.
        key: String,
        /// One version, or all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    /// Plain names moved to another engine.
    Default {
        /// The keys.
        #[serde(alias = "key", deserialize_with = "one_or_many")]
        keys: Vec<String>,
        /// The engine's number.
        engine: EngineNumber,
    },
    /// A version was protected from collection.
    Pin {
        /// The key.
        key: String,
        /// The version number.
        version: u64,
    },
    /// It isn't any more.
    Unpin {
        /// The key.
        key: String,
        /// The version number.
        version: u64,
    },
    /// What nobody needs any more was given up.
    Collect {
        /// Versions: names, numbers, and all.
        versions: Vec<CollectedVersion>,
        /// Payloads.
        payloads: Vec<Sha>,
    },
    /// The first line of a compacted history: what follows, up to
    /// [`Change::SnapshotEnd`], is what all the lines before came to.
    Snapshot {
        /// The last line that it stands for.
        before: u64,
        /// The next inode number to give.
        next_inode: u64,
        /// The next engine number to give.
        next_engine: EngineNumber,
    },
    /// In a snapshot: a directory.
    Directory {
        /// The directory.
        #[serde(flatten)]
        directory: NewDirectory,
    },
    /// In a snapshot: a symbolic link that was made at the line's time.
    Link {
        /// Its inode number.
        inode: u64,
        /// What it says.
        target: String,
    },
    /// In a snapshot: a key. Its versions follow.
    Key {
        /// The key.
        key: String,
        /// The engine that the plain name serves.
        default: EngineNumber,
        /// The last version number given.
        last_version: u64,
    },
    /// In a snapshot: a version that was published at the line's time.
    Version {
        /// The key.
        key: String,
        /// The version number.
        version: u64,
        /// Its inode number.
        inode: u64,
        /// The payload.
        sha256: Sha,
        /// The payload's size in bytes.
        size: u64,
        /// The engine's number.
        engine: EngineNumber,
        /// The version whose payload a rollback brought back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollback_of: Option<u64>,
        /// When its names were taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        removed: Option<u64>,
        /// Whether it is protected from collection.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pinned: bool,
        /// The payload that is the WebAssembly it was compiled from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Sha>,
        /// What compiled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        producer: Option<String>,
    },
    /// The last line of a snapshot.
    SnapshotEnd {
        /// The last line that the snapshot stands for.
        before: u64,
    },
}

/// sha256 of each block of a payload, in order, base64. A line has one of these, or can't be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Blocks {
    /// Blocks of 32 KiB; from format 2 on.
    #[serde(rename = "blocks32k")]
    Small(String),
    /// Blocks of 128 KiB, as they once were.
    #[serde(rename = "blocks")]
    Large(String),
}

impl Change {
    /// That a payload with these block hashes is durable.
    pub(crate) fn payload(sha256: Sha, record: &PayloadRecord, hashes: &[u8]) -> Change {
        let PayloadRecord { size, kind, inline, large_blocks } = *record;
        let hashes = BASE64.encode(hashes);
        let blocks = if large_blocks { Blocks::Large(hashes) } else { Blocks::Small(hashes) };
        Change::Payload { sha256, size, kind, inline, blocks }
    }
}

/// A version that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectedVersion {
    /// The key.
    pub key: String,
    /// The version number.
    pub version: u64,
    /// Its inode number.
    pub inode: u64,
}

/// A list, or the one name that stood in its place.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Names::deserialize(from)? {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    })
}

/// A directory that gets its inode number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewDirectory {
    /// The view it belongs to.
    pub view: View,
    /// Its path in the view.
    pub path: String,
    /// Its inode number, for ever.
    pub inode: u64,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sum: String,
    #[serde(borrow)]
    entry: &'a RawValue,
}

fn checksum(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes the file at `path`, or empties it: what is to take a history's place.
pub(crate) fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    options.open(path).at("making", path)
}

impl Entry {
    fn starts_snapshot(&self) -> bool {
        matches!(self.change, Change::Snapshot { before, .. } if self.seq == before + 1)
    }
}

/// The line of an entry, with its newline.
pub(crate) fn line_of(entry: &Entry) -> Result<Vec<u8>> {
    let encode = || {
        let entry = serde_json::value::to_raw_value(entry)?;
        let mut line = serde_json::to_vec(&Line { sum: checksum(entry.get()), entry: &entry })?;
        line.push(b'\n');
        Ok(line)
    };
    encode().map_err(|e: serde_json::Error| {
        Error::Inconsistent(format!("encoding a history line: {e}"))
    })
}

/// Why a line gives no entry.
enum BadLine {
    /// It is not what was written: torn, or damaged.
    Unreadable(String),
    /// It is what was written, by a wasmfs that knows more.
    Unknown(String),
}

fn decode(line: &[u8]) -> std::result::Result<Entry, BadLine> {
    let unreadable = |reason: &str| BadLine::Unreadable(reason.to_owned());
    let text = line.strip_suffix(b"\n").ok_or_else(|| unreadable("the line is cut short"))?;
    let line: Line<'_> =
        serde_json::from_slice(text).map_err(|e| BadLine::Unreadable(e.to_string()))?;
    if checksum(line.entry.get()) != line.sum {
        return Err(unreadable("the checksum doesn't match"));
    }
    serde_json::from_str(line.entry.get()).map_err(|e| BadLine::Unknown(e.to_string()))
}

fn newer(reason: &str) -> String {
    format!("a newer wasmfs may have written it ({reason})")
}

/// What a history file has, read from its start to its last whole line.
pub(crate) struct Listing {
    /// The file, at its start.
    pub(crate) file: File,
    /// The length of what was read, in bytes.
    pub(crate) len: u64,
    /// How many changes there are.
    pub(crate) changes: u64,
    /// The payloads that are left at the end.
    pub(crate) payloads: BTreeMap<Sha, Listed>,
}

impl Listing {
    /// Reads the file at `path`, which may be in use. Every line but the last must be whole.
    pub(crate) fn read(path: &Path) -> Result<Listing> {
        let mut file = File::open(path).at("opening", path)?;
        let mut reader = BufReader::with_capacity(1 << 16, &file);
        let (mut line, mut len, mut changes) = (Vec::new(), 0, 0);
        let mut payloads = BTreeMap::new();
        while reader.read_until(b'\n', &mut line).at("reading", path)? > 0 {
            match decode(&line) {
                Ok(entry) => list(&mut payloads, &entry.change),
                // Somebody is just writing it.
                Err(_) if !line.ends_with(b"\n") => break,
                Err(BadLine::Unknown(reason) | BadLine::Unreadable(reason)) => {
                    return Err(Error::HistoryDamaged {
                        path: path.to_owned(),
                        offset: len,
                        reason,
                    });
                }
            }
            len += line.len() as u64;
            changes += 1;
            line.clear();
        }
        file.seek(SeekFrom::Start(0)).at("reading", path)?;
        Ok(Listing { file, len, changes, payloads })
    }
}

/// The open history file. Reading happens while opening, writing afterwards.
pub(crate) struct History {
    path: PathBuf,
    file: File,
    /// The length of all lines that are on disk, in bytes.
    len: u64,
    /// The last sequence number on disk.
    seq: u64,
    /// Set when an error leaves the end of the file uncertain.
    poisoned: bool,
    /// Nothing is cut off: somebody else may be writing it.
    looking: bool,
}

impl History {
    /// Opens the file, making it if it is missing. Nothing is read yet.
    pub(crate) fn open(path: &Path) -> Result<History> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let (file, poisoned) = match options.open(path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => (File::open(path), true),
            file => (file, false),
        };
        let file = file.at("opening", path)?;
        Ok(History { path: path.to_owned(), file, len: 0, seq: 0, poisoned, looking: false })
    }

    /// Opens the file to be read only, whoever else writes it.
    pub(crate) fn look(path: &Path) -> Result<History> {
        let file = File::open(path).at("opening", path)?;
        let path = path.to_owned();
        Ok(History { path, file, len: 0, seq: 0, poisoned: true, looking: true })
    }

    /// How many lines there are.
    pub(crate) fn lines(&mut self) -> Result<u64> {
        self.file.seek(SeekFrom::Start(0)).at("reading", &self.path)?;
        let mut line = Vec::new();
        BufReader::new(&self.file).read_until(b'\n', &mut line).at("reading", &self.path)?;
        let first = decode(&line).map_or(1, |entry| entry.seq);
        Ok(self.seq.saturating_sub(first) + 1)
    }

    /// The length in bytes and the last sequence number of what was read or written.
    pub(crate) fn end(&self) -> (u64, u64) {
        (self.len, self.seq)
    }

    /// Whether a line with this sequence number ends at byte `len`.
    pub(crate) fn has_line_ending_at(&mut self, len: u64, seq: u64) -> Result<bool> {
        if len == 0 {
            return Ok(seq == 0);
        }
        let size = self.file.metadata().at("reading", &self.path)?.len();
        if size < len {
            return Ok(false);
        }
        let start = self.start_of_line(len).at("reading", &self.path)?;
        self.file.seek(SeekFrom::Start(start)).at("reading", &self.path)?;
        let mut line = Vec::new();
        BufReader::new(&self.file).read_until(b'\n', &mut line).at("reading", &self.path)?;
        Ok(start + line.len() as u64 == len && decode(&line).is_ok_and(|entry| entry.seq == seq))
    }

    /// The end of the snapshot that the file starts with, if that stands for all lines up to
    /// number `seq` and no others: its length in bytes and its last sequence number.
    pub(crate) fn snapshot_of(&mut self, seq: u64) -> Result<Option<(u64, u64)>> {
        self.file.seek(SeekFrom::Start(0)).at("reading", &self.path)?;
        let mut reader = BufReader::with_capacity(1 << 16, &self.file);
        let (mut line, mut len) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).at("reading", &self.path)? > 0 {
            let Ok(entry) = decode(&line) else { return Ok(None) };
            if len == 0 && !(entry.starts_snapshot() && entry.seq == seq + 1) {
                return Ok(None);
            }
            len += line.len() as u64;
            if let Change::SnapshotEnd { .. } = entry.change {
                return Ok(Some((len, entry.seq)));
            }
            line.clear();
        }
        Ok(None)
    }

    /// Where the line that ends at byte `end` starts.
    fn start_of_line(&self, end: u64) -> io::Result<u64> {
        use std::os::unix::fs::FileExt;
        let mut before = end.saturating_sub(1);
        let mut buf = [0; 4096];
        while before > 0 {
            let n = before.min(buf.len() as u64);
            let piece = &mut buf[..n as usize];
            self.file.read_exact_at(piece, before - n)?;
            if let Some(at) = piece.iter().rposition(|&b| b == b'\n') {
                return Ok(before - n + at as u64 + 1);
            }
            before -= n;
        }
        Ok(0)
    }

    /// Reads every line from byte `from`, whose predecessor has sequence number
    /// `seq`, and hands each to `apply` with the length of the file up to its end.
    /// A tail that was never acknowledged is cut off; lines up to `acknowledged`
    /// must be there.
    pub(crate) fn replay(
        &mut self,
        from: u64,
        seq: u64,
        acknowledged: u64,
        mut apply: impl FnMut(&Entry, u64) -> Result<()>,
    ) -> Result<()> {
        (self.len, self.seq) = (from, seq);
        self.file.seek(SeekFrom::Start(from)).at("reading", &self.path)?;
        let file = self.file.try_clone().at("reading", &self.path)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        let mut unreadable: Option<String> = None;
        let mut in_snapshot = false;
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).at("reading", &self.path)? == 0 {
                break;
            }
            if self.looking && !line.ends_with(b"\n") {
                // Whoever writes it is not done.
                break;
            }
            match (decode(&line), &unreadable) {
                (Ok(entry), None)
                    if entry.seq == self.seq + 1 || self.len == 0 && entry.starts_snapshot() =>
                {
                    self.len += line.len() as u64;
                    self.seq = entry.seq;
                    match entry.change {
                        Change::Snapshot { .. } => in_snapshot = true,
                        Change::SnapshotEnd { .. } => in_snapshot = false,
                        _ => {}
                    }
                    apply(&entry, self.len)?;
                }
                // A whole line where it can't belong is no unfinished end.
                (Ok(entry), None) => {
                    return Err(
                        self.damaged(format!("line {} follows line {}", entry.seq, self.seq))
                    );
                }
                (Err(BadLine::Unknown(reason)), _) => {
                    return Err(self.damaged(newer(&reason)));
                }
                (Err(BadLine::Unreadable(reason)), None) => unreadable = Some(reason),
                // A readable line that counts on what can't be read: it was acknowledged.
                (Ok(entry), Some(reason)) if entry.after > self.seq => {
                    return Err(self.damaged(reason.clone()));
                }
                (_, Some(_)) => {}
            }
        }
        if in_snapshot {
            // It was put in place whole.
            let reason = unreadable.unwrap_or_else(|| "it ends there".into());
            return Err(self.damaged(format!("{reason}; a snapshot has no end")));
        }
        if self.seq < acknowledged {
            let reason = unreadable.unwrap_or_else(|| "it ends there".into());
            return Err(self.damaged(format!("{reason}; line {acknowledged} was acknowledged")));
        }
        if let Some(reason) = unreadable
            && !self.looking
        {
            log::warn!(
                "{}: cutting off an unfinished end at byte {} ({reason})",
                self.path.display(),
                self.len
            );
            if let Err(e) = self.truncate() {
                log::error!("{}: {e}", self.path.display());
                self.poisoned = true;
            }
        }
        Ok(())
    }

    /// Checks that this build knows every change in the file at `path`. What
    /// can't be read at all is left to [`History::replay`]: the end may be under way.
    pub(crate) fn check(path: &Path) -> Result<()> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.at("opening", path)?,
        };
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        let mut offset = 0;
        while reader.read_until(b'\n', &mut line).at("reading", path)? > 0 {
            if let Err(BadLine::Unknown(reason)) = decode(&line) {
                let reason = newer(&reason);
                return Err(Error::HistoryDamaged { path: path.to_owned(), offset, reason });
            }
            offset += line.len() as u64;
            line.clear();
        }
        Ok(())
    }

    /// Hands every line of the file at `path` to `each`: the change, or why it can't be read.
    pub(crate) fn salvage(
        path: &Path,
        mut each: impl FnMut(std::result::Result<Entry, String>),
    ) -> Result<()> {
        let file = File::open(path).at("opening", path)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).at("reading", path)? > 0 {
            each(decode(&line).map_err(|bad| match bad {
                BadLine::Unreadable(reason) | BadLine::Unknown(reason) => reason,
            }));
            line.clear();
        }
        Ok(())
    }

    /// Those of `payloads` that a version has, or was compiled from, at the end of the file at
    /// `path`; and those that were given up.
    pub(crate) fn used(
        path: &Path,
        payloads: BTreeSet<Sha>,
    ) -> Result<(BTreeSet<Sha>, BTreeSet<Sha>)> {
        let mut users: BTreeMap<(String, u64), BTreeSet<Sha>> = BTreeMap::new();
        let mut add = |key: &str, version: u64, sha256: Option<Sha>| {
            if let Some(sha256) = sha256.filter(|sha256| payloads.contains(sha256)) {
                users.entry((key.to_owned(), version)).or_default().insert(sha256);
            }
        };
        let (mut gone, mut given_up) = (Vec::new(), BTreeSet::new());
        History::salvage(path, |entry| match entry.map(|entry| entry.change) {
            Ok(Change::Publish { key, version, sha256, .. }) => add(&key, version, Some(sha256)),
            Ok(Change::Origin { key, version, source, .. }) => add(&key, version, source),
            Ok(Change::Version { key, version, sha256, source, .. }) => {
                add(&key, version, Some(sha256));
                add(&key, version, source);
            }
            // Version numbers are given once: whenever it was, it is gone.
            Ok(Change::Collect { versions, payloads }) => {
                gone.extend(versions.into_iter().map(|gone| (gone.key, gone.version)));
                given_up.extend(payloads);
            }
            _ => {}
        })?;
        for version in gone {
            users.remove(&version);
        }
        Ok((users.into_values().flatten().collect(), given_up))
    }

    /// The entries after number `seq`, newest first.
    pub(crate) fn entries_after(&self, seq: u64) -> Result<Vec<Entry>> {
        use std::os::unix::fs::FileExt;
        let mut entries = Vec::new();
        let mut end = self.len;
        while self.seq - entries.len() as u64 > seq && end > 0 {
            let start = self.start_of_line(end).at("reading", &self.path)?;
            let mut line = vec![0; (end - start) as usize];
            self.file.read_exact_at(&mut line, start).at("reading", &self.path)?;
            match decode(&line) {
                // A snapshot changes nothing that its lines stand for.
                Ok(Entry { change: Change::SnapshotEnd { before }, .. }) if before <= seq => break,
                Ok(entry) => entries.push(entry),
                Err(BadLine::Unreadable(reason) | BadLine::Unknown(reason)) => {
                    return Err(Error::HistoryDamaged {
                        path: self.path.clone(),
                        offset: start,
                        reason,
                    });
                }
            }
            end = start;
        }
        Ok(entries)
    }

    fn damaged(&self, reason: String) -> Error {
        Error::HistoryDamaged { path: self.path.clone(), offset: self.len, reason }
    }

    fn truncate(&self) -> Result<()> {
        self.file.set_len(self.len).at("truncating", &self.path)?;
        self.file.sync_all().at("syncing", &self.path)
    }

    /// Makes the history writable after an error that left its end uncertain: what was
    /// acknowledged goes to a new file, which is synced by itself. A failed fsync is never
    /// repeated on the same file, where it would succeed without having written.
    pub(crate) fn heal(&mut self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        let new = self.successor();
        let file = new_file(&new)?;
        self.file.seek(SeekFrom::Start(0)).at("reading", &self.path)?;
        let copied = io::copy(&mut (&self.file).take(self.len), &mut &file);
        if copied.at("copying", &self.path)? < self.len {
            return Err(self.damaged("it is shorter than what was acknowledged".into()));
        }
        self.replace(file, self.len, self.seq)?;
        log::warn!("{} was written anew after an error", self.path.display());
        Ok(())
    }

    /// Where another file is made that is to take this one's place.
    pub(crate) fn successor(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    /// Puts `file`, which is at [`History::successor`] and has lines up to number `seq` in `len`
    /// bytes, in this one's place.
    pub(crate) fn replace(&mut self, file: File, len: u64, seq: u64) -> Result<()> {
        let new = self.successor();
        file.sync_all().at("syncing", &new)?;
        fs::rename(&new, &self.path).at("renaming", &new)?;
        (self.file, self.len, self.seq) = (file, len, seq);
        // Until the name is on disk, either file may be found there.
        self.poisoned = true;
        sync_dir(self.path.parent().unwrap_or(Path::new("/")))?;
        self.poisoned = false;
        Ok(())
    }

    /// Appends `count` lines, made by [`line_of`], and syncs once. On success
    /// they are committed; on error none is, unless the end of the file became
    /// uncertain, and then nothing more is written until the store is opened again.
    pub(crate) fn append(&mut self, lines: &[u8], count: u64) -> Result<()> {
        if self.poisoned {
            return Err(Error::HistoryPoisoned);
        }
        let written = (&self.file)
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| (&self.file).write_all(lines));
        if let Err(source) = written {
            // What a failed write left is cut off again; if that fails, the end is uncertain.
            self.poisoned = self.truncate().is_err();
            return Err(Error::Io { action: "writing", path: self.path.clone(), source });
        }
        if let Err(source) = self.file.sync_data() {
            // After a failed fsync nobody knows what is on disk, and a second one proves nothing.
            self.poisoned = true;
            return Err(Error::Io { action: "syncing", path: self.path.clone(), source });
        }
        self.len += lines.len() as u64;
        self.seq += count;
        Ok(())
    }
}
