//! Container images in the runtime's own store, and the manifests of the workloads.

use super::{Kitchen, large};
use crate::debian::deb::Deb;
use crate::error::{self, Kind, Mark as _};
use crate::host::fs;
use crate::layer::agent::kubeedge;
use crate::layer::kubernetes::cluster;
use crate::layer::kubernetes::podman::{self, PAUSE_ARGUMENTS, PAUSE_IMAGE, PAUSE_PACKAGE};
use crate::layer::workload::archive::{self, ArchivedImage};
use crate::layer::workload::manifest::{self, Manifest};
use crate::layer::workload::store::{ImageLayer, MAX_LAYERS, OciImage, store_tree};
use crate::layer::workload::{self, WORKLOADS, chart, container, gitops, model};
use crate::model::digest::HashingWriter;
use crate::oci;
use crate::plan::{Chart, Container, Package, Payload, Runner, Workload};
use crate::source::oci::{PinnedBlob, PinnedImage};
use crate::tree::{Content, Node, Tree, TreePath, tar};
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
    let mut tree = match spec.runner {
        Runner::Podman => for_podman(spec, kitchen)?,
        Runner::Cluster => for_cluster(spec, kitchen)?,
        Runner::Kubeedge => for_kubeedge(spec, kitchen)?,
    };
    if spec.runner != Runner::Cluster && !spec.guests.is_empty() {
        let ports = spec.guests.iter().flat_map(|g| &g.ports);
        let ports: Vec<_> =
            ports.map(|p| format!("{}/{}", p.host, if p.udp { "udp" } else { "tcp" })).collect();
        podman::add_host_ports(&mut tree, &ports)?;
        tree.graft(&TreePath::root(), large::guests(spec, kitchen)?)?;
    }
    let models = spec.models.iter().map(|m| large::model(m, kitchen)).collect::<anyhow::Result<Vec<_>>>()?;
    tree.graft(&TreePath::root(), model::payload_tree(&models).kind(Kind::Verify)?)?;
    kitchen.write_layer(&tree)
}

/// The images of an archive that containerd imports: those from registries as they came, compressed; own ones as plain tars.
fn archived(spec: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<Vec<ArchivedImage>> {
    let mut images = vec![];
    for image in own_images(spec, kitchen)? {
        let mut layers = BTreeMap::new();
        for layer in &image.layers {
            let mut tar = fs::anonymous(&kitchen.env.cache.work())?;
            let written = tar::write(&layer.tree, kitchen.epoch, io::BufWriter::new(&mut tar))?;
            layers.insert(written.diff_id, Content::of_file(Arc::new(tar))?);
        }
        images.push(ArchivedImage {
            names: image.names,
            manifest: image.manifest,
            config: image.config,
            layers,
        });
    }
    for pinned in &spec.images {
        let layers = pinned.layers.iter().map(|l| Ok((l.digest, kitchen.blob(l.digest)?)));
        images.push(ArchivedImage {
            names: vec![pinned.reference.parse()?],
            manifest: document(&pinned.manifest, kitchen)?,
            config: document(&pinned.config, kitchen)?,
            layers: layers.collect::<anyhow::Result<_>>()?,
        });
    }
    Ok(images)
}

fn archive(images: &[ArchivedImage], kitchen: &Kitchen<'_>) -> anyhow::Result<Content> {
    let mut file = fs::anonymous(&kitchen.env.cache.work())?;
    let layout = archive::layout_tree(images).kind(Kind::Verify)?;
    tar::write(&layout, kitchen.epoch, io::BufWriter::new(&mut file))?;
    Ok(Content::of_file(Arc::new(file))?)
}

fn for_kubeedge(spec: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<Tree> {
    let images = archived(spec, kitchen)?;
    Ok(kubeedge::payload_tree(archive(&images, kitchen)?, archive::list(&images))?)
}

fn for_cluster(spec: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<Tree> {
    let mut images = archived(spec, kitchen)?;
    let (disks, objects) = large::guests_of_cluster(spec, kitchen)?;
    images.extend(disks);
    let archive = match images.is_empty() {
        true => None,
        false => Some((archive(&images, kitchen)?, archive::list(&images))),
    };
    let workload = |w: &Workload| {
        let manifests = manifests(w, kitchen)?;
        Ok(workload::Workload { name: w.name.clone(), required: w.required, manifests })
    };
    let mut workloads = spec.workloads.iter().map(workload).collect::<anyhow::Result<Vec<_>>>()?;
    workloads.extend(objects);
    if let Some(gitops) = &spec.gitops {
        workloads.push(written(gitops::WORKLOAD, gitops::objects(gitops))?);
    }
    let mut ready = vec![];
    for chart in &spec.charts {
        workloads.push(installed(chart, kitchen).with_context(|| format!("writing chart {}", chart.name))?);
        ready.extend(chart.required.then(|| (chart.name.clone(), chart::job(&chart.name))));
    }
    let mut tree = cluster::payload_tree(&workloads, archive)?;
    for (name, job) in ready {
        let path = TreePath::parse(&format!("{WORKLOADS}/{name}/required"))?;
        tree.insert(path, Node::text(format!("job {} {job}\n", chart::NAMESPACE), 0o644))?;
    }
    Ok(tree)
}

/// A chart as a workload of one object.
fn installed(chart: &Chart, kitchen: &Kitchen<'_>) -> anyhow::Result<workload::Workload> {
    let package = kitchen.blob(chart.package)?.to_vec(chart::MAX_PACKAGE)?;
    let values = match chart.values {
        Some(digest) => String::from_utf8(kitchen.blob(digest)?.to_vec(chart::MAX_PACKAGE)?)?,
        None => String::new(),
    };
    written(&chart.name, chart::object(&chart.name, &chart.namespace, &package, &values))
}

/// A workload of a manifest that forge writes.
pub fn written(name: &str, text: String) -> anyhow::Result<workload::Workload> {
    let parsed = manifest::parse(name, text.as_bytes()).map_err(|faults| anyhow!("{faults:?}"))?;
    let manifests = vec![(parsed, Content::from(text.into_bytes()))];
    Ok(workload::Workload { name: name.into(), required: false, manifests })
}

fn for_podman(spec: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<Tree> {
    let mut images = own_images(spec, kitchen)?;
    for pinned in &spec.images {
        images.push(pulled(pinned, kitchen).with_context(|| format!("reading image {}", pinned.reference))?);
    }
    let workloads =
        spec.workloads.iter().map(|w| workload(w, kitchen)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(podman::payload_tree(&workloads, store_tree(&images, kitchen.epoch).kind(Kind::Verify)?)?)
}

/// The images that are made here: the one that holds a pod's namespaces, where the runtime has none, and the profile's.
fn own_images(spec: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<Vec<OciImage>> {
    let mut images = vec![];
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
    Ok(images)
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
    Ok(OciImage {
        names: vec![pinned.reference.parse()?],
        index: None,
        manifest: document(&pinned.manifest, kitchen)?,
        config: document(&pinned.config, kitchen)?,
        layers,
    })
}

fn document(blob: &PinnedBlob, kitchen: &Kitchen<'_>) -> anyhow::Result<Vec<u8>> {
    Ok(kitchen.blob(blob.digest)?.to_vec(oci::MAX_DOCUMENT)?)
}

/// What decompressing says is the blob's fault, unless this machine's disk is full.
fn refused(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.into(),
        _ => error::of(Kind::Verify, error.into()),
    }
}

fn workload(spec: &Workload, kitchen: &Kitchen<'_>) -> anyhow::Result<workload::Workload> {
    let manifests = manifests(spec, kitchen)?;
    Ok(workload::Workload { name: spec.name.clone(), required: spec.required, manifests })
}

fn manifests(spec: &Workload, kitchen: &Kitchen<'_>) -> anyhow::Result<Vec<(Manifest, Content)>> {
    let mut manifests = vec![];
    for (file, digest) in &spec.manifests {
        let content = kitchen.blob(*digest)?;
        let parsed = manifest::parse(file, &content.to_vec(MAX_MANIFEST)?).map_err(|faults| {
            anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        manifests.push((parsed, content));
    }
    Ok(manifests)
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
