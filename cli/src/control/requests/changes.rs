//! How a store is changed, publishing and collecting apart.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wasmfs_store::{Changes, EngineInfo, Key, Moved, Published, Removed, Version};

use crate::control::place::Place;
use crate::control::request::{Method, Request, Shape};

/// What came of a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Committed<T> {
    /// What it did.
    #[serde(flatten)]
    pub outcome: T,
    /// Whether the kernel knows; if not, it will once a stuck lookup ends.
    pub visible: bool,
}

fn committed<T>((outcome, visible): (T, bool)) -> Committed<T> {
    Committed { outcome, visible }
}

/// A key, and a version of it where that matters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionOf {
    pub key: Key,
    /// The version; nothing for all of them, or for the one that is meant by itself.
    #[serde(default)]
    pub version: Option<Version>,
}

/// Publish an earlier version again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rollback(pub VersionOf);

impl Request for Rollback {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/rollback";
    const ABOUT: &'static str = "Publishes an earlier version of a key again.";
    const SHAPE: Shape = Shape {
        request: "`key`, `version`",
        answer: "what came of it, as `rollback --json` has it",
    };
    type Answer = Committed<Published>;

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        let VersionOf { key, version } = self.0;
        Ok(committed(place.commit(|store| store.rollback(&key, version))?))
    }
}

/// Take names away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Remove(pub VersionOf);

impl Request for Remove {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/remove";
    const ABOUT: &'static str = "Takes away the names of a version, or of a key.";
    const SHAPE: Shape =
        Shape { request: "`key`, `version`", answer: "what came of it, as `rm --json` has it" };
    type Answer = Committed<Removed>;

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        let VersionOf { key, version } = self.0;
        Ok(committed(place.commit(|store| store.remove(&key, version))?))
    }
}

/// Move plain names to an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetDefault {
    /// The keys, or every key.
    #[serde(default)]
    pub keys: Option<Vec<Key>>,
    pub engine: String,
}

impl Request for SetDefault {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/default";
    const ABOUT: &'static str = "Moves plain names to an engine, with one commit.";
    const SHAPE: Shape = Shape {
        request: "`keys`: nothing for every key, `engine`",
        answer: "what came of it, as `default --json` has it",
    };
    type Answer = Committed<Moved>;

    fn is_repeatable(&self) -> bool {
        true
    }

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        let SetDefault { keys, engine } = self;
        Ok(committed(place.commit(|store| store.set_default(keys.as_deref(), &engine))?))
    }
}

/// Protect a version from collection, or not any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pin {
    pub key: Key,
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

impl Request for Pin {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/pin";
    const ABOUT: &'static str = "Protects a version from collection, or no longer.";
    const SHAPE: Shape = Shape {
        request: "`key`, `version`, `pinned`",
        answer: "what came of it, as `pin --json` has it",
    };
    type Answer = Committed<Pinned>;

    fn is_repeatable(&self) -> bool {
        // Of one that is not pinned, it would be said that it wasn't.
        self.pinned
    }

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        let done = place.commit(|store| {
            let changed = match self.pinned {
                true => store.pin(&self.key, self.version)?,
                false => store.unpin(&self.key, self.version)?,
            };
            Ok((Pinned { pin: self.clone(), changed }, Changes::default()))
        });
        Ok(committed(done?))
    }
}

/// Change the other names of engines.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Alias {
    /// Give one to an engine.
    Set { name: String, engine: String },
    /// Take one away.
    Remove { name: String },
    /// Give one to the engine that an artifact was compiled by.
    Learn {
        name: String,
        /// The artifact's section `.wasmtime.engine`.
        section: Vec<u8>,
    },
}

impl Request for Alias {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/alias";
    const ABOUT: &'static str = "Gives an engine an alias, or takes one away.";
    const SHAPE: Shape = Shape {
        request: "`do`: `set` with `name` and `engine`, `remove` with `name`, `learn` with `name` \
                  and `section`, an array of bytes",
        answer: "the engine, as `engines alias --json` has it",
    };
    type Answer = Committed<EngineInfo>;

    fn is_repeatable(&self) -> bool {
        !matches!(self, Alias::Remove { .. })
    }

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        let done = place.commit(|store| match &self {
            Alias::Set { name, engine } => store.alias(name, engine),
            Alias::Remove { name } => store.unalias(name),
            Alias::Learn { name, section } => store.learn(name, section),
        });
        Ok(committed(done?))
    }
}
