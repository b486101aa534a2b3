//! The tables of a profile: the one place that says which keys there are, what they hold and what they default to.

use super::shape::table;
use super::value::*;
use crate::model::{Arch, Bytes, SiteName};
use std::collections::BTreeMap;

table! {
    /// A profile after the merge, for one architecture.
    pub struct Document {
        /// The version of this format.
        pub schema: SchemaVersion,
        /// What is built for.
        pub site: Site,
        /// What is built.
        pub image: Image,
        /// How an installer works: `installer.iso` and `netboot/`.
        pub install: Install,
        /// The operating system.
        pub os: Os,
        /// What runs the workloads.
        pub kubernetes: Kubernetes,
        /// The smallest machine that all of it must fit.
        pub hardware: Hardware,
        /// The edge agent.
        pub agent: Agent,
        /// Small OCI images made from the archive's packages.
        pub container: Vec<Container> = vec![],
        /// What the site runs.
        pub workload: Vec<Workload> = vec![],
        /// The Helm that renders charts when they are locked.
        pub helm: HelmProgram,
        /// The repository that the cluster follows.
        pub gitops: Gitops,
        /// The keys that sign.
        pub sign: Option<Sign> = None,
        /// Where the image is pushed to.
        pub publish: Option<Publish> = None,
        /// How a device joins.
        pub enroll: Enroll,
        /// What boxes with other systems are told: `forge enroll export`.
        pub export: Option<Export> = None,
    }
}

table! {
    /// The site.
    pub struct Site {
        /// A DNS label: names the output folder and the OCI repository.
        pub name: SiteName,
        /// Labels of the site's nodes.
        pub labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Whether the site must serve with no link at all.
        pub autonomous: bool = false,
    }
}

table! {
    /// The image and its artifacts.
    pub struct Image {
        /// The version; by default the date of SOURCE_DATE_EPOCH, else of the lock.
        pub version: Option<ImageVersion> = None,
        /// The architectures to build for.
        pub arch: Vec<Arch> = vec![Arch::Amd64],
        /// The kinds of artifact to make.
        pub artifacts: Vec<Artifact> = vec![Artifact::Oci, Artifact::Disk],
        /// How the layers of the OCI image are compressed.
        pub compression: Compression = Compression::Zstd,
        /// The forms of the disk image.
        pub disk_formats: Vec<DiskFormat> = vec![DiskFormat::RawZst],
        /// The hardware family.
        pub board: Board = Board::GenericUefi,
        /// Where the package with the board's own firmware is from: a .deb. By default the base's archive has it.
        pub board_firmware: Origin = Origin::Release,
        /// Where the kernel is from: a .deb, as `make bindeb-pkg` writes it. By default the base's archive has it.
        pub kernel: Origin = Origin::Release,
        /// One of the kernel's device trees, for the kernel to see in the place of the firmware's.
        pub devicetree: Option<DeviceTree> = None,
    }
}

table! {
    /// How an installer works: `installer.iso` and `netboot/`.
    pub struct Install {
        /// Which disk it takes; by default the only one that is built in.
        pub disk: InstallDisk,
        /// Whether a disk that holds something else is written over.
        pub overwrite: bool = false,
        /// What it does when it is done.
        pub after: AfterInstall = AfterInstall::Poweroff,
        /// Where a network boot fetches the disk image from (`http://…`); by default the server that it was booted from.
        pub url: Option<ImageUrl> = None,
    }
}

table! {
    /// Which disk an installer takes: the only one that everything said here is true of.
    pub struct InstallDisk {
        /// Its serial number.
        pub serial: Option<String> = None,
        /// One of its names: `/dev/disk/by-path/…`.
        pub path: Option<DevicePath> = None,
        /// What its model's name contains.
        pub model: Option<String> = None,
        /// The least size.
        pub min_size: Option<Bytes> = None,
        /// The most.
        pub max_size: Option<Bytes> = None,
    }
}

table! {
    /// The operating system.
    pub struct Os {
        /// Where it comes from: `debian:SUITE`, `ubuntu:SUITE`, `oci:REFERENCE` or `rootfs:PATH`.
        pub base: Base,
        /// The archive's address; by default the one that this machine's own apt is set to. May name `${VAR}`.
        pub mirror: Option<Mirror> = None,
        /// Packages to install beside what booting needs.
        pub packages: Vec<PackageName> = vec![],
        /// Words to add to the kernel's command line.
        pub kernel_args: Vec<KernelArg> = vec![],
        /// Kernel modules to load at boot.
        pub modules: Vec<ModuleName> = vec![],
        /// The time zone.
        pub timezone: Timezone = Timezone::utc(),
        /// Time servers; by default the distribution's.
        pub ntp: Vec<HostName> = vec![],
        /// What protects the state partition.
        pub encrypt_state: EncryptState = EncryptState::None,
        /// People who may log in, by key only.
        pub user: Vec<User> = vec![],
        /// Files to write.
        pub file: Vec<File> = vec![],
    }
}

table! {
    /// A person who may log in.
    pub struct User keyed by "name" {
        /// The name.
        pub name: UserName,
        /// Public keys, one line each.
        pub ssh_keys: Vec<SshKey>,
    }
}

table! {
    /// A file of the image, its content typed here or taken from a file.
    pub struct File keyed by "path" {
        /// Where it goes, an absolute path.
        pub path: ImagePath,
        /// The content.
        pub content: Option<String> = None,
        /// A file that has the content.
        pub source: Option<InputFile> = None,
        /// Permission bits in octal, as a string.
        pub mode: Mode = Mode::FILE,
    }
}

table! {
    /// What runs the workloads.
    pub struct Kubernetes {
        /// The distribution.
        pub distribution: Distribution = Distribution::None,
        /// The upstream version; Podman has the archive's.
        pub version: Option<ReleaseVersion> = None,
        /// The part that the machine has in its cluster.
        pub role: Role = Role::Server,
        /// Where the distribution comes from.
        pub source: Origin = Origin::Release,
        /// Whether the distribution's own container images are carried along.
        pub airgap_images: bool = true,
        /// The distribution's own configuration, passed through.
        pub config: BTreeMap<String, Opaque> = BTreeMap::new(),
        /// The distribution's `registries.yaml`, passed through: `mirrors` and `configs`, without credentials.
        pub registries: BTreeMap<String, Opaque> = BTreeMap::new(),
    }
}

table! {
    /// The smallest machine that all of it must fit: what is known to ask for more is refused before the build.
    pub struct Hardware {
        /// Its disk.
        pub disk: Option<Bytes> = None,
        /// Its memory.
        pub memory: Option<Bytes> = None,
        /// Its processors.
        pub cpus: Option<Count<1, 1024>> = None,
    }
}

table! {
    /// The edge agent.
    pub struct Agent {
        /// Which one.
        pub kind: AgentKind = AgentKind::None,
        /// The upstream version.
        pub version: Option<ReleaseVersion> = None,
        /// Where it comes from.
        pub source: Origin = Origin::Release,
        /// The agent's own configuration, passed through.
        pub config: BTreeMap<String, Opaque> = BTreeMap::new(),
    }
}

table! {
    /// A small OCI image made from the archive's packages.
    pub struct Container keyed by "name" {
        /// Name and tag; manifests know it as `localhost/NAME:TAG`.
        pub name: ContainerName,
        /// The packages in it, and what they depend on.
        pub packages: Vec<PackageName> = vec![],
        /// Files to write over them.
        pub files: Vec<File> = vec![],
        /// The program that it starts, with its arguments.
        pub command: Vec<String> = vec![],
        /// The user it runs as.
        pub user: Option<UserName> = None,
        /// The ports it listens on.
        pub ports: Vec<Port> = vec![],
    }
}

table! {
    /// Something that the site runs: one of `manifests`, `helm`, `vm` and `model`.
    pub struct Workload keyed by "name" {
        /// The name of its units.
        pub name: WorkloadName,
        /// Whether the boot is good only when it runs.
        pub required: bool = false,
        /// Files of Kubernetes manifests.
        pub manifests: Vec<ManifestFile> = vec![],
        /// Where objects of a kind that forge does not know name a container image.
        pub image_paths: Vec<ImageField> = vec![],
        /// Container images to carry that no manifest names, such as those that an operator starts.
        pub images: Vec<ImageName> = vec![],
        /// A Helm chart.
        pub helm: Option<Helm> = None,
        /// A virtual machine.
        pub vm: Option<Vm> = None,
        /// A model or other large data.
        pub model: Option<Model> = None,
    }
}

table! {
    /// A field that names a container image.
    pub struct ImageField {
        /// The objects' `kind`.
        pub kind: ObjectKind,
        /// The way to the field: `spec.image`, or `spec.brokers[].image` through the items of a list.
        pub path: FieldPath,
    }
}

table! {
    /// A Helm chart.
    pub struct Helm {
        /// The chart: `oci:REFERENCE`, `https://REPOSITORY/NAME`, or `file:PATH` of a directory or a package.
        pub chart: Origin,
        /// Its version; a repository's charts need one.
        pub version: Option<ChartVersion> = None,
        /// A file of values.
        pub values: Option<InputFile> = None,
        /// The namespace that it is installed into, which is made.
        pub namespace: Namespace = Namespace::default_one(),
    }
}

table! {
    /// The Helm that renders charts when they are locked, so that no image of theirs is missed. It is in no image.
    pub struct HelmProgram {
        /// The upstream version. Without one charts are read, not rendered.
        pub version: Option<ReleaseVersion> = None,
        /// Where it comes from.
        pub source: Origin = Origin::Release,
    }
}

table! {
    /// A virtual machine.
    pub struct Vm {
        /// Its disk: `file:PATH`, `https://…` or `oci:REFERENCE`.
        pub disk: Origin,
        /// Its memory.
        pub memory: Bytes,
        /// Its processors.
        pub cpus: Count<1, 256> = Count::least(),
        /// What it is built like.
        pub machine: Machine = Machine::Modern,
        /// Ports of the host that lead to it, without a cluster.
        pub ports: Vec<Forward> = vec![],
        /// A bridge of the host's that it is on instead, as a machine of its own; without a cluster.
        pub bridge: Option<InterfaceName> = None,
    }
}

table! {
    /// A model or other large data, mounted read-only.
    pub struct Model {
        /// Where it comes from.
        pub source: Origin,
        /// Where it is seen on the device.
        pub mount: ImagePath,
    }
}

table! {
    /// The repository that the cluster follows, once it reaches it; its controllers are a workload that carries them.
    pub struct Gitops {
        /// Who follows it.
        pub kind: GitopsKind = GitopsKind::None,
        /// The repository.
        pub url: Option<GitUrl> = None,
        /// The branch.
        pub branch: BranchName = BranchName::main(),
        /// The directory in it.
        pub path: RepositoryPath = RepositoryPath::root(),
        /// Flux's secret with the repository's key, which comes with a grant as `flux-system.NAME`.
        pub secret: Option<Namespace> = None,
    }
}

table! {
    /// The keys that sign.
    pub struct Sign {
        /// Where the ed25519 release key is: `file:PATH`, `env:NAME`, `cmd:COMMAND`, or in a PKCS #11 token,
        /// `pkcs11:token=NAME;object=LABEL`. May name `${VAR}`.
        pub key: KeySource,
        /// The pair that signs for UEFI Secure Boot.
        pub secure_boot: Option<SecureBoot> = None,
    }
}

table! {
    /// The pair that signs for UEFI Secure Boot.
    pub struct SecureBoot {
        /// The RSA private key: a path, `file:PATH`, `env:NAME`, `cmd:COMMAND` or `pkcs11:…`. May name `${VAR}`.
        pub key: KeyPlace,
        /// Its X.509 certificate, PEM or DER; `forge key generate --secure-boot` makes both.
        pub cert: InputFile,
        /// What the boot loader does with the keys on a machine whose firmware has none.
        pub enroll: SecureBootEnroll = SecureBootEnroll::Manual,
        /// Whether machines start by way of Debian's shim, for those whose firmware has Microsoft's keys alone.
        pub shim: bool = false,
    }
}

table! {
    /// Where the image is pushed to.
    pub struct Publish {
        /// Registry and repository, without a tag. May name `${VAR}`.
        pub r#ref: Repository,
    }
}

table! {
    /// How a device joins its fleet or cluster.
    pub struct Enroll {
        /// The way.
        pub mode: EnrollMode = EnrollMode::None,
        /// The fleet's endpoints, tried in this order.
        pub endpoints: Vec<Endpoint> = vec![],
        /// Public keys baked into the image: the only thing a device believes.
        pub trust: Vec<InputFile> = vec![],
        /// What admits a device.
        pub ticket: Ticket = Ticket::None,
        /// A CSV file of the devices. It stays on this machine.
        pub inventory: Option<KeyFile> = None,
        /// The fleet's public description: `fleet.json`, which `forge fleet init` writes. It stays on this machine.
        pub fleet: Option<KeyFile> = None,
        /// An HTTP proxy that the site's boxes have to use: `http://HOST:PORT`.
        pub proxy: Option<String> = None,
        /// The authority (PEM) of a proxy that inspects TLS; trusted for enrolling alone.
        pub proxy_ca: Option<KeyFile> = None,
        /// The first request comes within so many seconds, at random, so that a thousand boxes do not come at once.
        pub splay: Seconds = Seconds::NONE,
        /// Whether a box without a TPM may not join.
        pub require_tpm: bool = false,
        /// Where the QR code on the screen leads: an https URL of an operator's page.
        pub portal: Option<Endpoint> = None,
        /// Shown on the screen when a person is needed: whom to call.
        pub support: Option<String> = None,
        /// How long a device may lie before it is plugged in: nothing it carries may lapse sooner.
        pub shelf_life: Days = Days::SHELF_LIFE,
    }
}

table! {
    /// What boxes with other systems are told by `forge enroll export`. Nothing of it is in an image.
    pub struct Export {
        /// A CSV file of the devices; by default the one in `[enroll]`.
        pub inventory: Option<KeyFile> = None,
        /// An HTTP proxy that the site's boxes have to use, `http://HOST:PORT`; by default the one in `[enroll]`.
        pub proxy: Option<String> = None,
        /// Authorities (PEM) that the boxes trust beside their system's.
        pub authorities: Vec<KeyFile> = vec![],
        /// What Palette's agent registers with.
        pub palette: Option<ExportPalette> = None,
        /// What Flight Control's agent registers with.
        pub flightctl: Option<ExportFlightctl> = None,
        /// What Elemental's registration needs.
        pub elemental: Option<ExportElemental> = None,
    }
}

table! {
    /// What Palette's agent registers with. Its settings are the keys below `stylus`, in `[agent] config`.
    pub struct ExportPalette {
        /// Where the tenant's registration token is: `file:PATH`, `env:NAME` or `cmd:COMMAND`. May name `${VAR}`.
        pub token: KeySource,
    }
}

table! {
    /// What Flight Control's agent registers with.
    pub struct ExportFlightctl {
        /// The agents' endpoint, `https://HOST:PORT`.
        pub server: Endpoint,
        /// Who signed the endpoint's certificate (PEM).
        pub ca: Option<KeyFile> = None,
        /// Where a person approves boxes, an https URL.
        pub ui: Option<Endpoint> = None,
        /// The enrollment certificate (PEM).
        pub certificate: KeyFile,
        /// Where its private key (PEM) is: `file:PATH`, `env:NAME` or `cmd:COMMAND`. May name `${VAR}`.
        pub key: KeySource,
    }
}

table! {
    /// What Elemental's registration needs.
    pub struct ExportElemental {
        /// Where the registration's URL is, which ends in its token: `file:PATH`, `env:NAME` or `cmd:COMMAND`. May name `${VAR}`.
        pub url: KeySource,
        /// Who signed the server's certificate (PEM).
        pub ca: Option<KeyFile> = None,
        /// How a box shows who it is.
        pub auth: ElementalAuth = ElementalAuth::Tpm,
    }
}
