//! A layout to a signed layout, and a file to its signature; [`verify`] is the way back.
//!
//! Every index and every manifest is signed on its own, in both shapes that cosign reads ([`referrer`]), so that a
//! device that pulls one architecture by digest can check what it got. In the layout the signatures are entries of
//! `index.json`: classic ones under their tag, bundles without one (they are found by their `subject`). No time goes
//! into any of it: the same image under the same key gives the same bytes.

use crate::model::Digest;
use crate::oci::layout::{Layout, LayoutError};
use crate::oci::referrer::{self, Referrer};
use crate::oci::{Descriptor, MediaType, is_index};
use crate::sign::bundle::{Bundle, SIGNED};
use crate::sign::dsse::Statement;
use crate::sign::{Signer, simple_signing};
use anyhow::Context as _;
use std::collections::BTreeSet;

pub mod verify;

/// What is appended to a file's name for its bundle.
pub const BUNDLE_EXTENSION: &str = ".sigstore.json";

/// Signs every index and manifest of `layout` that is an image. `name` is the repository (`HOST/REPOSITORY`) that
/// classic signatures name; empty where it is not known yet.
///
/// # Errors
/// When the layout is damaged, the signer fails, or the layout cannot be written.
pub fn layout(layout: &mut Layout, name: &str, signer: &dyn Signer) -> anyhow::Result<()> {
    let mut blobs = vec![];
    let mut entries = vec![];
    for subject in subjects(layout)? {
        let digest = crate::oci::digest(&subject)?;
        for (referrer, tag) in
            signatures(&subject, name, signer).with_context(|| format!("signing {digest}"))?
        {
            blobs.extend(referrer.blobs.into_iter().map(|b| b.bytes));
            let mut entry = referrer.manifest.descriptor.clone();
            if let Some(tag) = tag {
                entry.set_annotations(Some([(crate::oci::REF_NAME.to_string(), tag)].into()));
            }
            blobs.push(referrer.manifest.bytes);
            entries.push(entry);
        }
    }
    layout.append(&blobs, entries)
}

/// Both signatures of `subject`, the classic one with its tag.
///
/// # Errors
/// What the signer says.
pub fn signatures(
    subject: &Descriptor,
    name: &str,
    signer: &dyn Signer,
) -> anyhow::Result<[(Referrer, Option<String>); 2]> {
    let digest = crate::oci::digest(subject)?;
    let payload = simple_signing::payload(name, digest);
    let classic = referrer::classic(&payload, &signer.sign(&payload)?.to_base64())?;
    let statement = Statement::about(digest, "", SIGNED, serde_json::json!({}));
    let bundle = referrer::bundle(subject, &Bundle::seal(signer, &statement)?.to_bytes()?, SIGNED)?;
    Ok([(classic, Some(referrer::classic_tag(digest))), (bundle, None)])
}

/// Hangs signed statements on images of the layout: what an auditor looks for beside the signature.
///
/// cosign 3 takes them as `verify-attestation --type TYPE --key PUB --insecure-ignore-tlog`.
///
/// # Errors
/// As [`layout`].
pub fn attest(
    layout: &mut Layout,
    statements: &[(&Descriptor, Statement)],
    signer: &dyn Signer,
) -> anyhow::Result<()> {
    let (mut blobs, mut entries) = (vec![], vec![]);
    for (subject, statement) in statements {
        let sealed = Bundle::seal(signer, statement)?.to_bytes()?;
        let referrer = referrer::bundle(subject, &sealed, &statement.predicate_type)?;
        blobs.extend(referrer.blobs.into_iter().map(|b| b.bytes));
        entries.push(referrer.manifest.descriptor.clone());
        blobs.push(referrer.manifest.bytes);
    }
    layout.append(&blobs, entries)
}

/// The images of a layout, each once: the entries of `index.json` that are no referrers, and what their indices list.
///
/// # Errors
/// When a document is damaged.
pub fn subjects(layout: &Layout) -> Result<Vec<Descriptor>, LayoutError> {
    let mut seen = BTreeSet::new();
    let mut subjects = vec![];
    let mut pending: Vec<Descriptor> = layout.entries().iter().rev().cloned().collect();
    while let Some(descriptor) = pending.pop() {
        if !seen.insert(crate::oci::digest(&descriptor)?) {
            continue;
        }
        if is_index(descriptor.media_type()) {
            pending.extend(layout.index(&descriptor)?.manifests().iter().rev().cloned());
        } else if is_referrer(layout, &descriptor)? {
            continue;
        }
        subjects.push(descriptor);
    }
    Ok(subjects)
}

/// Whether a manifest is about another: it has a subject, or holds nothing but classic signatures.
fn is_referrer(layout: &Layout, descriptor: &Descriptor) -> Result<bool, LayoutError> {
    let manifest = layout.manifest(descriptor)?;
    let classic = |m: &MediaType| m.as_ref() == referrer::SIMPLE_SIGNING;
    let only_signatures =
        !manifest.layers().is_empty() && manifest.layers().iter().all(|l| classic(l.media_type()));
    Ok(manifest.subject().is_some() || only_signatures)
}

/// The bundle of a file called `name` with `digest`: the bytes of `<file>.sigstore.json`. The file itself is not read,
/// so its length does not matter.
///
/// cosign 3 accepts it as `verify-blob --bundle B --key PUB --insecure-ignore-tlog FILE`; cosign 2.5 with
/// `--new-bundle-format --trusted-root R` added, where R is a trusted root without any entry, for without one it asks
/// the network. Both also as `verify-blob-attestation --type https://sigstore.dev/cosign/sign/v1`.
///
/// # Errors
/// What the signer says.
pub fn file(name: &str, digest: Digest, signer: &dyn Signer) -> anyhow::Result<Vec<u8>> {
    let statement = Statement::about(digest, name, SIGNED, serde_json::json!({}));
    Bundle::seal(signer, &statement)?.to_bytes()
}

/// The lines of `SHA256SUMS` for `files`, sorted by name, as `sha256sum --check` reads them.
pub fn sums<'a>(files: impl IntoIterator<Item = (&'a str, Digest)>) -> String {
    let mut lines: Vec<(&str, Digest)> = files.into_iter().collect();
    lines.sort();
    lines.iter().map(|(name, digest)| format!("{}  {name}\n", digest.hex())).collect()
}

/// The signature of `SHA256SUMS`, in base64 without a newline, as `cosign sign-blob` writes it.
///
/// # Errors
/// What the signer says.
pub fn sums_signature(sums: &str, signer: &dyn Signer) -> anyhow::Result<String> {
    Ok(signer.sign(sums.as_bytes())?.to_base64())
}
