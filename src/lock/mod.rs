//! The lock: every input of a profile by digest, in a file beside it.
//!
//! `PROFILE.lock` is TOML in a fixed spelling (sorted, a package a line), so that it reads well in a diff and equal locks
//! are equal bytes. It records what was asked ([`PackageSet::request`], [`PinnedImage::reference`]) beside what was found,
//! so that [`Lock::check`] tells staleness, and its reason, with no network. Mirrors are not part of it: a package is
//! named by its path in the archive and its digest, and any mirror that has it will do.

mod chart;
pub mod render;
pub mod resolve;
pub mod text;

pub use resolve::{Moves, resolve};

use crate::debian::archive::ListInfo;
use crate::layer::workload::manifest::field::ImageField;
use crate::model::{Arch, Bytes, Digest, Epoch};
use crate::source::oci::PinnedImage;
use crate::source::release::{PinnedFile, Product, Wanted};
use crate::source::remote::{PinnedPart, PinnedRemote};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

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
    /// What the profile names by where it is, sorted by that.
    #[serde(default, rename = "remote", skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<PinnedRemote>,
    /// Helm charts, sorted.
    #[serde(default, rename = "chart", skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<LockedChart>,
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
    /// Components of the archive that it may need beside those that are read for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
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

/// A Helm chart, and the images that it was found to need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedChart {
    /// As the profile has it: `oci:…`, `https://…` or `file:…`.
    pub source: String,
    /// The architecture that its images are for.
    pub arch: Arch,
    /// Its version: what was asked for, else what it says itself.
    pub version: String,
    /// Digest of the values that it was read with; of nothing where the profile gives none.
    pub values: Digest,
    /// Where the package is fetched from, by digest: a URL, or `oci:REFERENCE`; empty for one beside the profile.
    pub from: String,
    /// Length of the package, a tar.gz.
    pub size: Bytes,
    /// Digest of the package.
    pub digest: Digest,
    /// Images that it was found to need and that a registry has, sorted.
    pub images: Vec<String>,
    /// How they were found: `rendered`, or, unrendered, `annotations`, `values`, `templates`.
    pub images_from: Vec<String>,
    /// What it was rendered with, [`Rendering`]; empty where it was not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rendered: String,
}

/// What is asked of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedChart {
    /// As the profile has it.
    pub source: String,
    /// For which architecture.
    pub arch: Arch,
    /// Which version, where the profile says.
    pub version: Option<String>,
    /// The text of its values; empty where the profile gives none.
    pub values: Vec<u8>,
    /// The package, of a chart beside the profile.
    pub package: Option<Vec<u8>>,
    /// Full names of images that the profile makes itself: no registry is asked for them.
    pub own: Vec<String>,
    /// What it is rendered with, where the profile names a Helm.
    pub rendering: Option<Rendering>,
}

/// What decides the objects that a chart makes, beside itself and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendering {
    /// Helm's version.
    pub helm: String,
    /// The version of Kubernetes that it is for, `v1.34.2`.
    pub kubernetes: String,
    /// The name that it is installed under.
    pub name: String,
    /// The namespace that it is installed into.
    pub namespace: String,
    /// Where objects of kinds that forge does not know name images.
    pub fields: Vec<ImageField>,
}

impl Rendering {
    /// What is asked of Helm's release: its program for every machine that may have to render, so that a lock does not
    /// depend on the one that made it.
    pub fn releases(&self) -> impl Iterator<Item = Wanted> {
        let wanted = |arch| Wanted {
            product: Product::Helm,
            version: self.helm.clone(),
            arch,
            files: vec![Product::Helm.program(&self.helm, arch)],
        };
        Arch::ALL.into_iter().map(wanted)
    }
}

impl fmt::Display for Rendering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rendering { helm, kubernetes, name, namespace, fields } = self;
        write!(f, "helm {helm}, kubernetes {kubernetes}, {name} in {namespace}")?;
        fields.iter().try_for_each(|field| write!(f, ", {} {}", field.kind, field.path))
    }
}

impl LockedChart {
    /// As what is fetched of it.
    pub fn remote(&self) -> PinnedRemote {
        let (path, media_type) = (String::new(), String::new());
        let file = PinnedPart { path, media_type, unpack: false, size: self.size, digest: self.digest };
        PinnedRemote { source: self.from.clone(), files: vec![file] }
    }

    /// Whether it is what `wanted` asks for.
    pub fn answers(&self, wanted: &WantedChart) -> bool {
        (&self.source, self.arch, self.values) == (&wanted.source, wanted.arch, Digest::of(&wanted.values))
            && wanted.version.as_ref().is_none_or(|v| *v == self.version)
            && wanted.package.as_ref().is_none_or(|p| Digest::of(p) == self.digest)
            && !self.images.iter().any(|image| wanted.own.contains(image))
            && wanted.rendering.as_ref().map(Rendering::to_string).unwrap_or_default() == self.rendered
    }
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
    /// Places of models and disks, as the profile has them.
    pub remotes: Vec<String>,
    /// What is asked of charts.
    pub charts: Vec<WantedChart>,
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
        let images = self.images_of(demand);
        for (reference, arch) in &images {
            if !self.images.iter().any(|i| &i.reference == reference && i.arch == *arch) {
                reasons.push(format!("image {reference} for {arch} is not locked"));
            }
        }
        for image in &self.images {
            if !images.iter().any(|(r, a)| r == &image.reference && *a == image.arch) {
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
        reasons.extend(self.check_remotes(demand));
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

    fn check_remotes(&self, demand: &Demand) -> Vec<String> {
        let mut reasons = vec![];
        for source in demand.remotes.iter().filter(|s| self.remote(s).is_none()) {
            reasons.push(format!("{source} is not locked"));
        }
        for remote in self.remotes.iter().filter(|r| !demand.remotes.contains(&r.source)) {
            reasons.push(format!("{} is locked and no longer asked for", remote.source));
        }
        for wanted in demand.charts.iter().filter(|w| !self.charts.iter().any(|c| c.answers(w))) {
            reasons.push(format!("chart {} for {} is not locked as it is now", wanted.source, wanted.arch));
        }
        for chart in self.charts.iter().filter(|c| !demand.charts.iter().any(|w| c.answers(w))) {
            reasons
                .push(format!("chart {} for {} is locked as it is not asked for", chart.source, chart.arch));
        }
        reasons
    }

    /// The images that `demand` and the locked charts ask for.
    fn images_of(&self, demand: &Demand) -> BTreeSet<(String, Arch)> {
        let charts = self.charts.iter().flat_map(|c| c.images.iter().map(|image| (image.clone(), c.arch)));
        demand.images.iter().cloned().chain(charts).collect()
    }

    /// What is locked of `source`.
    pub fn remote(&self, source: &str) -> Option<&PinnedRemote> {
        self.remotes.iter().find(|r| r.source == source)
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
