//! Blobs and manifests to and from a registry, each whole and checked, or not at all.
//!
//! A blocking face over oci-client, with what that lacks: retries with backoff, a new login when a token ran out,
//! limits on what is taken into memory, and skipping what the registry has. What to send in which order is
//! `publish`'s business. OCI distribution-spec v1.1.

use super::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST, MAX_DOCUMENT, Reference, credentials,
};
use crate::error::{Kind, Mark as _};
use crate::model::Digest;
use crate::model::digest::Hasher;
use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use oci_distribution::client::{Client, ClientConfig, ClientProtocol};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Reference as ClientReference, RegistryOperation};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

mod retry;
use retry::Attempt;

/// Larger blobs go in chunks, because proxies cut long requests; smaller ones in one request, which is twice as fast.
const MONOLITHIC: u64 = 64 << 20;
/// Blobs under way at a time: enough to hide latency, few enough for a shared uplink.
const AT_ONCE: usize = 4;
/// No byte for so long means that the other side is gone.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(20);
/// The piece in which a file is read for sending, in bytes.
const PIECE: usize = 1 << 20;

/// One repository of a registry.
pub struct Registry {
    reference: Reference,
    auth: RegistryAuth,
    plain: bool,
    runtime: tokio::runtime::Runtime,
    clients: Mutex<Clients>,
    http: reqwest::Client,
}

#[derive(Clone)]
struct Clients {
    monolithic: Client,
    chunked: Client,
}

/// A manifest or an index as the registry has it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Type, digest and size; the digest is that of the bytes.
    pub descriptor: Descriptor,
    /// The bytes, at most [`MAX_DOCUMENT`].
    pub bytes: Vec<u8>,
}

impl Registry {
    /// Gets ready to speak to the repository of `reference`, with the user's credentials. Nothing is sent yet.
    /// `insecure` allows HTTP without TLS; to this machine itself it is always used.
    ///
    /// # Errors
    /// When credentials cannot be read, or the machine is in trouble.
    pub fn open(reference: &Reference, insecure: bool) -> anyhow::Result<Registry> {
        // Two crypto providers may be compiled in; rustls wants to be told. A second call changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plain = insecure || reference.is_loopback();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let http = reqwest::Client::builder().read_timeout(SILENCE).connect_timeout(CONNECT).build()?;
        Ok(Registry {
            reference: reference.clone(),
            auth: credentials::lookup(reference.registry())?,
            plain,
            runtime,
            clients: Mutex::new(Clients::new(plain)?),
            http,
        })
    }

    /// The reference that it was opened with.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Sends the blobs that the registry lacks, from the files given; at most four at a time. What is in the
    /// repository `mount_from` of the same registry is taken from there.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when the registry refuses or stays away; what a file says.
    pub fn push_blobs(
        &self,
        blobs: Vec<(Descriptor, PathBuf)>,
        mount_from: Option<&Reference>,
    ) -> anyhow::Result<()> {
        let mount_from = mount_from.filter(|m| m.registry() == self.reference.registry());
        self.runtime.block_on(
            futures_util::stream::iter(blobs)
                .map(|(descriptor, path)| async move {
                    let context =
                        format!("pushing blob {} to {}", descriptor.digest(), self.reference.name());
                    self.push_blob(&descriptor, &path, mount_from)
                        .await
                        .with_context(|| context)
                        .kind(Kind::Fetch)
                })
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>(),
        )
    }

    async fn push_blob(
        &self,
        blob: &Descriptor,
        path: &Path,
        mount_from: Option<&Reference>,
    ) -> anyhow::Result<()> {
        let (image, digest) = (self.client_reference(&self.reference)?, blob.digest().to_string());
        self.attempts(|clients| {
            let (image, digest) = (image.clone(), digest.clone());
            async move {
                if clients.monolithic.blob_exists(&image, &digest).await? {
                    return Ok(());
                }
                if let Some(source) = mount_from
                    && let Ok(source) = self.client_reference(source)
                    && clients.monolithic.mount_blob(&image, &source, &digest).await.is_ok()
                {
                    return Ok(()); // where the registry would not mount, the blob is sent
                }
                let client = if blob.size() <= MONOLITHIC { &clients.monolithic } else { &clients.chunked };
                let file = File::open(path)?;
                let pieces = futures_util::stream::unfold(file, |file| async move {
                    let mut piece = Vec::with_capacity(PIECE);
                    match (&file).take(PIECE as u64).read_to_end(&mut piece) {
                        Ok(0) => None,
                        Ok(_) => Some((Ok(piece.into()), file)),
                        Err(e) => Some((Err(e.into()), file)),
                    }
                });
                client.push_blob_stream(&image, pieces, &digest, Some(blob.size())).await.map(drop)
            }
        })
        .await
    }

    /// Puts a manifest or an index under its digest, and under `tag` where one is given.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when the registry refuses or stays away.
    pub fn push_manifest(&self, media_type: &str, bytes: &[u8], tag: Option<&str>) -> anyhow::Result<()> {
        let digest = Digest::of(bytes);
        let place = match tag {
            Some(tag) => self.reference.with_tag(tag)?,
            None => self.reference.with_digest(digest),
        };
        let image = self.client_reference(&place)?;
        let content_type: reqwest::header::HeaderValue = media_type.parse()?;
        self.runtime
            .block_on(self.attempts(|clients| {
                let (image, content_type) = (image.clone(), content_type.clone());
                async move {
                    clients.monolithic.push_manifest_raw(&image, bytes.to_vec(), content_type).await.map(drop)
                }
            }))
            .with_context(|| format!("pushing manifest {place}"))
            .kind(Kind::Fetch)
    }

    /// The manifest or index under `place` of this repository; `None` where the registry has none. With a digest, its
    /// bytes are checked against it.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when the registry refuses or stays away; [`Kind::Verify`] when the bytes are others.
    pub fn manifest(&self, place: &Reference) -> anyhow::Result<Option<Fetched>> {
        let name = match (place.digest(), place.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_string(),
        };
        let fetched = self
            .runtime
            .block_on(self.get_document(&format!("manifests/{name}")))
            .with_context(|| format!("fetching manifest {place}"))
            .kind(Kind::Fetch)?;
        match (&fetched, place.digest()) {
            (Some(f), Some(expected)) if Digest::of(&f.bytes) != expected => {
                let found = Digest::of(&f.bytes);
                Err(anyhow!("manifest {place} has the bytes of {found}")).kind(Kind::Verify)
            }
            _ => Ok(fetched),
        }
    }

    /// The index of the referrers of `subject` by the referrers API; `None` where the registry lacks that API and the
    /// fallback tag must be used.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when the registry refuses or stays away.
    pub fn referrers(&self, subject: Digest) -> anyhow::Result<Option<Fetched>> {
        self.runtime
            .block_on(self.get_document(&format!("referrers/{subject}")))
            .with_context(|| format!("fetching the referrers of {subject}"))
            .kind(Kind::Fetch)
    }

    /// Fetches a blob into `out` from its start, checked against its descriptor; not one byte more than it says is taken.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when the registry refuses or stays away; [`Kind::Verify`] when the bytes are others.
    pub fn pull_blob(&self, blob: &Descriptor, out: &mut File) -> anyhow::Result<()> {
        let expected = super::digest(blob)?;
        let image = self.client_reference(&self.reference)?;
        let out = Mutex::new(out);
        let context = || format!("fetching blob {expected} from {}", self.reference.name());
        let (digest, size) = self
            .runtime
            .block_on(self.attempts(|clients| {
                let (image, out) = (image.clone(), &out);
                async move {
                    let name = expected.to_string();
                    let mut stream = clients.monolithic.pull_blob_stream(&image, name.as_str()).await?.stream;
                    out.lock().unwrap_or_else(PoisonError::into_inner).rewind()?;
                    let (mut hasher, mut left) = (Hasher::default(), blob.size());
                    // oci-client's own check comes as an error of the stream's end; ours says what was found instead.
                    while let Some(Ok(piece)) = stream.next().await {
                        hasher.update(&piece);
                        let Some(rest) = left.checked_sub(piece.len() as u64) else {
                            return Ok(hasher.finish());
                        };
                        left = rest;
                        out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&piece)?;
                    }
                    if left > 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                    Ok(hasher.finish())
                }
            }))
            .with_context(context)
            .kind(Kind::Fetch)?;
        if size != blob.size() || digest != expected {
            let why = anyhow!("it has {size} bytes or more with digest {digest}, not {} bytes", blob.size());
            return Err(why).with_context(context).kind(Kind::Verify);
        }
        Ok(())
    }

    /// GET of a document below the repository: at most [`MAX_DOCUMENT`] bytes; `None` for 404.
    async fn get_document(&self, path: &str) -> anyhow::Result<Option<Fetched>> {
        let image = self.client_reference(&self.reference)?;
        let scheme = if self.plain { "http" } else { "https" };
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let url = format!("{scheme}://{registry}/v2/{repository}/{path}");
        self.attempts(|clients| {
            let (url, image) = (url.clone(), image.clone());
            async move {
                let mut request = self
                    .http
                    .get(&url)
                    .header("Accept", [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", "));
                match clients.monolithic.auth(&image, &self.auth, RegistryOperation::Pull).await? {
                    Some(token) => request = request.bearer_auth(token),
                    None => {
                        if let RegistryAuth::Basic(user, password) = &self.auth {
                            request = request.basic_auth(user, Some(password));
                        }
                    }
                }
                let mut response = request.send().await?;
                if response.status() == reqwest::StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                response = response.error_for_status()?;
                let declared = response.headers().get("content-type").and_then(|v| v.to_str().ok());
                let declared = declared.map(|v| v.split(';').next().unwrap_or(v).trim().to_string());
                let mut bytes = vec![];
                while let Some(piece) = response.chunk().await? {
                    bytes.extend_from_slice(&piece);
                    if bytes.len() as u64 > MAX_DOCUMENT {
                        let why = format!("more than the {MAX_DOCUMENT} bytes that a manifest may have");
                        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, why).into());
                    }
                }
                let descriptor = super::describe(declared.as_deref().unwrap_or(MANIFEST), &bytes);
                Ok(Some(Fetched { descriptor, bytes }))
            }
        })
        .await
    }

    async fn attempts<T, F>(&self, mut operation: impl FnMut(Clients) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = oci_distribution::errors::Result<T>>,
    {
        let mut attempt = Attempt::default();
        loop {
            let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for client in [&clients.monolithic, &clients.chunked] {
                client.store_auth_if_needed(self.reference.registry(), &self.auth).await;
            }
            let error = match operation(clients).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match attempt.next(&error) {
                Some(retry::Next::Login) => {
                    // A client keeps its tokens; a new one asks for new ones.
                    *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = Clients::new(self.plain)?;
                }
                Some(retry::Next::Wait(pause)) => tokio::time::sleep(pause).await,
                None => return Err(error.into()),
            }
        }
    }

    fn client_reference(&self, reference: &Reference) -> anyhow::Result<ClientReference> {
        reference.to_string().parse().with_context(|| format!("naming {reference}"))
    }
}

impl Clients {
    fn new(plain: bool) -> anyhow::Result<Clients> {
        let client = |use_monolithic_push| {
            Client::try_from(ClientConfig {
                protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
                use_monolithic_push,
                read_timeout: Some(SILENCE),
                connect_timeout: Some(CONNECT),
                user_agent: concat!("forge/", env!("CARGO_PKG_VERSION")),
                ..ClientConfig::default()
            })
            .context("making a registry client")
        };
        Ok(Clients { monolithic: client(true)?, chunked: client(false)? })
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.reference) // never the credentials
    }
}
