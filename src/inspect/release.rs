//! A release directory → all of the above, led by its manifest.

use super::{Env, Form, Inspected, ReleaseFile, Signature, disk, layout};
use crate::contents::Package;
use crate::model::Bytes;
use crate::release::{LAYOUT, MANIFEST, Manifest, SUMS, SUMS_SIGNATURE};
use crate::seal::BUNDLE_EXTENSION;
use crate::sign::bundle::Bundle;
use crate::tree::TreePath;
use anyhow::Context as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Reads the manifest of the release in `path`.
pub fn manifest(path: &Path) -> anyhow::Result<Manifest> {
    let manifest = Manifest::from_bytes(&bounded(&path.join(MANIFEST))?);
    manifest.with_context(|| format!("reading {}", path.join(MANIFEST).display()))
}

/// Reads the release in `path`.
pub fn open(path: &Path, name: &str, env: &Env<'_>) -> anyhow::Result<Inspected> {
    let manifest = manifest(path)?;
    let mut found = Inspected::new(Form::Release, name);
    found.fact("site", &manifest.site);
    found.fact("version", &manifest.version);
    found.fact("time", manifest.epoch.rfc3339());
    found.fact("forge", &manifest.forge);
    found.fact("plan", manifest.plan);
    found.fact("lock", manifest.lock);
    found.fact("key", manifest.key);
    if path.join(SUMS_SIGNATURE).exists() {
        let key = Some(manifest.key.to_string());
        found.signatures.push(Signature { about: SUMS.into(), form: "Ed25519, base64", key });
    }
    if path.join(LAYOUT).is_dir() {
        layout::read(&path.join(LAYOUT), &mut found, env).context("reading the OCI layout")?;
    }
    for artifact in &manifest.artifacts {
        // The manifest may be anybody's: a path of it must stay inside.
        let inside = TreePath::parse(&artifact.path)?;
        let file = path.join(inside.as_str());
        found.files.push(ReleaseFile {
            path: inside.to_string(),
            size: artifact.size,
            digest: artifact.digest,
        });
        let beside = path.join(format!("{inside}{BUNDLE_EXTENSION}"));
        if let Some(bundle) = bounded(&beside).ok().and_then(|bytes| Bundle::parse(&bytes).ok()) {
            let key = bundle.key_id().map(|k| k.to_string());
            found.signatures.push(Signature { about: inside.to_string(), form: "sigstore bundle", key });
        }
        let name = inside.name();
        if (name.ends_with(".raw") || name.ends_with(".raw.zst")) && !env.skip.contains(&artifact.digest) {
            // The layers have told what the file systems hold, unless the release has none.
            disk::read(&file, inside.as_str(), &mut found, env, !path.join(LAYOUT).is_dir())?;
        }
    }
    // The manifest's packages stand where no layer was looked into, without sizes.
    for (arch, sets) in &manifest.packages {
        let known = found.packages.entry(arch.to_string()).or_default();
        for (set, packages) in sets {
            let set = known.entry(set.clone()).or_default();
            for (name, version) in packages {
                let listed = Package { version: version.clone(), size: Bytes(0) };
                set.entry(name.clone()).or_insert(listed);
            }
        }
    }
    Ok(found)
}

fn bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![];
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(super::MAX_TEXT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
