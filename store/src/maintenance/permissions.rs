//! Who could get at a store.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmod, chownat, fchmod, fstat, openat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::findings::{Finding, FindingKind, Verified};
use crate::disk::Dir;
use crate::disk::names::{OBJECTS, QUARANTINE, damaged_aside};
use crate::error::{IoContext, Result};
use crate::store_dir::StoreDir;

/// How deep directories in a store are.
const MAX_DEPTH: usize = 3;

/// Something in a store that others than its owner could get at.
pub(super) struct TooOpen {
    /// The directory that it is in.
    dir: Dir,
    name: PathBuf,
    kind: Kind,
    /// The mode that it should have.
    mode: u32,
    /// Whose it is, if it isn't this user's.
    owner: Option<u32>,
}

/// What something in a store is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Socket,
    /// A symbolic link, a pipe or a device, which no file of a store is.
    Other,
}

impl TooOpen {
    fn path(&self) -> PathBuf {
        match self.name == Path::new(".") {
            true => self.dir.path().to_owned(),
            false => self.dir.named(&self.name),
        }
    }

    /// What is wrong with it.
    fn detail(&self) -> String {
        if self.kind == Kind::Other {
            return "it is neither a file nor a directory".into();
        }
        let mode = format!("its mode should be {:o}", self.mode);
        match self.owner {
            Some(owner) => format!("it belongs to uid {owner}, not to the store's owner; {mode}"),
            None => mode,
        }
    }

    /// Mends it, and says what was done.
    fn mend(&self, store: &StoreDir) -> Result<String> {
        let path = self.path();
        if matches!(self.kind, Kind::Other | Kind::Socket) {
            // Nothing in a store needs it. A server makes its sockets anew.
            store.make_dir(QUARANTINE)?;
            let aside = damaged_aside(&self.name.to_string_lossy());
            store.subdir(QUARANTINE)?.take_from(&self.dir, &self.name, Path::new(&aside))?;
            return Ok(format!("moved to {QUARANTINE}/{aside}"));
        }
        if self.owner.is_some() && self.kind == Kind::File {
            self.copy()?;
        } else {
            let Some(found) = self.dir.look_at(&self.name)? else { return Ok("it is gone".into()) };
            if self.owner.is_some() {
                let (uid, gid) = (geteuid(), getegid());
                let given = chownat(&found, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
                given.at("giving back", &path)?;
            }
            // chmod(2) of what is open by O_PATH goes through /proc (openat(2)).
            let mode = Mode::from_raw_mode(self.mode);
            chmod(Dir::path_of(&found), mode).at("protecting", &path)?;
        }
        Ok(match self.owner {
            Some(_) => format!("its owner is uid {}, its mode {:o}", geteuid(), self.mode),
            None => format!("its mode is {:o}", self.mode),
        })
    }

    /// Puts a copy of a file in its place: whoever it belonged to may have it open.
    fn copy(&self) -> Result<()> {
        let new = format!(".{}.new", self.name.display());
        let mut from = self.dir.open_file(&self.name)?;
        let mut to = self.dir.new_file(&new)?;
        io::copy(&mut from, &mut to).at("copying", &self.path())?;
        fchmod(&to, Mode::from_raw_mode(self.mode)).at("protecting", &self.path())?;
        to.sync_all().at("syncing", &self.path())?;
        self.dir.rename(&new, &self.name)?;
        self.dir.sync()
    }
}

/// Everything of the store in `dir` that others than its owner could get at, or that is no file of a
/// store's.
fn too_open(dir: &StoreDir) -> Result<Vec<TooOpen>> {
    let mut found = Vec::new();
    look(dir, Path::new("."), 0o700, &mut found)?;
    look_inside(dir, 0, &mut found)?;
    Ok(found)
}

/// Looks at everything in a directory, so many levels below the store's.
fn look_inside(dir: &Dir, depth: usize, list: &mut Vec<TooOpen>) -> Result<()> {
    for (name, kind) in dir.entries()? {
        let name = Path::new(&name);
        // Object files are never changed.
        let is_object = depth == 2 && kind.is_file() && dir.path().parent().is_some_and(is_objects);
        look(dir, name, if is_object { 0o400 } else { 0o700 }, list)?;
        // What was put aside is nobody's, and nothing uses it.
        let is_aside = depth == 0 && name == Path::new(QUARANTINE);
        if kind.is_dir() && depth < MAX_DEPTH && !is_aside {
            match dir.subdir(name) {
                Err(e) if e.is_missing() => {}
                inner => look_inside(&inner?, depth + 1, list)?,
            }
        }
    }
    Ok(())
}

fn is_objects(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == OBJECTS)
}

/// Looks at a file or directory, which should have the mode `most` at most.
fn look(dir: &Dir, name: &Path, most: u32, list: &mut Vec<TooOpen>) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.at("reading", &dir.named(name))?,
    };
    let stat = fstat(&found).at("reading", &dir.named(name))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        // Those of the server.
        FileType::Socket if dir.path().join(name).extension().is_some_and(|it| it == "sock") => {
            Kind::Socket
        }
        _ => Kind::Other,
    };
    let mode = stat.st_mode & 0o777;
    let owner = Some(stat.st_uid).filter(|owner| *owner != geteuid().as_raw());
    let is_open = mode & !most != 0 && kind != Kind::Other;
    if is_open || owner.is_some() || kind == Kind::Other {
        let (dir, name) = (dir.clone(), name.to_owned());
        list.push(TooOpen { dir, name, kind, mode: mode & most, owner });
    }
    Ok(())
}

fn finding(wrong: &TooOpen) -> Finding {
    Finding::new(FindingKind::Permissions, wrong.path().display(), wrong.detail())
}

pub(super) fn check_permissions(dir: &StoreDir, verified: &mut Verified) -> Result<()> {
    verified.findings.extend(too_open(dir)?.iter().map(finding));
    Ok(())
}

/// Finds everything of the store in `dir` that others than its owner could get at, and takes it
/// from them: before anything in it is opened.
pub fn take_back(dir: &StoreDir) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for wrong in too_open(dir)? {
        let mut finding = finding(&wrong);
        match wrong.mend(dir) {
            Ok(done) => finding.repaired = Some(done),
            Err(e) => log::error!("{e}"),
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// What of the store in `dir` belongs to others, or is no file: as long as it does, nothing in it is
/// opened.
pub fn foreign_parts(dir: &StoreDir) -> Result<Vec<Finding>> {
    let is_foreign = |wrong: &TooOpen| wrong.owner.is_some() || wrong.kind == Kind::Other;
    let wrong = too_open(dir)?.into_iter().filter(is_foreign);
    Ok(wrong.map(|wrong| finding(&wrong)).collect())
}
