//! The keeper: the process that owns the mounts and outlives workers.
//!
//! One thread, one `poll` (`run.rs`), a phase with its transitions (`phase.rs`), and what follows
//! from what happened: what the worker says (`events.rs`), how workers come and go (`workers.rs`),
//! and the mounts (`mounts.rs`). It never opens the store and never waits for a worker. [`keep`] is
//! the way in.

mod events;
mod memory;
mod mounts;
mod phase;
mod process;
mod run;
mod worker_process;
mod workers;

pub use run::{Plan, keep};
