//! The way to a directory: every component is opened by the descriptor of the one before, so that
//! nobody can turn it into another direction meanwhile.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, fstat, mkdirat, openat, readlinkat};
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
    /// They are made, with these permissions whatever the umask is.
    Make(u32),
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

    fn step(&self, at: &OwnedFd, name: &OsString) -> Result<OwnedFd> {
        let open = || openat(at, name, flags(), Mode::empty());
        match (open(), self.missing) {
            (Err(Errno::NOENT), Missing::Make(mode)) => {
                self.make(at, name, mode)?;
                open().at("opening", &self.reached)
            }
            (opened, _) => opened.at("opening", &self.reached),
        }
    }

    fn make(&self, at: &OwnedFd, name: &OsString, mode: u32) -> Result<()> {
        let parent = self.reached.parent().unwrap_or(Path::new("/")).to_owned();
        let owner = fstat(at).at("reading", &parent)?.st_uid;
        if geteuid().is_root() && owner != 0 {
            let made = self.reached.display();
            log::warn!("{made} becomes root's, in a directory of uid {owner}, who can't use it");
        }
        let mode = Mode::from_raw_mode(mode);
        match mkdirat(at, name, mode) {
            // Another process was faster.
            Err(Errno::EXIST) => Ok(()),
            made => {
                made.at("making", &self.reached)?;
                chmodat(at, name, mode, AtFlags::empty()).at("protecting", &self.reached)
            }
        }
    }

    /// The components that a symbolic link stands for, the last first.
    fn follow(&mut self, link: &OwnedFd, target: PathBuf, is_end: bool) -> Result<Vec<OsString>> {
        let path = self.reached.clone();
        if is_end && self.end == End::NoLink {
            return Err(Error::LinkAtEnd { path, target });
        }
        let owner = fstat(link).at("reading", &path)?.st_uid;
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(Error::ForeignLink { path, owner });
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(io::Error::from(Errno::LOOP)).at("opening", self.path);
        }
        Ok(components(&target))
    }
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
