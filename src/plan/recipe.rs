//! The recipes that a plan is made of: what each step does, and everything that decides its bytes.

mod image;

pub use image::*;

use super::StepId;
use crate::layer::kubernetes::cluster::{Role, Start};
use crate::layer::workload::gitops::Gitops;
use crate::layer::workload::vm::{Forward, Machine};
use crate::model::{Arch, Digest, Epoch, SiteName};
use crate::oci::layer::Codec;
use crate::source::oci::PinnedImage;
use crate::source::release::Product;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a step does. Variants carry specifications, digests of what is fetched, and the steps they take in; never a
/// path of this machine, a mirror, or a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub enum Recipe {
    /// Packages → a configured tree, as the tar `layer.tar`.
    Rootfs(Rootfs),
    /// Configured packages → the operating system's layer of every device: `layer.tar`.
    Os(Os),
    /// A site's names, users, files and forge's own units, over its operating system → `layer.tar`.
    Site(Site),
    /// What runs the workloads, as far as it belongs to the root partition → `layer.tar`.
    Runtime(Runtime),
    /// Container images in the runtime's own store, and manifests → `layer.tar`.
    Payload(Payload),
    /// The initrd, out of the operating system's own packages → `initrd.zst`; fact `kernel`.
    Initrd(Initrd),
    /// Layers, lower first → one read-only file system with its verity tree: `image`, `verity`; fact `root-hash`.
    Filesystem(Filesystem),
    /// Kernel, initrd and the command line with the root hashes → `forge.efi`.
    Uki(Uki),
    /// A kernel image and systemd-boot, signed for UEFI Secure Boot: `forge.efi`, [`LOADER`], `db.cer`, and `PK.auth`,
    /// `KEK.auth`, `db.auth`. By way of shim: `forge.efi`, and [`LOADER`], [`SHIM`], [`MOK_MANAGER`], [`MOK`].
    Signed(Signed),
    /// One partition's content → the zstd frame `frame.zst` that a compressed disk image is put together from.
    Frame(Frame),
    /// Partitions → a disk image: `disk.` and the extension of its [form](DiskForm).
    Disk(Disk),
    /// A board's firmware packages → the files that it reads from the ESP, as `layer.tar`.
    Firmware(Firmware),
    /// The device's initrd, the program and its order → `forge.efi`, with `cmdline` and `boot.ipxe` for a network boot.
    Installer(Installer),
    /// An installer and its disk image → the medium `installer.iso`.
    Iso(Iso),
    /// A layer → an OCI blob: `blob`; facts `media-type` and `diff-id`.
    Blob(Blob),
}

/// Packages that are installed together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rootfs {
    /// For which architecture.
    pub arch: Arch,
    /// The packages, sorted by name.
    pub packages: Vec<Package>,
    /// A kernel's .deb that the profile gives in the place of the archive's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Digest>,
    /// What the tree is for.
    pub purpose: Purpose,
}

/// What a tree is for, which decides what is cleaned out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A device's operating system.
    Os,
    /// A container's root file system: without documentation and locales.
    Container,
}

/// The operating system's layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Os {
    /// The configured packages.
    pub packages: StepId,
}

/// A locked package.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of the .deb.
    pub digest: Digest,
    /// Whether only other packages asked for it.
    pub automatic: bool,
}

/// A file that goes into a tree.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileInput {
    /// Path in the tree, without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: FileContent,
}

/// Where a file's content comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileContent {
    /// Typed into the profile.
    Text(String),
    /// A locked file beside the profile.
    Locked(Digest),
}

/// The site's own layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Site {
    /// The configured operating system, whose users and groups are added to.
    pub os: StepId,
    /// Site: the host's name, and the image's in os-release and on the screen.
    pub name: SiteName,
    /// IANA time zone.
    pub timezone: String,
    /// Time servers; empty for the distribution's.
    pub ntp: Vec<String>,
    /// Kernel modules to load.
    pub modules: Vec<String>,
    /// Users with their SSH keys.
    pub users: BTreeMap<String, Vec<String>>,
    /// Files.
    pub files: Vec<FileInput>,
    /// The resolved profile as canonical JSON, less the workloads: it holds no secret.
    pub profile: String,
    /// What lets the device join a fleet, where it is to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enroll: Option<Enrollment>,
}

/// What lets a device join a fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Enrollment {
    /// The program `forge-device`: part of what forge is installed with, and an input like any other.
    pub program: Digest,
    /// Fleet roots by file name.
    pub trust: BTreeMap<String, Digest>,
}

/// The runtime's part on the root partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "distribution", rename_all = "kebab-case")]
pub enum Runtime {
    /// Podman's kube play.
    Podman {
        /// Whether a payload with container images comes with it.
        images: bool,
    },
    /// A distribution from its upstream release.
    Cluster(Cluster),
    /// KubeEdge's EdgeCore from its upstream release.
    Kubeedge(Edge),
}

/// A Kubernetes distribution from its upstream release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    /// Which one.
    pub product: Product,
    /// Its version.
    pub version: String,
    /// For which architecture.
    pub arch: Arch,
    /// The machine's part in its cluster.
    pub role: Role,
    /// What it waits for.
    pub start: Start,
    /// The release's file with the program.
    pub program: Digest,
    /// The release's archive of container images, where it is carried along.
    pub images: Option<Digest>,
    /// The node's name, where no grant says another.
    pub node_name: String,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The profile's own configuration, passed through.
    pub config: BTreeMap<String, serde_json::Value>,
    /// Registries and their mirrors, passed through.
    pub registries: BTreeMap<String, serde_json::Value>,
}

/// KubeEdge's EdgeCore from its upstream release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Edge {
    /// Its version.
    pub version: String,
    /// For which architecture.
    pub arch: Arch,
    /// What it waits for.
    pub start: Start,
    /// The release's archive with the program.
    pub program: Digest,
    /// The node's name, where no grant says another.
    pub node_name: String,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The profile's own configuration, passed through.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// What runs the workloads of a payload, which decides its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// Podman: an image store, and units.
    Podman,
    /// A Kubernetes distribution: an archive of images, and manifests to deploy.
    Cluster,
    /// KubeEdge: an archive of images, the one of pods' first process among them.
    Kubeedge,
}

impl Runner {
    /// Whether it is the one that payloads were for before there were others: their keys say nothing of it.
    fn is_podman(&self) -> bool {
        *self == Runner::Podman
    }
}

/// The payload partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Payload {
    /// For which architecture.
    pub arch: Arch,
    /// What runs it.
    #[serde(skip_serializing_if = "Runner::is_podman")]
    pub runner: Runner,
    /// The package with the program that holds a pod's namespaces, where the runtime takes that from an image.
    pub pause: Option<Package>,
    /// Containers made from packages.
    pub containers: Vec<Container>,
    /// Container images from registries, pinned.
    pub images: Vec<PinnedImage>,
    /// Workloads of manifests in the order of the profile.
    pub workloads: Vec<Workload>,
    /// Helm charts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<Chart>,
    /// Models and other large data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<Model>,
    /// Virtual machines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<Guest>,
    /// The repository that the cluster follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gitops: Option<Gitops>,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Guest {
    /// The workload's name.
    pub name: String,
    /// Whether a boot is good only when it runs.
    pub required: bool,
    /// Its disk.
    pub disk: GuestDisk,
    /// MiB of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// What it is built like.
    pub machine: Machine,
    /// Ports of the host that lead to it.
    pub ports: Vec<Forward>,
    /// A bridge that it is on instead.
    pub bridge: Option<String>,
}

/// Where a guest's disk is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestDisk {
    /// A file.
    File(Digest),
    /// A container image of one disk, by reference, as a cluster takes it.
    Image(String),
}

/// A Helm chart that the distribution installs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Chart {
    /// The workload's name.
    pub name: String,
    /// Whether a boot is good only when it is installed.
    pub required: bool,
    /// Where it is installed into.
    pub namespace: String,
    /// Its package.
    pub package: Digest,
    /// Its values, where the profile gives some.
    pub values: Option<Digest>,
}

/// A model or other large data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Model {
    /// The workload's name.
    pub name: String,
    /// Whether a boot without it is bad.
    pub required: bool,
    /// Where the host shows it.
    pub mount: String,
    /// Its files.
    pub files: Vec<ModelFile>,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelFile {
    /// Its path below the mount point.
    pub path: String,
    /// The media type of an archive whose files are meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Its digest.
    pub digest: Digest,
}

/// A container made from packages.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Container {
    /// What manifests call it.
    pub name: String,
    /// Its packages, configured.
    pub rootfs: StepId,
    /// Files over them.
    pub files: Vec<FileInput>,
    /// What it runs.
    pub command: Vec<String>,
    /// As whom.
    pub user: Option<String>,
    /// Ports that it listens on, as `80` or `53/udp`.
    pub ports: Vec<String>,
}

/// A workload of Kubernetes manifests.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// Whether a boot is good only when it runs.
    pub required: bool,
    /// Its manifests: file name and digest.
    pub manifests: Vec<(String, Digest)>,
}

/// A compressed layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Blob {
    /// The step that made `layer.tar`.
    pub layer: StepId,
    /// How it is compressed.
    pub codec: Codec,
}

impl Recipe {
    /// The version of the recipe: raised when the same specification must give other bytes.
    fn version(&self) -> u32 {
        match self {
            Recipe::Rootfs(_) => 3,
            Recipe::Os(_) => 3,
            Recipe::Site(_) => 2,
            Recipe::Runtime(_) => 4,
            Recipe::Payload(_) => 3,
            Recipe::Initrd(_) => 1,
            Recipe::Filesystem(_) => 1,
            Recipe::Uki(_) => 3,
            Recipe::Signed(_) => 1,
            Recipe::Frame(_) => 2,
            Recipe::Disk(_) => 2,
            Recipe::Firmware(_) => 1,
            Recipe::Installer(_) => 1,
            Recipe::Iso(_) => 1,
            Recipe::Blob(_) => 1,
        }
    }

    /// What it does, for people.
    pub fn what(&self) -> &'static str {
        match self {
            Recipe::Rootfs(_) => "installing packages",
            Recipe::Os(_) => "fitting the packages for a device",
            Recipe::Site(_) => "writing the site's files",
            Recipe::Runtime(_) => "writing the runtime's files",
            Recipe::Payload(_) => "storing container images",
            Recipe::Initrd(_) => "composing the initrd",
            Recipe::Filesystem(_) => "writing the file system and its verity tree",
            Recipe::Uki(_) => "joining kernel, initrd and command line",
            Recipe::Signed(_) => "signing for Secure Boot",
            Recipe::Frame(_) | Recipe::Blob(_) => "compressing",
            Recipe::Disk(_) => "writing the disk image",
            Recipe::Firmware(_) => "taking the board's boot files out of its packages",
            Recipe::Installer(_) => "composing the installer",
            Recipe::Iso(_) => "writing the installer's medium",
        }
    }

    /// The steps that it takes in.
    pub fn inputs(&self) -> Vec<&StepId> {
        match self {
            Recipe::Rootfs(_) | Recipe::Runtime(_) => vec![],
            Recipe::Os(Os { packages }) => vec![packages],
            Recipe::Site(Site { os, .. }) | Recipe::Initrd(Initrd { os, .. }) => vec![os],
            Recipe::Payload(payload) => payload.containers.iter().map(|c| &c.rootfs).collect(),
            Recipe::Filesystem(filesystem) => filesystem.layers.iter().collect(),
            Recipe::Uki(uki) => [&uki.os, &uki.initrd, &uki.root].into_iter().chain(&uki.payload).collect(),
            Recipe::Signed(signed) => vec![&signed.os, &signed.uki],
            Recipe::Frame(frame) => vec![&frame.of],
            Recipe::Disk(disk) => [&disk.os, &disk.uki, &disk.root]
                .into_iter()
                .chain(&disk.payload)
                .chain(&disk.firmware)
                .chain(disk.frames())
                .collect(),
            Recipe::Firmware(firmware) => vec![&firmware.os],
            Recipe::Installer(Installer { os, initrd, uki, disk, .. }) => vec![os, initrd, uki, disk],
            Recipe::Iso(Iso { installer, disk, .. }) => vec![installer, disk],
            Recipe::Blob(blob) => vec![&blob.layer],
        }
    }

    /// The key of the step: a digest of its canonical specification, its version, the keys of what it takes in, and the
    /// epoch.
    pub(super) fn key(&self, keys: &BTreeMap<StepId, Digest>, epoch: Epoch) -> Digest {
        let inputs: Vec<_> = self.inputs().into_iter().map(|id| keys.get(id)).collect();
        // Plain data with string keys serialises, and serde_json's maps are sorted: one spelling for one specification.
        Digest::of(
            serde_json::json!({ "epoch": epoch, "inputs": inputs, "spec": self, "version": self.version() })
                .to_string(),
        )
    }
}
