//! The database under the catalogue: sled 0.34, and all that it takes to live with it.
//!
//! What sled does, and what is done about it here:
//!
//! | sled 0.34.7 | here |
//! | --- | --- |
//! | `flush` writes and does not sync | [`Database::sync`] syncs its files as well |
//! | one failed write stops an instance for good, reads too | it is noted ([`Database::is_sound`]), and whoever has the database opens it again |
//! | damage makes it panic, at open or later | [`catch_panic`], and a hook asks [`is_database_panic`] |
//! | a kill leaves `snap.*.generating`, and no open works after | the file is removed before opening |
//! | it notes where everything is only when it opens | [`Database::is_long`]: it should be opened again |
//! | it is locked a moment longer than it is open | opening waits for that; [`is_locked`] asks the lock itself |
//! | an error is handed on by its kind alone, and EIO has none of its own | [`cause_of`] |
//!
//! Nothing in the crates outside of this file names sled. Another database takes its place with
//! what is public here: [`Database`], [`Bytes`], [`Batch`] and [`Unopened`] with their methods, the
//! estimates [`weight`] and [`is_too_large`], and the questions about panics; `LAYOUT` is raised
//! then. Some tests of the store open sled by themselves. `packed.rs`, chunks of payloads and the
//! copy of a large database are there for sled's sake as well, and may go with it.

use std::cell::Cell;
use std::fs;
use std::io;
use std::ops::{Bound, Deref, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::disk::by_path::{protect_files, sync_files};
use crate::disk::space::check_writable;
use crate::error::{Error, Result, is_out_of_room, is_unwritable, shown};

/// The filter that keeps what the database logs for its own developers out of a log, in the syntax
/// of `env_logger`.
pub const DATABASE_LOG_FILTER: &str = "sled=error";

/// sled's page cache, in bytes. Records are small; what is hot fits.
const PAGE_CACHE: u64 = 16 << 20;
/// How long a database that is just being closed is waited for.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(3);
/// What may be written before it is opened again, in bytes: reading it takes sled some 100 ms.
const LONG: u64 = 32 << 20;
/// How many times its content a database may take on the disk.
const OVERHEAD: u64 = 3;
/// A smaller database is never too large, in bytes: sled works in segments of 512 KiB.
const SMALL: u64 = 16 << 20;
/// What a record takes in sled's file: some 300 bytes for one of 60 to 100.
const WRITE_FACTOR: u64 = 4;

/// A key or a value, as the database gives it out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(sled::IVec);

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(bytes.into())
    }
}

/// A key and its value.
pub(crate) type Pair = (Bytes, Bytes);

/// Writes that are made at once.
#[derive(Default)]
pub(super) struct Batch {
    batch: sled::Batch,
    size: u64,
}

impl Batch {
    pub(super) fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.size += value.len() as u64;
        self.batch.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.batch.remove(key);
    }
}

/// An ordered map of bytes to bytes, on the disk. Values stay under 4 KiB: sled moves values over
/// some 8 KiB to files that it neither syncs nor reclaims.
pub(super) struct Database {
    db: sled::Db,
    path: PathBuf,
    /// Bytes handed over since it was opened.
    written: AtomicU64,
    /// Set when it could not read or write: opened again, it may be able to.
    failed: AtomicBool,
    /// Set when a record can't be what was written, or sled says so: it must not be trusted.
    damaged: AtomicBool,
}

/// Why a database did not open.
pub(super) enum Unopened {
    /// Another process has it.
    Locked,
    /// The disk is full, read-only, or doesn't answer.
    Disk(io::Error),
    /// sled can't make anything of it.
    Broken(String),
}

impl Unopened {
    /// The same as an error, of the database at `path`.
    pub(super) fn into_error(self, path: &Path) -> Error {
        let source = match self {
            Unopened::Locked => io::ErrorKind::WouldBlock.into(),
            Unopened::Disk(e) => e,
            Unopened::Broken(reason) => io::Error::other(reason),
        };
        Error::Io { action: "opening the catalogue in", path: shown(path), source }
    }
}

impl Database {
    /// Opens what is at `path`, or a new one; a panic inside sled is an error like any other.
    pub(super) fn open(path: &Path) -> std::result::Result<Database, Unopened> {
        remove_files(path, |name| name.ends_with(".generating"));
        let start = Instant::now();
        let mut opened = attempt(path);
        while matches!(opened, Err(Unopened::Locked)) && start.elapsed() < CLOSING_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
            opened = attempt(path);
        }
        if let Err(Unopened::Broken(_)) = opened {
            // A snapshot is only there to open faster.
            remove_files(path, |name| name.starts_with("snap."));
            opened = attempt(path).or(opened);
        }
        let db = opened?;
        keep_private(path);
        Ok(Database {
            db,
            path: path.to_owned(),
            written: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        })
    }

    /// The directory of its files.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.checked(within(|| self.db.get(key)))?.map(Bytes))
    }

    /// The last entry whose key is less than `key`.
    pub(super) fn last_before(&self, key: &[u8]) -> Result<Option<Pair>> {
        Ok(self.checked(within(|| self.db.get_lt(key)))?.map(|(k, v)| (Bytes(k), Bytes(v))))
    }

    /// The first entry whose key is greater than `key`.
    pub(super) fn first_after(&self, key: &[u8]) -> Result<Option<Pair>> {
        Ok(self.checked(within(|| self.db.get_gt(key)))?.map(|(k, v)| (Bytes(k), Bytes(v))))
    }

    /// The entries in a range, in order; from the end too.
    pub(super) fn range(
        &self,
        range: impl RangeBounds<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair>> + '_ {
        let bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>) =
            (range.start_bound().cloned(), range.end_bound().cloned());
        let pair = |entry| self.checked(entry).map(|(k, v)| (Bytes(k), Bytes(v)));
        Within(within(|| self.db.range::<Vec<u8>, _>(bounds))).map(pair)
    }

    /// Puts an entry in, by itself.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.written.fetch_add(value.len() as u64, Ordering::Relaxed);
        self.checked(within(|| self.db.insert(key, value))).map(drop)
    }

    /// Makes some writes at once: all of them, or none.
    pub(super) fn apply(&self, Batch { batch, size }: Batch) -> Result<()> {
        self.written.fetch_add(size, Ordering::Relaxed);
        self.checked(within(|| self.db.apply_batch(batch)))
    }

    /// Has all that was put in be in its file, where a successor finds it. It is not synced.
    pub(super) fn flush(&self) -> Result<()> {
        self.checked(within(|| self.db.flush())).map(drop)
    }

    /// Has all that was put in outlive a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        self.flush()?;
        // After a failed fsync a second one proves nothing; sled would not write the same again.
        sync_files(&self.path).inspect_err(|_| self.note_damage())
    }

    /// Closes it so that all of it is on disk.
    pub(super) fn close(self) -> Result<()> {
        let path = self.path.clone();
        self.flush()?;
        within(|| drop(self));
        keep_private(&path);
        sync_files(&path)
    }

    /// Copies every entry into a new database at `path`, which takes no more room than it needs.
    pub(super) fn copy_to(&self, path: &Path) -> Result<()> {
        let copy = Database::open(path).map_err(|e| e.into_error(path))?;
        for entry in Within(self.db.iter()) {
            let (key, value) = self.checked(entry)?;
            copy.checked(within(|| copy.db.insert(key, value)))?;
        }
        copy.close()
    }

    /// How much its entries need, in bytes, without what sled adds.
    pub(super) fn content(&self) -> Result<u64> {
        let mut total = 0;
        for entry in Within(self.db.iter()) {
            let (key, value) = self.checked(entry)?;
            total += (key.len() + value.len()) as u64;
        }
        Ok(total)
    }

    /// Whether nothing in it failed since it was opened.
    pub(super) fn is_sound(&self) -> bool {
        !self.is_damaged() && !self.failed.load(Ordering::Relaxed)
    }

    /// Whether a record turned out wrong since it was opened.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Notes that a record can't be what was written.
    pub(super) fn note_damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether so much was written that it should be opened again.
    pub(super) fn is_long(&self) -> bool {
        self.written.load(Ordering::Relaxed) > LONG
    }

    /// Notes what failed, and gives the reason for it.
    fn checked<T>(&self, result: sled::Result<T>) -> Result<T> {
        result.map_err(|e| match e {
            // What a full or failing disk leaves; whatever is asked after that is refused as well.
            sled::Error::Io(source) => {
                self.failed.store(true, Ordering::Relaxed);
                let mut source = cause_of(source);
                if is_out_of_room(&source) {
                    source = source.kind().into();
                } else if is_unwritable(&source) {
                    // What could not be written once may seem to be the next time.
                    self.note_damage();
                }
                Error::Io { action: "using the catalogue in", path: shown(&self.path), source }
            }
            e => {
                self.note_damage();
                Error::Catalogue(Box::new(e))
            }
        })
    }
}

/// Whether a database that takes so many bytes on the disk, for so many of content, should be
/// copied: sled gives nothing back.
pub(crate) fn is_too_large(size: u64, content: u64) -> bool {
    size >= SMALL && size >= content.saturating_mul(OVERHEAD)
}

/// How many bytes writing records of so many takes.
pub(crate) fn weight(size: u64) -> u64 {
    size.saturating_mul(WRITE_FACTOR)
}

fn attempt(path: &Path) -> std::result::Result<sled::Db, Unopened> {
    let config = sled::Config::new().path(path).cache_capacity(PAGE_CACHE);
    // A panic may come of a disk that doesn't answer.
    let panicked = |reason| disk_fault(path).map_or(Unopened::Broken(reason), Unopened::Disk);
    match catch_panic(|| within(|| config.open())).map_err(panicked)? {
        Ok(db) => Ok(db),
        Err(_) if is_locked(path) => Err(Unopened::Locked),
        Err(sled::Error::Io(e)) => {
            let e = cause_of(e);
            let is_disk = is_unwritable(&e) || is_refusal(&e);
            Err(if is_disk { Unopened::Disk(e) } else { Unopened::Broken(e.to_string()) })
        }
        Err(e) => Err(Unopened::Broken(e.to_string())),
    }
}

/// The error that an operation failed with first. sled tells the same error again and again, by
/// its kind alone (sled 0.34.7, `impl Clone for Error`). EIO has no kind of its own: whatever else
/// has none is taken for it.
fn cause_of(error: io::Error) -> io::Error {
    let eio = io::Error::from(rustix::io::Errno::IO);
    match error.raw_os_error() {
        None if error.kind() == eio.kind() => eio,
        _ => error,
    }
}

/// Whether another process has the database at `path` open: sled holds an flock(2) on this file of
/// its (sled 0.34.7, `Config::try_lock`).
fn is_locked(path: &Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let Ok(file) = fs::File::open(path.join("db")) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// What the disk answers when the files of the database at `path` are read, and one beside them
/// is written, if that is an error.
fn disk_fault(path: &Path) -> Option<io::Error> {
    let read = || -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                io::copy(&mut fs::File::open(entry.path())?, &mut io::sink())?;
            }
        }
        Ok(())
    };
    let faults = [read().err(), check_writable(path).err().and_then(Error::into_io)];
    faults.into_iter().flatten().find(is_unwritable)
}

/// Whether an error says that this process may not have what it asked for: no damage.
fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::PERM];
    refusals.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// sled makes its files with what the umask leaves (sled 0.34.7, `Config::open`).
fn keep_private(path: &Path) {
    if let Err(e) = protect_files(path) {
        log::warn!("keeping others out of the catalogue: {e}");
    }
}

fn remove_files(dir: &Path, which: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if which(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic in this thread is caught, and means nothing but an error: a hook that ends the
/// process leaves it alone.
#[must_use]
pub fn panics_are_caught() -> bool {
    CAUGHT.get()
}

thread_local! {
    /// How deep this thread is inside sled.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Whether a panic in this thread comes out of the database: the thread is inside it, or is one of
/// its own (sled 0.34.7, `threadpool.rs` and `db.rs`).
#[must_use]
pub fn is_database_panic() -> bool {
    let thread = std::thread::current();
    let is_own = |name: &str| name == "log flusher" || name.starts_with("sled-io-");
    DEPTH.get() > 0 || thread.name().is_some_and(is_own)
}

/// Runs what is inside sled.
fn within<T>(f: impl FnOnce() -> T) -> T {
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _inside = Inside;
    f()
}

/// An iterator of sled's.
struct Within<I>(I);

impl<I: Iterator> Iterator for Within<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        within(|| self.0.next())
    }
}

impl<I: DoubleEndedIterator> DoubleEndedIterator for Within<I> {
    fn next_back(&mut self) -> Option<I::Item> {
        within(|| self.0.next_back())
    }
}

/// Runs what may panic inside sled, whose pages are read when they are needed.
pub(crate) fn catch_panic<T>(f: impl FnOnce() -> T) -> std::result::Result<T, String> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(before);
    result.map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "the database panicked".into())
    })
}
