//! Reading the file of a history that another process may be writing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::change::{Change, LogEntry};
use super::codec::{BadLine, decode, newer};
use crate::disk::Dir;
use crate::disk::names::HISTORY;
use crate::error::{Error, IoContext, Result};
use crate::types::{Sha, Version};

/// Hands every line of the file at `path` to `each`, with the byte at which it starts.
fn each_line(
    path: &Path,
    file: &File,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool>,
) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut at) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).at("reading", path)? > 0 {
        if !each(at, &line)? {
            break;
        }
        at += line.len() as u64;
        line.clear();
    }
    Ok(())
}

/// The longest line of a history that somebody else wrote, in bytes: the plain names of some million
/// keys fit in.
pub(crate) const MAX_FOREIGN_LINE: u64 = 256 << 20;
/// How much of a file is looked at to find a line of a history, in bytes.
const SAMPLE: u64 = 4 << 20;

/// Whether a line at the start of a file is one of a history: its checksum says so.
pub(crate) fn has_line(file: &File) -> bool {
    let lines = BufReader::new(file.take(SAMPLE)).split(b'\n').map_while(|line| line.ok());
    lines.into_iter().any(|line| decode(&[&line, &b"\n"[..]].concat()).is_ok())
}

/// A payload that a history has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) size: u64,
    pub(crate) inline: bool,
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
    /// Reads the history of the store in `dir`, which may be in use. Every line but the last must be
    /// whole.
    pub(crate) fn read(dir: &Dir) -> Result<Listing> {
        Listing::of(dir.open_file(HISTORY)?, &dir.named(HISTORY))
    }

    /// The same of a file that is open, at its start.
    pub(crate) fn of(mut file: File, path: &Path) -> Result<Listing> {
        let (mut len, mut changes) = (0, 0);
        let mut payloads = BTreeMap::new();
        each_line(path, &file, |offset, line| {
            match decode(line) {
                Ok(entry) => list(&mut payloads, &entry.change),
                // Its writer is in the middle of it.
                Err(_) if !line.ends_with(b"\n") => return Ok(false),
                Err(bad) => {
                    let (path, reason) = (path.to_owned(), bad.reason());
                    return Err(Error::HistoryDamaged { path, offset, reason });
                }
            }
            len = offset + line.len() as u64;
            changes += 1;
            Ok(true)
        })?;
        file.seek(SeekFrom::Start(0)).at("reading", path)?;
        Ok(Listing { file, len, changes, payloads })
    }
}

/// What becomes of the list of payloads with a change.
fn list(payloads: &mut BTreeMap<Sha, Listed>, change: &Change) {
    match change {
        Change::Payload { sha256, size, inline, .. } => {
            payloads.insert(*sha256, Listed { size: *size, inline: *inline });
        }
        Change::Collect { payloads: gone, .. } => {
            for sha256 in gone {
                payloads.remove(sha256);
            }
        }
        _ => {}
    }
}

/// Checks that this build knows every change in the history of the store in `dir`. What can't be
/// read at all is left to the replay: the end may be under way.
pub(crate) fn check(dir: &Dir) -> Result<()> {
    let Some(file) = dir.open_if_there(HISTORY)? else { return Ok(()) };
    let path = &dir.named(HISTORY);
    each_line(path, &file, |offset, line| match decode(line) {
        Err(BadLine::Unknown(reason)) => {
            let (path, reason) = (path.to_owned(), newer(&reason));
            Err(Error::HistoryDamaged { path, offset, reason })
        }
        _ => Ok(true),
    })
}

/// Hands every line of the history in `dir` to `each`: the change, or why it can't be read.
pub(crate) fn salvage(
    dir: &Dir,
    mut each: impl FnMut(std::result::Result<LogEntry, String>),
) -> Result<()> {
    let (file, path) = (dir.open_file(HISTORY)?, &dir.named(HISTORY));
    each_line(path, &file, |_, line| {
        each(decode(line).map_err(BadLine::reason));
        Ok(true)
    })
}

/// Which of some payloads are in use by a history.
pub(crate) struct PayloadUse {
    /// Those that a version has, or was compiled from.
    pub(crate) used: BTreeSet<Sha>,
    /// All that were ever given up.
    pub(crate) given_up: BTreeSet<Sha>,
}

/// Which of `payloads` are in use at the end of the history in `dir`.
pub(crate) fn payload_use(dir: &Dir, payloads: &BTreeSet<Sha>) -> Result<PayloadUse> {
    let mut users: BTreeMap<(String, Version), BTreeSet<Sha>> = BTreeMap::new();
    let mut add = |key: &str, version: Version, sha256: Option<Sha>| {
        if let Some(sha256) = sha256.filter(|sha256| payloads.contains(sha256)) {
            users.entry((key.to_owned(), version)).or_default().insert(sha256);
        }
    };
    let (mut gone, mut given_up) = (Vec::new(), BTreeSet::new());
    salvage(dir, |entry| match entry.map(|entry| entry.change) {
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
    Ok(PayloadUse { used: users.into_values().flatten().collect(), given_up })
}
