//! Images by reference: named once at lock time, fetched by digest ever after.
//!
//! [`pin`] asks the registry what a reference means today for one architecture, and writes down digests and sizes;
//! [`fetch`] needs nothing but those and brings the blobs into a store. distribution-spec v1.1, §Pull.

use crate::error::{Kind, Mark as _};
use crate::model::{Arch, Digest};
use crate::oci::image::CONFIG;
use crate::oci::registry::{Fetched, Registry};
use crate::oci::{Descriptor, Index, Manifest, Reference, describe, is_index, is_manifest, json};
use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::fs::File;

/// An image of one architecture, pinned: all that must be known to fetch it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The reference as it was asked for.
    pub reference: String,
    /// The architecture.
    pub arch: Arch,
    /// The manifest.
    pub manifest: PinnedBlob,
    /// The config.
    pub config: PinnedBlob,
    /// The layers, lowest first.
    pub layers: Vec<PinnedBlob>,
}

/// A blob, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PinnedBlob {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl PinnedBlob {
    fn new(d: &Descriptor) -> anyhow::Result<PinnedBlob> {
        Ok(PinnedBlob {
            media_type: d.media_type().to_string(),
            digest: crate::oci::digest(d)?,
            size: d.size(),
        })
    }

    /// As a descriptor.
    pub fn descriptor(&self) -> Descriptor {
        crate::oci::descriptor(&self.media_type, self.digest, self.size)
    }
}

/// Where fetched blobs go: a cache that keeps them by digest.
pub trait BlobStore {
    /// Whether the blob is there already.
    fn has(&self, digest: Digest) -> bool;

    /// Lets `fill` write the blob to a new file and keeps it under `digest`. `fill` has checked digest and size when it
    /// returns.
    ///
    /// # Errors
    /// Those of `fill`; what the file system says. Nothing is kept then.
    fn put(
        &self,
        digest: Digest,
        fill: &mut dyn FnMut(&mut File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()>;
}

/// Asks the registry what `reference` is for `arch`, now.
///
/// # Errors
/// [`Kind::Fetch`] when the registry refuses or stays away; [`Kind::Input`] when the image has no such architecture;
/// [`Kind::Verify`] when a digest does not hold.
pub fn pin(reference: &Reference, arch: Arch, insecure: bool) -> anyhow::Result<PinnedImage> {
    let registry = Registry::open(reference, insecure)?;
    let named = found(&registry, reference)?;
    let fetched = if is_index(named.descriptor.media_type()) {
        let index: Index = json::parse(&named.bytes)
            .with_context(|| format!("reading index {reference}"))
            .kind(Kind::Verify)?;
        let of_arch = |d: &&Descriptor| {
            let platform = d.platform().as_ref();
            platform
                .is_some_and(|p| p.os().to_string() == "linux" && p.architecture().to_string() == arch.oci())
        };
        let Some(child) = index.manifests().iter().find(of_arch) else {
            return Err(anyhow!("{reference} has no image for linux/{arch}")).kind(Kind::Input);
        };
        let digest = crate::oci::digest(child)?;
        let fetched = found(&registry, &reference.with_digest(digest))?;
        if fetched.bytes.len() as u64 != child.size() {
            let why = anyhow!("manifest {digest} has {} bytes, not {}", fetched.bytes.len(), child.size());
            return Err(why).kind(Kind::Verify);
        }
        fetched
    } else {
        named
    };
    let pinned = pinned(reference, arch, &fetched).kind(Kind::Verify)?;
    let mut config = tempfile::tempfile()?;
    registry.pull_blob(&pinned.config.descriptor(), &mut config)?;
    check_arch(&mut config, arch).with_context(|| format!("reading the config of {reference}"))?;
    Ok(pinned)
}

fn pinned(reference: &Reference, arch: Arch, fetched: &Fetched) -> anyhow::Result<PinnedImage> {
    let context = || format!("reading manifest {reference}");
    if !is_manifest(fetched.descriptor.media_type()) {
        let why = anyhow!("{reference} is of type `{}`, no image", fetched.descriptor.media_type());
        return Err(why).kind(Kind::Input);
    }
    let manifest: Manifest = json::parse(&fetched.bytes).with_context(context)?;
    let config = PinnedBlob::new(manifest.config()).with_context(context)?;
    if ![CONFIG, "application/vnd.docker.container.image.v1+json"].contains(&config.media_type.as_str()) {
        let why = anyhow!("{reference} is an artifact of config type `{}`, no image", config.media_type);
        return Err(why).kind(Kind::Input);
    }
    if config.size > crate::oci::MAX_DOCUMENT {
        bail!("{reference} has a config of {} bytes", config.size);
    }
    Ok(PinnedImage {
        reference: reference.to_string(),
        arch,
        manifest: PinnedBlob::new(&fetched.descriptor)?,
        config,
        layers: manifest
            .layers()
            .iter()
            .map(PinnedBlob::new)
            .collect::<Result<_, _>>()
            .with_context(context)?,
    })
}

/// An index's platform is only a claim; the config says what the image is for.
fn check_arch(config: &mut File, arch: Arch) -> anyhow::Result<()> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = vec![];
    config.rewind()?;
    config.read_to_end(&mut bytes)?;
    let config: oci_spec::image::ImageConfiguration = json::parse(&bytes).kind(Kind::Verify)?;
    match config.architecture().to_string() {
        found if found == arch.oci() => Ok(()),
        found => Err(anyhow!("it is for {found}, not for {arch}")).kind(Kind::Input),
    }
}

fn found(registry: &Registry, reference: &Reference) -> anyhow::Result<Fetched> {
    registry.manifest(reference)?.ok_or_else(|| anyhow!("the registry has no {reference}")).kind(Kind::Fetch)
}

/// Brings manifest, config and layers of `image` into `store`, as far as it lacks them, by digest alone.
///
/// # Errors
/// [`Kind::Fetch`] when the registry refuses or stays away; [`Kind::Verify`] when it sends other bytes than were pinned.
pub fn fetch(image: &PinnedImage, store: &dyn BlobStore, insecure: bool) -> anyhow::Result<()> {
    let blobs = std::iter::once(&image.config).chain(&image.layers);
    let missing: Vec<&PinnedBlob> = blobs.filter(|b| !store.has(b.digest)).collect();
    let manifest_there = store.has(image.manifest.digest);
    if missing.is_empty() && manifest_there {
        return Ok(()); // offline builds send no packet
    }
    let reference: Reference = image.reference.parse()?;
    let registry = Registry::open(&reference, insecure)?;
    for blob in missing {
        store.put(blob.digest, &mut |out| registry.pull_blob(&blob.descriptor(), out))?;
    }
    if !manifest_there {
        let fetched = found(&registry, &reference.with_digest(image.manifest.digest))?;
        let expected = image.manifest.descriptor();
        if describe(&image.manifest.media_type, &fetched.bytes) != expected {
            return Err(anyhow!("manifest {} is not what was pinned", image.manifest.digest))
                .kind(Kind::Verify);
        }
        store.put(image.manifest.digest, &mut |out| Ok(std::io::Write::write_all(out, &fetched.bytes)?))?;
    }
    Ok(())
}
