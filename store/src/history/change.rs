//! What a line of the history says.

use serde::{Deserialize, Deserializer, Serialize};

use crate::artifact::{ArtifactKind, EngineDescription};
use crate::types::{EngineNumber, Inode, Sequence, Sha, Version, View};

/// One committed change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogEntry {
    /// Counts from 1, without gaps.
    pub seq: Sequence,
    /// The last sequence number known to be on disk when this was written.
    pub after: Sequence,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// What was changed.
    #[serde(flatten)]
    pub change: Change,
}

/// What a line of the history says. It gives every number that was decided, so
/// that applying it again gives the same catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Change {
    /// The store was made.
    Create,
    /// An engine was seen for the first time.
    Engine {
        /// Its number in this store.
        number: EngineNumber,
        /// The inode number of its directory in the mount.
        inode: Inode,
        /// Its name in the mount.
        label: String,
        /// What its artifacts say of it.
        description: EngineDescription,
        /// The section of its artifacts that says so, base64.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        section: String,
        /// In a snapshot: what compiled the last of its versions of which that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        producer: Option<String>,
        /// In a snapshot: when a version of it was last published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_publish: Option<u64>,
    },
    /// An engine got another name in the mount.
    Alias {
        name: String,
        engine: EngineNumber,
        /// The inode number of the symbolic link.
        inode: Inode,
        /// The engine that had the name before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<EngineNumber>,
    },
    /// Such a name was taken away.
    Unalias {
        name: String,
        /// The engine that had it.
        engine: EngineNumber,
    },
    /// The bytes of an artifact, or of a source, are durable.
    Payload {
        sha256: Sha,
        size: u64,
        /// Module or component, compiled or not.
        kind: ArtifactKind,
        /// Whether it is kept inside the catalogue.
        inline: bool,
        /// The hashes of its blocks.
        #[serde(flatten)]
        blocks: Blocks,
    },
    /// A version of a key.
    Publish {
        key: String,
        version: Version,
        /// The version's inode number.
        inode: Inode,
        sha256: Sha,
        engine: EngineNumber,
        /// Whether the plain name moves to this engine.
        default: bool,
        /// The version whose payload a rollback brings back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollback_of: Option<Version>,
        /// Directories that get their inode number here.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        directories: Vec<NewDirectory>,
    },
    /// Where the bytes of a version come from, as far as it is known.
    Origin {
        key: String,
        version: Version,
        /// The payload that is the WebAssembly it was compiled from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Sha>,
        /// What compiled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        producer: Option<String>,
    },
    /// Names were taken away.
    Remove {
        key: String,
        /// One version, or all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
    },
    /// Plain names moved to another engine.
    Default {
        #[serde(alias = "key", deserialize_with = "one_or_many")]
        keys: Vec<String>,
        engine: EngineNumber,
    },
    /// A version was protected from collection.
    Pin { key: String, version: Version },
    /// It isn't any more.
    Unpin { key: String, version: Version },
    /// Versions and payloads that nothing needs were collected.
    Collect {
        /// Versions: names, numbers, and all.
        versions: Vec<CollectedVersion>,
        /// Payloads.
        payloads: Vec<Sha>,
    },
    /// The first line of a compacted history: what follows, up to
    /// [`Change::SnapshotEnd`], is what all the lines before came to.
    Snapshot {
        /// The last line that it stands for.
        before: Sequence,
        /// The next inode number to give.
        next_inode: Inode,
        /// The next engine number to give.
        next_engine: EngineNumber,
    },
    /// In a snapshot: a directory.
    Directory {
        #[serde(flatten)]
        directory: NewDirectory,
    },
    /// In a snapshot: a symbolic link that was made at the line's time.
    Link { inode: Inode, target: String },
    /// In a snapshot: a key. Its versions follow.
    Key {
        key: String,
        /// The engine that the plain name serves.
        default: EngineNumber,
        /// The last version number given.
        last_version: Version,
    },
    /// In a snapshot: a version that was published at the line's time.
    Version {
        key: String,
        version: Version,
        inode: Inode,
        sha256: Sha,
        /// The payload's size in bytes.
        size: u64,
        engine: EngineNumber,
        /// The version whose payload a rollback brought back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollback_of: Option<Version>,
        /// When its names were taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        removed: Option<u64>,
        /// Whether it is protected from collection.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pinned: bool,
        /// The payload that is the WebAssembly it was compiled from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Sha>,
        /// What compiled it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        producer: Option<String>,
    },
    /// The last line of a snapshot.
    SnapshotEnd {
        /// The last line that the snapshot stands for.
        before: Sequence,
    },
}

/// sha256 of each block of a payload, in order, base64. A line has one of these, or can't be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Blocks {
    /// Blocks of 32 KiB; from format 2 on.
    #[serde(rename = "blocks32k")]
    Small(String),
    /// Blocks of 128 KiB, as they once were.
    #[serde(rename = "blocks")]
    Large(String),
}

/// A version that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CollectedVersion {
    pub key: String,
    pub version: Version,
    pub inode: Inode,
}

/// A list, or the one name that stood in its place.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Names::deserialize(from)? {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    })
}

/// A directory that gets its inode number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NewDirectory {
    /// The view it belongs to.
    pub view: View,
    /// Its path in the view.
    pub path: String,
    /// Its inode number, for ever.
    pub inode: Inode,
}

impl LogEntry {
    /// Whether it is the first line of a compacted history.
    pub(super) fn starts_snapshot(&self) -> bool {
        matches!(self.change, Change::Snapshot { before, .. } if self.seq == before.next())
    }
}
