//! Changes of the store that a command asks for in one request, whether the
//! store is opened by the command or owned by a server.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasmfs_store::{Changes, EngineInfo, Key, Moved, Published, Removed, Result, Store, Version};

/// A change of the store.
pub trait ChangeRequest: Serialize + DeserializeOwned + Send + 'static {
    /// Where a server takes it.
    const PATH: &str;
    /// What comes of it.
    type Outcome: Serialize + DeserializeOwned;

    /// Whether doing it again changes nothing, so that it can be asked for
    /// again when a server went away over it.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// Does it.
    fn apply(&self, store: &Store) -> Result<(Self::Outcome, Changes)>;
}

/// What came of a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Committed<T> {
    /// What it did.
    #[serde(flatten)]
    pub outcome: T,
    /// Whether the kernel knows; if not, it will once a stuck lookup ends.
    pub visible: bool,
}

/// A key, and a version of it where that matters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionOf {
    /// The key.
    pub key: Key,
    /// The version.
    pub version: Option<Version>,
}

/// Publish an earlier version again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rollback(pub VersionOf);

impl ChangeRequest for Rollback {
    const PATH: &str = "/v1/rollback";
    type Outcome = Published;

    fn apply(&self, store: &Store) -> Result<(Published, Changes)> {
        store.rollback(&self.0.key, self.0.version)
    }
}

/// Take names away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Remove(pub VersionOf);

impl ChangeRequest for Remove {
    const PATH: &str = "/v1/remove";
    type Outcome = Removed;

    fn apply(&self, store: &Store) -> Result<(Removed, Changes)> {
        store.remove(&self.0.key, self.0.version)
    }
}

/// Move plain names to an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetDefault {
    /// The keys, or every key.
    pub keys: Option<Vec<Key>>,
    /// The engine.
    pub engine: String,
}

impl ChangeRequest for SetDefault {
    const PATH: &str = "/v1/default";
    type Outcome = Moved;

    fn is_repeatable(&self) -> bool {
        true
    }

    fn apply(&self, store: &Store) -> Result<(Moved, Changes)> {
        store.set_default(self.keys.as_deref(), &self.engine)
    }
}

/// Protect a version from collection, or not any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pin {
    /// The key.
    pub key: Key,
    /// The version.
    pub version: Version,
    /// Whether it is protected.
    pub pinned: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pinned {
    /// What was asked for.
    #[serde(flatten)]
    pub pin: Pin,
    /// Whether it was not so before.
    pub changed: bool,
}

impl ChangeRequest for Pin {
    const PATH: &str = "/v1/pin";
    type Outcome = Pinned;

    fn is_repeatable(&self) -> bool {
        // Of one that is not pinned, it would be said that it wasn't.
        self.pinned
    }

    fn apply(&self, store: &Store) -> Result<(Pinned, Changes)> {
        let changed = match self.pinned {
            true => store.pin(&self.key, Version(self.version.get()))?,
            false => store.unpin(&self.key, Version(self.version.get()))?,
        };
        Ok((Pinned { pin: self.clone(), changed }, Changes::default()))
    }
}

/// Change the other names of engines.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Alias {
    /// Give one to an engine.
    Set {
        /// The name.
        name: String,
        /// The engine.
        engine: String,
    },
    /// Take one away.
    Remove {
        /// The name.
        name: String,
    },
    /// Give one to the engine that an artifact was compiled by.
    Learn {
        /// The name.
        name: String,
        /// The artifact's section `.wasmtime.engine`.
        section: Vec<u8>,
    },
}

impl ChangeRequest for Alias {
    const PATH: &str = "/v1/alias";
    type Outcome = EngineInfo;

    fn is_repeatable(&self) -> bool {
        !matches!(self, Alias::Remove { .. })
    }

    fn apply(&self, store: &Store) -> Result<(EngineInfo, Changes)> {
        match self {
            Alias::Set { name, engine } => store.alias(name, engine),
            Alias::Remove { name } => store.unalias(name),
            Alias::Learn { name, section } => store.learn(name, section),
        }
    }
}
