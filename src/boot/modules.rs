//! Kernel modules: from names to the files that the initrd must carry.
//!
//! Reads depmod's text indices (modules.dep(5)). depmod's binary indices, which kmod reads on the device, are taken whole
//! from the tree: what they list and the initrd does not carry is simply not loaded, and they need no writer of forge's.

use crate::tree::{Tree, TreePath};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};

/// The longest index that is read: Debian's modules.dep has 0.6 MiB.
const MAX_INDEX: u64 = 16 << 20;

/// Modules that start a device, besides what the profile names. What a kernel lacks, because it is built in or made for
/// another architecture, is left out. None of them needs firmware.
pub const ESSENTIAL: &[&str] = &[
    // What the root, its integrity, state and the ESP are made of; and the checksums that these ask for by name only.
    "dm_mod",
    "dm_verity",
    "dm_crypt",
    "erofs",
    "overlay",
    "ext4",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
    "loop",
    "efivarfs",
    "autofs4",
    "crc32c_generic",
    "crc32c_intel",
    "sha256_generic",
    "sha256_ssse3",
    "sha256_arm64",
    "sha2_ce",
    // Disks of real machines.
    "nvme",
    "ahci",
    "ata_piix",
    "sd_mod",
    "vmd",
    "megaraid_sas",
    "mpt3sas",
    "usb_storage",
    "uas",
    "xhci_pci",
    "ehci_pci",
    "mmc_block",
    "sdhci_pci",
    "sdhci_acpi",
    "sdhci_iproc",
    "phy_generic",
    // Disks of virtual machines.
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "virtio_rng",
    "hv_storvsc",
    "vmw_pvscsi",
    "mptspi",
    "xen_blkfront",
    // A boot that hangs is ended by the machine.
    "iTCO_wdt",
    "sp5100_tco",
    "i6300esb",
    // The TPM, before state is opened.
    "tpm_tis",
    "tpm_crb",
];

/// What a kernel must have, built in or as a module: without one of them no image of forge's starts.
pub const REQUIRED: &[&str] = &["dm_mod", "dm_verity", "erofs", "overlay", "ext4", "vfat", "loop"];

/// depmod's indices of the copies that kmod and udev read.
pub const INDICES: &[&str] = &[
    "modules.alias.bin",
    "modules.builtin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.modinfo",
    "modules.dep",
    "modules.dep.bin",
    "modules.devname",
    "modules.order",
    "modules.softdep",
    "modules.symbols.bin",
];

/// The modules of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    /// `usr/lib/modules/RELEASE`.
    dir: TreePath,
    /// Module name → its file below `dir`.
    files: BTreeMap<String, String>,
    /// File → the files it needs, closed by depmod.
    needs: BTreeMap<String, Vec<String>>,
    /// Module name → names that should be loaded with it.
    soft: BTreeMap<String, Vec<String>>,
    /// `crypto-NAME` → the modules that offer it.
    offers: BTreeMap<String, Vec<String>>,
    built_in: BTreeSet<String>,
}

/// A module that the kernel does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("kernel {release} has no module `{name}`")]
pub struct UnknownModule {
    /// The name asked for.
    pub name: String,
    /// The kernel's release.
    pub release: String,
}

impl Modules {
    /// Reads the indices of kernel `release` in `os`.
    ///
    /// # Errors
    /// When `modules.dep` is missing or not text.
    pub fn read(os: &Tree, release: &str) -> anyhow::Result<Modules> {
        let dir = TreePath::parse(&format!("usr/lib/modules/{release}"))?;
        let text = |name: &str| -> anyhow::Result<Option<String>> {
            let path = dir.join(name)?;
            let Some(content) = os.file(&path) else { return Ok(None) };
            let bytes = content.to_vec(MAX_INDEX).with_context(|| format!("reading {path}"))?;
            Ok(Some(String::from_utf8(bytes).with_context(|| format!("reading {path}"))?))
        };
        let mut modules = Modules { dir: dir.clone(), ..Modules::default() };
        let dep =
            text("modules.dep")?.with_context(|| format!("{dir} has no modules.dep: depmod did not run"))?;
        for line in dep.lines() {
            let (file, needs) =
                line.split_once(':').with_context(|| format!("reading modules.dep: `{line}`"))?;
            modules.files.insert(name_of(file), file.into());
            modules.needs.insert(file.into(), needs.split_whitespace().map(String::from).collect());
        }
        modules.built_in = text("modules.builtin")?.unwrap_or_default().lines().map(name_of).collect();
        for line in text("modules.softdep")?.unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("softdep")
                && let Some(name) = words.next()
            {
                let others = words.filter(|w| !w.ends_with(':')).map(name_of);
                modules.soft.entry(name_of(name)).or_default().extend(others);
            }
        }
        for line in text("modules.alias")?.unwrap_or_default().lines() {
            if let Some((alias, name)) = line.strip_prefix("alias crypto-").and_then(|l| l.split_once(' ')) {
                modules.offers.entry(name_of(&format!("crypto-{alias}"))).or_default().push(name_of(name));
            }
        }
        Ok(modules)
    }

    /// Paths of the modules `wanted` and all they need, hard or soft, with depmod's indices. Built-in ones need no file.
    ///
    /// # Errors
    /// [`UnknownModule`] for one of `wanted` that is neither a file nor built in.
    pub fn closure<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<BTreeSet<TreePath>> {
        let mut todo: Vec<String> = vec![];
        for name in wanted {
            if !self.has(name) {
                return Err(UnknownModule { name: name.into(), release: self.dir.name().into() }.into());
            }
            todo.push(name_of(name));
        }
        let (mut seen, mut files) = (BTreeSet::new(), BTreeSet::new());
        while let Some(name) = todo.pop() {
            if seen.insert(format!("alias {name}")) {
                todo.extend(self.offers.get(&name).into_iter().flatten().cloned());
            }
            let Some(file) = self.files.get(&name).filter(|_| seen.insert(name.clone())) else { continue };
            files.insert(self.dir.join(file)?);
            todo.extend(self.needs.get(file).into_iter().flatten().map(|f| name_of(f)));
            todo.extend(self.soft.get(&name).into_iter().flatten().cloned());
        }
        for index in INDICES {
            files.insert(self.dir.join(index)?);
        }
        Ok(files)
    }

    /// Whether the kernel has the module, as a file or built in.
    pub fn has(&self, name: &str) -> bool {
        let name = name_of(name);
        self.files.contains_key(&name) || self.built_in.contains(&name)
    }
}

/// `kernel/fs/nls/nls_cp437.ko.xz` → `nls_cp437`; `-` and `_` mean the same.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or_default();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        for (name, text) in [
            (
                "modules.dep",
                "kernel/a/dm-verity.ko.xz: kernel/a/dm-bufio.ko.xz kernel/a/dm-mod.ko.xz\nkernel/a/dm-bufio.ko.xz:\nkernel/a/dm-mod.ko.xz:\nkernel/b/ext4.ko.xz:\nkernel/b/crc.ko.xz:\n",
            ),
            ("modules.builtin", "kernel/c/virtio_pci.ko\n"),
            ("modules.softdep", "# Soft dependencies\nsoftdep ext4 pre: crypto-crc post: gone\n"),
            ("modules.alias", "alias crypto-crc crc\nalias pci:v*d* nvme\n"),
        ] {
            tree.insert(
                TreePath::parse(&format!("usr/lib/modules/6.1/{name}")).unwrap(),
                Node::text(text, 0o644),
            )
            .unwrap();
        }
        tree
    }

    #[test]
    fn needs_hard_and_soft_are_followed() {
        let modules = Modules::read(&tree(), "6.1").unwrap();
        let files = modules.closure(["dm_verity", "ext4", "virtio-pci"]).unwrap();
        let names: Vec<&str> = files.iter().map(TreePath::name).filter(|n| n.ends_with(".xz")).collect();
        assert_eq!(names, ["dm-bufio.ko.xz", "dm-mod.ko.xz", "dm-verity.ko.xz", "crc.ko.xz", "ext4.ko.xz"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let modules = Modules::read(&tree(), "6.1").unwrap();
        let error = modules.closure(["nvme"]).unwrap_err().to_string();
        assert_eq!(error, "kernel 6.1 has no module `nvme`");
        assert!(Modules::read(&tree(), "7.0").is_err());
    }
}
