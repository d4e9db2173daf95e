//! Repairing a store that nobody has open. Nothing is deleted: what is damaged
//! is moved aside.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::artifact::inspect::inspect;
use crate::catalogue::records::*;
use crate::catalogue::{
    Catalogue, ROOT_INODE, Records, Txn, apply, aside, bring_inside, close, open_alone,
    put_in_place_of, quietly, remove_dir, sync_dir,
};
use crate::disk::lock::Lock;
use crate::error::{Error, IoContext, Result};
use crate::gc::compact::write_snapshot;
use crate::history::log::{Change, Entry, History, NewDirectory, new_file};
use crate::maintenance::verify::{Finding, Kind, Verified, too_open};
use crate::payload::staging::{Payloads, ReadSeek, whole_inline};
use crate::settings::{State, boot_id, raise_format, write_json};
use crate::store::open::{HISTORY, SETTINGS, STATE, Store};
use crate::store::recovery::is_trusted;
use crate::types::key::Key;
use crate::types::sha::Sha;

/// Damaged payloads, by their sha256.
const QUARANTINE: &str = "quarantine";

/// Inode numbers that are left out when nobody knows which were given.
const LOST_INODES: u64 = 1 << 20;

/// Repairs what `verified` found in the store in `dir`, and notes at each finding what was done.
pub fn repair(dir: &Path, verified: &mut Verified) -> Result<()> {
    let lock = Lock::take(dir)?;
    repair_permissions(dir, verified)?;
    let mut history_damaged = None;
    for finding in &mut verified.findings {
        match finding.kind {
            Kind::History => history_damaged = Some(finding),
            Kind::Catalogue => Store::distrust_catalogue(dir),
            _ => {}
        }
    }
    let mut lock = Some(lock);
    if let Some(finding) = history_damaged {
        // The catalogue may know everything all the same.
        let opened = lock.take().map(|lock| Store::open_locked(dir, lock));
        match opened {
            Some(Ok(store)) => {
                let aside = keep_aside(&dir.join(HISTORY))?;
                store.write_history_anew()?;
                finding.repaired = Some(format!(
                    "written anew from the catalogue, which has all of it; the old one is {}",
                    aside.display()
                ));
                store.close()?;
            }
            _ => {
                lock = Some(Lock::take(dir)?);
                let (aside, lost, kept) = rescue(dir)?;
                finding.repaired = Some(format!(
                    "written anew from {kept} changes that can be read; the old one is {}",
                    aside.display()
                ));
                finding.lost = lost > 0;
                finding.detail = format!("{}; {lost} changes are lost", finding.detail);
            }
        }
    }
    let lock = lock.map_or_else(|| Lock::take(dir), Ok)?;
    let store = Store::open_locked(dir, lock)?;
    for finding in &mut verified.findings {
        match finding.kind {
            Kind::Catalogue => {
                finding.repaired = Some("rebuilt from the history".into());
            }
            Kind::PayloadDamaged | Kind::PayloadMissing => {
                finding.lost = true;
                quarantine(dir, finding)?;
            }
            _ => {}
        }
    }
    store.close()
}

fn repair_permissions(dir: &Path, verified: &mut Verified) -> Result<()> {
    for (path, mode) in too_open(dir)? {
        let mended = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        let place = path.display().to_string();
        for finding in &mut verified.findings {
            if finding.kind == Kind::Permissions && finding.place == place {
                finding.repaired = match &mended {
                    Ok(()) => Some(format!("its mode is {mode:o}")),
                    Err(_) => None,
                };
            }
        }
    }
    Ok(())
}

/// Moves a damaged object file out of the way, so that publishing the same bytes again mends it.
fn quarantine(dir: &Path, finding: &mut Finding) -> Result<()> {
    let object = PathBuf::from(&finding.place);
    let name = object.file_name().unwrap_or_default();
    if finding.kind != Kind::PayloadDamaged || !object.starts_with(dir) {
        finding.repaired = Some("nothing could be done; publish it again".into());
        return Ok(());
    }
    let quarantine = dir.join(QUARANTINE);
    fs::create_dir_all(&quarantine).at("making", &quarantine)?;
    fs::set_permissions(&quarantine, fs::Permissions::from_mode(0o700))
        .at("protecting", &quarantine)?;
    let to = quarantine.join(name);
    fs::rename(&object, &to).at("renaming", &object)?;
    finding.repaired = Some(format!("moved to {}; publish it again", to.display()));
    Ok(())
}

/// Gives a file that is about to be replaced another name.
fn keep_aside(path: &Path) -> Result<PathBuf> {
    let aside = aside(path);
    fs::hard_link(path, &aside).at("linking", path)?;
    Ok(aside)
}

/// Makes a history of every line that can be read, on top of what the catalogue knows, if that
/// can be trusted. Returns where the old one is, how many changes are lost, and how many are kept.
/// If it is interrupted it can be done again: what there was is moved aside at the end.
fn rescue(dir: &Path) -> Result<(PathBuf, u64, u64)> {
    let path = dir.join(HISTORY);
    let (db, new_db) = (dir.join("db"), dir.join("db.new"));
    let mut old = match db.exists() {
        // An error that says nothing of what the catalogue is may be gone the next time.
        true => match quietly(|| Ok(open_alone(&db))) {
            Ok(Err(e)) if e.is_unwritable() => return Err(e),
            Ok(old) => old.ok(),
            Err(_) => None,
        },
        false => None,
    };
    if is_trusted(dir)
        && let Some(catalogue) = old.take()
    {
        match quietly(|| Ok(is_readable(&catalogue))) {
            Ok(Ok(())) => {
                let catalogue = Arc::new(catalogue);
                return rescue_onto(dir, &path, catalogue, None);
            }
            Ok(Err(e)) if e.is_unwritable() => return Err(e),
            _ => old = Some(catalogue),
        }
    }
    remove_dir(&new_db)?;
    let catalogue = Arc::new(open_alone(&new_db)?);
    let rescued = rescue_onto(dir, &path, catalogue, old)?;
    put_in_place_of(dir, &new_db, &aside(&db))?;
    write_json(&dir.join(STATE), &State { boot_id: boot_id(), closed: true })?;
    Ok(rescued)
}

/// Applies to `catalogue` what it lacks and can be read, closes it, and puts a history of all that
/// in place.
fn rescue_onto(
    dir: &Path,
    path: &Path,
    catalogue: Arc<Catalogue>,
    old: Option<Catalogue>,
) -> Result<(PathBuf, u64, u64)> {
    // Payloads whose lines are lost get such as are written now.
    raise_format(&dir.join(SETTINGS))?;
    let known = catalogue.applied()?.seq;
    let next_inode = catalogue.applied()?.next_inode;
    let mut rescuer = Rescuer { payloads: Payloads::look(dir), old, next_inode, catalogue };
    // Numbers that are given anew are given to nothing that any line names.
    let mut lines = Lines::default();
    History::salvage(path, |entry| {
        if let Ok(entry) = &entry {
            rescuer.next_inode = rescuer.next_inode.max(largest_inode(&entry.change) + 1);
        }
        lines.count(entry.map(|entry| entry.seq).ok());
    })?;
    if known == 0 {
        // A snapshot has its directories last, and they are needed before.
        History::salvage(path, |entry| {
            if let Ok(entry @ Entry { change: Change::Directory { .. }, .. }) = entry
                && let Err(e) = rescuer.commit(&entry)
            {
                log::error!("change {} can't be rescued: {e}", entry.seq);
            }
        })?;
    }
    let mut kept = 0;
    History::salvage(path, |entry| match entry {
        Ok(entry) if entry.seq <= known => {}
        Ok(entry) => match rescuer.apply(&entry) {
            Ok(()) => kept += 1,
            Err(e) => log::error!("change {} can't be rescued: {e}", entry.seq),
        },
        Err(reason) => log::error!("a line of the history can't be read: {reason}"),
    })?;
    let last = (lines.last + lines.unreadable_at_end).max(known);
    let wanted = last - lines.before_first().max(known).min(last);
    let mut lost = wanted.saturating_sub(kept);
    let Rescuer { catalogue, mut next_inode, old, .. } = rescuer;
    if known == 0 {
        lost += bring_inside(&catalogue, old.as_ref(), &dir.join("objects"))?;
    }
    // What is damaged may panic while it is closed.
    let _ = quietly(|| {
        drop(old);
        Ok(())
    });
    if lost > 0 {
        // What is lost may have been given numbers that no line tells of any more.
        next_inode += LOST_INODES;
    }
    catalogue.note_applied(&Applied { seq: last, next_inode, ..catalogue.applied()? })?;
    let new = path.with_extension("new");
    let file = new_file(&new)?;
    let (len, seq) = write_snapshot(&catalogue, &file, last)?;
    file.sync_all().at("syncing", &new)?;
    catalogue.note_applied(&Applied { seq, history_len: len, ..catalogue.applied()? })?;
    if let Some(catalogue) = Arc::into_inner(catalogue) {
        close(catalogue)?;
    }
    let aside = keep_aside(path)?;
    fs::rename(&new, path).at("renaming", &new)?;
    sync_dir(dir)?;
    Ok((aside, lost, known + kept))
}

/// Which sequence numbers a damaged history has.
#[derive(Default)]
struct Lines {
    first: Option<u64>,
    unreadable_before_first: u64,
    last: u64,
    unreadable_at_end: u64,
}

impl Lines {
    fn count(&mut self, seq: Option<u64>) {
        match seq {
            Some(seq) => {
                self.first.get_or_insert(seq);
                self.last = self.last.max(seq);
                self.unreadable_at_end = 0;
            }
            None if self.first.is_none() => self.unreadable_before_first += 1,
            None => self.unreadable_at_end += 1,
        }
    }

    /// The number before that of the first line, readable or not.
    fn before_first(&self) -> u64 {
        self.first.map_or(0, |first| first - 1).saturating_sub(self.unreadable_before_first)
    }
}

/// Whether every record of a catalogue can be read.
fn is_readable(catalogue: &Catalogue) -> Result<()> {
    catalogue.applied()?;
    catalogue.content()?;
    let mut after = Vec::new();
    while let Some((last, _)) = catalogue.page(after, 1000)?.last() {
        after = [&last[..], b"\0"].concat();
    }
    Ok(())
}

fn largest_inode(change: &Change) -> u64 {
    match change {
        Change::Publish { inode, directories, .. } => {
            directories.iter().map(|d| d.inode).max().unwrap_or(0).max(*inode)
        }
        Change::Snapshot { next_inode, .. } => next_inode - 1,
        Change::Engine { inode, .. }
        | Change::Alias { inode, .. }
        | Change::Link { inode, .. }
        | Change::Version { inode, .. } => *inode,
        Change::Directory { directory } => directory.inode,
        _ => 0,
    }
}

/// Applies changes some of whose predecessors are missing, and makes up for those from what
/// object files say.
struct Rescuer {
    catalogue: Arc<Catalogue>,
    payloads: Payloads,
    /// A catalogue that can't be trusted, but may have payloads.
    old: Option<Catalogue>,
    next_inode: u64,
}

impl Rescuer {
    fn apply(&mut self, entry: &Entry) -> Result<()> {
        let Entry { seq, after, time, .. } = *entry;
        let made_up = |change| Entry { seq, after, time, change };
        if !matches!(entry.change, Change::Create) && self.catalogue.inode(ROOT_INODE)?.is_none() {
            self.commit(&made_up(Change::Create))?;
        }
        match &entry.change {
            Change::Publish { key, sha256, engine, directories, .. } => {
                self.provide_payload(entry, sha256)?;
                self.provide_engine(entry, sha256, *engine)?;
                self.provide_directories(entry, key, *engine, directories)?;
            }
            Change::Version { key, version, sha256, engine, source, .. } => {
                for payload in [Some(sha256), source.as_ref()].into_iter().flatten() {
                    // Without its bytes it is a version all the same.
                    if let Err(e) = self.provide_payload(entry, payload) {
                        log::error!("payload {payload} can't be rescued: {e}");
                    }
                }
                self.provide_engine(entry, sha256, *engine)?;
                self.provide_directories(entry, key, *engine, &[])?;
                let known: Option<KeyRecord> = self.catalogue.record(&key_key(key))?;
                let default = known.as_ref().map_or(*engine, |known| known.default_engine);
                if known.is_none_or(|known| known.last_version < *version) {
                    let (key, last_version) = (key.clone(), *version);
                    self.commit(&made_up(Change::Key { key, default, last_version }))?;
                }
            }
            Change::Origin { source: Some(source), .. } => self.provide_payload(entry, source)?,
            Change::Default { engine, .. } | Change::Key { default: engine, .. } => {
                self.catalogue.engine(*engine).map(drop).or_else(|e| match &entry.change {
                    // Its versions may bring it.
                    Change::Key { .. } => Ok(()),
                    _ => Err(e),
                })?;
            }
            _ => {}
        }
        self.commit(entry)
    }

    fn commit(&self, entry: &Entry) -> Result<()> {
        let mut txn = Txn::new(&self.catalogue);
        apply(&mut txn, entry, 0)?;
        txn.apply()
    }

    /// Has a payload be known whose line is lost, and whose bytes are there.
    fn provide_payload(&self, entry: &Entry, sha256: &Sha) -> Result<()> {
        if self.catalogue.payload(sha256)?.is_some() {
            return Ok(());
        }
        let (bytes, inline) = self.bytes_of(sha256)?;
        let (found, size, kind, blocks) = Payloads::describe(bytes)?;
        if found != *sha256 {
            return Err(Error::NoPayload(*sha256));
        }
        let record = PayloadRecord { size, kind, inline, large_blocks: false };
        let change = Change::payload(*sha256, &record, &blocks);
        self.commit(&Entry { change, ..entry.clone() })
    }

    /// Has the engine be known that an artifact is of.
    fn provide_engine(&mut self, entry: &Entry, sha256: &Sha, number: EngineNumber) -> Result<()> {
        if self.catalogue.engine(number).is_ok() {
            return Ok(());
        }
        let artifact = inspect(self.bytes_of(sha256)?.0)?;
        // Its directory may be known.
        let inode = self.catalogue.number(&directory_key(View::Engine(number), ""))?;
        let change = Change::Engine {
            number,
            inode: inode.unwrap_or_else(|| self.take_inode()),
            label: artifact.engine.label(8),
            description: artifact.engine.clone(),
            section: BASE64.encode(&artifact.section),
            producer: None,
            last_publish: None,
        };
        self.commit(&Entry { change, ..entry.clone() })
    }

    /// Has every directory of a key have a number, but for those that the change brings.
    fn provide_directories(
        &mut self,
        entry: &Entry,
        key: &str,
        engine: EngineNumber,
        brought: &[NewDirectory],
    ) -> Result<()> {
        let key = Key::new(key)?;
        let views = [View::Keys, View::Versions, View::Engine(engine)];
        let above = key.ancestors().flat_map(|path| views.map(|view| (view, path)));
        for (view, path) in above.chain([(View::Versions, key.as_str())]) {
            let known = self.catalogue.number(&directory_key(view, path))?.is_some();
            if !known && !brought.iter().any(|d| d.view == view && d.path == path) {
                let inode = self.take_inode();
                let directory = NewDirectory { view, path: path.to_owned(), inode };
                self.commit(&Entry { change: Change::Directory { directory }, ..entry.clone() })?;
            }
        }
        Ok(())
    }

    /// The bytes of a payload, and whether they are kept inside a catalogue.
    fn bytes_of(&self, sha256: &Sha) -> Result<(Box<dyn ReadSeek>, bool)> {
        if let Ok(file) = File::open(self.payloads.object(sha256)) {
            return Ok((Box::new(file), false));
        }
        let inside = self.old.as_ref().and_then(|old| {
            let read = || whole_inline(old, sha256, old.payload(sha256).ok()??.size);
            quietly(|| Ok(read())).ok().flatten()
        });
        let bytes = inside.ok_or(Error::NoPayload(*sha256))?;
        Ok((Box::new(Cursor::new(bytes)), true))
    }

    fn take_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode - 1
    }
}
