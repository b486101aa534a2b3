//! A state partition that only the machine's own TPM opens: `os.encrypt-state = "tpm2"`.
//!
//! systemd-repart makes it at first boot as LUKS2, under a key that it seals to PCR 7 (systemd-cryptenroll(1), TCG PC Client
//! Platform Firmware Profile §3.3.4.8): whether Secure Boot is on, whose keys the firmware keeps, and under which of them what
//! was started is signed. So a disk in another machine is noise, and this machine opens it for what the site's key signed
//! and for nothing else. Updates are signed by the same key and go on opening it.
//!
//! What follows from it, and is meant:
//!
//! - It starts under Secure Boot with the site's own keys alone. State that was made without would be sealed to that, and
//!   lost on the day when somebody turns it on; so it is not made then.
//! - Not by way of shim. There others' systems start as well, up to the same measurements of PCR 7, and can add the
//!   missing ones by themselves: a PCR can be extended by whatever runs.
//! - Other keys in the firmware, or a cleared TPM, are another machine. Nothing opens the state then, and nothing is
//!   erased either: the box says so on its screen and starts over, until its disk is written anew.
//! - What was written is kept from a thief, what is yet to come is not: an empty state under his own key, sealed to the same
//!   measurements, opens as well, and the box begins in it as a new one. It is the fleet that says whether it may.

use crate::model::{Arch, Guid};
use crate::template;

/// What it takes of the archive's packages, by the names that Debian's provide since trixie, whatever their own are.
pub const PACKAGES: &[&str] =
    &["libtss2-esys-3.0.2-0", "libtss2-mu-4.0.1-0", "libtss2-rc0", "libtss2-tcti-device0"];

/// The word on the command line that says so. Nothing on the device reads it: it is for whoever starts the image.
pub const ARGUMENT: &str = "forge.state=tpm2";

/// What repart.d(5) is told of the partition, beside what is told of one in the clear.
pub(super) const REPART: &str = "Encrypt=tpm2\n";
/// Where the opened partition is.
pub(super) const DEVICE: &str = "/dev/mapper/state";
/// A state that does not open ends the boot at once, instead of waiting for a device that never comes.
pub(super) const MOUNT_OPTION: &str = "x-systemd.requires=systemd-cryptsetup@state.service";

/// What the initrd has besides, each with the package that has it in Debian.
pub(super) fn programs(arch: Arch) -> impl Iterator<Item = (String, &'static str)> {
    let own = [
        ("usr/lib/systemd/systemd-cryptsetup", "systemd-cryptsetup"),
        ("usr/lib/systemd/system-generators/systemd-cryptsetup-generator", "systemd-cryptsetup"),
    ];
    // systemd opens them by itself: libcryptsetup's token and the TPM's device by names that it puts together, so that no
    // note has them.
    let libraries = [
        ("cryptsetup/libcryptsetup-token-systemd-tpm2.so", "systemd-cryptsetup"),
        ("libtss2-esys.so.0", "libtss2-esys-3.0.2-0t64"),
        ("libtss2-mu.so.0", "libtss2-mu-4.0.1-0t64"),
        ("libtss2-rc.so.0", "libtss2-rc0t64"),
        ("libtss2-tcti-device.so.0", "libtss2-tcti-device0t64"),
    ];
    let libraries = libraries
        .into_iter()
        .map(move |(name, package)| (format!("usr/lib/{}/{name}", arch.multiarch()), package));
    own.into_iter().map(|(path, package)| (path.to_string(), package)).chain(libraries)
}

/// Modules that a kernel must have for it: dm-crypt, and the mode that LUKS2 asks for by name (`aes-xts-plain64`).
pub const REQUIRED: &[&str] = &["dm_crypt", "xts"];
/// What makes AES, of which a kernel may have several, or all built in.
pub(super) const MODULES: &[&str] =
    &["dm_crypt", "xts", "ecb", "aes_generic", "aesni_intel", "aes_arm64", "aes_ce_blk", "aes_neon_blk"];

/// Units that not every systemd has.
pub(super) const UNITS: &[&str] =
    &["cryptsetup-pre.target", "cryptsetup.target", "system-systemd\\x2dcryptsetup.slice", "tpm2.target"];

/// What the initrd is told: how the partition `state` is opened, and how it is made.
pub(super) fn settings(state: Guid) -> impl Iterator<Item = (&'static str, String)> {
    let table = format!("state PARTUUID={state} - tpm2-device=auto,headless=true,x-initrd.attach\n");
    let units = template::SEALED.iter().map(|(path, text)| (*path, text.to_string()));
    std::iter::once(("etc/crypttab", table)).chain(units)
}
