//! Serving: the mounts of a store in one worker, and what its commits tell the kernel.
//!
//! [`Mounts`] is the way in: it commits and has every kernel cache told, in an order that no old
//! answer survives (`invalidate.rs`, `ledger.rs`). Collection asks the kernel what is in use
//! (`gc.rs`, `policy.rs`). Nothing here knows of a keeper. It uses fuse, backings and journal.

pub mod gc;
mod invalidate;
mod ledger;
mod mounts;
mod panics;
mod policy;

pub use mounts::{Mount, Mounts};
pub use panics::abort_on_panic;
pub(crate) use policy::start as start_policy;
