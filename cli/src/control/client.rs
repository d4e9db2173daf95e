//! A command's side of the control socket.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::{
    MountRequest, PROTOCOL, PROTOCOL_HEADER, PublishAnswer, PublishItem, RemoveAnswer,
    RollbackAnswer, Status, Upload, VersionOf,
};
use crate::failure::Failure;
use crate::paths::SOCKET;

/// How much of a file is handed over at a time, in bytes.
const PIECE: usize = 256 << 10;

/// A connection to a server.
pub struct Client {
    runtime: Runtime,
    sender: Mutex<SendRequest<BoxBody<Bytes, io::Error>>>,
}

/// A path to `name` in `dir` that fits into a socket address, whose limit is
/// 107 bytes (unix(7)), however long `dir` is; valid while the descriptor is open.
pub fn short_path(dir: &Path, name: &str) -> io::Result<(std::fs::File, PathBuf)> {
    let dir = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    Ok((dir, path.into()))
}

/// Whether a request failed because the server went away.
fn was_lost(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<hyper::Error>())
}

impl Client {
    /// Connects to the server that owns the store in `dir`; `None` if there is none.
    fn connect(dir: &Path) -> Result<Option<Client>> {
        let Ok((_dir, path)) = short_path(dir, SOCKET) else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let stream = match runtime.block_on(UnixStream::connect(&path)) {
            Ok(stream) => stream,
            Err(e) => match e.kind() {
                // No socket, or one that a server left when it was killed.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(e).context("connecting to the server of the store"),
            },
        };
        let sender = runtime.block_on(async {
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, hyper::Error>(sender)
        });
        let sender = Mutex::new(sender.context("talking to the server of the store")?);
        Ok(Some(Client { runtime, sender }))
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: BoxBody<Bytes, io::Error>,
    ) -> Result<T> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, "wasmfs")
            .header(PROTOCOL_HEADER, PROTOCOL)
            .body(body)?;
        let mut sender = self.sender.lock().unwrap_or_else(|e| e.into_inner());
        self.runtime.block_on(async {
            let lost = "the server of the store went away; what it had not answered is not certain";
            sender.ready().await.context(lost)?;
            let response = sender.send_request(request).await.context(lost)?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.context(lost)?.to_bytes();
            if parts.headers.get(PROTOCOL_HEADER).is_none_or(|version| version != PROTOCOL) {
                return Err(Failure::new(
                    format!("the server of the store doesn't speak protocol {PROTOCOL}"),
                    "use the same wasmfs for both: unmount and mount again",
                )
                .into());
            }
            if !parts.status.is_success() {
                return Err(serde_json::from_slice::<Failure>(&body)?.into());
            }
            Ok(serde_json::from_slice(&body)?)
        })
    }

    /// Asks for `path` with a query of pairs.
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        self.send(Method::GET, &format!("{path}?{query}"), empty())
    }

    fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, request: &Q) -> Result<A> {
        let body = Full::new(Bytes::from(serde_json::to_vec(request)?));
        self.send(Method::POST, path, body.map_err(|never| match never {}).boxed())
    }

    /// Connects to the server that owns the store in `dir`, and hears from it;
    /// `None` if there is none, or it is just ending.
    pub fn reach(dir: &Path) -> Result<Option<(Client, Status)>> {
        let Some(client) = Client::connect(dir)? else { return Ok(None) };
        match client.status() {
            Ok(status) => Ok(Some((client, status))),
            Err(e) if was_lost(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What the server of the store in `dir` says of itself, if there is one.
    pub fn status_of(dir: &Path) -> Result<Option<Status>> {
        Ok(Client::reach(dir)?.map(|(_, status)| status))
    }

    /// What the server says of itself.
    pub fn status(&self) -> Result<Status> {
        self.get("/v1/status", &[])
    }

    /// Hands an artifact over.
    pub fn upload(&self, from: impl Read + Send + Sync + Unpin + 'static) -> Result<Upload> {
        let error = Arc::default();
        let body = ReadBody { from, buf: vec![0; PIECE], error: Arc::clone(&error) };
        let answer = self.send(Method::POST, "/v1/uploads", body.boxed());
        // The upload was cut short then; whatever the server made of it is not published.
        match error.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(error) => Err(anyhow::Error::from(error).context("reading it")),
            None => answer,
        }
    }

    /// Publishes uploads.
    pub fn publish(&self, items: &[PublishItem]) -> Result<PublishAnswer> {
        self.post("/v1/publish", &items)
    }

    /// Publishes an earlier version again.
    pub fn rollback(&self, of: &VersionOf) -> Result<RollbackAnswer> {
        self.post("/v1/rollback", of)
    }

    /// Takes names away.
    pub fn remove(&self, of: &VersionOf) -> Result<RemoveAnswer> {
        self.post("/v1/remove", of)
    }

    /// Has a server whose mount was detached mount again.
    pub fn mount(&self, request: &MountRequest) -> Result<Status> {
        self.post("/v1/mount", request)
    }
}

fn empty() -> BoxBody<Bytes, io::Error> {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

/// A reader as a body. It waits for the reader, which is fine: nothing else
/// runs in a command.
///
/// A reader that fails ends the body rather than the connection, on which
/// earlier uploads wait.
struct ReadBody<R> {
    from: R,
    buf: Vec<u8>,
    error: Arc<Mutex<Option<io::Error>>>,
}

impl<R: Read + Unpin> Body for ReadBody<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        Poll::Ready(match this.from.read(&mut this.buf) {
            Ok(0) => None,
            Ok(n) => Some(Ok(Frame::data(Bytes::copy_from_slice(&this.buf[..n])))),
            Err(e) => {
                *this.error.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                None
            }
        })
    }
}
