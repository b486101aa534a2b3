//! A layout on disk to the list of what it holds, when all of it is what it says.
//!
//! Everything that `index.json` reaches: digests, sizes, media types; of images also that config and layers agree in
//! number, that each layer's tar has the diff_id that the config lists, and that no entry of it leaves the tree.
//! Blobs are read once, as streams. Signatures are not looked at: `seal::verify` does that on top.

use super::image::{self, CONFIG};
use super::layer::{self, DiffId, HashingReader};
use super::layout::{Layout, LayoutError};
use super::{Descriptor, Manifest, is_index, is_manifest};
use crate::model::Digest;
use crate::model::digest::BadDigest;
use crate::tree::tar::{Reader, Stream, TarError};
use crate::tree::{Node, NodeKind, Tree, TreeError, TreePath};
use oci_spec::image::ImageConfiguration;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// Indices may hold indices; three levels are more than any tool writes.
const MAX_DEPTH: usize = 3;
/// Docker's name of an image config.
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What a layer's file is named that takes a file of a lower layer away (image-spec, layer.md §Whiteouts).
const WHITEOUT: &str = ".wh.";

/// What is wrong with a layout; each names the blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A file, a document or a digest.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A diff_id of another algorithm.
    #[error(transparent)]
    Algorithm(#[from] BadDigest),
    /// A config lists another number of layers than the manifest.
    #[error("manifest {manifest} has {layers} layers, its config lists {diff_ids}")]
    Count {
        /// The manifest.
        manifest: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// diff_ids of the config.
        diff_ids: usize,
    },
    /// A layer's tar is another than the config lists.
    #[error("layer {layer} holds the tar {found}, its config lists {expected}")]
    DiffId {
        /// The blob.
        layer: Digest,
        /// As the config says.
        expected: DiffId,
        /// As it is.
        found: DiffId,
    },
    /// A layer cannot be decompressed, or holds more than its size allows.
    #[error("layer {layer} cannot be decompressed: {source}")]
    Compression {
        /// The blob.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer's tar is damaged, or an entry of it would leave the tree.
    #[error("layer {layer}: {source}")]
    Tar {
        /// The blob.
        layer: Digest,
        /// Why.
        source: TarError,
    },
    /// A whiteout that takes nothing away, or is no plain file.
    #[error("layer {layer}: `{path}` is no whiteout")]
    Whiteout {
        /// The blob.
        layer: Digest,
        /// The entry.
        path: TreePath,
    },
    /// Indices in indices, too deep.
    #[error("index {0} is nested more than {MAX_DEPTH} deep")]
    Depth(Digest),
}

/// A manifest that was checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its descriptor, where it was found first.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its digest.
    pub digest: Digest,
}

/// What a layout holds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every manifest that can be reached, in the order of the way there.
    pub manifests: Vec<Checked>,
    /// Every index that can be reached below `index.json`.
    pub indices: Vec<Descriptor>,
    /// Distinct blobs by digest, with their sizes.
    pub blobs: BTreeMap<Digest, u64>,
}

/// Checks everything that the `index.json` of `layout` reaches.
///
/// # Errors
/// The first [`Fault`].
pub fn layout(layout: &Layout) -> Result<Report, Fault> {
    let mut report = Report::default();
    for entry in layout.entries() {
        walk(layout, entry, MAX_DEPTH, &mut report)?;
    }
    Ok(report)
}

fn walk(layout: &Layout, descriptor: &Descriptor, depth: usize, report: &mut Report) -> Result<(), Fault> {
    let digest = super::digest(descriptor).map_err(LayoutError::from)?;
    if is_index(descriptor.media_type()) {
        let index = layout.index(descriptor)?;
        let depth = depth.checked_sub(1).ok_or(Fault::Depth(digest))?;
        if report.blobs.insert(digest, descriptor.size()).is_none() {
            report.indices.push(descriptor.clone());
            for child in index.manifests() {
                walk(layout, child, depth, report)?;
            }
        }
        return Ok(());
    }
    super::layout::expect(descriptor, is_manifest(descriptor.media_type()))?;
    let manifest = layout.manifest(descriptor)?;
    if report.blobs.insert(digest, descriptor.size()).is_none() {
        self::manifest(layout, digest, &manifest, report)?;
        report.manifests.push(Checked { descriptor: descriptor.clone(), manifest, digest });
    }
    Ok(())
}

fn manifest(layout: &Layout, digest: Digest, manifest: &Manifest, report: &mut Report) -> Result<(), Fault> {
    let config = layout.read(manifest.config())?;
    for descriptor in std::iter::once(manifest.config()).chain(manifest.layers()) {
        let blob = super::digest(descriptor).map_err(LayoutError::from)?;
        // The length is checked for every descriptor, the digest once for every blob.
        layout.open_blob(descriptor)?;
        report.blobs.insert(blob, descriptor.size());
    }
    let of_image = [CONFIG, DOCKER_CONFIG].contains(&manifest.config().media_type().as_ref());
    if !of_image {
        // An artifact: its blobs are what their digests say, and what they mean is another's business.
        return manifest.layers().par_iter().try_for_each(|l| plain(layout, l).map(drop));
    }
    let config: ImageConfiguration = super::json::parse(&config).map_err(|source| LayoutError::Document {
        what: format!("blob {}", manifest.config().digest()),
        source,
    })?;
    let diff_ids = image::diff_ids(&config)?;
    if diff_ids.len() != manifest.layers().len() {
        return Err(Fault::Count {
            manifest: digest,
            layers: manifest.layers().len(),
            diff_ids: diff_ids.len(),
        });
    }
    manifest.layers().par_iter().zip(diff_ids).try_for_each(|(descriptor, expected)| {
        let layer = super::digest(descriptor).map_err(LayoutError::from)?;
        let found = match descriptor.media_type().as_ref() {
            layer::TAR | layer::TAR_GZIP | layer::TAR_ZSTD | layer::DOCKER_TAR_GZIP => {
                tar(layout, descriptor)?
            }
            // Classic signatures list their payloads as layers.
            super::referrer::SIMPLE_SIGNING => DiffId(plain(layout, descriptor)?),
            _ => return Err(super::layout::misplaced(descriptor).into()),
        };
        if found == expected { Ok(()) } else { Err(Fault::DiffId { layer, expected, found }) }
    })
}

/// Hashes a blob that is not looked into.
fn plain(layout: &Layout, descriptor: &Descriptor) -> Result<Digest, Fault> {
    let expected = super::digest(descriptor).map_err(LayoutError::from)?;
    let file = layout.open_blob(descriptor)?;
    let (found, _) = Digest::of_reader(file)
        .map_err(|source| LayoutError::Io { what: format!("blob {expected}"), source })?;
    if found == expected { Ok(found) } else { Err(LayoutError::Digest { expected, found }.into()) }
}

/// Hashes a layer's blob and its tar in one pass, and looks at every entry.
fn tar(layout: &Layout, descriptor: &Descriptor) -> Result<DiffId, Fault> {
    let expected = super::digest(descriptor).map_err(LayoutError::from)?;
    let mut blob = HashingReader::new(layout.open_blob(descriptor)?);
    let limit = layer::uncompressed_limit(descriptor.size());
    let looked = entries(expected, descriptor.media_type().as_ref(), &mut blob, limit);
    io::copy(&mut blob, &mut io::sink())
        .map_err(|source| LayoutError::Io { what: format!("blob {expected}"), source })?;
    // A flipped byte may show as anything inside; the digest is what tells that it was flipped.
    let (found, _) = blob.finish();
    if found != expected {
        return Err(LayoutError::Digest { expected, found }.into());
    }
    looked
}

/// The diff_id of a layer read from `blob`, when its tar is safe: every path stays in the tree and runs through no link.
///
/// # Errors
/// [`Fault::Compression`], [`Fault::Tar`] or [`Fault::Whiteout`], naming `layer`.
pub fn entries(layer: Digest, media_type: &str, blob: impl Read, limit: u64) -> Result<DiffId, Fault> {
    let compression = |source| Fault::Compression { layer, source };
    let fault = |source| match source {
        // Inside the stream, reading a tar fails where decompressing does.
        TarError::Io(source) => Fault::Compression { layer, source },
        source => Fault::Tar { layer, source },
    };
    let mut tar = HashingReader::new(layer::decompress(media_type, blob, limit).map_err(compression)?);
    let mut reader = Reader::new(Stream(&mut tar));
    let mut tree = Tree::new();
    while let Some(entry) = reader.next_entry().map_err(fault)? {
        if let Some(hidden) = entry.path.name().strip_prefix(WHITEOUT)
            && (matches!(hidden, "" | "." | "..") || !matches!(entry.node.kind, NodeKind::File(_)))
        {
            return Err(Fault::Whiteout { layer, path: entry.path });
        }
        let kind = match entry.node.kind {
            // Its target may be in a lower layer; here it must only not run through a link of this one.
            NodeKind::HardLink(target) => {
                let link = target.ancestors().find(|a| tree.get(a).is_some_and(|n| !n.is_dir()));
                if let Some(parent) = link {
                    return Err(fault(TreeError::NotADirectory { path: target, parent }.into()));
                }
                NodeKind::File(Vec::new().into())
            }
            kind => kind,
        };
        // Names and types are all that is kept.
        let node = Node { kind, xattrs: BTreeMap::new(), ..entry.node };
        tree.insert(entry.path, node).map_err(|e| fault(e.into()))?;
    }
    io::copy(&mut tar, &mut io::sink()).map_err(compression)?;
    Ok(DiffId(tar.finish().0))
}
