//! Container images in the runtime's own store, and the manifests of the workloads.

use super::Kitchen;
use crate::debian::deb::Deb;
use crate::error::{self, Kind, Mark as _};
use crate::host::fs;
use crate::layer::kubernetes::podman::{self, PAUSE_ARGUMENTS, PAUSE_IMAGE, PAUSE_PACKAGE};
use crate::layer::workload::container;
use crate::layer::workload::manifest;
use crate::layer::workload::store::{ImageLayer, MAX_LAYERS, OciImage, store_tree};
use crate::model::digest::HashingWriter;
use crate::oci;
use crate::plan::{Container, Package, Payload, Workload};
use crate::source::oci::{PinnedBlob, PinnedImage};
use crate::tree::{Content, TreePath, tar};
use anyhow::{Context as _, anyhow, bail};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Arc;

/// The largest program that is taken out of a package for the pause image, in bytes; catatonit has 1 MiB.
const MAX_PAUSE: u64 = 16 << 20;
/// The largest manifest, in bytes, as its parser has it.
const MAX_MANIFEST: u64 = 8 << 20;

/// Writes the payload's layer.
pub fn run(spec: &Payload, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let mut images: Vec<OciImage> = vec![];
    if let Some(package) = &spec.pause {
        let program = pause_program(package, kitchen)
            .with_context(|| format!("taking {} out of {}", PAUSE_PACKAGE.1, package.name))?;
        images.push(container::program_image(
            PAUSE_IMAGE.parse()?,
            TreePath::parse("pause")?,
            program,
            &PAUSE_ARGUMENTS,
            spec.arch,
            kitchen.epoch,
        )?);
    }
    for container in &spec.containers {
        kitchen.env.cancel.check()?;
        images.push(image(container, spec, kitchen)?);
    }
    for pinned in &spec.images {
        images.push(pulled(pinned, kitchen).with_context(|| format!("reading image {}", pinned.reference))?);
    }
    let workloads =
        spec.workloads.iter().map(|w| workload(w, kitchen)).collect::<anyhow::Result<Vec<_>>>()?;
    let tree = podman::payload_tree(&workloads, store_tree(&images, kitchen.epoch).kind(Kind::Verify)?)?;
    kitchen.write_layer(&tree)
}

fn image(spec: &Container, payload: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<OciImage> {
    let mut files = vec![];
    for input in &spec.files {
        let (path, content) = kitchen.file(input)?;
        files.push(container::File { path, content, mode: input.mode });
    }
    let container = container::Spec {
        name: spec.name.parse()?,
        files,
        command: spec.command.clone(),
        user: spec.user.clone(),
        ports: spec.ports.iter().map(|p| p.parse()).collect::<Result<_, _>>()?,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    Ok(container::image(&container, kitchen.tree(&spec.rootfs)?, payload.arch, kitchen.epoch)?)
}

/// An image that was fetched: documents as they are, layers decompressed once into a nameless file to be indexed. What is
/// in them was made by others: whatever no layer may have is refused as [`Kind::Verify`].
fn pulled(pinned: &PinnedImage, kitchen: &Kitchen<'_>) -> anyhow::Result<OciImage> {
    if pinned.layers.len() > MAX_LAYERS {
        let why =
            anyhow!("it has {} layers, more than the {MAX_LAYERS} that can be stacked", pinned.layers.len());
        return Err(error::of(Kind::Verify, why));
    }
    let mut layers = vec![];
    for layer in &pinned.layers {
        kitchen.env.cancel.check()?;
        let blob = kitchen.blob(layer.digest)?;
        let limit = oci::layer::uncompressed_limit(layer.size);
        let mut tar = HashingWriter::new(fs::anonymous(&kitchen.env.cache.work())?);
        let decompressing = || format!("decompressing layer {}", layer.digest);
        let mut from = oci::layer::decompress(&layer.media_type, blob.reader(), limit)
            .with_context(decompressing)
            .kind(Kind::Verify)?;
        io::copy(&mut from, &mut tar).map_err(refused).with_context(decompressing)?;
        let (file, diff_id, length) = tar.finish();
        let tree =
            tar::index(file).with_context(|| format!("reading layer {}", layer.digest)).kind(Kind::Verify)?;
        layers.push(ImageLayer { diff_id, length, tree: Arc::new(tree) });
    }
    let document =
        |blob: &PinnedBlob| Ok::<_, anyhow::Error>(kitchen.blob(blob.digest)?.to_vec(oci::MAX_DOCUMENT)?);
    Ok(OciImage {
        names: vec![pinned.reference.parse()?],
        index: None,
        manifest: document(&pinned.manifest)?,
        config: document(&pinned.config)?,
        layers,
    })
}

/// What decompressing says is the blob's fault, unless this machine's disk is full.
fn refused(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.into(),
        _ => error::of(Kind::Verify, error.into()),
    }
}

fn workload(spec: &Workload, kitchen: &Kitchen<'_>) -> anyhow::Result<podman::Workload> {
    let mut manifests = vec![];
    for (file, digest) in &spec.manifests {
        let content = kitchen.blob(*digest)?;
        let parsed = manifest::parse(file, &content.to_vec(MAX_MANIFEST)?).map_err(|faults| {
            anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        manifests.push((parsed, content));
    }
    Ok(podman::Workload { name: spec.name.clone(), required: spec.required, manifests })
}

fn pause_program(package: &Package, kitchen: &Kitchen<'_>) -> anyhow::Result<Content> {
    let content = kitchen.blob(package.digest)?;
    let wanted = TreePath::parse(PAUSE_PACKAGE.1)?;
    let mut data = Deb::open(content.reader())?.0.data()?;
    while let Some(entry) = data.next_entry()? {
        if entry.path == wanted && entry.size <= MAX_PAUSE {
            let mut bytes = vec![];
            (&mut data).take(entry.size).read_to_end(&mut bytes)?;
            return Ok(bytes.into());
        }
    }
    bail!("it is not there")
}
