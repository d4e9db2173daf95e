//! A command's side of the control socket.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use wasmfs_fs::{SocketType, reach};
use wasmfs_store::StoreDir;

use super::request::{Answer, Method, PROTOCOL, PROTOCOL_HEADER, Request};
use super::requests::StatusRequest;
use super::status::Status;
use crate::names::{LOG, SOCKET};
use crate::ui::output::note;
use crate::ui::{Error, Failure};

/// How long a server that is just being replaced may take to answer: it may
/// have to rebuild its catalogue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a request is sent while servers go away.
const ATTEMPTS: u32 = 10;
/// After this time the user is told what is waited for.
const NOTICE_AFTER: Duration = Duration::from_secs(2);

/// A connection to a server.
pub struct Client {
    dir: StoreDir,
    runtime: Runtime,
    sender: Mutex<Sender>,
}

type Sender = SendRequest<Full<Bytes>>;

/// What became of a request that was not answered.
enum Unanswered {
    /// The connection was closed before the request was sent: nobody heard it.
    Unheard(hyper::Error),
    /// The server went away over it.
    Lost(hyper::Error),
    /// It was answered with an error, or with something that makes no sense.
    Refused(anyhow::Error),
}

impl From<Unanswered> for anyhow::Error {
    fn from(unanswered: Unanswered) -> anyhow::Error {
        match unanswered {
            Unanswered::Unheard(e) => {
                log::debug!("the server went away before it was asked: {e}");
                Error::ServerUnreachable.into()
            }
            Unanswered::Lost(e) => {
                log::debug!("the server went away: {e}");
                Error::ServerLost.into()
            }
            Unanswered::Refused(error) => error,
        }
    }
}

async fn exchange<R: Request>(sender: &mut Sender, asked: &R) -> Result<R::Answer, Unanswered> {
    let request = write(asked).map_err(Unanswered::Refused)?;
    sender.ready().await.map_err(Unanswered::Unheard)?;
    let sent = sender.send_request(request).await;
    let response = sent.map_err(|e| match e.is_canceled() {
        true => Unanswered::Unheard(e),
        false => Unanswered::Lost(e),
    })?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(Unanswered::Lost)?.to_bytes();
    let refused = |error: Error| Unanswered::Refused(error.into());
    let server = parts.headers.get(PROTOCOL_HEADER);
    let server = server.map_or("unknown".into(), |v| String::from_utf8_lossy(v.as_bytes()));
    if server != PROTOCOL && !R::IN_EVERY_PROTOCOL {
        let (server, command) = (server.into_owned(), PROTOCOL.into());
        return Err(refused(Error::OtherProtocol { server, command }));
    }
    if !parts.status.is_success() {
        let failure = Failure::decode(&String::from_utf8_lossy(&body));
        return Err(Unanswered::Refused(failure.into()));
    }
    R::Answer::decode(&body).map_err(Unanswered::Refused)
}

/// A request as HTTP has it.
fn write<R: Request>(asked: &R) -> Result<hyper::Request<Full<Bytes>>> {
    let mut uri = R::PATH.to_owned();
    let mut body = Vec::new();
    match R::METHOD {
        Method::Get => {
            let query = serde_urlencoded::to_string(asked)?;
            if !query.is_empty() {
                uri = format!("{uri}?{query}");
            }
        }
        Method::Post => {
            serde_json::to_writer(&mut body, asked)?;
            body.push(b'\n');
            asked.bytes().into_iter().for_each(|bytes| body.extend_from_slice(bytes));
        }
    }
    let mut request = hyper::Request::builder().method(R::METHOD.name()).uri(uri);
    request = request.header(HOST, "wasmfs");
    // An older server has to be understood as far as it takes to replace it.
    if !R::IN_EVERY_PROTOCOL {
        request = request.header(PROTOCOL_HEADER, PROTOCOL);
    }
    Ok(request.body(Full::new(body.into()))?)
}

impl Client {
    /// Connects to the server that owns the store in `dir`, and hears from it;
    /// `None` if there is none. One that is just being replaced is waited for.
    pub fn reach(dir: &StoreDir) -> Result<Option<(Client, Status)>> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let Some(sender) = Client::connect(&runtime, dir)? else { return Ok(None) };
        let client = Client { dir: dir.clone(), runtime, sender: Mutex::new(sender) };
        Ok(client.hear()?.map(|status| (client, status)))
    }

    /// What the server of the store in `dir` says of itself, if there is one.
    pub fn status_of(dir: &StoreDir) -> Result<Option<Status>> {
        Ok(Client::reach(dir)?.map(|(_, status)| status))
    }

    /// Asks for something: again, if it is sure that nobody heard it, or if that does no harm and
    /// the server was replaced meanwhile.
    pub fn ask<R: Request>(&self, asked: &R) -> Result<R::Answer> {
        let mut attempt = 1;
        loop {
            let answer = {
                let mut sender = self.sender.lock().unwrap_or_else(|e| e.into_inner());
                self.runtime.block_on(exchange(&mut sender, asked))
            };
            let again = match &answer {
                Err(Unanswered::Unheard(_)) => true,
                Err(Unanswered::Lost(_)) => asked.is_repeatable(),
                _ => false,
            };
            if !again || attempt == ATTEMPTS || !self.reconnect()? {
                return Ok(answer?);
            }
            attempt += 1;
        }
    }

    /// Connects to the server that owns the store in `dir`; `None` if there is none.
    fn connect(runtime: &Runtime, dir: &StoreDir) -> Result<Option<Sender>> {
        let Some(socket) = reach(dir, SOCKET, SocketType::STREAM)? else { return Ok(None) };
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true).context("connecting to the server of the store")?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::from_std(stream)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        });
        Ok(Some(sender.context("talking to the server of the store")?))
    }

    /// Connects once more, to whoever serves now; false if nobody does.
    fn reconnect(&self) -> Result<bool> {
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
            let left = ANSWER_TIMEOUT.saturating_sub(start.elapsed());
            match self.answer_within(NOTICE_AFTER.min(left)) {
                Ok(Some(status)) => return Ok(Some(status)),
                Err(Unanswered::Refused(error)) => return Err(error),
                _ if left.is_zero() => {
                    let (seconds, log) = (ANSWER_TIMEOUT.as_secs(), self.dir.named(LOG));
                    return Err(Error::ServerSilent { seconds, log }.into());
                }
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

    fn answer_within(&self, limit: Duration) -> Result<Option<Status>, Unanswered> {
        let mut sender = self.sender.lock().unwrap_or_else(|e| e.into_inner());
        self.runtime.block_on(async {
            let asked = exchange(&mut sender, &StatusRequest {});
            // A request that is not answered in time goes with its connection.
            tokio::time::timeout(limit, asked).await.map_or(Ok(None), |status| status.map(Some))
        })
    }
}
