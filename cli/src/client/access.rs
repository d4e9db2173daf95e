//! How a command reaches the store: through the server that owns it, or, when
//! there is none, by opening it. The user never has to know.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use wasmfs_fs::gc::{self, Collection, Kept, Tidied};
use wasmfs_store::{
    EngineInfo, Error as StoreError, Key, KeyInfo, Publish, Sha, Source, Staged, StagedSource,
    Store, Version, VersionInfo,
};

use crate::control::changes::{ChangeRequest, Committed};
use crate::control::{
    AskedPolicy, CollectRequest, MountStatus, Piece, PublishAnswer, PublishItem, PublishOptions,
    PublishRequest, SourceItem, piece,
};
use crate::control::{Client, was_lost};
use crate::ui::Failure;

/// How long a command waits for another that has the store open.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// An engine, and the name that the user means it by.
pub struct NamedEngine<'a> {
    /// The engine.
    pub info: EngineInfo,
    /// The name.
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

/// The store, one way or the other.
pub enum Access {
    /// Opened by this process.
    Direct(Box<Store>),
    /// Owned by a server.
    Server(Client),
}

/// An artifact that was handed over but not published.
pub enum Handed {
    /// To the store.
    Direct(Box<Staged>),
    /// To the server.
    Server(u64),
}

/// The WebAssembly that an artifact was compiled from.
pub enum HandedSource {
    /// Handed over to the store.
    Direct(StagedSource),
    /// Handed over to the server.
    Server(u64),
    /// In the store already.
    Stored(Sha),
}

/// Something to publish.
pub struct Item {
    /// Under which key.
    pub key: Key,
    /// The artifact.
    pub artifact: Handed,
    /// What it was compiled from.
    pub source: Option<HandedSource>,
    /// What compiled it.
    pub producer: Option<String>,
    /// The version whose source it was compiled from, if that was the store's.
    pub recompiled_from: Option<Version>,
}

impl Access {
    /// Reaches the store in `dir`, which must exist.
    pub fn open(dir: &Path) -> Result<Access> {
        Access::reach(dir, Store::open)
    }

    /// Reaches the store in `dir`, making one if nothing is there.
    pub fn open_or_create(dir: &Path) -> Result<Access> {
        Access::reach(dir, Store::open_or_create)
    }

    fn reach(dir: &Path, open: impl Fn(&Path) -> Result<Store, StoreError>) -> Result<Access> {
        let deadline = Instant::now() + STORE_TIMEOUT;
        loop {
            if let Some((client, _)) = Client::reach(dir)? {
                return Ok(Access::Server(client));
            }
            match open(dir) {
                Ok(store) => return Ok(Access::Direct(Box::new(store))),
                // Another command has it for a moment, or a server is starting or ending.
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Reaches the store anew after a server went away, with what was handed
    /// over to it: through its successor, or directly.
    pub fn reach_again(&mut self) -> Result<()> {
        if let Access::Server(client) = self {
            *self = Access::open(client.dir())?;
        }
        Ok(())
    }

    /// Lets go of the store.
    pub fn close(self) -> Result<()> {
        match self {
            Access::Direct(store) => Ok(store.close()?),
            Access::Server(_) => Ok(()),
        }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        direct: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T> {
        match self {
            Access::Direct(store) => Ok(direct(store)?),
            Access::Server(client) => match client.get(path, query) {
                // It has ended, and the store is anybody's.
                Err(lost) if was_lost(&lost) => match Access::open(client.dir())? {
                    Access::Direct(store) => Ok(direct(&store)?),
                    Access::Server(_) => Err(lost),
                },
                answer => answer,
            },
        }
    }

    /// Every key whose name starts with `prefix`.
    pub fn keys(&self, prefix: &str) -> Result<Vec<KeyInfo>> {
        self.ask("/v1/keys", &[("prefix", prefix.to_owned())], |store| store.keys(prefix))
    }

    /// Every version of a key, oldest first.
    pub fn versions(&self, key: &Key) -> Result<Vec<VersionInfo>> {
        self.ask("/v1/versions", &[("key", key.to_string())], |store| store.versions(key))
    }

    /// One version of a key, or the one its plain name leads to.
    pub fn version(&self, key: &Key, version: Option<Version>) -> Result<VersionInfo> {
        let mut query = vec![("key", key.to_string())];
        query.extend(version.map(|version| ("version", version.to_string())));
        self.ask("/v1/version", &query, |store| store.version(key, version))
    }

    /// The last versions published, newest first.
    pub fn latest(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        self.ask("/v1/latest", &[("limit", limit.to_string())], |store| store.latest(limit))
    }

    /// Every engine.
    pub fn engines(&self) -> Result<Vec<EngineInfo>> {
        self.ask("/v1/engines", &[], Store::engines)
    }

    /// The engine that a name means.
    pub fn engine(&self, name: &str) -> Result<EngineInfo> {
        self.ask("/v1/engine", &[("name", name.to_owned())], |store| store.engine(name))
    }

    /// The same, if a name was given.
    pub fn named_engine<'a>(&self, called: Option<&'a str>) -> Result<Option<NamedEngine<'a>>> {
        let Some(called) = called else { return Ok(None) };
        Ok(Some(NamedEngine { info: self.engine(called)?, called }))
    }

    /// The bytes of a payload.
    pub fn payload(&self, sha256: &Sha) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let offset = bytes.len() as u64;
            let query = [("sha256", sha256.hex()), ("offset", offset.to_string())];
            let part: Piece =
                self.ask("/v1/payload", &query, |store| piece(store, sha256, offset))?;
            if part.base64.is_empty() {
                return Ok(bytes);
            }
            bytes.extend(part.bytes()?);
        }
    }

    /// Hands an artifact over.
    pub fn hand_over(&self, from: impl Read + Send + Sync + Unpin + 'static) -> Result<Handed> {
        Ok(match self {
            Access::Direct(store) => Handed::Direct(Box::new(store.stage(from)?)),
            Access::Server(client) => Handed::Server(client.upload(from, false)?.upload),
        })
    }

    /// Hands the WebAssembly over that an artifact was compiled from.
    pub fn hand_over_source(
        &self,
        from: impl Read + Send + Sync + Unpin + 'static,
    ) -> Result<HandedSource> {
        Ok(match self {
            Access::Direct(store) => HandedSource::Direct(store.stage_source(from)?),
            Access::Server(client) => HandedSource::Server(client.upload(from, true)?.upload),
        })
    }

    /// Publishes what was handed over, with one commit.
    pub fn publish(&self, items: Vec<Item>, options: &PublishOptions) -> Result<PublishAnswer> {
        match self {
            Access::Direct(store) => {
                let requests = items.into_iter().map(|item| item.for_store(options));
                let requests = requests.collect::<Option<_>>().context(OTHER_HANDS)?;
                let (results, _) = store.publish(requests, options.together)?;
                let results = results.into_iter().map(|r| r.map_err(|e| Failure::of(&e.into())));
                Ok(PublishAnswer { results: results.collect(), visible: true })
            }
            Access::Server(client) => {
                let items = items.into_iter().map(Item::for_server);
                let items = items.collect::<Option<_>>().context(OTHER_HANDS)?;
                client.publish(&PublishRequest { items, options: options.clone() })
            }
        }
    }

    /// Makes a change.
    pub fn change<C: ChangeRequest>(&self, change: C) -> Result<Committed<C::Outcome>> {
        match self {
            Access::Direct(store) => {
                let (outcome, _) = change.apply(store)?;
                Ok(Committed { outcome, visible: true })
            }
            Access::Server(client) => client.change(&change),
        }
    }

    /// Gives up what nobody needs, of some keys; or says what that is.
    pub fn collect(&self, request: &CollectRequest) -> Result<Collection> {
        match self {
            Access::Direct(store) => {
                let CollectRequest { policy, after, dry_run } = request;
                let policy = policy.of(store)?;
                Ok(gc::collect_unmounted(store, &policy, after.as_deref(), *dry_run)?)
            }
            Access::Server(client) => client.collect(request),
        }
    }

    /// Removes what no version has, and compacts the history if that is due.
    pub fn tidy(&self) -> Result<Tidied> {
        match self {
            Access::Direct(store) => Ok(gc::tidy_unmounted(store)?),
            Access::Server(client) => client.tidy(),
        }
    }

    /// What keeps each version of a key.
    pub fn fates(&self, key: &Key, policy: AskedPolicy) -> Result<Vec<Kept>> {
        let query = [("key", key.to_string()), ("policy", serde_json::to_string(&policy)?)];
        self.ask("/v1/fates", &query, |store| {
            let fates = store.fates(key, &policy.of(store)?)?;
            Ok(fates.into_iter().map(|candidate| Kept { candidate, in_use: false }).collect())
        })
    }

    /// The versions that are, or were compiled from, a payload.
    pub fn users(&self, sha256: &Sha) -> Result<Vec<(Key, Version)>> {
        self.ask("/v1/users", &[("sha256", sha256.hex())], |store| store.users(sha256))
    }

    /// The mounts of the store, attached and detached.
    pub fn mounts(&self) -> Result<Vec<MountStatus>> {
        match self {
            Access::Direct(_) => Ok(Vec::new()),
            Access::Server(client) => Ok(client.status()?.mounts),
        }
    }

    /// Where the store is mounted now.
    pub fn mount_point(&self) -> Result<Option<PathBuf>> {
        match self {
            Access::Direct(_) => Ok(None),
            Access::Server(client) => Ok(client.status()?.mount_point()),
        }
    }
}

const OTHER_HANDS: &str = "something was handed over to another server";

impl Item {
    fn for_store(self, options: &PublishOptions) -> Option<Publish> {
        let Handed::Direct(staged) = self.artifact else { return None };
        let source = match self.source {
            None => None,
            Some(HandedSource::Direct(source)) => Some(Source::Staged(source)),
            Some(HandedSource::Stored(sha256)) => Some(Source::Stored(sha256)),
            Some(HandedSource::Server(_)) => return None,
        };
        Some(Publish {
            make_default: options.default,
            engine: options.engine.clone(),
            source,
            producer: self.producer,
            recompiled_from: self.recompiled_from,
            ..Publish::new(self.key, *staged)
        })
    }

    fn for_server(self) -> Option<PublishItem> {
        let Handed::Server(upload) = self.artifact else { return None };
        let source = match self.source {
            None => None,
            Some(HandedSource::Server(upload)) => Some(SourceItem::Upload(upload)),
            Some(HandedSource::Stored(sha256)) => Some(SourceItem::Stored(sha256)),
            Some(HandedSource::Direct(_)) => return None,
        };
        let Item { key, producer, recompiled_from, .. } = self;
        Some(PublishItem { key, upload, source, producer, recompiled_from })
    }
}
