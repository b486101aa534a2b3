//! Trees to and from tar, deterministically.
//!
//! Written: POSIX ustar headers, PAX records only where ustar cannot say it (long paths, large sizes, xattrs as
//! `SCHILY.xattr.*`, negative times), entries in byte order of their paths, numeric owners only, times clamped to the
//! epoch. The bytes depend on the tree and the epoch alone. Hard links come after their target whatever the order.
//!
//! Read: only by index. Nothing is unpacked: a [`Tree`] points into the tar's file. Sparse entries, devices where they
//! are not allowed, `..`, duplicates of another type and truncation are errors that name the entry.

use super::{Content, Node, NodeKind, Tree, TreePath};
use crate::model::{Digest, Epoch, digest::HashingWriter};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

pub mod reader;
pub use reader::{Entry, Reader, Source, Stream, TarError};

/// A tar that was written: the digest of its bytes (an OCI layer's diff_id) and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Length in bytes.
    pub length: u64,
}

/// Writes `tree` as a tar; the root directory comes first, as `./`.
///
/// # Errors
/// What `out` or a file's content says.
pub fn write(tree: &Tree, epoch: Epoch, out: impl Write) -> io::Result<Written> {
    let mut out = HashingWriter::new(out);
    let mut buffer = vec![0; 256 * 1024];
    // A tar reader makes a hard link from what it has already seen.
    let (links, others): (Vec<_>, Vec<_>) =
        tree.iter().partition(|(_, n)| matches!(n.kind, NodeKind::HardLink(_)));
    for (path, node) in others.into_iter().chain(links) {
        let described = match &node.kind {
            NodeKind::HardLink(target) => tree.get(target).unwrap_or(node),
            _ => node,
        };
        write_header(&mut out, path, &node.kind, described, epoch)?;
        if let NodeKind::File(content) = &node.kind {
            let mut at = 0;
            while at < content.len() {
                let n = (content.len() - at).min(buffer.len() as u64) as usize;
                content.read_exact_at(&mut buffer[..n], at)?;
                out.write_all(&buffer[..n])?;
                at += n as u64;
            }
            pad(&mut out, content.len())?;
        }
    }
    out.write_all(&[0; 1024])?;
    out.flush()?;
    let (_, diff_id, length) = out.finish();
    Ok(Written { diff_id, length })
}

fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    out.write_all(&[0; 512][..(length.next_multiple_of(512) - length) as usize])
}

fn write_header(
    out: &mut impl Write,
    path: &TreePath,
    kind: &NodeKind,
    node: &Node,
    epoch: Epoch,
) -> io::Result<()> {
    let mut pax: Vec<(String, Vec<u8>)> = vec![];
    let mut header = tar::Header::new_ustar();
    let dir = if node.is_dir() { "/" } else { "" };
    let name = if path.as_str().is_empty() { "./".to_string() } else { format!("{path}{dir}") };
    if !set_ustar_name(&mut header, name.as_bytes()) {
        pax.push(("path".into(), name.clone().into_bytes()));
    }
    let (entry_type, link, size) = match kind {
        NodeKind::Dir => (tar::EntryType::Directory, None, 0),
        NodeKind::File(content) => (tar::EntryType::Regular, None, content.len()),
        NodeKind::Symlink(target) => (tar::EntryType::Symlink, Some(target.as_str()), 0),
        NodeKind::HardLink(target) => (tar::EntryType::Link, Some(target.as_str()), 0),
        NodeKind::CharDevice { .. } => (tar::EntryType::Char, None, 0),
        NodeKind::BlockDevice { .. } => (tar::EntryType::Block, None, 0),
        NodeKind::Fifo => (tar::EntryType::Fifo, None, 0),
    };
    header.set_entry_type(entry_type);
    if let Some(link) = link {
        match header.as_ustar_mut().map(|u| &mut u.linkname) {
            Some(field) if link.len() <= field.len() => field[..link.len()].copy_from_slice(link.as_bytes()),
            _ => pax.push(("linkpath".into(), link.as_bytes().to_vec())),
        }
    }
    header.set_size(size); // beyond eleven octal digits in base-256, which every reader of today takes
    header.set_mode(node.mode & 0o7777);
    for (key, id, octal_max) in [("uid", node.uid, 0o7777777), ("gid", node.gid, 0o7777777)] {
        if id > octal_max {
            pax.push((key.into(), id.to_string().into_bytes()));
        }
    }
    header.set_uid(u64::from(node.uid.min(0o7777777)));
    header.set_gid(u64::from(node.gid.min(0o7777777)));
    let mtime = node.mtime.min(epoch.0);
    if !(0..8 << 30).contains(&mtime) {
        pax.push(("mtime".into(), mtime.to_string().into_bytes()));
    }
    header.set_mtime(mtime.clamp(0, (8 << 30) - 1) as u64);
    if let NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } = kind {
        header.set_device_major(*major)?;
        header.set_device_minor(*minor)?;
    }
    if !matches!(kind, NodeKind::HardLink(_)) {
        pax.extend(node.xattrs.iter().map(|(key, value)| (format!("SCHILY.xattr.{key}"), value.clone())));
    }
    if !pax.is_empty() {
        pax.sort();
        let records: Vec<u8> = pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        let mut extension = tar::Header::new_ustar();
        set_ustar_name(&mut extension, b"././@PaxHeader");
        extension.set_entry_type(tar::EntryType::XHeader);
        extension.set_mode(0o644);
        extension.set_size(records.len() as u64);
        extension.set_cksum();
        out.write_all(extension.as_bytes())?;
        out.write_all(&records)?;
        pad(out, records.len() as u64)?;
    }
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Puts `name` into ustar's prefix and name fields; false, with a cut name, where it does not fit.
fn set_ustar_name(header: &mut tar::Header, name: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else { return false };
    if name.len() <= 100 {
        ustar.name[..name.len()].copy_from_slice(name);
        return true;
    }
    let split = name
        .iter()
        .enumerate()
        .rev()
        .find(|(i, c)| **c == b'/' && *i <= 155 && name.len() - i - 1 <= 100 && name.len() > i + 1);
    match split {
        Some((i, _)) => {
            ustar.prefix[..i].copy_from_slice(&name[..i]);
            ustar.name[..name.len() - i - 1].copy_from_slice(&name[i + 1..]);
            true
        }
        None => {
            // The PAX record has the whole name. Cut after a slash, a file would pass for a directory of old tars.
            let cut = if name[99] == b'/' { 99 } else { 100 };
            ustar.name[..cut].copy_from_slice(&name[..cut]);
            false
        }
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself (POSIX pax §Extended Header).
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// Reads the index of the tar in `file`; contents stay where they are.
///
/// # Errors
/// [`TarError`], naming the entry.
pub fn index(file: File) -> Result<Tree, TarError> {
    let file = Arc::new(file);
    let length = file.metadata()?.len();
    let mut reader = Reader::new(InFile { file: &file, at: 0 });
    let mut tree = Tree::new();
    let mut links = vec![];
    while let Some(Entry { path, node, size }) = reader.next_entry()? {
        let kind = match node.kind {
            NodeKind::File(_) => {
                let offset = reader.source.at;
                if offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(TarError::CutShort { path });
                }
                NodeKind::File(Content::Range { file: file.clone(), offset, length: size })
            }
            NodeKind::HardLink(target) => {
                links.push((path, target, Node { kind: NodeKind::Dir, ..node }));
                continue;
            }
            kind => kind,
        };
        tree.insert(path, Node { kind, ..node })?;
    }
    for (path, target, node) in links {
        // A link to a link names the same file; trees hold only links to files.
        let target = match tree.get(&target).map(|n| &n.kind) {
            Some(NodeKind::HardLink(file)) => file.clone(),
            _ => target,
        };
        tree.insert(path, Node { kind: NodeKind::HardLink(target), ..node })?;
    }
    tree.check()?;
    Ok(tree)
}

/// A tar as it lies in a file, read by position.
struct InFile<'a> {
    file: &'a File,
    at: u64,
}

impl Read for InFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Source for InFile<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        self.at = self.at.checked_add(count).ok_or(io::ErrorKind::InvalidData)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Seek;

    fn roundtrip(tree: &Tree) -> Tree {
        let mut file = tempfile::tempfile().unwrap();
        write(tree, Epoch(1_000_000_000), &mut file).unwrap();
        file.rewind().unwrap();
        index(file).unwrap()
    }

    fn same(a: &Tree, b: &Tree) {
        let list = |t: &Tree| -> Vec<String> {
            t.iter()
                .map(|(p, n)| {
                    let content = t.file(p).map(|c| c.to_vec(1 << 20).unwrap());
                    let kind =
                        if let NodeKind::File(_) = n.kind { "file".into() } else { format!("{:?}", n.kind) };
                    format!(
                        "{p} {kind} {:o} {}:{} {} {:?} {content:?}",
                        n.mode, n.uid, n.gid, n.mtime, n.xattrs
                    )
                })
                .collect()
        };
        assert_eq!(list(a), list(b));
    }

    #[test]
    fn every_kind_of_node_comes_back() {
        let p = |s: &str| TreePath::parse(s).unwrap();
        let mut tree = Tree::new();
        let long = format!("{}/{}", "d".repeat(200), "n".repeat(200));
        let mut capable = Node::text("ping", 0o755).owned(70_000, 3_000_000_000);
        capable.xattrs.insert("security.capability".into(), vec![0, 1, 2, 255, b'\n']);
        capable.mtime = 999_999_999;
        tree.insert(p("z-target"), capable.clone()).unwrap();
        tree.insert(p("a-link"), Node { kind: NodeKind::HardLink(p("z-target")), ..capable }).unwrap();
        tree.insert(p(&long), Node::text("x".repeat(1000), 0o4755)).unwrap();
        tree.insert(p("s"), Node::symlink("t".repeat(300))).unwrap();
        tree.insert(
            p("dev/null"),
            Node { kind: NodeKind::CharDevice { major: 1, minor: 3 }, ..Node::text("", 0o666) },
        )
        .unwrap();
        tree.insert(
            p("dev/sda"),
            Node { kind: NodeKind::BlockDevice { major: 8, minor: 0 }, ..Node::text("", 0o660) },
        )
        .unwrap();
        tree.insert(p("pipe"), Node { kind: NodeKind::Fifo, ..Node::text("", 0o600) }).unwrap();
        let back = roundtrip(&tree);
        // A hard link's own xattrs are not repeated in the tar.
        let mut expected = tree.clone();
        let mut link = tree.get(&p("a-link")).unwrap().clone();
        link.xattrs.clear();
        expected.insert(p("a-link"), link).unwrap();
        same(&back, &expected);
    }

    #[test]
    fn a_long_name_that_is_cut_after_a_slash_stays_a_file() {
        for length in 96..104 {
            let path = format!("{}/{}", "d".repeat(length), "n".repeat(200));
            let mut tree = Tree::new();
            tree.insert(TreePath::parse(&path).unwrap(), Node::text("x", 0o644)).unwrap();
            same(&roundtrip(&tree), &tree);
        }
    }

    #[test]
    fn times_are_clamped_and_never_raised() {
        let mut tree = Tree::new();
        for (name, mtime) in [("old", -5), ("new", i64::from(u32::MAX) * 4)] {
            tree.insert(TreePath::parse(name).unwrap(), Node { mtime, ..Node::text("", 0o644) }).unwrap();
        }
        let back = roundtrip(&tree);
        let time = |s: &str| back.get(&TreePath::parse(s).unwrap()).unwrap().mtime;
        assert_eq!((time("old"), time("new")), (-5, 1_000_000_000));
    }

    #[test]
    fn hostile_tars_are_refused_by_name() {
        fn entry(name: &[u8], kind: tar::EntryType, link: &[u8], size: u64) -> Vec<u8> {
            let mut h = tar::Header::new_ustar();
            h.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
            h.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
            h.set_entry_type(kind);
            h.set_mode(0o644);
            h.set_uid(0);
            h.set_gid(0);
            h.set_mtime(0);
            h.set_size(size);
            h.set_cksum();
            h.as_bytes().to_vec()
        }
        use tar::EntryType::*;
        let cases: [(&str, Vec<u8>); 7] = [
            ("../x", entry(b"../x", Regular, b"", 0)),
            ("`big` is cut short", entry(b"big", Regular, b"", 1 << 30)),
            ("which no file has", entry(b"endless", Regular, b"", u64::MAX - 5)),
            ("etc/passwd", entry(b"l", Link, b"/etc/passwd", 0)),
            ("..", entry(b"l", Link, b"../../etc/passwd", 0)),
            ("`s`", [entry(b"s", Symlink, b"/etc", 0), entry(b"s/passwd", Regular, b"", 0)].concat()),
            ("`sparse` is of type `S`", entry(b"sparse", GNUSparse, b"", 0)),
        ];
        for (says, bytes) in cases {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.write_all(&[0; 1024]).unwrap();
            file.rewind().unwrap();
            let error = index(file).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_tree_comes_back(names in proptest::collection::btree_map("[a-zé]{1,3}(/[a-z]{1,120}){0,3}", (any::<Vec<u8>>(), 0u32..0o7777, any::<u32>(), any::<i32>()), 0..20)) {
            let mut tree = Tree::new();
            for (name, (content, mode, uid, mtime)) in names {
                let node = Node { mtime: i64::from(mtime).min(1_000_000_000), ..Node::file(content, mode).owned(uid, uid / 2) };
                let _ = tree.insert(TreePath::parse(&name).unwrap(), node); // clashes of the generator are not what is tested
            }
            same(&roundtrip(&tree), &tree);
        }
    }
}
