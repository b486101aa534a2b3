//! How a release was made, as SLSA provenance v1: from which pinned inputs, by which forge, under whose key.
//!
//! No time and no machine is in it: a release that is built again has the same provenance, which is what makes the claim
//! worth something. The builder is who holds the key.

use super::{encode, origin};
use crate::lock::Lock;
use crate::model::{Arch, Digest, Epoch};
use crate::sign::KeyId;
use crate::sign::dsse::{Statement, Subject};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// The predicate type.
pub const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// The signed envelope's name in a release.
pub const FILE: &str = "provenance.intoto.json";
/// The name of the same envelope in a sigstore bundle, as cosign takes it.
pub const BUNDLE_FILE: &str = "provenance.sigstore.json";
/// What the parameters mean.
const BUILD_TYPE: &str = "urn:forge:build:profile:1";

/// What a release says of itself.
#[derive(Clone, Debug)]
pub struct Release<'a> {
    /// The site.
    pub name: &'a str,
    /// The version.
    pub version: &'a str,
    /// The release's time.
    pub epoch: Epoch,
    /// The architectures.
    pub arches: BTreeSet<Arch>,
    /// Digest of the plan: recipes, their order and their parameters.
    pub plan: Digest,
    /// Who signs.
    pub key: KeyId,
    /// What came out: names and digests, images by their manifests.
    pub subjects: Vec<(String, Digest)>,
}

/// The statement.
pub fn statement(release: &Release<'_>, lock: &Lock) -> Statement {
    let subject = release
        .subjects
        .iter()
        .map(|(name, digest)| Subject {
            name: name.clone(),
            digest: [("sha256".to_string(), digest.hex())].into(),
        })
        .collect();
    let predicate = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "site": release.name,
                "version": release.version,
                "architectures": release.arches,
                "source-date-epoch": release.epoch.0,
            },
            "internalParameters": { "plan": release.plan },
            "resolvedDependencies": dependencies(lock, &release.arches),
        },
        "runDetails": {
            "builder": {
                "id": format!("urn:forge:key:{}", release.key.0.hex()),
                "version": { "forge": env!("CARGO_PKG_VERSION") },
            },
        },
    });
    Statement { subject, ..Statement::about(release.plan, "", PREDICATE, predicate) }
}

/// Every input: the lock itself, the archives as they were signed, packages, images, releases, and the user's files.
fn dependencies(lock: &Lock, arches: &BTreeSet<Arch>) -> Vec<Json> {
    let resource = |uri: String, digest: Digest| json!({ "uri": uri, "digest": { "sha256": digest.hex() } });
    let mut all = vec![json!({ "name": "lock", "digest": { "sha256": lock.digest().hex() } })];
    for archive in &lock.archives {
        let name = format!("InRelease of {} at {}", archive.suite, archive.date.rfc3339());
        all.push(json!({ "name": name, "digest": { "sha256": archive.inrelease.hex() } }));
    }
    for package in lock.packages.iter().filter(|p| arches.contains(&p.arch)) {
        let (vendor, codename) = origin(&package.suite);
        let own = if package.path.ends_with("_all.deb") { "all" } else { package.arch.oci() };
        let distro = codename.map(|c| format!("&distro={}", encode(c))).unwrap_or_default();
        let (name, version) = (encode(&package.name), encode(&package.version));
        all.push(resource(format!("pkg:deb/{vendor}/{name}@{version}?arch={own}{distro}"), package.digest));
    }
    for image in lock.images.iter().filter(|i| arches.contains(&i.arch)) {
        all.push(resource(format!("oci://{}", image.reference), image.manifest.digest));
    }
    for file in lock.releases.iter().filter(|f| arches.contains(&f.arch)) {
        let (product, version, name) = (file.product.to_string(), encode(&file.version), encode(&file.file));
        all.push(resource(format!("pkg:generic/{product}@{version}?file_name={name}"), file.digest));
    }
    for remote in &lock.remotes {
        let from = remote.source.replacen("oci:", "oci://", 1);
        all.extend(remote.files.iter().map(|f| resource(format!("{from}#{}", encode(&f.path)), f.digest)));
    }
    for chart in lock.charts.iter().filter(|c| arches.contains(&c.arch)) {
        let from = if chart.from.is_empty() { &chart.source } else { &chart.from };
        all.push(resource(from.replacen("oci:", "oci://", 1), chart.digest));
    }
    for file in &lock.files {
        all.push(json!({ "name": file.path, "digest": { "sha256": file.digest.hex() } }));
    }
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::super::tests::lock;
    use super::*;

    #[test]
    fn a_statement_is_about_everything_that_came_out() {
        let disk = Digest::of("disk");
        let release = Release {
            name: "shop",
            version: "1",
            epoch: Epoch(0),
            arches: [Arch::Arm64].into(),
            plan: Digest::of("plan"),
            key: KeyId(Digest::of("key")),
            subjects: vec![("arm64/disk.raw.zst".into(), disk)],
        };
        let said = statement(&release, &lock());
        assert!(said.is_about(disk) && !said.is_about(release.plan));
        assert_eq!(said.predicate["buildDefinition"]["resolvedDependencies"][0]["name"], "lock");
        assert_eq!(said, statement(&release, &lock()));
    }
}
