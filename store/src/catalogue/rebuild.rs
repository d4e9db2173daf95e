//! Making a catalogue anew from the history, and putting it in another's place.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::RenameFlags;

use super::chunks::{put_chunks, whole_inline};
use super::database::catch_panic;
use super::handle::Catalogue;
use super::replay::catch_up;
use super::tables::PAYLOADS;
use crate::disk::durable::{remove_dir, sync_dir};
use crate::disk::names::{CATALOGUE, NEW_CATALOGUE, OBJECTS, damaged_aside, object_in};
use crate::error::{Error, IoContext, Result};
use crate::history::History;
use crate::types::{Sequence, Sha};

/// A catalogue that nobody else has.
pub(super) fn sole(catalogue: Arc<Catalogue>) -> Result<Catalogue> {
    Arc::into_inner(catalogue)
        .ok_or_else(|| Error::Inconsistent("it is in use while it is opened".into()))
}

/// Makes a catalogue from the history alone, and brings over what payloads the
/// old one holds inside, as far as they are what they should be.
pub(super) fn rebuild(
    dir: &Path,
    history: &mut History,
    old: Option<Arc<Catalogue>>,
) -> Result<Catalogue> {
    let (db, new_db) = (dir.join(CATALOGUE), dir.join(NEW_CATALOGUE));
    let new = Arc::new(Catalogue::open(&new_db)?);
    // A catalogue only ever holds what was on disk in the history before.
    let acknowledged =
        old.as_ref().and_then(|old| catch_panic(|| old.applied_sequence()).ok()?.ok());
    catch_up(&new, history, acknowledged.unwrap_or(Sequence(0)))?;
    let lost = bring_inside(&new, old.as_deref(), &dir.join(OBJECTS))?;
    let readable = old.is_some();
    // Dropping one whose file is damaged can panic as well.
    let _ = catch_panic(|| drop(old));
    sole(new)?.close()?;
    if readable && lost == 0 || !db.exists() {
        put_in_place(dir)?;
    } else {
        let aside = damaged_aside(&db);
        put_in_place_of(dir, &new_db, &aside)?;
        log::error!(
            "the damaged catalogue was moved to {}; {lost} payloads kept inside it are lost",
            aside.display()
        );
    }
    Catalogue::open(&db)
}

/// Brings over what payloads the old catalogue holds inside, as far as they are what they should
/// be; or what an archive brought as object files. Returns how many are lost.
pub(crate) fn bring_inside(
    new: &Catalogue,
    old: Option<&Catalogue>,
    objects: &Path,
) -> Result<u64> {
    let mut lost = 0;
    for row in new.scan(&PAYLOADS.all()) {
        let row = row?;
        let record = row.value()?;
        if !record.inline {
            continue;
        }
        let sha256 = row.key()?;
        let salvage = |old| catch_panic(|| whole_inline(old, &sha256, record.size));
        let found = old.and_then(|old| salvage(old).ok().flatten());
        match found.or_else(|| whole_object(objects, &sha256)) {
            Some(bytes) => put_chunks(new, &sha256, 0, &bytes)?,
            None => {
                // Without its record the payload reads as missing, and is stored again when
                // somebody publishes it again.
                new.forget_payload(&sha256)?;
                lost += 1;
            }
        }
    }
    Ok(lost)
}

/// A payload as an object file, if that has all of it.
fn whole_object(objects: &Path, sha256: &Sha) -> Option<Vec<u8>> {
    let bytes = fs::read(object_in(objects, sha256)).ok()?;
    (Sha::of(&bytes) == *sha256).then_some(bytes)
}

/// Puts the catalogue at `new` in the place of the one at `db`, which ends up at `new`.
fn exchange(new: &Path, db: &Path) -> Result<()> {
    if db.exists() {
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, new, cwd, db, RenameFlags::EXCHANGE)
            .at("exchanging", new)?;
    } else {
        fs::rename(new, db).at("renaming", new)?;
    }
    Ok(())
}

/// Puts the catalogue at `new` in the place of the one in `dir`, which gets the name `aside`; never
/// is there none.
pub(crate) fn put_in_place_of(dir: &Path, new: &Path, aside: &Path) -> Result<()> {
    let db = dir.join(CATALOGUE);
    if db.exists() {
        // First the name, then the exchange: the old one is never where it would be removed.
        fs::rename(new, aside).at("renaming", new)?;
        exchange(aside, &db)?;
    } else {
        fs::rename(new, &db).at("renaming", new)?;
    }
    sync_dir(dir)
}

/// Puts the new catalogue in `dir` in the place of the old one, which is closed and removed.
pub(crate) fn put_in_place(dir: &Path) -> Result<()> {
    let new = dir.join(NEW_CATALOGUE);
    exchange(&new, &dir.join(CATALOGUE))?;
    sync_dir(dir)?;
    remove_dir(&new)
}
