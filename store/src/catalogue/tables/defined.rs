//! The tables. All of them share one map of the database, so that a commit is one atomic batch; the
//! first byte of a key says which one it is of.

use super::layout::{KeyVersion, Nothing, Only, Raw, Record, Text, Then, ViewPath};
use super::names::NameLayout;
use super::records::{
    AliasRecord, AppliedLayout, EngineRecord, InodeRecord, KeyRecord, PayloadRecord,
};
use super::table::Table;
use crate::types::{EngineNumber, Inode, Sha};

/// How much of the history is in the catalogue, and the numbers to give next.
pub(crate) const APPLIED: Table<Only, AppliedLayout> = Table::new(b'm');
/// Keys, also those whose versions are all gone.
pub(crate) const KEYS: Table<Text, Record<KeyRecord>> = Table::new(b'k');
/// Versions by key and number, removed ones included.
pub(crate) const VERSIONS: Table<KeyVersion, Inode> = Table::new(b'w');
/// What an inode number means.
pub(crate) const INODES: Table<Inode, Record<InodeRecord>> = Table::new(b'i');
/// The inode numbers of directories, for ever.
pub(crate) const DIRECTORIES: Table<ViewPath, Inode> = Table::new(b'd');
/// Live names, and what they lead to.
pub(crate) const NAMES: Table<NameLayout, Inode> = Table::new(b'n');
/// Engines.
pub(crate) const ENGINES: Table<EngineNumber, Record<EngineRecord>> = Table::new(b'e');
/// How many keys have a live version of an engine; nothing for none.
pub(crate) const ENGINE_KEYS: Table<EngineNumber, Record<u64>> = Table::new(b'q');
/// Engines by their label.
pub(crate) const LABELS: Table<Text, Record<EngineNumber>> = Table::new(b'l');
/// Engines by their fingerprint.
pub(crate) const FINGERPRINTS: Table<Sha, Record<EngineNumber>> = Table::new(b'f');
/// Engines' sections `.wasmtime.engine`, in pieces of [`SECTION_PIECE`] bytes.
pub(crate) const SECTIONS: Table<Then<EngineNumber, u32>, Raw> = Table::new(b's');
/// Other names of engines.
pub(crate) const ALIASES: Table<Text, Record<AliasRecord>> = Table::new(b'a');
/// Payloads.
pub(crate) const PAYLOADS: Table<Sha, Record<PayloadRecord>> = Table::new(b'p');
/// The sha256 of payloads' blocks, [`HASHES_PER_RECORD`] in a row.
pub(crate) const BLOCKS: Table<Then<Sha, u32>, Raw> = Table::new(b'b');
/// Payloads that are kept inside the catalogue, in chunks of 4 KiB.
pub(crate) const CHUNKS: Table<Then<Sha, u32>, Raw> = Table::new(b'c');
/// The versions that are, or were compiled from, a payload.
pub(crate) const USERS: Table<Then<Sha, Inode>, Nothing> = Table::new(b'r');

/// Bytes of an engine's section in one row.
pub(crate) const SECTION_PIECE: usize = 4000;
/// Block hashes in one row: 4,064 bytes.
pub(crate) const HASHES_PER_RECORD: usize = 127;

/// Whether a row is an entry of the database by itself, rather than one of many in a block: what
/// is as large as a block anyway, and what tells layouts apart.
pub(in crate::catalogue) fn stands_alone(key: &[u8]) -> bool {
    const ALONE: [u8; 3] = [APPLIED.tag(), SECTIONS.tag(), CHUNKS.tag()];
    key.first().is_some_and(|tag| ALONE.contains(tag))
}
