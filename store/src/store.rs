//! The store: opening it, owning it, closing it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::catalogue::{self, Catalogue, Txn, Untold, apply, sync_dir};
use crate::error::{Error, IoContext, Result};
use crate::history::{Change, Entry, History, line_of};
use crate::lock::Lock;
use crate::payload::{Payloads, Staged, StagedSource};

/// The format that this crate writes, and the newest it reads.
pub const FORMAT: u64 = 1;
/// Payloads up to this size, in bytes, are kept inside sled unless the store's settings say otherwise.
pub const DEFAULT_INLINE_LIMIT: u64 = 16 << 10;

const SETTINGS: &str = "settings.json";
const HISTORY: &str = "history";
const STATE: &str = "state.json";

/// The largest payload that is kept inside sled. Larger ones are object files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InlineLimit {
    /// So many bytes; 0 keeps nothing inside.
    Bytes(u64),
    /// Everything inside sled: `"unlimited"`.
    Unlimited(Unlimited),
}

/// The word `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlimited {
    /// `"unlimited"`
    Unlimited,
}

impl InlineLimit {
    /// Everything inside sled.
    pub const UNLIMITED: InlineLimit = InlineLimit::Unlimited(Unlimited::Unlimited);

    pub(crate) fn admits(self, size: u64) -> bool {
        match self {
            InlineLimit::Bytes(limit) => size <= limit,
            InlineLimit::Unlimited(_) => true,
        }
    }
}

/// `settings.json`: what a store is, and how its owner wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The store's format.
    pub format: u64,
    /// The largest payload kept inside sled.
    #[serde(default = "default_inline_limit")]
    pub inline_limit: InlineLimit,
}

fn default_inline_limit() -> InlineLimit {
    InlineLimit::Bytes(DEFAULT_INLINE_LIMIT)
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { format: FORMAT, inline_limit: default_inline_limit() }
    }
}

/// `state.json`: whether sled can be trusted when the store opens next.
#[derive(Serialize, Deserialize)]
struct State {
    /// The machine's run that wrote this; nothing while sled is not to be trusted.
    boot_id: Option<String>,
    /// Whether sled was closed and synced.
    closed: bool,
}

impl State {
    fn is_of_this_boot(&self) -> bool {
        self.boot_id.is_some() && self.boot_id == boot_id()
    }
}

/// What tells this run of the machine from others (random(4)).
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

/// Refuses a store of another user, and keeps others out of one's own.
pub(crate) fn check_owner(dir: &Path) -> Result<()> {
    let metadata = fs::metadata(dir).at("reading", dir)?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.uid() != uid {
        return Err(Error::WrongOwner { dir: dir.to_owned(), owner: metadata.uid(), uid });
    }
    if metadata.permissions().mode() & 0o077 != 0 && dir.join(SETTINGS).exists() {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).at("protecting", dir)?;
    }
    Ok(())
}

/// An open store. One process has it at a time; within it, every method can be
/// called from any thread.
pub struct Store {
    dir: PathBuf,
    settings: Settings,
    catalogue: Option<Catalogue>,
    pub(crate) payloads: Payloads,
    writer: Mutex<History>,
    /// Released when the process ends, however it ends.
    _lock: Lock,
}

impl Store {
    /// Opens the store in `dir`, making one if nothing is there.
    pub fn open_or_create(dir: &Path) -> Result<Store> {
        Store::create(dir, &Settings::default())?;
        Store::open(dir)
    }

    /// Makes an empty store with `settings`, unless there is one already.
    pub fn create(dir: &Path, settings: &Settings) -> Result<()> {
        let parent = dir.parent().unwrap_or(dir);
        fs::create_dir_all(parent).at("making", parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => sync_dir(parent)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_owner(dir)?,
            Err(e) => return Err(e).at("making", dir),
        }
        let path = dir.join(SETTINGS);
        for entry in fs::read_dir(dir).at("reading", dir)? {
            let found = entry.at("reading", dir)?.file_name().to_string_lossy().into_owned();
            // Another process makes the same store right now, or was cut off making it.
            if !found.starts_with(&format!(".{SETTINGS}")) && !path.exists() {
                return Err(Error::NotAStore { dir: dir.to_owned(), found });
            }
        }
        if path.exists() { Ok(()) } else { write_json(&path, settings) }
    }

    /// Opens the store in `dir`, which must exist.
    pub fn open(dir: &Path) -> Result<Store> {
        let settings = Store::settings_of(dir)?;
        Store::open_with(dir, settings, Lock::take(dir)?)
    }

    /// Opens the store in `dir` with the right to it that the caller has.
    pub fn open_locked(dir: &Path, lock: Lock) -> Result<Store> {
        Store::open_with(dir, Store::settings_of(dir)?, lock)
    }

    /// Checks that this build can read the store in `dir`, which another
    /// process may have open: its format, and every line of its history.
    pub fn check(dir: &Path) -> Result<()> {
        Store::settings_of(dir)?;
        History::check(&dir.join(HISTORY))
    }

    fn settings_of(dir: &Path) -> Result<Settings> {
        match fs::metadata(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoStore(dir.to_owned()));
            }
            metadata => metadata.at("reading", dir)?,
        };
        check_owner(dir)?;
        let path = dir.join(SETTINGS);
        if !path.exists() {
            return Err(Error::NoStore(dir.to_owned()));
        }
        let settings = read_settings(&path)?;
        if settings.format > FORMAT {
            return Err(Error::NewerFormat {
                dir: dir.to_owned(),
                found: settings.format,
                supported: FORMAT,
            });
        }
        Ok(settings)
    }

    fn open_with(dir: &Path, settings: Settings, lock: Lock) -> Result<Store> {
        let state = dir.join(STATE);
        let trusted = read_state(&state).is_some_and(|s| s.closed || s.is_of_this_boot());
        // Open from here on; and until it is rebuilt, should that be interrupted, not to be trusted.
        let boot_while_opening = if trusted { boot_id() } else { None };
        write_json(&state, &State { boot_id: boot_while_opening, closed: false })?;
        let mut history = History::open(&dir.join(HISTORY))?;
        let payloads = Payloads::open(dir)?;
        sync_dir(dir)?;
        let catalogue = catalogue::open(dir, &mut history, trusted)?;
        if !trusted {
            write_json(&state, &State { boot_id: boot_id(), closed: false })?;
        }
        let store = Store {
            dir: dir.to_owned(),
            settings,
            catalogue: Some(catalogue),
            payloads,
            writer: Mutex::new(history),
            _lock: lock,
        };
        if store.writer().end().1 == 0 {
            let mut writer = store.writer();
            let mut planned = Planned::new(store.catalogue()?);
            planned.add(&writer, Change::Create)?;
            store.commit(&mut writer, planned)?;
        }
        Ok(store)
    }

    /// Closes the store, so that the next open need not look at anything twice.
    /// Dropping it does the same, and logs an error.
    pub fn close(mut self) -> Result<()> {
        self.close_catalogue()
    }

    fn close_catalogue(&mut self) -> Result<()> {
        if let Some(catalogue) = self.catalogue.take() {
            // What failed while it was open is rebuilt by the next open.
            let trusted = !catalogue.is_damaged() && !std::thread::panicking();
            if !trusted {
                Store::distrust_catalogue(&self.dir);
            }
            catalogue::close(catalogue, &self.db())?;
            if trusted {
                let state = State { boot_id: boot_id(), closed: true };
                write_json(&self.dir.join(STATE), &state)?;
            }
        }
        Ok(())
    }

    /// Whether a process has the store in `dir` open.
    pub fn is_in_use(dir: &Path) -> bool {
        Lock::is_taken(dir)
    }

    /// Has the next open rebuild the catalogue of the store in `dir`: for when
    /// reading it made the process fail.
    pub fn distrust_catalogue(dir: &Path) {
        // Without the file nothing is trusted.
        let _ = fs::remove_file(dir.join(STATE));
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The store's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The sequence number of the last change committed.
    pub fn last_change(&self) -> u64 {
        self.writer().end().1
    }

    /// The names that changes after number `told` may have touched.
    pub fn untold_since(&self, told: u64) -> Result<Untold> {
        let entries = self.writer().entries_after(told)?;
        let mut untold = Untold::default();
        for entry in &entries {
            untold.add(self.catalogue()?, entry)?;
        }
        Ok(untold)
    }

    /// Takes an artifact in, without publishing it: its bytes are hashed and
    /// kept aside until [`Store::publish`], and taken back if the result is dropped.
    pub fn stage(&self, from: impl Read) -> Result<Staged> {
        self.payloads.stage(from)
    }

    /// Takes the WebAssembly in that an artifact was compiled from, likewise.
    pub fn stage_source(&self, from: impl Read) -> Result<StagedSource> {
        self.payloads.stage_source(from)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.dir.join("db")
    }

    pub(crate) fn catalogue(&self) -> Result<&Catalogue> {
        self.catalogue.as_ref().ok_or_else(|| Error::Inconsistent("the store is closed".into()))
    }

    /// The right to write. A writer that panicked left the history as it was.
    pub(crate) fn writer(&self) -> MutexGuard<'_, History> {
        self.writer.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Commits what was planned: history first, then the catalogue.
    pub(crate) fn commit(&self, writer: &mut History, planned: Planned<'_>) -> Result<()> {
        if planned.is_empty() {
            return Ok(());
        }
        self.check_free_space(planned.weight())?;
        writer.append(&planned.lines, planned.count)?;
        let tree = self.catalogue()?.tree();
        for batch in planned.txn.batches() {
            if let Err(e) = tree.apply_batch(batch) {
                // Committed, but unknown to the catalogue: nothing may be applied after the gap.
                writer.poison();
                return Err(e.into());
            }
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = self.close_catalogue() {
            log::error!("closing {}: {e}", self.dir.display());
        }
    }
}

/// Changes with all their numbers given, to be committed together.
pub(crate) struct Planned<'a> {
    pub(crate) txn: Txn<'a>,
    /// Their lines in the history.
    lines: Vec<u8>,
    count: u64,
}

impl<'a> Planned<'a> {
    pub(crate) fn new(catalogue: &'a Catalogue) -> Planned<'a> {
        Planned { txn: Txn::new(catalogue), lines: Vec::new(), count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much a commit writes, in bytes, sled's own records included: it takes some
    /// 300 bytes for what is 60 to 100.
    pub(crate) fn weight(&self) -> u64 {
        self.lines.len() as u64 + 4 * self.txn.size()
    }

    /// Adds a change, and says which names it will have changed.
    pub(crate) fn add(&mut self, writer: &History, change: Change) -> Result<catalogue::Changes> {
        let (len, after) = writer.end();
        let entry = Entry { seq: after + 1 + self.count, after, time: now(), change };
        let line = line_of(&entry)?;
        let end = len + (self.lines.len() + line.len()) as u64;
        let changes = apply(&mut self.txn, &entry, end)?;
        self.lines.extend(line);
        self.count += 1;
        Ok(changes)
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

fn read_settings(path: &Path) -> Result<Settings> {
    let text = fs::read(path).at("reading", path)?;
    // The format first: a newer one may have settings that this build can't read.
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let invalid = |source| Error::Settings { path: path.to_owned(), source };
    let Format { format } = serde_json::from_slice(&text).map_err(invalid)?;
    if format > FORMAT {
        return Ok(Settings { format, ..Settings::default() });
    }
    serde_json::from_slice(&text).map_err(invalid)
}

fn read_state(path: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a small file so that a crash leaves the old one or the new.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Settings { path: path.to_owned(), source })?;
    text.push(b'\n');
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .at("writing", &new)?;
    fs::rename(&new, path).at("renaming", &new)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}
