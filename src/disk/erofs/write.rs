//! A tree into an EROFS image: laid out first ([`super::layout`]), then everything is written once, front to back.

use super::layout::{Inode, fitting, lay_out, xattr_count};
use super::{
    BLOCK, DIRENT, FEATURES_COMPATIBLE, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, NO_BLOCK, SUPERBLOCK,
    SUPERBLOCK_AT, kind,
};
use crate::model::{Epoch, Guid};
use crate::tree::{NodeKind, Tree, TreeError, TreePath};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Files up to this many bytes pass through a buffer with their neighbours; longer ones are copied by the kernel.
const SMALL: u64 = 128 * 1024;
/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

/// What an image is besides its tree.
#[derive(Clone, Debug)]
pub struct ErofsSpec {
    /// The file system's UUID.
    pub uuid: Guid,
    /// The build's time: the time of the image, and the latest that any file has.
    pub epoch: Epoch,
    /// The volume's name: at most 15 bytes.
    pub name: String,
}

/// A tree that EROFS cannot hold, or a file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A name that the superblock has no room for.
    #[error("volume name `{0}` is longer than 15 bytes")]
    VolumeName(String),
    /// An attribute outside the name spaces that EROFS knows, or too large.
    #[error("`{path}` has the extended attribute `{name}` of {length} bytes, which EROFS cannot hold")]
    ExtendedAttribute {
        /// The file.
        path: TreePath,
        /// The attribute's full name.
        name: String,
        /// Its value's length in bytes.
        length: usize,
    },
    /// More blocks than 32 bits count.
    #[error("the image would have {0} blocks of 4 KiB, more than EROFS can count")]
    TooLarge(u64),
    /// A hard link without its file.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A content that could not be copied.
    #[error("copying `{path}` into the image")]
    Copy {
        /// The file.
        path: TreePath,
        /// What the file system said.
        source: io::Error,
    },
    /// The image could not be written.
    #[error("writing the image")]
    Io(#[from] io::Error),
}

/// Writes `tree` as an EROFS image to `out`, from its first byte; the image's length, a multiple of 4096. The bytes
/// depend on tree and spec alone. Contents stream; memory grows with names and attributes.
///
/// # Errors
/// [`WriteError`] as its variants say.
pub fn write(tree: &Tree, spec: &ErofsSpec, out: &File) -> Result<u64, WriteError> {
    if spec.name.len() > 15 {
        return Err(WriteError::VolumeName(spec.name.clone()));
    }
    tree.check()?;
    let (inodes, blocks) = lay_out(tree, spec.epoch)?;
    if blocks >= u64::from(NO_BLOCK) {
        return Err(WriteError::TooLarge(blocks));
    }
    out.set_len(0)?; // what an earlier attempt left would show through holes
    out.set_len(blocks * BLOCK)?;
    write_inodes(&inodes, spec, blocks, out)?;
    seal(out)?;
    Ok(blocks * BLOCK)
}

/// Writes everything in one pass: inodes with their tails into the front, whole blocks behind.
fn write_inodes(inodes: &[Inode<'_>], spec: &ErofsSpec, blocks: u64, out: &File) -> Result<(), WriteError> {
    let first = inodes.iter().find_map(|inode| inode.block).unwrap_or(blocks);
    let mut meta = Positioned::new(out, SUPERBLOCK_AT);
    let mut data = Positioned::new(out, first * BLOCK);
    meta.write_all(&superblock(inodes, spec, blocks))?;
    let mut bytes = vec![];
    for (index, inode) in inodes.iter().enumerate() {
        meta.pad_to(inode.at)?;
        meta.write_all(&header(inode, index))?;
        meta.write_all(&inode.xattrs)?;
        bytes.clear();
        let mut whole = inode.whole() as usize;
        match &inode.node.kind {
            NodeKind::Dir => bytes = directory(inode, inodes),
            NodeKind::Symlink(target) => bytes.extend(target.as_bytes()),
            NodeKind::File(content) => {
                let copied = |source| WriteError::Copy { path: inode.path.clone(), source };
                if content.len() > SMALL
                    && let Some(block) = inode.block
                {
                    let rest = content.slice(0, inode.whole()).map_err(copied)?;
                    data.skip(rest.len())?;
                    rest.copy_to(out, block * BLOCK).map_err(copied)?;
                    whole = 0;
                }
                bytes.resize(inode.inline as usize + whole, 0);
                let from = content.len() - bytes.len() as u64;
                content.read_exact_at(&mut bytes, from).map_err(copied)?;
            }
            _ => {}
        }
        let (whole, tail) = bytes.split_at(whole);
        data.write_all(whole)?;
        data.pad_to(data.at.next_multiple_of(BLOCK))?;
        meta.write_all(tail)?;
    }
    meta.flush()?;
    data.flush()?;
    Ok(())
}

/// `struct erofs_super_block`, its checksum still zero.
fn superblock(inodes: &[Inode<'_>], spec: &ErofsSpec, blocks: u64) -> [u8; SUPERBLOCK as usize] {
    let mut sb = [0; SUPERBLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &FEATURES_COMPATIBLE.to_le_bytes());
    put(12, &[BLOCK.trailing_zeros() as u8]);
    put(14, &(inodes[0].nid() as u16).to_le_bytes()); // the root is the first inode: 36
    put(16, &(inodes.len() as u64).to_le_bytes());
    put(24, &spec.epoch.0.to_le_bytes());
    put(36, &(blocks as u32).to_le_bytes());
    put(48, spec.uuid.as_bytes());
    put(64, spec.name.as_bytes());
    sb
}

/// `struct erofs_inode_compact` or `_extended`.
fn header(inode: &Inode<'_>, index: usize) -> Vec<u8> {
    let node = inode.node;
    let layout = if inode.inline > 0 { LAYOUT_INLINE } else { LAYOUT_PLAIN };
    let place = match node.kind {
        NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
            // new_encode_dev() of include/linux/kdev_t.h
            minor & 0xff | major << 8 | (minor & !0xff) << 12
        }
        NodeKind::Fifo => 0,
        _ => inode.block.map_or(NO_BLOCK, |block| block as u32),
    };
    let number = index as u32 + 1; // for stat(2) on 32-bit machines only
    let mut h = Vec::with_capacity(64);
    h.extend((u16::from(inode.extended) | layout << 1).to_le_bytes());
    h.extend((xattr_count(inode.xattrs.len()) as u16).to_le_bytes());
    h.extend((inode.kind << 12 | (node.mode & 0o7777) as u16).to_le_bytes());
    if inode.extended {
        h.extend([0; 2]);
        h.extend(inode.size.to_le_bytes());
        h.extend(place.to_le_bytes());
        h.extend(number.to_le_bytes());
        h.extend(node.uid.to_le_bytes());
        h.extend(node.gid.to_le_bytes());
        h.extend(inode.mtime.to_le_bytes());
        h.extend([0; 4]); // nanoseconds
        h.extend(inode.nlink.to_le_bytes());
        h.extend([0; 16]);
    } else {
        h.extend((inode.nlink as u16).to_le_bytes());
        h.extend((inode.size as u32).to_le_bytes());
        h.extend([0; 4]);
        h.extend(place.to_le_bytes());
        h.extend(number.to_le_bytes());
        h.extend((node.uid as u16).to_le_bytes());
        h.extend((node.gid as u16).to_le_bytes());
        h.extend([0; 4]);
    }
    h
}

/// A directory's data: blocks of entries in byte order of the names, `.` and `..` among them. Each block has its
/// entries' fixed parts first, then their names; the last block ends with its last name.
fn directory(inode: &Inode<'_>, inodes: &[Inode<'_>]) -> Vec<u8> {
    let mut entries: Vec<(&[u8], &Inode<'_>)> =
        inode.children.iter().map(|(name, index)| (name.as_bytes(), &inodes[*index])).collect();
    entries.push((b".", inode));
    entries.push((b"..", &inodes[inode.parent]));
    entries.sort_by_key(|(name, _)| *name);
    let mut data = Vec::with_capacity(inode.size as usize);
    let mut rest = &entries[..];
    while !rest.is_empty() {
        data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
        let (block, after) = rest.split_at(fitting(rest.iter().map(|(name, _)| name.len())));
        let mut name_at = block.len() * DIRENT;
        for (name, child) in block {
            data.extend(child.nid().to_le_bytes());
            data.extend((name_at as u16).to_le_bytes());
            data.extend([kind::dirent(child.kind), 0]);
            name_at += name.len();
        }
        block.iter().for_each(|(name, _)| data.extend(*name));
        rest = after;
    }
    data
}

/// Puts the checksum into the superblock: CRC-32C, without the final inversion, of the first block from the superblock
/// on.
fn seal(out: &File) -> io::Result<()> {
    let mut first = [0; (BLOCK - SUPERBLOCK_AT) as usize];
    out.read_exact_at(&mut first, SUPERBLOCK_AT)?;
    out.write_all_at(&(!crc32c::crc32c(&first)).to_le_bytes(), SUPERBLOCK_AT + 4)
}

/// Writes a file from a position on through a buffer, without moving the file's own position.
struct Positioned<'a> {
    file: &'a File,
    /// Where the next byte goes.
    at: u64,
    buffer: Vec<u8>,
}

impl<'a> Positioned<'a> {
    fn new(file: &'a File, at: u64) -> Self {
        Positioned { file, at, buffer: Vec::with_capacity(BUFFER) }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, at: u64) -> io::Result<()> {
        self.write_all(&[0; BLOCK as usize][..(at - self.at) as usize])
    }

    /// Leaves the next `length` bytes to others, up to the block that they end in.
    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.flush()?;
        self.at += length.next_multiple_of(BLOCK);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at - self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }
}
