//! The server's side of the control socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Read};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use wasmfs_fs::{Mounts, Worker};
use wasmfs_store::{Key, Publish, Staged, Store};

use super::{
    KeeperStatus, MountRequest, MountStatus, PROTOCOL, PROTOCOL_HEADER, PublishAnswer, PublishItem,
    ReloadAnswer, RemoveAnswer, RollbackAnswer, Status, Upload, VersionOf, WorkerStatus,
};
use crate::failure::Failure;
use crate::paths::LOG;

/// The largest JSON request, in bytes: a batch of some 100,000 keys.
const MAX_REQUEST: usize = 64 << 20;
/// Pieces of an upload that wait for the disk.
const UPLOAD_QUEUE: usize = 4;

/// What every connection shares.
pub struct Server {
    worker: Arc<Worker>,
    /// When this process began to serve, since 1970.
    since: Duration,
    /// Whoever waits for what comes of a reload.
    reload: Mutex<Option<oneshot::Sender<Result<(), Failure>>>>,
}

impl Server {
    /// The control socket's side of `worker`.
    pub fn new(worker: Arc<Worker>, since: Duration) -> Server {
        Server { worker, since, reload: Mutex::default() }
    }

    fn mounts(&self) -> &Mounts {
        self.worker.mounts()
    }

    /// Answers whoever asked for a reload.
    pub fn answer_reload(&self, answer: Result<(), Failure>) {
        let waiting = self.reload.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            // It may have gone.
            let _ = waiting.send(answer);
        }
    }
}

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

/// One client. Its uploads are taken back when it goes away.
struct Connection {
    server: Arc<Server>,
    uploads: Mutex<HashMap<u64, Staged>>,
    next_upload: AtomicU64,
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
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
        Ok(peer) => return log::warn!("a command of uid {} was refused", peer.uid()),
        Err(e) => return log::warn!("a command of an unknown user was refused: {e}"),
    }
    let connection =
        Arc::new(Connection { server, uploads: Mutex::default(), next_upload: AtomicU64::new(1) });
    let service = service_fn(|request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
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
}

type Answer = Result<Response<Full<Bytes>>>;

impl Connection {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match self.route(request).await {
            Ok(response) => response,
            Err(error) => {
                let failure = Failure::of(&error);
                let status =
                    if error.downcast_ref::<wasmfs_store::Error>().is_some() || failure.usage {
                        StatusCode::BAD_REQUEST
                    } else {
                        StatusCode::INTERNAL_SERVER_ERROR
                    };
                let mut response = json(&failure).unwrap_or_default();
                *response.status_mut() = status;
                response
            }
        };
        response.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
        response
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        if let Some(version) = request.headers().get(PROTOCOL_HEADER)
            && version != PROTOCOL
        {
            return Err(Failure::usage(
                format!("this server speaks protocol {PROTOCOL}, the command {version:?}"),
                "use the same wasmfs for both: `wasmfs reload`, or unmount and mount again",
            )
            .into());
        }
        let query = Query::of(&request);
        let route = (request.method().clone(), request.uri().path().to_owned());
        match (&route.0, route.1.as_str()) {
            (&Method::GET, "/v1/status") => json(&status(&self.server)),
            (&Method::GET, "/v1/keys") => {
                let prefix = query.text("prefix").unwrap_or_default();
                self.store(move |store| json(&store.keys(&prefix)?)).await
            }
            (&Method::GET, "/v1/versions") => {
                let key = query.key()?;
                self.store(move |store| json(&store.versions(&key)?)).await
            }
            (&Method::GET, "/v1/version") => {
                let (key, version) = (query.key()?, query.number("version")?);
                self.store(move |store| json(&store.version(&key, version)?)).await
            }
            (&Method::GET, "/v1/latest") => {
                let limit = query.number("limit")?.unwrap_or(100) as usize;
                self.store(move |store| json(&store.latest(limit)?)).await
            }
            (&Method::POST, "/v1/uploads") => self.upload(request.into_body()).await,
            (&Method::POST, "/v1/publish") => {
                let items = read(request).await?;
                blocking(move || self.publish(items)).await
            }
            (&Method::POST, "/v1/rollback") => {
                let VersionOf { key, version } = read(request).await?;
                blocking(move || {
                    let rollback = |store: &Store| store.rollback(&key, version);
                    let (published, visible) = self.server.mounts().commit(rollback)?;
                    json(&RollbackAnswer { published, visible })
                })
                .await
            }
            (&Method::POST, "/v1/remove") => {
                let VersionOf { key, version } = read(request).await?;
                blocking(move || {
                    let remove = |store: &Store| store.remove(&key, version);
                    let (removed, visible) = self.server.mounts().commit(remove)?;
                    json(&RemoveAnswer { removed, visible })
                })
                .await
            }
            (&Method::POST, "/v1/mount") => {
                let MountRequest { mount_point, allow_other } = read(request).await?;
                blocking(move || {
                    self.server.worker.mount(&mount_point, allow_other)?;
                    json(&status(&self.server))
                })
                .await
            }
            (&Method::POST, "/v1/reload") => self.reload().await,
            (method, path) => Err(Failure::usage(
                format!("there is no {method} {path}"),
                "ARCHITECTURE.md names the table of requests",
            )
            .into()),
        }
    }

    async fn store(self: Arc<Self>, f: impl FnOnce(&Store) -> Answer + Send + 'static) -> Answer {
        blocking(move || f(self.server.mounts().store())).await
    }

    /// Answers when this process lets go, or when it is known that it stays.
    async fn reload(&self) -> Answer {
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.server.reload.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_some() {
                return Err(wasmfs_fs::Error::Reloading.into());
            }
            *waiting = Some(sender);
        }
        if let Err(e) = self.server.worker.reload() {
            self.server.answer_reload(Ok(()));
            return Err(e.into());
        }
        answer.await.context("a reload")??;
        json(&ReloadAnswer {
            pid: std::process::id(),
            replacements: self.server.worker.replacements(),
        })
    }

    /// Streams a body into the store. A body that ends early leaves nothing.
    async fn upload(self: Arc<Self>, mut body: Incoming) -> Answer {
        let (sender, receiver) = mpsc::channel(UPLOAD_QUEUE);
        let connection = self.clone();
        let staging = tokio::task::spawn_blocking(move || {
            let reader = Pieces { receiver, piece: Bytes::new() };
            connection.server.mounts().store().stage(reader)
        });
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => frame.into_data().map_err(|_| io::ErrorKind::InvalidData.into()),
                Err(e) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, e)),
            };
            if sender.send(piece).await.is_err() {
                // Staging failed; its error is below. The rest of the body is read and dropped.
                continue;
            }
        }
        drop(sender);
        let staged = staging.await.context("an upload")??;
        let upload = self.next_upload.fetch_add(1, Ordering::Relaxed);
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(upload, staged);
        json(&Upload { upload })
    }

    fn publish(&self, items: Vec<PublishItem>) -> Answer {
        let mut requests = Vec::with_capacity(items.len());
        {
            let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            for PublishItem { key, upload, default } in items {
                let Some(staged) = uploads.remove(&upload) else {
                    return Err(Failure::usage(
                        format!("there is no upload {upload}"),
                        "upload over the same connection first",
                    )
                    .into());
                };
                requests.push(Publish { key, staged, make_default: default });
            }
        }
        let (results, visible) = self.server.mounts().commit(|store| store.publish(requests))?;
        let results = results.into_iter().map(|r| r.map_err(|e| Failure::of(&e.into()))).collect();
        json(&PublishAnswer { results, visible })
    }
}

/// What this server says of itself.
pub fn status(server: &Server) -> Status {
    let worker = &server.worker;
    let mounts = server.mounts().all().into_iter().map(|mount| MountStatus {
        mount_point: mount.mount_point.clone(),
        attached: mount.is_attached(),
        allow_other: mount.allow_other,
        connection: mount.device.1,
    });
    let log = std::fs::read_link("/proc/self/fd/2").ok();
    Status {
        store: server.mounts().store().dir().to_owned(),
        mounts: mounts.collect(),
        keeper: worker.keeper().map(|keeper| KeeperStatus {
            pid: keeper.pid,
            version: keeper.version,
            since: wasmfs_store::rfc3339(keeper.since),
            reload_failed: keeper.reload_failed.map(|why| Failure::decode(&why).message),
        }),
        worker: WorkerStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: wasmfs_store::rfc3339(u64::try_from(server.since.as_nanos()).unwrap_or(0)),
            replacements: worker.replacements(),
            last_pause_ms: worker.last_pause_us().map(|us| us as f64 / 1000.0),
            resident_bytes: resident_bytes(),
        },
        log: log.filter(|path| path.file_name().is_some_and(|name| name == LOG)),
    }
}

/// The second field of `/proc/self/statm` is in pages (proc_pid_statm(5)).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn json<T: Serialize>(value: &T) -> Answer {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    let mut response = Response::new(Full::new(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let body = body.map_err(|e| anyhow::anyhow!("reading the request: {e}"))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| {
        Failure::usage(format!("the request can't be understood: {e}"), "see ARCHITECTURE.md")
            .into()
    })
}

async fn blocking(f: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    tokio::task::spawn_blocking(f).await.context("a command")?
}

/// The query of a request's URI.
struct Query(HashMap<String, String>);

impl Query {
    fn of(request: &Request<Incoming>) -> Query {
        let query = request.uri().query().unwrap_or_default();
        Query(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn key(&self) -> Result<Key> {
        Ok(Key::new(self.text("key").unwrap_or_default())?)
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let parse = |text: &String| {
            text.parse().map_err(|_| {
                Failure::usage(format!("{name}={text} is not a number"), "see ARCHITECTURE.md")
            })
        };
        Ok(self.0.get(name).map(parse).transpose()?)
    }
}

/// An upload's body as a reader, for a thread that may wait.
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
