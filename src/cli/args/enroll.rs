//! Verbs of enrollment: bundles, answers by stick, seeds of other systems.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Verbs of enrollment.
#[derive(Debug, Subcommand)]
pub enum EnrollVerb {
    /// Make signed enrollment bundles for a profile's boxes: one a box, or one a batch
    ///
    /// A bundle is a folder of two small files that a box finds on its FORGE-ENROLL partition or on a stick. The ticket in
    /// it is secret; the image holds none.
    #[command(
        after_help = "Examples:\n  forge enroll bundle store.toml --inventory devices.csv\n  forge enroll bundle store.toml --batch spring --boxes 200 --carrier image"
    )]
    Bundle(BundleArgs),
    /// Write what boxes with other systems are told: a seed for each box of the inventory
    ///
    /// From the same profile and inventory as bundles: names, labels, people, time, static networks, proxy and authorities; and
    /// what Palette's, Flight Control's or Elemental's side needs, in the tables `agent` and `export`. Seeds hold secrets: they are
    /// written for this user alone.
    #[command(
        after_help = "Examples:\n  forge enroll export store.toml --format nocloud --image\n  forge enroll export store.toml --format ignition --inventory devices.csv"
    )]
    Export(ExportArgs),
    /// Answer requests that a stick brought from boxes without a network
    ///
    /// A box leaves `requests/DEVICE.req` on a stick whose partition is named FORGE-ENROLL-RW. What is written goes back on
    /// the same stick: the box takes its grant from there. The endpoint's directory may be in use.
    #[command(
        after_help = "Example:\n  forge enroll answer /media/stick/requests/*.req --dir fleet --out /media/stick/forge-enroll"
    )]
    Answer {
        /// The requests
        #[arg(required = true, value_name = "REQUEST")]
        requests: Vec<PathBuf>,
        /// The fleet's directory
        #[arg(long, value_name = "DIR", default_value = "fleet")]
        dir: PathBuf,
        /// The folder forge-enroll of the stick: grants go to OUT/grants/
        #[arg(long, value_name = "OUT")]
        out: PathBuf,
    },
}

/// What bundles are made of.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The profile, whose `enroll` table says how boxes join
    pub profile: PathBuf,
    /// Overrides a value of the profile (`--set enroll.ticket="batch"`)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The boxes (CSV: name, serial, macs, labels, address, …) [default: the profile's]
    #[arg(long, value_name = "CSV")]
    pub inventory: Option<PathBuf>,
    /// The fleet's description, which `forge fleet init` wrote [default: the profile's]
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// The fleet's root key: `file:PATH`, `env:NAME`, `cmd:…` [default: beside the profile's first `trust`, with `.key`]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// A name for a batch that shares a ticket
    #[arg(long, value_name = "NAME")]
    pub batch: Option<String>,
    /// How many boxes a batch's ticket lets in
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub boxes: u32,
    /// The bundles' serial; a fleet and its boxes refuse lower ones than they have seen [default: the time in seconds]
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// What carries them
    #[arg(long, value_enum, default_value = "folder")]
    pub carrier: crate::carrier::Carrier,
    /// A new directory for them [default: dist/SITE/enroll/SERIAL]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What seeds are made of.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The profile
    pub profile: PathBuf,
    /// Overrides a value of the profile (`--set export.proxy="http://proxy.example:3128"`)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Which system reads it
    #[arg(long, value_enum)]
    pub format: SeedFormat,
    /// The boxes (CSV: name, macs, labels, address, …) [default: the profile's]
    #[arg(long, value_name = "CSV")]
    pub inventory: Option<PathBuf>,
    /// `NAME.img`, a FAT volume with the label that the system looks for, and no folder
    #[arg(long)]
    pub image: bool,
    /// A new directory for them [default: dist/SITE/export/FORMAT]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// A format of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SeedFormat {
    /// cloud-init's NoCloud; with `agent.kind = "palette"` the user-data of Palette's agent
    Nocloud,
    /// Ignition 3.3
    Ignition,
    /// SUSE's Combustion
    Combustion,
    /// Flight Control's agent
    Flightctl,
    /// Elemental's registration
    Elemental,
}

impl SeedFormat {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            SeedFormat::Nocloud => "nocloud",
            SeedFormat::Ignition => "ignition",
            SeedFormat::Combustion => "combustion",
            SeedFormat::Flightctl => "flightctl",
            SeedFormat::Elemental => "elemental",
        }
    }
}
