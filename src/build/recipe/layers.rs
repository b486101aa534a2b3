//! Small trees written as layers, and layers compressed into OCI blobs.

use super::{Kitchen, LAYER};
use crate::error::{Kind, Mark as _};
use crate::host::fs;
use crate::layer;
use crate::layer::agent::kubeedge;
use crate::layer::kubernetes::cluster::{self, Distribution};
use crate::layer::kubernetes::{k3s::K3s, podman, rke2::Rke2};
use crate::layer::site::{Enroll, SiteFile, SiteSpec, User};
use crate::model::Digest;
use crate::oci;
use crate::plan::{Blob, Cluster, Edge, Enrollment, Os, Runtime, Site};
use crate::source::release::Product;
use crate::tree::tar::{self, Written};
use crate::tree::{Content, Tree, TreePath};
use anyhow::{Context as _, bail};
use std::num::NonZero;

/// Writes the operating system's layer.
pub fn os(spec: &Os, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let tree = layer::os::finish(kitchen.tree(&spec.packages)?)?;
    kitchen.write_layer(&tree)
}

/// Writes the site's layer.
pub fn site(spec: &Site, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let mut files = vec![];
    for input in &spec.files {
        let (path, content) = kitchen.file(input)?;
        files.push(SiteFile { path, content, mode: input.mode, owner: "root".into(), group: "root".into() });
    }
    let users = spec.users.iter().map(|(name, keys)| User {
        name: name.clone(),
        uid: None,
        groups: vec![],
        ssh_keys: keys.clone(),
        shell: "/bin/bash".into(),
    });
    let site = SiteSpec {
        name: spec.name.clone(),
        hostname: spec.name.to_string(),
        timezone: spec.timezone.clone(),
        ntp: spec.ntp.clone(),
        users: users.collect(),
        files,
        modules: spec.modules.clone(),
        enable: vec![],
        mask: vec![],
        required: vec![],
        profile: spec.profile.clone().into_bytes(),
        enroll: enroll(spec.enroll.as_ref(), kitchen)?,
    };
    let tree = layer::site::compose(&site, &kitchen.tree(&spec.os)?)?;
    kitchen.write_layer(&tree)
}

fn enroll(spec: Option<&Enrollment>, kitchen: &Kitchen<'_>) -> anyhow::Result<Option<Enroll>> {
    let Some(spec) = spec else { return Ok(None) };
    let root = |(name, digest): (&String, &Digest)| Ok((name.clone(), kitchen.blob(*digest)?));
    let trust = spec.trust.iter().map(root).collect::<anyhow::Result<_>>()?;
    Ok(Some(Enroll { program: kitchen.blob(spec.program)?, trust }))
}

/// Writes the runtime's layer.
pub fn runtime(spec: &Runtime, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let tree = match spec {
        Runtime::Podman { images } => podman::os_tree(*images)?,
        Runtime::Cluster(cluster) => cluster_tree(cluster, kitchen)?,
        Runtime::Kubeedge(edge) => kubeedge_tree(edge, kitchen)?,
    };
    kitchen.write_layer(&tree)
}

fn kubeedge_tree(spec: &Edge, kitchen: &Kitchen<'_>) -> anyhow::Result<Tree> {
    let within = kubeedge::program_in_release(&spec.version, spec.arch);
    let program = unpacked(&kitchen.blob(spec.program)?, &within, kitchen)
        .with_context(|| format!("unpacking {}", Product::Kubeedge.program(&spec.version, spec.arch)))
        .kind(Kind::Verify)?;
    Ok(kubeedge::tree(&kubeedge::Spec {
        version: spec.version.clone(),
        start: spec.start,
        program,
        pause: podman::PAUSE_IMAGE.into(),
        node_name: spec.node_name.clone(),
        labels: spec.labels.clone(),
        config: spec.config.clone(),
    })?)
}

fn cluster_tree(spec: &Cluster, kitchen: &Kitchen<'_>) -> anyhow::Result<Tree> {
    let distribution: &dyn Distribution = match spec.product {
        Product::K3s => &K3s,
        Product::Rke2 => &Rke2,
        Product::Kubeedge | Product::Helm => bail!("{} is no distribution", spec.product),
    };
    let released = kitchen.blob(spec.program)?;
    let program = match distribution.program_in_release() {
        None => released,
        Some(path) => unpacked(&released, path, kitchen)
            .with_context(|| format!("unpacking {}", spec.product.program(&spec.version, spec.arch)))
            .kind(Kind::Verify)?,
    };
    let images = spec.images.map(|digest| kitchen.blob(digest)).transpose()?;
    let cluster = cluster::Spec {
        version: spec.version.clone(),
        role: spec.role,
        start: spec.start,
        program,
        images: spec.product.images(spec.arch).zip(images),
        node_name: spec.node_name.clone(),
        labels: spec.labels.clone(),
        config: spec.config.clone(),
        registries: spec.registries.clone(),
    };
    Ok(cluster::os_tree(distribution, &cluster)?)
}

/// One program out of a tar.gz: decompressed once into a nameless file, and read where it lies there.
fn unpacked(archive: &Content, path: &str, kitchen: &Kitchen<'_>) -> anyhow::Result<Content> {
    let mut tar = fs::anonymous(&kitchen.env.cache.work())?;
    let limit = oci::layer::uncompressed_limit(archive.len());
    let mut from = oci::layer::decompress(oci::layer::TAR_GZIP, archive.reader(), limit)?;
    std::io::copy(&mut from, &mut tar)?;
    let tree = tar::index(tar)?;
    tree.file(&TreePath::parse(path)?).cloned().with_context(|| format!("it has no {path}"))
}

/// Compresses a layer.
pub fn blob(spec: &Blob, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let entry = kitchen.entry(&spec.layer)?;
    let output = entry.output(LAYER)?;
    let tar = entry.open(LAYER)?;
    let written = Written { diff_id: output.digest, length: output.size.0 };
    let out = std::io::BufWriter::with_capacity(1 << 20, kitchen.stage.create("blob")?);
    let threads = NonZero::new(kitchen.env.threads as u32).unwrap_or(NonZero::<u32>::MIN);
    let layer = oci::layer::compress(tar, written, out, spec.codec, threads)
        .with_context(|| format!("compressing the layer of {}", spec.layer))?;
    let digest = oci::digest(&layer.descriptor)?;
    kitchen.stage.record("blob", digest, layer.descriptor.size());
    kitchen.stage.fact("media-type", spec.codec.media_type());
    kitchen.stage.fact("diff-id", layer.diff_id);
    Ok(())
}
