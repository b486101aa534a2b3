//! Images → the tree of an OCI layout, which as a tar is an archive that containerd imports.
//!
//! Blobs are there once, however many images share them; each name of an image is an entry of the index with the
//! annotation that containerd takes names from. image-spec v1.1, "OCI Image Layout".

use super::name::ImageName;
use crate::model::Digest;
use crate::oci::{self, Manifest};
use crate::tree::{BadPath, Content, Node, Tree, TreeError, TreePath};
use std::collections::BTreeMap;

/// containerd's annotation of an image's full name.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// An image with its blobs.
#[derive(Clone, Debug)]
pub struct ArchivedImage {
    /// What it is called.
    pub names: Vec<ImageName>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The config.
    pub config: Vec<u8>,
    /// Layers, as the manifest names them.
    pub layers: BTreeMap<Digest, Content>,
}

/// Images that cannot be archived.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The manifest is none.
    #[error("the manifest of {name} is none: {fault}")]
    Manifest {
        /// The image.
        name: String,
        /// What is wrong.
        fault: String,
    },
    /// A blob that the manifest names was not given.
    #[error("image {name} has no blob {digest}")]
    Missing {
        /// The image.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// Never for names that are digests.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Never for blobs by digest.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// The layout.
///
/// # Errors
/// [`ArchiveError`] for an image that is not whole.
pub fn layout_tree(images: &[ArchivedImage]) -> Result<Tree, ArchiveError> {
    let mut blobs: BTreeMap<Digest, Content> = BTreeMap::new();
    let mut entries = vec![];
    for image in images {
        let name = image.names.first().map(ToString::to_string).unwrap_or_default();
        let bad = |fault: String| ArchiveError::Manifest { name: name.clone(), fault };
        let manifest: Manifest = oci::json::parse(&image.manifest).map_err(|e| bad(e.to_string()))?;
        for descriptor in std::iter::once(manifest.config()).chain(manifest.layers()) {
            let digest = oci::digest(descriptor).map_err(|e| bad(e.to_string()))?;
            let content = match image.layers.get(&digest) {
                Some(layer) => layer.clone(),
                None if Digest::of(&image.config) == digest => Content::from(image.config.clone()),
                None => return Err(ArchiveError::Missing { name, digest }),
            };
            blobs.insert(digest, content);
        }
        let digest = Digest::of(&image.manifest);
        let media_type =
            manifest.media_type().as_ref().map_or(oci::MANIFEST.to_string(), ToString::to_string);
        for name in image.names.iter().flat_map(names) {
            entries.push(serde_json::json!({
                "mediaType": media_type,
                "digest": digest.to_string(),
                "size": image.manifest.len(),
                "annotations": { IMAGE_NAME: name },
            }));
        }
        blobs.insert(digest, Content::from(image.manifest.clone()));
    }
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": oci::INDEX, "manifests": entries });
    let mut tree = Tree::new();
    tree.insert(TreePath::parse("index.json")?, Node::text(index.to_string(), 0o644))?;
    tree.insert(TreePath::parse("oci-layout")?, Node::text(r#"{"imageLayoutVersion":"1.0.0"}"#, 0o644))?;
    for (digest, content) in blobs {
        let path = TreePath::parse(&format!("blobs/sha256/{}", digest.hex()))?;
        tree.insert(path, Node::file(content, 0o644))?;
    }
    Ok(tree)
}

/// What is in an archive of `images`, for who asks whether it was imported: a name and its manifest's digest a line.
pub fn list(images: &[ArchivedImage]) -> String {
    let mut lines: Vec<String> = images
        .iter()
        .flat_map(|i| i.names.iter().flat_map(names).map(|n| format!("{n} {}\n", Digest::of(&i.manifest))))
        .collect();
    lines.sort();
    lines.concat()
}

/// What a manifest may mean by the name: an own image's short name is taken for one of docker.io by every kubelet.
fn names(name: &ImageName) -> Vec<String> {
    let full = name.to_string();
    match full.strip_prefix("localhost/") {
        Some(short) if short.contains('/') => vec![format!("docker.io/{short}"), full],
        Some(short) => vec![format!("docker.io/library/{short}"), full],
        None => vec![full],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(layer: &'static [u8]) -> ArchivedImage {
        let config = b"{}".to_vec();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": oci::MANIFEST,
            "config": { "mediaType": oci::image::CONFIG, "digest": Digest::of(&config).to_string(), "size": 2 },
            "layers": [{ "mediaType": oci::layer::TAR, "digest": Digest::of(layer).to_string(), "size": layer.len() }],
        });
        ArchivedImage {
            names: vec!["localhost/till:1".parse().unwrap()],
            manifest: manifest.to_string().into_bytes(),
            config,
            layers: BTreeMap::from([(Digest::of(layer), Content::from(layer.to_vec()))]),
        }
    }

    #[test]
    fn a_shared_blob_is_there_once_and_both_names_lead_to_the_image() {
        let tree = layout_tree(&[image(b"layer"), image(b"layer")]).unwrap();
        let files = tree.iter().filter(|(p, n)| p.as_str().starts_with("blobs/sha256/") && !n.is_dir());
        assert_eq!(files.count(), 3);
        let index = tree.file(&TreePath::parse("index.json").unwrap()).unwrap().to_vec(1 << 20).unwrap();
        let index = String::from_utf8(index).unwrap();
        assert!(
            index.contains("\"docker.io/library/till:1\"") && index.contains("\"localhost/till:1\""),
            "{index}"
        );
    }

    #[test]
    fn a_layer_that_is_not_there_is_named() {
        let lacking = ArchivedImage { layers: BTreeMap::new(), ..image(b"layer") };
        let fault = layout_tree(&[lacking]).unwrap_err().to_string();
        assert!(fault.contains(&Digest::of(b"layer").to_string()), "{fault}");
    }
}
