//! Publishing many artifacts, some at a time.

use std::path::{Path, PathBuf};

use anyhow::Result;
use wasmfs_store::{MAX_INLINE_TOTAL, Publish, Published};

use super::store_client::StoreClient;
use crate::control::requests::{MAX_BATCH, Outcomes, Publishing};
use crate::ui::Failure;

/// Artifacts that are staged and waiting, and what came of those before. They are published with
/// one commit when there are [`MAX_BATCH`] of them, or when those in memory take half of what a
/// request may have; all with one if they are to go in together.
pub struct Batch<'c> {
    through: Through<'c>,
    together: bool,
    waiting: Vec<Publish>,
    /// The bytes in memory of what is waiting.
    in_memory: usize,
    /// What came of each item, or nothing yet: in the order they were added.
    results: Vec<Option<Result<Published, Failure>>>,
    visible: bool,
}

/// The store that a batch goes to.
enum Through<'c> {
    /// One that its caller has.
    Client(&'c mut StoreClient),
    /// One that is opened for each commit, and is anybody's meanwhile.
    Directory(PathBuf),
}

/// What came of each item, and whether the kernel knows.
pub type Outcome = (Vec<Result<Published, Failure>>, bool);

impl<'c> Batch<'c> {
    /// A batch for a store that is open.
    pub fn through(client: &'c mut StoreClient) -> Batch<'c> {
        Batch::new(Through::Client(client), false)
    }

    /// A batch for the store in `dir`, which is opened when there is something to commit: staging
    /// may take long. All go in, or none, if `together`.
    pub fn into(dir: &Path, together: bool) -> Batch<'static> {
        Batch::new(Through::Directory(dir.to_owned()), together)
    }

    fn new(through: Through<'_>, together: bool) -> Batch<'_> {
        let (waiting, results) = (Vec::new(), Vec::new());
        Batch { through, together, waiting, in_memory: 0, results, visible: true }
    }

    /// Adds an item; or what went wrong with one, which stays so.
    pub fn add(&mut self, item: Result<Publish>) {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                self.results.push(Some(Err(Failure::of(&error))));
                return;
            }
        };
        self.in_memory += item.bytes_in_memory().map(<[u8]>::len).sum::<usize>();
        self.waiting.push(item);
        self.results.push(None);
        let is_full = self.waiting.len() >= MAX_BATCH || self.in_memory >= MAX_INLINE_TOTAL / 2;
        if is_full && !self.together {
            self.commit();
        }
    }

    /// Publishes what is waiting. An error of the whole commit is that of each item.
    fn commit(&mut self) {
        let items = std::mem::take(&mut self.waiting);
        self.in_memory = 0;
        if items.is_empty() {
            return;
        }
        let count = items.len();
        let results = if self.together && self.results.iter().any(Option::is_some) {
            vec![Err(Failure::of(&wasmfs_store::Error::HeldBack.into())); count]
        } else {
            let asked = Publishing { items, together: self.together };
            match self.ask(asked) {
                Ok(Outcomes { results, visible }) => {
                    self.visible &= visible;
                    results
                }
                Err(error) => vec![Err(Failure::of(&error)); count],
            }
        };
        let mut results = results.into_iter();
        for place in self.results.iter_mut().filter(|place| place.is_none()) {
            *place = results.next();
        }
    }

    fn ask(&mut self, asked: Publishing) -> Result<Outcomes> {
        match &mut self.through {
            Through::Client(client) => client.ask_again(asked),
            Through::Directory(dir) => {
                let mut client = StoreClient::open_or_create(dir)?;
                let outcomes = client.ask_again(asked)?;
                client.close()?;
                Ok(outcomes)
            }
        }
    }

    /// Publishes the rest, and says what came of every item.
    pub fn finish(mut self) -> Outcome {
        self.commit();
        let none = || {
            let reason = "it has fewer results than there were items".into();
            Err(crate::ui::Error::Malformed { what: "answer", reason }.into())
        };
        let all = self.results.into_iter().map(|result| result.unwrap_or_else(none));
        (all.collect(), self.visible)
    }
}
