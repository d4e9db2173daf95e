//! Who could get at a store.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, chmod, chownat, fchmod, fstat};
use rustix::process::{getegid, geteuid};

use super::findings::{Finding, FindingKind, Verified};
use crate::disk::Dir;
use crate::disk::names::{
    CATALOGUE, HISTORY, INCOMING, LOCK, OBJECTS, QUARANTINE, RESERVE, SETTINGS, STATE,
};
use crate::error::{Error, IoContext, Result};
use crate::store_dir::StoreDir;

/// Something in a store that others than its owner could get at.
pub(super) struct TooOpen {
    /// The directory that it is in.
    dir: Dir,
    name: PathBuf,
    is_dir: bool,
    /// The mode that it should have.
    mode: u32,
    /// Whose it is, if it isn't this user's.
    owner: Option<u32>,
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
        let mode = format!("its mode should be {:o}", self.mode);
        match self.owner {
            Some(owner) => format!("it belongs to uid {owner}, not to the store's owner; {mode}"),
            None => mode,
        }
    }

    /// Mends it, and says what was done.
    fn mend(&self) -> Result<String> {
        let Some(found) = self.dir.look_at(&self.name)? else { return Ok("it is gone".into()) };
        let path = self.path();
        if self.owner.is_some() && self.is_dir {
            let (uid, gid) = (geteuid(), getegid());
            let given = chownat(&found, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
            given.at("giving back", &path)?;
        }
        if self.owner.is_some() && !self.is_dir {
            self.copy()?;
        } else {
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

/// Everything of the store in `dir` that others than its owner could get at.
fn too_open(dir: &StoreDir) -> Result<Vec<TooOpen>> {
    let mut found = Vec::new();
    look(dir, Path::new("."), Some(0o700), &mut found)?;
    for name in [HISTORY, SETTINGS, STATE, LOCK, RESERVE, CATALOGUE, INCOMING, OBJECTS, QUARANTINE]
    {
        // What is inside a private directory may say what it likes of group and others.
        look(dir, Path::new(name), None, &mut found)?;
    }
    for name in [CATALOGUE, INCOMING, QUARANTINE] {
        if dir.has(name)? {
            look_inside(&dir.subdir(name)?, None, &mut found)?;
        }
    }
    if dir.has(OBJECTS)? {
        let objects = dir.subdir(OBJECTS)?;
        for (name, kind) in objects.entries()? {
            look(&objects, Path::new(&name), Some(0o700), &mut found)?;
            if kind.is_dir() {
                look_inside(&objects.subdir(&name)?, Some(0o400), &mut found)?;
            }
        }
    }
    Ok(found)
}

fn look_inside(dir: &Dir, most: Option<u32>, list: &mut Vec<TooOpen>) -> Result<()> {
    dir.entries()?.iter().try_for_each(|(name, _)| look(dir, Path::new(name), most, list))
}

/// Looks at a file or directory, which should have the mode `most` at most, if that matters.
fn look(dir: &Dir, name: &Path, most: Option<u32>, list: &mut Vec<TooOpen>) -> Result<()> {
    let found = match dir.look_at(name) {
        // A symbolic link, which no file of a store is: nothing here would follow it.
        Err(Error::Io { .. }) => return Ok(()),
        found => found?,
    };
    let Some(found) = found else { return Ok(()) };
    let stat = fstat(&found).at("reading", &dir.named(name))?;
    let mode = stat.st_mode & 0o777;
    let wanted = mode & most.unwrap_or(0o700);
    let owner = Some(stat.st_uid).filter(|owner| *owner != geteuid().as_raw());
    if most.is_some() && mode != wanted || owner.is_some() {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let (dir, name) = (dir.clone(), name.to_owned());
        list.push(TooOpen { dir, name, is_dir, mode: wanted, owner });
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
        match wrong.mend() {
            Ok(done) => finding.repaired = Some(done),
            Err(e) => log::error!("{e}"),
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// What of the store in `dir` belongs to others: as long as it does, nothing in it is opened.
pub fn foreign_parts(dir: &StoreDir) -> Result<Vec<Finding>> {
    let wrong = too_open(dir)?.into_iter().filter(|wrong| wrong.owner.is_some());
    Ok(wrong.map(|wrong| finding(&wrong)).collect())
}
