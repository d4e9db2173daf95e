//! What the server itself is asked.

use std::path::PathBuf;

use anyhow::Result;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use wasmfs_fs::mount::Options;

use crate::control::place::Place;
use crate::control::request::{Method, Request, Shape};
use crate::control::status::Status;

/// Ask the server what it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusRequest {}

impl Request for StatusRequest {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/status";
    const ABOUT: &'static str =
        "What the server is, and what it serves. The same in every protocol.";
    const SHAPE: Shape = Shape {
        request: "",
        answer: "the status, as `status --json` has it, without `mounted` and `unguarded`",
    };
    const IN_EVERY_PROTOCOL: bool = true;
    type Answer = Status;

    fn handle(self, place: &Place<'_>) -> Result<Status> {
        Ok(place.server()?.status())
    }
}

/// Have the server replaced by what is on disk now. Whatever the body is, it is not looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Reload;

impl<'de> Deserialize<'de> for Reload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Reload, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Reload)
    }
}

/// That a server lets go for its successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloading {
    pub pid: u32,
    /// How many came before it.
    pub replacements: u64,
}

impl Request for Reload {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/reload";
    const ABOUT: &'static str =
        "Has the server replaced by the program on disk. The same in every protocol.";
    const SHAPE: Shape = Shape {
        request: "",
        answer: "`pid` and `replacements` of the server that lets go, when it does",
    };
    const IN_EVERY_PROTOCOL: bool = true;
    type Answer = Reloading;

    fn handle(self, place: &Place<'_>) -> Result<Reloading> {
        let server = place.server()?;
        server.reload()?;
        let replacements = server.worker().replacements();
        Ok(Reloading { pid: std::process::id(), replacements })
    }
}

/// Have a server whose mount was detached mount again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// An absolute path.
    pub mount_point: PathBuf,
    /// How it is made.
    #[serde(flatten)]
    pub options: Options,
}

impl Request for Mount {
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/mount";
    const ABOUT: &'static str = "Mounts the store again whose mount was detached.";
    const SHAPE: Shape = Shape {
        request: "`mount_point`, `allow_other`, `passthrough`, `in_memory`: bytes",
        answer: "the status",
    };
    type Answer = Status;

    fn handle(self, place: &Place<'_>) -> Result<Status> {
        let server = place.server()?;
        server.worker().mount(&self.mount_point, self.options)?;
        Ok(server.status())
    }
}
