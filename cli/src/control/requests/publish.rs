//! Publishing what was staged.

use std::io::Read;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wasmfs_fs::give_back_memory;
use wasmfs_store::{MAX_INLINE_TOTAL, Publish, Published};

use crate::control::place::Place;
use crate::control::request::{Method, Request, Shape};
use crate::ui::{Error, Failure};

/// The most artifacts that are published with one commit, unless all must go in together.
pub const MAX_BATCH: usize = 2000;

/// A batch of so many takes memory that is worth giving back.
const LARGE: usize = 100;

/// Publish with one commit what was staged in the store's `incoming/`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Publishing {
    /// What was staged, and under which key each goes.
    pub items: Vec<Publish>,
    /// Whether all go in, or none.
    #[serde(default)]
    pub together: bool,
}

/// What came of a batch, item by item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcomes {
    /// In the order of the request.
    pub results: Vec<Result<Published, Failure>>,
    /// Whether the kernel knows; if not, it will once a stuck lookup ends.
    pub visible: bool,
}

impl Request for Publishing {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/publish";
    const ABOUT: &'static str = "Publishes with one commit what was staged in `incoming/`.";
    const SHAPE: Shape = Shape {
        request: "JSON in one line: `items`, as below, and `together`: all of them or none; then a \
                  newline, and the bytes of those that are no files, one after the other",
        answer: "`results`, each `Ok` as `publish --json` has it or `Err`, and `visible`",
    };
    const HAS_BYTES: bool = true;
    type Answer = Outcomes;

    fn is_repeatable(&self) -> bool {
        // What is published already is unchanged then.
        true
    }

    fn bytes(&self) -> Vec<&[u8]> {
        self.items.iter().flat_map(Publish::bytes_in_memory).collect()
    }

    fn complete(&mut self, from: &mut dyn Read) -> Result<()> {
        let mut left = MAX_INLINE_TOTAL;
        for item in &mut self.items {
            item.complete(from)?;
            let bytes: usize = item.bytes_in_memory().map(<[u8]>::len).sum();
            left = left.checked_sub(bytes).ok_or_else(|| {
                Error::RequestTooLarge(format!("more than {MAX_INLINE_TOTAL} bytes in it"))
            })?;
        }
        Ok(())
    }

    fn handle(self, place: &Place<'_>) -> Result<Outcomes> {
        let Publishing { items, together } = self;
        let is_large = items.len() >= LARGE;
        let (results, visible) = place.commit(|store| store.publish(items, together))?;
        if is_large {
            give_back_memory();
        }
        let results = results.into_iter().map(|r| r.map_err(|e| Failure::of(&e.into()))).collect();
        Ok(Outcomes { results, visible })
    }
}
