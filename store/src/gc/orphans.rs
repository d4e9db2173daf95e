//! Payloads that no version has, and object files that no payload has: what a crash left, and
//! sources whose version was never kept.

use std::collections::BTreeSet;

use super::collect::{Collected, give_up};
use super::limits::{PORTION_ROWS, PORTION_SIZE};
use crate::catalogue::tables::{PAYLOADS, USERS};
use crate::catalogue::{Catalogue, Records, whole_inline};
use crate::error::{Error, Result};
use crate::history::scan::{PayloadUse, payload_use};
use crate::store::Store;
use crate::types::Sha;

/// Payloads that no version has, by catalogue and history.
struct Unused {
    payloads: Vec<Sha>,
    /// All that were ever given up.
    given_up: BTreeSet<Sha>,
}

impl Store {
    /// Gives up payloads that no version has, and object files that no payload has: what a crash
    /// left, and sources whose version was never kept.
    pub fn collect_orphans(&self) -> Result<Collected> {
        let mut total = Collected::default();
        let mut payloads = PAYLOADS.all();
        loop {
            let writer = self.writer()?;
            let mut orphans = Vec::new();
            let mut last = None;
            for (count, row) in writer.catalogue().scan(&payloads).enumerate() {
                let sha256 = row?.key()?;
                if !writer.view().any(&USERS.of(&sha256))? {
                    orphans.push(sha256);
                }
                if count + 1 >= PORTION_ROWS || orphans.len() >= PORTION_SIZE {
                    last = Some(sha256);
                    break;
                }
            }
            let orphans = self.unused(writer.catalogue(), orphans)?.payloads;
            total.add(&give_up(writer, Vec::new(), orphans)?.0);
            match last {
                Some(last) => payloads = payloads.after(&last),
                None => break,
            }
        }
        let mut found = Vec::new();
        self.objects.each_directory(|directory| {
            let catalogue = self.catalogue()?;
            for (name, _) in directory.entries()? {
                let Ok(sha256) = name.to_string_lossy().parse::<Sha>() else { continue };
                match catalogue.payload(&sha256)? {
                    None => found.push(sha256),
                    // What an import brought, and is inside by now.
                    Some(record) if record.inline => {
                        if whole_inline(&catalogue, &sha256, record.size).is_some() {
                            self.objects.remove(&sha256)?;
                        }
                    }
                    Some(_) => {}
                }
            }
            drop(catalogue);
            if found.len() >= PORTION_ROWS {
                total.add(&self.remove_objects(std::mem::take(&mut found))?);
            }
            Ok(())
        })?;
        total.add(&self.remove_objects(found)?);
        Ok(total)
    }

    /// Removes object files that no payload has.
    fn remove_objects(&self, found: Vec<Sha>) -> Result<Collected> {
        let mut removed = Collected::default();
        if found.is_empty() {
            return Ok(removed);
        }
        // With the right to write: a publish puts an object in place first.
        let writer = self.writer()?;
        let mut orphans = Vec::new();
        for sha256 in found {
            // It may have been committed since it was found.
            if writer.view().payload(&sha256)?.is_none() {
                orphans.push(sha256);
            }
        }
        let Unused { payloads, given_up } = self.unused(writer.catalogue(), orphans)?;
        for sha256 in payloads {
            // What was given up was counted then.
            if !given_up.contains(&sha256) {
                removed.bytes += self.objects.size(&sha256)?.unwrap_or(0);
                removed.payloads += 1;
            }
            self.objects.remove(&sha256)?;
        }
        Ok(removed)
    }

    /// Those of `payloads` that no version has by the history either. If
    /// one has a user that the catalogue doesn't know of, that has lost records, and is not
    /// trusted any more.
    fn unused(&self, catalogue: &Catalogue, mut payloads: Vec<Sha>) -> Result<Unused> {
        if payloads.is_empty() {
            return Ok(Unused { payloads, given_up: BTreeSet::new() });
        }
        let wanted = payloads.iter().copied().collect();
        let PayloadUse { used, given_up } = payload_use(self.open_dir(), &wanted)?;
        for sha256 in &used {
            if !catalogue.any(&USERS.of(sha256))? {
                catalogue.note_damage();
                return Err(Error::Inconsistent(format!("it has lost who needs payload {sha256}")));
            }
        }
        payloads.retain(|sha256| !used.contains(sha256));
        Ok(Unused { payloads, given_up })
    }
}
