//! Where everything of an image lies: each inode of a tree with its place, before a byte is written.

use super::{BLOCK, DIRENT, SLOT, SUPERBLOCK, SUPERBLOCK_AT, WriteError, XATTR_HEADER, XATTR_PREFIXES, kind};
use crate::model::Epoch;
use crate::tree::{Node, NodeKind, Tree, TreePath};
use std::collections::{BTreeMap, HashMap};

/// Tails longer than this get a block of their own: behind the inode they would mostly push the next inodes apart.
const MAX_INLINE_TAIL: u64 = BLOCK / 2;
/// The largest gap that is left so that a tail can stay inline without crossing a block.
const MAX_GAP: u64 = 512;
/// The inodes of `tree` with their places, the root first, and the count of blocks of the image.
pub(super) fn lay_out(tree: &Tree, epoch: Epoch) -> Result<(Vec<Inode<'_>>, u64), WriteError> {
    let mut inodes = collect(tree, epoch)?;
    let meta = place_inodes(&mut inodes);
    let blocks = place_data(&mut inodes, meta.div_ceil(BLOCK));
    Ok((inodes, blocks))
}

/// An inode under way from the tree to its place in the image.
pub(super) struct Inode<'a> {
    pub path: &'a TreePath,
    pub node: &'a Node,
    pub kind: u16,
    pub mtime: i64,
    pub nlink: u32,
    /// Children by name: indices of inodes. Of directories only.
    pub children: BTreeMap<&'a str, usize>,
    pub parent: usize,
    pub xattrs: Vec<u8>,
    pub extended: bool,
    /// Bytes of data.
    pub size: u64,
    /// Where the inode lies, in bytes.
    pub at: u64,
    /// Bytes of data behind the inode.
    pub inline: u64,
    /// First block of the rest of the data, where there is any.
    pub block: Option<u64>,
}

impl Inode<'_> {
    pub fn nid(&self) -> u64 {
        self.at / SLOT
    }

    pub fn fixed(&self) -> u64 {
        (if self.extended { 64 } else { 32 }) + self.xattrs.len() as u64
    }

    pub fn whole(&self) -> u64 {
        self.size - self.inline
    }
}

/// Inodes in breadth-first order, the root first: what is listed together lies together.
fn collect(tree: &Tree, epoch: Epoch) -> Result<Vec<Inode<'_>>, WriteError> {
    let mut children: HashMap<TreePath, Vec<(&TreePath, &Node)>> = HashMap::new();
    let mut links: HashMap<&TreePath, u32> = HashMap::new();
    let mut root = None;
    for (path, node) in tree.iter() {
        match path.parent() {
            Some(parent) => children.entry(parent).or_default().push((path, node)),
            None => root = Some((path, node)),
        }
        if let NodeKind::HardLink(target) = &node.kind {
            *links.entry(target).or_insert(0) += 1;
        }
    }
    let mut inodes = vec![];
    let mut by_path: HashMap<&TreePath, usize> = HashMap::new();
    let mut hard_links = vec![];
    if let Some((path, node)) = root {
        inodes.push(inode(path, node, 0, epoch)?);
    }
    let mut at = 0;
    while at < inodes.len() {
        for (path, node) in children.remove(inodes[at].path).unwrap_or_default() {
            if let NodeKind::HardLink(target) = &node.kind {
                hard_links.push((at, path, target));
                continue;
            }
            let mut child = inode(path, node, at, epoch)?;
            child.nlink += links.get(path).copied().unwrap_or(0);
            if child.kind == kind::DIR {
                inodes[at].nlink += 1;
            }
            let index = inodes.len();
            inodes.push(child);
            inodes[at].children.insert(path.name(), index);
            by_path.insert(path, index);
        }
        at += 1;
    }
    for (directory, path, target) in hard_links {
        if let Some(index) = by_path.get(target) {
            inodes[directory].children.insert(path.name(), *index);
        }
    }
    for inode in &mut inodes {
        inode.size = match &inode.node.kind {
            NodeKind::Dir => directory_size(inode),
            NodeKind::File(content) => content.len(),
            NodeKind::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        // The short form has no time of its own: it means the image's.
        inode.extended = inode.mtime != epoch.0
            || inode.node.uid > u32::from(u16::MAX)
            || inode.node.gid > u32::from(u16::MAX)
            || inode.nlink > u32::from(u16::MAX)
            || inode.size > u64::from(u32::MAX);
    }
    Ok(inodes)
}

fn inode<'a>(
    path: &'a TreePath,
    node: &'a Node,
    parent: usize,
    epoch: Epoch,
) -> Result<Inode<'a>, WriteError> {
    let kind = match node.kind {
        NodeKind::Dir => kind::DIR,
        NodeKind::File(_) | NodeKind::HardLink(_) => kind::FILE,
        NodeKind::Symlink(_) => kind::SYMLINK,
        NodeKind::CharDevice { .. } => kind::CHAR,
        NodeKind::BlockDevice { .. } => kind::BLOCK,
        NodeKind::Fifo => kind::FIFO,
    };
    Ok(Inode {
        path,
        node,
        kind,
        mtime: node.mtime.min(epoch.0),
        nlink: if kind == kind::DIR { 2 } else { 1 },
        children: BTreeMap::new(),
        parent,
        xattrs: xattr_body(path, node)?,
        extended: false,
        size: 0,
        at: 0,
        inline: 0,
        block: None,
    })
}

/// The attributes as they lie behind the inode; empty without any.
fn xattr_body(path: &TreePath, node: &Node) -> Result<Vec<u8>, WriteError> {
    if node.xattrs.is_empty() {
        return Ok(vec![]);
    }
    let refuse =
        |name: &str, length| WriteError::ExtendedAttribute { path: path.clone(), name: name.into(), length };
    let mut body = vec![0; XATTR_HEADER as usize];
    for (name, value) in &node.xattrs {
        let (index, rest) = XATTR_PREFIXES
            .iter()
            .find_map(|(index, prefix)| {
                let rest = name.strip_prefix(prefix)?;
                // A prefix that ends in a dot wants a name behind it, one that is a whole name wants none.
                (prefix.ends_with('.') != rest.is_empty()).then_some((*index, rest))
            })
            .ok_or_else(|| refuse(name, value.len()))?;
        let (Ok(name_length), Ok(value_length)) = (u8::try_from(rest.len()), u16::try_from(value.len()))
        else {
            return Err(refuse(name, value.len()));
        };
        body.extend([name_length, index]);
        body.extend(value_length.to_le_bytes());
        body.extend(rest.as_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
        if xattr_count(body.len()) > u64::from(u16::MAX) {
            return Err(refuse(name, value.len()));
        }
    }
    Ok(body)
}

/// `i_xattr_icount` for a body of `length` bytes.
pub(super) fn xattr_count(length: usize) -> u64 {
    if length == 0 { 0 } else { (length as u64 - XATTR_HEADER) / 4 + 1 }
}

/// Gives every inode its place; the end of the last.
fn place_inodes(inodes: &mut [Inode<'_>]) -> u64 {
    let mut at = SUPERBLOCK_AT + SUPERBLOCK;
    for inode in inodes {
        at = at.next_multiple_of(SLOT);
        let tail = inode.size % BLOCK;
        let small = tail <= MAX_INLINE_TAIL || inode.kind == kind::SYMLINK;
        inode.inline = if small { tail } else { 0 };
        // Behind long attributes, or with too little room before the next block, the tail gets its own block: inline
        // data must not cross one.
        let crosses = |at: u64| (at + inode.fixed()) % BLOCK + inode.inline > BLOCK;
        if inode.inline > 0 && crosses(at) {
            let next = at.next_multiple_of(BLOCK);
            if (inode.kind == kind::SYMLINK || next - at < MAX_GAP) && !crosses(next) {
                at = next;
            } else {
                inode.inline = 0;
            }
        }
        inode.at = at;
        at += inode.fixed() + inode.inline;
    }
    at
}

/// Gives every inode's whole blocks their place, from block `first`; the count of blocks of the image.
fn place_data(inodes: &mut [Inode<'_>], first: u64) -> u64 {
    let mut next = first;
    for inode in inodes {
        let blocks = inode.whole().div_ceil(BLOCK);
        if blocks > 0 {
            inode.block = Some(next);
            next += blocks;
        }
    }
    next
}

/// How many of the entries with names of these lengths fit into one block. At least one: a name has at most 255 bytes.
pub(super) fn fitting(lengths: impl Iterator<Item = usize>) -> usize {
    let mut used = 0;
    lengths
        .take_while(|length| {
            used += DIRENT + length;
            used <= BLOCK as usize
        })
        .count()
}

/// The length of `directory`'s data. Which entries share a block depends on their order, so `.` and `..` are counted
/// where they sort.
fn directory_size(inode: &Inode<'_>) -> u64 {
    let mut names: Vec<&str> = inode.children.keys().copied().chain([".", ".."]).collect();
    names.sort_unstable();
    let (mut full, mut used) = (0, 0);
    for name in names {
        let entry = (DIRENT + name.len()) as u64;
        if used + entry > BLOCK {
            full += BLOCK;
            used = 0;
        }
        used += entry;
    }
    full + used
}
