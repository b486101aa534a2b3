//! What starts a device: the initrd, and the kernel image that names the root hashes.

use super::{Kitchen, disk};
use crate::boot::cmdline::{self, CommandLineSpec};
use crate::boot::initrd::{self, InitrdSpec};
use crate::boot::modules::{self, Modules};
use crate::boot::slot::{self, SlotPart, SlotSpec, Volume};
use crate::boot::uki::{self, UkiSpec};
use crate::boot::{devicetree, os_release, root, sealed};
use crate::build::cache::Entry;
use crate::disk::gpt::PartitionType;
use crate::error::{Kind, Mark as _};
use crate::model::{Arch, Digest, Guid};
use crate::plan::{Initrd, Uki};
use crate::tree::{Content, Tree, cpio};
use anyhow::{Context as _, ensure};
use std::io::Write;

/// zstd's level for the initrd. Higher levels shrink it by 6 % at five times the time.
const LEVEL: i32 = 3;

/// Writes `initrd.zst`.
pub fn initrd(spec: &Initrd, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let os = kitchen.tree(&spec.os)?;
    let kernel = root::kernel_release(&os)?;
    let has = Modules::read(&os, &kernel)?;
    let required = modules::REQUIRED.iter().chain(sealed::REQUIRED.iter().filter(|_| spec.sealed));
    let lacks: Vec<&str> = required.copied().filter(|name| !has.has(name)).collect();
    ensure!(lacks.is_empty(), "kernel {kernel} has neither built in nor as a module: {}", lacks.join(", "));
    let modules = spec.modules.iter().filter(|name| has.has(name)).cloned().collect();
    let tree = initrd::compose(
        &os,
        &InitrdSpec { arch: spec.arch, kernel: kernel.clone(), modules, sealed: spec.sealed },
    )?;
    archive(&tree, kitchen, kitchen.stage.create("initrd.zst")?)?;
    kitchen.stage.hash("initrd.zst")?;
    kitchen.stage.fact("kernel", kernel);
    Ok(())
}

/// A tree as a compressed archive of an initrd.
pub(super) fn archive<W: Write>(tree: &Tree, kitchen: &Kitchen<'_>, out: W) -> anyhow::Result<W> {
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    // With any number of workers the bytes are the same; without workers they are others.
    encoder.multithread(kitchen.env.threads.max(1) as u32)?;
    cpio::write(tree, kitchen.epoch, &mut encoder)?;
    Ok(encoder.finish()?)
}

/// Writes `forge.efi`.
pub fn uki(spec: &Uki, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let os = kitchen.tree(&spec.os)?;
    let kernel = kitchen.entry(&spec.initrd)?.fact("kernel")?.to_string();
    let part = |entry: &Entry, volume: Volume| -> anyhow::Result<SlotPart> {
        let (data, hashes) = disk::lengths(entry, volume)?;
        Ok(SlotPart { root_hash: entry.fact("root-hash")?.parse()?, data, hashes })
    };
    let root = part(kitchen.entry(&spec.root)?, Volume::Root)?;
    let payload = spec.payload.as_ref().map(|p| part(kitchen.entry(p)?, Volume::Payload)).transpose()?;
    let slot = SlotSpec {
        root,
        payload,
        payload_types: (PartitionType::Payload.guid(), PartitionType::PayloadVerity.guid()),
        state: Guid::derived(&Digest::of(&spec.name), "state"),
        sealed: spec.sealed,
    };
    let slot = archive(&slot::compose(&slot)?, kitchen, vec![])?;
    let cmdline = cmdline::compose(&CommandLineSpec {
        root: root.root_hash,
        payload: payload.map(|p| p.root_hash),
        sealed: spec.sealed,
        extra: spec.kernel_args.clone(),
        image: format!("{}_{}", spec.name, spec.version),
    })?;
    let parts = Parts {
        arch: spec.arch,
        name: &spec.name,
        version: &spec.version,
        kernel,
        devicetree: spec.devicetree.as_deref(),
        cmdline,
        initrds: vec![kitchen.content(&spec.initrd, "initrd.zst")?, Content::from(slot)],
    };
    kernel_image(parts, &os, kitchen)
}

/// What a kernel image has beside what the packages bring.
pub(super) struct Parts<'a> {
    pub arch: Arch,
    pub name: &'a str,
    pub version: &'a str,
    /// The kernel's release.
    pub kernel: String,
    /// The name of one of the kernel's device trees.
    pub devicetree: Option<&'a str>,
    pub cmdline: String,
    /// The kernel unpacks them one over the other.
    pub initrds: Vec<Content>,
}

/// Writes `forge.efi`: the one place where a kernel image, a device's or an installer's, is put together.
pub(super) fn kernel_image(parts: Parts<'_>, os: &Tree, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let (stub, _) = root::loader(os, parts.arch)?;
    let devicetree = |name: &str| -> anyhow::Result<Content> {
        let tree = devicetree::find(os, &parts.kernel, name)?;
        devicetree::with_room(tree).with_context(|| format!("taking device tree `{name}`"))
    };
    let devicetree = parts.devicetree.map(devicetree).transpose().kind(Kind::Input)?;
    let image = UkiSpec {
        stub: stub.clone(),
        os_release: os_release::compose(os, parts.name, Some(parts.version))?,
        cmdline: parts.cmdline,
        linux: root::kernel(os, &parts.kernel)?.clone(),
        uname: parts.kernel,
        initrds: parts.initrds,
        devicetree,
        splash: None,
        sbat: None,
    };
    uki::write(&image, &kitchen.stage.create("forge.efi")?).context("writing the kernel image")?;
    kitchen.stage.hash("forge.efi")?;
    Ok(())
}
