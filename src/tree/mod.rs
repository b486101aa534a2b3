//! A file tree as a value: what a layer holds, before it is a tar, an EROFS or a cpio.
//!
//! A [`Tree`] maps normalised relative paths to nodes, in byte order of the paths. File contents are held by reference
//! ([`Content::Range`]), so a tree of gigabytes costs memory for its names only. Knows no profile and no format but tar
//! ([`tar`]), which is how layers travel between steps.

mod copy;
pub mod cpio;
pub mod path;
pub mod tar;
pub mod walk;

pub use path::{BadPath, TreePath};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A file tree. Every node but the root has its parent directory in the tree, and a hard link's target is a file of it.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<TreePath, Node>,
}

/// One entry: type, permissions, owner, extended attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Type, and what belongs to it.
    pub kind: NodeKind,
    /// Permission bits with set-id and sticky: at most `0o7777`.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time in seconds since 1970, UTC. Writers clamp it to the build's epoch and never raise it: some
    /// formats (Python's `.pyc`) compare a file's time with a recorded one, so it cannot simply be dropped.
    pub mtime: i64,
    /// Extended attributes by full name (`security.capability`).
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// The types that a Unix file system knows.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A regular file.
    File(Content),
    /// A symbolic link with its target, as written: relative or absolute, never followed by forge.
    Symlink(String),
    /// Another name of a regular file of the same tree. Owner, mode, times and attributes are the target's.
    HardLink(TreePath),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory: small, generated files.
    Bytes(Arc<[u8]>),
    /// `length` bytes from `offset` of an open file, read by position so that threads can share it.
    Range {
        /// The open file, usually a layer's tar.
        file: Arc<File>,
        /// First byte.
        offset: u64,
        /// Count of bytes.
        length: u64,
    },
    /// A file below an open directory, opened for each read: trees on disk have more files than a process may open.
    InDir {
        /// The directory.
        root: Arc<OwnedFd>,
        /// The file's path below it; no symbolic link on the way.
        path: TreePath,
        /// Count of bytes.
        length: u64,
    },
}

impl Content {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(b) => b.len() as u64,
            Content::Range { length, .. } | Content::InDir { length, .. } => *length,
        }
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads exactly `buffer.len()` bytes from `offset` of the content.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end; what the underlying file says.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(buffer.len() as u64).filter(|end| *end <= self.len());
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self {
            Content::Bytes(b) => {
                buffer.copy_from_slice(&b[at as usize..at as usize + buffer.len()]);
                Ok(())
            }
            Content::Range { file, offset, .. } => file.read_exact_at(buffer, offset + at),
            Content::InDir { root, path, .. } => walk::open(root, path)?.read_exact_at(buffer, at),
        }
    }

    /// A reader over the whole content.
    pub fn reader(&self) -> ContentReader<'_> {
        ContentReader { content: self, at: 0 }
    }

    /// The whole content in memory.
    ///
    /// # Errors
    /// Refuses, naming both sizes, when it is longer than `limit` bytes.
    pub fn to_vec(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} bytes, more than the {limit} expected at most", self.len()),
            ));
        }
        let mut out = vec![0; self.len() as usize];
        self.read_exact_at(&mut out, 0)?;
        Ok(out)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content::Bytes(bytes.into())
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Content::Bytes(a), Content::Bytes(b)) => a == b,
            (
                Content::Range { file: a, offset: x, length: m },
                Content::Range { file: b, offset: y, length: n },
            ) => Arc::ptr_eq(a, b) && x == y && m == n,
            (
                Content::InDir { root: a, path: x, length: m },
                Content::InDir { root: b, path: y, length: n },
            ) => Arc::ptr_eq(a, b) && x == y && m == n,
            _ => false,
        }
    }
}

/// Reads a [`Content`] from start to end.
pub struct ContentReader<'a> {
    content: &'a Content,
    at: u64,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (self.content.len() - self.at).min(buffer.len() as u64) as usize;
        self.content.read_exact_at(&mut buffer[..n], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Node {
    fn new(kind: NodeKind, mode: u32) -> Node {
        Node { kind, mode, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
    }

    /// A directory of root's.
    pub fn dir(mode: u32) -> Node {
        Node::new(NodeKind::Dir, mode)
    }

    /// A file of root's.
    pub fn file(content: impl Into<Content>, mode: u32) -> Node {
        Node::new(NodeKind::File(content.into()), mode)
    }

    /// A text file of root's.
    pub fn text(content: impl Into<String>, mode: u32) -> Node {
        Node::file(content.into().into_bytes(), mode)
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<String>) -> Node {
        Node::new(NodeKind::Symlink(target.into()), 0o777)
    }

    /// The same node with another owner.
    #[must_use]
    pub fn owned(self, uid: u32, gid: u32) -> Node {
        Node { uid, gid, ..self }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, NodeKind::Dir)
    }
}

/// An entry that a tree cannot take.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum TreeError {
    /// A path component is taken by something that is no directory.
    #[error("`{path}` needs `{parent}` to be a directory, but it is none")]
    NotADirectory {
        /// The path that was to be inserted.
        path: TreePath,
        /// The ancestor in the way.
        parent: TreePath,
    },
    /// A directory and a non-directory want the same path.
    #[error("`{path}` is a directory on one side and none on the other")]
    TypeClash {
        /// The path.
        path: TreePath,
    },
    /// A hard link whose target is no regular file of the tree.
    #[error("`{path}` is a hard link to `{target}`, which is no file of the tree")]
    DanglingHardLink {
        /// The link.
        path: TreePath,
        /// Where it points.
        target: TreePath,
    },
    /// A path became impossible where the tree was put.
    #[error(transparent)]
    Path(#[from] BadPath),
}

impl Tree {
    /// An empty tree: a root directory of mode 0755 and nothing else.
    pub fn new() -> Tree {
        Tree { nodes: BTreeMap::from([(TreePath::root(), Node::dir(0o755))]) }
    }

    /// Puts `node` at `path`, over a non-directory of the same path; missing parents become directories of mode 0755.
    /// A directory over a directory replaces its attributes and keeps its children.
    ///
    /// # Errors
    /// [`TreeError`] when the path runs through a non-directory, types clash, or a hard link dangles; the tree is then
    /// unchanged.
    pub fn insert(&mut self, path: TreePath, node: Node) -> Result<(), TreeError> {
        if let NodeKind::HardLink(target) = &node.kind
            && !matches!(self.nodes.get(target).map(|n| &n.kind), Some(NodeKind::File(_)))
        {
            return Err(TreeError::DanglingHardLink { path, target: target.clone() });
        }
        let in_the_way = path.ancestors().find(|a| self.nodes.get(a).is_some_and(|n| !n.is_dir()));
        if let Some(parent) = in_the_way {
            return Err(TreeError::NotADirectory { path, parent });
        }
        if self.nodes.get(&path).is_some_and(|old| old.is_dir() != node.is_dir()) {
            return Err(TreeError::TypeClash { path });
        }
        for parent in path.ancestors() {
            self.nodes.entry(parent).or_insert_with(|| Node::dir(0o755));
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Takes `path` and, where it is a directory, all below it out of the tree. Hard links to what goes must be looked
    /// after by the caller: the tree says so when it is [checked](Tree::check).
    pub fn remove(&mut self, path: &TreePath) -> Option<Node> {
        let node = self.nodes.remove(path)?;
        let below: Vec<TreePath> = self.below(path).map(|(p, _)| p.clone()).collect();
        for p in below {
            self.nodes.remove(&p);
        }
        Some(node)
    }

    /// This tree laid over `lower`: its files win, directories of both merge with this one's attributes.
    ///
    /// # Errors
    /// [`TreeError::TypeClash`] and [`TreeError::NotADirectory`] where the two cannot both be.
    pub fn over(self, lower: Tree) -> Result<Tree, TreeError> {
        let mut merged = lower;
        // Links after what they link to: a target may come later in path order.
        let (links, others): (Vec<_>, Vec<_>) =
            self.nodes.into_iter().partition(|(_, n)| matches!(n.kind, NodeKind::HardLink(_)));
        for (path, node) in others.into_iter().chain(links) {
            merged.insert(path, node)?;
        }
        merged.check()?;
        Ok(merged)
    }

    /// Puts all of `tree` below `at`, its root becoming the directory `at`.
    ///
    /// # Errors
    /// As [`Tree::insert`], and [`TreeError::Path`] where a path becomes too long.
    pub fn graft(&mut self, at: &TreePath, tree: Tree) -> Result<(), TreeError> {
        let moved = |path: &TreePath| match path.as_str() {
            "" => Ok(at.clone()),
            path => at.join(path),
        };
        let mut links = vec![];
        for (path, node) in tree.nodes {
            let path = moved(&path)?;
            match node.kind {
                // Links after what they link to: a target may come later in path order.
                NodeKind::HardLink(target) => {
                    links.push((path, Node { kind: NodeKind::HardLink(moved(&target)?), ..node }));
                }
                _ => self.insert(path, node)?,
            }
        }
        links.into_iter().try_for_each(|(path, node)| self.insert(path, node))
    }

    /// The node at `path`, symbolic links not followed.
    pub fn get(&self, path: &TreePath) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The content of the regular file at `path`, through a hard link but through no symbolic link.
    pub fn file(&self, path: &TreePath) -> Option<&Content> {
        match &self.nodes.get(path)?.kind {
            NodeKind::File(content) => Some(content),
            NodeKind::HardLink(target) => self.file(target),
            _ => None,
        }
    }

    /// Follows symbolic links (at most 40, as the kernel does) the way a system rooted in this tree would; the path of
    /// what is there in the end, or `None` where nothing is.
    pub fn resolve(&self, path: &TreePath) -> Option<TreePath> {
        let mut rest: Vec<String> = path.components().rev().map(String::from).collect();
        let mut at = TreePath::root();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                "." | "" => continue,
                ".." => {
                    at = at.parent().unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            let next = at.join(&name).ok()?;
            match &self.nodes.get(&next)?.kind {
                NodeKind::Symlink(target) => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if target.starts_with('/') {
                        at = TreePath::root();
                    }
                    rest.extend(target.split('/').rev().filter(|c| !c.is_empty()).map(String::from));
                }
                _ => at = next,
            }
        }
        Some(at)
    }

    /// All nodes in byte order of their paths, the root first.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &Node)> {
        self.nodes.iter()
    }

    /// The nodes below `dir`, itself not included, in order.
    pub fn below<'a>(&'a self, dir: &'a TreePath) -> impl Iterator<Item = (&'a TreePath, &'a Node)> {
        // The subtree is not contiguous in byte order (`a-b` sorts between `a` and `a/c`), so the scan starts at `a/`.
        self.nodes
            .range(dir.clone()..)
            .skip_while(move |(p, _)| *p == dir)
            .filter(move |(p, _)| p.is_below(dir))
    }

    /// Count of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() <= 1
    }

    /// Sum of the lengths of regular files, each hard-linked file once.
    pub fn content_len(&self) -> u64 {
        self.nodes.values().map(|n| if let NodeKind::File(c) = &n.kind { c.len() } else { 0 }).sum()
    }

    /// Checks what [`Tree::remove`] can break: every hard link has its target.
    ///
    /// # Errors
    /// [`TreeError::DanglingHardLink`] for the first that has none.
    pub fn check(&self) -> Result<(), TreeError> {
        for (path, node) in &self.nodes {
            if let NodeKind::HardLink(target) = &node.kind
                && !matches!(self.nodes.get(target).map(|n| &n.kind), Some(NodeKind::File(_)))
            {
                return Err(TreeError::DanglingHardLink { path: path.clone(), target: target.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> TreePath {
        TreePath::parse(s).unwrap()
    }

    #[test]
    fn parents_appear_and_types_must_agree() {
        let mut tree = Tree::new();
        tree.insert(p("a/b/c"), Node::text("x", 0o644)).unwrap();
        assert!(tree.get(&p("a/b")).unwrap().is_dir());
        assert_eq!(
            tree.insert(p("a/b/c/d"), Node::dir(0o755)),
            Err(TreeError::NotADirectory { path: p("a/b/c/d"), parent: p("a/b/c") })
        );
        assert_eq!(
            tree.insert(p("a/b"), Node::text("", 0o644)),
            Err(TreeError::TypeClash { path: p("a/b") })
        );
        assert_eq!(tree.len(), 4);
    }

    #[test]
    fn links_resolve_inside_the_tree_and_loops_end() {
        let mut tree = Tree::new();
        tree.insert(p("usr/lib/os-release"), Node::text("ID=debian\n", 0o644)).unwrap();
        tree.insert(p("etc/os-release"), Node::symlink("../usr/lib/os-release")).unwrap();
        tree.insert(p("lib"), Node::symlink("usr/lib")).unwrap();
        tree.insert(p("up"), Node::symlink("../../../../lib/os-release")).unwrap();
        tree.insert(p("loop"), Node::symlink("/loop")).unwrap();
        for s in ["etc/os-release", "lib/os-release", "up"] {
            assert_eq!(tree.resolve(&p(s)), Some(p("usr/lib/os-release")), "{s}");
        }
        assert_eq!(tree.resolve(&p("loop")), None);
    }

    #[test]
    fn below_skips_siblings_that_sort_between() {
        let mut tree = Tree::new();
        for s in ["a/x", "a-b", "a.c/y", "ab"] {
            tree.insert(p(s), Node::text("", 0o644)).unwrap();
        }
        let below: Vec<_> = tree.below(&p("a")).map(|(p, _)| p.to_string()).collect();
        assert_eq!(below, ["a/x"]);
        tree.remove(&p("a"));
        assert_eq!(tree.len(), 5);
    }

    #[test]
    fn the_upper_tree_wins() {
        let (mut lower, mut upper) = (Tree::new(), Tree::new());
        lower.insert(p("etc/motd"), Node::text("old", 0o644)).unwrap();
        lower.insert(p("etc/keep"), Node::text("kept", 0o644)).unwrap();
        upper.insert(p("etc/motd"), Node::text("new", 0o600)).unwrap();
        let merged = upper.over(lower).unwrap();
        assert_eq!(merged.file(&p("etc/motd")).unwrap().to_vec(9).unwrap(), b"new");
        assert_eq!(merged.file(&p("etc/keep")).unwrap().to_vec(9).unwrap(), b"kept");
    }
}
