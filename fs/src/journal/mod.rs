//! The journal: what outlives a worker, though it is the worker that knows it.
//!
//! A memory file that the keeper makes and every worker writes: which requests it has in flight, up
//! to which commit the kernel was told, and which files are registered for passthrough. It never
//! leaves the machine. It uses nothing of this crate's but errors.

mod registrations;
mod requests;
mod suspects;

pub(crate) use registrations::{stack_depth, try_passthrough};
pub(crate) use requests::{DEATHS, InFlight, InFlightRequests, Journal};
pub(crate) use suspects::{Suspect, note_deaths};
