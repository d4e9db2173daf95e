//! A command's side of the control socket.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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
use wasmfs_fs::gc::{Collection, Tidied};
use wasmfs_fs::short_path;

use super::changes::{ChangeRequest, Committed};
use super::messages::{
    CollectRequest, MountRequest, PROTOCOL, PROTOCOL_HEADER, PublishAnswer, PublishRequest,
    ReloadAnswer, Status, Upload,
};
use crate::names::{LOG, SOCKET};
use crate::ui::Failure;
use crate::ui::output::note;

const STATUS: &str = "/v1/status";
const RELOAD: &str = "/v1/reload";
/// How much of a file is handed over at a time, in bytes.
const UPLOAD_PIECE: usize = 256 << 10;

/// How long a server that is just being replaced may take to answer: it may
/// have to rebuild its catalogue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a question is asked while servers go away.
const CONNECT_ATTEMPTS: u32 = 10;
/// After this time the user is told what is waited for.
const NOTICE_AFTER: Duration = Duration::from_secs(2);

/// A connection to a server.
pub struct Client {
    dir: PathBuf,
    runtime: Runtime,
    sender: Mutex<Sender>,
}

type Sender = SendRequest<BoxBody<Bytes, io::Error>>;

/// Whether a request failed because the server went away.
pub fn was_lost(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.lost)
}

fn was_unsent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.unsent)
}

/// A connection that was closed before the request was sent.
fn unsent(error: hyper::Error) -> Failure {
    Failure { unsent: true, ..lost(error) }
}

fn lost(error: hyper::Error) -> Failure {
    log::debug!("the server went away: {error}");
    let message = "the server of the store went away before it answered; it may have done it";
    let hint = "`wasmfs log` shows what was done; give the command again if it was not";
    Failure { lost: true, ..Failure::new(message, hint) }
}

fn no_answer(dir: &Path) -> Failure {
    let log = dir.join(LOG);
    Failure::new(
        format!("the server of the store does not answer (within {ANSWER_TIMEOUT:?})"),
        format!("it may be stopped, or unable to start; its last words are in {}", log.display()),
    )
}

async fn exchange<T: DeserializeOwned>(
    sender: &mut Sender,
    method: Method,
    uri: &str,
    body: BoxBody<Bytes, io::Error>,
) -> Result<T> {
    let mut request = Request::builder().method(method).uri(uri).header(HOST, "wasmfs");
    // An older server has to be understood as far as it takes to replace it.
    let in_every_protocol = [STATUS, RELOAD].contains(&uri.split('?').next().unwrap_or(uri));
    if !in_every_protocol {
        request = request.header(PROTOCOL_HEADER, PROTOCOL);
    }
    let request = request.body(body)?;
    sender.ready().await.map_err(unsent)?;
    let sent = sender.send_request(request).await;
    let response = sent.map_err(|e| if e.is_canceled() { unsent(e) } else { lost(e) })?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(lost)?.to_bytes();
    let other = parts.headers.get(PROTOCOL_HEADER).is_none_or(|version| version != PROTOCOL);
    if other && !in_every_protocol {
        return Err(Failure::new(
            format!("the server of the store doesn't speak protocol {PROTOCOL}"),
            "use the same wasmfs for both: `wasmfs reload`, or unmount and mount again",
        )
        .into());
    }
    if !parts.status.is_success() {
        return Err(serde_json::from_slice::<Failure>(&body)?.into());
    }
    Ok(serde_json::from_slice(&body)?)
}

impl Client {
    /// Connects to the server that owns the store in `dir`; `None` if there is none.
    fn connect(runtime: &Runtime, dir: &Path) -> Result<Option<Sender>> {
        let Ok((_dir, path)) = short_path(dir, SOCKET) else { return Ok(None) };
        let stream = match runtime.block_on(UnixStream::connect(&path)) {
            Ok(stream) => stream,
            Err(e) => match e.kind() {
                // No socket, or one that a keeper left when it was killed.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(e).context("connecting to the server of the store"),
            },
        };
        let sender = runtime.block_on(async {
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, hyper::Error>(sender)
        });
        Ok(Some(sender.context("talking to the server of the store")?))
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: BoxBody<Bytes, io::Error>,
    ) -> Result<T> {
        let mut sender = self.sender.lock().unwrap_or_else(|e| e.into_inner());
        self.runtime.block_on(exchange(&mut sender, method, uri, body))
    }

    /// Asks for `path` with a query of pairs: again, if the server is replaced meanwhile.
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let mut attempt = 1;
        loop {
            match self.send(Method::GET, &format!("{path}?{query}"), empty()) {
                Err(e) if was_lost(&e) && attempt < CONNECT_ATTEMPTS && self.reconnect()? => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, request: &Q) -> Result<A> {
        let body = Full::new(Bytes::from(serde_json::to_vec(request)?));
        self.send(Method::POST, path, body.map_err(|never| match never {}).boxed())
    }

    /// Asks for something that needs nothing of what this connection brought
    /// before: again, if it is sure that nobody heard it, or if that does no harm.
    fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        repeatable: bool,
    ) -> Result<A> {
        let mut attempt = 1;
        loop {
            match self.post(path, request) {
                Err(e) if was_unsent(&e) && self.reconnect()? => {}
                Err(e)
                    if repeatable
                        && was_lost(&e)
                        && attempt < CONNECT_ATTEMPTS
                        && self.reconnect()? =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Asks for a change of the store.
    pub fn change<C: ChangeRequest>(&self, change: &C) -> Result<Committed<C::Outcome>> {
        self.ask(C::PATH, change, change.is_repeatable())
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Connects to the server that owns the store in `dir`, and hears from it;
    /// `None` if there is none. One that is just being replaced is waited for.
    pub fn reach(dir: &Path) -> Result<Option<(Client, Status)>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Some(sender) = Client::connect(&runtime, dir)? else { return Ok(None) };
        let client = Client { dir: dir.to_owned(), runtime, sender: Mutex::new(sender) };
        Ok(client.hear()?.map(|status| (client, status)))
    }

    /// Connects once more, to whoever serves now; false if nobody does.
    pub fn reconnect(&self) -> Result<bool> {
        Ok(self.connect_again()? && self.hear()?.is_some())
    }

    /// Connects once more; false if nobody is there to answer.
    fn connect_again(&self) -> Result<bool> {
        let Some(sender) = Client::connect(&self.runtime, &self.dir)? else { return Ok(false) };
        *self.sender.lock().unwrap_or_else(|e| e.into_inner()) = sender;
        Ok(true)
    }

    /// Waits until the server says something of itself; `None` if it has ended.
    fn hear(&self) -> Result<Option<Status>> {
        let start = Instant::now();
        let mut noticed = false;
        loop {
            let answer = self
                .answer_within(NOTICE_AFTER.min(ANSWER_TIMEOUT.saturating_sub(start.elapsed())));
            match answer {
                Ok(Some(status)) => return Ok(Some(status)),
                Err(e) if !was_lost(&e) => return Err(e),
                _ if start.elapsed() >= ANSWER_TIMEOUT => return Err(no_answer(&self.dir).into()),
                Ok(None) => {
                    if !noticed {
                        note(format_args!("wasmfs: waiting for the server of the store to answer"));
                    }
                    noticed = true;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            if !self.connect_again()? {
                return Ok(None);
            }
        }
    }

    fn answer_within(&self, limit: Duration) -> Result<Option<Status>> {
        let mut sender = self.sender.lock().unwrap_or_else(|e| e.into_inner());
        self.runtime.block_on(async {
            let asked = exchange(&mut sender, Method::GET, STATUS, empty());
            // A request that is not answered in time goes with its connection.
            tokio::time::timeout(limit, asked).await.map_or(Ok(None), |status| status.map(Some))
        })
    }

    /// What the server of the store in `dir` says of itself, if there is one.
    pub fn status_of(dir: &Path) -> Result<Option<Status>> {
        Ok(Client::reach(dir)?.map(|(_, status)| status))
    }

    /// What the server says of itself.
    pub fn status(&self) -> Result<Status> {
        self.get(STATUS, &[])
    }

    /// Hands an artifact over, or a source.
    pub fn upload(
        &self,
        from: impl Read + Send + Sync + Unpin + 'static,
        source: bool,
    ) -> Result<Upload> {
        let error = Arc::default();
        let body = ReadBody { from, buf: vec![0; UPLOAD_PIECE], error: Arc::clone(&error) };
        let path = if source { "/v1/uploads?of=source" } else { "/v1/uploads" };
        let answer = self.send(Method::POST, path, body.boxed());
        // The upload was cut short then; whatever the server made of it is not published.
        match error.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(error) => Err(anyhow::Error::from(error).context("reading it")),
            None => answer,
        }
    }

    /// Publishes uploads.
    pub fn publish(&self, request: &PublishRequest) -> Result<PublishAnswer> {
        self.post("/v1/publish", request)
    }

    /// Has what nobody needs of some keys given up.
    pub fn collect(&self, request: &CollectRequest) -> Result<Collection> {
        self.ask("/v1/collect", request, true)
    }

    /// Has what no version has removed.
    pub fn tidy(&self) -> Result<Tidied> {
        self.ask("/v1/tidy", &(), true)
    }

    /// Has the server replaced by what is on disk now; returns when it lets go.
    pub fn reload(&self) -> Result<ReloadAnswer> {
        self.ask(RELOAD, &(), false)
    }

    /// Has a server whose mount was detached mount again.
    pub fn mount(&self, request: &MountRequest) -> Result<Status> {
        self.ask("/v1/mount", request, false)
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
