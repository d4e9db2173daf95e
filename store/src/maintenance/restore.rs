//! Making a store what it was when it was exported.
//!
//! An archive may come from anybody. Nothing of it is believed: every payload is what its name
//! says, every line of the history keeps the rules, what is written is bounded by the free space of
//! the disk, and until all of that is known it is in `incoming/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::archive::{Archived, Progress, ROOT, damaged, object_name};
use super::rules::{check_catalogue, check_change};
use crate::artifact::{ArtifactKind, inspect};
use crate::catalogue::tables::{INODES, InodeRecord, PAYLOADS};
use crate::catalogue::{Catalogue, Records, from_history};
use crate::disk::names::{HISTORY, INCOMING, SETTINGS};
use crate::disk::space::check_free_space;
use crate::disk::{Dir, Lock, temp_dir};
use crate::error::{Error, IoContext, Result};
use crate::history::scan::{Listing, MAX_FOREIGN_LINE};
use crate::history::{BadLine, Blocks, Change, History, decode};
use crate::payload::{Description, Objects, PAYLOAD_STARTS, PayloadInfo, describe};
use crate::settings::{FORMAT, MAX_SETTINGS, Settings};
use crate::store::Store;
use crate::store_dir::StoreDir;
use crate::types::Sha;

/// What is copied at once, in bytes.
const COPY_PIECE: usize = 1 << 20;
/// A line of a history that lists nothing is shorter, in bytes.
const SHORT_LINE: u64 = 1 << 20;
/// For how many bytes of a payload its line has one, at least: 43 for each block of 32 KiB.
const BYTES_OF_A_LINE: u64 = 512;

/// Whether in the store nothing was ever published.
pub fn is_empty(dir: &StoreDir) -> Result<bool> {
    match Listing::read(dir) {
        Ok(history) => Ok(history.changes <= 1),
        Err(e) if e.is_missing() => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes a store what it was when it was exported, to the byte. `make` gives the store, with these
/// settings if it is new; nothing was ever published in it. What an archive brought that is cut
/// short stays, and is not brought again when this is repeated; what one brought that is refused is
/// removed.
///
/// # Errors
/// [`Error::NotAnArchive`] for what is none or breaks a rule, [`Error::StoreNotEmpty`],
/// [`Error::DiskFull`] before the disk is full, and those of the store.
pub fn restore(
    make: &dyn Fn(&Settings) -> Result<StoreDir>,
    from: impl Read,
    progress: Progress<'_>,
) -> Result<Archived> {
    let mut archive = tar::Archive::new(from);
    let mut begun = None;
    let restored = take(make, &mut archive, &mut begun, progress);
    if let (Err(e), Some(restoring)) = (&restored, &begun)
        && !matches!(e, Error::ArchiveCutShort)
    {
        restoring.undo();
    }
    match (restored, begun.is_some()) {
        (Err(Error::ArchiveCutShort), false) => Err(not("it ends before its settings".into())),
        (restored, _) => restored,
    }
}

fn not(reason: String) -> Error {
    Error::NotAnArchive(reason)
}

/// What the library says of a header that it can't read has bytes of the file in it.
fn no_tar(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::ArchiveCutShort,
        _ => not("it is no tar file, or a damaged one".into()),
    }
}

fn take(
    make: &dyn Fn(&Settings) -> Result<StoreDir>,
    archive: &mut tar::Archive<impl Read>,
    begun: &mut Option<Restoring>,
    progress: Progress<'_>,
) -> Result<Archived> {
    let mut restored = Archived::default();
    // As they are: an extended header, which could have any length, is none of ours.
    for entry in archive.entries().map_err(|e| no_tar(&e))?.raw(true) {
        let mut entry = entry.map_err(|e| no_tar(&e))?;
        let at = entry.path().map_err(|e| not(e.to_string()))?.into_owned();
        // Escaped: whoever made the archive chose it.
        let it_has = || not(format!("it has {:?}", at.to_string_lossy()));
        let name = at.strip_prefix(ROOT).map_err(|_| it_has())?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(not(format!("{:?} is no regular file", at.to_string_lossy())));
        }
        let size = entry.size();
        let Some(restoring) = begun else {
            if name != Path::new(SETTINGS) {
                return Err(not(format!("it starts with {:?}", at.to_string_lossy())));
            }
            *begun = Some(Restoring::begin(make, &mut entry)?);
            continue;
        };
        if name == Path::new(HISTORY) {
            restored.changes = restoring.put_history(&mut entry, size)?;
            if let Some(restoring) = begun.take() {
                restoring.finish()?;
            }
            return Ok(restored);
        }
        let sha256 = name.file_name().and_then(|name| name.to_str()?.parse::<Sha>().ok());
        let sha256 = sha256.filter(|sha256| name == object_name(sha256)).ok_or_else(it_has)?;
        if !restoring.put_object(&sha256, size, &mut entry)? {
            restored.skipped += 1;
        }
        restored.payloads += 1;
        restored.bytes += size;
        progress(restored.bytes, None);
    }
    Err(Error::ArchiveCutShort)
}

/// What the bytes of a payload are, whatever a history says of them.
#[derive(PartialEq, Eq)]
struct Found {
    /// In bytes.
    size: u64,
    kind: ArtifactKind,
    /// What tells the engine of an artifact; nothing for a source.
    engine: Option<Sha>,
    /// The sha256 of the hashes of its blocks.
    blocks: Sha,
}

impl Found {
    /// Reads all of a file; fails if it is not this payload.
    fn in_file(sha256: &Sha, file: &File) -> Result<Found> {
        let Description { sha256: found, size, kind, blocks } = describe(file)?;
        let mut file = file;
        file.seek(SeekFrom::Start(0)).map_err(Error::Input)?;
        let engine = inspect(file).ok().map(|artifact| artifact.engine.fingerprint);
        match found == *sha256 {
            true => Ok(Found { size, kind, engine, blocks: Sha::of(&blocks) }),
            false => Err(damaged(sha256, "the archive's bytes differ from what was published")),
        }
    }
}

/// A store that is being made from an archive.
struct Restoring {
    dir: StoreDir,
    lock: Lock,
    /// The archive's, which are the store's once it is committed.
    settings: Settings,
    incoming: Dir,
    objects: Objects,
    /// Every payload of the archive so far, and what it is.
    seen: BTreeMap<Sha, Found>,
    /// Those that were not there before.
    brought: Vec<Sha>,
}

impl Restoring {
    /// Has an empty store be there, with the archive's settings.
    fn begin(
        make: &dyn Fn(&Settings) -> Result<StoreDir>,
        from: &mut impl Read,
    ) -> Result<Restoring> {
        let mut text = Vec::new();
        from.take(MAX_SETTINGS).read_to_end(&mut text).map_err(|e| no_tar(&e))?;
        let invalid = |source| Error::Settings { path: PathBuf::from(SETTINGS), source };
        let settings: Settings = serde_json::from_slice(&text).map_err(invalid)?;
        if settings.format > FORMAT {
            return Err(Error::NewerArchive { found: settings.format, supported: FORMAT });
        }
        let dir = make(&Settings::default())?;
        let lock = dir.lock()?;
        if !is_empty(&dir)? {
            return Err(Error::StoreNotEmpty(dir.path().to_owned()));
        }
        dir.make_dir(INCOMING)?;
        let incoming = dir.subdir(INCOMING)?;
        let objects = Objects::open(&dir)?;
        let (seen, brought) = (BTreeMap::new(), Vec::new());
        Ok(Restoring { dir, lock, settings, incoming, objects, seen, brought })
    }

    /// Puts a payload in place; false if it was there.
    fn put_object(&mut self, sha256: &Sha, size: u64, from: &mut impl Read) -> Result<bool> {
        let there = self.objects.size(sha256)?;
        // From an import that was cut short.
        let whole = || Found::in_file(sha256, &self.objects.open_file(sha256)?);
        if there == Some(size)
            && let Ok(found) = whole()
        {
            self.seen.insert(*sha256, found);
            return Ok(false);
        }
        check_free_space(&self.dir, size)?;
        let name = sha256.hex();
        let put = self.write_object(&name, sha256, size, from);
        if put.is_err() {
            // What is left is swept when the store is opened.
            let _ = self.incoming.remove_file(&name);
        }
        self.seen.insert(*sha256, put?);
        self.objects.bring(&self.incoming, &name, sha256)?;
        if there.is_none() {
            self.brought.push(*sha256);
        }
        Ok(true)
    }

    fn write_object(
        &self,
        name: &str,
        sha256: &Sha,
        size: u64,
        from: &mut impl Read,
    ) -> Result<Found> {
        let path = self.incoming.named(name);
        let mut file = self.incoming.new_file(name)?;
        let mut head = [0; 4];
        from.read_exact(&mut head).map_err(|e| no_tar(&e))?;
        // A disk is not filled with what can't be a payload.
        if !PAYLOAD_STARTS.contains(&head) {
            return Err(not(format!("payload {sha256} is neither an artifact nor WebAssembly")));
        }
        file.write_all(&head).at("writing", &path)?;
        let len = copy(from, &file, &path)? + head.len() as u64;
        if len < size {
            return Err(Error::ArchiveCutShort);
        }
        file.seek(SeekFrom::Start(0)).at("reading", &path)?;
        let found = Found::in_file(sha256, &file).map_err(|e| match e {
            // It is neither, on a second look.
            Error::NotWasm => not(format!("payload {sha256} is no WebAssembly")),
            e => e,
        })?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR).at("protecting", &path)?;
        file.sync_all().at("syncing", &path)?;
        Ok(found)
    }

    /// Stages the history, once it is known that it can be read, that it keeps every rule, and that
    /// every payload it needs is there. Returns how many changes it has.
    fn put_history(&self, from: &mut impl Read, size: u64) -> Result<u64> {
        check_free_space(&self.dir, size)?;
        let checked = self.write_history(from, size);
        if checked.is_err() {
            let _ = self.incoming.remove_file(HISTORY);
        }
        checked
    }

    fn write_history(&self, from: &mut impl Read, size: u64) -> Result<u64> {
        let path = self.incoming.named(HISTORY);
        let mut file = self.incoming.new_file(HISTORY)?;
        let mut lines = io::BufReader::new(from);
        let (mut line, mut number, mut written) = (Vec::new(), 0u64, 0);
        let mut starts_snapshot = false;
        let payloads: u64 = self.seen.values().map(|found| found.size).sum();
        loop {
            line.clear();
            // What a line lists was there before it: keys in other lines, blocks in payloads.
            let listed = written + payloads / BYTES_OF_A_LINE;
            let limit = (SHORT_LINE + listed).min(MAX_FOREIGN_LINE);
            let read = lines.by_ref().take(limit).read_until(b'\n', &mut line);
            if read.map_err(|e| no_tar(&e))? == 0 {
                break;
            }
            number += 1;
            if !line.ends_with(b"\n") && line.len() as u64 == limit {
                return Err(not(format!("line {number} of its history is over {limit} bytes")));
            }
            starts_snapshot |= number == 1 && is_snapshot(&line);
            self.check_line(&line).map_err(|rule| {
                not(format!("line {number} of its history breaks a rule: {rule}"))
            })?;
            file.write_all_at(&line, written).at("writing", &path)?;
            written += line.len() as u64;
        }
        if written < size {
            return Err(Error::ArchiveCutShort);
        }
        if number == 0 {
            return Err(not("its history is empty".into()));
        }
        file.sync_all().at("syncing", &path)?;
        file.seek(SeekFrom::Start(0)).at("reading", &path)?;
        let read = |file: &File| file.try_clone().at("reading", &path);
        let listing = Listing::of(read(&file)?, &path)?;
        if listing.len != written {
            return Err(not("the last line of its history is not whole".into()));
        }
        // All of it can be applied, and comes to something that makes sense.
        let place = temp_dir(&self.dir, size)?;
        let mut history = History::of(&self.dir, read(&file)?, path.clone());
        let truth = from_history(place.path(), &mut history)?;
        if let Some(rule) = check_catalogue(&truth)? {
            return Err(not(format!("its history breaks a rule: {rule}")));
        }
        self.check_large_blocks(&truth)?;
        self.check_versions(&truth, starts_snapshot)?;
        match listing.payloads.keys().find(|sha256| !self.seen.contains_key(*sha256)) {
            Some(sha256) => Err(not(format!("payload {sha256} is missing"))),
            None => Ok(listing.changes),
        }
    }

    /// Checks that versions are of the engine that made their bytes. Payloads may be missing only of
    /// a history that was written anew, as a repair leaves it.
    fn check_versions(&self, truth: &Catalogue, may_be_missing: bool) -> Result<()> {
        for row in truth.scan(&INODES.all()) {
            let InodeRecord::Version(record) = row?.value()? else { continue };
            let (key, version) = (&record.key, record.version);
            let known = truth.payload(&record.sha256)?;
            let Some(found) = self.seen.get(&record.sha256).filter(|_| known.is_some()) else {
                if may_be_missing {
                    continue;
                }
                return Err(not(format!("{key:?}@{version} has no payload")));
            };
            if let Some(source) = &record.source
                && truth.payload(source)?.is_none()
                && !may_be_missing
            {
                return Err(not(format!("the source of {key:?}@{version} is missing")));
            }
            let engine = truth.engine(record.engine)?.description.fingerprint;
            if found.engine != Some(engine) {
                return Err(not(format!("{key:?}@{version} is of another engine than it says")));
            }
        }
        Ok(())
    }

    /// Checks payloads with hashes of large blocks, as releases before format 2 wrote them.
    fn check_large_blocks(&self, truth: &Catalogue) -> Result<()> {
        for row in truth.scan(&PAYLOADS.all()) {
            let row = row?;
            let (sha256, record) = (row.key()?, row.value()?);
            if !record.large_blocks || !self.seen.contains_key(&sha256) {
                continue;
            }
            let payload = PayloadInfo::new(&sha256, &record);
            if self.objects.check(truth, &payload, &mut |_| {})?.is_some() {
                return Err(not(format!("payload {sha256} is something else than it says")));
            }
        }
        Ok(())
    }

    /// Whether a line can be read, keeps every rule, and says of a payload what its bytes say.
    fn check_line(&self, line: &[u8]) -> std::result::Result<(), String> {
        let entry = decode(line).map_err(BadLine::reason)?;
        check_change(&entry.change)?;
        let Change::Payload { sha256, size, kind, blocks, .. } = &entry.change else {
            return Ok(());
        };
        // One that was collected later is not in the archive.
        let Some(found) = self.seen.get(sha256) else { return Ok(()) };
        let same_blocks = match blocks {
            Blocks::Small(hashes) => {
                BASE64.decode(hashes).is_ok_and(|hashes| Sha::of(&hashes) == found.blocks)
            }
            // Checked by these hashes once the history can be applied.
            Blocks::Large(_) => true,
        };
        match (*size, *kind) == (found.size, found.kind) && same_blocks {
            true => Ok(()),
            false => Err(format!("payload {sha256} is something else than it says")),
        }
    }

    /// Commits what was brought.
    fn finish(self) -> Result<()> {
        let Restoring { dir, lock, settings, incoming, objects, seen, .. } = self;
        let directories: BTreeSet<_> =
            seen.keys().map(|sha256| sha256.hex()[..2].to_owned()).collect();
        objects.sync(directories)?;
        dir.write_json(SETTINGS, &settings)?;
        Store::distrust_catalogue(&dir);
        dir.take_from(&incoming, HISTORY, HISTORY)?;
        dir.sync()?;
        // The catalogue is made from the history, and what it keeps inside from the objects.
        let store = Store::open_locked(&dir, lock)?;
        store.collect_orphans()?;
        store.close()
    }

    /// Removes what was brought: nothing needs it.
    fn undo(&self) {
        for sha256 in &self.brought {
            if let Err(e) = self.objects.remove(sha256) {
                log::warn!("removing what a refused archive brought: {e}");
            }
        }
    }
}

fn is_snapshot(line: &[u8]) -> bool {
    decode(line).is_ok_and(|entry| matches!(entry.change, Change::Snapshot { .. }))
}

/// Copies to a file, and says how many bytes; an archive that ends is told from a disk that can't be
/// written.
fn copy(from: &mut impl Read, mut to: &File, path: &Path) -> Result<u64> {
    let mut piece = vec![0; COPY_PIECE];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut piece) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|e| no_tar(&e))?,
        };
        if read == 0 {
            return Ok(copied);
        }
        to.write_all(&piece[..read]).at("writing", path)?;
        copied += read as u64;
    }
}
