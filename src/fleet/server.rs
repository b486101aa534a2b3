//! Sockets: TLS 1.3 and 1.2, HTTP/1.1, with a deadline for every step that a stranger could draw out.

use crate::fleet::audit::Trail;
use crate::fleet::home::Home;
use crate::fleet::http::{self, Endpoint};
use crate::host::cancel::Cancel;
use anyhow::Context as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// How long a stranger may take for TLS, and then for the head of each request.
const STEP: Duration = Duration::from_secs(10);
/// How long a connection may live: a box's whole enrollment, and a few long polls.
const CONNECTION: Duration = Duration::from_secs(600);
/// Connections at a time; more wait in the kernel's queue. A waiting box holds one, of some tens of KiB.
const CONNECTIONS: usize = 16_384;
/// Threads for what takes its time: grants, operators, counts.
const BLOCKING: usize = 32;
/// How often it is looked whether anything changed for those that wait.
const LOOK: Duration = Duration::from_millis(200);
/// How long calls may take to end when the endpoint stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// An endpoint whose socket listens.
pub struct Server {
    listener: std::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    endpoint: Arc<Endpoint>,
    trail: Trail,
}

impl Server {
    /// Listens at `address` for the fleet in `home`; `tell` gets what a person at the endpoint should know.
    ///
    /// # Errors
    /// When a key or the address cannot be used.
    pub fn bind(
        home: &Home,
        threshold: usize,
        address: SocketAddr,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> anyhow::Result<Server> {
        let service = home.service(threshold)?;
        let endpoint = Endpoint::new(service, &home.token()?, tell)?;
        let trail = Trail::open(&home.path("audit.jsonl"))?;
        let tls = tls(home)?;
        raise_open_files();
        let listener =
            std::net::TcpListener::bind(address).with_context(|| format!("listening at {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(Server { listener, tls: Arc::new(tls), endpoint, trail })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `cancel` is raised, and then lets calls end.
    ///
    /// # Errors
    /// When the runtime or the socket fails.
    pub fn run(self, cancel: &Cancel) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .max_blocking_threads(BLOCKING)
            .enable_all()
            .build()
            .context("starting the runtime")?;
        runtime.block_on(self.serve(cancel.clone()))
    }

    async fn serve(self, cancel: Cancel) -> anyhow::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let acceptor = TlsAcceptor::from(self.tls);
        let service = TowerToHyperService::new(http::router(self.endpoint.clone()));
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let follower = tokio::spawn(follow(self.endpoint.clone(), self.trail, cancel.clone()));
        while !cancel.is_cancelled() {
            let permit = room.clone().acquire_owned().await?;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = cancelled(&cancel) => break,
            };
            let Ok((socket, _)) = accepted else {
                // Out of descriptors, most likely: waiting is all that helps.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (acceptor, service, endpoint, watcher) =
                (acceptor.clone(), service.clone(), self.endpoint.clone(), graceful.watcher());
            tokio::spawn(async move {
                let served = tokio::time::timeout(CONNECTION, converse(socket, acceptor, service, watcher));
                if !matches!(served.await, Ok(Ok(()))) {
                    endpoint.metrics.refused_connection();
                }
                drop(permit);
            });
        }
        drop(listener);
        self.endpoint.wake(&[], true);
        // Whoever does not end in time is cut off, and repeats itself.
        let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
        follower.await?
    }
}

async fn converse(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    service: TowerToHyperService<axum::Router>,
    watcher: Watcher,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let stream = tokio::time::timeout(STEP, acceptor.accept(socket)).await??;
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(STEP)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await?;
    Ok(())
}

/// Wakes who waits for a change, and writes the audit's file; once more at the end.
async fn follow(endpoint: Arc<Endpoint>, mut trail: Trail, cancel: Cancel) -> anyhow::Result<()> {
    let mut last = endpoint.service.changes(0)?.last; // nobody waits yet
    loop {
        let stop = cancel.is_cancelled();
        let there = endpoint.clone();
        let (changes, followed);
        (changes, followed, trail) = tokio::task::spawn_blocking(move || {
            let followed = trail.follow(there.service.store());
            (there.service.changes(last), followed, trail)
        })
        .await?;
        if let Err(error) = followed {
            endpoint.tell(&format!("the audit log: {error:#}"));
        }
        match changes {
            Ok(changes) => {
                endpoint.wake(&changes.devices, changes.any);
                last = changes.last;
            }
            Err(error) => endpoint.tell(&format!("{error:#}")),
        }
        if stop {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn tls(home: &Home) -> anyhow::Result<rustls::ServerConfig> {
    let shown = home.certificate()?;
    let chain = vec![CertificateDer::from(shown.certificate)];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.to_vec()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("using the certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Raises the soft limit of open files to the hard one: ten thousand boxes that wait are as many sockets.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // fewer boxes at a time then
}
