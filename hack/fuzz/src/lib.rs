//! What several targets share: files in memory, and checksums set right, which random bytes would never get past.

use std::fs::File;
use std::io::Write as _;

/// Bytes of the volume that the target `fat` reads.
pub const FAT_LENGTH: u64 = 4 << 20;
/// Bytes of the disk that the target `gpt` reads.
pub const DISK_LENGTH: u64 = 2 << 20;

/// An unnamed file with `bytes` in it.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("the machine has room for a temporary file");
    file.write_all(bytes).expect("the machine has room for a temporary file");
    file
}

/// `bytes` with the checksum of every tar header in them as it must be.
pub fn with_tar_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len().saturating_sub(511) {
        if &bytes[at + 257..at + 262] == b"ustar" {
            let header = &mut bytes[at..at + 512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// Sets the checksums of both copies of a partition table right.
pub fn with_gpt_checksums(disk: &mut [u8]) {
    let last = disk.len() - 512;
    for (header, entries) in [(512, 1024), (last, last - 128 * 128)] {
        let entries = crc32(&disk[entries..entries + 128 * 128]);
        disk[header + 88..header + 92].copy_from_slice(&entries);
        disk[header + 16..header + 20].fill(0);
        let covered = crc32(&disk[header..header + 92]);
        disk[header + 16..header + 20].copy_from_slice(&covered);
    }
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}
