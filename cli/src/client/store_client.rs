//! A command's way to a store: through the server that has it, or, when there is none, by opening
//! it.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use wasmfs_fs::mount::Mounted;
use wasmfs_store::{
    EngineInfo, Error as StoreError, Key, KeyInfo, Page, Settings, Sha, Store, StoreDir, Version,
    VersionInfo,
};

use crate::control::requests::{Engine, Keys, Payload, StatusRequest, Versions};
use crate::control::{Client, MountStatus, Place, Request};
use crate::ui::is_gone;

/// How long a command waits for another that has the store open.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is asked for again while servers go away.
const BATCH_ATTEMPTS: u32 = 5;

/// An engine, and the name that the user means it by.
pub struct NamedEngine<'a> {
    pub info: EngineInfo,
    pub called: &'a str,
}

impl NamedEngine<'_> {
    /// The name of the view that links go through: an alias, so that they follow where it
    /// moves, if that is how the user called it.
    pub fn view_name(&self) -> &str {
        let is_alias = self.info.aliases.iter().any(|alias| alias == self.called);
        if is_alias { self.called } else { &self.info.label }
    }
}

/// A store that a command works with.
pub struct StoreClient {
    dir: StoreDir,
    way: Way,
}

enum Way {
    /// Opened by this process.
    Opened(Box<Store>),
    /// Owned by a server.
    Served(Client),
}

impl StoreClient {
    /// Reaches the store at `path`, which must exist.
    pub fn open(path: &Path) -> Result<StoreClient> {
        StoreClient::open_in(&StoreDir::open(path)?)
    }

    /// Reaches the store at `path`, making one if nothing is there.
    pub fn open_or_create(path: &Path) -> Result<StoreClient> {
        StoreClient::open_in(&StoreDir::open_or_create(path, &Settings::default())?)
    }

    /// Reaches the store in `dir`.
    pub fn open_in(dir: &StoreDir) -> Result<StoreClient> {
        let deadline = Instant::now() + STORE_TIMEOUT;
        loop {
            if let Some((client, _)) = Client::reach(dir)? {
                return Ok(StoreClient { dir: dir.clone(), way: Way::Served(client) });
            }
            match Store::open_in(dir) {
                Ok(store) => {
                    return Ok(StoreClient { dir: dir.clone(), way: Way::Opened(Box::new(store)) });
                }
                // Another command has it for a moment, or a server is starting or ending.
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The store's directory, open.
    pub fn dir(&self) -> &StoreDir {
        &self.dir
    }

    /// Whether a server has the store.
    pub fn is_served(&self) -> bool {
        matches!(self.way, Way::Served(_))
    }

    /// Lets go of the store.
    pub fn close(self) -> Result<()> {
        match self.way {
            Way::Opened(store) => Ok(store.close()?),
            Way::Served(_) => Ok(()),
        }
    }

    /// Asks for something. A server that ended leaves the store to anybody: it is opened then for a
    /// question.
    pub fn ask<R: Request + Clone>(&self, asked: R) -> Result<R::Answer> {
        let client = match &self.way {
            Way::Opened(store) => return asked.handle(&Place::Opened(store)),
            Way::Served(client) => client,
        };
        match client.ask(&asked) {
            Err(e) if is_gone(&e) && asked.is_repeatable() => {
                match StoreClient::open_in(&self.dir)?.way {
                    Way::Opened(store) => asked.handle(&Place::Opened(&store)),
                    Way::Served(successor) => successor.ask(&asked),
                }
            }
            answer => answer,
        }
    }

    /// Asks for something that can be asked once in this form, however often the server goes away
    /// meanwhile: what has the store then is asked the same again.
    pub fn ask_again<R: Request>(&mut self, asked: R) -> Result<R::Answer> {
        let mut attempt = 1;
        loop {
            let client = match &self.way {
                Way::Opened(store) => return asked.handle(&Place::Opened(store)),
                Way::Served(client) => client,
            };
            match client.ask(&asked) {
                Err(gone) if is_gone(&gone) && attempt < BATCH_ATTEMPTS => {
                    attempt += 1;
                    *self = StoreClient::open_in(&self.dir)?;
                }
                answer => return answer,
            }
        }
    }

    /// Every key whose name starts with `prefix`, in order, page by page.
    pub fn keys(&self, prefix: &str) -> impl Iterator<Item = Result<KeyInfo>> {
        let mut asked = Keys { prefix: prefix.to_owned(), after: None };
        pages(move |next: Option<Key>| {
            asked.after = next;
            self.ask(asked.clone())
        })
    }

    /// Every version of a key, newest first, page by page, removed ones included.
    pub fn versions(&self, key: &Key) -> impl Iterator<Item = Result<VersionInfo>> {
        let mut asked = Versions { key: key.clone(), before: None, limit: None };
        pages(move |next: Option<Version>| {
            asked.before = next;
            self.ask(asked.clone())
        })
    }

    /// The engine that a name means, if a name was given.
    pub fn named_engine<'a>(&self, called: Option<&'a str>) -> Result<Option<NamedEngine<'a>>> {
        let Some(called) = called else { return Ok(None) };
        Ok(Some(NamedEngine { info: self.ask(Engine { name: called.to_owned() })?, called }))
    }

    /// The bytes of a payload: its object file, or what the server says if it has it inside.
    pub fn payload(&self, sha256: &Sha) -> Result<Vec<u8>> {
        if let Some(bytes) = Store::read_object(&self.dir, sha256)? {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        loop {
            let offset = bytes.len() as u64;
            let part = self.ask(Payload { sha256: *sha256, offset })?.0;
            if part.is_empty() {
                return Ok(bytes);
            }
            bytes.extend(part);
        }
    }

    /// The mounts of the store, attached and detached.
    pub fn mounts(&self) -> Result<Vec<MountStatus>> {
        match &self.way {
            Way::Opened(_) => Ok(Vec::new()),
            Way::Served(client) => Ok(client.ask(&StatusRequest {})?.mounts),
        }
    }

    /// The mount of the store, as the kernel has it.
    pub fn mount(&self) -> Result<Option<Mounted>> {
        let attached = self.mounts()?.into_iter().find(|mount| mount.attached);
        attached.as_ref().map_or(Ok(None), MountStatus::in_kernel)
    }
}

/// The items of a long answer, of which `ask` gives the page at a place.
fn pages<T, C>(
    mut ask: impl FnMut(Option<C>) -> Result<Page<T, C>>,
) -> impl Iterator<Item = Result<T>> {
    let mut items = VecDeque::new();
    // Where the next page begins; nothing at the end.
    let mut next = Some(None);
    std::iter::from_fn(move || {
        loop {
            if let Some(item) = items.pop_front() {
                return Some(Ok(item));
            }
            match ask(next.take()?) {
                Ok(page) => {
                    items = page.items.into();
                    next = page.next.map(Some);
                }
                Err(e) => return Some(Err(e)),
            }
        }
    })
}
