//! OCI images → an image store as containers/storage keeps it (driver `overlay`), ready to be mounted read-only and
//! named in `additionalimagestores`: Podman then runs its images where they lie, with nothing loaded or copied.
//!
//! ```text
//! overlay/<layer id>/{diff/,link,lower}      the files; a short name; the short names of the layers below
//! overlay/l/<link> -> ../<layer id>/diff     short names keep overlayfs' mount options within one page
//! overlay-layers/{layers.json,layers.lock}   parents, digests, sizes
//! overlay-images/{images.json,images.lock}   names, top layers
//! overlay-images/<image id>/                 manifest, index and config, as fetched ("big data")
//! ```
//!
//! Ids are what containers/image itself would give: an image's is its config's digest, a layer's is a chain of
//! diff_ids, so layers that images share are there once. Written from containers/storage v1.57 (Podman 5.4),
//! `store.go`, `layers.go`, `images.go`, `drivers/overlay`. Left out, because a read-only store is never asked for it:
//! `tar-split` (to push or save an image from the device), `merged`, `work`, containers. The lock files must be there,
//! empty: they are opened, and a read-only file system cannot make them.
//!
//! Contents are taken by reference; nothing of a layer is read here. That each layer's tree is its diff_id's is the
//! caller's to verify; that manifest, config, index and layers belong together is verified here.

mod document;
mod record;
mod whiteout;

use super::name::ImageName;
use crate::model::{Digest, Epoch};
use crate::tree::{Content, Node, Tree, TreeError, TreePath};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use record::{ImageRecord, LayerRecord};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use document::BadDocument;
pub use whiteout::BadLayer;

/// The most layers of one image: Docker's own bound, and overlayfs' with short names in a page of mount options.
pub const MAX_LAYERS: usize = 127;

/// A container image, its documents byte for byte as they were fetched.
#[derive(Clone, Debug)]
pub struct OciImage {
    /// The names that manifests call it by.
    pub names: Vec<ImageName>,
    /// The index through which the manifest was found. Podman finds an image that is named by its index's digest only
    /// when it is told of the index.
    pub index: Option<Vec<u8>>,
    /// The image manifest.
    pub manifest: Vec<u8>,
    /// The image configuration.
    pub config: Vec<u8>,
    /// The layers, the base first.
    pub layers: Vec<ImageLayer>,
}

/// A layer of a container image, decompressed and indexed.
#[derive(Clone, Debug)]
pub struct ImageLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Length of the uncompressed tar in bytes.
    pub length: u64,
    /// Its entries, whiteouts as the tar spells them (`.wh.NAME`).
    pub tree: Arc<Tree>,
}

/// Images that cannot be made a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An image's documents are damaged or contradict each other or the layers.
    #[error("image `{image}`: {fault}")]
    Document {
        /// The image's first name, or its manifest's digest.
        image: String,
        /// What is wrong.
        fault: BadDocument,
    },
    /// A layer has entries that no layer may have.
    #[error("image `{image}`, layer {diff_id}: {fault}")]
    Layer {
        /// The image's first name, or its manifest's digest.
        image: String,
        /// The layer.
        diff_id: Digest,
        /// What is wrong.
        fault: BadLayer,
    },
    /// Two images want the same name.
    #[error("the name `{name}` is claimed by two images, {first} and {second}")]
    NameClash {
        /// The name.
        name: String,
        /// Manifest digest of one.
        first: Digest,
        /// Manifest digest of the other.
        second: Digest,
    },
    /// A layer's path is too long below the store's own directories, or entries contradict each other.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// The store of `images`, for a mount of its own: its root is the store's. The order of `images` does not matter; equal
/// images are taken once, with the names of both. `epoch` dates what has no date of its own.
///
/// # Errors
/// [`StoreError`], naming the image and the layer.
pub fn store_tree(images: &[OciImage], epoch: Epoch) -> Result<Tree, StoreError> {
    let mut tree = Tree::new();
    for (dir, mode) in
        [("overlay", 0o700), ("overlay/l", 0o755), ("overlay-layers", 0o700), ("overlay-images", 0o700)]
    {
        put(&mut tree, dir, Node::dir(mode), epoch)?;
    }
    let mut layers = BTreeMap::new();
    let mut records: BTreeMap<String, ImageRecord> = BTreeMap::new();
    let mut owners: BTreeMap<&ImageName, Digest> = BTreeMap::new();
    let mut sorted: Vec<_> =
        images.iter().map(|image| (Digest::of(&image.config), Digest::of(&image.manifest), image)).collect();
    sorted.sort_by_key(|(config, manifest, _)| (*config, *manifest));
    for (config, digest, image) in sorted {
        let told = || image.names.first().map_or_else(|| digest.to_string(), ToString::to_string);
        for name in &image.names {
            if let Some(first) = owners.insert(name, digest).filter(|first| *first != digest) {
                return Err(StoreError::NameClash { name: name.to_string(), first, second: digest });
            }
        }
        let described =
            document::read(image, epoch).map_err(|fault| StoreError::Document { image: told(), fault })?;
        let mut parent: Option<String> = None;
        for (layer, blob) in image.layers.iter().zip(described.blobs) {
            let id = layer_id(parent.as_deref(), layer.diff_id);
            if !layers.contains_key(&id) {
                let files = whiteout::to_overlay(&layer.tree, parent.is_none())
                    .map_err(|fault| StoreError::Layer { image: told(), diff_id: layer.diff_id, fault })?;
                let order = layers.len();
                put_layer(&mut tree, &id, parent.as_deref(), files, &layers, epoch)?;
                layers
                    .insert(id.clone(), LayerRecord::new(order, &id, parent.as_deref(), layer, blob, epoch));
            }
            parent = Some(id);
        }
        let id = config.hex();
        // The same image, compressed in two ways, has two manifests: the first is its main one.
        let is_new = !records.contains_key(&id);
        let record = records
            .entry(id.clone())
            .or_insert_with(|| ImageRecord::new(&id, digest, parent.as_deref(), described.created));
        record.add_names(&image.names);
        let manifest: Arc<[u8]> = image.manifest.as_slice().into();
        let index: Option<Arc<[u8]>> = image.index.as_deref().map(Into::into);
        let documents = [
            (config.to_string(), image.config.as_slice().into()),
            (format!("manifest-{digest}"), manifest.clone()),
        ];
        let index = index.map(|index| (format!("manifest-{}", Digest::of(&index)), index));
        let main = is_new.then(|| ("manifest".to_string(), manifest));
        for (key, bytes) in documents.into_iter().chain(index).chain(main) {
            let path = format!("overlay-images/{id}/{}", big_data_file(&key));
            record.add_big_data(key, &bytes);
            put(&mut tree, &path, Node::file(Content::Bytes(bytes), 0o600), epoch)?;
        }
        put(&mut tree, &format!("overlay-images/{id}"), Node::dir(0o700), epoch)?;
    }
    for (path, bytes) in [
        ("overlay-layers/layers.json", record::layers_json(layers.into_values())),
        ("overlay-images/images.json", record::images_json(records.into_values())),
        ("overlay-layers/layers.lock", vec![]),
        ("overlay-images/images.lock", vec![]),
    ] {
        put(&mut tree, path, Node::file(bytes, 0o600), epoch)?;
    }
    tree.check()?;
    Ok(tree)
}

/// The id that containers/image gives a layer (`storage_dest.go`, `layerID`): the diff_id's hex for a base layer, else
/// the digest of `PARENT+DIFF_ID`, both in hex.
fn layer_id(parent: Option<&str>, diff_id: Digest) -> String {
    match parent {
        None => diff_id.hex(),
        Some(parent) => Digest::of(format!("{parent}+{}", diff_id.hex())).hex(),
    }
}

/// The short name of a layer: 26 letters, as many as `drivers/overlay` draws at random; here they follow from the id, so
/// that equal images give equal stores. 130 bits of SHA-256 do not collide by chance.
fn link_name(id: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Digest::of(id);
    let bit = |i: usize| digest.as_raw()[i / 8] >> (7 - i % 8) & 1;
    (0..26)
        .map(|i| (0..5).fold(0, |value, b| value << 1 | bit(i * 5 + b)))
        .map(|value| char::from(ALPHABET[usize::from(value)]))
        .collect()
}

/// The file name under which `images.go` keeps a named blob: the name itself where it is a plain word, else `=` and its
/// base64. The keys used here never encode to a `/`.
fn big_data_file(key: &str) -> String {
    if key.bytes().all(|c| c.is_ascii_lowercase()) {
        key.into()
    } else {
        format!("={}", STANDARD.encode(key))
    }
}

/// Puts a layer's files at `overlay/<id>/diff`, and what says where it stands above `parent`.
fn put_layer(
    tree: &mut Tree,
    id: &str,
    parent: Option<&str>,
    files: Tree,
    known: &BTreeMap<String, LayerRecord>,
    epoch: Epoch,
) -> Result<(), StoreError> {
    tree.graft(&path(&format!("overlay/{id}/diff"))?, files)?;
    let link = link_name(id);
    let target = format!("../{id}/diff");
    put(tree, &format!("overlay/l/{link}"), Node::symlink(target), epoch)?;
    put(tree, &format!("overlay/{id}/link"), Node::text(link, 0o644), epoch)?;
    let mut lower = vec![];
    let mut at = parent;
    while let Some(id) = at {
        lower.push(format!("l/{}", link_name(id)));
        at = known.get(id).and_then(|record| record.parent());
    }
    if !lower.is_empty() {
        put(tree, &format!("overlay/{id}/lower"), Node::text(lower.join(":"), 0o644), epoch)?;
    }
    put(tree, &format!("overlay/{id}"), Node::dir(0o700), epoch)
}

fn put(tree: &mut Tree, at: &str, node: Node, epoch: Epoch) -> Result<(), StoreError> {
    Ok(tree.insert(path(at)?, Node { mtime: epoch.0, ..node })?)
}

fn path(s: &str) -> Result<TreePath, TreeError> {
    Ok(TreePath::parse(s)?)
}

#[cfg(test)]
mod tests;
