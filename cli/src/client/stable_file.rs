//! Reading files that somebody may be writing: what changes while it is read
//! is noticed, and refused.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::process::geteuid;
use wasmfs_store::{Dir, End, Missing, Staged, Staging, open_way};

use crate::ui::Error;

/// A write is noticed by the file's times. Those of Linux before 6.13 move in steps
/// of up to 10 ms, so a file that was written a moment ago is let rest first.
const REST: Duration = Duration::from_millis(25);
/// How long a file may take to come to rest.
const AT_REST_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a file is.
#[derive(Clone, Debug)]
pub enum FilePlace {
    /// At a path, wherever that leads.
    At(PathBuf),
    /// At a relative path under a directory, with no symbolic link on the way.
    Under(std::sync::Arc<OwnedFd>, PathBuf),
}

impl FilePlace {
    fn open(&self) -> io::Result<File> {
        match self {
            FilePlace::At(path) => open_named(path),
            FilePlace::Under(root, path) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                Ok(open_within(root, path, flags)?.into())
            }
        }
    }
}

/// Opens a file that the user named, through no other user's symbolic link. A pipe or a device is
/// read if it is root's or this user's: another's could be waited for without end.
pub fn open_named(path: &Path) -> io::Result<File> {
    let found = open_way(&std::path::absolute(path)?, Missing::Fail, End::LikeTheWay);
    let found = found.map_err(|e| match e {
        wasmfs_store::Error::Io { source, .. } => source,
        e => io::Error::other(e),
    })?;
    let stat = fstat(&found)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_file = matches!(kind, FileType::RegularFile | FileType::Directory);
    if !is_file && stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        return Err(io::Error::other(wasmfs_store::Error::NotAFile(path.to_owned())));
    }
    File::open(Dir::path_of(&found))
}

/// Opens a relative path under a directory, with no symbolic link on the way.
pub fn open_within(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), within)?)
}

/// All that a write to a file changes of its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let m = file.metadata()?;
        Ok(Stamp {
            inode: (m.dev(), m.ino()),
            size: m.size(),
            written: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }

    /// Whether the file at `path` in a directory is the same, with the same bytes; a new
    /// name changes the time of its last change.
    pub fn is_still(&self, directory: &OwnedFd, path: &Path) -> bool {
        // Not followed: a link that took its place is something else.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, path, flags, Mode::empty());
        let now = opened.ok().and_then(|fd| Stamp::of(&File::from(fd)).ok());
        now.is_some_and(|now| now == Stamp { changed: now.changed, ..*self })
    }

    /// How long ago it was written; long ago if that is in the future, since a
    /// write now would take that back.
    fn age(&self) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        let changed = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let changed = changed.and_then(|(s, ns)| UNIX_EPOCH.checked_add(Duration::new(s, ns)));
        let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
        age.unwrap_or(Duration::MAX)
    }
}

/// A file that must not change while it is read.
pub struct StableFile {
    file: File,
    stamp: Stamp,
}

impl StableFile {
    /// Opens a file that is at rest; one that is being written is waited for, but not long.
    pub fn open(place: &FilePlace) -> Result<StableFile> {
        StableFile::at_rest(place.open().map_err(Error::CannotOpen)?)
    }

    /// The same; `None` if there is no such file.
    pub fn open_if_there(place: &FilePlace) -> Result<Option<StableFile>> {
        match place.open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => StableFile::at_rest(opened.map_err(Error::CannotOpen)?).map(Some),
        }
    }

    fn at_rest(file: File) -> Result<StableFile> {
        if file.metadata().context("reading it")?.is_dir() {
            return Err(Error::FileIsADirectory.into());
        }
        let start = std::time::Instant::now();
        loop {
            let stamp = Stamp::of(&file).context("reading it")?;
            let age = stamp.age();
            if age >= REST {
                return Ok(StableFile { file, stamp });
            }
            if start.elapsed() > AT_REST_TIMEOUT {
                return Err(Error::FileChanging.into());
            }
            std::thread::sleep(REST - age);
        }
    }

    /// Its bytes. Once they are read, ask [`StableFile::check`].
    pub fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// What it looked like when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Refuses a file that changed since it was opened.
    pub fn check(&self) -> Result<()> {
        if Stamp::of(&self.file).context("reading it")? != self.stamp {
            return Err(Error::FileChanging.into());
        }
        Ok(())
    }
}

/// Stages an artifact that is in a file. A file that changes meanwhile is refused.
pub fn stage_file(staging: &Staging, place: &FilePlace, progress: &ProgressBar) -> Result<Staged> {
    let file = StableFile::open(place)?;
    staging.check_room(file.reader()?.metadata().context("reading it")?.len())?;
    let staged = staging.stage(progress.wrap_read(file.reader().context("reading it")?))?;
    file.check()?;
    Ok(staged)
}
