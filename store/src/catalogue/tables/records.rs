//! The records of the catalogue. Values are postcard and stay under 4 KiB.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::layout::{Record, ValueLayout};
use crate::artifact::{ArtifactKind, EngineDescription};
use crate::error::{Error, Result};
use crate::history::{Blocks, Change};
use crate::types::{EngineNumber, FIRST_FREE_INODE, Inode, Sequence, Sha, Version, View};

/// The layout of the records, and of the tables of engines' settings that they were made with; from
/// 2 to 127. [`Applied`] starts alike in every layout: 0, the layout, the sequence number.
pub(super) const LAYOUT: u8 = 4;

/// How much of the history the catalogue holds, and the numbers it gives next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Always 0. The first layout had no number, and what is next in its place, which is
    /// never 0.
    pub mark: u32,
    /// [`LAYOUT`], or the catalogue was written by another wasmfs and is made anew.
    pub layout: u32,
    /// The last sequence number applied; 0 in an empty catalogue.
    pub seq: Sequence,
    /// The length of the history up to and with that line, in bytes.
    pub history_len: u64,
    /// The next inode number to give.
    pub next_inode: Inode,
    /// The next engine number to give.
    pub next_engine: EngineNumber,
}

impl Applied {
    /// Nothing is applied, and every number is to be given.
    pub(crate) const NOTHING: Applied = Applied {
        mark: 0,
        layout: LAYOUT as u32,
        seq: Sequence(0),
        history_len: 0,
        next_inode: FIRST_FREE_INODE,
        next_engine: EngineNumber(1),
    };
}

/// How [`Applied`] is written: a record of another layout is not read.
pub(crate) struct AppliedLayout;

impl ValueLayout for AppliedLayout {
    type Ref<'a> = &'a Applied;
    type Owned = Applied;

    fn write(applied: &Applied) -> Result<Vec<u8>> {
        Record::write(applied)
    }

    fn read(bytes: &[u8]) -> Result<Applied> {
        if !AppliedLayout::is_todays(bytes) {
            return Err(Error::Inconsistent("another version of wasmfs made it".into()));
        }
        Record::read(bytes)
    }
}

impl AppliedLayout {
    /// Whether a record is of this layout, and damaged if it can't be read.
    pub(crate) fn is_todays(bytes: &[u8]) -> bool {
        // The mark and the layout are under 128: a byte each.
        bytes.starts_with(&[0, LAYOUT])
    }

    /// A record of layout 3, which differs from 4 by one table and has the same shape, as it is in
    /// today's layout.
    pub(crate) fn of_layout_3(bytes: &[u8]) -> Result<Option<Applied>> {
        const { assert!(LAYOUT == 4, "what layout 3 lacks is known for layout 4 alone") };
        if !bytes.starts_with(&[0, 3]) {
            return Ok(None);
        }
        let applied: Applied = Record::read(bytes)?;
        Ok(Some(Applied { layout: u32::from(LAYOUT), ..applied }))
    }

    /// The last sequence number applied, whatever the layout.
    pub(crate) fn sequence(bytes: &[u8]) -> Result<Sequence> {
        match bytes.first() {
            Some(0) => Ok(Record::<(u32, u32, Sequence)>::read(bytes)?.2),
            // The first layout starts with it.
            _ => Record::read(bytes),
        }
    }
}

/// What survives of a key even when all its versions are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    /// The engine that the plain name serves.
    pub default_engine: EngineNumber,
    /// The last version number given.
    pub last_version: Version,
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
pub(crate) struct AliasRecord {
    pub engine: EngineNumber,
    /// The inode number of the symbolic link.
    pub inode: Inode,
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
    /// The name that it was published under, from [`Key`](crate::Key).
    pub key: String,
    /// The version number, from 1 for each key.
    pub version: Version,
    /// The sha256 of its bytes, by which they are found.
    pub sha256: Sha,
    /// The payload's size in bytes.
    pub size: u64,
    /// The engine that compiled it.
    pub engine: EngineNumber,
    /// When it was published, in nanoseconds since 1970.
    pub published: u64,
    /// The version whose payload a rollback brought back.
    pub rollback_of: Option<Version>,
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
pub(crate) struct EngineRecord {
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
pub(crate) struct PayloadRecord {
    pub size: u64,
    /// Module or component, compiled or not.
    pub kind: ArtifactKind,
    /// Whether it is kept as chunks inside the catalogue rather than as an object file.
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

impl PayloadRecord {
    /// The change that a payload with these block hashes is durable.
    pub(crate) fn change(&self, sha256: Sha, hashes: &[u8]) -> Change {
        let PayloadRecord { size, kind, inline, large_blocks } = *self;
        let hashes = BASE64.encode(hashes);
        let blocks = if large_blocks { Blocks::Large(hashes) } else { Blocks::Small(hashes) };
        Change::Payload { sha256, size, kind, inline, blocks }
    }
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
