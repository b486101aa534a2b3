//! What was built → a release directory: OCI layout, disk images, manifest, sums, signatures.
//!
//! ```text
//! DIST/SITE/VERSION/
//!   oci/                        layout; one index over the architectures, signatures as referrers
//!   ARCH/disk.raw.zst           or .raw, .qcow2, .vmdk, .vhdx; and ARCH/disk.raw.zst.sigstore.json
//!   manifest.json               what each file is, and what it was made from
//!   report.html                 the same for people: what is inside, and what is big
//!   sbom.spdx.json sbom.cdx.json   the same for programs: bills of materials
//!   provenance.intoto.json      from what it was made, signed; provenance.sigstore.json the same for cosign
//!   SHA256SUMS  SHA256SUMS.sig  every file but these two
//! ```
//!
//! It is written beside its place and put there in one step. The same build under the same key gives the same bytes:
//! Ed25519 is deterministic and nothing bears the time of writing. [`verify`] is the way back.

mod attestation;
mod manifest;
pub mod report;
pub mod verify;

pub use manifest::{Artifact, ImageRecord, MANIFEST, Manifest, SCHEMA};

use crate::build::cache::Cache;
use crate::build::observe::{Event, Observer};
use crate::build::{Built, LAYER};
use crate::contents;
use crate::host::fs::{Durability, Staged, copy, write_atomic};
use crate::host::{cancel::Cancel, clock};
use crate::lock::Lock;
use crate::model::{Arch, Bytes, Digest};
use crate::oci::image::{self, Image};
use crate::oci::layer::{DiffId, Layer};
use crate::oci::layout::{Layout, LayoutWriter};
use crate::oci::{self, Annotations};
use crate::plan::{Plan, Recipe, StepId, Target};
use crate::seal;
use crate::sign::{KeyId, Signer};
use crate::tree::tar;
use anyhow::Context as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The directory of the OCI layout in a release.
pub const LAYOUT: &str = "oci";
/// The file with the digests of all others.
pub const SUMS: &str = "SHA256SUMS";
/// Its signature.
pub const SUMS_SIGNATURE: &str = "SHA256SUMS.sig";
/// Which files a release has, and what is in them: raised when the same plan is written in another way, so that what an older
/// forge wrote is not taken for it.
const FORMAT: u32 = 2;
/// The step's name under which sealing is told of.
const STEP: &str = "release";

/// What sealing works with.
pub struct Env<'a> {
    /// Where outputs are, and where the last release is remembered.
    pub cache: &'a Cache,
    /// Signs.
    pub signer: &'a dyn Signer,
    /// The repository that classic image signatures name; empty where none is known.
    pub repository: &'a str,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Hears of it.
    pub observer: &'a dyn Observer,
}

/// A release that was written, or found to be there already.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Release {
    /// Its directory.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// Whether it was there already, unchanged.
    pub unchanged: bool,
}

/// Writes the release of `plan` below `dist`, as `SITE/VERSION`.
///
/// # Errors
/// When an output is missing, the signer fails, or the file system refuses; what was there before is then untouched.
pub fn seal(plan: &Plan, built: &Built, lock: &Lock, dist: &Path, env: &Env<'_>) -> anyhow::Result<Release> {
    let dir = dist.join(&plan.name).join(&plan.version);
    let stamp = Stamp {
        format: FORMAT,
        plan: plan.digest(),
        key: env.signer.key_id(),
        repository: env.repository.into(),
        boot_id: clock::boot_id(),
        files: BTreeMap::new(),
    };
    if let Some(manifest) = unchanged(&dir, &stamp, env.cache) {
        return Ok(Release { dir, manifest, unchanged: true });
    }
    let start = Instant::now();
    env.observer.event(Event::Started { step: STEP, what: "signing" });
    let staged = Staged::dir(&dir)?;
    let mut manifest = Manifest::new(plan, lock, env.signer.key_id());
    if plan.targets.values().any(|t| !t.layers.is_empty()) {
        manifest.image = Some(layout(plan, built, &staged.path().join(LAYOUT), env)?);
    }
    for (arch, target) in &plan.targets {
        env.cancel.check()?;
        files(*arch, target, built, staged.path(), &mut manifest, env)?;
    }
    write_atomic(&staged.path().join(MANIFEST), &manifest.to_bytes()?, 0o644)?;
    let facts = facts(plan, built)?;
    attestation::write(plan, lock, &manifest, &facts, staged.path(), env.signer)?;
    let page = report::html(&manifest, &facts);
    write_atomic(&staged.path().join(report::REPORT), page.as_bytes(), 0o644)?;
    sums(staged.path(), &manifest, env)?;
    env.cancel.check()?;
    staged
        .commit(Durability::Synced)
        .with_context(|| format!("putting the release into {}", dir.display()))?;
    remember(&dir, stamp, env.cache)?;
    env.observer.event(Event::Finished { step: STEP, cached: false, took: start.elapsed() });
    Ok(Release { dir, manifest, unchanged: false })
}

/// Writes and signs the OCI layout.
fn layout(plan: &Plan, built: &Built, dir: &Path, env: &Env<'_>) -> anyhow::Result<ImageRecord> {
    let mut writer = LayoutWriter::create(dir)?;
    let mut labels: Annotations =
        plan.labels.iter().map(|(k, v)| (format!("org.forge.label.{k}"), v.clone())).collect();
    labels.insert("org.opencontainers.image.title".into(), plan.name.clone());
    labels.insert("org.opencontainers.image.version".into(), plan.version.clone());
    let mut images: Vec<Image> = vec![];
    let mut record = ImageRecord::default();
    for (arch, target) in plan.targets.iter().filter(|(_, t)| !t.layers.is_empty()) {
        let mut layers = vec![];
        for (name, step) in &target.layers {
            let entry = built.entry(step)?;
            let output = entry.output("blob")?;
            writer.file(output.digest, &entry.path("blob")?)?;
            let layer = Layer {
                descriptor: oci::descriptor(entry.fact("media-type")?, output.digest, output.size.0),
                diff_id: DiffId(entry.fact("diff-id")?.parse()?),
            };
            layers.push((layer, format!("forge layer {name}")));
        }
        let spec = image::Spec {
            arch: *arch,
            epoch: plan.epoch,
            layers,
            run: image::Run::default(),
            labels: labels.clone(),
        };
        let composed = image::compose(&spec)?;
        record.manifests.insert(*arch, oci::digest(&composed.manifest.descriptor)?);
        images.push(composed);
    }
    let index = image::index(&images, plan.epoch, &labels)?;
    record.index = oci::digest(&index.descriptor)?;
    record.tag = plan.version.clone();
    writer.image(&images, &index, &plan.version)?;
    writer.commit(Durability::Cached)?;
    seal::layout(&mut Layout::open(dir)?, env.repository, env.signer)?;
    Ok(record)
}

/// What the layers of every architecture hold, for the report. Only headers and databases of their tars are read.
fn facts(plan: &Plan, built: &Built) -> anyhow::Result<report::Facts> {
    let mut facts = report::Facts::new();
    for (arch, target) in &plan.targets {
        // Layers become blobs, file systems, or both; the plan has them in the order of their making.
        let mut layers: Vec<(&StepId, Option<(String, Bytes)>)> = vec![];
        let of_arch = format!("{arch}/");
        for step in plan.steps.iter().filter(|s| s.id.as_str().starts_with(&of_arch)) {
            let blob = target.layers.iter().find(|(_, id)| *id == step.id);
            let inputs = match &step.recipe {
                Recipe::Filesystem(filesystem) => filesystem.layers.iter().collect(),
                Recipe::Blob(blob) => vec![&blob.layer],
                _ => continue,
            };
            for layer in inputs {
                let known = layers.iter().position(|(id, _)| *id == layer);
                let at = known.unwrap_or_else(|| {
                    layers.push((layer, None));
                    layers.len() - 1
                });
                if let Some((name, _)) = blob {
                    layers[at].1 = Some((name.to_string(), built.entry(&step.id)?.output("blob")?.size));
                }
            }
        }
        let read = |(id, blob): &(&StepId, Option<(String, Bytes)>)| -> anyhow::Result<_> {
            let tree = tar::index(built.entry(id)?.open(LAYER)?);
            let contents = tree.map_err(anyhow::Error::from).and_then(|t| contents::of_tree(&t));
            let contents = contents.with_context(|| format!("reading the layer of {id}"))?;
            // Without an OCI image a layer has no name but its step's.
            let step = id.as_str().strip_prefix(&of_arch).unwrap_or(id.as_str()).to_string();
            let (name, compressed) = blob.clone().map_or((step, None), |(name, size)| (name, Some(size)));
            Ok(report::LayerFacts { name, compressed, contents })
        };
        facts.insert(*arch, layers.par_iter().map(read).collect::<anyhow::Result<_>>()?);
    }
    Ok(facts)
}

/// Copies one architecture's files and signs each.
fn files(
    arch: Arch,
    target: &Target,
    built: &Built,
    to: &Path,
    manifest: &mut Manifest,
    env: &Env<'_>,
) -> anyhow::Result<()> {
    for (name, (step, output)) in &target.files {
        let entry = built.entry(step)?;
        let made = entry.output(output)?;
        let path = format!("{arch}/{name}");
        copy(&entry.path(output)?, &to.join(&path)).with_context(|| format!("copying {path}"))?;
        let bundle = seal::file(&path, made.digest, env.signer)?;
        write_atomic(&to.join(format!("{path}{}", seal::BUNDLE_EXTENSION)), &bundle, 0o644)?;
        let volumes =
            entry.fact("volumes").ok().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        manifest.artifacts.push(Artifact {
            path,
            size: made.size,
            digest: made.digest,
            media_type: media_type(name).into(),
            arch,
            step: step.clone(),
            volumes,
        });
    }
    Ok(())
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("zst") => "application/zstd",
        _ => "application/octet-stream",
    }
}

/// Writes and signs the sums of every file. What has a known digest is not read again.
fn sums(dir: &Path, manifest: &Manifest, env: &Env<'_>) -> anyhow::Result<()> {
    let known: BTreeMap<&str, Digest> =
        manifest.artifacts.iter().map(|a| (a.path.as_str(), a.digest)).collect();
    let mut listed = vec![];
    for path in walk(dir)? {
        let blob = path.strip_prefix("oci/blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
        let digest = match known.get(path.as_str()).copied().or(blob) {
            Some(digest) => digest,
            None => Digest::of_reader(File::open(dir.join(&path))?)?.0,
        };
        listed.push((path, digest));
    }
    let text = seal::sums(listed.iter().map(|(path, digest)| (path.as_str(), *digest)));
    write_atomic(&dir.join(SUMS), text.as_bytes(), 0o644)?;
    write_atomic(&dir.join(SUMS_SIGNATURE), seal::sums_signature(&text, env.signer)?.as_bytes(), 0o644)?;
    Ok(())
}

/// Every file below `dir`, as relative paths, sorted. Anything that is neither file nor directory is an error.
fn walk(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = vec![];
    let mut todo = vec![dir.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).with_context(|| format!("reading {}", at.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let path = entry.path();
            if kind.is_dir() {
                todo.push(path);
                continue;
            }
            let relative = path.strip_prefix(dir).ok().and_then(Path::to_str).map(String::from);
            match relative {
                Some(relative) if kind.is_file() => found.push(relative),
                _ => anyhow::bail!("{} is no file of a release", path.display()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What tells that a release is still as it was written, without reading it: nothing but this machine, in this boot,
/// has touched its files since.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    #[serde(default)]
    format: u32,
    plan: Digest,
    key: KeyId,
    repository: String,
    boot_id: Option<String>,
    files: BTreeMap<String, (u64, u64, i64, i64)>,
}

fn stamp_path(dir: &Path, cache: &Cache) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    Ok(cache.root().join("releases").join(Digest::of(absolute.as_os_str().as_encoded_bytes()).hex()))
}

fn touched(dir: &Path) -> anyhow::Result<BTreeMap<String, (u64, u64, i64, i64)>> {
    let mut files = BTreeMap::new();
    for path in walk(dir)? {
        let m = std::fs::metadata(dir.join(&path))?;
        files.insert(path, (m.ino(), m.len(), m.ctime(), m.ctime_nsec()));
    }
    Ok(files)
}

fn unchanged(dir: &Path, now: &Stamp, cache: &Cache) -> Option<Manifest> {
    let text = std::fs::read(stamp_path(dir, cache).ok()?).ok()?;
    let then: Stamp = serde_json::from_slice(&text).ok()?;
    let same = now.boot_id.is_some()
        && (then.format, then.plan, then.key, &then.repository, &then.boot_id)
            == (now.format, now.plan, now.key, &now.repository, &now.boot_id);
    if !same || touched(dir).ok()? != then.files {
        return None;
    }
    Manifest::from_bytes(&std::fs::read(dir.join(MANIFEST)).ok()?).ok()
}

fn remember(dir: &Path, stamp: Stamp, cache: &Cache) -> anyhow::Result<()> {
    let stamp = Stamp { files: touched(dir)?, ..stamp };
    Ok(write_atomic(&stamp_path(dir, cache)?, &serde_json::to_vec(&stamp)?, 0o644)?)
}
