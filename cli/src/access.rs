//! How a command reaches the store: through the server that owns it, or, when
//! there is none, by opening it. The user never has to know.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::de::DeserializeOwned;
use wasmfs_store::{Error as StoreError, Key, KeyInfo, Publish, Staged, Store, VersionInfo};

use crate::control::client::{Client, was_lost};
use crate::control::{PublishAnswer, PublishItem, RemoveAnswer, RollbackAnswer, VersionOf};
use crate::failure::Failure;

/// How long a command waits for another that has the store open.
const PATIENCE: Duration = Duration::from_secs(10);

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
    Direct(Staged),
    /// To the server.
    Server(u64),
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
        let deadline = Instant::now() + PATIENCE;
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
    pub fn version(&self, key: &Key, version: Option<u64>) -> Result<VersionInfo> {
        let mut query = vec![("key", key.to_string())];
        query.extend(version.map(|version| ("version", version.to_string())));
        self.ask("/v1/version", &query, |store| store.version(key, version))
    }

    /// The last versions published, newest first.
    pub fn latest(&self, limit: usize) -> Result<Vec<VersionInfo>> {
        self.ask("/v1/latest", &[("limit", limit.to_string())], |store| store.latest(limit))
    }

    /// Hands an artifact over.
    pub fn hand_over(&self, from: impl Read + Send + Sync + Unpin + 'static) -> Result<Handed> {
        Ok(match self {
            Access::Direct(store) => Handed::Direct(store.stage(from)?),
            Access::Server(client) => Handed::Server(client.upload(from)?.upload),
        })
    }

    /// Publishes what was handed over, with one commit.
    pub fn publish(&self, items: Vec<(Key, Handed)>, default: bool) -> Result<PublishAnswer> {
        match self {
            Access::Direct(store) => {
                let requests = items.into_iter().filter_map(|(key, handed)| match handed {
                    Handed::Direct(staged) => Some(Publish { key, staged, make_default: default }),
                    Handed::Server(_) => None,
                });
                let (results, _) = store.publish(requests.collect())?;
                let results = results.into_iter().map(|r| r.map_err(|e| Failure::of(&e.into())));
                Ok(PublishAnswer { results: results.collect(), visible: true })
            }
            Access::Server(client) => {
                let items = items.into_iter().filter_map(|(key, handed)| match handed {
                    Handed::Server(upload) => Some(PublishItem { key, upload, default }),
                    Handed::Direct(_) => None,
                });
                client.publish(&items.collect::<Vec<_>>())
            }
        }
    }

    /// Publishes an earlier version again.
    pub fn rollback(&self, of: VersionOf) -> Result<RollbackAnswer> {
        match self {
            Access::Direct(store) => {
                let (published, _) = store.rollback(&of.key, of.version)?;
                Ok(RollbackAnswer { published, visible: true })
            }
            Access::Server(client) => client.rollback(&of),
        }
    }

    /// Takes names away.
    pub fn remove(&self, of: VersionOf) -> Result<RemoveAnswer> {
        match self {
            Access::Direct(store) => {
                let (removed, _) = store.remove(&of.key, of.version)?;
                Ok(RemoveAnswer { removed, visible: true })
            }
            Access::Server(client) => client.remove(&of),
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
