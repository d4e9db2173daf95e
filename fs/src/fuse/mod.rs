//! FUSE: the thin layer between the kernel and the filesystem.
//!
//! `adapter.rs` turns fuser's calls into the filesystem's, or refuses them (`read_only.rs`). A
//! [`Connection`] outlives its process, and a [`Handshake`] begins to serve it. `wire.rs` alone
//! knows bytes of the protocol. It uses the filesystem, the journal and the backings; whoever
//! serves mounts uses it.

mod adapter;
mod connection;
mod handshake;
mod negotiate;
mod operation;
mod read_only;
mod wire;

pub(crate) use adapter::{Adapter, Parts};
pub(crate) use connection::Connection;
pub(crate) use handshake::{Handshake, check};
pub(crate) use operation::RequestCounts;
pub(crate) use wire::read_init;
