//! TOML → [`Profile`]: read as typed, merged with what it extends, validated with every fault told at once.
//!
//! The way: [`fragment`] (text → tree with places) → `merge` (many trees → one for each architecture) → [`tables`]
//! (tree → typed values, by the one description of all keys) → `check` (what spans more than one key). Knows nothing
//! of layers, boot or disks: what a later stage cannot build yet is its own to refuse.

mod check;
pub mod diagnostic;
mod files;
pub mod fragment;
mod init;
mod load;
mod merge;
mod schema;
pub mod shape;
mod suggest;
pub mod tables;
pub mod value;
mod word;

use crate::model::{Arch, Digest, SiteName};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use diagnostic::{Finding, Report};
pub use init::{PROFILE, SCHEMA, Template, init_files};
pub use load::{Environment, fuzz, load, parse};
pub use schema::{schema, schema_text};
pub use tables::*;
pub use value::*;

/// A whole and valid profile: nothing in it is unset, unknown or out of range.
///
/// Serializes to the resolved profile; paths in it are relative to [`Profile::dir`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Profile {
    /// What is built for.
    pub site: Site,
    /// The version, where the profile says one; else the plan takes [`crate::model::Epoch::version`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<ImageVersion>,
    /// What is built, for each architecture; never empty.
    pub arch: BTreeMap<Arch, ArchProfile>,
    /// The keys that sign.
    pub sign: Option<Sign>,
    /// Where the image is pushed to.
    pub publish: Option<Publish>,
    /// How a device joins.
    pub enroll: Enroll,
    /// What boxes with other systems are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<Export>,
    /// The files whose content goes into the image, by path.
    pub files: BTreeMap<String, FileDigest>,
    /// Where relative paths start: the directory of the profile.
    #[serde(skip)]
    dir: PathBuf,
}

/// What is built for one architecture.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchProfile {
    /// The kinds of artifact to make.
    pub artifacts: Vec<Artifact>,
    /// How the layers of the OCI image are compressed.
    pub compression: Compression,
    /// The forms of the disk image.
    pub disk_formats: Vec<DiskFormat>,
    /// The hardware family.
    pub board: Board,
    /// Where the package with the board's own firmware is from.
    #[serde(skip_serializing_if = "is_release")]
    pub board_firmware: Origin,
    /// Where the kernel is from.
    #[serde(skip_serializing_if = "is_release")]
    pub kernel: Origin,
    /// One of the kernel's device trees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devicetree: Option<DeviceTree>,
    /// How an installer works.
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
    pub container: Vec<Container>,
    /// What the site runs.
    pub workload: Vec<Workload>,
    /// The Helm that renders charts when they are locked.
    pub helm: HelmProgram,
    /// The repository that the cluster follows.
    pub gitops: Gitops,
}

/// A key that came later is there where it says something: what was resolved before stays as it was.
fn is_release(origin: &Origin) -> bool {
    *origin == Origin::Release
}

/// A file that a profile embeds, as it was when the profile was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FileDigest {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl Enroll {
    /// The part that the image is made from: whether a device enrols, and what it believes. All else is in the bundle.
    pub fn in_image(&self) -> Enroll {
        Enroll {
            mode: self.mode,
            trust: self.trust.clone(),
            endpoints: vec![],
            ticket: Ticket::None,
            inventory: None,
            fleet: None,
            proxy: None,
            proxy_ca: None,
            splay: Seconds::NONE,
            require_tpm: false,
            portal: None,
            support: None,
            shelf_life: Days::SHELF_LIFE,
        }
    }
}

impl Profile {
    /// The name of the site.
    pub fn name(&self) -> &SiteName {
        &self.site.name
    }

    /// Where the paths of [`InputFile`]s, [`Origin::File`] and [`Base::Rootfs`] start.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is built for `arch`, where the profile asks for it.
    pub fn for_arch(&self, arch: Arch) -> Option<&ArchProfile> {
        self.arch.get(&arch)
    }

    /// The digest of everything in the profile that decides bytes: what each architecture is made of and the content
    /// of the files embedded in it, not which mirror or place serves it, which key signs it or where it is pushed to. Those are
    /// just the values that may come from the environment.
    pub fn checksum(&self) -> Digest {
        let mut profile = self.clone();
        profile.sign = None;
        profile.publish = None;
        profile.export = None;
        profile.enroll = self.enroll.in_image();
        for arch in profile.arch.values_mut() {
            arch.os.mirror = None;
            arch.kubernetes.source = Origin::Release;
            arch.agent.source = Origin::Release;
            arch.board_firmware = Origin::Release;
            arch.kernel = Origin::Release;
        }

        Digest::of(serde_json::to_vec(&profile).expect("a profile holds nothing that JSON cannot"))
    }
}
