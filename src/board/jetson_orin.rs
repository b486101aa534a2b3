//! NVIDIA Jetson Orin (AGX, NX, Nano: Tegra234): UEFI in the module's own flash, and a kernel that the profile brings.
//!
//! # The way
//!
//! MB1, MB2 and NVIDIA's build of edk2 ("edk2-nvidia") lie in the QSPI flash of the module, written there by the vendor's
//! tools. From then on it is a UEFI machine: it reads FAT with edk2's own driver (`FatPkg/EnhancedFatDxe`, which also
//! renames files, so that boots are counted) and starts `EFI/BOOT/BOOTAA64.EFI` of NVMe, USB or SD card. On that path NVIDIA's
//! own images have `L4TLauncher`, ours systemd-boot. The partitions beside the ESP that NVIDIA's own images have (`A_kernel`,
//! `A_kernel-dtb`, `recovery` …) are read by `L4TLauncher` alone: so the disk is laid out as on every other machine.
//!
//! # Kernel and device tree
//!
//! Debian's own kernel 6.12 is built without this chip (its configuration has no `ARCH_TEGRA_234_SOC`, and none of its
//! device trees is a `tegra234-*`), hence the profile gives one: mainline with that switched on, or NVIDIA's sources, as the
//! kernel's own `make bindeb-pkg` packs it. With `image.devicetree` the kernel image carries a tree of that kernel, in
//! the place of the one in flash, which is for the kernel of the vendor's release; module `boot::devicetree` has how
//! the firmware fills it in. Firmware set to ACPI does none of that, and such a tree must not be named then.
//!
//! # What is not there
//!
//! The firmware itself: neither its first writing nor its updates (capsules) are forge's. Modules from outside of the
//! kernel's package (the vendor's graphics driver) have no key of their own. No board was here to start any of it.

use super::Board;
use crate::tree::Tree;

pub const BOARD: Board = Board {
    name: "jetson-orin",
    firmware: None,
    packages: &[],
    components: &[],
    kept: &[],
    // What lies between the kernel and its disk on this chip: PCIe for NVMe, USB, and the slot for cards.
    modules: &[
        "phy_tegra194_p2u",
        "pcie_tegra194",
        "phy_tegra_xusb",
        "xhci_tegra",
        "sdhci_tegra",
        "tegra186_gpc_dma",
        "i2c_tegra",
        "fixed",
    ],
    esp: |_, _| Ok(Tree::new()),
};
