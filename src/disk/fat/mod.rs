//! FAT: the ESP and the FORGE-ENROLL partition, from a tree ([`write()`]) and back ([`read()`]), and volumes that others
//! wrote ([`foreign`]).
//!
//! Microsoft's "FAT32 File System Specification" 1.03: FAT16 and FAT32 (by the count of clusters), 512-byte sectors, two
//! FATs, long names. What forge writes is contiguous and in tree order, so the bytes depend on tree and spec alone, and a
//! file read back is a window of the image.

pub mod foreign;
#[cfg(feature = "cli")]
mod layout;
pub mod names;
#[cfg(feature = "cli")]
mod read;
#[cfg(feature = "cli")]
mod write;

#[cfg(feature = "cli")]
pub use layout::volume_id;
#[cfg(feature = "cli")]
use layout::{Geometry, dos_time, epoch_of};
#[cfg(feature = "cli")]
pub use names::NameError;
#[cfg(feature = "cli")]
pub use read::{FatError, Volume, read};
#[cfg(feature = "cli")]
pub use write::{FatSpec, WriteError, write};

/// Bytes of a sector.
#[cfg(feature = "cli")]
const SECTOR: u64 = 512;
/// Bytes of a directory entry.
const ENTRY: usize = 32;
/// From this many clusters on a volume is FAT16, below it is FAT12 (specification, "FAT Type Determination").
const FAT16_CLUSTERS: u64 = 4085;
/// From this many clusters on a volume is FAT32.
const FAT32_CLUSTERS: u64 = 65525;

/// Attribute bits of a directory entry.
mod attribute {
    pub const VOLUME_LABEL: u8 = 0x08;
    pub const DIRECTORY: u8 = 0x10;
    #[cfg(feature = "cli")]
    pub const ARCHIVE: u8 = 0x20;
    /// Read-only, hidden, system and label at once: a part of a long name.
    pub const LONG_NAME: u8 = 0x0f;
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests;
