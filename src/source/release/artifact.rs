//! A release as an OCI artifact: a layer a file, named by its title, as `oras push REFERENCE FILE…` makes it.
//!
//! The manifest names every file by digest, so that no sums are needed. image-spec v1.1, "Guidelines for Artifact Usage"
//! and "Pre-Defined Annotation Keys".

use super::{PinnedFile, Wanted};
use crate::error::{self, Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::http::Client;
use crate::model::Bytes;
use crate::oci::registry::Registry;
use crate::oci::{self, Manifest, Reference, json};
use crate::source::blobs::Blobs;
use crate::source::oci::BlobStore as _;
use anyhow::{Context as _, anyhow};

/// What a layer's file is called.
const TITLE: &str = "org.opencontainers.image.title";

/// Reads the manifest, and fetches the layers that it has for the files of `wanted`.
///
/// # Errors
/// [`Kind::Fetch`] when the registry stays away or lacks it, or offline; [`Kind::Verify`] when it has no layer of that
/// title, or two, or sends other bytes.
pub fn pin(
    wanted: &Wanted,
    reference: &Reference,
    client: &Client,
    blobs: &Blobs,
    cancel: &Cancel,
) -> anyhow::Result<Vec<PinnedFile>> {
    let registry = open(reference, client)?;
    let fetched = registry
        .manifest(reference)?
        .ok_or_else(|| anyhow!("the registry has no {reference}"))
        .kind(Kind::Fetch)?;
    let manifest: Manifest = json::parse(&fetched.bytes)
        .with_context(|| format!("reading manifest {reference}"))
        .kind(Kind::Verify)?;
    let pinned = |file: &String| {
        cancel.check()?;
        let titled = |d: &&oci::Descriptor| {
            d.annotations().as_ref().and_then(|a| a.get(TITLE)).is_some_and(|title| title == file)
        };
        let layers: Vec<_> = manifest.layers().iter().filter(titled).collect();
        let [layer] = layers[..] else {
            let why = anyhow!("{reference} has {} layers of the title {file}", layers.len());
            return Err(error::of(Kind::Verify, why));
        };
        let digest = oci::digest(layer).kind(Kind::Verify)?;
        let pinned = wanted.pinned(file, Bytes(layer.size()), digest);
        take(&pinned, &registry, blobs)?;
        Ok(pinned)
    };
    wanted.files.iter().map(pinned).collect()
}

/// Brings a pinned file into the cache, by its digest alone.
///
/// # Errors
/// As [`pin`].
pub fn fetch(file: &PinnedFile, reference: &Reference, client: &Client, blobs: &Blobs) -> anyhow::Result<()> {
    match blobs.has(file.digest) {
        true => Ok(()),
        false => take(file, &open(reference, client)?, blobs),
    }
}

fn open(reference: &Reference, client: &Client) -> anyhow::Result<Registry> {
    if client.is_offline() {
        return Err(error::of(
            Kind::Fetch,
            anyhow!("{reference} is not in the cache, and nothing is fetched offline"),
        ));
    }
    Registry::open(reference, false)
}

fn take(file: &PinnedFile, registry: &Registry, blobs: &Blobs) -> anyhow::Result<()> {
    if blobs.has(file.digest) {
        return Ok(());
    }
    // Of any type: what it is is known by its digest.
    let layer = oci::descriptor("application/octet-stream", file.digest, file.size.0);
    blobs.put(file.digest, &mut |out| registry.pull_blob(&layer, out))
}
