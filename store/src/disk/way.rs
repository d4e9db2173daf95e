//! The way to a directory: every component is opened by the descriptor of the one before, so that
//! nobody can turn it into another direction meanwhile.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, Mode, OFlags, PROC_SUPER_MAGIC, chmod, fstat, fstatfs, fsync, mkdirat, openat, readlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::{Error, IoContext, Result};

/// How many symbolic links a way may have; the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What becomes of directories on a way that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// They are an error.
    Fail,
    /// They are made, with these permissions less the umask.
    Make(u32),
    /// They are made, with these permissions whatever the umask is.
    MakeExactly(u32),
}

/// What a path may end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// No symbolic link.
    NoLink,
    /// A symbolic link that would be followed on the way as well.
    LikeTheWay,
}

/// Opens the directory at `path`, which is absolute, for nothing but to go on from it (`O_PATH`).
/// Whether it is a directory is found by whoever goes on.
///
/// Symbolic links on the way have to be root's or this user's: anybody else's could lead to what
/// only this user may touch. What `path` ends with must be no symbolic link at all, unless `end`
/// says otherwise.
///
/// # Errors
/// [`Error::ForeignLink`] and [`Error::LinkAtEnd`] for such links, and [`Error::Io`].
pub fn open_way(path: &Path, missing: Missing, end: End) -> Result<OwnedFd> {
    Way { path, missing, reached: PathBuf::new(), links: 0, end }.open()
}

/// The same, open to be read.
///
/// # Errors
/// Those of [`open_way`].
pub fn open_directory(path: &Path, missing: Missing, end: End) -> Result<OwnedFd> {
    let way = open_way(path, missing, end)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(way, ".", flags, Mode::empty()).at("opening", path)
}

/// Opens the directory that `path` is in, in the same way, and gives the name in it. The directory
/// itself may be named by a symbolic link of root's or of this user's.
///
/// # Errors
/// Those of [`open_way`].
pub fn open_parent(path: &Path, missing: Missing) -> Result<(OwnedFd, OsString)> {
    let none = || io::Error::from(io::ErrorKind::InvalidInput);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(none()).at("opening", path);
    };
    Ok((open_way(parent, missing, End::LikeTheWay)?, name.to_owned()))
}

/// Refuses a path that nobody named, if root would have to make it in the directory of somebody
/// else: he could neither use nor remove what is made there. What is there already is no matter.
///
/// # Errors
/// [`Error::ForeignParent`], and those of [`open_way`].
pub fn check_parent(path: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    for (level, parent) in path.ancestors().enumerate() {
        match open_way(parent, Missing::Fail, End::LikeTheWay) {
            Err(e) if e.is_missing() => {}
            found => {
                let owner = fstat(found?).at("reading", parent)?.st_uid;
                if level == 0 || owner == 0 {
                    return Ok(());
                }
                let (dir, parent) = (path.to_owned(), parent.to_owned());
                return Err(Error::ForeignParent { dir, parent, owner });
            }
        }
    }
    Ok(())
}

struct Way<'a> {
    path: &'a Path,
    missing: Missing,
    /// How far it was gone, for messages.
    reached: PathBuf,
    links: usize,
    end: End,
}

impl Way<'_> {
    fn open(mut self) -> Result<OwnedFd> {
        let root = || openat(CWD, "/", flags(), Mode::empty()).at("opening", Path::new("/"));
        let mut at = root()?;
        let mut left = components(self.path);
        while let Some(name) = left.pop() {
            if name == "/" {
                (at, self.reached) = (root()?, PathBuf::from("/"));
                continue;
            }
            self.reached.push(&name);
            let next = self.step(&at, &name)?;
            // This asks no server of a mount that the way leads to: it may be dead, or another's.
            match readlinkat(&next, "", Vec::new()) {
                // What such a link says is no path: only the kernel can follow it.
                Ok(_) if is_magic(&next) => {
                    self.check_link(&next)?;
                    let last = if left.is_empty() { OFlags::empty() } else { OFlags::DIRECTORY };
                    let flags = OFlags::PATH | OFlags::CLOEXEC | last;
                    at = openat(&at, &name, flags, Mode::empty()).at("opening", &self.reached)?;
                }
                Ok(target) => {
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    let more = self.follow(&next, target, left.is_empty())?;
                    self.reached.pop();
                    left.extend(more);
                }
                Err(Errno::INVAL | Errno::NOENT) => at = next,
                Err(e) => return Err(e).at("reading", &self.reached),
            }
        }
        Ok(at)
    }

    /// Opens a component, whatever it is; not what it leads to.
    fn step(&self, at: &OwnedFd, name: &OsString) -> Result<OwnedFd> {
        // A directory by itself: that has an automount be made (open(2), O_PATH).
        let open = || match openat(at, name, flags() | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => openat(at, name, flags(), Mode::empty()),
            opened => opened,
        };
        match (open(), self.missing) {
            (Err(Errno::NOENT), Missing::Make(_) | Missing::MakeExactly(_)) => {
                self.make(at, name)?;
                open().at("opening", &self.reached)
            }
            (opened, _) => opened.at("opening", &self.reached),
        }
    }

    fn make(&self, at: &OwnedFd, name: &OsString) -> Result<()> {
        let parent = self.reached.parent().unwrap_or(Path::new("/")).to_owned();
        let owner = fstat(at).at("reading", &parent)?.st_uid;
        if geteuid().is_root() && owner != 0 {
            let made = self.reached.display();
            log::warn!("{made} becomes root's, in a directory of uid {owner}, who can't use it");
        }
        let (Missing::Make(mode) | Missing::MakeExactly(mode)) = self.missing else {
            return Ok(());
        };
        match mkdirat(at, name, Mode::from_raw_mode(mode)) {
            // Another process was faster.
            Err(Errno::EXIST) => return Ok(()),
            made => made.at("making", &self.reached)?,
        }
        if let Missing::MakeExactly(_) = self.missing {
            self.set_mode(at, name, mode)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent_dir = openat(at, ".", flags, Mode::empty()).at("opening", &parent)?;
        fsync(parent_dir).at("syncing", &parent)
    }

    /// Sets the permissions of a directory that was just made, and of nothing that took its place.
    fn set_mode(&self, at: &OwnedFd, name: &OsString, mode: u32) -> Result<()> {
        let made = openat(at, name, flags() | OFlags::DIRECTORY, Mode::empty());
        let made = made.at("opening", &self.reached)?;
        if foreign_owner(&made).at("reading", &self.reached)?.is_none() {
            // chmod(2) of what is open by O_PATH goes through /proc (openat(2)).
            let through = Path::new("/proc/self/fd").join(made.as_raw_fd().to_string());
            chmod(through, Mode::from_raw_mode(mode)).at("protecting", &self.reached)?;
        }
        Ok(())
    }

    /// The components that a symbolic link stands for, the last first.
    fn follow(&mut self, link: &OwnedFd, target: PathBuf, is_end: bool) -> Result<Vec<OsString>> {
        let path = self.reached.clone();
        if is_end && self.end == End::NoLink {
            return Err(Error::LinkAtEnd { path, target });
        }
        self.check_link(link)?;
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(io::Error::from(Errno::LOOP)).at("opening", self.path);
        }
        Ok(components(&target))
    }

    /// Refuses a symbolic link of another user's.
    fn check_link(&self, link: &OwnedFd) -> Result<()> {
        let owner = fstat(link).at("reading", &self.reached)?.st_uid;
        match owner == 0 || owner == geteuid().as_raw() {
            true => Ok(()),
            false => Err(Error::ForeignLink { path: self.reached.clone(), owner }),
        }
    }
}

/// Whether a symbolic link is one of the kernel's own, in `/proc`.
fn is_magic(link: &OwnedFd) -> bool {
    fstatfs(link).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC)
}

fn flags() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// The components of a path, the last first.
fn components(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let mut parts: Vec<_> = parts.map(|part| part.as_os_str().to_owned()).collect();
    parts.reverse();
    parts
}

/// Who may write what a descriptor is of, if that is somebody else than this user.
pub(crate) fn foreign_owner(descriptor: impl AsFd) -> io::Result<Option<u32>> {
    let owner = fstat(descriptor)?.st_uid;
    Ok((owner != geteuid().as_raw()).then_some(owner))
}
