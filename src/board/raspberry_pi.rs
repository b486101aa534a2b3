//! Raspberry Pi 4 and 5: the vendor's loader, then U-Boot, whose EFI loader starts systemd-boot from the same partition.
//!
//! # The way
//!
//! | | Pi 4 (BCM2711) | Pi 5 (BCM2712) |
//! |---|---|---|
//! | in the EEPROM | first loader | first loader and firmware |
//! | from the ESP's root | `start4.elf`, `fixup4.dat` | – |
//! | both | `config.txt`, the board's `bcm271*.dtb`, `u-boot.bin` | the same |
//!
//! The firmware fills memory sizes and addresses into the device tree and hands it to U-Boot, that to systemd-stub and
//! Linux: so the trees lie beside the firmware, not in the kernel image. `config.txt` has the lines that Debian's own
//! `z50-raspi-firmware` writes, with U-Boot for a kernel. Debian's generic arm64 kernel runs on both; which of a Pi 5's
//! devices it drives is the kernel's to say: 6.12 has its SD card and serial line, not its RP1 (network, USB).
//!
//! U-Boot and not an UEFI firmware made for the board: it is in Debian's `main` for both boards, locked and signed like any
//! package, and hands the device tree on, where pftf's firmware has ACPI by default and none for every Pi 5.
//!
//! # GPT
//!
//! The EEPROM reads GPT and takes an ESP for a boot partition since 2020-05-26 (raspberrypi/rpi-eeprom, release notes;
//! issues 120, 126, 130), from SD cards surely since 2020-09-03 (home-assistant/operating-system#969). A hybrid MBR "has never
//! been supported" (the vendor in raspberrypi/firmware#1465), so the disk stays as on all other machines: protective MBR,
//! ESP first. One pair does not go together: an EEPROM of 2025-02-11 or later hands the partition's number to
//! `start4.elf`, and one of before January 2025 cannot take it on GPT (raspberrypi/rpi-eeprom#668, NixOS/nixpkgs#406201).
//! trixie's package is of April 2024: for a Pi 4 with such an EEPROM a profile names a later one. A Pi 5 reads no
//! `start4.elf`.
//!
//! # What is not there
//!
//! Debian's U-Boot checks no signatures: there is no Secure Boot on these boards. And its EFI loader renames no file (2025.01:
//! "Access denied", which systemd-boot tells and passes over): tries are not counted, so a version that does not come up is
//! tried for ever and the other slot is not turned to. Module `boot` says what stands on the counter.

use super::Board;
use crate::boot::root;
use crate::template;
use crate::tree::{Content, Node, NodeKind, Tree, TreePath};
use anyhow::{Context as _, ensure};

pub const BOARD: Board = Board {
    name: "raspberry-pi",
    firmware: Some("raspi-firmware"),
    packages: &["u-boot-rpi"],
    components: &["non-free-firmware"],
    kept: &["usr/lib/raspi-firmware", "usr/lib/u-boot/rpi_arm64", "usr/share/doc/raspi-firmware"],
    modules: &[],
    esp,
};

/// Files of the packages, and what they are called on the ESP.
const FILES: [(&str, &str); 4] = [
    ("usr/lib/raspi-firmware/start4.elf", "start4.elf"),
    ("usr/lib/raspi-firmware/fixup4.dat", "fixup4.dat"),
    ("usr/lib/u-boot/rpi_arm64/u-boot.bin", "u-boot.bin"),
    // Whoever passes the firmware on passes its licence on (Broadcom's terms, in that file).
    ("usr/share/doc/raspi-firmware/copyright", "LICENCE.broadcom"),
];

/// Device trees of the two boards and their kin, as the firmware looks for them.
const TREES: [&str; 2] = ["bcm2711-", "bcm2712"];

fn esp(packages: &Tree, os: &Tree) -> anyhow::Result<Tree> {
    let mut esp = Tree::new();
    let mut put = |name: &str, content: Content| -> anyhow::Result<()> {
        Ok(esp.insert(TreePath::parse(name)?, Node::file(content, 0o755))?)
    };
    for (from, to) in FILES {
        let content = packages.file(&TreePath::parse(from)?);
        put(to, content.with_context(|| format!("the packages bring no /{from}"))?.clone())?;
    }
    put("config.txt", Content::from(template::RASPBERRY_PI_CONFIG.as_bytes().to_vec()))?;

    let release = root::kernel_release(os)?;
    let dir = TreePath::parse(&format!("usr/lib/linux-image-{release}/broadcom"))?;
    let mut found = 0;
    for (path, node) in os.below(&dir) {
        let name = path.name();
        if let NodeKind::File(content) = &node.kind
            && name.ends_with(".dtb")
            && TREES.iter().any(|family| name.starts_with(family))
        {
            put(name, content.clone())?;
            found += 1;
        }
    }
    ensure!(found > 0, "kernel {release} brings no device tree of a Raspberry Pi 4 or 5 in /{dir}");
    Ok(esp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            tree.insert(TreePath::parse(path).unwrap(), Node::text(*path, 0o644)).unwrap();
        }
        tree
    }

    fn os() -> Tree {
        tree(&[
            "usr/lib/modules/6.12/modules.dep",
            "usr/lib/linux-image-6.12/broadcom/bcm2711-rpi-4-b.dtb",
            "usr/lib/linux-image-6.12/broadcom/bcm2712-rpi-5-b.dtb",
            "usr/lib/linux-image-6.12/broadcom/bcm2837-rpi-3-b.dtb",
            "usr/lib/linux-image-5.10/broadcom/bcm2711-rpi-400.dtb",
        ])
    }

    #[test]
    fn the_esp_has_what_the_vendors_loader_looks_for() {
        let esp = esp(&tree(&FILES.map(|(from, _)| from)), &os()).unwrap();
        let names: Vec<&str> = esp.iter().map(|(path, _)| path.as_str()).collect();
        let wanted = [
            "",
            "LICENCE.broadcom",
            "bcm2711-rpi-4-b.dtb",
            "bcm2712-rpi-5-b.dtb",
            "config.txt",
            "fixup4.dat",
            "start4.elf",
            "u-boot.bin",
        ];
        assert_eq!(names, wanted);
        let config = esp.file(&TreePath::parse("config.txt").unwrap()).unwrap().to_vec(4096).unwrap();
        let config = String::from_utf8(config).unwrap();
        let lines: Vec<&str> = config.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(lines, ["arm_64bit=1", "enable_uart=1", "upstream_kernel=1", "kernel=u-boot.bin"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let fault = esp(&tree(&["usr/lib/raspi-firmware/start4.elf"]), &os()).unwrap_err().to_string();
        assert!(fault.contains("/usr/lib/raspi-firmware/fixup4.dat"), "{fault}");
        let bare = tree(&["usr/lib/modules/6.12/modules.dep"]);
        let fault = esp(&tree(&FILES.map(|(from, _)| from)), &bare).unwrap_err().to_string();
        assert!(fault.contains("kernel 6.12") && fault.contains("linux-image-6.12/broadcom"), "{fault}");
    }
}
