//! Hyper-V's format, dynamic: blocks that are zero are not stored, the others as they are.
//!
//! Specification: [MS-VHDX] 2.2 (header section), 2.3 (log), 2.5 (block allocation table), 2.6 (metadata region). The log
//! is there and empty, as of a file that was closed properly. The format does not compress; all numbers are little-endian.
//!
//! ```text
//! 0                    64 KiB    128 KiB   192 KiB        256 KiB        1 MiB 2 MiB      3 MiB
//! | identifier         | header  | header  | region table | region table | log | metadata | allocation table | blocks
//! ```

use super::{SECTOR, chunks, invalid};
use crate::disk::Extents;
use crate::model::{Digest, Guid};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;
/// Bytes of a block: the least that there is. Of larger ones more would be stored that is zero; Microsoft advises the
/// same for Linux, whose file systems write in more places than NTFS.
const BLOCK: u64 = MIB;
/// Blocks of a chunk: after as many the allocation table has an entry for a sector bitmap (2.4.1).
const CHUNK_BLOCKS: u64 = (1 << 23) * SECTOR / BLOCK;
/// The longest disk, in bytes (2.6.2.2): 64 TiB.
const MAX_DISK: u64 = 64 << 40;

/// Places of what has a fixed place, in bytes (2.2).
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// Length of a header (2.2.2) and of a region table (2.2.3), in bytes: their checksums cover all of it.
const HEADER: usize = 4 << 10;
const REGION_TABLE: usize = 64 << 10;
/// Places of the regions, which are whole MiB.
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const ALLOCATION: u64 = 3 * MIB;
/// Where the items of the metadata begin, from the region's start: behind the table (2.6.1).
const ITEMS: u32 = 64 << 10;
/// The sector of the disks underneath, in bytes: a hint for the guest, whose file systems have blocks of 4 KiB.
const PHYSICAL_SECTOR: u32 = 4096;

/// Regions (2.2.3.2).
const ALLOCATION_REGION: Guid = Guid::from_u128(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
const METADATA_REGION: Guid = Guid::from_u128(0x8b7ca206_4790_4b9a_b8fe_575f050f886e);
/// Items of the metadata (2.6.2).
const FILE_PARAMETERS: Guid = Guid::from_u128(0xcaa16737_fa36_4d43_b3b6_33f0aa44e76b);
const VIRTUAL_DISK_SIZE: Guid = Guid::from_u128(0x2fa54224_cd1b_4876_b211_5dbed83bf4b8);
const VIRTUAL_DISK_ID: Guid = Guid::from_u128(0xbeca12ab_b2e6_4523_93ef_c309e000c746);
const LOGICAL_SECTOR_SIZE: Guid = Guid::from_u128(0x8141bf1d_a96f_4709_ba47_f233a8faab5f);
const PHYSICAL_SECTOR_SIZE: Guid = Guid::from_u128(0xcda348c7_445d_4471_9cc9_e9885251c556);
/// Flags of an item (2.6.1.2): it tells of the disk, not of the file; a reader must know it.
const OF_DISK: u32 = 1 << 1;
const REQUIRED: u32 = 1 << 2;

/// States of a block (2.5.1.1).
const BLOCK_ZERO: u64 = 2;
const BLOCK_PRESENT: u64 = 6;

/// Writes `disk` to the empty file `out`, a whole count of MiB. `guid` becomes the disk's; the file's follow from it.
///
/// # Errors
/// What the pieces and `out` say; [`io::ErrorKind::InvalidInput`] when the disk is longer than 64 TiB.
pub fn write(disk: &Extents, guid: Guid, out: &File) -> io::Result<()> {
    if disk.length() > MAX_DISK {
        return Err(invalid(format!("a disk of {} bytes is longer than vhdx allows", disk.length())));
    }
    let blocks = disk.length().div_ceil(BLOCK);
    // The entry of a sector bitmap follows each whole chunk, but the last entry is a block's (2.5).
    let entry = |block: u64| (block + block / CHUNK_BLOCKS) as usize;
    let mut entries = vec![0u64; entry(blocks - 1) + 1];
    for block in 0..blocks {
        entries[entry(block)] = BLOCK_ZERO;
    }
    let allocation_length = (entries.len() as u64 * 8).next_multiple_of(MIB);
    let mut end = ALLOCATION + allocation_length;
    chunks(disk, BLOCK, Ok, |block, bytes| {
        out.write_all_at(&bytes, end)?; // the last may be shorter: what follows is zero
        entries[entry(block)] = end | BLOCK_PRESENT;
        end += BLOCK;
        Ok(())
    })?;
    out.set_len(end)?;
    let entries: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    out.write_all_at(&entries, ALLOCATION)?;
    out.write_all_at(&metadata(disk.length(), guid), METADATA)?;
    let regions = region_table(allocation_length as u32);
    for at in REGION_TABLES {
        out.write_all_at(&regions, at)?;
    }
    // The newer of two valid headers counts, so one has to be newer (2.2.2).
    for (sequence, at) in (1..).zip(HEADERS) {
        out.write_all_at(&header(sequence, guid), at)?;
    }
    let mut identifier = b"vhdxfile".to_vec();
    identifier.extend("forge".encode_utf16().flat_map(u16::to_le_bytes)); // creator (2.2.1)
    out.write_all_at(&identifier, 0)
}

/// A header (2.2.2): signature, checksum, sequence number, three GUIDs, versions, the log's place.
fn header(sequence: u64, guid: Guid) -> Vec<u8> {
    let derived = |label| Guid::derived(&Digest::of(guid.as_bytes()), label).to_gpt();
    let mut header = b"head\0\0\0\0".to_vec();
    header.extend(sequence.to_le_bytes());
    header.extend(derived("vhdx file write"));
    header.extend(derived("vhdx data write"));
    header.extend([0; 16]); // no GUID of the log: it is empty
    header.extend(0u16.to_le_bytes()); // version of the log
    header.extend(1u16.to_le_bytes()); // version of the format
    header.extend((MIB as u32).to_le_bytes());
    header.extend(LOG.to_le_bytes());
    sealed(header, HEADER)
}

/// A region table (2.2.3): signature, checksum, count, then GUID, place, length and whether a reader must know it.
fn region_table(allocation_length: u32) -> Vec<u8> {
    let mut table = b"regi\0\0\0\0".to_vec();
    table.extend(2u64.to_le_bytes()); // the count, and a reserved field
    for (region, at, length) in
        [(ALLOCATION_REGION, ALLOCATION, allocation_length), (METADATA_REGION, METADATA, MIB as u32)]
    {
        table.extend(region.to_gpt());
        table.extend(at.to_le_bytes());
        table.extend(length.to_le_bytes());
        table.extend(1u32.to_le_bytes()); // required
    }
    sealed(table, REGION_TABLE)
}

/// Fills up to `length` and puts the CRC-32C of all in the second field, which counts as zero.
fn sealed(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.resize(length, 0);
    let checksum = crc32c::crc32c(&bytes);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The metadata's table and its items (2.6).
fn metadata(length: u64, guid: Guid) -> Vec<u8> {
    // Blocks need not stay allocated, and there is no parent: flags of 0 behind the block size.
    let parameters = BLOCK.to_le_bytes().to_vec();
    let items = [
        (FILE_PARAMETERS, REQUIRED, parameters),
        (VIRTUAL_DISK_SIZE, OF_DISK | REQUIRED, length.to_le_bytes().to_vec()),
        (VIRTUAL_DISK_ID, OF_DISK | REQUIRED, guid.to_gpt().to_vec()),
        (LOGICAL_SECTOR_SIZE, OF_DISK | REQUIRED, (SECTOR as u32).to_le_bytes().to_vec()),
        (PHYSICAL_SECTOR_SIZE, OF_DISK | REQUIRED, PHYSICAL_SECTOR.to_le_bytes().to_vec()),
    ];
    let mut table = b"metadata\0\0".to_vec();
    table.extend((items.len() as u16).to_le_bytes());
    table.extend([0; 20]);
    let mut values = vec![];
    for (item, flags, value) in items {
        table.extend(item.to_gpt());
        for field in [ITEMS + values.len() as u32, value.len() as u32, flags, 0] {
            table.extend(field.to_le_bytes());
        }
        values.extend(value);
    }
    table.resize(ITEMS as usize, 0);
    table.extend(values);
    table
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{disk, written};
    use super::*;

    fn le(bytes: &[u8], at: u64, length: usize) -> u64 {
        bytes[at as usize..][..length].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    /// A part whose checksum has to hold.
    fn checked(file: &[u8], at: u64, length: usize) -> Vec<u8> {
        let mut part = file[at as usize..][..length].to_vec();
        let stored = le(&part, 4, 4);
        part[4..8].fill(0);
        assert_eq!(u64::from(crc32c::crc32c(&part)), stored);
        part
    }

    /// Reads a file as the specification says.
    fn read(file: &[u8]) -> Vec<u8> {
        assert_eq!(&file[..8], b"vhdxfile");
        let [old, new] = HEADERS.map(|at| checked(file, at, HEADER));
        assert!(le(&old, 8, 8) < le(&new, 8, 8));
        assert_eq!(old[16..], new[16..]);
        assert_eq!((le(&new, 66, 2), le(&new, 72, 8), le(&new, 68, 4)), (1, LOG, MIB));
        let [regions, copy] = REGION_TABLES.map(|at| checked(file, at, REGION_TABLE));
        assert_eq!(regions, copy);
        let region = |guid: Guid| {
            let entries = (0..le(&regions, 8, 4)).map(|i| 16 + 32 * i);
            let mut found = entries.filter(|at| regions[*at as usize..][..16] == guid.to_gpt());
            le(&regions, found.next().unwrap() + 16, 8)
        };
        let metadata = region(METADATA_REGION);
        let item = |guid: Guid, length: usize| {
            let entries = (0..le(file, metadata + 10, 2)).map(|i| metadata + 32 + 32 * i);
            let mut found = entries.filter(|at| file[*at as usize..][..16] == guid.to_gpt());
            let entry = found.next().unwrap();
            assert_eq!(le(file, entry + 20, 4), length as u64);
            le(file, metadata + le(file, entry + 16, 4), length.min(8))
        };
        let (size, block) = (item(VIRTUAL_DISK_SIZE, 8), item(FILE_PARAMETERS, 8) & 0xffff_ffff);
        assert_eq!((item(LOGICAL_SECTOR_SIZE, 4), item(PHYSICAL_SECTOR_SIZE, 4)), (512, 4096));
        item(VIRTUAL_DISK_ID, 16);
        let mut disk = vec![0; size.next_multiple_of(block) as usize];
        let chunk = (1 << 23) * 512 / block;
        for (i, out) in (0..).zip(disk.chunks_mut(block as usize)) {
            let entry = le(file, region(ALLOCATION_REGION) + 8 * (i + i / chunk), 8);
            match entry & 7 {
                BLOCK_ZERO => assert_eq!(entry, BLOCK_ZERO),
                BLOCK_PRESENT => {
                    out.copy_from_slice(&file[(entry >> 20 << 20) as usize..][..block as usize]);
                }
                state => panic!("block {i} in state {state}"),
            }
        }
        disk.truncate(size as usize);
        disk
    }

    #[test]
    fn a_file_reads_as_its_disk() {
        let (disk, whole) = disk();
        let file = written(Format::Vhdx, &disk);
        assert!(read(&file) == whole);
        assert_eq!(file.len() as u64, ALLOCATION + MIB + 3 * BLOCK);
    }

    #[test]
    fn entries_of_bitmaps_are_left_out_of_the_way() {
        let mut disk = Extents::new((CHUNK_BLOCKS + 1) * BLOCK);
        disk.push(CHUNK_BLOCKS * BLOCK + 5, vec![9; 3].into()).unwrap();
        let file = written(Format::Vhdx, &disk);
        let entry = |i: u64| le(&file, ALLOCATION + 8 * i, 8);
        let place = ALLOCATION + MIB;
        assert_eq!(
            [CHUNK_BLOCKS - 1, CHUNK_BLOCKS, CHUNK_BLOCKS + 1, CHUNK_BLOCKS + 2].map(entry),
            [BLOCK_ZERO, 0, place | BLOCK_PRESENT, 0]
        );
        assert_eq!(file[place as usize + 4..][..5], [0, 9, 9, 9, 0]);
    }

    #[test]
    fn a_disk_beyond_the_format_is_refused() {
        let out = tempfile::tempfile().unwrap();
        let fault = write(&Extents::new(MAX_DISK + SECTOR), Guid::NIL, &out).unwrap_err().to_string();
        assert!(fault.contains("longer than vhdx"), "{fault}");
    }
}
