//! Arguments of `forge flash`.

use crate::model::Arch;
use clap::Args;
use std::path::PathBuf;

/// What is written where.
#[derive(Debug, Args)]
pub struct FlashArgs {
    /// A release directory, or a disk image (raw, raw.zst)
    pub path: PathBuf,
    /// The disk (`/dev/sdb`, a name below /dev/disk), or a file
    pub device: Option<PathBuf>,
    /// The public key (PEM) that the image has to be signed with
    #[arg(long, value_name = "PUB")]
    pub key: Option<PathBuf>,
    /// The architecture, of a release with several
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Put this enrollment bundle into the FORGE-ENROLL partition
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Print a label with a QR code: as text, or into FILE (`.svg` for a label printer)
    // With `=` alone, so that a device behind it is never taken for the label's file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub label: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// List and take disks that are built in, too
    #[arg(long)]
    pub all: bool,
}
