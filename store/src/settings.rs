//! `settings.json`: what a store is, and how its owner wants it; and
//! `state.json`: whether its catalogue can be trusted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::catalogue::sync_dir;
use crate::error::{Error, IoContext, Result};
use crate::gc::collect::Policy;

/// The format that this crate writes, and the newest it reads. It reads 1 as well, which has no
/// payloads with blocks of 32 KiB: a store is of format 2 from the first such payload on, so that
/// programs which don't know them leave it alone.
pub const FORMAT: u64 = 2;
/// Payloads up to this size, in bytes, are kept inside sled unless the store's settings say otherwise.
pub const DEFAULT_INLINE_LIMIT: u64 = 16 << 10;

/// The largest payload that is kept inside sled. Larger ones are object files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InlineLimit {
    /// So many bytes; 0 keeps nothing inside.
    Bytes(u64),
    /// Everything inside sled: `"unlimited"`.
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
    /// Everything inside sled.
    pub const UNLIMITED: InlineLimit = InlineLimit::Unlimited(Unlimited::Unlimited);

    pub(crate) fn admits(self, size: u64) -> bool {
        match self {
            InlineLimit::Bytes(limit) => size <= limit,
            InlineLimit::Unlimited(_) => true,
        }
    }
}

/// `settings.json`: what a store is, and how its owner wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The store's format.
    pub format: u64,
    /// The largest payload kept inside sled.
    #[serde(default = "default_inline_limit")]
    pub inline_limit: InlineLimit,
    /// What is collected by itself while the store is mounted and nothing happens; by default nothing.
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
        Settings { format: FORMAT, inline_limit: default_inline_limit(), collect: None }
    }
}

/// `state.json`: whether sled can be trusted when the store opens next.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    /// The machine's run that wrote this; nothing while sled is not to be trusted.
    pub(crate) boot_id: Option<String>,
    /// Whether sled was closed and synced.
    pub(crate) closed: bool,
}

impl State {
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot_id.is_some() && self.boot_id == boot_id()
    }
}

/// What tells this run of the machine from others (random(4)).
pub(crate) fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

pub(crate) fn read_settings(path: &Path) -> Result<Settings> {
    let text = fs::read(path).at("reading", path)?;
    // The format first: a newer one may have settings that this build can't read.
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let invalid = |source| Error::Settings { path: path.to_owned(), source };
    let Format { format } = serde_json::from_slice(&text).map_err(invalid)?;
    if format > FORMAT {
        return Ok(Settings { format, ..Settings::default() });
    }
    serde_json::from_slice(&text).map_err(invalid)
}

/// Has the settings in `path` say that the store is of this build's format. The rest stays as its
/// owner wrote it.
pub(crate) fn raise_format(path: &Path) -> Result<()> {
    let invalid = |source| Error::Settings { path: path.to_owned(), source };
    let text = fs::read(path).at("reading", path)?;
    let mut settings: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(invalid)?;
    if settings.get("format").and_then(serde_json::Value::as_u64).is_some_and(|f| f < FORMAT) {
        settings.insert("format".into(), FORMAT.into());
        write_json(path, &settings)?;
    }
    Ok(())
}

pub(crate) fn read_state(path: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a small file so that a crash leaves the old one or the new.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Settings { path: path.to_owned(), source })?;
    text.push(b'\n');
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .at("writing", &new)?;
    fs::rename(&new, path).at("renaming", &new)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}
