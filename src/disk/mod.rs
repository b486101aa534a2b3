//! Disk images: partitions, file systems, and how they lie on a disk.
//!
//! [`write()`] turns a [`DiskSpec`] into a raw, sparse image; [`DiskImage`] opens one again and [`verify()`] goes through
//! every byte of it. [`compose()`] leaves the pieces where they are, as [`Extents`], for the files of hypervisors that
//! [`mod@format`] makes of them. The formats are rooms of their own: [`gpt`], [`fat`], [`erofs`], and
//! [`crate::boot::verity`] for hash trees. Standards: UAPI.2 (Discoverable Partitions). Knows no profile and no keys.
//!
//! ```text
//! 0     1 MiB                                                                      end
//! | GPT | esp | root | root verity | payload | payload verity | FORGE-ENROLL | GPT |
//! ```
//!
//! Slot B and the state partition are no part of an image: the device makes them on its real disk. Of all this a device's
//! own program has the reader of FAT volumes that others wrote ([`fat::foreign`]), and what an installer takes: its order
//! ([`order`]), its medium ([`mod@iso`]) and the way of an image onto a disk ([`onto`]).

#[cfg(feature = "cli")]
pub mod compressed;
pub mod crc32;
#[cfg(feature = "cli")]
pub mod erofs;
#[cfg(feature = "cli")]
mod extents;
pub mod fat;
#[cfg(feature = "cli")]
pub mod format;
#[cfg(feature = "cli")]
pub mod gpt;
#[cfg(feature = "cli")]
mod image;
pub mod iso;
pub mod onto;
pub mod order;
#[cfg(feature = "cli")]
pub mod verify;
#[cfg(feature = "cli")]
mod write;

#[cfg(feature = "cli")]
pub use extents::Extents;
#[cfg(feature = "cli")]
pub use image::{DiskImage, ImageError};
#[cfg(feature = "cli")]
pub use verify::{DiskFault, DiskReport, verify};
#[cfg(feature = "cli")]
use write::first_nonzero;
#[cfg(feature = "cli")]
pub use write::{DiskError, DiskSpec, PartitionContent, PartitionSpec, compose, partition_length, write};

/// The size of FORGE-ENROLL and of a bundle's stick, in bytes: a bundle is kilobytes, and less is no FAT16 that
/// everything mounts.
pub const ENROLL_SIZE: u64 = 16 << 20;
/// The least ESP, in bytes: room for the kernels of two slots and for one that is being written, of up to 80 MiB each.
pub const ESP_LEAST: u64 = 256 << 20;
/// Its partition type: forge's own, drawn once and kept for ever, because devices find the partition by it.
pub const ENROLL_TYPE: crate::model::Guid =
    crate::model::Guid::from_u128(0xb40ac0b4_e023_4b36_95ea_de8bd1e5ca07);
/// Its volume label: FAT has eleven characters, and FORGE-ENROLL has twelve.
pub const ENROLL_LABEL: &str = "FORGEENROLL";
