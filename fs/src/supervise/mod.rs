//! Supervision: the keeper that owns the mounts, the worker that serves them, and what they hand
//! over to each other.
//!
//! A [`Handover`] is all that a worker needs to serve; [`Worker`] serves it and hears its keeper
//! over the [`keeper_link`]. Whatever must outlive a worker is the keeper's or the journal's. It
//! uses every other folder.

mod door;
mod handover;
mod keeper;
mod keeper_link;
mod newcomers;
mod worker;

pub use handover::Handover;
pub use keeper::{Plan, keep};
pub use worker::{Event, Worker};
