//! EROFS: a tree as the read-only file system that the device runs from ([`write()`]), and back ([`Image`]).
//!
//! The kernel's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h, format of Linux 5.10 and later:
//! uncompressed, 4 KiB blocks, tails of files and directories behind their inodes. An image is
//!
//! ```text
//! 0      1024        1152                                meta          blocks
//! | zeros | superblock | inode, xattrs, tail | inode, …  | file data … |
//! ```
//!
//! Inodes are addressed by position: inode number n ("nid") lies at byte 32 n. Knows nothing of verity or partitions.

mod layout;
mod read;
mod write;

pub use read::{Entry, ErofsError, Image};
pub use write::{ErofsSpec, WriteError, write};

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Where the superblock starts: the first KiB is left to boot loaders.
const SUPERBLOCK_AT: u64 = 1024;
/// Bytes of the superblock.
const SUPERBLOCK: u64 = 128;
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xe0f5_e1e2;
/// `SB_CHKSUM | MTIME`: the superblock has a checksum, and inode times are modification times.
const FEATURES_COMPATIBLE: u32 = 0x3;
/// Inodes lie at multiples of this many bytes.
const SLOT: u64 = 32;
/// `EROFS_NULL_ADDR`: no block of its own.
const NO_BLOCK: u32 = u32::MAX;
/// `EROFS_INODE_FLAT_PLAIN`: all data in whole blocks.
const LAYOUT_PLAIN: u16 = 0;
/// `EROFS_INODE_FLAT_INLINE`: the last, partial block lies behind the inode.
const LAYOUT_INLINE: u16 = 2;
/// Bytes of a directory entry's fixed part.
const DIRENT: usize = 12;
/// Bytes of the header before an inode's extended attributes.
const XATTR_HEADER: u64 = 12;

/// The prefixes of attribute names that have a number of their own (`EROFS_XATTR_INDEX_*`).
const XATTR_PREFIXES: [(u8, &str); 5] = [
    (2, "system.posix_acl_access"),
    (3, "system.posix_acl_default"),
    (1, "user."),
    (4, "trusted."),
    (6, "security."),
];

/// The type nibbles of `st_mode`, and the numbers by which directory entries name them (`EROFS_FT_*`).
mod kind {
    pub const FIFO: u16 = 0o1;
    pub const CHAR: u16 = 0o2;
    pub const DIR: u16 = 0o4;
    pub const BLOCK: u16 = 0o6;
    pub const FILE: u16 = 0o10;
    pub const SYMLINK: u16 = 0o12;

    /// The directory entry's number for a type nibble.
    pub fn dirent(nibble: u16) -> u8 {
        match nibble {
            FILE => 1,
            DIR => 2,
            CHAR => 3,
            BLOCK => 4,
            FIFO => 5,
            SYMLINK => 7,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
