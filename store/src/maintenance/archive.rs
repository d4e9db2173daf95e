//! Archives: a whole store in one tar file, for backups and other machines.
//!
//! | entry | what |
//! | --- | --- |
//! | `wasmfs/settings.json` | the store's settings; always first |
//! | `wasmfs/objects/ab/…` | every payload by its sha256, those kept inside sled too |
//! | `wasmfs/history` | the history; always last, so that it commits what came before |

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::{from_history, scratch, sync_dir};
use crate::disk::lock::Lock;
use crate::error::{Error, IoContext, Result};
use crate::history::log::{Change, History, Listing, new_file};
use crate::payload::staging::{Payloads, object_in};
use crate::settings::{FORMAT, Settings, write_json};
use crate::store::open::{HISTORY, SETTINGS, Store, now};
use crate::types::sha::Sha;

const ROOT: &str = "wasmfs";
/// How often an export looks again for what was collected under it.
const LOOKS: usize = 5;
/// Settings that nobody wrote by hand are shorter, in bytes.
const MAX_SETTINGS: u64 = 1 << 20;

/// What an archive has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// Changes of the history.
    pub changes: u64,
    /// Payloads.
    pub payloads: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Payloads that were there already, from an import that was interrupted.
    pub skipped: u64,
}

/// Told of payload bytes done, and how many there are, if that is known.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// Writes an archive of the store in `dir`, which may be in use. Payloads that are kept inside
/// sled are asked of `inside`.
pub fn export(
    dir: &Path,
    inside: &mut dyn FnMut(&Sha) -> Result<Vec<u8>>,
    out: impl Write,
    progress: Progress<'_>,
) -> Result<Archived> {
    let mut tar = tar::Builder::new(out);
    let settings = dir.join(SETTINGS);
    let text = fs::read(&settings).at("reading", &settings)?;
    append(&mut tar, SETTINGS, text.len() as u64, &text[..])?;
    let payloads = Payloads::look(dir);
    let (mut written, mut done) = (BTreeSet::new(), 0);
    for look in 1.. {
        // This very file, should it be compacted meanwhile.
        let history = Listing::read(&dir.join(HISTORY))?;
        let total = history.payloads.values().map(|payload| payload.size).sum();
        let mut gone = false;
        for (sha256, payload) in &history.payloads {
            if written.contains(sha256) {
                continue;
            }
            let from: Box<dyn Read> = if payload.inline {
                match inside(sha256) {
                    Ok(bytes) => Box::new(io::Cursor::new(bytes)),
                    Err(_) if look < LOOKS => {
                        gone = true;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            } else {
                let path = payloads.object(sha256);
                match File::open(&path) {
                    Ok(file) => Box::new(file),
                    Err(e) if e.kind() == io::ErrorKind::NotFound && look < LOOKS => {
                        gone = true;
                        continue;
                    }
                    file => Box::new(file.at("opening", &path)?),
                }
            };
            let mut hashed = Hashed { from: from.take(payload.size), hash: Sha256::new(), len: 0 };
            append(&mut tar, object_name(sha256), payload.size, &mut hashed)?;
            if hashed.len != payload.size || Sha(hashed.hash.finalize().into()) != *sha256 {
                return Err(damaged(sha256, "its bytes differ from what was published"));
            }
            written.insert(*sha256);
            done += payload.size;
            progress(done, Some(total));
        }
        if gone {
            // It may have been collected: then the history says so by now.
            continue;
        }
        let (changes, len) = (history.changes, history.len);
        append(&mut tar, HISTORY, len, history.file.take(len))?;
        tar.into_inner().and_then(|mut out| out.flush()).map_err(Error::Output)?;
        let payloads = written.len() as u64;
        return Ok(Archived { changes, payloads, bytes: done, skipped: 0 });
    }
    Err(Error::Inconsistent("payloads vanish".into()))
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: impl AsRef<Path>,
    size: u64,
    from: impl Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o400);
    header.set_mtime(now() / 1_000_000_000);
    tar.append_data(&mut header, Path::new(ROOT).join(name), from).map_err(Error::Output)
}

fn object_name(sha256: &Sha) -> PathBuf {
    object_in(Path::new("objects"), sha256)
}

fn damaged(sha256: &Sha, reason: &str) -> Error {
    Error::PayloadDamaged { sha256: sha256.hex(), reason: reason.into() }
}

struct Hashed<R> {
    from: R,
    hash: Sha256,
    len: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.hash.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }
}

/// Whether there is no store in `dir`, or one in which nothing was ever published.
pub fn is_empty(dir: &Path) -> Result<bool> {
    match Listing::read(&dir.join(HISTORY)) {
        Ok(history) => Ok(history.changes <= 1),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes the store in `dir`, which is empty, what it was when it was exported, to the byte. If
/// this is interrupted it can be done again, and takes what is there already.
pub fn restore(dir: &Path, from: impl Read, progress: Progress<'_>) -> Result<Archived> {
    let not = |reason: String| Error::NotAnArchive(reason);
    let mut archive = tar::Archive::new(from);
    let mut restored = Archived::default();
    let mut lock = None;
    let mut seen = BTreeSet::new();
    for entry in archive.entries().map_err(|e| not(e.to_string()))? {
        let mut entry = entry.map_err(|e| not(e.to_string()))?;
        let path = entry.path().map_err(|e| not(e.to_string()))?.into_owned();
        let name =
            path.strip_prefix(ROOT).map_err(|_| not(format!("it has {}", path.display())))?;
        if name == Path::new(SETTINGS) && lock.is_none() {
            lock = Some(begin(dir, &mut entry)?);
            continue;
        }
        if lock.is_none() {
            return Err(not(format!("it starts with {}", path.display())));
        }
        if name == Path::new(HISTORY) {
            let size = entry.size();
            restored.changes = put_history(dir, &mut entry, size, &seen)?;
            sync_objects(dir, &seen)?;
            commit(dir)?;
            // The catalogue is made from the history, and what it keeps inside from the objects.
            let lock = lock.map_or_else(|| Lock::take(dir), Ok)?;
            let store = Store::open_locked(dir, lock)?;
            store.collect_orphans()?;
            store.close()?;
            return Ok(restored);
        }
        let sha256 = name.file_name().and_then(|name| name.to_str()?.parse::<Sha>().ok());
        let sha256 = sha256.filter(|sha256| name == object_name(sha256));
        let sha256 = sha256.ok_or_else(|| not(format!("it has {}", path.display())))?;
        let size = entry.size();
        if !put_object(dir, &sha256, size, &mut entry)? {
            restored.skipped += 1;
        }
        restored.payloads += 1;
        restored.bytes += size;
        seen.insert(sha256);
        progress(restored.bytes, None);
    }
    Err(not("it ends before its history: part of it is missing".into()))
}

/// Has an empty store be there, with the archive's settings if it is new.
fn begin(dir: &Path, from: &mut impl Read) -> Result<Lock> {
    let mut text = Vec::new();
    from.take(MAX_SETTINGS).read_to_end(&mut text).map_err(Error::Input)?;
    let path = PathBuf::from(SETTINGS);
    let invalid = |source| Error::Settings { path: path.clone(), source };
    let settings: Settings = serde_json::from_slice(&text).map_err(invalid)?;
    if settings.format > FORMAT {
        let (dir, found) = (dir.to_owned(), settings.format);
        return Err(Error::NewerFormat { dir, found, supported: FORMAT });
    }
    Store::create(dir, &settings)?;
    let lock = Lock::take(dir)?;
    if !is_empty(dir)? {
        return Err(Error::NotEmpty(dir.to_owned()));
    }
    write_json(&dir.join(SETTINGS), &settings)?;
    Ok(lock)
}

/// Puts a payload in place; false if it was there.
fn put_object(dir: &Path, sha256: &Sha, size: u64, from: &mut impl Read) -> Result<bool> {
    let object = dir.join(object_name(sha256));
    if let Ok(mut file) = File::open(&object) {
        let mut hash = Sha256::new();
        if io::copy(&mut file, &mut hash).is_ok() && Sha(hash.finalize().into()) == *sha256 {
            return Ok(false);
        }
    }
    let incoming = dir.join("incoming");
    for directory in [&incoming, object.parent().unwrap_or(dir)] {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).at("making", directory)?;
    }
    let new = incoming.join(sha256.hex());
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o400).open(&new).at("making", &new)?;
    let mut hashed = Hashed { from, hash: Sha256::new(), len: 0 };
    io::copy(&mut hashed, &mut &file).at("writing", &new)?;
    if hashed.len < size {
        return Err(Error::NotAnArchive("it is cut short".into()));
    }
    if Sha(hashed.hash.finalize().into()) != *sha256 {
        let _ = fs::remove_file(&new);
        return Err(damaged(sha256, "the archive's bytes differ from what was published"));
    }
    file.sync_all().at("syncing", &new)?;
    fs::rename(&new, &object).at("renaming", &new)?;
    Ok(true)
}

/// Writes the history beside its place, once it is known that it can be read and that every
/// payload it needs is there. Returns how many changes it has.
fn put_history(dir: &Path, from: &mut impl Read, size: u64, seen: &BTreeSet<Sha>) -> Result<u64> {
    let new = dir.join(HISTORY).with_extension("new");
    let mut file = new_file(&new)?;
    let copied = io::copy(from, &mut file).at("writing", &new)?;
    file.sync_all().at("syncing", &new)?;
    file.seek(SeekFrom::Start(0)).at("reading", &new)?;
    let listing = Listing::read(&new)?;
    if copied != size || listing.len != size {
        return Err(Error::NotAnArchive("its history is cut short".into()));
    }
    // All of it can be applied.
    let place = scratch(dir, size)?;
    from_history(place.path(), &mut History::look(&new)?)?;
    match listing.payloads.keys().find(|sha256| !seen.contains(*sha256)) {
        Some(sha256) => Err(Error::NotAnArchive(format!("payload {sha256} is missing"))),
        None => Ok(listing.changes),
    }
}

fn sync_objects(dir: &Path, seen: &BTreeSet<Sha>) -> Result<()> {
    let objects = dir.join("objects");
    let mut directories: Vec<_> = seen.iter().map(|sha256| sha256.hex()[..2].to_owned()).collect();
    directories.dedup();
    for directory in directories {
        sync_dir(&objects.join(directory))?;
    }
    if objects.exists() { sync_dir(&objects) } else { Ok(()) }
}

fn commit(dir: &Path) -> Result<()> {
    let history = dir.join(HISTORY);
    Store::distrust_catalogue(dir);
    let new = history.with_extension("new");
    fs::rename(&new, &history).at("renaming", &new)?;
    sync_dir(dir)
}

/// A payload that a history has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) size: u64,
    pub(crate) inline: bool,
}

/// What becomes of the list of payloads with a change.
pub(crate) fn list(payloads: &mut BTreeMap<Sha, Listed>, change: &Change) {
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
