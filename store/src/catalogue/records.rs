//! The catalogue's records and the sled keys they live under.
//!
//! One sled tree holds them all, so that a commit is one atomic batch. The
//! first byte of a key says what it is:
//!
//! | key | value |
//! | --- | --- |
//! | `m` | [`Applied`]: how much of the history is in here, and the next numbers to give |
//! | `k` key | [`KeyRecord`] |
//! | `w` key NUL version | the version's inode number |
//! | `i` inode | [`InodeRecord`] |
//! | `d` view path | the directory's inode number, for ever |
//! | `n` view name | the inode a live name of the view leads to |
//! | `e` number | [`EngineRecord`] |
//! | `l` label, `f` fingerprint | the engine's number |
//! | `s` number index | 4,000 bytes of the engine's section `.wasmtime.engine` |
//! | `a` name | [`AliasRecord`] |
//! | `p` sha256 | [`PayloadRecord`] |
//! | `b` sha256 index | 127 block hashes |
//! | `c` sha256 index | 4 KiB of a payload kept inside sled |
//! | `r` sha256 inode | nothing: that version is, or was compiled from, that payload |
//!
//! Numbers are big-endian, so that the order of keys is theirs. How records share
//! those of sled is in [`super::packed`]. Values are postcard and stay under 4 KiB: sled 0.34 moves values over some 8 KiB to files that
//! it neither syncs nor reclaims.

use serde::{Deserialize, Serialize};

use crate::artifact::engine::EngineDescription;
use crate::artifact::inspect::ArtifactKind;
use crate::types::sha::Sha;

/// A number given to each engine of a store, from 1.
pub type EngineNumber = u32;

/// One of the trees of names that the mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum View {
    /// The root: each key leads to the newest version of its default engine.
    Keys,
    /// `.wasmfs/versions`: each key is a directory of its versions.
    Versions,
    /// `.wasmfs/engines/LABEL`: each key leads to that engine's newest version.
    Engine(EngineNumber),
}

impl View {
    fn prefix(self, tag: u8) -> Vec<u8> {
        match self {
            View::Keys => vec![tag, b'k'],
            View::Versions => vec![tag, b'v'],
            View::Engine(number) => [&[tag, b'e'][..], &number.to_be_bytes()].concat(),
        }
    }
}

/// The layout of the records, and of the tables of engines' settings that they were made
/// with; from 2 to 127. [`Applied`] starts alike in every layout: 0, the layout, the sequence number.
pub const LAYOUT: u32 = 3;

/// How much of the history the catalogue holds, and the numbers it gives next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Always 0. The first layout had no number, and what is next in its place, which is
    /// never 0.
    pub mark: u32,
    /// [`LAYOUT`], or the catalogue was written by another wasmfs and is made anew.
    pub layout: u32,
    /// The last sequence number applied; 0 in an empty catalogue.
    pub seq: u64,
    /// The length of the history up to and with that line, in bytes.
    pub history_len: u64,
    /// The next inode number to give.
    pub next_inode: u64,
    /// The next engine number to give.
    pub next_engine: EngineNumber,
}

/// What survives of a key even when all its versions are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The engine that the plain name serves.
    pub default_engine: EngineNumber,
    /// The last version number given.
    pub last_version: u64,
}

/// What an inode number means, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InodeRecord {
    /// A directory of a view.
    Directory(DirectoryRecord),
    /// A version of a key.
    Version(VersionRecord),
    /// Another name of an engine: a symbolic link.
    Alias(LinkRecord),
}

/// A symbolic link beside the engines' directories. It leads to the same for ever:
/// a name that moves to another engine gets another link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The label it leads to.
    pub target: String,
    /// When it was made, in nanoseconds since 1970.
    pub made: u64,
}

/// What another name of an engine means now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    /// The engine.
    pub engine: EngineNumber,
    /// The inode number of the symbolic link.
    pub inode: u64,
}

/// A directory of a view; it shows as long as a live name is under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryRecord {
    /// The view it belongs to.
    pub view: View,
    /// Its path in the view; `""` is the view's root.
    pub path: String,
    /// When a name in it last changed, in nanoseconds since 1970.
    pub mtime: u64,
}

/// One publish of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The key.
    pub key: String,
    /// The version number, from 1 for each key.
    pub version: u64,
    /// The payload.
    pub sha256: Sha,
    /// The payload's size in bytes.
    pub size: u64,
    /// The engine that compiled it.
    pub engine: EngineNumber,
    /// When it was published, in nanoseconds since 1970.
    pub published: u64,
    /// The version whose payload a rollback brought back.
    pub rollback_of: Option<u64>,
    /// When its names were taken away, in nanoseconds since 1970, if they were.
    pub removed: Option<u64>,
    /// Whether it is protected from collection.
    pub pinned: bool,
    /// The payload that is the WebAssembly it was compiled from.
    pub source: Option<Sha>,
    /// What compiled it.
    pub producer: Option<String>,
}

/// An engine of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// Its name in the mount.
    pub label: String,
    /// What its artifacts say of it.
    pub description: EngineDescription,
    /// What compiled the last of its versions of which that is known.
    pub producer: Option<String>,
    /// When a version of it was last published, in nanoseconds since 1970; 0 for never.
    pub last_publish: u64,
}

/// A payload, stored once however many versions have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredPayload", into = "StoredPayload")]
pub struct PayloadRecord {
    /// Its size in bytes.
    pub size: u64,
    /// Module or component, compiled or not.
    pub kind: ArtifactKind,
    /// Whether it is kept as chunks inside sled rather than as an object file.
    pub inline: bool,
    /// Whether the blocks that have a sha256 each are of 128 KiB, as they once were, not of 32.
    pub large_blocks: bool,
}

/// A [`PayloadRecord`] as it is kept.
#[derive(Serialize, Deserialize)]
struct StoredPayload {
    size: u64,
    kind: ArtifactKind,
    /// [`INLINE`] and [`SMALL_BLOCKS`].
    flags: u8,
}

const INLINE: u8 = 1;
/// Not set in records of format 1.
const SMALL_BLOCKS: u8 = 2;

impl From<StoredPayload> for PayloadRecord {
    fn from(stored: StoredPayload) -> PayloadRecord {
        let StoredPayload { size, kind, flags } = stored;
        let (inline, large_blocks) = (flags & INLINE != 0, flags & SMALL_BLOCKS == 0);
        PayloadRecord { size, kind, inline, large_blocks }
    }
}

impl From<PayloadRecord> for StoredPayload {
    fn from(record: PayloadRecord) -> StoredPayload {
        let PayloadRecord { size, kind, inline, large_blocks } = record;
        let inline = if inline { INLINE } else { 0 };
        let flags = inline | if large_blocks { 0 } else { SMALL_BLOCKS };
        StoredPayload { size, kind, flags }
    }
}

pub(crate) const APPLIED: &[u8] = b"m";

pub(crate) fn key_key(key: &str) -> Vec<u8> {
    [b"k", key.as_bytes()].concat()
}

pub(crate) fn versions_prefix(key: &str) -> Vec<u8> {
    [b"w", key.as_bytes(), b"\0"].concat()
}

pub(crate) fn version_key(key: &str, version: u64) -> Vec<u8> {
    [&versions_prefix(key)[..], &version.to_be_bytes()].concat()
}

pub(crate) fn inode_key(inode: u64) -> Vec<u8> {
    [&b"i"[..], &inode.to_be_bytes()].concat()
}

pub(crate) fn directory_key(view: View, path: &str) -> Vec<u8> {
    [&view.prefix(b'd')[..], path.as_bytes()].concat()
}

/// The names of a view that start with `start`.
pub(crate) fn names_prefix(view: View, start: &str) -> Vec<u8> {
    [&view.prefix(b'n')[..], start.as_bytes()].concat()
}

/// A live name. In the view of versions a name is the key, `/`, NUL and the
/// version: so all that is under a path starts with the path and `/`, whether
/// it is a key's directory or one of a key's.
pub(crate) fn name_key(view: View, key: &str, version: u64) -> Vec<u8> {
    let mut name = names_prefix(view, key);
    if view == View::Versions {
        name.extend_from_slice(b"/\0");
        name.extend_from_slice(&version.to_be_bytes());
    }
    name
}

pub(crate) fn engine_key(number: EngineNumber) -> Vec<u8> {
    [&b"e"[..], &number.to_be_bytes()].concat()
}

pub(crate) fn engines_prefix() -> Vec<u8> {
    b"e".to_vec()
}

pub(crate) fn label_key(label: &str) -> Vec<u8> {
    [b"l", label.as_bytes()].concat()
}

pub(crate) fn fingerprint_key(fingerprint: &Sha) -> Vec<u8> {
    [&b"f"[..], &fingerprint.0].concat()
}

/// Bytes of an engine's section in one record.
pub(crate) const SECTION_PIECE: usize = 4000;

pub(crate) fn section_prefix(number: EngineNumber) -> Vec<u8> {
    [&b"s"[..], &number.to_be_bytes()].concat()
}

pub(crate) fn section_key(number: EngineNumber, index: u32) -> Vec<u8> {
    [&section_prefix(number)[..], &index.to_be_bytes()].concat()
}

pub(crate) fn aliases_prefix() -> Vec<u8> {
    b"a".to_vec()
}

pub(crate) fn alias_key(name: &str) -> Vec<u8> {
    [&aliases_prefix()[..], name.as_bytes()].concat()
}

pub(crate) fn payload_key(sha256: &Sha) -> Vec<u8> {
    [&b"p"[..], &sha256.0].concat()
}

pub(crate) fn blocks_key(sha256: &Sha, index: u32) -> Vec<u8> {
    [&b"b"[..], &sha256.0, &index.to_be_bytes()].concat()
}

pub(crate) fn blocks_prefix(sha256: &Sha) -> Vec<u8> {
    [&b"b"[..], &sha256.0].concat()
}

pub(crate) fn chunks_prefix(sha256: &Sha) -> Vec<u8> {
    [&b"c"[..], &sha256.0].concat()
}

/// The versions that need a payload.
pub(crate) fn users_prefix(sha256: &Sha) -> Vec<u8> {
    [&b"r"[..], &sha256.0].concat()
}

pub(crate) fn user_key(sha256: &Sha, inode: u64) -> Vec<u8> {
    [&users_prefix(sha256)[..], &inode.to_be_bytes()].concat()
}

pub(crate) fn chunk_key(sha256: &Sha, index: u32) -> Vec<u8> {
    [&b"c"[..], &sha256.0, &index.to_be_bytes()].concat()
}
