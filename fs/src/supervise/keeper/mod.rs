//! The keeper: the process that owns the mounts and outlives workers.
//!
//! One thread, one `poll` (`run.rs`), and what follows from what happened (`events.rs`). It never
//! opens the store and never waits for a worker. [`keep`] is the way in.

mod events;
mod memory;
mod process;
mod run;

pub use run::{Plan, keep};
