//! What is collected, and what is kept.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wasmfs_fs::gc::{Collection, Kept, Tidied};
use wasmfs_store::{Key, Policy, Store};

use crate::control::place::Place;
use crate::control::request::{Method, Request, Shape};

/// What the user says of a policy; the rest is the store's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedPolicy {
    /// How many versions stay.
    pub keep: Option<u64>,
    /// How long versions stay.
    pub older_than: Option<Duration>,
}

impl AskedPolicy {
    /// As a request has it.
    fn told(keep: Option<u64>, older_than_ms: Option<u64>) -> AskedPolicy {
        AskedPolicy { keep, older_than: older_than_ms.map(Duration::from_millis) }
    }

    /// The age in whole milliseconds, as a request has it.
    fn older_than_ms(self) -> Option<u64> {
        self.older_than.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    /// The policy that is meant for a store.
    fn of(self, store: &Store) -> wasmfs_store::Result<Policy> {
        let own = store.settings().policy()?.unwrap_or_default();
        Ok(Policy {
            keep: self.keep.unwrap_or(own.keep).max(1),
            older_than: self.older_than.unwrap_or(own.older_than),
        })
    }
}

/// Give up what nobody needs, of some keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Collect {
    /// How many versions stay.
    #[serde(default)]
    pub keep: Option<u64>,
    /// How long versions stay, in milliseconds.
    #[serde(default)]
    pub older_than_ms: Option<u64>,
    /// The key to go on after.
    #[serde(default)]
    pub after: Option<String>,
    /// Whether only to say what would be collected.
    #[serde(default)]
    pub dry_run: bool,
}

impl Collect {
    /// From the first key on.
    pub fn new(policy: AskedPolicy, dry_run: bool) -> Collect {
        let older_than_ms = policy.older_than_ms();
        Collect { keep: policy.keep, older_than_ms, after: None, dry_run }
    }
}

impl Request for Collect {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/collect";
    const ABOUT: &'static str = "Gives up versions that nobody needs, of some keys.";
    const SHAPE: Shape = Shape {
        request: "`keep`, `older_than_ms`, `after`: the `next` of the answer before, `dry_run`",
        answer: "what was given up, what is in use, and `next`",
    };
    type Answer = Collection;

    fn is_repeatable(&self) -> bool {
        true
    }

    fn handle(self, place: &Place<'_>) -> Result<Collection> {
        let policy = AskedPolicy::told(self.keep, self.older_than_ms).of(place.store())?;
        Ok(place.collect(&policy, self.after.as_deref(), self.dry_run)?)
    }
}

/// Remove what no version has, and compact what is due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tidy {}

impl Request for Tidy {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/tidy";
    const ABOUT: &'static str = "Removes what no version has, and compacts history and catalogue.";
    const SHAPE: Shape = Shape { request: "`{}`", answer: "what was removed and compacted" };
    type Answer = Tidied;

    fn is_repeatable(&self) -> bool {
        true
    }

    fn handle(self, place: &Place<'_>) -> Result<Tidied> {
        Ok(place.tidy()?)
    }
}

/// What keeps each version of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fates {
    pub key: Key,
    /// How many versions stay.
    #[serde(default)]
    pub keep: Option<u64>,
    /// How long versions stay, in milliseconds.
    #[serde(default)]
    pub older_than_ms: Option<u64>,
}

impl Fates {
    /// By a policy.
    pub fn new(key: Key, policy: AskedPolicy) -> Fates {
        Fates { key, keep: policy.keep, older_than_ms: policy.older_than_ms() }
    }
}

impl Request for Fates {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/fates";
    const ABOUT: &'static str = "What keeps each version of a key.";
    const SHAPE: Shape = Shape {
        request: "`key`, `keep`, `older_than_ms`",
        answer: "versions, as `gc --why --json` has them",
    };
    type Answer = Vec<Kept>;

    fn handle(self, place: &Place<'_>) -> Result<Vec<Kept>> {
        let policy = AskedPolicy::told(self.keep, self.older_than_ms).of(place.store())?;
        Ok(place.fates(&self.key, &policy)?)
    }
}
