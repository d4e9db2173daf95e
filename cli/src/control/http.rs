//! Requests and answers: JSON, queries, and bodies as readers.

use std::collections::HashMap;
use std::io::{self, Read};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use wasmfs_store::{Key, Sha};

use super::messages::AskedPolicy;

use crate::ui::Failure;

/// The largest JSON request, in bytes: a batch of some 100,000 keys.
const MAX_REQUEST: usize = 64 << 20;
/// Pieces of an upload that wait for the disk.
const UPLOAD_QUEUE: usize = 4;

pub(super) type Answer = Result<Response<Full<Bytes>>>;

pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    let mut response = Response::new(Full::new(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let body = body.map_err(|e| anyhow::anyhow!("reading the request: {e}"))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| {
        Failure::usage(
            format!("the request can't be understood: {e}"),
            "`cli/src/control/mod.rs` has the table of requests",
        )
        .into()
    })
}

pub(super) async fn blocking(f: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    tokio::task::spawn_blocking(f).await.context("a command")?
}

/// The query of a request's URI.
pub(super) struct Query(HashMap<String, String>);

impl Query {
    pub(super) fn of(request: &Request<Incoming>) -> Query {
        let query = request.uri().query().unwrap_or_default();
        Query(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Bytes in base64.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = |e| {
            Failure::usage(
                format!("{name} is not base64: {e}"),
                "`cli/src/control/mod.rs` has the table of requests",
            )
        };
        Ok(Some(BASE64.decode(text).map_err(wrong)?))
    }

    /// The policy that is asked for, in JSON.
    pub(super) fn policy(&self) -> Result<AskedPolicy> {
        let Some(text) = self.text("policy") else { return Ok(AskedPolicy::default()) };
        let wrong = |e| {
            Failure::usage(
                format!("that is no policy: {e}"),
                "`cli/src/control/mod.rs` has the table of requests",
            )
        };
        Ok(serde_json::from_str(&text).map_err(wrong)?)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    pub(super) fn key(&self) -> Result<Key> {
        let key = Key::new(self.text("key").unwrap_or_default());
        Ok(key.map_err(wasmfs_store::Error::from)?)
    }

    pub(super) fn sha(&self, name: &str) -> Result<Sha> {
        let text = self.text(name).unwrap_or_default();
        text.parse().map_err(|e| {
            Failure::usage(
                format!("{name}={text}: {e}"),
                "`cli/src/control/mod.rs` has the table of requests",
            )
            .into()
        })
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        let parse = |text: &String| {
            text.parse().map_err(|_| {
                Failure::usage(
                    format!("{name}={text} is not a number"),
                    "`cli/src/control/mod.rs` has the table of requests",
                )
            })
        };
        Ok(self.0.get(name).map(parse).transpose()?)
    }
}

/// Has `take` read a body in a thread that may wait, while it arrives. A body
/// that ends early is an error to the reader.
pub(super) async fn stream<T: Send + 'static>(
    mut body: Incoming,
    take: impl FnOnce(Pieces) -> T + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel(UPLOAD_QUEUE);
    let reader = Pieces { receiver, piece: Bytes::new() };
    let taking = tokio::task::spawn_blocking(move || take(reader));
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data().map_err(|_| io::ErrorKind::InvalidData.into()),
            Err(e) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, e)),
        };
        if sender.send(piece).await.is_err() {
            // It was refused already. The rest of the body is read and dropped.
            continue;
        }
    }
    drop(sender);
    taking.await.context("an upload")
}

/// An upload's body as a reader, for a thread that may wait.
pub(super) struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.piece.len());
        buf[..n].copy_from_slice(&self.piece.split_to(n));
        Ok(n)
    }
}
