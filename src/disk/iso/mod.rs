//! The installer's medium: one image that is a GPT disk on a stick and ISO 9660 on an optical drive.
//!
//! ECMA-119 (ISO 9660) without extensions, El Torito 1.0 with one no-emulation entry for EFI (UEFI 2.10 §13.3.2.1). The
//! volume has three files in its root, and each is a partition of the disk as well, byte for byte:
//!
//! ```text
//! 0      32 KiB                           1 MiB                                            end
//! | GPT | descriptors, catalog, root dir | esp BOOT.IMG | DISK.ZST | FORGE-ENROLL ENROLL.IMG | GPT |
//! ```
//!
//! ISO 9660 leaves the first 32 KiB to others, and a partition table ends before. [`write()`] makes it; `read` finds a file
//! of it on a device, whatever the kernel thinks of that device: an optical drive shows no partitions.

pub mod read;
#[cfg(feature = "cli")]
mod write;

#[cfg(feature = "cli")]
pub use write::{IsoError, IsoSpec, write};

/// Bytes of a sector of an optical disk.
pub const SECTOR: u64 = 2048;
/// The EFI system partition.
pub const BOOT_FILE: &str = "BOOT.IMG";
/// The compressed disk image.
pub const IMAGE_FILE: &str = "DISK.ZST";
/// The FORGE-ENROLL partition.
pub const ENROLL_FILE: &str = "ENROLL.IMG";
/// The volume's label, by which a medium is known.
pub const VOLUME: &str = "FORGE_INSTALLER";

/// Sector of the primary volume descriptor (ECMA-119 §6.2.1).
const DESCRIPTOR: u64 = 16;
/// What every volume descriptor has from its second byte on.
const STANDARD: &[u8; 6] = b"CD001\x01";
/// Byte of the root's record in the descriptor.
const ROOT: usize = 156;
/// Flag of a record that has another one behind it for the same file.
const MULTI_EXTENT: u8 = 0x80;
