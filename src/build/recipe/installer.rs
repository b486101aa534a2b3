//! What installs a disk image: the installer's kernel image with its order, and the medium that carries both.

use super::Kitchen;
use super::boot::{self, Parts};
use crate::boot::cmdline;
use crate::boot::initrd::InitrdSpec;
use crate::boot::installer::{self, InstallerSpec};
use crate::disk::iso::{self, IsoSpec};
use crate::disk::order::{GuidText, IMAGE_ARGUMENT, IMAGE_FILE, ORDER, Order, SOURCE_ARGUMENT};
use crate::model::{Bytes, Guid};
use crate::plan::{Installer, Iso};
use crate::tree::{Content, Node, Tree, TreePath};
use anyhow::Context as _;
use std::io::Write as _;

/// Writes `forge.efi`, `cmdline` and `boot.ipxe`.
pub fn kernel_image(spec: &Installer, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let os = kitchen.tree(&spec.os)?;
    let kernel = kitchen.entry(&spec.initrd)?.fact("kernel")?.to_string();
    let disk = kitchen.entry(&spec.disk)?;
    let image = disk.output(IMAGE_FILE)?;
    let order = Order {
        title: format!("{} {}", spec.name, spec.version),
        // As the disk's own step derives it.
        disk: GuidText(Guid::derived(&kitchen.entry(&spec.uki)?.output("forge.efi")?.digest, "disk")),
        image: image.digest,
        size: image.size,
        length: Bytes(disk.fact("length")?.parse().context("reading the length of the disk")?),
        rule: spec.rule.clone(),
        overwrite: spec.overwrite,
        after: spec.after,
        url: spec.url.clone(),
    };
    let name = format!("{}_{}", spec.name, spec.version);
    let cmdline = cmdline::compose_installer(&name, (IMAGE_ARGUMENT, &image.digest), &spec.kernel_args)?;
    let archive = installer::compose(
        &os,
        &InstallerSpec {
            initrd: InitrdSpec { arch: spec.arch, kernel: kernel.clone(), modules: vec![], sealed: false },
            program: kitchen.blob(spec.program)?,
            order_path: ORDER,
            order: serde_json::to_string(&order)?,
        },
    )?;
    let archive = boot::archive(&archive, kitchen, vec![])?;
    let parts = Parts {
        arch: spec.arch,
        name: &spec.name,
        version: &spec.version,
        kernel,
        devicetree: spec.devicetree.as_deref(),
        cmdline: cmdline.clone(),
        initrds: vec![kitchen.content(&spec.initrd, "initrd.zst")?, Content::from(archive)],
    };
    boot::kernel_image(parts, &os, kitchen)?;
    for (file, text) in [("cmdline", format!("{cmdline}\n")), ("boot.ipxe", ipxe(&cmdline))] {
        kitchen.stage.create(file)?.write_all(text.as_bytes())?;
        kitchen.stage.hash(file)?;
    }
    Ok(())
}

/// iPXE's script. Without Secure Boot the stub takes the loader's command line in place of its own, so all of it is here.
fn ipxe(cmdline: &str) -> String {
    format!(
        "#!ipxe\nkernel ${{cwduri}}forge.efi {cmdline} {SOURCE_ARGUMENT}=${{cwduri}}../{IMAGE_FILE}\nboot\n"
    )
}

/// Writes `installer.iso`.
pub fn medium(spec: &Iso, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let mut esp = Tree::new();
    // Firmware starts it by this name, with no boot loader in between: there is nothing to choose from.
    let path = TreePath::parse(&format!("EFI/BOOT/BOOT{}.EFI", spec.arch.efi().to_uppercase()))?;
    esp.insert(path, Node::file(kitchen.content(&spec.installer, "forge.efi")?, 0o755))?;
    let medium = IsoSpec {
        build: kitchen.entry(&spec.installer)?.output("forge.efi")?.digest,
        esp,
        image: kitchen.content(&spec.disk, IMAGE_FILE)?,
        epoch: kitchen.epoch,
    };
    iso::write(&medium, &kitchen.stage.create("installer.iso")?)?;
    kitchen.stage.hash("installer.iso")?;
    Ok(())
}
