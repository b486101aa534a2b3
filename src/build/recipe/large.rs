//! Models and disks as they were fetched → trees that read them where they lie: nothing of gigabytes is held in memory.

use super::Kitchen;
use crate::error::{Kind, Mark as _};
use crate::host::fs;
use crate::layer::workload::Workload;
use crate::layer::workload::archive::ArchivedImage;
use crate::layer::workload::model::{Model, Part};
use crate::layer::workload::vm::{self, Network, Vm, kubevirt};
use crate::model::Digest;
use crate::oci;
use crate::plan::{self, Guest, GuestDisk, Payload};
use crate::tree::{Content, Tree, TreePath, tar};
use anyhow::{Context as _, bail};
use std::io;
use std::sync::Arc;

/// A model with its files; archives are decompressed once into nameless files, to be indexed.
pub fn model(spec: &plan::Model, kitchen: &Kitchen<'_>) -> anyhow::Result<Model> {
    let mut files = vec![];
    for file in &spec.files {
        kitchen.env.cancel.check()?;
        let blob = kitchen.blob(file.digest)?;
        files.push(match &file.archive {
            None => Part::File(TreePath::parse(&file.path).kind(Kind::Verify)?, blob),
            Some(media_type) => {
                let unpacking = || format!("unpacking {} of model {}", file.digest, spec.name);
                let limit = oci::layer::uncompressed_limit(blob.len());
                let mut tar = fs::anonymous(&kitchen.env.cache.work())?;
                let mut from = oci::layer::decompress(tar_type(media_type), blob.reader(), limit)
                    .with_context(unpacking)
                    .kind(Kind::Verify)?;
                io::copy(&mut from, &mut tar).with_context(unpacking).kind(Kind::Verify)?;
                Part::Archive(tar::index(tar).with_context(unpacking).kind(Kind::Verify)?)
            }
        });
    }
    let plan::Model { name, required, mount, .. } = spec;
    Ok(Model { name: name.clone(), required: *required, mount: mount.clone(), files })
}

fn guest(spec: &Guest, digest: Digest, kitchen: &Kitchen<'_>) -> anyhow::Result<Vm> {
    Ok(Vm {
        name: spec.name.clone(),
        required: spec.required,
        disk: kitchen.blob(digest)?,
        digest,
        memory: spec.memory,
        cpus: spec.cpus,
        machine: spec.machine,
        network: match &spec.bridge {
            Some(bridge) => Network::Bridge(bridge.clone()),
            None => Network::Ports(spec.ports.clone()),
        },
    })
}

/// The guests of a device without a cluster.
pub fn guests(spec: &Payload, kitchen: &Kitchen<'_>) -> anyhow::Result<Tree> {
    let mut guests = vec![];
    for of in &spec.guests {
        match &of.disk {
            GuestDisk::File(digest) => guests.push(guest(of, *digest, kitchen)?),
            GuestDisk::Image(reference) => bail!("{reference} is for a cluster"),
        }
    }
    vm::payload_tree(&guests, spec.arch).kind(Kind::Verify)
}

/// The guests of a cluster: images of their disks, and workloads of their objects.
pub fn guests_of_cluster(
    spec: &Payload,
    kitchen: &Kitchen<'_>,
) -> anyhow::Result<(Vec<ArchivedImage>, Vec<Workload>)> {
    let (mut images, mut workloads) = (vec![], vec![]);
    for of in &spec.guests {
        let image = match &of.disk {
            GuestDisk::Image(reference) => reference.clone(),
            GuestDisk::File(digest) => {
                let guest = guest(of, *digest, kitchen)?;
                let mut file = fs::anonymous(&kitchen.env.cache.work())?;
                let tree = kubevirt::disk_tree(&guest).kind(Kind::Verify)?;
                let written = tar::write(&tree, kitchen.epoch, io::BufWriter::new(&mut file))?;
                let layer = Content::of_file(Arc::new(file))?;
                images.push(kubevirt::image(&guest, written, layer, spec.arch, kitchen.epoch)?);
                kubevirt::image_name(&guest)
            }
        };
        let text = kubevirt::object(&of.name, &image, of.memory, of.cpus, of.machine);
        workloads.push(Workload { required: of.required, ..super::payload::written(&of.name, text)? });
    }
    Ok((images, workloads))
}

/// A model's archive by the type of the layer that is compressed in the same way.
fn tar_type(media_type: &str) -> &'static str {
    let ends = |of: &str| media_type.ends_with(of);
    match () {
        () if ends("+zstd") => oci::layer::TAR_ZSTD,
        () if ends("gzip") => oci::layer::TAR_GZIP,
        () => oci::layer::TAR,
    }
}
