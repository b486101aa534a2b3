//! Bills of materials and provenance of a release: as files beside its artifacts, and as attestations on its OCI images.

use super::report::Facts;
use super::{LAYOUT, Manifest};
use crate::attest::{Bill, cyclonedx, provenance, spdx};
use crate::host::fs::write_atomic;
use crate::lock::Lock;
use crate::model::{Arch, Digest, Guid};
use crate::oci::json;
use crate::oci::layout::Layout;
use crate::plan::Plan;
use crate::seal;
use crate::sign::Signer;
use crate::sign::bundle::Bundle;
use crate::sign::dsse::Statement;
use anyhow::Context as _;
use serde::Serialize;
use std::path::Path;

/// Writes the documents of the release in `dir`, whose files and layout are there.
pub fn write(
    plan: &Plan,
    lock: &Lock,
    manifest: &Manifest,
    facts: &Facts,
    dir: &Path,
    signer: &dyn Signer,
) -> anyhow::Result<()> {
    let whole = bill(plan, lock, facts, None);
    put(dir, spdx::FILE, &spdx::document(&whole))?;
    put(dir, cyclonedx::FILE, &cyclonedx::document(&whole))?;
    let made = provenance::statement(
        &provenance::Release {
            name: &plan.name,
            version: &plan.version,
            epoch: plan.epoch,
            arches: plan.targets.keys().copied().collect(),
            plan: manifest.plan,
            key: manifest.key,
            subjects: subjects(manifest),
        },
        lock,
    );
    let sealed = Bundle::seal(signer, &made)?;
    put(dir, provenance::FILE, sealed.envelope())?;
    put(dir, provenance::BUNDLE_FILE, &sealed)?;
    let Some(image) = &manifest.image else { return Ok(()) };
    let mut layout = Layout::open(&dir.join(LAYOUT))?;
    let mut statements = vec![];
    let images = seal::subjects(&layout)?;
    for subject in &images {
        let digest = crate::oci::digest(subject)?;
        if let Some((arch, _)) = image.manifests.iter().find(|(_, manifest)| **manifest == digest) {
            let bill = bill(plan, lock, facts, Some(*arch));
            let about = |kind, document| (subject, Statement::about(digest, "", kind, document));
            statements.push(about(spdx::PREDICATE, spdx::document(&bill)));
            statements.push(about(cyclonedx::PREDICATE, cyclonedx::document(&bill)));
        }
        statements.push((subject, made.clone()));
    }
    seal::attest(&mut layout, &statements, signer).context("attesting the OCI images")
}

/// The bill of one architecture, or of all.
fn bill(plan: &Plan, lock: &Lock, facts: &Facts, only: Option<Arch>) -> Bill {
    let named = only.map_or("all", Arch::oci);
    let identity = Guid::derived(&plan.digest(), &format!("sbom {named}"));
    let layers = facts
        .iter()
        .filter(|(arch, _)| only.is_none_or(|only| only == **arch))
        .flat_map(|(arch, layers)| layers.iter().map(|layer| (*arch, &layer.contents)));
    Bill::new((&plan.name, &plan.version, plan.epoch, identity), layers, lock)
}

/// What came out: every file that was made, and every image.
pub fn subjects(manifest: &Manifest) -> Vec<(String, Digest)> {
    let files = manifest.artifacts.iter().map(|artifact| (artifact.path.clone(), artifact.digest));
    let image = manifest.image.iter().flat_map(|image| {
        let each = image.manifests.iter().map(|(arch, digest)| (format!("{LAYOUT} {arch}"), *digest));
        std::iter::once((LAYOUT.to_string(), image.index)).chain(each)
    });
    files.chain(image).collect()
}

fn put(dir: &Path, name: &str, document: &impl Serialize) -> anyhow::Result<()> {
    let mut bytes = json::canonical(document)?;
    bytes.push(b'\n');
    write_atomic(&dir.join(name), &bytes, 0o644).with_context(|| format!("writing {name}"))
}
