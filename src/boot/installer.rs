//! The installer's own archive: what it has beyond the device's initrd, whose files it finds in place.
//!
//! The same systemd starts the program in place of the way to a root. Beside the program and its order come what
//! reads a medium and fetches from a server: drivers of optical drives and network ports, networkd and resolved.

use super::initrd::{self, InitrdSpec};
use super::modules;
use crate::template;
use crate::tree::{Content, Node, Tree, TreePath};
use anyhow::bail;

/// Where the program lies, without the leading slash.
pub const PROGRAM: &str = "usr/lib/forge/forge-device";

/// What the archive is made of.
#[derive(Clone, Debug)]
pub struct InstallerSpec {
    /// The device's initrd, which the archive is unpacked over.
    pub initrd: InitrdSpec,
    /// The program `forge-device`, for the architecture.
    pub program: Content,
    /// Where its order lies.
    pub order_path: &'static str,
    /// The order, as JSON.
    pub order: String,
}

/// Modules that the kernel may have: media, and ports that need no firmware to come up.
const MODULES: &[&str] = &[
    "sr_mod",
    "cdrom", // what a server's remote console shows as an optical drive
    "virtio_net",
    "e1000",
    "e1000e",
    "igb",
    "igc",
    "igbvf",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "ice",
    "r8169",
    "tg3",
    "bnxt_en",
    "mlx4_en",
    "mlx5_core",
    "ena",
    "gve",
    "hv_netvsc",
    "vmxnet3",
    "xen_netfront",
    "atlantic",
    "sky2",
    "forcedeth",
    "r8152",
    "ax88179_178a",
    "cdc_ncm",
    "stmmac",
    "dwmac_generic",
    "dwmac_tegra",
    "bcmgenet",
    "macb",
    "fec",
    "mvneta",
    "mvpp2",
    "genet",
];

/// Programs of packages that every device has.
const PROGRAMS: &[(&str, &str)] = &[
    ("usr/lib/systemd/systemd-networkd", "systemd"),
    ("usr/lib/systemd/systemd-resolved", "systemd-resolved"),
    ("usr/lib/systemd/system/systemd-networkd.service", "systemd"),
    ("usr/lib/systemd/system/systemd-networkd.socket", "systemd"),
    ("usr/lib/systemd/system/systemd-resolved.service", "systemd-resolved"),
    ("usr/lib/systemd/system/network.target", "systemd"),
    ("usr/lib/systemd/system/network-pre.target", "systemd"),
    ("usr/lib/systemd/network/80-forge-dhcp.network", "forge"),
    ("usr/lib/udev/rules.d/60-cdrom_id.rules", "udev"),
    ("usr/lib/udev/rules.d/75-net-description.rules", "udev"),
    ("usr/lib/udev/rules.d/80-net-setup-link.rules", "udev"),
    ("usr/lib/udev/cdrom_id", "udev"),
];

/// The archive's tree, made from the configured packages `os`.
///
/// # Errors
/// As [`initrd::compose`].
pub fn compose(os: &Tree, spec: &InstallerSpec) -> anyhow::Result<Tree> {
    let path = |text: &str| TreePath::parse(text);
    let below = initrd::compose(os, &spec.initrd)?;
    let kernel = modules::Modules::read(os, &spec.initrd.kernel)?;
    let mut wanted: Vec<TreePath> =
        kernel.closure(MODULES.iter().copied().filter(|name| kernel.has(name)))?.into_iter().collect();
    for (file, package) in PROGRAMS {
        let file = path(file)?;
        if os.resolve(&file).is_none() {
            bail!("the installer needs `/{file}`, which package {package} has and the root has not");
        }
        wanted.push(file);
    }
    let mut tree = Tree::new();
    for (at, node) in initrd::with_what_they_load(os, spec.initrd.arch, &wanted)?.iter() {
        if !node.is_dir() && below.get(at).is_none() {
            tree.insert(at.clone(), node.clone())?;
        }
    }
    // The kernel unpacks this archive over the initrd's, whose target it replaces.
    for (file, text) in template::INSTALLER {
        tree.insert(path(file)?, Node::text(*text, 0o644))?;
    }
    tree.insert(path(PROGRAM)?, Node::file(spec.program.clone(), 0o755))?;
    tree.insert(path(spec.order_path)?, Node::text(spec.order.clone(), 0o644))?;
    tree.check()?;
    Ok(tree)
}
