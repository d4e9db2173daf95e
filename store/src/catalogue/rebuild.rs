//! Making a catalogue anew from the history, and putting it in another's place.

use std::path::Path;
use std::sync::Arc;

use super::chunks::{put_chunks, whole_inline};
use super::database::catch_panic;
use super::handle::Catalogue;
use super::replay::catch_up;
use super::tables::PAYLOADS;
use crate::disk::Dir;
use crate::disk::names::{CATALOGUE, NEW_CATALOGUE, OBJECTS, damaged_aside, object_in};
use crate::error::{Error, Result};
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
    dir: &Dir,
    history: &mut History,
    old: Option<Arc<Catalogue>>,
) -> Result<Catalogue> {
    dir.make_dir(NEW_CATALOGUE)?;
    let new = Arc::new(Catalogue::open(&dir.through(NEW_CATALOGUE))?);
    // A catalogue only ever holds what was on disk in the history before.
    let acknowledged =
        old.as_ref().and_then(|old| catch_panic(|| old.applied_sequence()).ok()?.ok());
    catch_up(&new, history, acknowledged.unwrap_or(Sequence(0)))?;
    let lost = bring_inside(&new, old.as_deref(), dir)?;
    let readable = old.is_some();
    // Dropping one whose file is damaged can panic as well.
    let _ = catch_panic(|| drop(old));
    sole(new)?.close()?;
    if readable && lost == 0 || !dir.has(CATALOGUE)? {
        put_in_place(dir)?;
    } else {
        let aside = damaged_aside(CATALOGUE);
        put_in_place_of(dir, &aside)?;
        log::error!(
            "the damaged catalogue was moved to {}; {lost} payloads kept inside it are lost",
            dir.named(aside).display()
        );
    }
    Catalogue::open(&dir.through(CATALOGUE))
}

/// Brings over what payloads the old catalogue holds inside, as far as they are what they should
/// be; or what an archive brought as object files into the store in `dir`. Returns how many are lost.
pub(crate) fn bring_inside(new: &Catalogue, old: Option<&Catalogue>, dir: &Dir) -> Result<u64> {
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
        match found.or_else(|| whole_object(dir, &sha256)) {
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
fn whole_object(dir: &Dir, sha256: &Sha) -> Option<Vec<u8>> {
    let bytes = dir.read(object_in(Path::new(OBJECTS), sha256)).ok()?;
    (Sha::of(&bytes) == *sha256).then_some(bytes)
}

/// Puts the catalogue called `new` in the place of the store's own, which ends up there.
fn exchange(dir: &Dir, new: &str) -> Result<()> {
    match dir.has(CATALOGUE)? {
        true => dir.exchange(Path::new(new), Path::new(CATALOGUE)),
        false => dir.rename(new, CATALOGUE),
    }
}

/// Puts the new catalogue in `dir` in the place of the old one, which gets the name `aside`; never
/// is there none.
pub(crate) fn put_in_place_of(dir: &Dir, aside: &str) -> Result<()> {
    if dir.has(CATALOGUE)? {
        // First the name, then the exchange: the old one is never where it would be removed.
        dir.rename(NEW_CATALOGUE, aside)?;
        exchange(dir, aside)?;
    } else {
        dir.rename(NEW_CATALOGUE, CATALOGUE)?;
    }
    dir.sync()
}

/// Puts the new catalogue in `dir` in the place of the old one, which is closed and removed.
pub(crate) fn put_in_place(dir: &Dir) -> Result<()> {
    exchange(dir, NEW_CATALOGUE)?;
    dir.sync()?;
    dir.remove_dir(NEW_CATALOGUE)
}
