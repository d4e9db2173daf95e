//! A directory, open: what is in it is reached by its descriptor, whatever becomes of its path.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, linkat, mkdirat, openat,
    openat2, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use serde::Serialize;

use super::way::{End, Missing, open_directory};
use crate::error::{Error, IoContext, Result};

/// A directory, open. What is opened in it is in it: no component of a name may be a symbolic
/// link. What is made, renamed or removed is named by one component, or below a directory that was
/// opened so.
#[derive(Clone, Debug)]
pub struct Dir(Arc<OpenDir>);

#[derive(Debug)]
struct OpenDir {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}

impl Dir {
    /// Opens the directory at `path`, which is absolute and leads through nobody else's symbolic
    /// links.
    pub(crate) fn open(path: &Path, missing: Missing) -> Result<Dir> {
        let descriptor = open_directory(path, missing, End::LikeTheWay)?;
        Ok(Dir(Arc::new(OpenDir { descriptor, path: path.to_owned() })))
    }

    /// Its path as it was given, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The path of what is in it, for messages.
    #[must_use]
    pub fn named(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path.join(name)
    }

    /// A path through the descriptor, for what takes nothing but paths. It is good in this process,
    /// as long as the directory is open.
    #[must_use]
    pub fn through(&self, name: impl AsRef<Path>) -> PathBuf {
        Dir::path_of(&self.0.descriptor).join(name)
    }

    /// A path to what a descriptor is of, likewise.
    #[must_use]
    pub fn path_of(descriptor: impl AsFd) -> PathBuf {
        Path::new("/proc/self/fd").join(descriptor.as_fd().as_raw_fd().to_string())
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        fstat(self).at("reading", self.path())
    }

    fn open_at(&self, name: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat2(self, name, flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            // Before Linux 5.6, and in containers whose filter of system calls is as old.
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_steps(name, flags, mode),
            opened => opened,
        }
    }

    fn open_by_steps(&self, name: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let above = name.parent().into_iter().flat_map(Path::components);
        let mut at: Option<OwnedFd> = None;
        for part in above {
            let Component::Normal(part) = part else { return Err(Errno::XDEV) };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let from = at.as_ref().map_or_else(|| self.as_fd(), AsFd::as_fd);
            at = Some(openat(from, part, flags, Mode::empty())?);
        }
        let last = name.file_name().unwrap_or(OsStr::new("."));
        openat(at.as_ref().map_or_else(|| self.as_fd(), AsFd::as_fd), last, flags, mode)
    }

    /// Opens a file to be read.
    pub(crate) fn open_file(&self, name: impl AsRef<Path>) -> Result<File> {
        self.open_with(name, OFlags::empty()).map_err(|(e, path)| io_error("opening", path, e))
    }

    /// The same with further flags; gives what the system says, and of which path.
    pub(crate) fn open_with(
        &self,
        name: impl AsRef<Path>,
        flags: OFlags,
    ) -> std::result::Result<File, (io::Error, PathBuf)> {
        let name = name.as_ref();
        // A FIFO, which nobody put here in earnest, is not waited for.
        let opened = self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK | flags, Mode::empty());
        opened.map(File::from).map_err(|e| (e.into(), self.named(name)))
    }

    /// The same; `None` if there is no such file.
    pub(crate) fn open_if_there(&self, name: impl AsRef<Path>) -> Result<Option<File>> {
        match self.open_file(name) {
            Err(e) if e.is_missing() => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens a file to be read and written; makes it if it is missing.
    pub(crate) fn open_or_make(&self, name: impl AsRef<Path>) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let opened = self.open_at(name, flags, Mode::RUSR | Mode::WUSR);
        Ok(opened.at("opening", &self.named(name))?.into())
    }

    /// Opens a file to be appended to; makes it if it is missing.
    pub fn open_to_append(&self, name: impl AsRef<Path>) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
        let opened = self.open_at(name, flags, Mode::RUSR | Mode::WUSR);
        Ok(opened.at("opening", &self.named(name))?.into())
    }

    /// Makes a file, in the place of one that is there.
    pub(crate) fn new_file(&self, name: impl AsRef<Path>) -> Result<File> {
        let name = name.as_ref();
        self.remove_file(name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let made = self.open_at(name, flags, Mode::RUSR | Mode::WUSR);
        Ok(made.at("making", &self.named(name))?.into())
    }

    /// What is under a name, open for nothing but to be looked at; `None` if nothing is.
    pub fn look_at(&self, name: impl AsRef<Path>) -> Result<Option<OwnedFd>> {
        let name = name.as_ref();
        match self.open_at(name, OFlags::PATH, Mode::empty()) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            // A symbolic link.
            Err(Errno::LOOP) => Err(Error::NotAFile(self.named(name))),
            Err(e) => Err(e).at("reading", &self.named(name)),
        }
    }

    /// What the system says of a name; `None` if nothing is there.
    pub(crate) fn metadata(&self, name: impl AsRef<Path>) -> Result<Option<Stat>> {
        let name = name.as_ref();
        let found = self.look_at(name)?;
        found.map(|found| fstat(found).at("reading", &self.named(name))).transpose()
    }

    /// Whether something is there under a name.
    pub(crate) fn has(&self, name: impl AsRef<Path>) -> Result<bool> {
        Ok(self.look_at(name)?.is_some())
    }

    /// All bytes of a file.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Result<Vec<u8>> {
        let name = name.as_ref();
        let mut bytes = Vec::new();
        self.open_file(name)?.read_to_end(&mut bytes).at("reading", &self.named(name))?;
        Ok(bytes)
    }

    /// A directory in it.
    pub(crate) fn subdir(&self, name: impl AsRef<Path>) -> Result<Dir> {
        let path = self.named(&name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let descriptor = self.open_at(name.as_ref(), flags, Mode::empty()).at("opening", &path)?;
        Ok(Dir(Arc::new(OpenDir { descriptor, path })))
    }

    /// Makes a directory that only its owner may look into, unless it is there.
    pub(crate) fn make_dir(&self, name: impl AsRef<Path>) -> Result<()> {
        let name = name.as_ref();
        match mkdirat(self, name, Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            made => made.at("making", &self.named(name)),
        }
    }

    /// The names in it, with what each is.
    pub(crate) fn entries(&self) -> Result<Vec<(OsString, fs::FileType)>> {
        let entries = fs::read_dir(self.through("")).at("reading", self.path())?;
        let entries = entries.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.file_type()?))));
        // What is removed meanwhile is not there.
        let is_gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let there = entries.filter(|entry| !entry.as_ref().is_err_and(is_gone));
        there.collect::<io::Result<_>>().at("reading", self.path())
    }

    /// Removes a file, if it is there.
    pub fn remove_file(&self, name: impl AsRef<Path>) -> Result<()> {
        let name = name.as_ref();
        match unlinkat(self, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.at("removing", &self.named(name)),
        }
    }

    /// Removes a directory with all that is in it, if it is there.
    pub(crate) fn remove_dir(&self, name: impl AsRef<Path>) -> Result<()> {
        // It follows no symbolic link (std 1.95, `sys/fs/unix/remove_dir_all`).
        match fs::remove_dir_all(self.through(&name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.at("removing", &self.named(name)),
        }
    }

    /// Gives what is called `from` the name `to`, in the place of a file that has it.
    pub(crate) fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let from = from.as_ref();
        renameat(self, from, self, to.as_ref()).at("renaming", &self.named(from))
    }

    /// Gives what is called `from` in another directory the name `to` here.
    pub(crate) fn take_from(
        &self,
        other: &Dir,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<()> {
        let from = from.as_ref();
        renameat(other, from, self, to.as_ref()).at("renaming", &other.named(from))
    }

    /// Has two names change places.
    pub(crate) fn exchange(&self, one: &Path, other: &Path) -> Result<()> {
        let flags = RenameFlags::EXCHANGE;
        renameat_with(self, one, self, other, flags).at("exchanging", &self.named(one))
    }

    /// Gives a file another name as well.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<()> {
        linkat(self, from, self, to, AtFlags::empty()).at("linking", &self.named(from))
    }

    /// Has names made in it outlive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(self).at("syncing", self.path())
    }

    /// Has the bytes of a file outlive a power cut.
    pub(crate) fn sync_file(&self, name: impl AsRef<Path>) -> Result<()> {
        let name = name.as_ref();
        self.open_file(name)?.sync_all().at("syncing", &self.named(name))
    }

    /// Writes a small file so that a crash leaves the old one or the new.
    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let invalid = |source| Error::Settings { path: self.named(name), source };
        let mut text = serde_json::to_vec_pretty(value).map_err(invalid)?;
        text.push(b'\n');
        // Not by tempfile: its errors have lost the errno, which tells a disk that fails from
        // others.
        let new = format!(".{name}.{}", std::process::id());
        let mut file = self.new_file(&new)?;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        written.at("writing", &self.named(&new))?;
        self.rename(&new, name)?;
        self.sync()
    }
}

fn io_error(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    Error::Io { action, path, source }
}
