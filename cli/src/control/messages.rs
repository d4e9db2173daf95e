//! What commands and the server say to each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use wasmfs_fs::Usage;
use wasmfs_fs::mount::Options;
use wasmfs_store::maintenance::Record;
use wasmfs_store::{Key, Policy, Published, Sha, Store, Version};

use crate::ui::Failure;

/// The version of the protocol.
pub const PROTOCOL: &str = "4";
/// The header that carries it.
pub const PROTOCOL_HEADER: &str = "wasmfs-protocol";

/// What a server says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The store's directory.
    pub store: PathBuf,
    /// Its mounts: at most one attached, and those detached but still in use.
    pub mounts: Vec<MountStatus>,
    /// Who owns the mounts; nobody if it died.
    pub keeper: Option<KeeperStatus>,
    /// Who serves them.
    pub worker: WorkerStatus,
    /// How much of the payloads is in memory, if any mount has it so.
    #[serde(default)]
    pub in_memory: Option<Usage>,
    /// Its log, if it is in the store's directory.
    pub log: Option<PathBuf>,
}

/// The keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeeperStatus {
    /// Its process.
    pub pid: u32,
    /// The version of wasmfs it runs.
    pub version: String,
    /// When it started: RFC 3339, UTC.
    pub since: String,
    /// Why the last reload came to nothing after all, if it did.
    pub reload_failed: Option<String>,
}

/// The worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its process.
    pub pid: u32,
    /// The version of wasmfs it runs.
    pub version: String,
    /// When it started: RFC 3339, UTC.
    pub since: String,
    /// How many workers came before it.
    pub replacements: u64,
    /// How long the last replacement left requests waiting, in milliseconds.
    pub last_pause_ms: Option<f64>,
    /// Its resident memory, in bytes.
    pub resident_bytes: u64,
    /// How many requests of each kind it has answered.
    #[serde(default)]
    pub requests: BTreeMap<String, u64>,
}

impl Status {
    /// Where the store is mounted now.
    pub fn mount_point(self) -> Option<PathBuf> {
        self.mounts.into_iter().find(|mount| mount.attached).map(|mount| mount.mount_point)
    }
}

/// A mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where it is, or was.
    pub mount_point: PathBuf,
    /// Whether it can be found there.
    pub attached: bool,
    /// How it is made.
    #[serde(flatten)]
    pub options: Options,
    /// Its name under `/sys/fs/fuse/connections`.
    pub connection: u32,
}

/// An upload that can be published over the same connection.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// Its number in the connection.
    pub upload: u64,
}

/// Uploads to publish with one commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishRequest {
    /// The uploads.
    pub items: Vec<PublishItem>,
    /// How to publish them.
    #[serde(flatten)]
    pub options: PublishOptions,
}

/// How a batch is published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PublishOptions {
    /// Whether the plain names move to the artifacts' engine.
    #[serde(default)]
    pub default: bool,
    /// The engine they must be of.
    #[serde(default)]
    pub engine: Option<String>,
    /// Whether all go in, or none.
    #[serde(default)]
    pub together: bool,
}

/// An upload to publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishItem {
    /// Under which key.
    pub key: Key,
    /// Which upload.
    pub upload: u64,
    /// The WebAssembly it was compiled from.
    #[serde(default)]
    pub source: Option<SourceItem>,
    /// What compiled it.
    #[serde(default)]
    pub producer: Option<String>,
    /// The version whose source it was compiled from, if that was the store's.
    #[serde(default)]
    pub recompiled_from: Option<Version>,
}

/// The WebAssembly that an upload was compiled from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceItem {
    /// An upload as well.
    Upload(u64),
    /// In the store already.
    Stored(Sha),
}

/// What came of a batch, item by item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishAnswer {
    /// In the order of the request.
    pub results: Vec<std::result::Result<Published, Failure>>,
    /// Whether the kernel knows; if not, it will once a stuck lookup ends.
    pub visible: bool,
}

/// Part of a payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// The bytes, base64; none at its end.
    pub base64: String,
}

/// Some records of the catalogue, as pairs of key and value in base64; none at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordsPage(pub Vec<(String, String)>);

impl RecordsPage {
    /// Records for the wire.
    pub fn of(records: Vec<Record>) -> RecordsPage {
        let encode = |(key, value)| (BASE64.encode(key), BASE64.encode(value));
        RecordsPage(records.into_iter().map(encode).collect())
    }

    /// Records from the wire.
    pub fn records(self) -> Result<Vec<Record>, base64::DecodeError> {
        let decode = |(key, value)| Ok((BASE64.decode(key)?, BASE64.decode(value)?));
        self.0.into_iter().map(decode).collect()
    }
}

/// What to collect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectRequest {
    /// What to leave alone.
    pub policy: AskedPolicy,
    /// The key to go on after.
    pub after: Option<String>,
    /// Whether only to say what would be collected.
    pub dry_run: bool,
}

/// What the user says of a policy; the rest is the store's own.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedPolicy {
    /// How many versions stay.
    #[serde(default)]
    pub keep: Option<u64>,
    /// How long versions stay.
    #[serde(default)]
    pub older_than: Option<Duration>,
}

impl AskedPolicy {
    /// The policy that is meant for a store.
    pub fn of(self, store: &Store) -> wasmfs_store::Result<Policy> {
        let own = store.settings().policy()?.unwrap_or_default();
        Ok(Policy {
            keep: self.keep.unwrap_or(own.keep).max(1),
            older_than: self.older_than.unwrap_or(own.older_than),
        })
    }
}

impl Piece {
    /// The bytes.
    pub fn bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        BASE64.decode(self.base64)
    }
}

/// That a server lets go for its successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Its process.
    pub pid: u32,
    /// How many came before it.
    pub replacements: u64,
}

/// Where to mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountRequest {
    /// An absolute path.
    pub mount_point: PathBuf,
    /// How it is made.
    #[serde(flatten)]
    pub options: Options,
}

/// How much of a payload is sent at a time, in bytes.
const PAYLOAD_PIECE: usize = 1 << 20;

/// The part of a payload from `offset` on.
pub fn piece(store: &Store, sha256: &Sha, offset: u64) -> wasmfs_store::Result<Piece> {
    let bytes = store.read_payload(sha256, offset, PAYLOAD_PIECE)?;
    let bytes = bytes.ok_or(wasmfs_store::Error::NoPayload(*sha256))?;
    Ok(Piece { base64: BASE64.encode(bytes) })
}
