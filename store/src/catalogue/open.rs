//! Opening the catalogue of a store: its own, or a copy in memory while the disk can't be written.

use std::fs;
use std::sync::Arc;

use super::database::{Unopened, catch_panic};
use super::handle::Catalogue;
use super::rebuild::{bring_inside, rebuild, sole};
use super::replay::catch_up;
use super::upgrade::upgrade;
use crate::disk::names::{CATALOGUE, NEW_CATALOGUE};
use crate::disk::{Dir, temp_dir_in_memory};
use crate::error::{Error, IoContext, Result};
use crate::history::History;
use crate::types::Sequence;

/// Opens the catalogue of the store in `dir` and applies what of `history` it lacks. It
/// is rebuilt from the history if `trusted` is false, or when the database fails or
/// panics, or when it doesn't fit the history.
pub(crate) fn open(dir: &Dir, history: &mut History, trusted: bool) -> Result<Catalogue> {
    dir.remove_dir(NEW_CATALOGUE)?;
    let (db, named) = (dir.through(CATALOGUE), dir.named(CATALOGUE));
    let shown = named.display();
    let existed = dir.has(CATALOGUE)?;
    dir.make_dir(CATALOGUE)?;
    dir.subdir(CATALOGUE)?;
    let old = match Catalogue::try_open(&db) {
        Ok(catalogue) => Arc::new(catalogue),
        // Never beside another process that has it open.
        Err(Unopened::Locked) => {
            return Err(Error::InUse { dir: dir.path().to_owned(), pid: None });
        }
        // Nothing is wrong with it that could be mended here.
        Err(e @ Unopened::Disk(_)) => return Err(e.into_error(&named)),
        // A panic or an error inside the database, not of ours: the history has everything.
        Err(Unopened::Broken(reason)) => {
            log::error!("{shown}: the catalogue can't be opened ({reason}); rebuilding it");
            return rebuild(dir, history, None);
        }
    };
    if trusted || !existed {
        match catch_panic(|| upgrade(&old).and_then(|()| catch_up(&old, history, Sequence(0)))) {
            Ok(Ok(())) => {
                if !existed {
                    // Made from the history alone.
                    bring_inside(&old, None, dir)?;
                    old.sync()?;
                }
                return sole(old);
            }
            Ok(Err(e)) if e.is_out_of_room() || matches!(e, Error::HistoryDamaged { .. }) => {
                return Err(e);
            }
            Ok(Err(e)) => log::error!("{shown}: {e}; rebuilding the catalogue"),
            Err(panic) => log::error!("{shown}: {panic}; rebuilding the catalogue"),
        }
    } else {
        log::info!("{shown}: not closed cleanly before a restart; rebuilding the catalogue");
    }
    rebuild(dir, history, Some(old))
}

/// Opens the catalogue of `dir` as a copy in memory that nothing is written to, for when the
/// store's own can't be; one made from the history alone, if it is not trusted.
pub(crate) fn open_in_memory(dir: &Dir, history: &mut History, trusted: bool) -> Result<Catalogue> {
    let db = dir.through(CATALOGUE);
    let size = fs::read_dir(&db).at("reading", &db)?.flatten();
    let size: u64 = size.flat_map(|file| file.metadata()).map(|metadata| metadata.len()).sum();
    let place = temp_dir_in_memory(2 * size)?;
    let copy = || -> Result<Arc<Catalogue>> {
        let to = place.path().join("copy");
        fs::create_dir(&to).at("making", &to)?;
        for entry in fs::read_dir(&db).at("reading", &db)? {
            let from = entry.at("reading", &db)?.path();
            if from.is_file() {
                fs::copy(&from, to.join(from.file_name().unwrap_or_default()))
                    .at("copying", &from)?;
            }
        }
        Catalogue::open_copy(&to).map(Arc::new)
    };
    let mut copied = catch_panic(copy).unwrap_or_else(|e| Err(Error::Inconsistent(e))).ok();
    if trusted && let Some(copy) = copied.take() {
        match catch_panic(|| upgrade(&copy).and_then(|()| catch_up(&copy, history, Sequence(0)))) {
            Ok(Ok(())) => return sole(copy),
            Ok(Err(e)) => log::error!("the copied catalogue: {e}; rebuilding it"),
            Err(panic) => log::error!("the copied catalogue: {panic}; rebuilding it"),
        }
        copied = Some(copy);
    }
    let new = Arc::new(Catalogue::open_copy(&place.path().join("new"))?);
    catch_up(&new, history, Sequence(0))?;
    bring_inside(&new, copied.as_deref(), dir)?;
    // The database has its file open; so nothing is left behind, however this process ends.
    sole(new)
}
