//! A disk image → partitions, kernel images and what the file systems hold; a kernel image → sections and command line.

use super::{Disk, Env, Form, Inspected, Kernel, Partition, Section, disk_bytes};
use crate::boot::uki::Uki;
use crate::boot::verity::RootHash;
use crate::contents;
use crate::disk::gpt::PartitionType;
use crate::disk::{DiskImage, erofs, fat};
use crate::model::Bytes;
use crate::tree::{Content, NodeKind};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Reads the disk image at `path`.
pub fn open(path: &Path, name: &str, env: &Env<'_>) -> anyhow::Result<Inspected> {
    let mut found = Inspected::new(Form::Disk, name);
    read(path, name, &mut found, env, true)?;
    Ok(found)
}

/// Adds the disk image at `path` to `found`; with `deep` also what its file systems hold.
pub fn read(path: &Path, name: &str, found: &mut Inspected, env: &Env<'_>, deep: bool) -> anyhow::Result<()> {
    let disk = DiskImage::open(Content::of_file(Arc::new(disk_bytes(path, env)?))?)
        .with_context(|| format!("reading the disk image {name}"))?;
    let mut hashes: Vec<RootHash> = vec![];
    let mut partitions = vec![];
    let mut arch = String::new();
    for p in &disk.table().partitions {
        env.cancel.check()?;
        let content = disk.partition(p)?;
        let known = PartitionType::of(p.type_guid);
        let mut files = BTreeMap::new();
        match known {
            Some(PartitionType::Esp | PartitionType::Enroll) => {
                let volume =
                    fat::read(&content).with_context(|| format!("reading partition `{}`", p.name))?;
                for (path, node) in volume.tree.iter() {
                    let NodeKind::File(content) = &node.kind else { continue };
                    files.insert(path.to_string(), Bytes(content.len()));
                    if path.as_str().starts_with("EFI/Linux/") && path.name().ends_with(".efi") {
                        let (kernel, named) = kernel(&format!("{name}: {path}"), content.clone())?;
                        hashes.extend(named);
                        found.kernels.push(kernel);
                    }
                }
            }
            Some(PartitionType::Root(_) | PartitionType::Payload) if deep => {
                if let Some(PartitionType::Root(of)) = known {
                    arch = of.to_string();
                }
                let image = erofs::Image::open(content);
                let contents = image.map_err(anyhow::Error::from).and_then(|i| contents::of_erofs(&i));
                found.gather(&arch, &contents.with_context(|| format!("reading partition `{}`", p.name))?);
            }
            _ => {}
        }
        partitions.push(Partition {
            name: p.name.clone(),
            kind: known.map_or_else(|| p.type_guid.to_string(), |k| word(k).into()),
            guid: p.guid.to_string(),
            offset: p.offset,
            size: Bytes(p.length),
            root_hash: None,
            files,
        });
    }
    for (partition, p) in partitions.iter_mut().zip(&disk.table().partitions) {
        // Halves of the root hash are the UUIDs of the file system and of its tree (UAPI.2).
        let named = hashes.iter().find(|h| <[_; 2]>::from(h.partition_uuids()).contains(&p.guid));
        partition.root_hash = named.map(ToString::to_string);
    }
    let (size, guid) = (Bytes(disk.table().length), disk.table().disk.to_string());
    found.disks.push(Disk { name: name.into(), size, guid, partitions });
    Ok(())
}

/// Reads the kernel image at `path`.
pub fn kernel_file(path: &Path, name: &str) -> anyhow::Result<Inspected> {
    let mut found = Inspected::new(Form::KernelImage, name);
    found.kernels.push(kernel(name, Content::of_file(Arc::new(File::open(path)?))?)?.0);
    Ok(found)
}

fn kernel(name: &str, content: Content) -> anyhow::Result<(Kernel, Vec<RootHash>)> {
    let uki = Uki::open(content).with_context(|| format!("reading the kernel image {name}"))?;
    let system = uki.os_release.lines().filter_map(|l| l.split_once('='));
    let system = system.filter(|(key, _)| ["PRETTY_NAME", "IMAGE_ID", "IMAGE_VERSION"].contains(key));
    let kernel = Kernel {
        name: name.into(),
        uname: uki.uname.clone(),
        cmdline: uki.cmdline.clone(),
        system: system.map(|(k, v)| (k.to_string(), v.trim_matches('"').to_string())).collect(),
        sections: uki
            .sections()?
            .into_iter()
            .map(|s| Section { name: s.name, size: Bytes(s.length), digest: s.digest })
            .collect(),
    };
    Ok((kernel, uki.root_hashes().into_iter().map(|(_, hash)| hash).collect()))
}

/// What a partition is for, in one word or two.
fn word(kind: PartitionType) -> &'static str {
    match kind {
        PartitionType::Esp => "EFI system",
        PartitionType::Root(_) => "root",
        PartitionType::RootVerity(_) => "root verity",
        PartitionType::Payload => "payload",
        PartitionType::PayloadVerity => "payload verity",
        PartitionType::Enroll => "enrollment",
        PartitionType::Var => "state",
        PartitionType::Image => "disk image",
    }
}
