//! A layer's tar or a file system → what people ask about it: packages, container images, sizes, large files.
//!
//! Everything is found in the files themselves: packages in dpkg's database, container images in the tables of a
//! containers/storage store. Input may be anybody's: documents are bounded, and what cannot be read is an error that
//! names the file. Knows no plan, no manifest and no signature.

mod packages;
mod store;

pub use store::ContainerImage;

use crate::disk::erofs;
use crate::model::digest::Hasher;
use crate::model::{Bytes, Digest};
use crate::tree::tar::{Reader, Stream};
use crate::tree::{NodeKind, Tree, TreePath};
use anyhow::Context as _;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// How many of the largest files are kept.
pub const LARGEST: usize = 20;
/// The largest document that is read out of a tree, in bytes: dpkg's status of five thousand packages has 8 MiB.
const MAX_DOCUMENT: u64 = 64 << 20;

/// What a tree holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Contents {
    /// Count of entries that are no directories.
    pub files: u64,
    /// Sum of the regular files.
    pub size: Bytes,
    /// Packages by set: `os`, or `container/NAME` for those inside a container image of the tree. As JSON only their
    /// counts: the lists stand once, over all layers.
    #[serde(serialize_with = "counts")]
    pub packages: BTreeMap<String, BTreeMap<String, Package>>,
    /// Container images in a store of the tree, by their first name.
    #[serde(skip)]
    pub containers: Vec<ContainerImage>,
    /// The largest files, largest first.
    pub largest: Vec<(String, Bytes)>,
    /// Every entry by path; only where [`Detail::Files`] was asked for.
    #[serde(skip)]
    pub entries: BTreeMap<String, FileState>,
}

fn counts<S: serde::Serializer>(
    sets: &BTreeMap<String, BTreeMap<String, Package>>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_map(sets.iter().map(|(set, packages)| (set, packages.len())))
}

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Full version.
    pub version: String,
    /// What it says it takes on disk (`Installed-Size`).
    pub size: Bytes,
}

/// What two trees are compared by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileState {
    /// Length; 0 but for regular files.
    pub size: Bytes,
    /// Digest of the content, of a link's target, or of a device's numbers.
    pub content: Digest,
    /// Type, permission bits, owner and group: `file 0644 0:0`.
    pub attributes: String,
}

/// How closely a tree is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Counts, packages, container images.
    Summary,
    /// Every file with the digest of its content too.
    Files,
}

/// Reads a tar as a stream; nothing is unpacked.
///
/// # Errors
/// A damaged tar or document, naming the entry; what `tar` says.
pub fn of_tar(tar: impl Read, detail: Detail) -> anyhow::Result<Contents> {
    let mut reader = Reader::new(Stream(tar));
    let mut collector = Collector::default();
    while let Some(entry) = reader.next_entry()? {
        collector.count(&entry.path, &entry.node.kind, entry.size);
        let document = Collector::wants(&entry.path, &entry.node.kind);
        let mut bytes = vec![];
        if document {
            anyhow::ensure!(entry.size <= MAX_DOCUMENT, "`{}` has {} bytes", entry.path, entry.size);
            (&mut reader).take(entry.size).read_to_end(&mut bytes)?;
            collector.document(&entry.path, &bytes)?;
        }
        if detail == Detail::Files {
            let content = match (&entry.node.kind, document) {
                (NodeKind::File(_), true) => Digest::of(&bytes),
                (NodeKind::File(_), false) => hash((&mut reader).take(entry.size), entry.size)?,
                (kind, _) => Digest::of(describe(kind)),
            };
            let attributes = format!(
                "{} {:04o} {}:{}",
                word(&entry.node.kind),
                entry.node.mode,
                entry.node.uid,
                entry.node.gid
            );
            let state = FileState { size: Bytes(entry.size), content, attributes };
            collector.contents.entries.insert(entry.path.to_string(), state);
        }
    }
    Ok(collector.finish())
}

/// Reads the tree of an indexed tar: only headers and documents.
///
/// # Errors
/// As [`of_tar`].
pub fn of_tree(tree: &Tree) -> anyhow::Result<Contents> {
    let mut collector = Collector::default();
    for (path, node) in tree.iter() {
        let size = if let NodeKind::File(content) = &node.kind { content.len() } else { 0 };
        collector.count(path, &node.kind, size);
        if let NodeKind::File(content) = &node.kind
            && Collector::wants(path, &node.kind)
        {
            let bytes = content.to_vec(MAX_DOCUMENT).with_context(|| format!("reading `{path}`"))?;
            collector.document(path, &bytes)?;
        }
    }
    Ok(collector.finish())
}

/// Reads a file system image: only directories, inodes and documents.
///
/// # Errors
/// As [`of_tar`].
pub fn of_erofs(image: &erofs::Image) -> anyhow::Result<Contents> {
    let mut collector = Collector::default();
    for (path, entry) in image.walk()? {
        collector.count(&path, &entry.node.kind, entry.len());
        if Collector::wants(&path, &entry.node.kind) {
            anyhow::ensure!(entry.len() <= MAX_DOCUMENT, "`{path}` has {} bytes", entry.len());
            let mut bytes = vec![];
            entry.reader().read_to_end(&mut bytes).with_context(|| format!("reading `{path}`"))?;
            collector.document(&path, &bytes)?;
        }
    }
    Ok(collector.finish())
}

/// The digest of `length` bytes of `reader`, and no fewer.
fn hash(mut reader: impl Read, length: u64) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        match reader.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                hasher.update(&buffer[..n]);
                left -= n as u64;
            }
        }
    }
    Ok(hasher.finish().0)
}

fn word(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::Dir => "directory",
        NodeKind::File(_) => "file",
        NodeKind::Symlink(_) => "symlink",
        NodeKind::HardLink(_) => "hardlink",
        NodeKind::CharDevice { .. } => "character-device",
        NodeKind::BlockDevice { .. } => "block-device",
        NodeKind::Fifo => "fifo",
    }
}

/// What stands for the content of what is no regular file.
fn describe(kind: &NodeKind) -> String {
    match kind {
        NodeKind::Symlink(target) => target.clone(),
        NodeKind::HardLink(target) => target.to_string(),
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            format!("{major}:{minor}")
        }
        NodeKind::Dir | NodeKind::File(_) | NodeKind::Fifo => String::new(),
    }
}

#[derive(Default)]
struct Collector {
    contents: Contents,
    store: store::Tables,
}

impl Collector {
    fn count(&mut self, path: &TreePath, kind: &NodeKind, size: u64) {
        if matches!(kind, NodeKind::Dir) {
            return;
        }
        self.contents.files += 1;
        self.contents.size = Bytes(self.contents.size.0.saturating_add(size));
        if !matches!(kind, NodeKind::File(_)) {
            return;
        }
        let largest = &mut self.contents.largest;
        // Sorted by size downwards, then by name: the same tree gives the same list in whatever order it is walked.
        let key = (std::cmp::Reverse(Bytes(size)), path.as_str());
        let at = largest.partition_point(|(name, size)| (std::cmp::Reverse(*size), name.as_str()) < key);
        if at < LARGEST {
            largest.insert(at, (path.to_string(), Bytes(size)));
            largest.truncate(LARGEST);
        }
    }

    fn wants(path: &TreePath, kind: &NodeKind) -> bool {
        matches!(kind, NodeKind::File(_))
            && (packages::place(path).is_some() || store::Tables::is_table(path))
    }

    fn document(&mut self, path: &TreePath, bytes: &[u8]) -> anyhow::Result<()> {
        match packages::place(path) {
            Some(packages::Place::System) => {
                self.contents.packages.insert("os".into(), packages::installed(bytes));
            }
            Some(packages::Place::StoreLayer(id)) => {
                self.store.packages.insert(id.into(), packages::installed(bytes));
            }
            None => self.store.table(path, bytes).with_context(|| format!("reading `{path}`"))?,
        }
        Ok(())
    }

    fn finish(mut self) -> Contents {
        let (images, packages) = self.store.finish();
        self.contents.containers = images;
        self.contents.packages.extend(packages);
        self.contents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;
    use crate::tree::{Node, tar};

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let id = "ab".repeat(32);
        let status = |name: &str| {
            format!(
                "Package: {name}\nStatus: install ok installed\nInstalled-Size: 12\nVersion: 1:2-3\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
            )
        };
        let images = serde_json::json!([{ "id": "x", "digest": Digest::of("m"), "names": ["localhost/till:1"], "layer": id }]);
        let layers = serde_json::json!([{ "id": id, "diff-size": 4096 }]);
        for (path, text) in [
            ("var/lib/dpkg/status".to_string(), status("base-files")),
            (format!("images/overlay/{id}/diff/var/lib/dpkg/status"), status("nginx")),
            ("images/overlay-images/images.json".into(), images.to_string()),
            ("images/overlay-layers/layers.json".into(), layers.to_string()),
        ] {
            tree.insert(TreePath::parse(&path).unwrap(), Node::text(text, 0o644)).unwrap();
        }
        tree.insert(TreePath::parse("lib").unwrap(), Node::symlink("usr/lib")).unwrap();
        tree
    }

    #[test]
    fn packages_and_images_are_found_in_tree_tar_and_file_system() {
        let found = of_tree(&tree()).unwrap();
        assert_eq!(
            found.packages["os"]["base-files"],
            Package { version: "1:2-3".into(), size: Bytes(12 << 10) }
        );
        assert_eq!(found.packages["container/till:1"].keys().collect::<Vec<_>>(), ["nginx"]);
        assert_eq!(
            (found.containers[0].names[0].as_str(), found.containers[0].size),
            ("localhost/till:1", Bytes(4096))
        );
        assert_eq!(found.files, 5);

        let mut bytes = vec![];
        tar::write(&tree(), Epoch(0), &mut bytes).unwrap();
        let mut streamed = of_tar(&bytes[..], Detail::Files).unwrap();
        assert_eq!(streamed.entries["lib"].content, Digest::of("usr/lib"));
        assert_eq!(streamed.entries["lib"].attributes, "symlink 0777 0:0");
        streamed.entries.clear();
        assert_eq!(streamed, found);
    }

    #[test]
    fn hostile_tables_are_errors_or_nothing() {
        let mut bad = tree();
        let path = TreePath::parse("images/overlay-images/images.json").unwrap();
        bad.insert(path.clone(), Node::text("{", 0o644)).unwrap();
        assert!(of_tree(&bad).unwrap_err().to_string().contains("images.json"));
        // A layer that is its own parent must not hang, and a name must not vanish.
        let id = "ab".repeat(32);
        let layers = serde_json::json!([{ "id": id, "parent": id, "diff-size": u64::MAX }]);
        let mut looped = tree();
        looped
            .insert(
                TreePath::parse("images/overlay-layers/layers.json").unwrap(),
                Node::text(layers.to_string(), 0o644),
            )
            .unwrap();
        assert_eq!(of_tree(&looped).unwrap().containers.len(), 1);
    }
}
