//! VMware's format in the variant `streamOptimized`: what an OVF package holds, and vSphere takes in.
//!
//! Specification: VMware "Virtual Disk Format 5.0" ("Hosted Sparse Extents", "Stream-Optimized Compressed Sparse
//! Extents"). A stream: every grain bears its own sector, a table of grains comes behind them, the directory of the tables
//! at the end, and a footer is the header again with the directory's place. Grains are compressed with DEFLATE in zlib's
//! wrapping (RFC 1950), as the format knows no other. All numbers are little-endian, places are in sectors of 512 bytes.
//!
//! ```text
//! | header | descriptor | (marker grain)… marker table | … | marker directory | marker footer | end marker |
//! ```

use super::{SECTOR, chunks, invalid};
use crate::disk::Extents;
use crate::model::{Digest, Guid};
use std::io::{self, Write};

/// Sectors of a grain: 64 KiB, the most that VMware's tools take, and their own choice.
const GRAIN_SECTORS: u64 = 128;
const GRAIN: u64 = GRAIN_SECTORS * SECTOR;
/// Grains of a table: no other number is read everywhere.
const TABLE: u64 = 512;
/// Sectors of the descriptor's room behind the header: VMware's choice.
const DESCRIPTOR_SECTORS: u64 = 20;
/// Where grains begin, in sectors ("overHead"): aligned to a grain.
const OVERHEAD: u64 = 128;
/// A header's word for "see the footer".
const DIRECTORY_AT_END: u64 = u64::MAX;
/// The end-of-line bytes are valid, grains are compressed, and markers lie before everything (bits 0, 16, 17).
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
/// The version that allows compressed grains with markers.
const VERSION: u32 = 3;
/// `compressAlgorithm` DEFLATE.
const DEFLATE: u16 = 1;

/// What follows a marker that is no grain's.
#[derive(Clone, Copy)]
enum Marker {
    End = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// Writes `disk` to `out`, from the first byte to the last. The content's identifiers follow from `guid`.
///
/// # Errors
/// What the pieces and `out` say; [`io::ErrorKind::InvalidInput`] when the file would be longer than 2 TiB.
pub fn write(disk: &Extents, guid: Guid, out: impl Write) -> io::Result<()> {
    let capacity = disk.length() / SECTOR;
    let tables = disk.length().div_ceil(GRAIN * TABLE);
    let mut stream = Stream { out, at: 0, directory: vec![], table: vec![0; TABLE as usize] };
    stream.put(&header(capacity, DIRECTORY_AT_END))?;
    let mut text = descriptor(capacity, guid).into_bytes();
    text.resize(((OVERHEAD - 1) * SECTOR) as usize, 0);
    stream.put(&text)?;
    let pack = |grain: Vec<u8>| {
        let mut encoder = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(&grain)?;
        encoder.finish()
    };
    chunks(disk, GRAIN, pack, |index, grain| {
        stream.tables(index / TABLE)?;
        stream.table[(index % TABLE) as usize] = stream.sector()?;
        let mut bytes = (index * GRAIN_SECTORS).to_le_bytes().to_vec();
        bytes.extend((grain.len() as u32).to_le_bytes());
        bytes.extend(grain);
        stream.put(&bytes)
    })?;
    stream.tables(tables)?;

    let directory: Vec<u8> = stream.directory.iter().flat_map(|place| place.to_le_bytes()).collect();
    let length = (directory.len() as u64).div_ceil(SECTOR);
    stream.put(&marker(Marker::Directory, length))?;
    let directory_at = stream.at;
    stream.put(&directory)?;
    stream.put(&marker(Marker::Footer, 1))?;
    stream.put(&header(capacity, directory_at))?;
    stream.put(&marker(Marker::End, 0))?;
    stream.out.flush()
}

struct Stream<W> {
    out: W,
    /// The next sector.
    at: u64,
    /// The sector of each table that is complete; 0 for one that would be empty.
    directory: Vec<u32>,
    /// The sectors of the grains of the table that is being filled.
    table: Vec<u32>,
}

impl<W: Write> Stream<W> {
    /// Writes `bytes`, and zeros up to the next sector.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let sectors = (bytes.len() as u64).div_ceil(SECTOR);
        let rest = sectors * SECTOR - bytes.len() as u64;
        self.at += sectors;
        self.out.write_all(&[0; SECTOR as usize][..rest as usize])
    }

    /// The next sector, as tables have it.
    fn sector(&self) -> io::Result<u32> {
        u32::try_from(self.at)
            .map_err(|_| invalid(format!("a file with a sector {}, more than vmdk has numbers for", self.at)))
    }

    /// Completes all tables before `table`.
    fn tables(&mut self, table: u64) -> io::Result<()> {
        while (self.directory.len() as u64) < table {
            if self.table.iter().all(|grain| *grain == 0) {
                self.directory.push(0);
                continue;
            }
            let bytes: Vec<u8> = self.table.iter().flat_map(|grain| grain.to_le_bytes()).collect();
            self.put(&marker(Marker::Table, bytes.len() as u64 / SECTOR))?;
            self.directory.push(self.sector()?);
            self.put(&bytes)?;
            self.table.fill(0);
        }
        Ok(())
    }
}

/// A marker's sector: the count of sectors that follow it, no compressed size, what they are.
fn marker(what: Marker, sectors: u64) -> [u8; 16] {
    let mut marker = [0; 16];
    marker[..8].copy_from_slice(&sectors.to_le_bytes());
    marker[12..].copy_from_slice(&(what as u32).to_le_bytes());
    marker
}

/// `SparseExtentHeader`, which is also the footer.
fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(FLAGS.to_le_bytes());
    for field in [capacity, GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        header.extend(field.to_le_bytes());
    }
    header.extend((TABLE as u32).to_le_bytes());
    // No redundant directory, which only a disk that is written to has.
    for field in [0, directory, OVERHEAD] {
        header.extend(field.to_le_bytes());
    }
    header.push(0); // shut down cleanly
    header.extend(b"\n \r\n"); // what a transfer as text would change
    header.extend(DEFLATE.to_le_bytes());
    header
}

/// The embedded descriptor ("The Disk Descriptor File").
fn descriptor(capacity: u64, guid: Guid) -> String {
    let id = Guid::derived(&Digest::of(guid.as_bytes()), "vmdk content").to_string().replace('-', "");
    // The two largest numbers mean "none" and "unknown": one bit less.
    let (front, last) = id.split_at(24);
    let content = u32::from_str_radix(last, 16).unwrap_or_default() & 0x7fff_ffff;
    // Firmware and kernel count sectors; geometry of 255 heads is what old importers want to see.
    let cylinders = capacity.div_ceil(255 * 63).min(65535);
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={content:08x}\nparentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"disk.vmdk\"\n\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.longContentID = \"{front}{content:08x}\"\n\
         ddb.virtualHWVersion = \"4\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"lsilogic\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{disk, written};
    use super::*;
    use std::io::Read as _;

    fn u32_at(bytes: &[u8], at: u64) -> u64 {
        u32::from_le_bytes(bytes[at as usize..][..4].try_into().unwrap()).into()
    }

    fn u64_at(bytes: &[u8], at: u64) -> u64 {
        u64::from_le_bytes(bytes[at as usize..][..8].try_into().unwrap())
    }

    fn inflated(stream: &[u8], at: u64) -> (u64, Vec<u8>, u64) {
        let size = u32_at(stream, at + 8);
        let mut grain = vec![];
        let packed = &stream[at as usize + 12..][..size as usize];
        flate2::read::ZlibDecoder::new(packed).read_to_end(&mut grain).unwrap();
        (u64_at(stream, at) * SECTOR, grain, (at + 12 + size).next_multiple_of(SECTOR))
    }

    /// Reads a stream from its start by its markers, as an importer does that cannot go back.
    fn streamed(stream: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; (u64_at(stream, 12) * SECTOR) as usize];
        let mut at = u64_at(stream, 64) * SECTOR;
        let mut footers = 0;
        loop {
            if u32_at(stream, at + 8) > 0 {
                let (place, grain, next) = inflated(stream, at);
                disk[place as usize..][..grain.len()].copy_from_slice(&grain);
                at = next;
                continue;
            }
            match u32_at(stream, at + 12) {
                0 => break,
                3 => footers += 1,
                kind => assert!(kind < 3, "{kind}"),
            }
            at += SECTOR + u64_at(stream, at) * SECTOR;
        }
        assert_eq!((footers, at + SECTOR), (1, stream.len() as u64));
        disk
    }

    /// Reads it by the directory that the footer names.
    fn looked_up(stream: &[u8]) -> Vec<u8> {
        let footer = stream.len() as u64 - 2 * SECTOR;
        assert_eq!(u64_at(stream, 56), DIRECTORY_AT_END);
        let directory = u64_at(stream, footer + 56) * SECTOR;
        let length = u64_at(stream, footer + 12) * SECTOR;
        let mut disk = vec![0; length as usize];
        for table in 0..length.div_ceil(GRAIN * TABLE) {
            let place = u32_at(stream, directory + 4 * table) * SECTOR;
            for grain in (0..TABLE).filter(|_| place != 0) {
                let at = u32_at(stream, place + 4 * grain) * SECTOR;
                if at != 0 {
                    let (first, grain, _) = inflated(stream, at);
                    disk[first as usize..][..grain.len()].copy_from_slice(&grain);
                }
            }
        }
        disk
    }

    #[test]
    fn a_stream_reads_as_its_disk_both_ways() {
        let (disk, whole) = disk();
        let stream = written(Format::Vmdk, &disk);
        assert!(streamed(&stream) == whole);
        assert!(looked_up(&stream) == whole);
        assert!(stream.len() < 400_000, "{} bytes: holes or text take room", stream.len());
    }

    #[test]
    fn tables_without_grains_are_left_out() {
        let mut disk = Extents::new(200 << 20);
        disk.push(150 << 20, b"far".to_vec().into()).unwrap();
        let stream = written(Format::Vmdk, &disk);
        assert!(stream.len() < 80_000, "{}", stream.len());
        assert_eq!(&looked_up(&stream)[150 << 20..][..4], b"far\0");
    }

    #[test]
    fn identifiers_follow_from_the_disk() {
        let told = |guid| descriptor(2048, Guid::from_u128(guid));
        assert_eq!(told(1), told(1));
        assert_ne!(told(1), told(2));
        let content = told(1).lines().find_map(|l| l.strip_prefix("CID=").map(String::from)).unwrap();
        assert!(told(1).contains(&format!("{content}\"\nddb.virtualHWVersion")), "{}", told(1));
        assert!(told(1).contains("\nRW 2048 SPARSE") && told(1).len() as u64 <= DESCRIPTOR_SECTORS * SECTOR);
    }
}
