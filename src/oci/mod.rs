//! OCI images as data: layers, configs, manifests and indices as canonical bytes; layouts on disk; registries.
//!
//! A layer's tar becomes a blob ([`layer`]), blobs become an image ([`image`]), images become a directory ([`layout`])
//! that is checked ([`validate`]) and copied to and from registries ([`registry`]). What is said about an image by others
//! hangs on it as a [`referrer`]. Knows no profile and no key: it carries signatures and does not judge them.
//!
//! OCI image-spec v1.1, distribution-spec v1.1.

pub mod credentials;
pub mod image;
pub mod json;
pub mod layer;
pub mod layout;
pub mod reference;
pub mod referrer;
pub mod registry;
pub mod validate;

pub use layer::{Codec, DiffId, Layer};
pub use oci_spec::image::{Descriptor, ImageIndex as Index, ImageManifest as Manifest, MediaType};
pub use reference::Reference;

use crate::model::Digest;
use crate::model::digest::BadDigest;
use std::collections::BTreeMap;

/// Media type of an image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's name of an index, met in registries.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's name of a manifest, met in registries.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The annotation that names an entry of a layout: its tag (image-spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The largest manifest, index, config or signature that is read, in bytes: what registries must take at least
/// (distribution-spec, §Pushing Manifests), and more than any real one has.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Labels and annotations, in the order in which they are written.
pub type Annotations = BTreeMap<String, String>;

/// A descriptor of bytes that are `size` long and have `digest`.
pub fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor::new(MediaType::from(media_type), size, oci_digest(digest))
}

/// The descriptor of `bytes`.
pub fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    descriptor(media_type, Digest::of(bytes), bytes.len() as u64)
}

/// The digest that a descriptor names.
///
/// # Errors
/// [`BadDigest`] for any algorithm but SHA-256.
pub fn digest(descriptor: &Descriptor) -> Result<Digest, BadDigest> {
    descriptor.digest().to_string().parse()
}

/// Whether a media type is that of an index, OCI's or Docker's.
pub fn is_index(media_type: &MediaType) -> bool {
    let name = media_type.to_string();
    name == INDEX || name == DOCKER_INDEX
}

/// Whether a media type is that of a manifest, OCI's or Docker's.
pub fn is_manifest(media_type: &MediaType) -> bool {
    let name = media_type.to_string();
    name == MANIFEST || name == DOCKER_MANIFEST
}

fn oci_digest(digest: Digest) -> oci_spec::image::Sha256Digest {
    #[expect(clippy::expect_used, reason = "64 lowercase hex digits are what the type asks for")]
    digest.hex().parse().expect("hex of 32 bytes")
}
