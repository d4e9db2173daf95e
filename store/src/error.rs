//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{Difference, NotAnArtifact};
use crate::types::{InvalidKey, Key, Sha, Version};

/// What can go wrong in a store. Messages say what was wrong; what to do next
/// is added by whoever talks to the user. The name of a variant is its code, so it stays.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of a variant says what its fields are")]
pub enum Error {
    /// A system call on a file of the store failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted, as a present participle ("writing").
        action: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Reading the bytes to publish failed on the caller's side.
    #[error("reading the artifact")]
    #[strum(serialize = "unreadable-input")]
    Input(#[source] io::Error),
    /// Writing an archive failed on the caller's side.
    #[error("writing the archive")]
    #[strum(serialize = "unwritable-output")]
    Output(#[source] io::Error),
    /// What should be an archive of a store is not, or not all of one.
    #[error("this is not a complete archive of a store: {0}")]
    NotAnArchive(String),
    /// The archive was written by a newer wasmfs.
    #[error("the archive has format {found}; this wasmfs reads formats up to {supported}")]
    NewerArchive { found: u64, supported: u64 },
    /// An archive ends before its history, which is last.
    #[error("this is not a complete archive of a store: it is cut short")]
    ArchiveCutShort,
    /// The store went on changing while it was exported.
    #[error("the store changed under the export, again and again")]
    ChangedUnderExport,
    /// A store that should be empty has something in it.
    #[error("the store {} is not empty", .0.display())]
    StoreNotEmpty(PathBuf),
    /// Another process owns the store.
    #[error("the store {} is in use by process {}", dir.display(), pid.map_or("(unknown)".to_string(), |p| p.to_string()))]
    InUse {
        dir: PathBuf,
        /// The owner, if it has written its number yet.
        pid: Option<u32>,
    },
    /// There is no store at this path, and none was to be created.
    #[error("there is no store at {}", .0.display())]
    NoStore(PathBuf),
    /// The directory holds something else.
    #[error("{} is not a wasmfs store: it holds {found:?}{}", dir.display(), if found == "settings.json" { ", which is not a store's" } else { "" })]
    NotAStore {
        dir: PathBuf,
        /// One thing found in it.
        found: String,
    },
    /// The store belongs to another user.
    #[error("the store {} belongs to uid {owner}, not to uid {uid}", dir.display())]
    WrongOwner { dir: PathBuf, owner: u32, uid: u32 },
    /// A file or directory of the store belongs to another user.
    #[error("{}, in a store, belongs to uid {owner}", path.display())]
    ForeignPart { path: PathBuf, owner: u32 },
    /// A path leads through a symbolic link that somebody else may turn.
    #[error("{} is a symbolic link of uid {owner}, which is not followed", path.display())]
    ForeignLink { path: PathBuf, owner: u32 },
    /// A directory is named by a symbolic link.
    #[error("{} is a symbolic link, to {}", path.display(), target.display())]
    LinkAtEnd { path: PathBuf, target: PathBuf },
    /// Where temporary files are, another user could take them away.
    #[error("another user can change what is in {}, where temporary files are made", .0.display())]
    UnsafeTempDir(PathBuf),
    /// What should be a file is something else.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// Root would make a directory that another user could neither use nor remove.
    #[error("{} is not made: {} belongs to uid {owner}, and this is root", dir.display(), parent.display())]
    ForeignParent { dir: PathBuf, parent: PathBuf, owner: u32 },
    /// The store was written by a newer wasmfs.
    #[error("the store {} has format {found}; this wasmfs reads formats up to {supported}", dir.display())]
    NewerFormat {
        dir: PathBuf,
        /// The format number in its settings.
        found: u64,
        /// The newest format this build knows.
        supported: u64,
    },
    /// `settings.json` can't be read.
    #[error("{} is not valid", path.display())]
    #[strum(serialize = "invalid-settings")]
    Settings {
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A name that can't be a key.
    #[error(transparent)]
    #[strum(serialize = "invalid-key")]
    Key(#[from] InvalidKey),
    /// A key would be a directory of another, or the reverse.
    #[error("{key} can't be published: {other} is a key, and a key can't also be a directory")]
    KeyConflict {
        /// The key to publish.
        key: Key,
        /// The key in its way.
        other: String,
    },
    /// The bytes are not a wasmtime artifact.
    #[error(transparent)]
    NotAnArtifact(#[from] NotAnArtifact),
    /// Nothing can be staged, though the store is this user's.
    #[error("{} can't be written from here", dir.display())]
    CannotStage {
        /// The directory of what is staged.
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What was staged is not there any more.
    #[error("the staged file {0} is gone")]
    StagedGone(String),
    /// What was staged is not what it was said to be.
    #[error("the staged artifact {name} can't be published: {reason}")]
    UnfitStaged {
        /// Its name in `incoming/`, or its sha256.
        name: String,
        reason: &'static str,
    },
    /// The bytes are not WebAssembly in binary form.
    #[error("this is not a wasm module or component")]
    NotWasm,
    /// No engine has this name.
    #[error("there is no engine called {0}")]
    NoEngine(String),
    /// Several engines' fingerprints start so.
    #[error("several engines have a fingerprint that starts with {0}")]
    AmbiguousEngine(String),
    /// No engine has this other name.
    #[error("there is no alias {0}")]
    NoAlias(String),
    /// A name that can't be an alias.
    #[error("{name:?} can't be an engine's alias: {rule}")]
    #[strum(serialize = "invalid-alias")]
    AliasName {
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The artifact is of another engine than it should be.
    #[error("it was compiled by another engine than {wanted}: {}", in_words(differences, wanted))]
    OtherEngine {
        /// The engine it should be of, as it was named.
        wanted: String,
        /// In what the artifact's engine differs.
        differences: Vec<Difference>,
    },
    /// A key has no version of an engine.
    #[error("{key} has no version of engine {engine}")]
    NotOfEngine {
        key: Key,
        /// The engine's label.
        engine: String,
    },
    /// What was compiled again is not the newest any more.
    #[error("not published: {key}@{version}, compiled from {} source, is already newer", if *source_known { "another" } else { "unknown" })]
    Overtaken {
        key: Key,
        /// The newer version.
        version: Version,
        /// Whether its source was kept.
        source_known: bool,
    },
    /// Something else in a batch that goes in together was refused.
    #[error("not published: another item of this all-or-nothing batch was refused")]
    HeldBack,
    /// The store has no such payload.
    #[error("the store has no payload {0}")]
    NoPayload(Sha),
    /// No such key, or nothing of it is left.
    #[error("there is no key {0}")]
    NoKey(Key),
    /// The key had versions, and all of them were removed.
    #[error("{0} was removed")]
    KeyRemoved(Key),
    /// The version is removed already.
    #[error("{key}@{version} was removed already")]
    VersionRemoved { key: Key, version: Version },
    /// The key has versions, but none that its plain name serves.
    #[error("{0} leads to no version: its default engine has none left")]
    NotServed(Key),
    /// No such version of the key.
    #[error("{key} has no version {version}")]
    NoVersion {
        key: Key,
        /// The version asked for.
        version: Version,
    },
    /// A rollback with nothing to roll back to.
    #[error("{0} has no version of the same engine before the one that its plain name leads to")]
    NoEarlierVersion(Key),
    /// The disk has no room for the payload and a margin for the records.
    #[error("the disk of {} is full: {needed} bytes are needed, {available} are free", dir.display())]
    DiskFull {
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// A line of the history that was acknowledged can't be read.
    #[error("the history {} is damaged at byte {offset}: {reason}", path.display())]
    HistoryDamaged {
        path: PathBuf,
        /// Where the first bad line starts.
        offset: u64,
        reason: String,
    },
    /// An earlier write to the history failed in a way that leaves its end
    /// uncertain; reading goes on, writing needs a reopen.
    #[error(
        "the history could not be written, and takes no more changes until the store is reopened"
    )]
    HistoryPoisoned,
    /// The catalogue failed, and could not be opened again yet.
    #[error("the catalogue failed, and can't be opened again yet")]
    NoCatalogue,
    /// The database under the catalogue failed.
    #[error("the catalogue failed")]
    #[strum(serialize = "catalogue-failed")]
    Catalogue(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record of the catalogue can't be decoded, or one that must exist is missing.
    #[error("the catalogue is inconsistent: {0}")]
    #[strum(serialize = "catalogue-inconsistent")]
    Inconsistent(String),
    /// Bytes of a payload differ from what was published.
    #[error("payload {sha256} is damaged: {reason}")]
    PayloadDamaged {
        /// The payload's whole sha256, in hexadecimal.
        sha256: String,
        reason: String,
    },
}

impl Error {
    /// Every code there is.
    pub const CODES: &[&str] = <Error as strum::VariantNames>::VARIANTS;

    /// What programs tell this error by: stable, whatever its message says.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// Whether what was to be opened is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.disk_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the disk takes no writes by rule.
    pub(crate) fn is_read_only(&self) -> bool {
        self.disk_error().is_some_and(|e| e.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Whether the disk has no room.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.disk_error().is_some_and(is_full)
    }

    /// Whether the disk can't be written: it is full, read-only, or fails.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.disk_error().is_some_and(is_unwritable)
    }

    /// Whether the disk refused to be written.
    pub(crate) fn is_out_of_room(&self) -> bool {
        self.disk_error().is_some_and(is_out_of_room)
    }

    /// The system's answer, if it is one.
    pub(crate) fn into_io(self) -> Option<io::Error> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }

    fn disk_error(&self) -> Option<&io::Error> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a disk refused to be written, and nothing that was written before is in doubt.
pub(crate) fn is_out_of_room(error: &io::Error) -> bool {
    is_full(error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Whether the disk can't be written: it is full, read-only, or fails.
pub(crate) fn is_unwritable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) || is_out_of_room(error)
}

/// A disk that can't be written can be read all the same.
pub(crate) fn unless_unwritable(result: Result<()>) -> Result<()> {
    result.or_else(|e| if e.is_unwritable() { Ok(()) } else { Err(e) })
}

fn in_words(differences: &[Difference], engine: &str) -> String {
    let words: Vec<_> = differences.iter().map(|d| d.of_artifact(engine)).collect();
    words.join("; ")
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// A path as it is shown: one through a descriptor is called as the kernel calls it.
pub(crate) fn shown(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let dir: PathBuf = parts.by_ref().take(5).collect();
    match std::fs::read_link(&dir) {
        Ok(target) if dir.starts_with("/proc/self/fd") => target.join(parts.as_path()),
        _ => path.to_owned(),
    }
}

/// Turns an I/O result into this crate's, naming the file and the attempt.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::Io { action, path: shown(path), source: e.into() })
    }
}
