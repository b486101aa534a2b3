//! Partitions → the medium: a disk as [`crate::disk::write()`] makes it, with ISO 9660 before its first partition.

use super::{BOOT_FILE, DESCRIPTOR, ENROLL_FILE, IMAGE_FILE, MULTI_EXTENT, ROOT, SECTOR, STANDARD, VOLUME};
use crate::disk::gpt::{ALIGNMENT, PartitionType, Table, flag};
use crate::disk::{self, DiskError, DiskSpec, ENROLL_LABEL, ENROLL_SIZE, PartitionContent, PartitionSpec};
use crate::model::{Digest, Epoch, Guid};
use crate::tree::{Content, Tree};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Sectors of the boot record, the terminator, both path tables, the boot catalog and the root directory.
const BOOT_RECORD: u64 = DESCRIPTOR + 1;
const TERMINATOR: u64 = DESCRIPTOR + 2;
const PATH_TABLE_L: u64 = DESCRIPTOR + 3;
const PATH_TABLE_M: u64 = DESCRIPTOR + 4;
const CATALOG: u64 = DESCRIPTOR + 5;
const DIRECTORY: u64 = DESCRIPTOR + 6;
const END: u64 = DESCRIPTOR + 7;
/// Bytes of a path table that has the root alone.
const PATH_TABLE: usize = 10;
/// The most bytes that one record stands for: its field has 32 bits, and records but the last are whole sectors.
const MAX_EXTENT: u64 = (1 << 32) - SECTOR;
/// El Torito's platform number of EFI.
const EFI: u8 = 0xef;
/// The room on the ESP beside its files, for FAT's own tables: and FAT32 needs 34 MiB at least.
const ESP_ROOM: u64 = 40 << 20;

/// A medium to be written.
#[derive(Clone, Debug)]
pub struct IsoSpec {
    /// What identifiers derive from: the digest of the kernel image, which names the disk image.
    pub build: Digest,
    /// The ESP's files.
    pub esp: Tree,
    /// The compressed disk image.
    pub image: Content,
    /// The time of everything.
    pub epoch: Epoch,
}

/// Why there is no medium.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IsoError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// More than ISO 9660 can number.
    #[error("a medium of {0} bytes has more sectors or records than ISO 9660 can number")]
    TooLarge(u64),
    /// The output.
    #[error("writing the medium")]
    Io(#[from] io::Error),
}

/// Writes the medium to `out` from its first byte; the table with every partition's place. The bytes depend on the spec
/// alone.
///
/// # Errors
/// [`IsoError`].
pub fn write(spec: &IsoSpec, out: &File) -> Result<Table, IsoError> {
    let table = disk::write(&layout(spec), out)?;
    for (sector, bytes) in volume(spec, &table)? {
        out.write_all_at(&bytes, sector * SECTOR)?;
    }
    Ok(table)
}

fn layout(spec: &IsoSpec) -> DiskSpec {
    let derived = |label: &str| Guid::derived(&spec.build, label);
    let fat = |tree: &Tree, label: &str, fat32| PartitionContent::Fat {
        tree: tree.clone(),
        label: label.into(),
        fat32,
        epoch: spec.epoch,
    };
    let partition = |kind, name: &str, content, min_length| PartitionSpec {
        kind,
        guid: derived(&format!("medium {name}")),
        name: name.into(),
        flags: if kind == PartitionType::Esp { 0 } else { flag::NO_AUTO },
        content,
        min_length,
    };
    DiskSpec {
        guid: derived("medium"),
        partitions: vec![
            partition(
                PartitionType::Esp,
                "esp",
                fat(&spec.esp, "ESP", true),
                spec.esp.content_len() + ESP_ROOM,
            ),
            partition(PartitionType::Image, "image", PartitionContent::Image(spec.image.clone()), ALIGNMENT),
            partition(
                PartitionType::Enroll,
                "FORGE-ENROLL",
                fat(&Tree::new(), ENROLL_LABEL, false),
                ENROLL_SIZE,
            ),
        ],
    }
}

/// The sectors of the volume that no partition has.
fn volume(spec: &IsoSpec, table: &Table) -> Result<Vec<(u64, Vec<u8>)>, IsoError> {
    const { assert!(END * SECTOR <= ALIGNMENT, "the first partition begins behind the volume's own sectors") };
    let too_large = || IsoError::TooLarge(table.length);
    let sectors = u32::try_from(table.length / SECTOR).map_err(|_| too_large())?;
    let date = Date::of(spec.epoch);
    let mut files = vec![];
    for (partition, (name, length)) in table.partitions.iter().zip([
        (BOOT_FILE, table.partitions[0].length),
        (IMAGE_FILE, spec.image.len()),
        (ENROLL_FILE, ENROLL_SIZE),
    ]) {
        files.push((name, partition.offset, length));
    }
    files.sort();
    let mut directory = record(&[0], DIRECTORY * SECTOR, SECTOR, 2, &date);
    directory.extend(record(&[1], DIRECTORY * SECTOR, SECTOR, 2, &date));
    for (name, offset, length) in files {
        let mut done = 0;
        loop {
            let piece = (length - done).min(MAX_EXTENT);
            let last = done + piece == length;
            let flags = if last { 0 } else { MULTI_EXTENT };
            directory.extend(record(format!("{name};1").as_bytes(), offset + done, piece, flags, &date));
            done += piece;
            if last {
                break;
            }
        }
    }
    if directory.len() > SECTOR as usize {
        return Err(too_large());
    }
    directory.resize(SECTOR as usize, 0);
    let esp = &table.partitions[0];
    Ok(vec![
        (DESCRIPTOR, primary(sectors, &date)),
        (BOOT_RECORD, boot_record()),
        (TERMINATOR, descriptor(255)),
        (PATH_TABLE_L, path_table((DIRECTORY as u32).to_le_bytes(), 1u16.to_le_bytes())),
        (PATH_TABLE_M, path_table((DIRECTORY as u32).to_be_bytes(), 1u16.to_be_bytes())),
        (CATALOG, catalog((esp.offset / SECTOR) as u32, esp.length / 512)),
        (DIRECTORY, directory),
    ])
}

fn descriptor(kind: u8) -> Vec<u8> {
    let mut sector = vec![0; SECTOR as usize];
    sector[0] = kind;
    sector[1..7].copy_from_slice(STANDARD);
    sector
}

/// The primary volume descriptor (ECMA-119 §8.4).
fn primary(sectors: u32, date: &Date) -> Vec<u8> {
    let mut sector = descriptor(1);
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    let text = |value: &str, length: usize| format!("{value:length$}").into_bytes();
    put(8, &text("", 32));
    put(40, &text(VOLUME, 32));
    put(80, &both32(sectors));
    put(120, &both16(1));
    put(124, &both16(1));
    put(128, &both16(SECTOR as u16));
    put(132, &both32(PATH_TABLE as u32));
    put(140, &(PATH_TABLE_L as u32).to_le_bytes());
    put(148, &(PATH_TABLE_M as u32).to_be_bytes());
    put(ROOT, &record(&[0], DIRECTORY * SECTOR, SECTOR, 2, date));
    // Volume set, publisher, preparer, application; three files' names.
    for (at, length, value) in [
        (190, 128, ""),
        (318, 128, ""),
        (446, 128, ""),
        (574, 128, "FORGE"),
        (702, 37, ""),
        (739, 37, ""),
        (776, 37, ""),
    ] {
        put(at, &text(value, length));
    }
    for (at, value) in [(813, date.long()), (830, date.long()), (847, Date::none()), (864, Date::none())] {
        put(at, &value);
    }
    put(881, &[1]);
    sector
}

/// The boot record volume descriptor (El Torito, figure 7).
fn boot_record() -> Vec<u8> {
    let mut sector = descriptor(0);
    let name = b"EL TORITO SPECIFICATION";
    sector[7..7 + name.len()].copy_from_slice(name);
    sector[71..75].copy_from_slice(&(CATALOG as u32).to_le_bytes());
    sector
}

/// The boot catalog (El Torito §2.1, 2.2): the ESP at sector `at`, of so many `units` of 512 bytes.
fn catalog(at: u32, units: u64) -> Vec<u8> {
    let mut sector = vec![0; SECTOR as usize];
    sector[0] = 1;
    sector[1] = EFI;
    sector[30..32].copy_from_slice(&[0x55, 0xaa]);
    let sum =
        sector[..32].as_chunks::<2>().0.iter().fold(0u16, |sum, w| sum.wrapping_add(u16::from_le_bytes(*w)));
    sector[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    sector[32] = 0x88; // bootable
    // Where the count has no room, 0 means up to the end of the medium (UEFI 2.10 §13.3.2.1).
    sector[38..40].copy_from_slice(&u16::try_from(units).unwrap_or(0).to_le_bytes());
    sector[40..44].copy_from_slice(&at.to_le_bytes());
    sector
}

/// A path table of the root alone (ECMA-119 §9.4).
fn path_table(directory: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(directory);
    table.extend(parent);
    table.extend([0, 0]);
    debug_assert_eq!(table.len(), PATH_TABLE);
    table
}

/// A directory record (ECMA-119 §9.1).
fn record(name: &[u8], offset: u64, length: u64, flags: u8, date: &Date) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both32((offset / SECTOR) as u32));
    record.extend(both32(length as u32));
    record.extend(date.short());
    record.extend([flags, 0, 0]);
    record.extend(both16(1));
    record.push(name.len() as u8);
    record.extend(name);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

fn both16(value: u16) -> [u8; 4] {
    let (l, b) = (value.to_le_bytes(), value.to_be_bytes());
    [l[0], l[1], b[0], b[1]]
}

fn both32(value: u32) -> [u8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&value.to_le_bytes());
    both[4..].copy_from_slice(&value.to_be_bytes());
    both
}

/// A time in UTC: `YYYYMMDDhhmmss`.
struct Date(String);

impl Date {
    fn of(epoch: Epoch) -> Date {
        Date(epoch.rfc3339().chars().filter(char::is_ascii_digit).take(14).collect())
    }
    /// ECMA-119 §8.4.26.1.
    fn long(&self) -> Vec<u8> {
        let mut bytes = format!("{:0<16}", self.0).into_bytes();
        bytes.push(0);
        bytes
    }
    /// "Not specified" in that form.
    fn none() -> Vec<u8> {
        let mut bytes = vec![b'0'; 16];
        bytes.push(0);
        bytes
    }
    /// ECMA-119 §9.1.5: years since 1900, in one byte each.
    fn short(&self) -> [u8; 7] {
        let number =
            |at: std::ops::Range<usize>| self.0.get(at).and_then(|s| s.parse::<u32>().ok()).unwrap_or(0);
        let year = number(0..4).saturating_sub(1900).min(255);
        [year, number(4..6), number(6..8), number(8..10), number(10..12), number(12..14), 0].map(|n| n as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use crate::disk::DiskImage;
    use crate::disk::fat::foreign::Foreign;
    use crate::tree::{Node, TreePath};
    use std::sync::Arc;

    fn spec() -> IsoSpec {
        let mut esp = Tree::new();
        let path = TreePath::parse("EFI/BOOT/BOOTX64.EFI").unwrap();
        esp.insert(path, Node::file(vec![7; 100_000], 0o755)).unwrap();
        IsoSpec { build: Digest::of("x"), esp, image: vec![9; 3_000_001].into(), epoch: Epoch(1_795_305_600) }
    }

    fn medium() -> (Content, Arc<File>) {
        let out = Arc::new(tempfile::tempfile().unwrap());
        write(&spec(), &out).unwrap();
        (Content::of_file(out.clone()).unwrap(), out)
    }

    #[test]
    fn files_of_the_volume_are_partitions_of_the_disk() {
        let (content, file) = medium();
        let disk = DiskImage::open(content.clone()).unwrap();
        for (kind, name, length) in
            [(PartitionType::Image, IMAGE_FILE, 3_000_001), (PartitionType::Enroll, ENROLL_FILE, ENROLL_SIZE)]
        {
            let (partition, _) = disk.only(kind).unwrap();
            let place = read::find(&*file, name).unwrap().unwrap();
            assert_eq!((place.offset, place.length), (partition.offset, length));
        }
        assert_eq!(read::find(&*file, "OTHER.IMG").unwrap(), None);
        let (_, enroll) = disk.only(PartitionType::Enroll).unwrap();
        let bytes = enroll.to_vec(ENROLL_SIZE).unwrap();
        assert_eq!(Foreign::open(&bytes[..]).unwrap().label().unwrap().as_deref(), Some(ENROLL_LABEL));
    }

    #[test]
    fn firmware_finds_the_esp_by_the_catalog() {
        let (content, _) = medium();
        let mut record = vec![0; 2048];
        content.read_exact_at(&mut record, BOOT_RECORD * SECTOR).unwrap();
        let at = u32::from_le_bytes(record[71..75].try_into().unwrap());
        let mut catalog = vec![0; 64];
        content.read_exact_at(&mut catalog, u64::from(at) * SECTOR).unwrap();
        let sum =
            catalog[..32].as_chunks::<2>().0.iter().fold(0u16, |s, w| s.wrapping_add(u16::from_le_bytes(*w)));
        assert_eq!((sum, catalog[1], catalog[32]), (0, EFI, 0x88));
        let esp = u64::from(u32::from_le_bytes(catalog[40..44].try_into().unwrap())) * SECTOR;
        let disk = DiskImage::open(content).unwrap();
        assert_eq!(esp, disk.only(PartitionType::Esp).unwrap().0.offset);
    }

    #[test]
    fn a_file_of_more_than_four_gibibytes_is_several_records_in_a_run() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(9 << 30).unwrap();
        let large = IsoSpec { image: Content::of_file(Arc::new(file)).unwrap(), ..spec() };
        let out = tempfile::tempfile().unwrap();
        write(&large, &out).unwrap();
        let place = read::find(&out, IMAGE_FILE).unwrap().unwrap();
        assert_eq!(place.length, 9 << 30);
    }
}
