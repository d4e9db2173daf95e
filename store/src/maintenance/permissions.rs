//! Who could get at a store.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::findings::{Finding, FindingKind, Verified};
use crate::disk::names::{CATALOGUE, HISTORY, INCOMING, OBJECTS, SETTINGS, STATE};
use crate::error::{IoContext, Result};

/// What is private, and what nobody may write, with the modes they have to have at most.
fn modes(dir: &Path) -> Result<Vec<(PathBuf, u32)>> {
    let mut modes = vec![(dir.to_owned(), 0o700)];
    for name in [HISTORY, SETTINGS, STATE, CATALOGUE, INCOMING, OBJECTS] {
        modes.push((dir.join(name), 0o700));
    }
    let objects = dir.join(OBJECTS);
    for directory in fs::read_dir(&objects).into_iter().flatten() {
        let directory = directory.at("reading", &objects)?.path();
        modes.push((directory.clone(), 0o700));
        for object in fs::read_dir(&directory).into_iter().flatten() {
            modes.push((object.at("reading", &directory)?.path(), 0o400));
        }
    }
    Ok(modes)
}

/// Everything of the store in `dir` that others than its owner could get at, with the mode it
/// should have.
pub(crate) fn too_open(dir: &Path) -> Result<Vec<(PathBuf, u32)>> {
    // The way there may be a link.
    let dir = dir.canonicalize().at("reading", dir)?;
    let dir = dir.as_path();
    let owner = fs::metadata(dir).at("reading", dir)?.uid();
    let mut found = Vec::new();
    for (path, most) in modes(dir)? {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        // What only is inside a private directory may say what it likes of group and others.
        let private = path.parent() == Some(dir) && path != dir;
        let excess = mode & !most & if private { 0 } else { 0o777 };
        if excess != 0 || metadata.uid() != owner {
            found.push((path, mode & most));
        }
    }
    Ok(found)
}

pub(super) fn check_permissions(dir: &Path, verified: &mut Verified) -> Result<()> {
    for (path, mode) in too_open(dir)? {
        let detail = format!("its mode should be {mode:o}, and its owner the store's");
        verified.findings.push(Finding::new(FindingKind::Permissions, path.display(), detail));
    }
    Ok(())
}
