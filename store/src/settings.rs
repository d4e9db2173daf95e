//! `settings.json`: what a store is, and how its owner wants it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::Dir;
use crate::disk::names::SETTINGS;
use crate::error::{Error, Result};

/// The format that this crate writes, and the newest it reads. It reads 1 as well, which has no
/// payloads with blocks of 32 KiB: a store is of format 2 from the first such payload on, so that
/// programs which don't know them leave it alone.
pub const FORMAT: u64 = 2;
/// The longest `settings.json` that is looked at, in bytes. Nobody writes a longer one by hand.
pub(crate) const MAX_SETTINGS: u64 = 1 << 20;
/// Payloads up to this size, in bytes, are kept inside the catalogue unless the store's settings
/// say otherwise.
pub const DEFAULT_INLINE_LIMIT: u64 = 16 << 10;

/// The largest payload that is kept inside the catalogue. Larger ones are object files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InlineLimit {
    /// So many bytes; 0 keeps nothing inside.
    Bytes(u64),
    /// Everything inside the catalogue: `"unlimited"`.
    Unlimited(Unlimited),
}

/// The word `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlimited {
    /// `"unlimited"`
    Unlimited,
}

impl InlineLimit {
    /// Everything inside the catalogue.
    pub const UNLIMITED: InlineLimit = InlineLimit::Unlimited(Unlimited::Unlimited);

    /// In bytes.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            InlineLimit::Bytes(limit) => limit,
            InlineLimit::Unlimited(_) => u64::MAX,
        }
    }
}

/// The word `store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Magic {
    /// `"store"`
    Store,
}

fn magic() -> Magic {
    Magic::Store
}

/// Whether the text of a `settings.json` says that it is a store's: `"wasmfs": "store"`.
pub(crate) fn says_store(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Said {
        #[expect(dead_code, reason = "that it is there is what counts")]
        wasmfs: Magic,
    }
    serde_json::from_slice::<Said>(text).is_ok()
}

/// `settings.json`: what a store is, and how its owner wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What tells a store from any other directory that has a file of this name.
    #[serde(default = "magic", rename = "wasmfs")]
    pub magic: Magic,
    /// The store's format.
    pub format: u64,
    /// The largest payload kept inside the catalogue.
    #[serde(default = "default_inline_limit")]
    pub inline_limit: InlineLimit,
    /// What is collected by itself while the store is mounted and nothing happens; by default
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<serde_json::Value>,
}

impl Settings {
    /// What is collected by itself. A policy that can't be read keeps nobody from being served,
    /// but is none to collect by.
    pub fn policy(&self) -> Result<Option<Policy>> {
        let Some(collect) = &self.collect else { return Ok(None) };
        serde_json::from_value(collect.clone()).map(Some).map_err(|source| Error::Settings {
            path: "\"collect\" in settings.json".into(),
            source,
        })
    }
}

fn default_inline_limit() -> InlineLimit {
    InlineLimit::Bytes(DEFAULT_INLINE_LIMIT)
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            magic: Magic::Store,
            format: FORMAT,
            inline_limit: default_inline_limit(),
            collect: None,
        }
    }
}

/// The settings of the store in `dir`.
pub(crate) fn read_settings(dir: &Dir) -> Result<Settings> {
    let text = dir.read(SETTINGS)?;
    // The format first: a newer one may have settings that this build can't read.
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let invalid = |source| Error::Settings { path: dir.named(SETTINGS), source };
    let Format { format } = serde_json::from_slice(&text).map_err(invalid)?;
    if format > FORMAT {
        return Ok(Settings { format, ..Settings::default() });
    }
    serde_json::from_slice(&text).map_err(invalid)
}

/// Has the settings of the store in `dir` say that it is of this build's format. The rest stays as
/// its owner wrote it.
pub(crate) fn raise_format(dir: &Dir) -> Result<()> {
    amend(dir, |settings| {
        let format = settings.get("format").and_then(serde_json::Value::as_u64);
        let is_older = format.is_some_and(|format| format < FORMAT);
        if is_older {
            settings.insert("format".into(), FORMAT.into());
        }
        is_older
    })
}

/// Has the settings of the store in `dir` say that they are a store's: older ones don't.
pub(crate) fn say_store(dir: &Dir) -> Result<()> {
    amend(dir, |settings| {
        let is_new = !settings.contains_key("wasmfs");
        if is_new {
            settings.insert("wasmfs".into(), "store".into());
        }
        is_new
    })
}

fn amend(
    dir: &Dir,
    change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>) -> bool,
) -> Result<()> {
    let invalid = |source| Error::Settings { path: dir.named(SETTINGS), source };
    let mut settings = serde_json::from_slice(&dir.read(SETTINGS)?).map_err(invalid)?;
    if change(&mut settings) {
        dir.write_json(SETTINGS, &settings)?;
    }
    Ok(())
}

/// What collection leaves alone, though nobody uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many versions of each key and engine stay, the newest included; at least 1.
    #[serde(default = "one")]
    pub keep: u64,
    /// How long a version stays after a newer one came or its names were taken away.
    #[serde(default, with = "duration")]
    pub older_than: Duration,
}

fn one() -> u64 {
    1
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { keep: one(), older_than: Duration::ZERO }
    }
}

/// Durations as people write them: `30d`, `12h 30m`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
