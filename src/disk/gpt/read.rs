//! Any valid table, as systemd-repart, sfdisk and their like leave it on a device, with every check of UEFI 2.10 §5.3.2.
//!
//! [`Table::decode`] takes only forge's own bytes, which is how a released image is verified. A device's table was
//! written anew by others: its backup lies where its header says, entries are free in between, the first usable sector is
//! another. Here the two copies still have to hold and to say the same.

use super::{ENTRY, GptError, HEAD, SECTOR, TAIL, Table, crc32, guid_at, partition, u64_at};
use crate::model::Guid;
use crate::tree::Content;

/// The most entries that are read: eight times what any tool writes unasked.
const MAX_ENTRIES: u32 = 1024;
/// The largest entry, in bytes; every tool writes 128.
const MAX_ENTRY: u32 = 4096;

/// What both copies of a table have to agree on.
#[derive(PartialEq, Eq)]
struct Common {
    disk: Guid,
    first_usable: u64,
    last_usable: u64,
    entry_size: u32,
    entries: Vec<u8>,
}

/// One copy of a table, checked in itself.
struct Copy {
    alternate: u64,
    common: Common,
}

impl Table {
    /// Reads and checks the table of a disk that others may have written to. Partitions come in the order of their
    /// places; their numbers are not kept.
    ///
    /// # Errors
    /// [`GptError`] naming the part, or the partition.
    pub fn read(disk: &Content) -> Result<Table, GptError> {
        let length = disk.len();
        if !length.is_multiple_of(SECTOR) || length < HEAD + TAIL {
            return Err(GptError::DiskLength(length));
        }
        let mut mbr = [0; SECTOR as usize];
        disk.read_exact_at(&mut mbr, 0)?;
        let protected = mbr[446..510].chunks_exact(16).any(|record| record[4] == 0xee);
        if !protected || mbr[510..] != [0x55, 0xaa] {
            let why = "it has no partition of type 0xEE";
            return Err(GptError::Damaged { part: "protective MBR".into(), offset: 0, why });
        }
        let sectors = length / SECTOR;
        let primary = copy(disk, "primary", 1, sectors)?;
        let backup = copy(disk, "backup", primary.alternate, sectors)?;
        if backup.alternate != 1 || backup.common != primary.common {
            let offset = primary.alternate * SECTOR;
            let why = "it does not say what the primary says";
            return Err(GptError::Damaged { part: "backup GPT".into(), offset, why });
        }
        let common = primary.common;
        let mut partitions = vec![];
        for entry in common.entries.chunks_exact(common.entry_size as usize) {
            if entry[..16] != [0; 16] {
                partitions.push(partition(&entry[..ENTRY as usize])?);
            }
        }
        partitions.sort_by_key(|p| p.offset);
        let mut free = common.first_usable * SECTOR;
        for (index, p) in partitions.iter().enumerate() {
            let end = p.offset.saturating_add(p.length);
            let place = |why| Err(GptError::Place { name: p.name.clone(), offset: p.offset, end, why });
            if p.offset < free {
                return place("it begins before its predecessor ends, or before the usable part");
            }
            if end > (common.last_usable + 1) * SECTOR {
                return place("it ends beyond the usable part");
            }
            if p.guid == Guid::NIL || partitions[..index].iter().any(|other| other.guid == p.guid) {
                return Err(GptError::Entry { name: p.name.clone(), why: "it has no UUID of its own" });
            }
            free = end;
        }
        Ok(Table { disk: common.disk, length, partitions })
    }
}

/// The copy whose header lies at sector `at` of a disk of so many `sectors`.
fn copy(disk: &Content, which: &str, at: u64, sectors: u64) -> Result<Copy, GptError> {
    let damaged = |what: &str, sector: u64, why| {
        let offset = sector.saturating_mul(SECTOR);
        Err(GptError::Damaged { part: format!("{which} GPT {what}"), offset, why })
    };
    if at == 0 || at >= sectors {
        return damaged("header", at, "it lies outside the disk");
    }
    let mut header = [0; SECTOR as usize];
    disk.read_exact_at(&mut header, at * SECTOR)?;
    let size = u32_at(&header, 12) as usize;
    if header[..12] != *b"EFI PART\0\0\x01\0" || !(92..=header.len()).contains(&size) {
        return damaged("header", at, "it is none of revision 1.0");
    }
    let mut covered = header[..size].to_vec();
    covered[16..20].fill(0);
    if crc32(&covered) != u32_at(&header, 16) {
        return damaged("header", at, "its checksum does not hold");
    }
    let (first_usable, last_usable) = (u64_at(&header, 40), u64_at(&header, 48));
    let (entries_at, count, entry_size) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    if u64_at(&header, 24) != at {
        return damaged("header", at, "it says that it lies elsewhere");
    }
    if first_usable > last_usable || last_usable >= sectors {
        return damaged("header", at, "its usable part is empty, or ends beyond the disk");
    }
    let whole = (128..=MAX_ENTRY).contains(&entry_size) && entry_size.is_power_of_two();
    if !whole || !(1..=MAX_ENTRIES).contains(&count) {
        return damaged("header", at, "its entries are of no size or count that is read");
    }
    let bytes = u64::from(count) * u64::from(entry_size);
    let entries_end = entries_at.saturating_add(bytes.div_ceil(SECTOR));
    let before = entries_at > 1 && entries_end <= first_usable;
    let behind = entries_at > last_usable && entries_end <= sectors;
    if !(before || behind) || (entries_at..entries_end).contains(&at) {
        return damaged("header", at, "its entries lie in the usable part, in a header, or outside the disk");
    }
    let mut entries = vec![0; bytes as usize];
    disk.read_exact_at(&mut entries, entries_at * SECTOR)?;
    if crc32(&entries) != u32_at(&header, 88) {
        return damaged("entries", entries_at, "their checksum does not hold");
    }
    let common = Common { disk: guid_at(&header, 56), first_usable, last_usable, entry_size, entries };
    Ok(Copy { alternate: u64_at(&header, 32), common })
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::super::{Partition, PartitionType};
    use super::*;

    /// An image of 8 MiB that was copied to a disk of 16 MiB and grown by another tool: the backup moved, entry 1 freed,
    /// a partition added at a multiple of 4 KiB.
    fn grown() -> Vec<u8> {
        let partition = |i: u128, offset: u64, length: u64| Partition {
            type_guid: PartitionType::Esp.guid(),
            guid: Guid::from_u128(i),
            name: format!("p{i}"),
            flags: 0,
            offset,
            length,
        };
        let partitions = vec![partition(1, 1 << 20, 1 << 20), partition(2, 2 << 20, 1 << 20)];
        let image = Table { disk: Guid::from_u128(9), length: 16 << 20, partitions };
        let (head, tail) = image.encode().unwrap();
        let mut disk = vec![0; 16 << 20];
        disk[..head.len()].copy_from_slice(&head);
        let tail_at = disk.len() - tail.len();
        disk[tail_at..].copy_from_slice(&tail);
        for entries in [1024, tail_at] {
            let second = disk[entries + 128..entries + 256].to_vec();
            disk[entries + 128..entries + 256].fill(0);
            let third = &mut disk[entries + 256..entries + 384];
            third.copy_from_slice(&second);
            third[32..40].copy_from_slice(&((3u64 << 20) / SECTOR + 8).to_le_bytes());
            third[40..48].copy_from_slice(&((4u64 << 20) / SECTOR).to_le_bytes());
        }
        change(&mut disk, |header| header[40..48].copy_from_slice(&2048u64.to_le_bytes()));
        disk
    }

    /// Changes both headers and makes their checksums hold again.
    fn change(disk: &mut [u8], edit: impl Fn(&mut [u8])) {
        let backup = disk.len() - 512;
        for (header, entries) in [(512, 1024), (backup, backup - 128 * 128)] {
            let checksum = crc32(&disk[entries..entries + 128 * 128]);
            disk[header + 88..header + 92].copy_from_slice(&checksum.to_le_bytes());
            edit(&mut disk[header..header + 512]);
            disk[header + 16..header + 20].fill(0);
            let checksum = crc32(&disk[header..header + 92]);
            disk[header + 16..header + 20].copy_from_slice(&checksum.to_le_bytes());
        }
    }

    #[test]
    fn a_table_that_others_wrote_is_read() {
        let disk = grown();
        let table = Table::read(&disk.clone().into()).unwrap();
        let places: Vec<_> = table.partitions.iter().map(|p| (p.name.as_str(), p.offset)).collect();
        assert_eq!(places, [("p1", 1 << 20), ("p2", (3 << 20) + 4096)]);
        assert_eq!(table.length, 16 << 20);
        assert!(Table::decode(&disk.into()).is_err(), "it is none that forge wrote");
    }

    #[test]
    fn one_flipped_byte_in_either_copy_is_found() {
        let good = grown();
        let end = good.len();
        for (at, part) in [
            (450, "protective MBR"),
            (512 + 30, "primary GPT header"),
            (1024 + 300, "primary GPT entries"),
            (1024 + 128 * 128 - 1, "primary GPT entries"),
            (end - 33 * 512 + 5, "backup GPT entries"),
            (end - 512 + 60, "backup GPT header"),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let error = Table::read(&bad.into()).unwrap_err().to_string();
            assert!(error.starts_with(part), "{at}: {error}");
        }
    }

    #[test]
    fn headers_that_lead_astray_are_refused_though_their_checksums_hold() {
        let put =
            |at: usize, value: u64| move |h: &mut [u8]| h[at..at + 8].copy_from_slice(&value.to_le_bytes());
        type Edit = Box<dyn Fn(&mut [u8])>;
        let cases: [(&str, Edit); 7] = [
            ("lies elsewhere", Box::new(put(24, 7))),
            ("outside the disk", Box::new(put(32, u64::MAX))),
            ("ends beyond the disk", Box::new(put(48, u64::MAX))),
            ("no size or count", Box::new(|h| h[80..84].copy_from_slice(&u32::MAX.to_le_bytes()))),
            ("no size or count", Box::new(|h| h[84..88].copy_from_slice(&129u32.to_le_bytes()))),
            ("usable part", Box::new(put(72, u64::MAX - 3))),
            ("usable part", Box::new(put(40, 3))),
        ];
        for (why, edit) in cases {
            let mut bad = grown();
            change(&mut bad, &*edit);
            let error = Table::read(&bad.into()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn partitions_over_each_other_or_beyond_the_disk_are_refused() {
        for (first, last, why) in [
            (2048u64, 2048u64, "before its predecessor"),
            (34, 34, "before the usable part"),
            (8192, u64::MAX, "beyond any disk"),
            (8192, 1 << 40, "beyond the usable part"),
        ] {
            let mut bad = grown();
            for entries in [1024, bad.len() - 33 * 512] {
                let entry = &mut bad[entries + 256..entries + 384];
                entry[32..40].copy_from_slice(&first.to_le_bytes());
                entry[40..48].copy_from_slice(&last.to_le_bytes());
            }
            change(&mut bad, |_| ());
            let error = Table::read(&bad.into()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{first}: {error}");
        }
    }
}
