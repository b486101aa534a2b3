//! What starts a device: initrd, dm-verity, unified kernel image.
//!
//! From the merged layers: [`root`] (what lies on the device, kernel, boot loader), [`initrd`] (files of the same packages,
//! with what they load: [`elf`], [`modules`]), [`slot`] (what the initrd must know of one build), [`cmdline`], and the
//! [`uki`] that holds them all, with a [`devicetree`] where the profile names one. An installer's has [`installer`] in the
//! slot's place. [`shim`] has what comes before the boot loader on machines whose firmware keeps keys of others; [`sealed`]
//! what a device takes whose state only its own TPM opens.
//!
//! # Which slot starts
//!
//! systemd-boot's boot assessment alone decides (systemd-boot(7), UAPI.1 "Boot counting"); forge adds when a version is
//! counted again. A boot image is called `NAME_VERSION`, with the tries left and done as a suffix:
//!
//! | on the ESP | means | order |
//! |---|---|---|
//! | `X+3.efi` | untried, or good and armed again | by version, the newest first |
//! | `X+2-1.efi` | on trial: one boot was begun | likewise |
//! | `X.efi` | good (systemd-bless-boot), nothing to turn to | likewise |
//! | `X+0-3.efi` | three boots in a row were not good | behind all others |
//!
//! A boot that is good makes `X+2-1` to `X`, and `forge-boot-rearm.service` makes that to `X+3` where another version on
//! the ESP has not failed. So the boots of every version are counted as long as there is something to turn to, and blocks
//! that change years later lead to the other slot just as a bad update does. The version that took over because the other
//! has failed is not counted: it stays, as it is the last.
//!
//! What ends a boot that is not good: dm-verity restarts at a changed block (`restart-on-corruption`), the initrd's and
//! the system's `emergency.service` restart, `forge-boot-failed.service` when a required unit fails or the boot is not
//! complete in ten minutes, the watchdog when systemd itself hangs, `panic=10`. A block that is read only long after the
//! boot was good is found by `forge-slot-check.service`: after an end that was no shutdown it reads all of the slot before
//! the boot may be good.
//!
//! The price: power that goes three times in a row before the boot is good leads to the other slot as well, which is a
//! good system, an older one. The boots before count only while the counter is on the ESP: each boot writes three names
//! there, in the order that keeps one at any time (`efi.mount.d`).
//!
//! An update must free the other slot's boot image first, then write partitions, then its own boot image with three
//! tries; and take the tries off the running one (`X+3` → `X`) before, since the only good version is never counted.

pub mod authenticode;
pub mod cmdline;
pub mod devicetree;
pub mod elf;
pub mod initrd;
pub mod installer;
pub mod modules;
pub mod os_release;
pub mod pe;
pub mod root;
pub mod sealed;
pub mod shim;
pub mod slot;
pub mod uki;
pub mod verity;

use crate::model::Arch;

/// Packages that make an initrd on the device, any of which meets the kernel package's demand for one. None runs: forge
/// composes the initrd.
const INITRAMFS_GENERATORS: [&str; 3] = ["tiny-initramfs", "initramfs-tools", "dracut"];

/// The archive's own kernel.
pub fn kernel_package(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "linux-image-amd64",
        Arch::Arm64 => "linux-image-arm64",
    }
}

/// Packages that the way from firmware to a running system is made of, beside a kernel, added to those that the profile
/// `asks` for.
pub fn implied_packages(asks: &[String]) -> Vec<&'static str> {
    let mut packages = vec![
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
    ];
    // They exclude each other, so the profile's own comes first; else the smallest.
    if !INITRAMFS_GENERATORS.iter().any(|generator| asks.iter().any(|asked| asked == generator)) {
        packages.push(INITRAMFS_GENERATORS[0]);
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_initramfs_generator_is_asked_for() {
        let generators = |asks: &[&str]| {
            let asks: Vec<String> = asks.iter().map(|s| s.to_string()).collect();
            let implied = implied_packages(&asks);
            implied.into_iter().filter(|p| INITRAMFS_GENERATORS.contains(p)).collect::<Vec<_>>()
        };
        assert_eq!(generators(&["curl"]), ["tiny-initramfs"]);
        assert!(generators(&["curl", "initramfs-tools"]).is_empty());
    }
}
