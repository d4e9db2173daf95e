//! A directory of symbolic links into a mount, which somebody else may own and change meanwhile.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, readlinkat, renameat, renameat_with,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use wasmfs_store::{Dir, End, Missing, open_directory};

use super::links::ASIDE;

/// The permissions of directories that are made for links, less the umask.
const MODE: u32 = 0o777;

/// A directory of links, open. What is in it is reached by descriptor, and through no symbolic
/// link.
pub struct LinkDir {
    root: OwnedFd,
    path: PathBuf,
    /// Where links that are its own lead to.
    mount_point: PathBuf,
}

/// What came of a link that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Linked,
    /// It was there.
    Unchanged,
    /// Something of the host's own is in its place.
    Kept,
}

impl LinkDir {
    /// Opens the directory at `path`, which is made if it is missing, for links into the mount at
    /// `mount_point`.
    pub fn open(path: &Path, mount_point: &Path) -> Result<LinkDir> {
        let absolute = std::path::absolute(path);
        let absolute = absolute.with_context(|| format!("opening {}", path.display()))?;
        let root = open_directory(&absolute, Missing::Make(MODE), End::LikeTheWay)?;
        let (path, mount_point) = (path.to_owned(), mount_point.to_owned());
        Ok(LinkDir { root, path, mount_point })
    }

    /// Where a link leads, if it is one into the mount.
    fn own(&self, parent: &OwnedFd, name: &OsString) -> Option<PathBuf> {
        let target = readlinkat(parent, name, Vec::new()).ok()?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        target.starts_with(&self.mount_point).then_some(target)
    }

    /// Removes every link into the mount that is not among those that are `wanted`, and directories
    /// that are empty then. Gives the paths of the links, under the directory.
    pub fn remove_all_but(&self, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let root = open_in(&self.root, ".");
        let root = root.with_context(|| format!("reading {}", self.path.display()))?;
        self.remove_in(&root, Path::new(""), &wanted, &mut removed)?;
        Ok(removed)
    }

    fn remove_in(
        &self,
        directory: &OwnedFd,
        under: &Path,
        wanted: &dyn Fn(&Path) -> bool,
        removed: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let reading = || format!("reading {}", self.path.join(under).display());
        let entries = fs::read_dir(Dir::path_of(directory)).with_context(reading)?;
        for entry in entries {
            let entry = entry.with_context(reading)?;
            let name = entry.file_name();
            let path = under.join(&name);
            if entry.file_type().with_context(reading)?.is_dir() {
                // Something else by now, or gone.
                let Ok(inner) = open_in(directory, &name) else { continue };
                let before = removed.len();
                self.remove_in(&inner, &path, wanted, removed)?;
                if removed.len() > before {
                    // It stays if the host has something of its own in it.
                    let _ = unlinkat(directory, &name, AtFlags::REMOVEDIR);
                }
            } else if self.own(directory, &name).is_some() && !wanted(&path) {
                let gone = self.remove(directory, &name).map_err(io::Error::from);
                let gone =
                    gone.with_context(|| format!("removing {}", self.path.join(&path).display()))?;
                removed.extend(gone.then_some(path));
            }
        }
        Ok(())
    }

    /// Has a link to `target` be at `path`, under the directory; never in the place of what is the
    /// host's own.
    pub fn put(&self, path: &Path, target: &Path) -> Result<Put> {
        let put = self.try_put(path, target).map_err(io::Error::from);
        put.with_context(|| format!("linking {}", self.path.join(path).display()))
    }

    fn try_put(&self, path: &Path, target: &Path) -> rustix::io::Result<Put> {
        let Some(name) = path.file_name().map(OsString::from) else { return Ok(Put::Kept) };
        let parent = match self.parent_of(path) {
            // A file or a link of the host's where the key has a directory.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Put::Kept),
            parent => parent?,
        };
        // Never over what a host wrote, not even a moment ago.
        match symlinkat(target, &parent, &name) {
            Err(Errno::EXIST) => {}
            made => return made.map(|()| Put::Linked),
        }
        match self.own(&parent, &name) {
            None => Ok(Put::Kept),
            Some(now) if now == target => Ok(Put::Unchanged),
            Some(_) => self.replace(&parent, &name, target),
        }
    }

    /// Puts a link in the place of another, so that whoever opens it finds the one or the other.
    /// What a host wrote there meanwhile gets its place back.
    fn replace(&self, parent: &OwnedFd, name: &OsString, target: &Path) -> rustix::io::Result<Put> {
        let aside = OsString::from(format!("{ASIDE}{}", std::process::id()));
        let _ = unlinkat(parent, &aside, AtFlags::empty());
        symlinkat(target, parent, &aside)?;
        let exchange = || renameat_with(parent, &aside, parent, name, RenameFlags::EXCHANGE);
        let put = match exchange() {
            Ok(()) if self.own(parent, &aside).is_none() => exchange().map(|()| Put::Kept),
            Ok(()) => Ok(Put::Linked),
            // A file system that can't (NFS).
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return renameat(parent, &aside, parent, name).map(|()| Put::Linked);
            }
            Err(e) => Err(e),
        };
        let _ = unlinkat(parent, &aside, AtFlags::empty());
        put
    }

    /// Removes a link; false if it is something of the host's by now.
    fn remove(&self, parent: &OwnedFd, name: &OsString) -> rustix::io::Result<bool> {
        let aside = OsString::from(format!("{ASIDE}{}", std::process::id()));
        let _ = unlinkat(parent, &aside, AtFlags::empty());
        renameat(parent, name, parent, &aside)?;
        if self.own(parent, &aside).is_none() {
            // It stays aside only if the host has written it once more.
            let back = renameat_with(parent, &aside, parent, name, RenameFlags::NOREPLACE);
            return if back == Err(Errno::EXIST) { Ok(false) } else { back.map(|()| false) };
        }
        unlinkat(parent, &aside, AtFlags::empty()).map(|()| true)
    }

    /// The directory that a link is to be in; it is made if it is missing.
    fn parent_of(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let mut at = open_in(&self.root, ".")?;
        for part in path.parent().into_iter().flat_map(Path::components) {
            at = match open_in(&at, part.as_os_str()) {
                Err(Errno::NOENT) => {
                    match mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(MODE)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(e),
                    }
                    open_in(&at, part.as_os_str())?
                }
                opened => opened?,
            };
        }
        Ok(at)
    }
}

fn open_in(at: &OwnedFd, name: impl AsRef<std::ffi::OsStr>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name.as_ref(), flags, Mode::empty())
}
