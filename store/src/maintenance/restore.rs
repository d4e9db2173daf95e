//! Making a store what it was when it was exported.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::archive::{Archived, HashingReader, Progress, ROOT, damaged, object_name};
use crate::catalogue::from_history;
use crate::disk::durable::{new_file, sync_dir, write_json};
use crate::disk::names::{HISTORY, INCOMING, OBJECTS, SETTINGS};
use crate::disk::{Lock, temp_dir};
use crate::error::{Error, IoContext, Result};
use crate::history::History;
use crate::history::scan::Listing;
use crate::settings::{FORMAT, Settings};
use crate::store::Store;
use crate::types::Sha;

/// Settings that nobody wrote by hand are shorter, in bytes.
const MAX_SETTINGS: u64 = 1 << 20;

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
    // What the library says of a header that it can't read has bytes of the file in it.
    let no_tar = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => not("it is cut short".into()),
        _ => not("it is no tar file, or a damaged one".into()),
    };
    for entry in archive.entries().map_err(no_tar)? {
        let mut entry = entry.map_err(no_tar)?;
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
        return Err(Error::StoreNotEmpty(dir.to_owned()));
    }
    write_json(&dir.join(SETTINGS), &settings)?;
    Ok(lock)
}

/// Puts a payload in place; false if it was there.
fn put_object(dir: &Path, sha256: &Sha, size: u64, from: &mut impl Read) -> Result<bool> {
    let object = dir.join(object_name(sha256));
    if let Ok(mut file) = File::open(&object) {
        let mut hashed = HashingReader::new(&mut file);
        if io::copy(&mut hashed, &mut io::sink()).is_ok() && hashed.finish().0 == *sha256 {
            return Ok(false);
        }
    }
    let incoming = dir.join(INCOMING);
    for directory in [&incoming, object.parent().unwrap_or(dir)] {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).at("making", directory)?;
    }
    let new = incoming.join(sha256.hex());
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o400).open(&new).at("making", &new)?;
    let mut hashed = HashingReader::new(from);
    io::copy(&mut hashed, &mut &file).at("writing", &new)?;
    let (found, len) = hashed.finish();
    if len < size {
        return Err(Error::NotAnArchive("it is cut short".into()));
    }
    if found != *sha256 {
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
    let place = temp_dir(dir, size)?;
    from_history(place.path(), &mut History::open_read_only(&new)?)?;
    match listing.payloads.keys().find(|sha256| !seen.contains(*sha256)) {
        Some(sha256) => Err(Error::NotAnArchive(format!("payload {sha256} is missing"))),
        None => Ok(listing.changes),
    }
}

fn sync_objects(dir: &Path, seen: &BTreeSet<Sha>) -> Result<()> {
    let objects = dir.join(OBJECTS);
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
