//! The control API: how commands reach the server that has the store open.
//!
//! HTTP/1.1 over a Unix socket, so that `curl --unix-socket` can speak it. A request is a type with
//! method, path, answer and handler ([`Request`]), declared once in `requests/` and listed once in
//! `list.rs`: the server's router, the client and docs/control-api.md come from that. What a
//! handler works on is a [`Place`]: a store that is served, or one that the command has opened
//! itself, so that it makes no difference to a command which. It uses `ui` for errors.

mod client;
mod list;
mod place;
mod request;
pub mod requests;
mod server;
mod serving;
mod status;

pub use client::Client;
pub use place::Place;
pub use request::Request;
pub use server::{Clients, Server, accept};
pub use serving::Serving;
pub use status::{KeeperStatus, MountStatus, WorkerStatus};
