//! What a store is asked.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wasmfs_store::maintenance::{Live, Record};
use wasmfs_store::{
    EngineInfo, Error as StoreError, Key, KeyInfo, MAX_PAGE, Page, Sha, Version, VersionInfo,
};

use crate::control::place::Place;
use crate::control::request::{Method, Raw, Request, Shape};
use crate::ui::Error;

/// How much of a payload is answered at a time, in bytes.
const PAYLOAD_PIECE: usize = 1 << 20;

/// Keys, with what is served at them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Keys {
    /// How their names start.
    #[serde(default)]
    pub prefix: String,
    /// The key that they come after.
    #[serde(default)]
    pub after: Option<Key>,
}

impl Request for Keys {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/keys";
    const ABOUT: &'static str = "Some keys, in order.";
    const SHAPE: Shape = Shape {
        request: "`prefix`, `after`: a key",
        answer: "a page of keys, as `ls --json` has them",
    };
    type Answer = Page<KeyInfo, Key>;

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        Ok(place.store().keys_page(&self.prefix, self.after.as_ref(), MAX_PAGE)?)
    }
}

/// One key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyOf {
    pub key: Key,
}

impl Request for KeyOf {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/key";
    const ABOUT: &'static str = "One key.";
    const SHAPE: Shape = Shape { request: "`key`", answer: "a key, as `ls --json` has it" };
    type Answer = KeyInfo;

    fn handle(self, place: &Place<'_>) -> Result<KeyInfo> {
        Ok(place.store().key(&self.key)?)
    }
}

/// The versions of a key, removed ones included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Versions {
    pub key: Key,
    /// The version that they come before.
    #[serde(default)]
    pub before: Option<Version>,
    /// How many at most.
    #[serde(default)]
    pub limit: Option<usize>,
}

impl Request for Versions {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/versions";
    const ABOUT: &'static str = "Some versions of a key, newest first, removed ones included.";
    const SHAPE: Shape = Shape {
        request: "`key`, `before`: a version, `limit`",
        answer: "a page of versions, as `log --json` has them",
    };
    type Answer = Page<VersionInfo, Version>;

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        let limit = self.limit.unwrap_or(MAX_PAGE);
        Ok(place.store().versions_page(&self.key, self.before, limit)?)
    }
}

/// One version of a key, or the one that its plain name serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionAt {
    pub key: Key,
    #[serde(default)]
    pub version: Option<Version>,
}

impl Request for VersionAt {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/version";
    const ABOUT: &'static str =
        "One version; without `version` the one that the plain name serves.";
    const SHAPE: Shape =
        Shape { request: "`key`, `version`", answer: "a version, as `show --json` has it" };
    type Answer = VersionInfo;

    fn handle(self, place: &Place<'_>) -> Result<VersionInfo> {
        Ok(place.store().version(&self.key, self.version)?)
    }
}

/// The last versions that were published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latest {
    /// How many.
    #[serde(default = "latest")]
    pub limit: usize,
}

fn latest() -> usize {
    100
}

impl Request for Latest {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/latest";
    const ABOUT: &'static str =
        "The versions of the whole store that were published last, newest first.";
    const SHAPE: Shape = Shape {
        request: "`limit`: 100, at most 1000",
        answer: "versions, as `log --json` has them",
    };
    type Answer = Vec<VersionInfo>;

    fn handle(self, place: &Place<'_>) -> Result<Vec<VersionInfo>> {
        Ok(place.store().latest(self.limit)?)
    }
}

/// Every engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engines {}

impl Request for Engines {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/engines";
    const ABOUT: &'static str = "Every engine, in the order they came to the store.";
    const SHAPE: Shape = Shape { request: "", answer: "engines, as `engines --json` has them" };
    type Answer = Vec<EngineInfo>;

    fn handle(self, place: &Place<'_>) -> Result<Vec<EngineInfo>> {
        Ok(place.store().engines()?)
    }
}

/// The engine that a name means.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    /// An alias, a label, or the start of a fingerprint.
    pub name: String,
}

impl Request for Engine {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/engine";
    const ABOUT: &'static str =
        "The engine that an alias, a label or the start of a fingerprint means.";
    const SHAPE: Shape =
        Shape { request: "`name`", answer: "an engine, as `engines --json` has it" };
    type Answer = EngineInfo;

    fn handle(self, place: &Place<'_>) -> Result<EngineInfo> {
        Ok(place.store().engine(&self.name)?)
    }
}

/// Part of a payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    pub sha256: Sha,
    /// Where the part begins, in bytes.
    #[serde(default)]
    pub offset: u64,
}

impl Request for Payload {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/payload";
    const ABOUT: &'static str = "Up to 1 MiB of a payload, checked; nothing at its end.";
    const SHAPE: Shape = Shape { request: "`sha256`, `offset`", answer: "the bytes" };
    type Answer = Raw;

    fn handle(self, place: &Place<'_>) -> Result<Raw> {
        let bytes = place.store().read_payload(&self.sha256, self.offset, PAYLOAD_PIECE)?;
        Ok(Raw(bytes.ok_or(StoreError::NoPayload(self.sha256))?))
    }
}

/// The versions that have a payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Users {
    pub sha256: Sha,
}

impl Request for Users {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/users";
    const ABOUT: &'static str = "The versions that are, or were compiled from, a payload.";
    const SHAPE: Shape = Shape { request: "`sha256`", answer: "pairs of key and version" };
    type Answer = Vec<(Key, Version)>;

    fn handle(self, place: &Place<'_>) -> Result<Self::Answer> {
        Ok(place.store().users(&self.sha256)?)
    }
}

/// Records of the catalogue, for `verify`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Records {
    /// The key in the database that they come after, in hexadecimal digits.
    #[serde(default)]
    pub after: Option<String>,
}

impl Records {
    /// The records after a key of the database.
    pub fn after(key: Option<&[u8]>) -> Records {
        let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect();
        Records { after: key.map(hex) }
    }
}

impl Request for Records {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/records";
    const ABOUT: &'static str = "Some records of the catalogue, in order; none at the end.";
    const SHAPE: Shape = Shape {
        request: "`after`: a key of the catalogue, in hexadecimal digits",
        answer: "for each record the lengths of key and value, little-endian in 4 bytes, and both",
    };
    type Answer = Raw;

    fn handle(self, place: &Place<'_>) -> Result<Raw> {
        let after = self.after.as_deref().map(from_hex).transpose()?;
        let mut bytes = Vec::new();
        for (key, value) in place.store().page(after.as_deref())? {
            for part in [&key, &value] {
                bytes.extend(u32::try_from(part.len())?.to_le_bytes());
            }
            bytes.extend(key);
            bytes.extend(value);
        }
        Ok(Raw(bytes))
    }
}

/// The records of an answer to [`Records`].
pub fn read_records(Raw(bytes): &Raw) -> Result<Vec<Record>> {
    let mut rest = &bytes[..];
    let mut take = |len: usize| -> Result<Vec<u8>> {
        let cut = || Error::Malformed { what: "answer", reason: "a record is cut short".into() };
        let (part, after) = rest.split_at_checked(len).ok_or_else(cut)?;
        rest = after;
        Ok(part.to_vec())
    };
    let mut records = Vec::new();
    let mut left = bytes.len();
    while left > 0 {
        let mut length = || -> Result<usize> {
            let bytes: [u8; 4] = take(4)?.try_into().unwrap_or_default();
            Ok(usize::try_from(u32::from_le_bytes(bytes))?)
        };
        let (key, value) = (length()?, length()?);
        records.push((take(key)?, take(value)?));
        left = left.saturating_sub(8 + key + value);
    }
    Ok(records)
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(digits).collect();
    Ok(bytes.ok_or_else(|| {
        let reason = format!("after={text} is not hexadecimal");
        Error::Malformed { what: "request", reason }
    })?)
}
