//! The server's side of the control socket.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::list::{Visitor, visit_all};
use super::place::Place;
use super::request::{Answer, Method, PROTOCOL, PROTOCOL_HEADER, Request, Shape};
use super::serving::Serving;
use crate::ui::{Error, Failure};

/// The largest JSON of a request, in bytes: an all-or-nothing batch of 100,000 small artifacts.
const MAX_REQUEST: usize = 256 << 20;
/// Pieces of a request's bytes that wait for their reader.
const BODY_QUEUE: usize = 4;

/// The clients that are connected.
#[derive(Clone, Default)]
pub struct Clients(watch::Sender<bool>);

impl Clients {
    /// Ends every connection once the request under way is answered, and waits
    /// for that, but no longer than `limit`.
    pub async fn end(&self, limit: Duration) {
        self.0.send_replace(true);
        if tokio::time::timeout(limit, self.0.closed()).await.is_err() {
            log::warn!("going on while a command is still connected");
        }
    }
}

type Answered = Result<Response<Full<Bytes>>>;
type Handler = fn(Arc<Serving>, hyper::Request<Incoming>) -> Handling;
type Handling = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// Answers requests: a handler for each method and path. The list of requests is all that there
/// is to route by, so that this map is the router.
pub struct Server {
    serving: Arc<Serving>,
    handlers: BTreeMap<(&'static str, &'static str), Handler>,
    listed: Vec<Listed>,
}

/// A request, as [`LIST`] has it.
#[derive(Serialize)]
struct Listed {
    method: &'static str,
    path: &'static str,
    about: &'static str,
    #[serde(flatten)]
    shape: Shape,
}

/// Where the list of all requests is, in every protocol: docs/control-api.md has the same.
const LIST: (&str, &str) = ("GET", "/v1");

impl Visitor for Server {
    fn visit<R: Request>(&mut self) {
        let handler: Handler = |serving, request| Box::pin(answer::<R>(serving, request));
        let (method, path) = (R::METHOD.name(), R::PATH);
        self.handlers.insert((method, path), handler);
        self.listed.push(Listed { method, path, about: R::ABOUT, shape: R::SHAPE });
    }
}

impl Server {
    /// Answers for `serving`.
    pub fn new(serving: Arc<Serving>) -> Server {
        let mut server = Server { serving, handlers: BTreeMap::new(), listed: Vec::new() };
        visit_all(&mut server);
        server
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match self.route(request).await {
            Ok(response) => response,
            Err(error) => {
                let failure = Failure::of(&error);
                let is_asked_wrong =
                    failure.usage || error.downcast_ref::<wasmfs_store::Error>().is_some();
                let mut response = respond(failure).unwrap_or_default();
                *response.status_mut() = match is_asked_wrong {
                    true => StatusCode::BAD_REQUEST,
                    false => StatusCode::INTERNAL_SERVER_ERROR,
                };
                response
            }
        };
        response.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
        response
    }

    async fn route(&self, request: hyper::Request<Incoming>) -> Answered {
        let place = (request.method().as_str(), request.uri().path());
        if place == LIST {
            let mut list = serde_json::to_vec_pretty(&self.listed)?;
            list.push(b'\n');
            return Ok(Response::new(Full::new(list.into())));
        }
        let versions = request.headers().get_all(PROTOCOL_HEADER);
        if let Some(version) = versions.iter().find(|version| *version != PROTOCOL) {
            let command = String::from_utf8_lossy(version.as_bytes()).into_owned();
            return Err(Error::OtherProtocol { server: PROTOCOL.into(), command }.into());
        }
        if versions.iter().nth(1).is_some() {
            return Err(malformed(&format!("there are two headers {PROTOCOL_HEADER}")).into());
        }
        match self.handlers.get(&place) {
            Some(handler) => handler(self.serving.clone(), request).await,
            None => Err(Error::UnknownRequest(format!("{} {}", place.0, place.1)).into()),
        }
    }
}

/// Accepts clients until the task is dropped.
pub async fn accept(listener: Arc<UnixListener>, server: Arc<Server>, clients: Clients) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, server.clone(), clients.0.subscribe()));
            }
            Err(e) => {
                log::error!("accepting a command: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, server: Arc<Server>, mut ending: watch::Receiver<bool>) {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own => {}
        Ok(peer) => return log::warn!("a command of uid {} was refused", peer.uid()),
        Err(e) => return log::warn!("a command of an unknown user was refused: {e}"),
    }
    let service = service_fn(|request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = async { drop(ending.wait_for(|ending| *ending).await) } => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = result {
        log::debug!("a command's connection ended: {e}");
    }
    // A command that was killed left what it staged.
    tokio::task::spawn_blocking(move || {
        if let Err(e) = server.serving.mounts().store().sweep_staged() {
            log::warn!("sweeping what dead commands staged: {e}");
        }
    });
}

/// Has a request handled, in a thread that may wait.
async fn answer<R: Request>(serving: Arc<Serving>, request: hyper::Request<Incoming>) -> Answered {
    let handle = move |asked: R| asked.handle(&Place::Served(&serving)).and_then(respond);
    match (R::METHOD, R::HAS_BYTES) {
        (Method::Get, _) => {
            let query = request.uri().query().unwrap_or_default();
            check_utf8(query).map_err(|e| malformed(&e))?;
            let asked = serde_urlencoded::from_str(query).map_err(|e| malformed(&e))?;
            blocking(move || handle(asked)).await
        }
        (Method::Post, false) => {
            let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
            let body = body.map_err(|e| match e.downcast_ref::<LengthLimitError>() {
                Some(_) => too_large(),
                None => malformed(&e),
            })?;
            let body = body.to_bytes();
            // Some requests have nothing to say.
            let body = if body.is_empty() { &b"null"[..] } else { &body };
            let asked = serde_json::from_slice(body).map_err(|e| malformed(&e))?;
            blocking(move || handle(asked)).await
        }
        (Method::Post, true) => {
            stream(request.into_body(), move |body| handle(read_with_bytes(body)?)).await
        }
    }
}

/// Reads a request that bytes come after.
fn read_with_bytes<R: Request>(body: impl Read) -> Result<R> {
    let mut body = BufReader::new(body);
    let mut json = Vec::new();
    body.by_ref()
        .take(MAX_REQUEST as u64)
        .read_until(b'\n', &mut json)
        .map_err(|e| malformed(&e))?;
    if json.len() == MAX_REQUEST {
        return Err(too_large().into());
    }
    let mut asked: R = serde_json::from_slice(&json).map_err(|e| malformed(&e))?;
    drop(json);
    asked.complete(&mut body)?;
    Ok(asked)
}

/// Refuses a query that is not UTF-8 once it is decoded: the library would put U+FFFD in its place
/// (form_urlencoded 1, `decode`).
fn check_utf8(query: &str) -> std::result::Result<(), std::str::Utf8Error> {
    let mut bytes = Vec::new();
    let mut rest = query.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let encoded =
            digits.filter(|_| *first == b'%').and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { &tail[2..] } else { tail };
    }
    std::str::from_utf8(&bytes).map(drop)
}

fn malformed(error: &dyn std::fmt::Display) -> Error {
    Error::Malformed { what: "request", reason: error.to_string() }
}

fn too_large() -> Error {
    Error::RequestTooLarge(format!("more than {MAX_REQUEST} bytes of JSON"))
}

fn respond<A: Answer>(answer: A) -> Answered {
    let mut response = Response::new(Full::new(answer.encode()?.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(A::CONTENT_TYPE));
    Ok(response)
}

async fn blocking(f: impl FnOnce() -> Answered + Send + 'static) -> Answered {
    tokio::task::spawn_blocking(f).await.context("a command")?
}

/// Has `take` read a body in a thread that may wait, while it arrives. A body
/// that ends early is an error to the reader.
async fn stream(
    mut body: Incoming,
    take: impl FnOnce(Pieces) -> Answered + Send + 'static,
) -> Answered {
    let (sender, receiver) = mpsc::channel(BODY_QUEUE);
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
    taking.await.context("a command")?
}

/// A body as a reader, for a thread that may wait.
struct Pieces {
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
