//! `manifest.json`: what a release is made of. Canonical JSON, so that equal releases have equal manifests.

use crate::lock::Lock;
use crate::model::{Arch, Bytes, Digest, Epoch};
use crate::oci::json;
use crate::plan::{Plan, StepId};
use crate::sign::KeyId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The manifest's name in a release.
pub const MANIFEST: &str = "manifest.json";
/// The version of its format.
pub const SCHEMA: u32 = 1;
/// More than a manifest of thousands of files, in bytes.
const MAX: usize = 16 << 20;

/// A release's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Its format.
    pub schema: u32,
    /// The site.
    pub site: String,
    /// The version.
    pub version: String,
    /// The time that artifacts bear.
    pub epoch: Epoch,
    /// The forge that made it.
    pub forge: String,
    /// Digest of the plan.
    pub plan: Digest,
    /// Digest of the lock's text.
    pub lock: Digest,
    /// The key that signs.
    pub key: KeyId,
    /// The OCI image, where one was made.
    pub image: Option<ImageRecord>,
    /// The files of each architecture.
    pub artifacts: Vec<Artifact>,
    /// The key of every step: what to compare when two releases differ.
    pub steps: BTreeMap<StepId, Digest>,
    /// Packages by architecture, set and name, with their versions.
    pub packages: BTreeMap<Arch, BTreeMap<String, BTreeMap<String, String>>>,
}

/// The OCI image of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageRecord {
    /// Its name in the layout.
    pub tag: String,
    /// Digest of the index.
    pub index: Digest,
    /// Digests of the manifests.
    pub manifests: BTreeMap<Arch, Digest>,
}

impl Default for ImageRecord {
    fn default() -> Self {
        ImageRecord { tag: String::new(), index: Digest::of(""), manifests: BTreeMap::new() }
    }
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Artifact {
    /// Path in the release.
    pub path: String,
    /// Length.
    pub size: Bytes,
    /// Digest.
    pub digest: Digest,
    /// Media type.
    pub media_type: String,
    /// For which architecture.
    pub arch: Arch,
    /// The step that made it.
    pub step: StepId,
    /// Of a disk image: the files of its FAT volumes, by partition label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, BTreeMap<String, Digest>>,
}

impl Manifest {
    pub(super) fn new(plan: &Plan, lock: &Lock, key: KeyId) -> Manifest {
        let mut packages: BTreeMap<Arch, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
        for package in lock.packages.iter().filter(|p| plan.targets.contains_key(&p.arch)) {
            for set in &package.sets {
                packages
                    .entry(package.arch)
                    .or_default()
                    .entry(set.clone())
                    .or_default()
                    .insert(package.name.clone(), package.version.clone());
            }
        }
        Manifest {
            schema: SCHEMA,
            site: plan.name.clone(),
            version: plan.version.clone(),
            epoch: plan.epoch,
            forge: env!("CARGO_PKG_VERSION").into(),
            plan: plan.digest(),
            lock: lock.digest(),
            key,
            image: None,
            artifacts: vec![],
            steps: plan.steps.iter().map(|s| (s.id.clone(), s.key)).collect(),
            packages,
        }
    }

    /// The canonical bytes, with a newline at the end.
    ///
    /// # Errors
    /// Never for a manifest; the JSON writer's type says it could.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = json::canonical(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is too long, no manifest, or of a format that this forge does not know.
    pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Manifest> {
        anyhow::ensure!(bytes.len() <= MAX, "it has {} bytes, more than {MAX}", bytes.len());
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        anyhow::ensure!(
            manifest.schema <= SCHEMA,
            "its format is {}; this forge reads up to {SCHEMA}",
            manifest.schema
        );
        Ok(manifest)
    }
}
