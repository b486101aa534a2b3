//! GUID partition tables: partitions with their places into both copies of the table, and back with every check.
//!
//! UEFI 2.10, chapter 5; partition types of UAPI.2 (Discoverable Partitions). 512-byte sectors, 128 entries of 128 bytes,
//! partitions at multiples of 1 MiB; what others wrote is read by [`Table::read`]. Knows no contents.

mod read;

use crate::disk::crc32::crc32;
use crate::model::{Arch, Guid};
use crate::tree::Content;
use std::io;

/// Bytes of a logical block. A disk with blocks of 4096 bytes needs a table of its own.
pub const SECTOR: u64 = 512;
/// Partitions start and end at multiples of this many bytes, which every flash page and RAID stripe divides.
pub const ALIGNMENT: u64 = 1 << 20;
/// Entries of a table: what UEFI asks for at least, and what every tool writes.
const ENTRIES: u64 = 128;
/// Bytes of an entry.
const ENTRY: u64 = 128;
/// Sectors of the entries.
const ENTRY_SECTORS: u64 = ENTRIES * ENTRY / SECTOR;
/// Bytes of the header that its checksum covers.
const HEADER: usize = 92;
/// Bytes at the start of the disk: protective MBR, header, entries.
pub const HEAD: u64 = (2 + ENTRY_SECTORS) * SECTOR;
/// Bytes at the end of the disk: entries, header.
pub const TAIL: u64 = (1 + ENTRY_SECTORS) * SECTOR;

/// What a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionType {
    /// EFI system partition.
    Esp,
    /// The operating system of an architecture.
    Root(Arch),
    /// The hash tree over it.
    RootVerity(Arch),
    /// The workloads' payload: forge's own.
    Payload,
    /// The hash tree over it: forge's own.
    PayloadVerity,
    /// The FORGE-ENROLL partition: forge's own, so that no firmware takes it for an ESP and nothing mounts it unasked.
    Enroll,
    /// `/var` of the device; made at first boot.
    Var,
    /// The compressed disk image on an installer's medium: forge's own.
    Image,
}

impl PartitionType {
    /// Every type.
    pub const ALL: [PartitionType; 10] = [
        PartitionType::Esp,
        PartitionType::Root(Arch::Amd64),
        PartitionType::Root(Arch::Arm64),
        PartitionType::RootVerity(Arch::Amd64),
        PartitionType::RootVerity(Arch::Arm64),
        PartitionType::Payload,
        PartitionType::PayloadVerity,
        PartitionType::Enroll,
        PartitionType::Var,
        PartitionType::Image,
    ];

    /// The type GUID: UAPI.2's, or one drawn once for forge and kept for ever, because devices find partitions by it.
    pub const fn guid(self) -> Guid {
        Guid::from_u128(match self {
            PartitionType::Esp => 0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b,
            PartitionType::Root(Arch::Amd64) => 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709,
            PartitionType::Root(Arch::Arm64) => 0xb921b045_1df0_41c3_af44_4c6f280d3fae,
            PartitionType::RootVerity(Arch::Amd64) => 0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5,
            PartitionType::RootVerity(Arch::Arm64) => 0xdf3300ce_d69f_4c92_978c_9bfb0f38d820,
            PartitionType::Payload => 0x2f87015d_7b07_481b_a8b5_a5762b7a1123,
            PartitionType::PayloadVerity => 0xef686905_4967_425c_9090_a23cf436fa2a,
            PartitionType::Enroll => return super::ENROLL_TYPE,
            PartitionType::Var => 0x4d21b016_b534_45c2_a9fb_5c16e091fd2d,
            PartitionType::Image => 0xf7237308_0fa3_4d15_899b_5b7e1e75264d,
        })
    }

    /// The type of a GUID, where forge knows it.
    pub fn of(guid: Guid) -> Option<PartitionType> {
        PartitionType::ALL.into_iter().find(|t| t.guid() == guid)
    }
}

/// Attribute bits of a partition (UAPI.2, "Partition Flags").
pub mod flag {
    /// systemd-growfs grows the file system on mounting.
    pub const GROW_FILE_SYSTEM: u64 = 1 << 59;
    /// Mounted read-only.
    pub const READ_ONLY: u64 = 1 << 60;
    /// Not mounted by systemd's generator on its own.
    pub const NO_AUTO: u64 = 1 << 63;
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What it is for, as stored.
    pub type_guid: Guid,
    /// Its own UUID.
    pub guid: Guid,
    /// Its label: at most 36 UTF-16 units.
    pub name: String,
    /// [`flag`] bits.
    pub flags: u64,
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk's UUID.
    pub disk: Guid,
    /// Length of the disk in bytes.
    pub length: u64,
    /// The entries from the first on, without gaps.
    pub partitions: Vec<Partition>,
}

/// Why a table is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// A length that is no whole count of sectors, or has no room for the table.
    #[error("a disk of {0} bytes has no room for a partition table or ends within a sector")]
    DiskLength(u64),
    /// More partitions than a table has entries.
    #[error("{0} partitions, more than the 128 that a table holds")]
    TooMany(usize),
    /// A partition that is empty, lies off the alignment, outside the usable part, or over its predecessor.
    #[error("partition `{name}` at bytes {offset} to {end}: {why}")]
    Place {
        /// The partition's label.
        name: String,
        /// First byte.
        offset: u64,
        /// Byte after the last.
        end: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A label that is too long, or two partitions with one UUID.
    #[error("partition `{name}`: {why}")]
    Entry {
        /// The partition's label.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A part of the table on disk is not what it has to be.
    #[error("{part} at byte {offset}: {why}")]
    Damaged {
        /// Protective MBR, header, entry, and of which copy.
        part: String,
        /// First wrong byte, or where the part starts.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The disk could not be read.
    #[error("reading the partition table")]
    Io(#[from] io::Error),
}

impl Table {
    /// The bytes of both ends of the disk: the first [`HEAD`] and the last [`TAIL`].
    ///
    /// # Errors
    /// [`GptError`] when the partitions overlap, lie outside, off the alignment, or cannot be described.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<u8>), GptError> {
        self.check()?;
        let sectors = self.length / SECTOR;
        let mut entries = vec![0; (ENTRIES * ENTRY) as usize];
        for (entry, partition) in entries.chunks_exact_mut(ENTRY as usize).zip(&self.partitions) {
            entry[..16].copy_from_slice(&partition.type_guid.to_gpt());
            entry[16..32].copy_from_slice(&partition.guid.to_gpt());
            entry[32..40].copy_from_slice(&(partition.offset / SECTOR).to_le_bytes());
            let last = (partition.offset + partition.length) / SECTOR - 1;
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            entry[48..56].copy_from_slice(&partition.flags.to_le_bytes());
            for (unit, c) in entry[56..].chunks_exact_mut(2).zip(partition.name.encode_utf16()) {
                unit.copy_from_slice(&c.to_le_bytes());
            }
        }
        let mut head = protective_mbr(sectors);
        head.extend(self.header(1, sectors - 1, 2, &entries));
        head.extend(&entries);
        let mut tail = entries;
        let backup = self.header(sectors - 1, 1, sectors - 1 - ENTRY_SECTORS, &tail);
        tail.extend(backup);
        Ok((head, tail))
    }

    /// A header sector that lies at sector `at`, its other copy at `other`, its entries from sector `entries_at` on.
    fn header(&self, at: u64, other: u64, entries_at: u64, entries: &[u8]) -> Vec<u8> {
        let mut h = vec![0; SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"EFI PART");
        put(8, &0x0001_0000u32.to_le_bytes()); // revision 1.0
        put(12, &(HEADER as u32).to_le_bytes());
        put(24, &at.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &(HEAD / SECTOR).to_le_bytes());
        put(48, &((self.length - TAIL) / SECTOR - 1).to_le_bytes());
        put(56, &self.disk.to_gpt());
        put(72, &entries_at.to_le_bytes());
        put(80, &(ENTRIES as u32).to_le_bytes());
        put(84, &(ENTRY as u32).to_le_bytes());
        put(88, &crc32(entries).to_le_bytes());
        let checksum = crc32(&h[..HEADER]);
        h[16..20].copy_from_slice(&checksum.to_le_bytes());
        h
    }

    fn check(&self) -> Result<(), GptError> {
        if !self.length.is_multiple_of(SECTOR) || self.length < HEAD + TAIL + ALIGNMENT {
            return Err(GptError::DiskLength(self.length));
        }
        if self.partitions.len() as u64 > ENTRIES {
            return Err(GptError::TooMany(self.partitions.len()));
        }
        let mut free = HEAD;
        for (index, p) in self.partitions.iter().enumerate() {
            let entry = |why| Err(GptError::Entry { name: p.name.clone(), why });
            let end = p.offset.saturating_add(p.length);
            let place = |why| Err(GptError::Place { name: p.name.clone(), offset: p.offset, end, why });
            if p.name.encode_utf16().count() > 36 || p.name.contains('\0') {
                return entry("its label is longer than 36 UTF-16 units, or has a NUL");
            }
            if p.guid == Guid::NIL || p.type_guid == Guid::NIL {
                return entry("it has no UUID or no type");
            }
            if self.partitions[..index].iter().any(|other| other.guid == p.guid) {
                return entry("another partition has the same UUID");
            }
            if p.length == 0 || !p.offset.is_multiple_of(ALIGNMENT) || !p.length.is_multiple_of(SECTOR) {
                return place("empty, or not at a multiple of 1 MiB");
            }
            if p.offset < free {
                return place("it begins before its predecessor ends");
            }
            if end > self.length - TAIL {
                return place("it ends beyond the disk");
            }
            free = end;
        }
        Ok(())
    }

    /// Reads and checks the table of `disk`, which must be one that [`Table::encode`] gives: both copies equal, every
    /// reserved byte zero.
    ///
    /// # Errors
    /// [`GptError`] naming the part and the byte.
    pub fn decode(disk: &Content) -> Result<Table, GptError> {
        let length = disk.len();
        if !length.is_multiple_of(SECTOR) || length < HEAD + TAIL + ALIGNMENT {
            return Err(GptError::DiskLength(length));
        }
        let mut head = vec![0; HEAD as usize];
        disk.read_exact_at(&mut head, 0)?;
        let mut tail = vec![0; TAIL as usize];
        disk.read_exact_at(&mut tail, length - TAIL)?;
        // The entries are believed from the copy whose checksums hold, so that a damaged one can be named.
        let entries_length = (ENTRIES * ENTRY) as usize;
        let primary = (&head[SECTOR as usize..2 * SECTOR as usize], &head[2 * SECTOR as usize..]);
        let backup = (&tail[entries_length..], &tail[..entries_length]);
        let (header, entries) = if sound(primary) {
            primary
        } else if sound(backup) {
            backup
        } else {
            return Err(GptError::Damaged {
                part: "partition table".into(),
                offset: SECTOR,
                why: "in neither copy do the checksums hold",
            });
        };
        let mut table = Table { disk: guid_at(header, 56), length, partitions: vec![] };
        for entry in entries.chunks_exact(ENTRY as usize) {
            if entry[..16] == [0; 16] {
                break; // what follows must be empty, which the comparison below sees
            }
            table.partitions.push(partition(entry)?);
        }
        let (good_head, good_tail) = table.encode()?;
        differs(&head, &good_head, 0, length)?;
        differs(&tail, &good_tail, length - TAIL, length)?;
        Ok(table)
    }
}

/// Whether both checksums of a copy hold.
fn sound((header, entries): (&[u8], &[u8])) -> bool {
    let mut covered = header[..HEADER].to_vec();
    covered[16..20].fill(0);
    &header[..8] == b"EFI PART"
        && crc32(&covered).to_le_bytes() == header[16..20]
        && crc32(entries).to_le_bytes() == header[88..92]
}

fn partition(entry: &[u8]) -> Result<Partition, GptError> {
    let units: Vec<u16> = entry[56..]
        .chunks_exact(2)
        .map(|u| u16::from_le_bytes([u[0], u[1]]))
        .take_while(|u| *u != 0)
        .collect();
    let name = String::from_utf16_lossy(&units);
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
    let place = last
        .checked_sub(first)
        .and_then(|n| n.checked_add(1))
        .and_then(bytes)
        .and_then(|length| Some((bytes(first)?, length)));
    let Some((offset, length)) = place else {
        return Err(GptError::Entry { name, why: "it ends before it begins, or beyond any disk" });
    };
    let flags = u64_at(entry, 48);
    Ok(Partition { type_guid: guid_at(entry, 0), guid: guid_at(entry, 16), name, flags, offset, length })
}

/// Names the part in which `found`, which lies at byte `start` of a disk of `length` bytes, is not as it should be.
fn differs(found: &[u8], good: &[u8], start: u64, length: u64) -> Result<(), GptError> {
    let Some(at) = found.iter().zip(good).position(|(a, b)| a != b) else { return Ok(()) };
    let offset = start + at as u64;
    let entry = |first: u64| (offset - first) / ENTRY;
    let part = if offset < SECTOR {
        "protective MBR".into()
    } else if offset < 2 * SECTOR {
        "primary GPT header".into()
    } else if offset < HEAD {
        format!("primary GPT entry {}", entry(2 * SECTOR))
    } else if offset < length - SECTOR {
        format!("backup GPT entry {}", entry(length - TAIL))
    } else {
        "backup GPT header".into()
    };
    Err(GptError::Damaged { part, offset, why: "not what the rest of the table says" })
}

/// The MBR that keeps tools without GPT away: one partition of type 0xEE over all the disk (UEFI 2.10, 5.2.3).
fn protective_mbr(sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR as usize];
    let count = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    mbr[458..462].copy_from_slice(&count.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn guid_at(b: &[u8], at: usize) -> Guid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&b[at..at + 16]);
    Guid::from_gpt(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let partition = |i: u128, name: &str, offset: u64, length: u64| Partition {
            type_guid: PartitionType::Esp.guid(),
            guid: Guid::from_u128(i),
            name: name.into(),
            flags: flag::READ_ONLY,
            offset: offset << 20,
            length: length << 20,
        };
        Table {
            disk: Guid::from_u128(9),
            length: 8 << 20,
            partitions: vec![partition(1, "esp", 1, 2), partition(2, "größe", 4, 3)],
        }
    }

    fn disk(table: &Table) -> Vec<u8> {
        let (head, tail) = table.encode().unwrap();
        let mut disk = vec![0; table.length as usize];
        disk[..head.len()].copy_from_slice(&head);
        let at = disk.len() - tail.len();
        disk[at..].copy_from_slice(&tail);
        disk
    }

    #[test]
    fn a_table_survives_its_disk() {
        assert_eq!(Table::decode(&disk(&table()).into()).unwrap(), table());
    }

    #[test]
    fn one_flipped_byte_in_either_copy_is_named() {
        let good = disk(&table());
        let end = good.len();
        for (at, part) in [
            (3, "protective MBR"),
            (512 + 30, "primary GPT header"),
            (1023, "primary GPT header"),
            (1024 + 128 + 60, "primary GPT entry 1"),
            (1024 + 128 * 128 - 1, "primary GPT entry 127"),
            (end - 33 * 512 + 5, "backup GPT entry 0"),
            (end - 512 + 88, "backup GPT header"),
            (end - 1, "backup GPT header"),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let error = Table::decode(&bad.into()).unwrap_err().to_string();
            assert!(error.starts_with(part), "{at}: {error}");
        }
    }

    #[test]
    fn partitions_that_cannot_be_are_refused() {
        for (what, change) in [
            ("begins before", (|t| t.partitions[1].offset = 2 << 20) as fn(&mut Table)),
            ("beyond the disk", |t| t.partitions[1].length = 4 << 20),
            ("multiple of 1 MiB", |t| t.partitions[0].offset += 512),
            ("36 UTF-16", |t| t.partitions[0].name = "x".repeat(37)),
            ("same UUID", |t| t.partitions[1].guid = t.partitions[0].guid),
            ("no UUID", |t| t.partitions[1].guid = Guid::NIL),
        ] {
            let mut bad = table();
            change(&mut bad);
            let error = bad.encode().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
