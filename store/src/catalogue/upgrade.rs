//! Bringing a catalogue of the layout before up to today's, where that takes less than rebuilding
//! it from the history: hosts wait meanwhile.

use super::handle::Catalogue;
use super::packed::Writes;
use super::read::Records;
use super::tables::{APPLIED, AppliedLayout, ENGINE_KEYS, ENGINES, NAMES};
use crate::error::Result;
use crate::types::View;

/// Adds what layout 4 has and layout 3 hasn't: how many keys each engine has. Of any other layout
/// nothing is touched. If it is interrupted, it is done again.
pub(super) fn upgrade(catalogue: &Catalogue) -> Result<()> {
    let Some(value) = catalogue.raw(&APPLIED.key(()))? else { return Ok(()) };
    let Some(applied) = AppliedLayout::of_layout_3(&value)? else { return Ok(()) };
    let mut writes = Writes::new();
    for row in catalogue.scan(&ENGINES.all()) {
        let engine = row?.key()?;
        let mut names = catalogue.scan(&NAMES.below(View::Engine(engine), ""));
        let count: u64 = names.try_fold(0, |count, name| name.map(|_| count + 1))?;
        if count > 0 {
            let (key, value) = ENGINE_KEYS.entry(engine, &count)?;
            writes.insert(key.into_bytes(), Some(value));
        }
    }
    catalogue.write(writes)?;
    catalogue.note_applied(&applied)
}
