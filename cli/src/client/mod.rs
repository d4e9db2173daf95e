//! How a command reaches the store, and what it hands over: through the server that has the store,
//! or by opening it. A command never has to know which.
//!
//! [`Access`] is the way in; [`batch`] publishes many artifacts with one commit.

mod access;
pub mod batch;
pub mod spool;
pub mod stable_file;

pub use access::{Access, NamedEngine};
