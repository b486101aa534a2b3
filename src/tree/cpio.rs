//! A tree as a cpio archive of the "newc" kind, which Linux unpacks as its initramfs.
//!
//! Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Entries in byte order of their paths, so a
//! directory precedes what is in it; inode numbers counted from 1, devices zero, times clamped to the epoch. The bytes
//! depend on the tree and the epoch alone. Knows no compression.

use super::{Node, NodeKind, Tree, TreePath};
use crate::model::Epoch;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// A tree that the format cannot hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpioError {
    /// Sizes are eight hex digits.
    #[error("`{path}` has {length} bytes, more than the 4 GiB that a cpio entry can hold")]
    TooLong {
        /// The file.
        path: TreePath,
        /// Its length in bytes.
        length: u64,
    },
    /// newc has no extended attributes, and a file that silently lost its capabilities would be worse than an error.
    #[error("`{path}` has the extended attribute `{name}`, which a cpio archive cannot hold")]
    ExtendedAttribute {
        /// The file.
        path: TreePath,
        /// The attribute's name.
        name: String,
    },
    /// A hard link without its file.
    #[error(transparent)]
    Tree(#[from] super::TreeError),
    /// What `out` or a content says.
    #[error("writing the cpio archive")]
    Io(#[from] io::Error),
}

/// Writes `tree` to `out`; the count of bytes, a multiple of 512. Names of one file share an inode number, and the first
/// of them carries the bytes, as the kernel takes them.
///
/// # Errors
/// [`CpioError`] as its variants say.
pub fn write(tree: &Tree, epoch: Epoch, out: impl Write) -> Result<u64, CpioError> {
    tree.check()?;
    let mut links: BTreeMap<&TreePath, u32> = BTreeMap::new();
    for (_, node) in tree.iter() {
        if let NodeKind::HardLink(target) = &node.kind {
            *links.entry(target).or_insert(1) += 1;
        }
    }
    let mut out = Counted { inner: out, written: 0 };
    let mut inode = 0;
    let mut shared: BTreeMap<&TreePath, u32> = BTreeMap::new();
    let mut written: BTreeSet<&TreePath> = BTreeSet::new();
    for (path, node) in tree.iter() {
        let (target, described) = match &node.kind {
            NodeKind::HardLink(target) => (target, tree.get(target).unwrap_or(node)),
            _ => (path, node),
        };
        if let Some(name) = described.xattrs.keys().next() {
            return Err(CpioError::ExtendedAttribute { path: path.clone(), name: name.clone() });
        }
        let nlink = links.get(target).copied().unwrap_or(1);
        let number = *shared.entry(target).or_insert_with(|| {
            inode += 1;
            inode
        });
        let first = written.insert(target);
        let body: Body<'_> = match &described.kind {
            NodeKind::File(content) if first => Body::Content(content),
            NodeKind::Symlink(target) => Body::Text(target),
            _ => Body::None,
        };
        if body.len() > u64::from(u32::MAX) {
            return Err(CpioError::TooLong { path: path.clone(), length: body.len() });
        }
        let name = if path.as_str().is_empty() { "." } else { path.as_str() };
        write_header(&mut out, name, described, number, nlink, body.len() as u32, epoch)?;
        match body {
            Body::Content(content) => {
                io::copy(&mut content.reader(), &mut out)?;
            }
            Body::Text(text) => out.write_all(text.as_bytes())?,
            Body::None => {}
        }
        out.pad(4)?;
    }
    write_header(&mut out, "TRAILER!!!", &Node::file(vec![], 0), 0, 1, 0, Epoch(0))?;
    out.pad(512)?; // the block of tape that every cpio since has kept
    out.flush()?;
    Ok(out.written)
}

enum Body<'a> {
    Content(&'a super::Content),
    Text(&'a str),
    None,
}

impl Body<'_> {
    fn len(&self) -> u64 {
        match self {
            Body::Content(content) => content.len(),
            Body::Text(text) => text.len() as u64,
            Body::None => 0,
        }
    }
}

fn write_header(
    out: &mut Counted<impl Write>,
    name: &str,
    node: &Node,
    inode: u32,
    nlink: u32,
    size: u32,
    epoch: Epoch,
) -> io::Result<()> {
    let (format, major, minor) = match node.kind {
        NodeKind::Dir => (0o040000, 0, 0),
        NodeKind::File(_) | NodeKind::HardLink(_) => (0o100000, 0, 0),
        NodeKind::Symlink(_) => (0o120000, 0, 0),
        NodeKind::CharDevice { major, minor } => (0o020000, major, minor),
        NodeKind::BlockDevice { major, minor } => (0o060000, major, minor),
        NodeKind::Fifo => (0o010000, 0, 0),
    };
    // The trailer is no file: every field of it is zero but the count of links.
    let mode = if inode == 0 { 0 } else { format | node.mode & 0o7777 };
    let mtime = node.mtime.min(epoch.0).clamp(0, i64::from(u32::MAX));
    let nlink = if node.is_dir() { 2 } else { nlink };
    let fields = [
        inode,
        mode,
        node.uid,
        node.gid,
        nlink,
        mtime as u32,
        size,
        0,
        0,
        major,
        minor, // the device it is on, the device it is
        name.len() as u32 + 1,
        0, // the checksum, unused by newc
    ];
    let mut header = String::from("070701");
    for field in fields {
        header += &format!("{field:08X}");
    }
    out.write_all(header.as_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    out.pad(4)
}

struct Counted<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Counted<W> {
    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(to) - self.written;
        self.write_all(&[0; 512][..missing as usize])
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> TreePath {
        TreePath::parse(s).unwrap()
    }

    #[test]
    fn entries_are_aligned_and_names_of_one_file_share_its_number() {
        let mut tree = Tree::new();
        tree.insert(p("z"), Node::text("hello", 0o644)).unwrap();
        tree.insert(p("a"), Node::new(NodeKind::HardLink(p("z")), 0)).unwrap();
        let mut out = vec![];
        let length = write(&tree, Epoch(7), &mut out).unwrap();
        assert_eq!(length, out.len() as u64);
        assert_eq!(length % 512, 0);
        let text = String::from_utf8_lossy(&out);
        assert!(text.starts_with("07070100000001000041ED"), "{text}");
        // `a` sorts first, so it carries the bytes and `z` is the second name of inode 2.
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap() - 110;
        for (name, size) in [("a", "00000005"), ("z", "00000000")] {
            let header = &text[at(name)..];
            assert_eq!(&header[6..14], "00000002", "{name}");
            assert_eq!(&header[38..46], "00000002", "{name}");
            assert_eq!(&header[54..62], size, "{name}");
        }
    }

    #[test]
    fn what_the_format_cannot_say_is_refused() {
        let mut tree = Tree::new();
        let mut node = Node::text("x", 0o755);
        node.xattrs.insert("security.capability".into(), vec![1]);
        tree.insert(p("ping"), node).unwrap();
        let error = write(&tree, Epoch(0), io::sink()).unwrap_err().to_string();
        assert!(error.contains("`ping`") && error.contains("security.capability"), "{error}");
    }
}
