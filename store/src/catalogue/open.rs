//! Opening sled, bringing it up to the history, and rebuilding it when it
//! can't be trusted.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use rustix::fs::RenameFlags;

use super::records::*;
use super::{Catalogue, Records, Txn, apply};
use crate::error::{Error, IoContext, Result, is_unwritable};
use crate::history::log::History;
use crate::payload::staging as payload;
use crate::store::publish::available;

/// sled's page cache, in bytes. Records are small; what is hot fits.
const SLED_CACHE: u64 = 16 << 20;
/// Changes applied with one hand-over while replaying, and bytes of the history.
const REPLAY_GROUP: (usize, u64) = (256, 1 << 20);

/// Where the catalogue is, and where its successor is made.
struct Places {
    db: PathBuf,
    new: PathBuf,
}

/// How long a sled that is just being closed is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens the catalogue in `dir/db` and applies what of `history` it lacks. It
/// is rebuilt from the history if `trusted` is false, or when sled fails or
/// panics, or when it doesn't fit the history.
pub(crate) fn open(dir: &Path, history: &mut History, trusted: bool) -> Result<Catalogue> {
    let places = Places { db: dir.join("db"), new: dir.join("db.new") };
    remove_dir(&places.new)?;
    let shown = places.db.display();
    let existed = places.db.exists();
    let old = match open_sled(&places.db) {
        Ok(catalogue) => Arc::new(catalogue),
        // Never beside another process that has it open.
        Err(Unopened::Locked) => {
            return Err(Error::InUse { dir: dir.to_owned(), pid: None });
        }
        // Nothing is wrong with it that could be mended here.
        Err(Unopened::Disk(source)) => return Err(unopened(&places.db, source)),
        // A panic or an error inside sled, not of ours: the history has everything.
        Err(Unopened::Broken(reason)) => {
            log::error!("{shown}: the catalogue can't be opened ({reason}); rebuilding it");
            return rebuild(&places, history, None);
        }
    };
    if trusted || !existed {
        match quietly(|| Ok(catch_up(&old, history, 0))) {
            Ok(Ok(())) => {
                if !existed {
                    // Made from the history alone.
                    bring_inside(&old, None, &dir.join("objects"))?;
                    old.flush()?;
                    sync_files(&places.db)?;
                }
                return sole(old);
            }
            Ok(Err(e)) if e.is_out_of_room() || matches!(e, Error::HistoryDamaged { .. }) => {
                return Err(e);
            }
            Ok(Err(e)) => log::error!("{shown}: {e}; rebuilding the catalogue"),
            Err(panic) => log::error!("{shown}: {panic}; rebuilding the catalogue"),
        }
    } else {
        log::info!("{shown}: not closed cleanly before a restart; rebuilding the catalogue");
    }
    rebuild(&places, history, Some(old))
}

/// Opens the catalogue of `dir` as a copy in memory that nothing is written to, for when the
/// store's own can't be; one made from the history alone, if it is not trusted.
pub(crate) fn open_elsewhere(
    dir: &Path,
    history: &mut History,
    trusted: bool,
) -> Result<Catalogue> {
    let db = dir.join("db");
    let size = fs::read_dir(&db).at("reading", &db)?.flatten();
    let size: u64 = size.flat_map(|file| file.metadata()).map(|metadata| metadata.len()).sum();
    let place = elsewhere(2 * size)?;
    let copy = || -> Result<Arc<Catalogue>> {
        let to = place.path().join("copy");
        fs::create_dir(&to).at("making", &to)?;
        for entry in fs::read_dir(&db).at("reading", &db)? {
            let from = entry.at("reading", &db)?.path();
            if from.is_file() {
                fs::copy(&from, to.join(from.file_name().unwrap_or_default()))
                    .at("copying", &from)?;
            }
        }
        let copy = open_sled(&to).map_err(|e| e.of(&to))?;
        Ok(Arc::new(Catalogue { elsewhere: true, ..copy }))
    };
    let mut copied = quietly(|| Ok(copy())).unwrap_or_else(|e| Err(Error::Inconsistent(e))).ok();
    if trusted && let Some(copy) = copied.take() {
        match quietly(|| Ok(catch_up(&copy, history, 0))) {
            Ok(Ok(())) => return sole(copy),
            Ok(Err(e)) => log::error!("the copied catalogue: {e}; rebuilding it"),
            Err(panic) => log::error!("the copied catalogue: {panic}; rebuilding it"),
        }
        copied = Some(copy);
    }
    let path = place.path().join("new");
    let new = open_sled(&path).map_err(|e| e.of(&path))?;
    let new = Arc::new(Catalogue { elsewhere: true, ..new });
    catch_up(&new, history, 0)?;
    bring_inside(&new, copied.as_deref(), &dir.join("objects"))?;
    // sled has its file open; so nothing is left behind, however this process ends.
    sole(new)
}

/// A directory in memory, or where temporary files are, with room for so many bytes.
fn elsewhere(bytes: u64) -> Result<tempfile::TempDir> {
    directory_in(&[Path::new("/dev/shm"), &std::env::temp_dir()], bytes)
}

/// A directory for a catalogue beside that of the store in `dir`, with room for so many bytes. What
/// a kill leaves of it in the store's directory is swept by [`sweep`].
pub(crate) fn scratch(dir: &Path, bytes: u64) -> Result<tempfile::TempDir> {
    directory_in(&[&std::env::temp_dir(), dir], bytes)
}

/// The start of the names of directories that are in use for a while.
pub const SCRATCH: &str = ".wasmfs-";
/// How long one may be in use.
const SCRATCH_AGE: Duration = Duration::from_secs(24 * 3600);

/// Removes what was left of directories that nobody can be using any more.
pub(crate) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(SCRATCH)
            && age.is_some_and(|age| age > SCRATCH_AGE)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn directory_in(places: &[&Path], bytes: u64) -> Result<tempfile::TempDir> {
    let mut failed = None;
    for place in places.iter().copied() {
        if available(place).unwrap_or(0) < bytes {
            continue;
        }
        match tempfile::Builder::new().prefix(SCRATCH).tempdir_in(place) {
            Ok(directory) => return Ok(directory),
            Err(e) => failed = Some(e),
        }
    }
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    Err(failed.unwrap_or_else(full)).at("making a copy in", places[0])
}

/// Why sled did not open.
enum Unopened {
    /// Another process has it.
    Locked,
    /// The disk is full, read-only, or doesn't answer.
    Disk(io::Error),
    /// sled can't make anything of it.
    Broken(String),
}

impl Unopened {
    fn of(self, path: &Path) -> Error {
        unopened(
            path,
            match self {
                Unopened::Locked => io::ErrorKind::WouldBlock.into(),
                Unopened::Disk(e) => e,
                Unopened::Broken(reason) => io::Error::other(reason),
            },
        )
    }
}

fn unopened(path: &Path, source: io::Error) -> Error {
    Error::Io { action: "opening the catalogue in", path: path.to_owned(), source }
}

/// Opens sled in `path`; a panic inside it is an error like any other.
fn open_sled(path: &Path) -> std::result::Result<Catalogue, Unopened> {
    // A kill while sled writes a snapshot leaves this file, and every later open fails.
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            let _ = fs::remove_file(entry.path());
        }
    }
    let attempt = || -> std::result::Result<sled::Db, Unopened> {
        let config = sled::Config::new().path(path).cache_capacity(SLED_CACHE);
        match quietly(|| Ok(config.open())).map_err(Unopened::Broken)? {
            Ok(db) => Ok(db),
            // sled found its flock taken (sled 0.34.7, `Config::try_lock`).
            Err(e) if e.to_string().contains("could not acquire lock") => Err(Unopened::Locked),
            Err(sled::Error::Io(e)) if is_unwritable(&e) || is_for_want(&e) => {
                Err(Unopened::Disk(e))
            }
            Err(e) => Err(Unopened::Broken(e.to_string())),
        }
    };
    let start = Instant::now();
    let mut opened = attempt();
    // sled lets go a moment after it was dropped.
    while matches!(opened, Err(Unopened::Locked)) && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
        opened = attempt();
    }
    if let Err(Unopened::Broken(_)) = opened {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("snap.") {
                let _ = fs::remove_file(entry.path());
            }
        }
        opened = attempt().or(opened);
    }
    opened.map(|db| Catalogue {
        db,
        path: path.to_owned(),
        elsewhere: false,
        written: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        damaged: AtomicBool::new(false),
    })
}

/// Whether an error says that this process may not have what it asked for: no damage.
fn is_for_want(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let wants = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM];
    wants.iter().any(|want| error.raw_os_error() == Some(want.raw_os_error()))
}

/// A catalogue that nobody else has.
fn sole(catalogue: Arc<Catalogue>) -> Result<Catalogue> {
    Arc::into_inner(catalogue)
        .ok_or_else(|| Error::Inconsistent("it is in use while it is opened".into()))
}

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic in this thread is caught, and means nothing but an error: a hook that ends the
/// process leaves it alone.
pub fn panics_are_caught() -> bool {
    CAUGHT.get()
}

/// Runs what may panic inside sled, whose pages are read when they are needed.
pub(crate) fn quietly<T>(
    f: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(before);
    match result {
        Ok(result) => result,
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_else(|| "sled panicked".into())),
    }
}

/// Applies what the history has and the catalogue lacks. Lines up to
/// `acknowledged` must be there.
pub(crate) fn catch_up(
    catalogue: &Arc<Catalogue>,
    history: &mut History,
    acknowledged: u64,
) -> Result<()> {
    let mut applied = catalogue.applied()?;
    if let Some((len, seq)) = history.snapshot_of(applied.seq)? {
        // The history was compacted, and this is what it was compacted from.
        (applied.history_len, applied.seq) = (len, seq);
        catalogue.note_applied(&applied)?;
    }
    if !history.has_line_ending_at(applied.history_len, applied.seq)? {
        return Err(Error::Inconsistent(format!(
            "the history has no line {} where the catalogue saw it",
            applied.seq
        )));
    }
    let mut pending = Vec::new();
    let flush = |pending: &mut Vec<_>| -> Result<()> {
        let mut txn = Txn::new(catalogue);
        for (entry, len) in pending.drain(..) {
            apply(&mut txn, &entry, len)?;
        }
        txn.apply()
    };
    let mut flushed = applied.history_len;
    history.replay(applied.history_len, applied.seq, acknowledged, |entry, len| {
        pending.push((entry.clone(), len));
        if pending.len() < REPLAY_GROUP.0 && len - flushed < REPLAY_GROUP.1 {
            return Ok(());
        }
        flushed = len;
        flush(&mut pending)
    })?;
    flush(&mut pending)
}

/// Opens what sled has in `path`, or a new one, without looking at any history.
pub(crate) fn open_alone(path: &Path) -> Result<Catalogue> {
    open_sled(path).map_err(|e| e.of(path))
}

/// A catalogue of the history alone, in an empty directory of its own.
pub(crate) fn from_history(place: &Path, history: &mut History) -> Result<Arc<Catalogue>> {
    let made = quietly(|| {
        let catalogue = open_sled(place).map_err(|e| e.of(place)).map(Arc::new);
        Ok(catalogue.and_then(|new| catch_up(&new, history, 0).map(|()| new)))
    });
    made.unwrap_or_else(|panic| Err(Error::Inconsistent(panic)))
}

/// Makes a catalogue from the history alone, and brings over what payloads the
/// old one holds inside, as far as they are what they should be.
fn rebuild(
    places: &Places,
    history: &mut History,
    old: Option<Arc<Catalogue>>,
) -> Result<Catalogue> {
    let new = Arc::new(open_sled(&places.new).map_err(|e| e.of(&places.new))?);
    // sled only ever holds what was on disk in the history before.
    let acknowledged =
        old.as_ref().and_then(|old| quietly(|| old.applied_seq().map_err(|e| e.to_string())).ok());
    catch_up(&new, history, acknowledged.unwrap_or(0))?;
    let objects = places.db.with_file_name("objects");
    let lost = bring_inside(&new, old.as_deref(), &objects)?;
    let readable = old.is_some();
    // Dropping a sled whose file is damaged can panic as well.
    let _ = quietly(|| {
        drop(old);
        Ok(())
    });
    close(sole(new)?)?;
    let dir = places.db.parent().unwrap_or(&places.db);
    if readable && lost == 0 || !places.db.exists() {
        put_in_place(dir)?;
    } else {
        let aside = aside(&places.db);
        put_in_place_of(dir, &places.new, &aside)?;
        log::error!(
            "the damaged catalogue was moved to {}; {lost} payloads kept inside it are lost",
            aside.display()
        );
    }
    open_sled(&places.db).map_err(|e| e.of(&places.db))
}

/// Brings over what payloads the old catalogue holds inside, as far as they are what they should
/// be; or what an archive brought as object files. Returns how many are lost.
pub(crate) fn bring_inside(
    new: &Catalogue,
    old: Option<&Catalogue>,
    objects: &Path,
) -> Result<u64> {
    let mut lost = 0;
    for entry in new.scan(b"p") {
        let (key, value) = entry?;
        let record: PayloadRecord = super::decode(&value)?;
        if !record.inline {
            continue;
        }
        let sha256 = payload::sha_of_key(&key)?;
        let salvage = |old| quietly(|| Ok(payload::whole_inline(old, &sha256, record.size)));
        let found = old.and_then(|old| salvage(old).ok().flatten());
        match found.or_else(|| payload::whole_object(objects, &sha256)) {
            Some(bytes) => payload::put_chunks(new, &sha256, 0, &bytes)?,
            None => {
                // Without its record the payload reads as missing, and is stored again when
                // somebody publishes it again.
                new.remove(&key)?;
                lost += 1;
            }
        }
    }
    Ok(lost)
}

/// Puts the catalogue at `new` in the place of the one at `db`, which ends up at `new`.
fn exchange(places: &Places) -> Result<()> {
    if places.db.exists() {
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, &places.new, cwd, &places.db, RenameFlags::EXCHANGE)
            .at("exchanging", &places.new)?;
    } else {
        fs::rename(&places.new, &places.db).at("renaming", &places.new)?;
    }
    Ok(())
}

/// Copies every record into a new catalogue beside the old one in `dir`. It takes no more space
/// than it needs.
pub(crate) fn copy(catalogue: &Catalogue, dir: &Path) -> Result<()> {
    let new = dir.join("db.new");
    remove_dir(&new)?;
    let copy = open_sled(&new).map_err(|e| e.of(&new))?;
    for entry in catalogue.db.iter() {
        let (key, value) = catalogue.checked(entry.map_err(Error::from))?;
        copy.checked(copy.db.insert(key, value).map_err(Error::from))?;
    }
    close(copy)
}

/// A name beside a path for what is damaged.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.damaged-{}", crate::store::open::now() / 1_000_000))
}

/// Puts the catalogue at `new` in the place of the one in `dir`, which gets the name `aside`; never
/// is there none.
pub(crate) fn put_in_place_of(dir: &Path, new: &Path, aside: &Path) -> Result<()> {
    let db = dir.join("db");
    if db.exists() {
        // First the name, then the exchange: the old one is never where it would be removed.
        fs::rename(new, aside).at("renaming", new)?;
        exchange(&Places { db, new: aside.to_owned() })?;
    } else {
        fs::rename(new, &db).at("renaming", new)?;
    }
    sync_dir(dir)
}

/// Puts what [`copy`] made in the place of the catalogue in `dir`, which is closed.
pub(crate) fn put_in_place(dir: &Path) -> Result<()> {
    let places = Places { db: dir.join("db"), new: dir.join("db.new") };
    exchange(&places)?;
    sync_dir(dir)?;
    remove_dir(&places.new)
}

/// Closes a catalogue so that all of it is on disk.
pub(crate) fn close(catalogue: Catalogue) -> Result<()> {
    let path = catalogue.path.clone();
    catalogue.flush()?;
    drop(catalogue);
    sync_files(&path)
}

/// Syncs every file of a sled directory, and the directory.
pub(crate) fn sync_files(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).at("reading", path)? {
        let entry = entry.at("reading", path)?;
        if entry.file_type().at("reading", path)?.is_file() {
            let file = entry.path();
            File::open(&file).and_then(|f| f.sync_all()).at("syncing", &file)?;
        }
    }
    sync_dir(path)
}

/// Syncs a directory, so that names made in it stay.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).at("syncing", path)
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", path),
        _ => Ok(()),
    }
}
