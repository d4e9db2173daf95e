//! The server's side of the control socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use wasmfs_fs::{Mounts, Worker};
use wasmfs_store::maintenance::Live;
use wasmfs_store::{Publish, Source, Staged, StagedSource, Store, Version};

use super::changes::{Alias, ChangeRequest, Committed, Pin, Remove, Rollback, SetDefault};
use super::http::{Answer, Query, blocking, json, read, stream};
use super::messages::{
    CollectRequest, MountRequest, PROTOCOL, PROTOCOL_HEADER, PublishAnswer, PublishItem,
    PublishRequest, RecordsPage, ReloadAnswer, SourceItem, Status, Upload, piece,
};
use super::status::status;

use crate::ui::Failure;

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

    fn status(&self) -> Status {
        status(&self.worker, self.since)
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

/// What was uploaded.
enum Staging {
    Artifact(Staged),
    Source(StagedSource),
}

/// One client. Its uploads are taken back when it goes away.
struct ClientConnection {
    server: Arc<Server>,
    uploads: Mutex<HashMap<u64, Staging>>,
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
    let connection = Arc::new(ClientConnection {
        server,
        uploads: Mutex::default(),
        next_upload: AtomicU64::new(1),
    });
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

impl ClientConnection {
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
            (&Method::GET, "/v1/status") => json(&self.server.status()),
            (&Method::GET, "/v1/keys") => {
                let prefix = query.text("prefix").unwrap_or_default();
                self.store(move |store| json(&store.keys(&prefix)?)).await
            }
            (&Method::GET, "/v1/versions") => {
                let key = query.key()?;
                self.store(move |store| json(&store.versions(&key)?)).await
            }
            (&Method::GET, "/v1/version") => {
                let (key, version) = (query.key()?, query.number("version")?.map(Version));
                self.store(move |store| json(&store.version(&key, version)?)).await
            }
            (&Method::GET, "/v1/latest") => {
                let limit = query.number("limit")?.unwrap_or(100);
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                self.store(move |store| json(&store.latest(limit)?)).await
            }
            (&Method::GET, "/v1/engines") => self.store(|store| json(&store.engines()?)).await,
            (&Method::GET, "/v1/engine") => {
                let name = query.text("name").unwrap_or_default();
                self.store(move |store| json(&store.engine(&name)?)).await
            }
            (&Method::GET, "/v1/payload") => {
                let (sha256, offset) = (query.sha("sha256")?, query.number("offset")?);
                self.store(move |store| json(&piece(store, &sha256, offset.unwrap_or(0))?)).await
            }
            (&Method::POST, "/v1/uploads") => {
                let source = query.text("of").is_some_and(|of| of == "source");
                self.upload(request.into_body(), source).await
            }
            (&Method::POST, "/v1/publish") => {
                let items = read(request).await?;
                blocking(move || self.publish(items)).await
            }
            (&Method::POST, Rollback::PATH) => self.change::<Rollback>(request).await,
            (&Method::POST, Remove::PATH) => self.change::<Remove>(request).await,
            (&Method::POST, SetDefault::PATH) => self.change::<SetDefault>(request).await,
            (&Method::POST, Alias::PATH) => self.change::<Alias>(request).await,
            (&Method::POST, Pin::PATH) => self.change::<Pin>(request).await,
            (&Method::GET, "/v1/fates") => {
                let (key, policy) = (query.key()?, query.policy()?);
                blocking(move || {
                    let mounts = self.server.mounts();
                    json(&mounts.fates(&key, &policy.of(mounts.store())?)?)
                })
                .await
            }
            (&Method::GET, "/v1/users") => {
                let sha256 = query.sha("sha256")?;
                self.store(move |store| json(&store.users(&sha256)?)).await
            }
            (&Method::GET, "/v1/records") => {
                let after = query.bytes("after")?;
                self.store(move |store| json(&RecordsPage::of(store.page(after.as_deref())?))).await
            }
            (&Method::POST, "/v1/collect") => {
                let CollectRequest { policy, after, dry_run } = read(request).await?;
                blocking(move || {
                    let mounts = self.server.mounts();
                    let policy = policy.of(mounts.store())?;
                    json(&mounts.collect(&policy, after.as_deref(), dry_run, None)?)
                })
                .await
            }
            (&Method::POST, "/v1/tidy") => {
                blocking(move || json(&self.server.mounts().tidy()?)).await
            }
            (&Method::POST, "/v1/mount") => {
                let MountRequest { mount_point, options } = read(request).await?;
                blocking(move || {
                    self.server.worker.mount(&mount_point, options)?;
                    json(&self.server.status())
                })
                .await
            }
            (&Method::POST, "/v1/reload") => self.reload().await,
            (method, path) => Err(Failure::usage(
                format!("there is no {method} {path}"),
                "the server may be of another wasmfs: `wasmfs reload` has today's serve",
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
    async fn upload(self: Arc<Self>, body: Incoming, source: bool) -> Answer {
        let connection = self.clone();
        let staged = stream(body, move |bytes| {
            let store = connection.server.mounts().store();
            if source {
                store.stage_source(bytes).map(Staging::Source)
            } else {
                store.stage(bytes).map(Staging::Artifact)
            }
        });
        let staged = staged.await??;
        let upload = self.next_upload.fetch_add(1, Ordering::Relaxed);
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).insert(upload, staged);
        json(&Upload { upload })
    }

    fn publish(&self, request: PublishRequest) -> Answer {
        let PublishRequest { items, options } = request;
        let mut requests = Vec::with_capacity(items.len());
        {
            let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            let mut take = |upload| uploads.remove(&upload).ok_or_else(|| no_upload(upload));
            for PublishItem { key, upload, source, producer, recompiled_from } in items {
                let Staging::Artifact(staged) = take(upload)? else {
                    return Err(no_upload(upload).into());
                };
                let source = match source {
                    None => None,
                    Some(SourceItem::Stored(sha256)) => Some(Source::Stored(sha256)),
                    Some(SourceItem::Upload(upload)) => match take(upload)? {
                        Staging::Source(source) => Some(Source::Staged(source)),
                        Staging::Artifact(_) => return Err(no_upload(upload).into()),
                    },
                };
                requests.push(Publish {
                    make_default: options.default,
                    engine: options.engine.clone(),
                    source,
                    producer,
                    recompiled_from,
                    ..Publish::new(key, staged)
                });
            }
        }
        let commit = |store: &Store| store.publish(requests, options.together);
        let (results, visible) = self.server.mounts().commit(commit)?;
        let results = results.into_iter().map(|r| r.map_err(|e| Failure::of(&e.into()))).collect();
        json(&PublishAnswer { results, visible })
    }

    async fn change<C: ChangeRequest>(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let change: C = read(request).await?;
        blocking(move || {
            let (outcome, visible) = self.server.mounts().commit(|store| change.apply(store))?;
            json(&Committed { outcome, visible })
        })
        .await
    }
}

fn no_upload(upload: u64) -> Failure {
    Failure::usage(format!("there is no upload {upload}"), "upload over the same connection first")
}
