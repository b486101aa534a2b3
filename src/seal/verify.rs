//! A signed layout, or a file and its bundle, to what was verified; or the name of what did not hold.
//!
//! All of [`validate`] first, then signatures. Every image of the layout must be signed by the key, in at least one
//! shape; every signature that is there must hold; and every entry that is no image must be such a signature. Nothing
//! unsigned passes by calling itself something else. The names (tags) of entries are not signed: what they point at is.

use crate::model::digest::BadDigest;
use crate::model::{Bytes, Digest};
use crate::oci::layout::{Layout, LayoutError};
use crate::oci::validate::{self, Checked};
use crate::oci::{Descriptor, referrer};
use crate::sign::bundle::Bundle;
use crate::sign::dsse::Statement;
use crate::sign::{KeyId, PublicKey, Refused, Signature, Verified, Verifier as _, simple_signing};
use std::collections::BTreeMap;
use std::path::Path;

/// Why a layout or a file was refused; each names the thing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not even its digests hold.
    #[error(transparent)]
    Content(#[from] validate::Fault),
    /// An image that nobody signed.
    #[error("image {0} is not signed")]
    Unsigned(Digest),
    /// A signature that does not hold.
    #[error("signature {manifest}: {source}")]
    Signature {
        /// The manifest of the signature.
        manifest: Digest,
        /// Why.
        source: Refused,
    },
    /// A signature of an image that the layout does not have.
    #[error("signature {manifest} is about no image of the layout")]
    Stray {
        /// The manifest of the signature.
        manifest: Digest,
    },
    /// A layout without any image.
    #[error("the layout holds no image")]
    Empty,
    /// A file that does not have the digest or the signature it should have.
    #[error("{name}: {source}")]
    File {
        /// The file.
        name: String,
        /// Why.
        source: Refused,
    },
}

impl From<LayoutError> for Fault {
    fn from(e: LayoutError) -> Fault {
        Fault::Content(e.into())
    }
}

impl From<BadDigest> for Fault {
    fn from(e: BadDigest) -> Fault {
        Fault::Content(LayoutError::from(e).into())
    }
}

/// An index or a manifest that is signed.
#[derive(Clone, Debug)]
pub struct SignedImage {
    /// Its descriptor, with tag or platform where the layout says them.
    pub descriptor: Descriptor,
    /// How many signatures of it hold.
    pub signatures: usize,
}

/// What a layout was found to hold.
#[derive(Clone, Debug)]
pub struct LayoutReport {
    /// Every index and manifest.
    pub images: Vec<SignedImage>,
    /// The key under which all signatures hold.
    pub key_id: KeyId,
    /// Count of distinct blobs that were read.
    pub blobs: usize,
    /// Their size in total.
    pub size: Bytes,
}

/// Checks the layout in `dir` against `key`.
///
/// # Errors
/// The first [`Fault`]; callers mark it [`Kind::Verify`](crate::error::Kind::Verify).
pub fn layout(dir: &Path, key: &PublicKey) -> Result<LayoutReport, Fault> {
    let layout = Layout::open(dir)?;
    let report = validate::layout(&layout)?;
    let mut images: BTreeMap<Digest, SignedImage> = BTreeMap::new();
    let mut order = vec![];
    for descriptor in super::subjects(&layout)? {
        let digest = crate::oci::digest(&descriptor)?;
        order.push(digest);
        images.insert(digest, SignedImage { descriptor, signatures: 0 });
    }
    if order.is_empty() {
        return Err(Fault::Empty);
    }
    let others: Vec<&Checked> = report.manifests.iter().filter(|m| !images.contains_key(&m.digest)).collect();
    let mut stray = None;
    for checked in others {
        let subject = signed_by(&layout, checked, key)?;
        match images.get_mut(&subject) {
            Some(image) => image.signatures += 1,
            None => stray = stray.or(Some(checked.digest)),
        }
    }
    let images: Vec<SignedImage> = order.iter().filter_map(|d| images.remove(d)).collect();
    if let Some(unsigned) = images.iter().find(|i| i.signatures == 0) {
        return Err(Fault::Unsigned(crate::oci::digest(&unsigned.descriptor)?));
    }
    // Said last: a signature without its image is what an image without its signature leaves behind.
    if let Some(manifest) = stray {
        return Err(Fault::Stray { manifest });
    }
    let (blobs, size) = (report.blobs.len(), report.blobs.values().map(|n| Bytes(*n)).sum());
    Ok(LayoutReport { images, key_id: key.key_id(), blobs, size })
}

/// The image that a signature's manifest is about, when every layer of it is a signature that holds.
fn signed_by(layout: &Layout, checked: &Checked, key: &PublicKey) -> Result<Digest, Fault> {
    let refused = |source| Fault::Signature { manifest: checked.digest, source };
    let manifest = &checked.manifest;
    let nothing =
        || refused(Refused::Malformed("a manifest that holds no signature, or something else too".into()));
    if let Some(subject) = manifest.subject() {
        let subject = crate::oci::digest(subject)?;
        let bundles: Vec<&Descriptor> = referrer::bundle_layers(manifest, subject).collect();
        if bundles.is_empty() || bundles.len() != manifest.layers().len() {
            return Err(nothing());
        }
        for layer in bundles {
            Bundle::parse(&layout.read(layer)?).and_then(|b| b.open(subject, key)).map_err(refused)?;
        }
        return Ok(subject);
    }
    let payloads: Vec<_> = referrer::classic_layers(manifest).collect();
    if payloads.is_empty() || payloads.len() != manifest.layers().len() {
        return Err(nothing());
    }
    let mut about = None;
    for (layer, signature) in payloads {
        let payload = layout.read(layer)?;
        let claimed = simple_signing::claimed(&payload).map_err(refused)?;
        let signature = Signature::from_base64(signature).map_err(refused)?;
        let expected = *about.get_or_insert(claimed);
        simple_signing::open(&payload, &signature, expected, key).map_err(refused)?;
    }
    about.ok_or_else(nothing)
}

/// Checks that `bundle` (the bytes of `<file>.sigstore.json`) signs the file called `name`, which has `digest`.
///
/// # Errors
/// [`Fault::File`].
pub fn file(
    name: &str,
    digest: Digest,
    bundle: &[u8],
    key: &PublicKey,
) -> Result<Verified<Statement>, Fault> {
    let opened = Bundle::parse(bundle).and_then(|b| b.open(digest, key));
    opened.map_err(|source| Fault::File { name: name.into(), source })
}

/// The names and digests in `sums` (the text of `SHA256SUMS`), when `signature` (of `SHA256SUMS.sig`) holds.
///
/// # Errors
/// [`Fault::File`] when the signature does not hold, or a line is no digest with a relative name.
pub fn sums(sums: &str, signature: &str, key: &PublicKey) -> Result<Verified<Vec<(String, Digest)>>, Fault> {
    let parse = |text: &str| {
        let line = |line: &str| {
            let (hex, name) = line.split_once("  ")?;
            let inside = crate::tree::TreePath::parse(name).is_ok_and(|p| p.as_str() == name);
            inside.then_some((name.to_string(), Digest::from_hex(hex).ok()?))
        };
        text.lines()
            .map(|l| line(l).ok_or_else(|| Refused::Malformed(format!("`{l}` is no line of sums"))))
            .collect::<Result<Vec<_>, _>>()
    };
    Signature::from_base64(signature)
        .and_then(|s| key.verify(sums, &s)?.try_map(parse))
        .map_err(|source| Fault::File { name: "SHA256SUMS".into(), source })
}
