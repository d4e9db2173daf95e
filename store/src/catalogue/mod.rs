//! The catalogue: everything that the store knows of its names, in tables.
//!
//! It is derived: the history says what was committed, the catalogue answers questions about it
//! quickly, and can be rebuilt. Rows are read through [`Records`] and written by changes of the
//! history alone ([`apply()`] to an [`Overlay`]). `database.rs` alone knows which database is under
//! it, `tables/` alone how a row is written. It uses the history; payloads and the store use it.

mod apply;
mod chunks;
mod database;
mod handle;
mod invalidation;
mod open;
mod overlay;
mod packed;
mod read;
mod rebuild;
mod replay;
mod slot;
pub(crate) mod tables;
mod upgrade;

pub(crate) use apply::apply;
pub(crate) use chunks::{CHUNK, put_chunks, read_chunks, whole_inline};
pub(crate) use database::{Bytes, catch_panic, is_too_large, weight};
pub use database::{DATABASE_LOG_FILTER, is_database_panic, panics_are_caught};
pub(crate) use handle::Catalogue;
pub use invalidation::{Changes, PendingInvalidations};
pub(crate) use overlay::Overlay;
pub(crate) use read::Records;
pub(crate) use rebuild::{bring_inside, put_in_place_of};
pub(crate) use replay::{catch_up, from_history};
pub(crate) use slot::{CatalogueSlot, Condition, ReadGuard, has_read_guard};
