//! The control socket: how commands reach the server that owns the store.
//!
//! HTTP/1.1 with JSON over a Unix socket, so that `curl --unix-socket` can
//! speak it. Both sides send `wasmfs-protocol: 4`.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`messages::Status`] |
//! | `GET /v1/keys?prefix=P` | `[KeyInfo]` |
//! | `GET /v1/versions?key=K` | `[VersionInfo]`, oldest first |
//! | `GET /v1/version?key=K&version=N` | `VersionInfo`; without `version`, of the plain name |
//! | `GET /v1/latest?limit=N` | `[VersionInfo]`, newest first |
//! | `GET /v1/engines` | `[EngineInfo]` |
//! | `GET /v1/engine?name=N` | `EngineInfo` |
//! | `GET /v1/payload?sha256=S&offset=N` | [`messages::Piece`] |
//! | `POST /v1/uploads`, an artifact's bytes | [`messages::Upload`], kept until the connection ends |
//! | `POST /v1/uploads?of=source`, WebAssembly | likewise |
//! | `POST /v1/publish`, [`messages::PublishRequest`] | [`messages::PublishAnswer`] |
//! | `GET /v1/fates?key=K&policy=P` | `[Kept]`: what keeps each version; without `policy`, by the store's |
//! | `GET /v1/records?after=B` | [`messages::RecordsPage`] of the catalogue, after a key in base64 |
//! | `GET /v1/users?sha256=S` | the versions that have a payload |
//! | `POST /v1/collect`, [`messages::CollectRequest`] | `Collection`, of some keys |
//! | `POST /v1/tidy` | `Tidied` |
//! | `POST /v1/rollback`, `/v1/remove`, `/v1/default`, `/v1/alias`, `/v1/pin`: a [`changes::ChangeRequest`] | [`changes::Committed`] |
//! | `POST /v1/mount`, [`messages::MountRequest`] | [`messages::Status`] |
//! | `POST /v1/reload` | [`messages::ReloadAnswer`], when the server lets go for its successor |
//!
//! `status` and `reload` are the same in every protocol, and asked for without the header, so that a
//! newer command can have an older server replaced.
//!
//! An error is a [`Failure`](crate::ui::Failure) with a status of 400 or 500.

pub mod changes;
mod http;
mod messages;
mod server;
mod status;
mod transport;

pub use messages::{
    AskedPolicy, CollectRequest, KeeperStatus, MountRequest, MountStatus, Piece, PublishAnswer,
    PublishItem, PublishOptions, PublishRequest, RecordsPage, SourceItem, WorkerStatus, piece,
};
pub use server::{Clients, Server, accept};
pub use transport::{Client, was_lost};
