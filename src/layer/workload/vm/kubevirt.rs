//! A guest on a cluster: a container image that is its disk, and the object that KubeVirt starts it from.
//!
//! The image is a containerDisk: one file below `/disk`, which belongs to QEMU's user (KubeVirt user guide, "Disks and
//! Volumes"). Such a disk is new at each start of the guest: what is to stay belongs on a claim. `kubevirt.io/v1`.

use super::{Format, Machine, Vm, VmError};
use crate::layer::workload::archive::ArchivedImage;
use crate::layer::workload::name::ImageName;
use crate::model::{Arch, Digest, Epoch};
use crate::oci;
use crate::tree::tar::Written;
use crate::tree::{Content, Node, Tree, TreePath};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// QEMU's user and group in KubeVirt's own images.
const QEMU: u32 = 107;

/// The tree of the image's only layer.
///
/// # Errors
/// [`VmError`] for a disk that cannot be read or stands on another file.
pub fn disk_tree(vm: &Vm) -> Result<Tree, VmError> {
    let format = Format::of(&vm.disk).map_err(|fault| VmError::Io { name: vm.name.clone(), fault })?;
    let format = format.ok_or_else(|| VmError::Overlay(vm.name.clone()))?;
    let mut tree = Tree::new();
    let dir = TreePath::parse("disk")?;
    tree.insert(dir.clone(), Node::dir(0o755).owned(QEMU, QEMU))?;
    let file = dir.join(&format!("disk.{}", format.as_str()))?;
    tree.insert(file, Node::file(vm.disk.clone(), 0o440).owned(QEMU, QEMU))?;
    Ok(tree)
}

/// What the image of a disk is called: by its content, so that another disk is another image.
pub fn image_name(vm: &Vm) -> String {
    format!("localhost/forge-vm-{}:{}", vm.name, &vm.digest.hex()[..12])
}

/// The image around its layer.
///
/// # Errors
/// Never for names that are DNS labels.
pub fn image(
    vm: &Vm,
    written: Written,
    layer: Content,
    arch: Arch,
    epoch: Epoch,
) -> Result<ArchivedImage, crate::layer::workload::name::BadImageName> {
    let name: ImageName = image_name(vm).parse()?;
    let config = json!({
        "architecture": arch.oci(),
        "os": "linux",
        "created": epoch.rfc3339(),
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [written.diff_id] },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": oci::MANIFEST,
        "config": { "mediaType": oci::image::CONFIG, "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": oci::layer::TAR, "digest": written.diff_id, "size": written.length }],
    });
    Ok(ArchivedImage {
        names: vec![name],
        manifest: manifest.to_string().into_bytes(),
        config,
        layers: BTreeMap::from([(written.diff_id, layer)]),
    })
}

/// The object, as a manifest: `image` is the disk's.
pub fn object(name: &str, image: &str, memory: u64, cpus: u32, machine: Machine) -> String {
    let (bus, card, firmware): (_, _, Value) = match machine {
        Machine::Modern => ("virtio", "virtio", json!({ "efi": { "secureBoot": false } })),
        Machine::Legacy => ("sata", "e1000", json!({ "bios": {} })),
    };
    let object = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "runStrategy": "Always",
            "template": {
                "metadata": { "labels": { "kubevirt.io/vm": name } },
                "spec": {
                    "domain": {
                        "cpu": { "cores": cpus },
                        "memory": { "guest": format!("{memory}Mi") },
                        "firmware": { "bootloader": firmware },
                        "devices": {
                            "disks": [{ "name": "system", "disk": { "bus": bus } }],
                            "interfaces": [{ "name": "default", "model": card, "masquerade": {} }],
                        },
                    },
                    "networks": [{ "name": "default", "pod": {} }],
                    "volumes": [{
                        "name": "system",
                        "containerDisk": { "image": image, "imagePullPolicy": "IfNotPresent" },
                    }],
                },
            },
        },
    });
    // JSON is YAML (YAML 1.2 §1.3).
    format!("# Written by forge.\n{object}\n")
}
