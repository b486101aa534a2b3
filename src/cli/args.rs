//! The arguments of every verb; their help text is the reference.

mod enroll;
mod flash;
mod fleet;

pub use enroll::*;
pub use flash::*;
pub use fleet::*;

use super::ui::Color;
use crate::model::Arch;
use crate::profile::Artifact;
use crate::run::qemu::Forward;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Turns a declarative site profile into signed, bootable images for Kubernetes at the edge.
#[derive(Debug, Parser)]
#[command(
    name = "forge",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "A first image, from nothing:\n  forge init store && forge build store/site.toml && forge run dist/store"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Results as JSON, an object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// More words; twice for what tools say
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to colour what goes to the terminal
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
    /// Where fetched inputs and made steps are kept [default: ~/.cache/forge]
    #[arg(long, global = true, value_name = "DIR", env = "FORGE_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check profiles, or search finished bytes for secrets; no network
    #[command(
        after_help = "Examples:\n  forge check profiles/*.toml\n  forge check --secrets dist/store/2026.11.22"
    )]
    Check {
        /// Profiles (TOML)
        #[arg(required_unless_present = "secrets", value_name = "PROFILE")]
        profiles: Vec<PathBuf>,
        /// Overrides a value of the profile (`--set image.version="1.2"`)
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// A release, an OCI layout, a disk image, an archive, a file or a directory to search for keys, tokens and
        /// password hashes, in whatever is packed in it
        #[arg(long, value_name = "PATH")]
        secrets: Vec<PathBuf>,
    },
    /// Pin every input of a profile by digest, in PROFILE.lock beside it
    #[command(
        after_help = "Examples:\n  forge lock store.toml\n  forge lock store.toml --update\n  forge lock store.toml --update nginx openssl"
    )]
    Lock {
        /// The profile
        profile: PathBuf,
        /// Overrides a value of the profile (`--set image.version=\"1.2\"`)
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Moves what is locked to what the archives hold now: the named packages, or all
        #[arg(long, value_name = "NAME", num_args = 0..)]
        update: Option<Vec<String>>,
    },
    /// Show what would be built: steps, which are cached and why not, sizes
    Plan {
        #[command(flatten)]
        profiles: ProfileArgs,
        #[command(flatten)]
        selection: Selection,
    },
    /// Build profiles into signed artifacts below `dist/`
    #[command(
        after_help = "Examples:\n  forge build store.toml\n  forge build --locked --offline --json store.toml --arch amd64"
    )]
    Build {
        #[command(flatten)]
        profiles: ProfileArgs,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        options: BuildOptions,
    },
    /// Check a release, an OCI layout or a file against a public key; no network
    #[command(
        after_help = "Examples:\n  forge verify dist/store/2026.11.22 --key keys/release.pub\n  forge verify disk.raw.zst --key keys/release.pub"
    )]
    Verify {
        /// A release directory, an OCI layout, or a file with its .sigstore.json beside it
        path: PathBuf,
        /// The public key (PEM)
        #[arg(long, value_name = "PUB")]
        key: PathBuf,
    },
    /// Show what something is made of, as a tree: layers, packages, container images, partitions, signatures, sizes
    ///
    /// Signatures are listed, not checked: that is what `forge verify` is for.
    #[command(
        after_help = "Examples:\n  forge inspect dist/store/2026.11.22\n  forge inspect registry.example/edge/store:2026.11.22\n  forge inspect --json disk.raw.zst | jq .disks"
    )]
    Inspect {
        /// A release, an OCI layout, a disk image (raw, raw.zst), a kernel image (.efi), a lock, or a registry reference
        #[arg(value_name = "PATH|REF")]
        subject: String,
    },
    /// Show what differs between two releases, images, disks or locks; the exit code is 0 either way
    ///
    /// Packages, container images, kernel arguments, partitions and files, with sizes. What has the same digest on both
    /// sides is not looked into.
    #[command(
        after_help = "Examples:\n  forge diff dist/store/2026.11.21 dist/store/2026.11.22\n  forge diff store.toml.lock.old store.toml.lock\n  forge diff --html changes.html registry.example/edge/store:1 dist/store/2026.11.22/oci"
    )]
    Diff {
        /// The older one
        a: String,
        /// The newer one
        b: String,
        /// Also write the differences as a page of HTML
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Make, show and convert keys
    Key {
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// Push a release's OCI image with its signatures to a registry
    Push {
        /// A release directory, or an OCI layout
        path: PathBuf,
        /// Where to: registry/repository, and a tag behind a colon
        reference: String,
    },
    /// Pull an image with all architectures and signatures into an OCI layout
    Pull {
        /// Where from: registry/repository, and a tag or a digest
        reference: String,
        /// The layout's directory
        path: PathBuf,
    },
    /// Write a disk image to a disk or stick, read it back and compare; without DEVICE, list the disks to choose from
    #[command(
        after_help = "Examples:\n  forge flash dist/store/2026.11.22\n  forge flash dist/store/2026.11.22 /dev/sdb --key keys/release.pub\n  forge flash dist/store/2026.11.22 /dev/sdb --key keys/release.pub --bundle bundles/till-1 --label=till-1.svg --yes"
    )]
    Flash(FlashArgs),
    /// Boot a disk image in QEMU: UEFI, the serial console on this terminal (Ctrl-A x ends it)
    #[command(
        after_help = "Examples:\n  forge run dist/store/2026.11.22\n  forge run disk.raw.zst --port 8080:8080 --headless\n  forge run installer.iso --persist box.raw && forge run box.raw"
    )]
    Run {
        /// A release directory, a disk image, or an installer's medium (.iso)
        path: PathBuf,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Boot what ships against a fleet on this machine, under conditions that a site may have, and attest the outcome
    #[command(
        after_help = "Examples:\n  forge test dist/store/2026.11.22 --root keys/fleet-root.key\n  forge test dist/store/2026.11.22 --root keys/fleet-root.key --case joins,power-cuts --cuts 30 --sign keys/release.key"
    )]
    Test(TestArgs),
    /// Make what a box joins its fleet with
    Enroll {
        #[command(subcommand)]
        verb: EnrollVerb,
    },
    /// Run the endpoint that boxes enrol with, and say who is let in
    ///
    /// Operators' verbs work on the endpoint's directory, whether it is running or not; elsewhere there is its page.
    Fleet {
        #[command(subcommand)]
        verb: FleetVerb,
    },
    /// Say what a code on a box's screen means, and what to do
    #[command(after_help = "Example:\n  forge explain E-NET-03")]
    Explain {
        /// The code; all of them without one
        code: Option<String>,
    },
    /// Write a profile that builds as it stands, and development keys
    Init {
        /// Where to
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// What to start from
        #[arg(long, default_value = "podman", value_parser = ["podman", "k3s", "rke2", "kubeedge"])]
        template: String,
    },
    /// Print the JSON Schema of profiles
    Schema,
    /// Look at the cache, or make room
    Cache {
        #[command(subcommand)]
        verb: CacheVerb,
    },
    /// Check that this machine can build, and say what to change where it cannot
    Doctor,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  forge completions bash > ~/.local/share/bash-completion/completions/forge"
    )]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// Made when missing
        dir: PathBuf,
    },
}

/// Profiles, and what is overridden in them.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Profiles (TOML)
    #[arg(required = true, value_name = "PROFILE")]
    pub profiles: Vec<PathBuf>,
    /// Overrides a value of the profile (`--set image.version="1.2"`)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Which part of a profile.
#[derive(Debug, Default, Args)]
pub struct Selection {
    /// Only these architectures
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub arch: Vec<Arch>,
    /// These artifacts and no others (`oci`, `disk`, `iso`, `netboot`), whatever the profile says
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = artifact)]
    pub artifact: Vec<Artifact>,
}

fn artifact(word: &str) -> Result<Artifact, String> {
    let known = [Artifact::Oci, Artifact::Disk, Artifact::Iso, Artifact::Netboot];
    known
        .into_iter()
        .find(|artifact| artifact.as_str() == word)
        .ok_or_else(|| "one of oci, disk, iso, netboot".into())
}

/// How to build.
#[derive(Debug, Args)]
pub struct BuildOptions {
    /// Where artifacts go: DIR/SITE/VERSION
    #[arg(long, value_name = "DIR", default_value = "dist")]
    pub out: PathBuf,
    /// Fail when the lock is missing or out of date
    #[arg(long)]
    pub locked: bool,
    /// Send no packet: everything must be in the cache
    #[arg(long)]
    pub offline: bool,
    /// Push the OCI image and its signatures there: registry/repository, and a tag behind a colon
    #[arg(long, value_name = "REF")]
    pub push: Option<String>,
    /// Steps made at a time [default: one a processor]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub jobs: usize,
}

/// Verbs of keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make an Ed25519 key pair: PATH (private, encrypted) and PATH with `.pub` for an extension
    ///
    /// With --secure-boot: an RSA key for UEFI, and a certificate with `.crt` for an extension.
    #[command(
        after_help = "Examples:\n  forge key generate keys/release.key\n  forge key generate --secure-boot --name 'Shops Secure Boot' keys/secure-boot.key"
    )]
    Generate {
        /// The private key's file; never overwritten [default: keys/release.key or keys/secure-boot.key]
        path: Option<PathBuf>,
        /// A key and certificate that sign what starts a device
        #[arg(long)]
        secure_boot: bool,
        /// What the certificate is called
        #[arg(long, value_name = "NAME", requires = "secure_boot")]
        name: Option<String>,
        /// Do not encrypt: for development only
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Show the id and the public half of a key
    Show {
        /// `file:PATH`, `env:NAME`, `cmd:PROGRAM ARGS…`, `pkcs11:URI`, or a path of a public or private key
        key: String,
    },
    /// Print the public key (PEM), for cosign and for devices
    Export {
        /// As for `show`
        key: String,
    },
}

/// What is tried, and how long.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// A release directory
    pub path: PathBuf,
    /// The fleet root that the image trusts: `file:PATH`, `env:NAME`, `cmd:…`, or a path. It signs the box's bundle
    #[arg(long, value_name = "KEY")]
    pub root: String,
    /// The architecture, of a release with several
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Only these cases [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub case: Vec<crate::trial::Case>,
    /// How often the power goes in `power-cuts`
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub cuts: u32,
    /// How long a box may take to join, in seconds
    #[arg(long, default_value_t = 900, value_name = "S")]
    pub patience: u64,
    /// Sign the outcome with this key, as a shipping proof beside the release
    #[arg(long, value_name = "KEY")]
    pub sign: Option<String>,
    /// Keep consoles, disks and the fleet's database of each case here
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// How a disk image is run.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// The architecture, of a release with several
    #[arg(long)]
    pub arch: Option<Arch>,
    /// No window; the console is on this terminal either way
    #[arg(long)]
    pub headless: bool,
    /// Forwards a port of this machine to one of the device [default: 8080:8080]
    #[arg(long = "port", value_name = "HOST:GUEST")]
    pub ports: Vec<Forward>,
    /// Memory in MiB
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    pub memory: u32,
    /// Size of the device's disk in GiB
    #[arg(long, default_value_t = 8, value_name = "GIB")]
    pub disk: u64,
    /// Keep the device's disk in this file, and go on with it where it exists
    #[arg(long, value_name = "FILE")]
    pub persist: Option<PathBuf>,
    /// Put this enrollment bundle on the new disk, as a stick in the box would bring it
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Start the release's installer from a stick, with an empty disk; a path that ends in .iso does so anyhow
    #[arg(long, conflicts_with_all = ["bundle", "netboot"])]
    pub installer: bool,
    /// Start the release's installer over UEFI HTTP boot, with an empty disk
    #[arg(long, conflicts_with = "bundle")]
    pub netboot: bool,
    /// Give the device a TPM 2.0; a kept disk keeps its TPM, in FILE.tpm
    #[arg(long)]
    pub tpm: bool,
    /// A firmware with Secure Boot, in setup mode: it takes the disk's keys where the profile's `enroll` is `if-safe`
    #[arg(long)]
    pub secure_boot: bool,
}

/// Verbs of the cache.
#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// Where it is, what it holds, how big it is
    Info,
    /// Remove what was used longest ago
    #[command(
        after_help = "Examples:\n  forge cache prune --keep 20GiB\n  forge cache prune --older-than 30"
    )]
    Prune {
        /// Keep at most this much of made steps (`500MiB`, `20GiB`)
        #[arg(long, value_name = "SIZE", value_parser = size)]
        keep: Option<u64>,
        /// Remove what was not used for this many days
        #[arg(long, value_name = "DAYS")]
        older_than: Option<u32>,
        /// Say what would go, and keep it
        #[arg(long)]
        dry_run: bool,
    },
}

/// `20GiB`, `500MiB`, `1TiB`, or plain bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].trim_end_matches('B').trim_end_matches('i') {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err("a size is a number with KiB, MiB, GiB or TiB".into()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| "a size is a whole number with KiB, MiB, GiB or TiB".into())
}
