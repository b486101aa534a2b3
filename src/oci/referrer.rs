//! What hangs on an image: signatures as manifests of their own, in the two shapes that cosign reads.
//!
//! *Classic*: an image manifest under the tag `sha256-<hex>.sig`, whose layers are simple-signing payloads with the
//! signature as an annotation. *Bundle*: an artifact manifest whose `subject` is the image and whose layer is a sigstore
//! bundle, found by the referrers API or the fallback tag `sha256-<hex>` (distribution-spec v1.1, §Referrers tag schema).
//! Here are only shapes: payloads and signatures come in as bytes, and go out unjudged.

use super::image::{CONFIG, Document, document};
use super::{Annotations, Descriptor, INDEX, MANIFEST, Manifest, MediaType, describe, is_manifest};
use crate::model::Digest;
use serde_json::json;

/// Media type of a classic signature's payload.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The layer annotation that holds a classic signature, in base64.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Media type of a sigstore bundle.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of the empty config of artifact manifests, whose bytes are `{}`.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The annotation by which cosign finds the statement's predicate type.
pub const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";
const CONTENT: &str = "dev.sigstore.bundle.content";

/// A manifest that hangs on an image, with the blobs that it needs.
#[derive(Clone, Debug)]
pub struct Referrer {
    /// Its manifest.
    pub manifest: Document,
    /// The config and the layers.
    pub blobs: Vec<Document>,
}

/// The tag of the classic signature of `subject`: `sha256-<hex>.sig`.
pub fn classic_tag(subject: Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}

/// The tag of the fallback index of all referrers of `subject`: `sha256-<hex>`.
pub fn fallback_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// A classic signature: `payload` with its `signature` in base64.
///
/// # Errors
/// Never for strings and digests as they are; the JSON writer's type says it could.
pub fn classic(payload: &[u8], signature: &str) -> anyhow::Result<Referrer> {
    let mut layer = describe(SIMPLE_SIGNING, payload);
    layer.set_annotations(Some([(SIGNATURE.to_string(), signature.to_string())].into()));
    let config = document(
        CONFIG,
        &json!({"architecture": "", "os": "", "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest().to_string()]}}),
    )?;
    let manifest = document(
        MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": [layer]}),
    )?;
    let payload = Document { descriptor: layer, bytes: payload.to_vec() };
    Ok(Referrer { manifest, blobs: vec![config, payload] })
}

/// A sigstore bundle about `subject`, whose statement is of `predicate_type`.
///
/// # Errors
/// Never for strings and digests as they are; the JSON writer's type says it could.
pub fn bundle(subject: &Descriptor, bundle: &[u8], predicate_type: &str) -> anyhow::Result<Referrer> {
    let layer = Document { descriptor: describe(BUNDLE, bundle), bytes: bundle.to_vec() };
    let config = Document { descriptor: describe(EMPTY, b"{}"), bytes: b"{}".to_vec() };
    let annotations: Annotations = [
        (CONTENT.to_string(), "dsse-envelope".to_string()),
        (PREDICATE_TYPE.to_string(), predicate_type.to_string()),
        // A fixed time: the signature of the same bytes by the same key is the same manifest.
        ("org.opencontainers.image.created".to_string(), "1970-01-01T00:00:00Z".to_string()),
    ]
    .into();
    let bare = super::descriptor(subject.media_type().as_ref(), super::digest(subject)?, subject.size());
    let mut manifest = document(
        MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE, "config": config.descriptor,
                "layers": [layer.descriptor], "subject": bare, "annotations": annotations}),
    )?;
    manifest.descriptor.set_artifact_type(Some(MediaType::from(BUNDLE)));
    manifest.descriptor.set_annotations(Some(annotations.into_iter().collect()));
    Ok(Referrer { manifest, blobs: vec![config, layer] })
}

/// The fallback index that lists `referrers`: what a registry without the referrers API is asked for.
///
/// # Errors
/// Never for descriptors as they are; the JSON writer's type says it could.
pub fn fallback_index(referrers: &[Descriptor]) -> anyhow::Result<Document> {
    document(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": referrers}))
}

/// The payload layer of a classic signature's manifest with its signature in base64, of each layer that is one.
pub fn classic_layers(manifest: &Manifest) -> impl Iterator<Item = (&Descriptor, &str)> {
    manifest
        .layers()
        .iter()
        .filter(|l| l.media_type().to_string() == SIMPLE_SIGNING)
        .filter_map(|l| Some((l, l.annotations().as_ref()?.get(SIGNATURE)?.as_str())))
}

/// The bundles that a manifest says it holds about `subject`; none for a manifest about something else.
pub fn bundle_layers(manifest: &Manifest, subject: Digest) -> impl Iterator<Item = &Descriptor> {
    let about = manifest.subject().as_ref().is_some_and(|s| super::digest(s).is_ok_and(|d| d == subject));
    manifest.layers().iter().filter(move |l| about && l.media_type().to_string() == BUNDLE)
}

/// Whether an entry of a layout can be a referrer: a manifest without a platform.
pub fn may_refer(entry: &Descriptor) -> bool {
    is_manifest(entry.media_type()) && entry.platform().is_none()
}
