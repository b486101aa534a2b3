//! What starts a device: initrd, dm-verity, unified kernel image.
//!
//! From the merged layers: [`root`] (what lies on the device, kernel, boot loader), [`initrd`] (files of the same packages,
//! with what they load: [`elf`], [`modules`]), [`slot`] (what the initrd must know of one build), [`cmdline`], and the
//! [`uki`] that holds them all.

pub mod cmdline;
pub mod elf;
pub mod initrd;
pub mod modules;
pub mod os_release;
pub mod pe;
pub mod root;
pub mod slot;
pub mod uki;
pub mod verity;

use crate::model::Arch;

/// Packages that the way from firmware to a running system is made of, added to those of the profile.
pub fn implied_packages(arch: Arch) -> Vec<&'static str> {
    let kernel = match arch {
        Arch::Amd64 => "linux-image-amd64",
        Arch::Arm64 => "linux-image-arm64",
    };
    vec![
        kernel,
        // The kernel's package depends on some initramfs generator. This is the smallest, and it never runs.
        "tiny-initramfs",
        "systemd",
        "systemd-sysv",
        "systemd-boot",     // bless-boot
        "systemd-boot-efi", // stub and boot loader
        "systemd-repart",
        "systemd-cryptsetup", // veritysetup and its generator
        "systemd-resolved",
        "systemd-timesyncd",
        "udev",
        "dbus",
        "dmsetup",
        "e2fsprogs",
        "kmod",
        "mount",
        "tzdata",
    ]
}
