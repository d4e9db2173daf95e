//! What a request is, and how it is written.

use std::io::Read;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::place::Place;
use crate::ui::Error;

/// The version of the protocol. A change that either side would misunderstand raises it.
pub const PROTOCOL: &str = "5";
/// The header that carries it.
pub const PROTOCOL_HEADER: &str = "wasmfs-protocol";

/// The methods there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A question: the request is the query, and asking again does no harm.
    Get,
    /// A change: the request is the body.
    Post,
}

impl Method {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// A request: what is asked, what is done, and what is answered.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// How it is sent.
    const METHOD: Method;
    /// Where.
    const PATH: &'static str;
    /// What it is for, in a sentence for docs/control-api.md.
    const ABOUT: &'static str;
    /// Its fields and its answer, as docs/control-api.md shows them.
    const SHAPE: Shape;
    /// Whether it stays as it is in every protocol, and is sent without its number.
    const IN_EVERY_PROTOCOL: bool = false;
    /// Whether bytes come after the JSON of a request.
    const HAS_BYTES: bool = false;
    /// The answer.
    type Answer: Answer;

    /// Whether it can be asked again when a server went away over it.
    fn is_repeatable(&self) -> bool {
        Self::METHOD == Method::Get
    }

    /// The bytes that come after the JSON, if [`Request::HAS_BYTES`].
    fn bytes(&self) -> Vec<&[u8]> {
        Vec::new()
    }

    /// Reads these bytes, on the other side.
    fn complete(&mut self, _from: &mut dyn Read) -> Result<()> {
        Ok(())
    }

    /// Does it.
    fn handle(self, place: &Place<'_>) -> Result<Self::Answer>;
}

/// What the list of requests says of fields and answer.
#[derive(Serialize)]
pub struct Shape {
    /// The query or the JSON body.
    pub request: &'static str,
    pub answer: &'static str,
}

/// Bytes as they are.
pub struct Raw(pub Vec<u8>);

/// What can be answered.
pub trait Answer: Sized + Send {
    /// The type of the body.
    const CONTENT_TYPE: &'static str;

    /// The body.
    fn encode(self) -> Result<Vec<u8>>;

    /// What a body says.
    fn decode(body: &[u8]) -> Result<Self>;
}

impl<T: Serialize + DeserializeOwned + Send> Answer for T {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode(self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec(&self)?;
        text.push(b'\n');
        Ok(text)
    }

    fn decode(body: &[u8]) -> Result<T> {
        let reason = |e: serde_json::Error| e.to_string();
        Ok(serde_json::from_slice(body)
            .map_err(|e| Error::Malformed { what: "answer", reason: reason(e) })?)
    }
}

impl Answer for Raw {
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode(self) -> Result<Vec<u8>> {
        Ok(self.0)
    }

    fn decode(body: &[u8]) -> Result<Raw> {
        Ok(Raw(body.to_vec()))
    }
}
