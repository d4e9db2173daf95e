//! The tables of the catalogue: which there are, and how their keys and values are written.
//!
//! Nobody outside of this folder knows a byte of a key. A table gives keys ([`Table::key`]) and
//! parts of itself ([`Span`]), and a [`Row`] that was found reads its own key and value. It uses
//! the words of the store and the records; the database is unknown to it.

mod defined;
mod layout;
mod names;
mod records;
mod table;

pub(super) use defined::stands_alone;
pub(crate) use defined::{
    ALIASES, APPLIED, BLOCKS, CHUNKS, DIRECTORIES, ENGINE_KEYS, ENGINES, FINGERPRINTS,
    HASHES_PER_RECORD, INODES, KEYS, LABELS, NAMES, PAYLOADS, SECTION_PIECE, SECTIONS, USERS,
    VERSIONS,
};
pub(crate) use layout::{KeyLayout, ValueLayout};
pub(crate) use names::{Child, Name, Names};
pub(crate) use records::{
    AliasRecord, Applied, AppliedLayout, DirectoryRecord, EngineRecord, KeyRecord, PayloadRecord,
};
pub use records::{InodeRecord, LinkRecord, VersionRecord};
pub(crate) use table::{RawKey, Row, Span, Table};
