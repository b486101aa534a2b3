//! Reads an image's manifest, config and index, and holds them against each other and the layers that are there.

use super::{MAX_LAYERS, OciImage};
use crate::model::{Digest, Epoch};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};

/// The largest document that registries and Podman take, in bytes (distribution-spec, §Pushing Manifests).
const MAX_DOCUMENT: usize = 4 << 20;

/// How containers/storage numbers compressions (`pkg/archive`, `Compression`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compression {
    /// None.
    None = 0,
    /// RFC 1952.
    Gzip = 2,
    /// RFC 8878.
    Zstd = 4,
}

/// What the manifest says of a layer's blob.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// Digest as stored in a registry.
    pub digest: Digest,
    /// Length as stored, in bytes.
    pub length: u64,
    /// How it is compressed there.
    pub compression: Compression,
}

/// What is needed of the documents.
#[derive(Debug)]
pub struct Described {
    /// RFC 3339; the config's own, or the build's epoch.
    pub created: String,
    /// The layers' blobs, the base first.
    pub blobs: Vec<Blob>,
}

/// What is wrong with an image's documents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadDocument {
    /// Too large to be one.
    #[error("its {what} has {length} bytes, more than the {MAX_DOCUMENT} allowed")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// Not the JSON that it should be.
    #[error("its {what} cannot be read: {why}")]
    Syntax {
        /// Which document.
        what: &'static str,
        /// The parser's word.
        why: String,
    },
    /// A digest that one document states does not hold for another.
    #[error("its {what} is {found}, but {expected} is stated")]
    Digest {
        /// Which thing.
        what: &'static str,
        /// As stated.
        expected: String,
        /// As found.
        found: Digest,
    },
    /// The counts of layers differ.
    #[error("{there} layers are there, the manifest lists {manifest}, the config {config}")]
    LayerCount {
        /// Layers given.
        there: usize,
        /// Layers in the manifest.
        manifest: usize,
        /// diff_ids in the config.
        config: usize,
    },
    /// More layers than overlayfs stacks.
    #[error("it has {0} layers, more than the {MAX_LAYERS} that can be stacked")]
    TooManyLayers(usize),
    /// It has no layer, so nothing could run.
    #[error("it has no layers")]
    NoLayers,
    /// A layer of a type that cannot be unpacked: foreign, encrypted or unknown.
    #[error("a layer is of type `{0}`, which is refused")]
    LayerType(String),
    /// The index does not list the manifest.
    #[error("its index does not list manifest {0}")]
    NotInIndex(Digest),
}

/// Reads and checks the documents of `image`.
pub fn read(image: &OciImage, epoch: Epoch) -> Result<Described, BadDocument> {
    let manifest: ImageManifest = parse("manifest", &image.manifest)?;
    let config: ImageConfiguration = parse("config", &image.config)?;
    stated("config", manifest.config(), Digest::of(&image.config))?;
    if let Some(index) = &image.index {
        let listed: ImageIndex = parse("index", index)?;
        let digest = Digest::of(&image.manifest);
        if !listed.manifests().iter().any(|d| d.digest().to_string() == digest.to_string()) {
            return Err(BadDocument::NotInIndex(digest));
        }
    }
    let diff_ids = config.rootfs().diff_ids();
    let count = image.layers.len();
    if count != manifest.layers().len() || count != diff_ids.len() {
        let (manifest, config) = (manifest.layers().len(), diff_ids.len());
        return Err(BadDocument::LayerCount { there: count, manifest, config });
    }
    match count {
        0 => return Err(BadDocument::NoLayers),
        n if n > MAX_LAYERS => return Err(BadDocument::TooManyLayers(n)),
        _ => {}
    }
    for (layer, diff_id) in image.layers.iter().zip(diff_ids) {
        if *diff_id != layer.diff_id.to_string() {
            return Err(BadDocument::Digest {
                what: "layer",
                expected: diff_id.clone(),
                found: layer.diff_id,
            });
        }
    }
    let blobs = manifest.layers().iter().map(blob).collect::<Result<_, _>>()?;
    // A date that does not parse would make Podman refuse the whole store.
    let created = config
        .created()
        .as_deref()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map_or_else(|| epoch.rfc3339(), |t| t.to_string());
    Ok(Described { created, blobs })
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, BadDocument> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(BadDocument::TooLarge { what, length: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|e| BadDocument::Syntax { what, why: e.to_string() })
}

fn stated(what: &'static str, descriptor: &Descriptor, found: Digest) -> Result<(), BadDocument> {
    let expected = descriptor.digest().to_string();
    if expected == found.to_string() { Ok(()) } else { Err(BadDocument::Digest { what, expected, found }) }
}

fn blob(descriptor: &Descriptor) -> Result<Blob, BadDocument> {
    let compression = match descriptor.media_type() {
        MediaType::ImageLayer => Compression::None,
        MediaType::ImageLayerGzip => Compression::Gzip,
        MediaType::ImageLayerZstd => Compression::Zstd,
        MediaType::Other(other) if other == "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Compression::Gzip
        }
        other => return Err(BadDocument::LayerType(other.to_string())),
    };
    let digest = descriptor.digest().to_string();
    let digest = digest.parse().map_err(|_| BadDocument::Syntax {
        what: "manifest",
        why: format!("`{digest}` is no SHA-256 digest"),
    })?;
    Ok(Blob { digest, length: descriptor.size(), compression })
}
