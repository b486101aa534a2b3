//! The lock: every input of a profile by digest, in a file beside it.
//!
//! `PROFILE.lock` is TOML in a fixed spelling (sorted, a package a line), so that it reads well in a diff and equal locks
//! are equal bytes. It records what was asked ([`PackageSet::request`], [`PinnedImage::reference`]) beside what was found,
//! so that [`Lock::check`] tells staleness, and its reason, with no network. Mirrors are not part of it: a package is
//! named by its path in the archive and its digest, and any mirror that has it will do.

pub mod resolve;
pub mod text;

pub use resolve::{Moves, resolve};

use crate::debian::archive::ListInfo;
use crate::model::{Arch, Bytes, Digest, Epoch};
use crate::source::oci::PinnedImage;
use crate::source::release::{PinnedFile, Wanted};
use serde::{Deserialize, Serialize};

/// The version of the lock's format; older ones are read for ever.
pub const SCHEMA: u32 = 1;

/// Everything that a build may take in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Format, [`SCHEMA`].
    pub schema: u32,
    /// The newest date of the archives: the time that a build gives to what it makes, unless SOURCE_DATE_EPOCH says else.
    pub epoch: Epoch,
    /// The archives as they were, sorted by suite.
    #[serde(default, rename = "archive")]
    pub archives: Vec<LockedArchive>,
    /// What the packages are for, sorted by name and architecture.
    #[serde(default, rename = "set")]
    pub sets: Vec<PackageSet>,
    /// The packages of all sets, each once, sorted by architecture, name and version.
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
    /// Container images from registries, sorted by reference and architecture.
    #[serde(default, rename = "image")]
    pub images: Vec<PinnedImage>,
    /// Files of upstream releases, sorted. A lock without any is written as before there were releases.
    #[serde(default, rename = "release", skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<PinnedFile>,
    /// Files beside the profile, sorted by path.
    #[serde(default, rename = "file")]
    pub files: Vec<LockedFile>,
}

/// The state of one suite of an archive: the signed document and the lists that the packages were chosen from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedArchive {
    /// `debian:trixie`, `debian:trixie-updates`, `debian:trixie-security`.
    pub suite: String,
    /// Who signed it.
    pub origin: String,
    /// The suite's own name.
    pub codename: String,
    /// When it was signed.
    pub date: Epoch,
    /// Digest of InRelease.
    pub inrelease: Digest,
    /// The lists that were read.
    pub lists: Vec<ListInfo>,
}

/// A set of packages that are installed together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSet {
    /// `os`, `container/NAME` or `tools`.
    pub name: String,
    /// The architecture that it is for.
    pub arch: Arch,
    /// Where from: `debian:trixie`.
    pub base: String,
    /// What it stands on.
    pub variant: SetVariant,
    /// The names that were asked for, sorted.
    pub request: Vec<String>,
}

/// What a set of packages stands on; the words are mmdebstrap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetVariant {
    /// Nothing but what the packages need: for taking one program out.
    Custom,
    /// Essential packages and apt: a container.
    Apt,
    /// Those and packages of priority `required`: a system.
    Minbase,
}

/// A Debian package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// The architecture of the sets that it is for, not its own, which may be `all`.
    pub arch: Arch,
    /// Package name.
    pub name: String,
    /// Full version.
    pub version: String,
    /// The suite that it comes from, as in [`LockedArchive::suite`].
    pub suite: String,
    /// Path below the archive's root.
    pub path: String,
    /// Length of the .deb.
    pub size: Bytes,
    /// Digest of the .deb.
    pub digest: Digest,
    /// Names of the sets that it belongs to, sorted.
    pub sets: Vec<String>,
}

/// A file of the user's that enters an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Path relative to the profile's directory, with `/`.
    pub path: String,
    /// Length.
    pub size: Bytes,
    /// Digest of its content.
    pub digest: Digest,
}

/// What a profile asks for, before anything is resolved: the other side of [`Lock::check`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Package sets, in any order; [`PackageSet::request`] sorted.
    pub sets: Vec<PackageSet>,
    /// Images as reference and architecture.
    pub images: Vec<(String, Arch)>,
    /// What is asked of upstream releases.
    pub releases: Vec<Wanted>,
    /// Files as they are now.
    pub files: Vec<LockedFile>,
}

/// Whether a lock answers a demand.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Freshness {
    /// Everything asked for is pinned.
    Fresh,
    /// Something asked for is not, or something pinned is no longer asked for.
    Stale {
        /// What differs, a line each.
        reasons: Vec<String>,
        /// Whether only files beside the profile differ, which needs no network to mend.
        files_only: bool,
    },
}

impl Lock {
    /// Compares the lock with what is asked for; no network, no clock.
    pub fn check(&self, demand: &Demand) -> Freshness {
        let mut reasons = vec![];
        for set in &demand.sets {
            match self.sets.iter().find(|s| s.name == set.name && s.arch == set.arch) {
                None => reasons.push(format!("packages of {} for {} are not locked", set.name, set.arch)),
                Some(locked) if locked.base != set.base => reasons.push(format!(
                    "{} for {} is locked from {}, the profile says {}",
                    set.name, set.arch, locked.base, set.base
                )),
                Some(locked) => {
                    let added =
                        set.request.iter().filter(|p| !locked.request.contains(p)).map(|p| format!("+{p}"));
                    let removed =
                        locked.request.iter().filter(|p| !set.request.contains(p)).map(|p| format!("-{p}"));
                    let changes: Vec<String> = added.chain(removed).collect();
                    if !changes.is_empty() {
                        reasons.push(format!(
                            "packages of {} for {}: {}",
                            set.name,
                            set.arch,
                            changes.join(" ")
                        ));
                    }
                }
            }
        }
        for set in &self.sets {
            if !demand.sets.iter().any(|s| s.name == set.name && s.arch == set.arch) {
                reasons.push(format!(
                    "packages of {} for {} are locked and no longer asked for",
                    set.name, set.arch
                ));
            }
        }
        for (reference, arch) in &demand.images {
            if !self.images.iter().any(|i| &i.reference == reference && i.arch == *arch) {
                reasons.push(format!("image {reference} for {arch} is not locked"));
            }
        }
        for image in &self.images {
            if !demand.images.iter().any(|(r, a)| r == &image.reference && *a == image.arch) {
                reasons.push(format!(
                    "image {} for {} is locked and no longer asked for",
                    image.reference, image.arch
                ));
            }
        }
        for wanted in &demand.releases {
            for file in &wanted.files {
                if !self.releases.iter().any(|r| r.answers(wanted, file)) {
                    let Wanted { product, version, arch, .. } = wanted;
                    reasons.push(format!("{file} of {product} {version} for {arch} is not locked"));
                }
            }
        }
        for file in &self.releases {
            if !demand.releases.iter().any(|w| w.files.iter().any(|f| file.answers(w, f))) {
                reasons.push(format!("{file} for {} is locked and no longer asked for", file.arch));
            }
        }
        let files_only = reasons.is_empty();
        for file in &demand.files {
            match self.files.iter().find(|f| f.path == file.path) {
                None => reasons.push(format!("file {} is not locked", file.path)),
                Some(locked) if locked != file => reasons.push(format!("file {} has changed", file.path)),
                Some(_) => {}
            }
        }
        for file in &self.files {
            if !demand.files.iter().any(|f| f.path == file.path) {
                reasons.push(format!("file {} is locked and no longer used", file.path));
            }
        }
        if reasons.is_empty() { Freshness::Fresh } else { Freshness::Stale { reasons, files_only } }
    }

    /// The set `name` for `arch`.
    pub fn set(&self, name: &str, arch: Arch) -> Option<&PackageSet> {
        self.sets.iter().find(|s| s.name == name && s.arch == arch)
    }

    /// The packages of one set, in the order of their names.
    pub fn packages_of<'a>(&'a self, set: &'a str, arch: Arch) -> impl Iterator<Item = &'a LockedPackage> {
        self.packages.iter().filter(move |p| p.arch == arch && p.sets.iter().any(|s| s == set))
    }

    /// The locked file at `path`.
    pub fn file(&self, path: &str) -> Option<&LockedFile> {
        self.files.iter().find(|f| f.path == path)
    }
}
