//! A release directory and a public key → what holds, piece by piece; or the name of the first thing that does not.
//!
//! Nothing is believed before it is shown: the sums' signature first, then every file against the sums, then each
//! file's own signature, the OCI layout with all of its signatures, and the disk images partition by partition.

use super::{LAYOUT, MANIFEST, Manifest, SUMS, SUMS_SIGNATURE, walk};
use crate::attest::provenance;
use crate::disk::verify::{ExpectedFiles, Shown};
use crate::disk::{self, DiskImage};
use crate::error::{self, Kind, Mark as _};
use crate::host::{cancel::Cancel, fs};
use crate::model::{Bytes, Digest};
use crate::seal;
use crate::sign::{PublicKey, dsse, rsa};
use crate::tree::{Content, TreePath};
use anyhow::{Context as _, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// The largest text file of a release that is read into memory, in bytes.
const MAX_TEXT: u64 = 16 << 20;
/// The largest disk image that is unpacked to be checked, in bytes.
const MAX_DISK: u64 = 1 << 40;

/// Something that was shown to hold.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// What: a path, an image, a partition.
    pub what: String,
    /// In which sense.
    pub how: String,
}

/// Goes through a release; `work` takes unpacked disk images for a while, `told` hears of each thing that held.
///
/// # Errors
/// [`Kind::Verify`], naming what does not hold; [`Kind::Interrupted`].
pub fn release(
    dir: &Path,
    key: &PublicKey,
    work: &Path,
    cancel: &Cancel,
    told: &dyn Fn(&Held),
) -> anyhow::Result<Manifest> {
    let tell = |what: &str, how: String| told(&Held { what: what.into(), how });
    let sums = text(dir, SUMS)?;
    let listed = seal::verify::sums(&sums, text(dir, SUMS_SIGNATURE)?.trim(), key).kind(Kind::Verify)?;
    let listed: BTreeMap<&str, Digest> =
        listed.get().iter().map(|(path, digest)| (path.as_str(), *digest)).collect();
    tell(SUMS, format!("signed, {} files", listed.len()));
    let present = walk(dir).kind(Kind::Verify)?;
    for path in present.iter().filter(|p| ![SUMS, SUMS_SIGNATURE].contains(&p.as_str())) {
        if !listed.contains_key(path.as_str()) {
            return Err(refused(anyhow!("{path} is in no signed list")));
        }
    }
    // The layout's blobs are read by the layout's own check, which knows what each has to be.
    for (path, expected) in listed.iter().filter(|(p, _)| !p.starts_with("oci/blobs/")) {
        cancel.check()?;
        let file =
            File::open(dir.join(path)).with_context(|| format!("opening {path}")).kind(Kind::Verify)?;
        let (digest, length) =
            Digest::of_reader(file).with_context(|| format!("reading {path}")).kind(Kind::Verify)?;
        if digest != *expected {
            return Err(refused(anyhow!("{path} has digest {digest}, signed as {expected}")));
        }
        tell(path, format!("digest, {}", Bytes(length)));
    }
    let manifest = Manifest::from_bytes(text(dir, MANIFEST)?.as_bytes())
        .with_context(|| format!("reading {MANIFEST}"))
        .kind(Kind::Verify)?;
    if let Some(image) = &manifest.image {
        cancel.check()?;
        let report = seal::verify::layout(&dir.join(LAYOUT), key)
            .context("checking the OCI layout")
            .kind(Kind::Verify)?;
        let found = |digest: Digest| {
            report.images.iter().any(|i| crate::oci::digest(&i.descriptor).is_ok_and(|d| d == digest))
        };
        for digest in std::iter::once(image.index).chain(image.manifests.values().copied()) {
            if !found(digest) {
                return Err(refused(anyhow!(
                    "the OCI layout has no image {digest}, which the manifest names"
                )));
            }
        }
        tell(
            LAYOUT,
            format!("{} images signed, {} blobs, {}", report.images.len(), report.blobs, report.size),
        );
    }
    for artifact in &manifest.artifacts {
        cancel.check()?;
        let bundle = text(dir, &format!("{}{}", artifact.path, seal::BUNDLE_EXTENSION))?;
        if listed.get(artifact.path.as_str()) != Some(&artifact.digest) {
            return Err(refused(anyhow!("{} is another in the manifest than in the sums", artifact.path)));
        }
        seal::verify::file(&artifact.path, artifact.digest, bundle.as_bytes(), key).kind(Kind::Verify)?;
        tell(&artifact.path, "signed".into());
        let expected = volumes(&artifact.volumes)?;
        if !expected.is_empty() {
            disk(&dir.join(&artifact.path), &artifact.path, &expected, work, cancel, &tell)?;
        }
    }
    // Older releases have none; where there is one, the sums say so, and it must be this release's.
    if listed.contains_key(provenance::FILE) {
        let envelope = serde_json::from_str(&text(dir, provenance::FILE)?)
            .with_context(|| format!("reading {}", provenance::FILE))
            .kind(Kind::Verify)?;
        for (name, digest) in super::attestation::subjects(&manifest) {
            dsse::open_statement(&envelope, digest, key)
                .with_context(|| format!("checking the provenance of {name}"))
                .kind(Kind::Verify)?;
        }
        tell(provenance::FILE, "signed, about every artifact".into());
    }
    Ok(manifest)
}

/// What one artifact of a release has to be, by its path in it: the digest that the signed sums, the manifest that they
/// list, and its own signature all say. The artifact itself is not read.
///
/// # Errors
/// [`Kind::Verify`], naming what does not hold.
pub fn artifact(dir: &Path, name: &str, key: &PublicKey) -> anyhow::Result<Digest> {
    let sums = text(dir, SUMS)?;
    let listed = seal::verify::sums(&sums, text(dir, SUMS_SIGNATURE)?.trim(), key).kind(Kind::Verify)?;
    let signed = |name: &str| {
        let found = listed.get().iter().find(|(path, _)| path == name);
        found.map(|(_, digest)| *digest).ok_or_else(|| refused(anyhow!("{name} is in no signed list")))
    };
    let manifest = text(dir, MANIFEST)?;
    if Digest::of(manifest.as_bytes()) != signed(MANIFEST)? {
        return Err(refused(anyhow!("{MANIFEST} is not the one that is signed")));
    }
    let digest = signed(name)?;
    let manifest = Manifest::from_bytes(manifest.as_bytes())
        .with_context(|| format!("reading {MANIFEST}"))
        .kind(Kind::Verify)?;
    if !manifest.artifacts.iter().any(|artifact| artifact.path == name && artifact.digest == digest) {
        return Err(refused(anyhow!("{name} is another in the manifest than in the sums")));
    }
    let bundle = text(dir, &format!("{name}{}", seal::BUNDLE_EXTENSION))?;
    seal::verify::file(name, digest, bundle.as_bytes(), key).kind(Kind::Verify)?;
    Ok(digest)
}

fn refused(error: anyhow::Error) -> anyhow::Error {
    error::of(Kind::Verify, error)
}

fn text(dir: &Path, name: &str) -> anyhow::Result<String> {
    let read = || -> anyhow::Result<String> {
        let mut text = String::new();
        File::open(dir.join(name))?.take(MAX_TEXT + 1).read_to_string(&mut text)?;
        anyhow::ensure!(text.len() as u64 <= MAX_TEXT, "it has more than {MAX_TEXT} bytes");
        Ok(text)
    };
    read().with_context(|| format!("reading {name}")).kind(Kind::Verify)
}

fn volumes(named: &BTreeMap<String, BTreeMap<String, Digest>>) -> anyhow::Result<ExpectedFiles> {
    let files = |files: &BTreeMap<String, Digest>| {
        files
            .iter()
            .map(|(path, digest)| Ok((TreePath::parse(path)?, *digest)))
            .collect::<anyhow::Result<_>>()
    };
    named.iter().map(|(label, named)| Ok((label.clone(), files(named).kind(Kind::Verify)?))).collect()
}

fn disk(
    path: &Path,
    name: &str,
    expected: &ExpectedFiles,
    work: &Path,
    cancel: &Cancel,
    tell: &dyn Fn(&str, String),
) -> anyhow::Result<()> {
    let in_disk = || format!("checking {name}");
    let content = if name.ends_with(".zst") {
        let unpacked = fs::anonymous(work)?;
        crate::disk::compressed::read(File::open(path)?, &unpacked, MAX_DISK, &|| cancel.check().is_err())
            .with_context(in_disk)
            .kind(Kind::Verify)?;
        cancel.check()?;
        Content::of_file(Arc::new(unpacked))?
    } else {
        Content::of_file(Arc::new(File::open(path)?))?
    };
    let image = DiskImage::open(content).with_context(in_disk).kind(Kind::Verify)?;
    let report = disk::verify(&image, expected).with_context(in_disk).kind(Kind::Verify)?;
    for (path, signature) in &report.signed {
        rsa::verify(&signature.certificate, &signature.message, &signature.signature)
            .with_context(|| format!("checking the Secure Boot signature of {path} in {name}"))
            .kind(Kind::Verify)?;
        let (owner, digest) = (rsa::subject(&signature.certificate), Digest::of(&signature.certificate));
        let owner = owner.unwrap_or_default();
        tell(&format!("{name}: {path}"), format!("signed for Secure Boot by {owner}, certificate {digest}"));
    }
    for partition in report.partitions {
        let how = match partition.shown {
            Shown::Files(count) => format!("{count} files"),
            Shown::Covered { root_hash, argument, blocks } => {
                format!("{blocks} blocks under {argument}={root_hash}")
            }
            Shown::HashTree { root_hash } => format!("hash tree of {root_hash}"),
        };
        tell(&format!("{name}: {}", partition.name), format!("{how}, {}", Bytes(partition.length)));
    }
    Ok(())
}
