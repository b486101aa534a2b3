//! HTTP: URLs → bytes in memory or in a file, with resume, retries and limits; a blocking front on one tokio runtime.
//!
//! TLS is rustls on aws-lc-rs with the platform's trust store (`SSL_CERT_FILE`, a company's own authority), proxies are
//! those of the environment. What comes is not trusted: sizes are capped, redirects counted, stalls ended, and a file's
//! digest is the only thing that makes it good. `file:` URLs are read in the same way. Knows no archive and no registry.

mod transfer;

use super::cancel::Cancel;
use crate::error::{self, Kind, Mark as _};
use crate::model::Digest;
use anyhow::{Context as _, anyhow};
use reqwest::redirect::Policy;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

/// How long to wait and how often to try.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection to stand.
    pub connect: Duration,
    /// For the next bytes of an answer; also the window in which a kibibyte must have come.
    pub read: Duration,
    /// Tries without progress before giving up.
    pub tries: u32,
    /// Before the second try; doubled for each further one, with up to half of it added or taken at random.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(20),
            read: Duration::from_secs(30),
            tries: 5,
            backoff: Duration::from_millis(400),
        }
    }
}

/// Connections that [`Client::each`] holds at once: enough to fill a line with small packages, few enough for a mirror.
pub const CONNECTIONS: usize = 8;

/// Redirects followed before it is called a loop; what browsers and curl allow is 20 to 50, mirrors need two.
const REDIRECTS: usize = 10;

/// Redirects are followed so many times, and never out of TLS: what is not signed, such as a release's sums, came over it.
fn redirects() -> Policy {
    Policy::custom(|attempt| match attempt.previous().last() {
        Some(from) if is_downgrade(from, attempt.url()) => {
            attempt.error("the redirect leaves TLS, which is not followed")
        }
        _ => Policy::limited(REDIRECTS).redirect(attempt),
    })
}

fn is_downgrade(from: &reqwest::Url, to: &reqwest::Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

/// What a download must turn out to be.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its size in bytes, where it is known beforehand.
    pub size: Option<u64>,
}

/// Fetches by URL. Clones share connections.
#[derive(Clone)]
pub struct Client(Option<Arc<Inner>>);

struct Inner {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    patience: Patience,
}

impl Client {
    /// A client with the usual patience.
    ///
    /// # Errors
    /// When the trust store cannot be read or no thread can be started.
    pub fn new() -> anyhow::Result<Client> {
        Client::with_patience(Patience::default())
    }

    /// A client with another patience than the usual.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_patience(patience: Patience) -> anyhow::Result<Client> {
        install_crypto();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("http")
            .enable_all()
            .build()
            .context("starting the network threads")?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect)
            .read_timeout(patience.read)
            .redirect(redirects())
            .pool_max_idle_per_host(CONNECTIONS)
            .build()
            .context("setting up TLS")?;
        Ok(Client(Some(Arc::new(Inner { runtime, http, patience }))))
    }

    /// A client that refuses every request, naming it: for `--offline`.
    pub fn offline() -> Client {
        Client(None)
    }

    /// Whether it refuses every request.
    pub fn is_offline(&self) -> bool {
        self.0.is_none()
    }

    /// The runtime, for clients of other protocols that are to share it; `None` offline.
    pub fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.0.as_ref().map(|inner| inner.runtime.handle())
    }

    fn online(&self, url: &str) -> anyhow::Result<&Inner> {
        self.0
            .as_deref()
            .ok_or_else(|| anyhow!("{url} is not in the cache, and nothing is fetched offline"))
            .kind(Kind::Fetch)
            .hint("run once without `--offline` to fill the cache")
    }

    /// The bytes at `url`, at most `limit` of them.
    ///
    /// # Errors
    /// [`Kind::Fetch`] with URL and cause, when nothing comes or more than `limit`; [`Kind::Interrupted`].
    pub fn get(&self, url: &str, limit: u64, cancel: &Cancel) -> anyhow::Result<Vec<u8>> {
        if let Some(path) = file_url(url)? {
            let mut bytes = vec![];
            open(&path, url)?.take(limit + 1).read_to_end(&mut bytes).with_context(|| reading(url))?;
            if bytes.len() as u64 > limit {
                return Err(error::of(Kind::Fetch, too_large(url, limit)));
            }
            return Ok(bytes);
        }
        let mut bytes = vec![];
        let mut sink = transfer::Memory { bytes: &mut bytes, limit };
        self.online(url)?.transfer(url, &mut sink, cancel)?;
        Ok(bytes)
    }

    /// Fetches `url` into `file`, which holds nothing or the beginning of it from an earlier try, and leaves it at its
    /// end. `progress` is told how many bytes have come since it was last told.
    ///
    /// # Errors
    /// [`Kind::Verify`] with URL, wanted and got, when digest or size are others; `file` is then empty.
    /// [`Kind::Fetch`] with URL and cause; `file` then keeps what came, for another try. [`Kind::Interrupted`].
    pub fn download(
        &self,
        url: &str,
        file: &mut File,
        expect: Expect,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> anyhow::Result<()> {
        let resumed = file.metadata()?.len() > 0;
        match self.download_once(url, file, expect, progress, cancel) {
            // What an earlier run left may be what is wrong: once more from the start.
            Err(e) if resumed && error::kind(&e) == Kind::Verify => {
                empty(file)?;
                self.download_once(url, file, expect, progress, cancel)
            }
            result => result,
        }
        .inspect_err(|e| {
            if error::kind(e) == Kind::Verify {
                let _ = empty(file); // the caller removes the file; its bytes must not be resumed from
            }
        })
    }

    /// Fetches `url`, of which nothing is known yet, into the empty `file`: its digest and length. A try that is cut begins
    /// anew, so that halves of two versions never meet.
    ///
    /// # Errors
    /// [`Kind::Fetch`] with URL and cause, also when there is more than `limit`; [`Kind::Interrupted`].
    pub fn discover(
        &self,
        url: &str,
        file: &mut File,
        limit: u64,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> anyhow::Result<(Digest, u64)> {
        let mut sink = transfer::Unknown::new(file, limit, url, progress);
        match file_url(url)? {
            Some(path) => sink.copy_from(open(&path, url)?, cancel)?,
            None => self.online(url)?.transfer(url, &mut sink, cancel)?,
        }
        sink.finish()
    }

    fn download_once(
        &self,
        url: &str,
        file: &mut File,
        expect: Expect,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> anyhow::Result<()> {
        let mut sink = transfer::ToFile::resume(file, expect, url, progress)?;
        match file_url(url)? {
            Some(path) => sink.copy_from(open(&path, url)?, cancel)?,
            None if sink.is_complete() => {}
            None => self.online(url)?.transfer(url, &mut sink, cancel)?,
        }
        sink.finish()
    }

    /// Calls `work` for every item, up to [`CONNECTIONS`] at a time, in their order; the first failure stops the rest.
    ///
    /// # Errors
    /// That first failure.
    pub fn each<T: Sync, R: Send + Sync>(
        &self,
        items: &[T],
        cancel: &Cancel,
        work: impl Fn(&T) -> anyhow::Result<R> + Sync,
    ) -> anyhow::Result<Vec<R>> {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed = std::sync::Mutex::new(None);
        let done: Vec<std::sync::OnceLock<R>> = items.iter().map(|_| std::sync::OnceLock::new()).collect();
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(items.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(item) = items.get(i) else { break };
                        match cancel.check().and_then(|()| work(item)) {
                            Ok(result) => drop(done[i].set(result)),
                            Err(e) => {
                                next.store(items.len(), std::sync::atomic::Ordering::Relaxed);
                                if let Ok(mut failed) = failed.lock() {
                                    failed.get_or_insert(e);
                                }
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner() {
            Ok(Some(e)) => Err(e),
            _ => done
                .into_iter()
                .map(|r| r.into_inner().ok_or_else(|| anyhow!("a download thread ended early")))
                .collect(),
        }
    }
}

/// Makes aws-lc-rs the provider of every rustls in the process: two providers are compiled in through dependencies, and
/// rustls panics when it has to choose.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that somebody installed one before, which serves as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

fn reading(url: &str) -> String {
    format!("reading {url}")
}

fn too_large(url: &str, limit: u64) -> anyhow::Error {
    anyhow!("{url} is larger than {}, which is all that was expected", crate::model::Bytes(limit))
}

fn empty(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0)).map(drop)
}

fn open(path: &std::path::Path, url: &str) -> anyhow::Result<File> {
    File::open(path).with_context(|| reading(url)).kind(Kind::Fetch)
}

/// The path of a `file:` URL (RFC 8089), percent-decoded; `None` for http and https.
fn file_url(url: &str) -> anyhow::Result<Option<PathBuf>> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(None);
    }
    let parsed =
        reqwest::Url::parse(url).with_context(|| format!("parsing the URL {url}")).kind(Kind::Input)?;
    match parsed.to_file_path() {
        Ok(path) if parsed.scheme() == "file" => Ok(Some(path)),
        _ => Err(anyhow!("{url} is neither an http:, an https: nor a file: URL")).kind(Kind::Input),
    }
}

/// Where the bytes of an answer go.
trait Sink {
    /// How many bytes it has.
    fn position(&self) -> u64;
    /// Gets ready for a try; from which byte on.
    fn begin(&mut self) -> u64;
    /// Forgets what it has.
    fn restart(&mut self) -> anyhow::Result<()>;
    /// Takes the next bytes.
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
    /// Says how many bytes will come in all, once the server has told.
    fn announce(&mut self, url: &str, total: u64) -> anyhow::Result<()>;
}

#[cfg(test)]
pub(crate) mod tests;
