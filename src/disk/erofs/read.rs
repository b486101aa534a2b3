//! An EROFS image that forge wrote, back into names, attributes and contents; and a hostile one into an error.
//!
//! Takes uncompressed images only. Nothing is believed: every offset is checked against the image, directories are
//! entered once, and all inodes together may not have more bytes of data than the image.

use super::{
    BLOCK, DIRENT, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, SLOT, SUPERBLOCK, SUPERBLOCK_AT, XATTR_HEADER,
    XATTR_PREFIXES, kind,
};
use crate::model::Guid;
use crate::tree::{Content, Node, NodeKind, TreePath};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};

/// The most bytes that all names with their attributes and link targets may take in memory. A file of many names has its
/// attributes once in the image and with every name here; a Debian system takes 20 MiB.
const MAX_NAMES: usize = 1 << 30;

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErofsError {
    /// The superblock is none of EROFS, is damaged, or asks for what forge never writes.
    #[error("EROFS superblock: {0}")]
    Superblock(&'static str),
    /// An inode, its attributes or its data.
    #[error("EROFS inode at byte {at}: {why}")]
    Inode {
        /// Where the inode lies, in bytes.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A directory's entries.
    #[error("EROFS directory `{path}`: {why}")]
    Directory {
        /// The directory.
        path: TreePath,
        /// What is wrong.
        why: String,
    },
    /// The image could not be read.
    #[error("reading the EROFS image")]
    Io(#[from] io::Error),
}

/// An image whose superblock has been checked.
#[derive(Clone, Debug)]
pub struct Image {
    content: Content,
    root: u64,
    build_time: i64,
    /// The file system's UUID.
    pub uuid: Guid,
    /// Length of the image in bytes, as the superblock says; what follows belongs to the partition.
    pub length: u64,
}

/// What a name in the image stands for.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Attributes and type. A file's content is in [`Entry::data`]: its node's content is always empty. A hard link
    /// shows as a second file with the same [`Entry::inode`].
    pub node: Node,
    /// Number of the inode.
    pub inode: u64,
    /// Count of names.
    pub nlink: u32,
    /// The data: whole blocks, and the tail behind the inode. Empty for all but files.
    pub data: [Content; 2],
}

impl Entry {
    /// Reads the data from start to end.
    pub fn reader(&self) -> impl Read + '_ {
        self.data[0].reader().chain(self.data[1].reader())
    }

    /// Length of the data in bytes.
    pub fn len(&self) -> u64 {
        self.data[0].len() + self.data[1].len()
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Image {
    /// Checks the superblock at the start of `content`.
    ///
    /// # Errors
    /// [`ErofsError::Superblock`] and what reading says.
    pub fn open(content: Content) -> Result<Image, ErofsError> {
        let refuse = |why| Err(ErofsError::Superblock(why));
        if content.len() < BLOCK {
            return refuse("shorter than a block");
        }
        let mut first = [0; (BLOCK - SUPERBLOCK_AT) as usize];
        content.read_exact_at(&mut first, SUPERBLOCK_AT)?;
        if u32_at(&first, 0) != MAGIC {
            return refuse("no EROFS magic");
        }
        let checksum = u32_at(&first, 4);
        first[4..8].fill(0);
        if !crc32c::crc32c(&first) != checksum {
            return refuse("the checksum does not hold");
        }
        if u64::from(first[12]) != u64::from(BLOCK.trailing_zeros()) {
            return refuse("blocks are not of 4 KiB");
        }
        if u32_at(&first, 80) != 0 {
            return refuse("it needs features (compression, chunks) that forge does not write");
        }
        let length = u64::from(u32_at(&first, 36)) * BLOCK;
        if length > content.len() {
            return refuse("the image is cut off");
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&first[48..64]);
        Ok(Image {
            content: content.slice(0, length)?,
            root: u64::from(u16_at(&first, 14)),
            build_time: u64_at(&first, 24) as i64,
            uuid: Guid::from_bytes(uuid),
            length,
        })
    }

    /// Every name of the image with what it stands for.
    ///
    /// # Errors
    /// [`ErofsError`], naming the inode or directory.
    pub fn walk(&self) -> Result<BTreeMap<TreePath, Entry>, ErofsError> {
        let mut entries = BTreeMap::new();
        let mut seen = HashSet::from([self.root]);
        let root = self.inode(self.root)?;
        // Honest inodes share no bytes: without this, a small image could unpack to any size.
        let mut left = self.length.saturating_sub(root.len());
        if !root.node.is_dir() {
            return Err(ErofsError::Superblock("the root is no directory"));
        }
        let mut names = 0;
        let mut pending = vec![(TreePath::root(), self.root, self.root, root)];
        while let Some((path, nid, parent, directory)) = pending.pop() {
            let refuse = |why: String| ErofsError::Directory { path: path.clone(), why };
            let children = self.directory(&path, &directory, nid, parent)?;
            for (name, (child, file_type)) in children {
                let child_path = path.join(&name).map_err(|e| refuse(e.to_string()))?;
                let entry = self.inode(child)?;
                if file_type != kind::dirent(type_nibble(&entry.node)) {
                    return Err(refuse(format!("`{name}` is of another type than its inode")));
                }
                names += in_memory(&child_path, &entry.node);
                if names > MAX_NAMES {
                    return Err(refuse(format!(
                        "with `{name}`, names and attributes take more than {MAX_NAMES} bytes"
                    )));
                }
                let first = seen.insert(child);
                if first {
                    let overlap = || refuse(format!("the data of `{name}` overlap others'"));
                    left = left.checked_sub(entry.len()).ok_or_else(overlap)?;
                }
                if entry.node.is_dir() {
                    if !first {
                        return Err(refuse(format!("`{name}` is a directory with two names")));
                    }
                    pending.push((child_path, child, nid, entry));
                } else {
                    entries.insert(child_path, entry);
                }
            }
            entries.insert(path, Entry { data: empty(), ..directory });
        }
        Ok(entries)
    }

    fn inode(&self, nid: u64) -> Result<Entry, ErofsError> {
        let at = nid.saturating_mul(SLOT);
        let refuse = |why| ErofsError::Inode { at, why };
        let outside = |_| refuse("outside the image");
        if at < SUPERBLOCK_AT + SUPERBLOCK {
            return Err(refuse("inside the superblock"));
        }
        let mut h = [0; 64];
        self.content.read_exact_at(&mut h[..32], at).map_err(outside)?;
        let format = u16_at(&h, 0);
        let extended = format & 1 == 1;
        let header = if extended {
            self.content.read_exact_at(&mut h, at).map_err(outside)?;
            64
        } else {
            32
        };
        let mode = u16_at(&h, 4);
        let (size, place, uid, gid, mtime, nlink) = if extended {
            let mtime = u64_at(&h, 32) as i64;
            (u64_at(&h, 8), u32_at(&h, 16), u32_at(&h, 24), u32_at(&h, 28), mtime, u32_at(&h, 44))
        } else {
            let (uid, gid) = (u32::from(u16_at(&h, 24)), u32::from(u16_at(&h, 26)));
            let nlink = u32::from(u16_at(&h, 6));
            (u64::from(u32_at(&h, 8)), u32_at(&h, 16), uid, gid, self.build_time, nlink)
        };
        let (xattrs, xattr_length) = self.xattrs(at, at + header, u16_at(&h, 2))?;
        let holds_data = matches!(mode >> 12, kind::DIR | kind::FILE | kind::SYMLINK);
        let data = if holds_data && size > 0 {
            let inline = match format >> 1 {
                LAYOUT_PLAIN => 0,
                LAYOUT_INLINE => size % BLOCK,
                _ => return Err(refuse("its data layout is none that forge writes")),
            };
            let tail_at = at + header + xattr_length;
            if tail_at % BLOCK + inline > BLOCK {
                return Err(refuse("its tail crosses a block"));
            }
            let whole = size - inline;
            let start = if whole > 0 { u64::from(place) * BLOCK } else { 0 };
            let cut = |_| refuse("its data reach out of the image");
            [
                self.content.slice(start, whole).map_err(cut)?,
                self.content.slice(tail_at, inline).map_err(cut)?,
            ]
        } else {
            empty()
        };
        let device = || (place >> 8 & 0xfff, place & 0xff | place >> 12 & 0xfff00);
        let kind = match mode >> 12 {
            kind::DIR => NodeKind::Dir,
            kind::FILE => NodeKind::File(vec![].into()),
            kind::SYMLINK => {
                if !(1..BLOCK).contains(&size) {
                    return Err(refuse("a symbolic link of no or too great length"));
                }
                let mut target = vec![];
                for part in &data {
                    target.extend(part.to_vec(BLOCK)?);
                }
                NodeKind::Symlink(String::from_utf8(target).map_err(|_| refuse("its target is not UTF-8"))?)
            }
            kind::CHAR => NodeKind::CharDevice { major: device().0, minor: device().1 },
            kind::BLOCK => NodeKind::BlockDevice { major: device().0, minor: device().1 },
            kind::FIFO => NodeKind::Fifo,
            _ => return Err(refuse("its type is unknown")),
        };
        let node = Node { kind, mode: u32::from(mode & 0o7777), uid, gid, mtime, xattrs };
        Ok(Entry { node, inode: nid, nlink, data })
    }

    /// The attributes at `start` of the inode at `inode`, and how many bytes they take.
    fn xattrs(
        &self,
        inode: u64,
        start: u64,
        count: u16,
    ) -> Result<(BTreeMap<String, Vec<u8>>, u64), ErofsError> {
        let mut xattrs = BTreeMap::new();
        if count == 0 {
            return Ok((xattrs, 0));
        }
        let bad = |why| ErofsError::Inode { at: inode, why };
        let length = XATTR_HEADER + (u64::from(count) - 1) * 4;
        let body =
            self.content.slice(start, length).map_err(|_| bad("its attributes reach out of the image"))?;
        let body = body.to_vec(length)?;
        if body[4] != 0 {
            return Err(bad("it shares attributes, which forge does not write"));
        }
        let mut rest = &body[XATTR_HEADER as usize..];
        while !rest.is_empty() {
            let [name_length, index, v0, v1, more @ ..] = rest else {
                return Err(bad("an attribute is cut off"));
            };
            let (name_length, value_length) =
                (usize::from(*name_length), usize::from(u16::from_le_bytes([*v0, *v1])));
            let used = name_length + value_length;
            let (Some(name), Some(value)) = (more.get(..name_length), more.get(name_length..used)) else {
                return Err(bad("an attribute is cut off"));
            };
            let (_, prefix) = XATTR_PREFIXES
                .iter()
                .find(|(i, _)| i == index)
                .ok_or_else(|| bad("an attribute's name space is unknown"))?;
            let name = std::str::from_utf8(name).map_err(|_| bad("an attribute's name is not UTF-8"))?;
            if xattrs.insert(format!("{prefix}{name}"), value.to_vec()).is_some() {
                return Err(bad("an attribute occurs twice"));
            }
            rest = rest.get((4 + used).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok((xattrs, length))
    }

    /// The children of a directory by name: inode numbers and types.
    fn directory(
        &self,
        path: &TreePath,
        entry: &Entry,
        nid: u64,
        parent: u64,
    ) -> Result<HashMap<String, (u64, u8)>, ErofsError> {
        let refuse = |why: &str| ErofsError::Directory { path: path.clone(), why: why.into() };
        let mut children = HashMap::new();
        let mut last: Option<Vec<u8>> = None;
        let mut reader = entry.reader();
        let mut left = entry.len();
        while left > 0 {
            let mut block = vec![0; left.min(BLOCK) as usize];
            reader.read_exact(&mut block)?;
            left -= block.len() as u64;
            for (name, child, file_type) in dirents(&block).ok_or_else(|| refuse("a block is malformed"))? {
                // The kernel searches by halves: a name out of order could be listed and not be found.
                if last.as_deref().is_some_and(|last| last >= name) {
                    return Err(refuse("its names are not in order"));
                }
                last = Some(name.to_vec());
                match name {
                    b"." if child == nid => {}
                    b".." if child == parent => {}
                    b"." | b".." => return Err(refuse("`.` or `..` leads elsewhere")),
                    _ => {
                        let name = std::str::from_utf8(name).map_err(|_| refuse("a name is not UTF-8"))?;
                        if name.contains('/') {
                            return Err(refuse("a name has a slash"));
                        }
                        children.insert(name.to_string(), (child, file_type));
                    }
                }
            }
        }
        Ok(children)
    }
}

/// The entries of a directory block: name, inode number, type. `None` when it is malformed.
fn dirents(block: &[u8]) -> Option<Vec<(&[u8], u64, u8)>> {
    let names_at = usize::from(u16::from_le_bytes(block.get(8..10)?.try_into().ok()?));
    if names_at < DIRENT || names_at % DIRENT != 0 || names_at > block.len() {
        return None;
    }
    let fixed: Vec<&[u8]> = block[..names_at].chunks_exact(DIRENT).collect();
    let start = |i: usize| fixed.get(i).map_or(block.len(), |d| usize::from(u16_at(d, 8)));
    let mut entries = Vec::with_capacity(fixed.len());
    for (i, dirent) in fixed.iter().enumerate() {
        let mut name = block.get(start(i)..start(i + 1))?;
        if i + 1 == fixed.len() {
            // The last name ends with the block or at the first NUL.
            name = name.split(|c| *c == 0).next()?;
        }
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        entries.push((name, u64_at(dirent, 0), dirent[10]));
    }
    Some(entries)
}

/// About how many bytes a name with its node takes.
fn in_memory(path: &TreePath, node: &Node) -> usize {
    let target = if let NodeKind::Symlink(target) = &node.kind { target.len() } else { 0 };
    let xattrs: usize = node.xattrs.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
    size_of::<(TreePath, Entry)>() + path.as_str().len() + target + xattrs
}

fn type_nibble(node: &Node) -> u16 {
    match node.kind {
        NodeKind::Dir => kind::DIR,
        NodeKind::File(_) | NodeKind::HardLink(_) => kind::FILE,
        NodeKind::Symlink(_) => kind::SYMLINK,
        NodeKind::CharDevice { .. } => kind::CHAR,
        NodeKind::BlockDevice { .. } => kind::BLOCK,
        NodeKind::Fifo => kind::FIFO,
    }
}

fn empty() -> [Content; 2] {
    [vec![].into(), vec![].into()]
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}
