//! What starts a device and what it is started from: initrd, kernel image, disk, installer.

use crate::boot::slot::Volume;
use crate::disk::format::Format;
use crate::disk::order::{After, DiskRule};
use crate::model::{Arch, Digest};
use crate::plan::{Package, StepId};
use serde::Serialize;

/// The initrd.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Initrd {
    /// For which architecture.
    pub arch: Arch,
    /// The tree that it is taken from.
    pub os: StepId,
    /// Modules that the board's disks need, as far as the kernel has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// Whether it opens a state that is encrypted.
    #[serde(skip_serializing_if = "is_false")]
    pub sealed: bool,
}

/// A key that came later is there where it says something: what was built before keeps its key.
fn is_false(value: &bool) -> bool {
    !value
}

/// A read-only file system and its verity tree.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Filesystem {
    /// Layers, lower first.
    pub layers: Vec<StepId>,
    /// Volume name.
    pub label: String,
}

/// The unified kernel image.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Uki {
    /// For which architecture.
    pub arch: Arch,
    /// Where kernel and stub are from.
    pub os: StepId,
    /// The initrd.
    pub initrd: StepId,
    /// The root file system, whose hash goes into the command line.
    pub root: StepId,
    /// The payload, whose hash goes in too.
    pub payload: Option<StepId>,
    /// The name of the kernel's device tree that it carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devicetree: Option<String>,
    /// Further arguments of the kernel.
    pub kernel_args: Vec<String>,
    /// Whether state is encrypted.
    #[serde(skip_serializing_if = "is_false")]
    pub sealed: bool,
    /// Site, in os-release.
    pub name: String,
    /// Version, in os-release.
    pub version: String,
}

/// systemd-boot, where it is signed.
pub const LOADER: &str = "systemd-boot.efi";
/// Debian's shim, where that is started first.
pub const SHIM: &str = "shim.efi";
/// What shim starts to have a key enrolled.
pub const MOK_MANAGER: &str = "mok-manager.efi";
/// The certificate for that, DER.
pub const MOK: &str = "mok.cer";

/// What starts a device, signed for UEFI Secure Boot.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signed {
    /// For which architecture.
    pub arch: Arch,
    /// Where systemd-boot is from.
    pub os: StepId,
    /// The kernel image.
    pub uki: StepId,
    /// Digest of the certificate's file. The key is not part of a plan: with it come other signatures, under another
    /// certificate.
    pub certificate: Digest,
    /// The packages of shim and of the systemd-boot that its vendor signed, where machines start by way of it; in the
    /// place of a loader signed under the certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shim: Vec<Package>,
}

/// What systemd-boot does with the keys on the ESP, on a machine whose firmware has none (loader.conf(5),
/// `secure-boot-enroll`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enrol {
    /// Nothing.
    Off,
    /// Offers them in its menu.
    Manual,
    /// Takes them where that can cost nobody a machine: in a virtual one.
    IfSafe,
    /// Nothing: the firmware keeps its own, and shim knows the site's from its owner.
    Shim,
}

/// One output of a step, compressed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Frame {
    /// The step.
    pub of: StepId,
    /// Its output.
    pub output: String,
    /// The partition that it goes into, which says how long that is.
    pub volume: Volume,
}

/// A disk image.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// For which architecture.
    pub arch: Arch,
    /// Site, in partition names and in the kernel's file name.
    pub name: String,
    /// Version, in the same places.
    pub version: String,
    /// Where systemd-boot is from.
    pub os: StepId,
    /// The kernel to start.
    pub uki: StepId,
    /// The root file system.
    pub root: StepId,
    /// The payload.
    pub payload: Option<StepId>,
    /// The board's own files on the ESP, where it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<StepId>,
    /// As what it is written.
    pub form: DiskForm,
    /// Where [`Disk::uki`] is signed: what becomes of the keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<Enrol>,
}

/// As what a disk is written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskForm {
    /// The plain bytes.
    Raw,
    /// zstd frames one behind the other; in it the [`Frame`] steps of root, its tree, payload and its tree, as far as they
    /// are there.
    Compressed(Vec<StepId>),
    /// A hypervisor's format.
    Machine(Format),
}

impl Disk {
    /// The output's name, which is the artifact's.
    pub fn file(&self) -> String {
        let extension = match &self.form {
            DiskForm::Raw => "raw",
            DiskForm::Compressed(_) => "raw.zst",
            DiskForm::Machine(format) => format.extension(),
        };
        format!("disk.{extension}")
    }

    pub(super) fn frames(&self) -> &[StepId] {
        match &self.form {
            DiskForm::Compressed(frames) => frames,
            DiskForm::Raw | DiskForm::Machine(_) => &[],
        }
    }
}

/// The files that a board's own firmware reads from the ESP.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Firmware {
    /// The board's name.
    pub board: String,
    /// Where the kernel's device trees are from.
    pub os: StepId,
    /// The packages of the archive that are unpacked.
    pub packages: Vec<Package>,
    /// The .deb that the profile gives in the place of the vendor's package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
}

/// An installer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Installer {
    /// For which architecture.
    pub arch: Arch,
    /// Where kernel, stub and drivers are from.
    pub os: StepId,
    /// The device's initrd.
    pub initrd: StepId,
    /// The device's kernel image, from which the disk has its UUID.
    pub uki: StepId,
    /// The compressed disk image that it installs.
    pub disk: StepId,
    /// The program `forge-device`.
    pub program: Digest,
    /// Which disk it takes.
    pub rule: DiskRule,
    /// Whether a disk that holds something else is written over.
    pub overwrite: bool,
    /// What comes afterwards.
    pub after: After,
    /// Where a network boot fetches the image from.
    pub url: Option<String>,
    /// The name of the kernel's device tree that it carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devicetree: Option<String>,
    /// Further arguments of the kernel.
    pub kernel_args: Vec<String>,
    /// Site.
    pub name: String,
    /// Version.
    pub version: String,
}

/// An installer's medium.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Iso {
    /// For which architecture.
    pub arch: Arch,
    /// What it starts.
    pub installer: StepId,
    /// The compressed disk image.
    pub disk: StepId,
}
