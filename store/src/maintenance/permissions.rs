//! Who could get at a store.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, chmod, chownat, fstat};
use rustix::process::geteuid;

use super::findings::{Finding, FindingKind, Verified};
use crate::disk::Dir;
use crate::disk::names::{CATALOGUE, HISTORY, INCOMING, LOCK, OBJECTS, SETTINGS, STATE};
use crate::error::{IoContext, Result};
use crate::store_dir::StoreDir;

/// Something in a store that others than its owner could get at.
pub(super) struct TooOpen {
    /// For messages.
    pub(super) path: PathBuf,
    /// Open for nothing but to be looked at (`O_PATH`).
    found: OwnedFd,
    /// The mode that it should have.
    mode: u32,
    /// Whose it is, if it isn't this user's.
    owner: Option<u32>,
}

impl TooOpen {
    /// What is wrong with it.
    fn detail(&self) -> String {
        let mode = format!("its mode should be {:o}", self.mode);
        match self.owner {
            Some(owner) => format!("it belongs to uid {owner}, not to the store's owner; {mode}"),
            None => mode,
        }
    }

    /// Mends it, and says what was done; nothing if that can't be.
    pub(super) fn mend(&self) -> Option<String> {
        if let Some(owner) = self.owner {
            let (uid, gid) = (geteuid(), rustix::process::getegid());
            let given = chownat(&self.found, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
            if let Err(e) = given {
                log::error!("{} stays uid {owner}'s: {e}", self.path.display());
                return None;
            }
        }
        // chmod(2) of what is open by O_PATH goes through /proc (openat(2)).
        let through = Dir::path_of(&self.found);
        if let Err(e) = chmod(&through, Mode::from_raw_mode(self.mode)) {
            log::error!("protecting {}: {e}", self.path.display());
            return None;
        }
        Some(match self.owner {
            Some(_) => format!("its owner is uid {}, its mode {:o}", geteuid(), self.mode),
            None => format!("its mode is {:o}", self.mode),
        })
    }
}

/// Everything of the store in `dir` that others than its owner could get at.
pub(super) fn too_open(dir: &StoreDir) -> Result<Vec<TooOpen>> {
    let mut found = Vec::new();
    look(dir, Path::new("."), 0o700, false, &mut found)?;
    for name in [HISTORY, SETTINGS, STATE, LOCK, CATALOGUE, INCOMING, OBJECTS] {
        // What is inside a private directory may say what it likes of group and others.
        look(dir, Path::new(name), 0o700, true, &mut found)?;
    }
    if !dir.has(OBJECTS) {
        return Ok(found);
    }
    let objects = dir.subdir(OBJECTS)?;
    for (name, kind) in objects.entries()? {
        look(&objects, Path::new(&name), 0o700, false, &mut found)?;
        if kind.is_dir() {
            let directory = objects.subdir(&name)?;
            for (name, _) in directory.entries()? {
                look(&directory, Path::new(&name), 0o400, false, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// Looks at a file or directory, which should have the mode `most` at most.
fn look(dir: &Dir, name: &Path, most: u32, is_inside: bool, list: &mut Vec<TooOpen>) -> Result<()> {
    let Some(found) = dir.look_at(name)? else { return Ok(()) };
    let path = if name == Path::new(".") { dir.path().to_owned() } else { dir.named(name) };
    let stat = fstat(&found).at("reading", &path)?;
    let mode = stat.st_mode & 0o777;
    let excess = mode & !most & if is_inside { 0 } else { 0o777 };
    let owner = Some(stat.st_uid).filter(|owner| *owner != geteuid().as_raw());
    if excess != 0 || owner.is_some() {
        list.push(TooOpen { path, found, mode: mode & most, owner });
    }
    Ok(())
}

pub(super) fn check_permissions(dir: &StoreDir, verified: &mut Verified) -> Result<()> {
    for wrong in too_open(dir)? {
        let place = wrong.path.display();
        verified.findings.push(Finding::new(FindingKind::Permissions, place, wrong.detail()));
    }
    Ok(())
}
