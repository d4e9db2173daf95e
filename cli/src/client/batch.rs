//! Publishing many artifacts, some at a time.

use anyhow::Result;
use wasmfs_store::{MAX_INLINE_TOTAL, Publish, Published, StoreDir};

use super::store_client::StoreClient;
use crate::control::requests::{MAX_BATCH, Outcomes, Publishing};
use crate::ui::Failure;

/// The JSON of one request, in bytes, at most about: hashes of large artifacts take room.
const MAX_BATCH_JSON: usize = 8 << 20;

/// Artifacts that are staged and waiting, and what came of those before. They are published with
/// one commit when there are [`MAX_BATCH`] of them, or enough bytes; all with one commit if they
/// are to go in together.
pub struct Batch<'c> {
    through: Through<'c>,
    commits: Commits,
    waiting: Vec<Publish>,
    /// The bytes in memory of what is waiting.
    in_memory: usize,
    /// What the JSON of a request for it takes, in bytes.
    json: usize,
    /// What came of each item, or nothing yet: in the order they were added.
    results: Vec<Option<Result<Published, Failure>>>,
    visible: bool,
}

/// When a batch is committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commits {
    /// Whenever there is enough, and at the end.
    InPortions,
    /// At the end: what its caller keeps small.
    Once,
    /// At the end, and all of it or nothing.
    Together,
}

/// The store that a batch goes to.
enum Through<'c> {
    /// One that its caller has.
    Client(&'c mut StoreClient),
    /// One that is opened for each commit, and is anybody's meanwhile.
    Directory(StoreDir),
}

/// What came of each item, and whether the kernel knows.
pub type Outcome = (Vec<Result<Published, Failure>>, bool);

impl<'c> Batch<'c> {
    /// A batch for a store that is open.
    pub fn through(client: &'c mut StoreClient) -> Batch<'c> {
        Batch::new(Through::Client(client), Commits::InPortions)
    }

    /// The same, committed once.
    pub fn once_through(client: &'c mut StoreClient) -> Batch<'c> {
        Batch::new(Through::Client(client), Commits::Once)
    }

    /// A batch for the store in `dir`, which is opened when there is something to commit: staging
    /// may take long. All go in, or none, if `together`.
    pub fn into(dir: &StoreDir, together: bool) -> Batch<'static> {
        let commits = if together { Commits::Together } else { Commits::InPortions };
        Batch::new(Through::Directory(dir.to_owned()), commits)
    }

    fn new(through: Through<'_>, commits: Commits) -> Batch<'_> {
        let (waiting, results) = (Vec::new(), Vec::new());
        Batch { through, commits, waiting, in_memory: 0, json: 0, results, visible: true }
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
        self.json += item.json_size();
        self.waiting.push(item);
        self.results.push(None);
        let is_full = self.waiting.len() >= MAX_BATCH
            || self.in_memory >= MAX_INLINE_TOTAL / 2
            || self.json >= MAX_BATCH_JSON;
        if is_full && self.commits == Commits::InPortions {
            self.commit();
        }
    }

    /// Publishes what is waiting. An error of the whole commit is that of each item.
    fn commit(&mut self) {
        let items = std::mem::take(&mut self.waiting);
        (self.in_memory, self.json) = (0, 0);
        if items.is_empty() {
            return;
        }
        let count = items.len();
        let together = self.commits == Commits::Together;
        let results = if together && self.results.iter().any(Option::is_some) {
            vec![Err(Failure::of(&wasmfs_store::Error::HeldBack.into())); count]
        } else {
            let asked = Publishing { items, together };
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
                let mut client = StoreClient::open_in(dir)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use wasmfs_store::{Key, Settings, Staging, StoreDir};

    use super::*;

    /// Adds more bytes than one request of many takes, and goes away before the end.
    fn published_before_the_end(at_once: bool) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let dir = StoreDir::open_or_create(&store, &Settings::default()).unwrap();
        let staging = Staging::beside(&dir).unwrap();
        let module = wasmtime::Engine::default().precompile_module(b"(module)").unwrap();
        let count = MAX_INLINE_TOTAL / 2 / module.len() + 10;
        let mut client = StoreClient::open_in(&dir).unwrap();
        let mut batch = match at_once {
            true => Batch::once_through(&mut client),
            false => Batch::through(&mut client),
        };
        for number in 0..count {
            // What comes after the sections is nobody's.
            let bytes = [&module[..], &number.to_le_bytes()].concat();
            let staged = staging.stage(&bytes[..]).unwrap();
            batch.add(Ok(Publish::new(Key::new(format!("key-{number}")).unwrap(), staged)));
        }
        drop(batch);
        let published = client.keys("").count();
        assert!(published < count);
        published
    }

    #[test]
    fn a_batch_is_committed_in_portions_unless_it_is_to_go_in_at_once() {
        assert!(published_before_the_end(false) > 0);
        assert_eq!(published_before_the_end(true), 0);
    }
}
