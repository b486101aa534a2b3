//! Partitions → a disk image: plain, as zstd frames, or in a hypervisor's format.

use super::{Kitchen, signed};
use crate::boot::authenticode::variable::Variable;
use crate::boot::slot::Volume;
use crate::boot::verity::RootHash;
use crate::boot::{root, shim};
use crate::build::cache::Entry;
use crate::disk::gpt::{PartitionType, flag};
use crate::disk::{
    self, DiskSpec, ENROLL_LABEL, ENROLL_SIZE, ESP_LEAST, PartitionContent, PartitionSpec, compressed,
};
use crate::host::fs;
use crate::model::{Digest, Guid};
use crate::plan::{Disk, DiskForm, Enrol, Frame, LOADER, MOK, MOK_MANAGER, SHIM, StepId};
use crate::template;
use crate::tree::{Content, Node, NodeKind, Tree, TreePath};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

/// How often the kernel has to fit into the ESP: slot A, slot B, and the one that is being written.
const KERNELS: u64 = 3;
/// How many starts an untried version gets (UAPI.1, "Boot counting").
const TRIES: u32 = 3;

/// Writes the zstd frame of one partition's content.
pub fn frame(spec: &Frame, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let content = kitchen.content(&spec.of, &spec.output)?;
    let (data, hashes) = lengths(kitchen.entry(&spec.of)?, spec.volume)?;
    let length = if spec.output == "image" { data } else { hashes };
    let out = kitchen.stage.create("frame.zst")?;
    compressed::write_padded(&content, length, io::BufWriter::new(out), kitchen.env.threads as u32)?
        .flush()?;
    kitchen.stage.hash("frame.zst")?;
    Ok(())
}

/// The lengths in bytes of the partitions for a file system and its hash tree.
pub(super) fn lengths(entry: &Entry, volume: Volume) -> anyhow::Result<(u64, u64)> {
    let data = volume.data_partition(entry.output("image")?.size.0);
    Ok((data, volume.hash_partition(data)))
}

/// Writes the image in its form.
pub fn run(spec: &Disk, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let disk = layout(spec, kitchen)?;
    let file = spec.file();
    let out = kitchen.stage.create(&file)?;
    match &spec.form {
        DiskForm::Raw => {
            disk::write(&disk, &out)?;
        }
        DiskForm::Compressed(frames) => joined(&disk, frames, out, kitchen)?,
        DiskForm::Machine(format) => {
            let scratch = fs::anonymous(&kitchen.env.cache.work())?;
            let pieces = disk::compose(&disk, Arc::new(scratch))?;
            disk::format::write(*format, &pieces, disk.guid, &out)?;
        }
    }
    kitchen.stage.hash(&file)?;
    // A check of the release goes through the disk where the file can be read as one.
    if !matches!(spec.form, DiskForm::Machine(_)) {
        kitchen.stage.fact("volumes", volumes(&disk)?);
    }
    Ok(())
}

/// Writes a compressed disk: partitions' frames, and what lies between them as frames of its own.
fn joined(disk: &DiskSpec, frames: &[StepId], out: File, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let threads = kitchen.env.threads as u32;
    let mut framed = frames.iter();
    let plain = Arc::new(fs::anonymous(&kitchen.env.cache.work())?);
    // Only read between the partitions that have frames.
    let table = disk::write(&disk.without_images(), &plain)?;
    let plain = Content::of_file(plain)?;
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    let mut at = 0;
    for (partition, place) in disk.partitions.iter().zip(&table.partitions) {
        if !matches!(partition.content, PartitionContent::Image(_)) {
            continue;
        }
        let frame = framed.next().context("a partition has no frame")?;
        if place.offset > at {
            out = compressed::write(&plain.slice(at, place.offset - at)?, out, threads)?;
        }
        io::copy(&mut kitchen.entry(frame)?.open("frame.zst")?, &mut out)?;
        at = place.offset + place.length;
    }
    out = compressed::write(&plain.slice(at, table.length - at)?, out, threads)?;
    out.flush()?;
    kitchen.stage.fact("length", table.length);
    Ok(())
}

/// The files of the FAT volumes by partition label, with their digests, as JSON: what a check of the disk expects.
fn volumes(disk: &DiskSpec) -> anyhow::Result<String> {
    let mut volumes = BTreeMap::new();
    for partition in &disk.partitions {
        let PartitionContent::Fat { tree, .. } = &partition.content else { continue };
        let mut files = BTreeMap::new();
        for (path, node) in tree.iter() {
            if let NodeKind::File(content) = &node.kind {
                files.insert(path.to_string(), Digest::of_reader(content.reader())?.0);
            }
        }
        volumes.insert(partition.name.clone(), files);
    }
    Ok(serde_json::to_string(&volumes)?)
}

fn layout(spec: &Disk, kitchen: &Kitchen<'_>) -> anyhow::Result<DiskSpec> {
    // The kernel image names both root hashes and the version: it stands for all that the disk holds, in every format.
    let build = kitchen.entry(&spec.uki)?.output("forge.efi")?.digest;
    let derived = |label: &str| Guid::derived(&build, label);
    let uki = kitchen.content(&spec.uki, "forge.efi")?;
    let mut partitions = vec![PartitionSpec {
        kind: PartitionType::Esp,
        guid: derived("esp"),
        name: "esp".into(),
        flags: 0,
        min_length: ESP_LEAST.max(KERNELS * uki.len() + (32 << 20)),
        content: PartitionContent::Fat {
            tree: esp(spec, kitchen, uki)?,
            label: "ESP".into(),
            fat32: true,
            epoch: kitchen.epoch,
        },
    }];
    let arch = spec.arch;
    partitions.extend(slot(
        spec,
        kitchen,
        &spec.root,
        "",
        (PartitionType::Root(arch), PartitionType::RootVerity(arch)),
    )?);
    if let Some(payload) = &spec.payload {
        partitions.extend(slot(
            spec,
            kitchen,
            payload,
            "_payload",
            (PartitionType::Payload, PartitionType::PayloadVerity),
        )?);
    }
    partitions.push(PartitionSpec {
        kind: PartitionType::Enroll,
        guid: derived("enroll"),
        name: "FORGE-ENROLL".into(),
        flags: flag::NO_AUTO,
        min_length: ENROLL_SIZE,
        content: PartitionContent::Fat {
            tree: Tree::new(),
            label: ENROLL_LABEL.into(),
            fat32: false,
            epoch: kitchen.epoch,
        },
    });
    Ok(DiskSpec { guid: derived("disk"), partitions })
}

/// A file system of slot A and its tree; their UUIDs are the halves of the root hash (UAPI.2).
fn slot(
    spec: &Disk,
    kitchen: &Kitchen<'_>,
    step: &StepId,
    what: &str,
    kinds: (PartitionType, PartitionType),
) -> anyhow::Result<[PartitionSpec; 2]> {
    let entry: &Entry = kitchen.entry(step)?;
    let volume = if what.is_empty() { Volume::Root } else { Volume::Payload };
    let (data_length, tree_length) = lengths(entry, volume)?;
    let root_hash: RootHash = entry.fact("root-hash")?.parse()?;
    let (data, tree) = root_hash.partition_uuids();
    let partition = |kind, guid, suffix: &str, output, min_length| -> anyhow::Result<PartitionSpec> {
        let content = PartitionContent::Image(kitchen.content(step, output)?);
        Ok(PartitionSpec {
            kind,
            guid,
            name: label(&spec.name, &spec.version, suffix),
            flags: flag::READ_ONLY,
            content,
            min_length,
        })
    };
    Ok([
        partition(kinds.0, data, what, "image", data_length)?,
        partition(kinds.1, tree, &format!("{what}_verity"), "verity", tree_length)?,
    ])
}

/// `NAME_VERSION` and what it is. A GPT label has 36 characters: of a long name the front is kept, since nothing finds a
/// partition by it.
fn label(name: &str, version: &str, suffix: &str) -> String {
    let room = 36usize.saturating_sub(version.len() + suffix.len() + 1);
    format!("{}_{version}{suffix}", &name[..name.len().min(room)]).chars().take(36).collect()
}

fn esp(spec: &Disk, kitchen: &Kitchen<'_>, uki: Content) -> anyhow::Result<Tree> {
    let loader = match spec.secure_boot {
        Some(_) => kitchen.content(&spec.uki, LOADER)?,
        None => root::loader(&kitchen.tree(&spec.os)?, spec.arch)?.1.clone(),
    };
    let efi = spec.arch.efi();
    let first = format!("{}/BOOT{}.EFI", shim::DIR, efi.to_uppercase());
    let starts = if spec.secure_boot == Some(Enrol::Shim) {
        let (manager, second) = shim::names(spec.arch);
        let of = |output| kitchen.content(&spec.uki, output);
        // The certificate lies in the root, where MokManager's list of files begins.
        vec![(first, of(SHIM)?), (second, loader), (manager, of(MOK_MANAGER)?), (MOK.into(), of(MOK)?)]
    } else {
        vec![(first, loader.clone()), (format!("EFI/systemd/systemd-boot{efi}.efi"), loader)]
    };
    let mut tree = Tree::new();
    for (path, content) in starts.into_iter().chain([
        (format!("EFI/Linux/{}_{}+{TRIES}.efi", spec.name, spec.version), uki),
        ("loader/loader.conf".into(), Content::from(loader_conf(spec.secure_boot).into_bytes())),
    ]) {
        tree.insert(TreePath::parse(&path)?, Node::file(content, 0o755))?;
    }
    if let Some(firmware) = &spec.firmware {
        tree.graft(&TreePath::root(), kitchen.tree(firmware)?)?;
    }
    if spec.secure_boot.is_some_and(|enrol| matches!(enrol, Enrol::Manual | Enrol::IfSafe)) {
        for variable in Variable::ALL {
            let name = signed::auth(variable);
            let content = kitchen.content(&spec.uki, &name)?;
            tree.insert(TreePath::parse(&format!("loader/keys/auto/{name}"))?, Node::file(content, 0o755))?;
        }
    }
    Ok(tree)
}

fn loader_conf(secure_boot: Option<Enrol>) -> String {
    let enrol = match secure_boot {
        None => return template::LOADER_CONF.into(),
        Some(Enrol::Off | Enrol::Shim) => "off",
        Some(Enrol::Manual) => "manual",
        Some(Enrol::IfSafe) => "if-safe",
    };
    format!("{}secure-boot-enroll {enrol}\n", template::LOADER_CONF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_a_table() {
        assert_eq!(
            label("quickstart", "2026.11.22", "_payload_verity"),
            "quickstart_2026.11.22_payload_verity"
        );
        let long = label(&"n".repeat(63), "2026.11.22", "_payload_verity");
        assert_eq!((long.len(), long.ends_with("n_2026.11.22_payload_verity")), (36, true));
    }
}
