//! OCI image layouts: a directory of blobs by digest, written whole or not at all, and read with suspicion.
//!
//! Blobs come as bytes or as files of a cache, which are copied (or cloned, where the file system can) by their known digest
//! and not hashed again. What a reader gives was checked against its descriptor. image-spec v1.1, image-layout.md.

use super::image::{Document, Image};
use super::json::{self, BadDocument};
use super::{Annotations, Descriptor, Index, MAX_DOCUMENT, Manifest, REF_NAME, is_index, is_manifest};
use crate::host::fs::{Durability, Staged, open_regular};
use crate::model::Digest;
use crate::model::digest::BadDigest;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The whole content of the file `oci-layout`.
const MARK: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout under construction; nothing is at its place before [`LayoutWriter::commit`].
#[derive(Debug)]
pub struct LayoutWriter {
    staged: Staged,
    present: BTreeSet<Digest>,
    entries: Vec<Descriptor>,
}

impl LayoutWriter {
    /// Begins a layout that will be the directory `dir`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(dir: &Path) -> io::Result<LayoutWriter> {
        let staged = Staged::dir(dir)?;
        std::fs::create_dir_all(staged.path().join("blobs/sha256"))?;
        Ok(LayoutWriter { staged, present: BTreeSet::new(), entries: vec![] })
    }

    /// Adds a document's bytes under its digest.
    ///
    /// # Errors
    /// What the file system says.
    pub fn document(&mut self, document: &Document) -> io::Result<()> {
        self.bytes(&document.bytes).map(drop)
    }

    /// Adds small bytes; their digest.
    ///
    /// # Errors
    /// What the file system says.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        if self.present.insert(digest) {
            crate::host::fs::write_atomic(&self.blob_path(digest), bytes, 0o644)?;
        }
        Ok(digest)
    }

    /// Adds a copy of the file `from`, which has `digest`. The caller vouches for the digest.
    ///
    /// # Errors
    /// What the file system says.
    pub fn file(&mut self, digest: Digest, from: &Path) -> io::Result<()> {
        if self.present.insert(digest) {
            crate::host::fs::copy(from, &self.blob_path(digest))?;
        }
        Ok(())
    }

    /// Adds the blob that `fill` writes; `fill` has checked that it has `digest` when it returns.
    ///
    /// # Errors
    /// Those of `fill`; what the file system says.
    pub fn fill(
        &mut self,
        digest: Digest,
        fill: impl FnOnce(&mut File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.present.insert(digest) {
            let out = Staged::file(&self.blob_path(digest), 0o644)?;
            fill(&mut out.as_file()?.try_clone()?)?;
            out.commit(Durability::Cached)?;
        }
        Ok(())
    }

    /// Adds the documents of `images` and of the `index` over them, and lists the index under `tag`. Of several
    /// architectures each is also listed under `TAG-ARCH`, for clients that cannot choose within an index (umoci).
    ///
    /// # Errors
    /// What the file system says.
    pub fn image(&mut self, images: &[Image], index: &Document, tag: &str) -> io::Result<()> {
        for document in images.iter().flat_map(|i| [&i.config, &i.manifest]).chain([index]) {
            self.document(document)?;
        }
        self.entry(index.descriptor.clone(), Some(tag));
        for image in images.iter().filter(|_| images.len() > 1) {
            let platform = image.manifest.descriptor.platform().as_ref();
            let name = platform.map(|p| format!("{tag}-{}", p.architecture()));
            self.entry(image.manifest.descriptor.clone(), name.as_deref());
        }
        Ok(())
    }

    /// Lists `descriptor` in `index.json`, under `name` where it has one (a tag).
    pub fn entry(&mut self, mut descriptor: Descriptor, name: Option<&str>) {
        if let Some(name) = name {
            let mut annotations = descriptor.annotations().clone().unwrap_or_default();
            annotations.insert(REF_NAME.into(), name.into());
            descriptor.set_annotations(Some(annotations));
        }
        self.entries.push(descriptor);
    }

    /// Writes `oci-layout` and `index.json` and puts the directory in its place, over an older one in one step.
    ///
    /// # Errors
    /// What the file system says.
    pub fn commit(self, durability: Durability) -> anyhow::Result<()> {
        crate::host::fs::write_atomic(&self.staged.path().join("oci-layout"), MARK, 0o644)?;
        crate::host::fs::write_atomic(
            &self.staged.path().join("index.json"),
            &index_json(&self.entries)?,
            0o644,
        )?;
        Ok(self.staged.commit(durability)?)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.staged.path().join("blobs/sha256").join(digest.hex())
    }
}

/// `index.json` that lists `entries`.
fn index_json(entries: &[Descriptor]) -> anyhow::Result<Vec<u8>> {
    let index = oci_spec::image::ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(super::MediaType::ImageIndex)
        .manifests(entries)
        .build()?;
    Ok(json::canonical(&index)?)
}

/// What is wrong with a layout. Each names the blob or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No layout, or one of another version.
    #[error("{} is no OCI image layout of version 1.0.0", .0.display())]
    NoLayout(PathBuf),
    /// A file cannot be read.
    #[error("reading {what}: {source}")]
    Io {
        /// The file or the blob.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A document is too large or malformed.
    #[error("reading {what}: {source}")]
    Document {
        /// The file or the blob.
        what: String,
        /// Why.
        source: BadDocument,
    },
    /// A descriptor names a digest of another algorithm.
    #[error(transparent)]
    Algorithm(#[from] BadDigest),
    /// A blob's bytes are not what its name says.
    #[error("blob {expected} holds the bytes of {found}")]
    Digest {
        /// As the descriptor says.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// A blob's length is not what its descriptor says.
    #[error("blob {digest} has {found} bytes, not {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// As the descriptor says.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// A descriptor of another media type than its place asks for.
    #[error("blob {digest} is of type `{media_type}`, which has no place there")]
    MediaType {
        /// The blob.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// No entry, or more than one, of that name.
    #[error("{count} entries of {} are named `{name}`", .dir.display())]
    Name {
        /// The layout.
        dir: PathBuf,
        /// The name.
        name: String,
        /// How many have it.
        count: usize,
    },
}

/// A layout to read from.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    index: Index,
}

impl Layout {
    /// Opens the layout in `dir`: its mark and its `index.json`.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn open(dir: &Path) -> Result<Layout, LayoutError> {
        let read = |name: &str| {
            let io = |source| LayoutError::Io { what: dir.join(name).display().to_string(), source };
            read_bounded(open_regular(&dir.join(name)).map_err(io)?).map_err(io)
        };
        let mark: serde_json::Value = read("oci-layout")
            .ok()
            .and_then(|bytes| json::parse(&bytes).ok())
            .ok_or_else(|| LayoutError::NoLayout(dir.into()))?;
        if mark.get("imageLayoutVersion").and_then(|v| v.as_str()) != Some("1.0.0") {
            return Err(LayoutError::NoLayout(dir.into()));
        }
        let index = json::parse(&read("index.json")?).map_err(|source| LayoutError::Document {
            what: dir.join("index.json").display().to_string(),
            source,
        })?;
        Ok(Layout { dir: dir.into(), index })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entries of `index.json`.
    pub fn entries(&self) -> &[Descriptor] {
        self.index.manifests()
    }

    /// The one entry that is named `name`.
    ///
    /// # Errors
    /// [`LayoutError::Name`] when there is none or more than one.
    pub fn named(&self, name: &str) -> Result<&Descriptor, LayoutError> {
        let found: Vec<_> = self.entries().iter().filter(|d| ref_name(d) == Some(name)).collect();
        match found[..] {
            [one] => Ok(one),
            _ => Err(LayoutError::Name { dir: self.dir.clone(), name: name.into(), count: found.len() }),
        }
    }

    /// The path of a blob, whether it is there or not.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Opens a blob and checks its length, not its digest. Symbolic links and other non-files are refused.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<File, LayoutError> {
        let digest = super::digest(descriptor)?;
        let io = |source| LayoutError::Io { what: format!("blob {digest}"), source };
        let path = self.blob_path(digest);
        let file = open_regular(&path).map_err(io)?;
        let found = file.metadata().map_err(io)?.len();
        match descriptor.size() {
            expected if expected != found => Err(LayoutError::Size { digest, expected, found }),
            _ => Ok(file),
        }
    }

    /// The bytes of a document, checked against its descriptor.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let digest = super::digest(descriptor)?;
        let what = || format!("blob {digest}");
        let bytes = read_bounded(self.open_blob(descriptor)?)
            .map_err(|source| LayoutError::Io { what: what(), source })?;
        let found = Digest::of(&bytes);
        if found == digest { Ok(bytes) } else { Err(LayoutError::Digest { expected: digest, found }) }
    }

    /// A document of shape `T`, checked against its descriptor.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn parse<T: serde::de::DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, LayoutError> {
        json::parse(&self.read(descriptor)?)
            .map_err(|source| LayoutError::Document { what: format!("blob {}", descriptor.digest()), source })
    }

    /// An index that an entry names.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn index(&self, descriptor: &Descriptor) -> Result<Index, LayoutError> {
        expect(descriptor, is_index(descriptor.media_type()))?;
        self.parse(descriptor)
    }

    /// A manifest.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, LayoutError> {
        expect(descriptor, is_manifest(descriptor.media_type()))?;
        self.parse(descriptor)
    }

    /// The layout with more blobs and entries: the blobs are added first, then `index.json` is replaced in one step.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(&mut self, blobs: &[Vec<u8>], entries: Vec<Descriptor>) -> anyhow::Result<()> {
        for bytes in blobs {
            let path = self.blob_path(Digest::of(bytes));
            if !crate::host::fs::exists(&path) {
                crate::host::fs::write_atomic(&path, bytes, 0o644)?;
            }
        }
        let mut all = self.index.manifests().clone();
        for entry in entries {
            // A name moves to its new bearer; the same bytes are not listed twice.
            all.retain(|d| {
                d.digest() != entry.digest()
                    && (ref_name(&entry).is_none() || ref_name(d) != ref_name(&entry))
            });
            all.push(entry);
        }
        crate::host::fs::write_atomic(&self.dir.join("index.json"), &index_json(&all)?, 0o644)?;
        self.index.set_manifests(all);
        Ok(())
    }
}

/// The tag of an entry.
pub fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

/// Annotations of a descriptor, sorted.
pub fn annotations(descriptor: &Descriptor) -> Annotations {
    descriptor.annotations().clone().unwrap_or_default().into_iter().collect()
}

pub(super) fn expect(descriptor: &Descriptor, holds: bool) -> Result<(), LayoutError> {
    if holds { Ok(()) } else { Err(misplaced(descriptor)) }
}

/// The error for a descriptor whose media type has no place where it stands.
pub(super) fn misplaced(descriptor: &Descriptor) -> LayoutError {
    LayoutError::MediaType {
        digest: descriptor.digest().to_string(),
        media_type: descriptor.media_type().to_string(),
    }
}

fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_DOCUMENT} bytes")));
    }
    Ok(bytes)
}
