//! QEMU's copy-on-write format, version 3, with zstd-compressed clusters.
//!
//! Specification: `docs/interop/qcow2` of QEMU ("Header", "Host cluster management", "Cluster mapping"). Clusters are
//! compressed with zstd (compression type 1, QEMU 5.1 of 2020 and later: Debian bookworm has 7.2, trixie 10.0): smaller
//! than zlib, and read several times faster, at every read of the machine that runs from the image. What does not become
//! smaller is stored as it is.
//!
//! ```text
//! | header | clusters, a mapping table behind those that it maps | level 1 table | reference counts | their table |
//! ```

use super::{chunks, invalid};
use crate::disk::Extents;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// QEMU's default: one mapping table covers 512 MiB, and a read of a compressed cluster unpacks no more than this.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of a mapping table (level 2): 8 bytes each, a cluster in all.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// Reference counts of a block: 16 bits each, a cluster in all.
const REFCOUNTS: u64 = CLUSTER / 2;
/// QEMU's bound of a level 1 table, in bytes.
const MAX_L1: u64 = 32 << 20;

/// An entry's cluster is referred to once ("Standard Cluster Descriptor", bit 63).
const COPIED: u64 = 1 << 63;
/// An entry is a compressed cluster's (bit 62).
const COMPRESSED: u64 = 1 << 62;
/// Where the count of further sectors begins: `62 - (cluster_bits - 8)` ("Compressed Clusters Descriptor").
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);

/// Incompatible feature "compression type", bit 3.
const COMPRESSION_TYPE: u32 = 3;
/// Compression type zstd.
const ZSTD: u8 = 1;
/// Length of the header with the compression type, padded to 8 bytes.
const HEADER: u32 = 112;
/// Header extension "Feature name table".
const FEATURE_NAMES: u32 = 0x6803_f857;
/// As of the compressed raw image: beyond it a disk takes longer and hardly shrinks.
const LEVEL: i32 = 3;

enum Packed {
    Compressed(Vec<u8>),
    Plain(Vec<u8>),
}

/// Writes `disk` to the empty file `out`. The file's length is a whole count of clusters.
///
/// # Errors
/// What the pieces and `out` say; [`io::ErrorKind::InvalidInput`] when the disk is longer than 2 PiB.
pub fn write(disk: &Extents, out: &File) -> io::Result<()> {
    let l1_entries = disk.length().div_ceil(CLUSTER * L2_ENTRIES);
    if l1_entries * 8 > MAX_L1 {
        return Err(invalid(format!(
            "a disk of {} bytes is longer than qcow2 has tables for",
            disk.length()
        )));
    }
    let mut image = Image {
        out,
        references: vec![1], // the header
        packed: CLUSTER,
        l1: vec![0; l1_entries as usize],
        l2: vec![0; L2_ENTRIES as usize],
        mapped: 0,
    };
    chunks(disk, CLUSTER, pack, |index, packed| image.place(index, packed))?;
    image.finish(disk.length())
}

fn pack(mut cluster: Vec<u8>) -> io::Result<Packed> {
    cluster.resize(CLUSTER as usize, 0); // the last one may be shorter
    let compressed = zstd::bulk::compress(&cluster, LEVEL)?;
    // A count of sectors that a descriptor cannot say, or no gain.
    let gain = compressed.len() + super::SECTOR as usize <= cluster.len();
    Ok(if gain { Packed::Compressed(compressed) } else { Packed::Plain(cluster) })
}

struct Image<'a> {
    out: &'a File,
    /// How often each cluster of the file is referred to.
    references: Vec<u16>,
    /// Where the last compressed cluster ends: what is left of a file's cluster there is for the next.
    packed: u64,
    l1: Vec<u64>,
    /// The mapping table that is being filled.
    l2: Vec<u64>,
    /// Which one it is.
    mapped: u64,
}

impl Image<'_> {
    fn end(&self) -> u64 {
        self.references.len() as u64 * CLUSTER
    }

    /// Writes whole clusters at the file's end; where they are.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.end();
        self.out.write_all_at(bytes, at)?;
        self.references.extend(std::iter::repeat_n(1, bytes.len().div_ceil(CLUSTER as usize)));
        Ok(at)
    }

    fn place(&mut self, index: u64, packed: Packed) -> io::Result<()> {
        if index / L2_ENTRIES != self.mapped {
            self.flush()?;
            self.mapped = index / L2_ENTRIES;
        }
        self.l2[(index % L2_ENTRIES) as usize] = match packed {
            Packed::Plain(cluster) => COPIED | self.append(&cluster)?,
            Packed::Compressed(bytes) => self.compressed(&bytes)?,
        };
        Ok(())
    }

    /// Packs compressed bytes behind the last ones; the descriptor of their place.
    fn compressed(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let room = self.packed.next_multiple_of(CLUSTER) - self.packed;
        // Over a cluster's end only where nothing else was put there since.
        let at = if bytes.len() as u64 <= room || self.packed.next_multiple_of(CLUSTER) == self.end() {
            self.packed
        } else {
            self.end()
        };
        self.out.write_all_at(bytes, at)?;
        self.packed = at + bytes.len() as u64;
        let last = self.packed - 1;
        for cluster in at / CLUSTER..=last / CLUSTER {
            match self.references.get_mut(cluster as usize) {
                Some(count) => *count += 1,
                None => self.references.push(1),
            }
        }
        let further = last / super::SECTOR - at / super::SECTOR;
        Ok(COMPRESSED | further << SECTORS_SHIFT | at)
    }

    /// Writes the mapping table that is full, unless nothing is in it.
    fn flush(&mut self) -> io::Result<()> {
        if self.l2.iter().any(|entry| *entry != 0) {
            let at = self.append(&big_endian(&self.l2))?;
            self.l1[self.mapped as usize] = COPIED | at;
            self.l2.fill(0);
        }
        Ok(())
    }

    fn finish(mut self, length: u64) -> io::Result<()> {
        self.flush()?;
        let l1_at = self.append(&big_endian(&self.l1))?;
        // The counts count themselves and their table: more blocks until they are enough for all.
        let used = self.references.len() as u64;
        let (mut blocks, mut tables) = (0, 0);
        while blocks * REFCOUNTS < used + blocks + tables {
            blocks = (used + blocks + tables).div_ceil(REFCOUNTS);
            tables = blocks.div_ceil(L2_ENTRIES);
        }
        let blocks_at = self.end();
        self.references.resize((used + blocks + tables) as usize, 1);
        let mut counts: Vec<u8> = self.references.iter().flat_map(|count| count.to_be_bytes()).collect();
        counts.resize((blocks * CLUSTER) as usize, 0);
        self.out.write_all_at(&counts, blocks_at)?;
        let table: Vec<u64> = (0..blocks).map(|block| blocks_at + block * CLUSTER).collect();
        let table_at = blocks_at + blocks * CLUSTER;
        self.out.write_all_at(&big_endian(&table), table_at)?;
        self.out.set_len(self.end())?;

        let mut header = b"QFI\xfb".to_vec();
        header.extend(3u32.to_be_bytes()); // version
        header.extend([0; 12]); // no backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(length.to_be_bytes());
        header.extend([0; 4]); // no encryption
        header.extend((self.l1.len() as u32).to_be_bytes());
        header.extend(l1_at.to_be_bytes());
        header.extend(table_at.to_be_bytes());
        header.extend((tables as u32).to_be_bytes());
        header.extend([0; 12]); // no snapshots
        header.extend((1u64 << COMPRESSION_TYPE).to_be_bytes());
        header.extend([0; 16]); // compatible and auto-clear features
        header.extend(4u32.to_be_bytes()); // reference counts of 2⁴ bits
        header.extend(HEADER.to_be_bytes());
        header.extend([ZSTD, 0, 0, 0, 0, 0, 0, 0]);
        debug_assert_eq!(header.len(), HEADER as usize);
        // So that an older QEMU says what it lacks.
        let mut name = vec![0, COMPRESSION_TYPE as u8]; // an incompatible feature
        name.extend(b"compression type");
        name.resize(48, 0);
        header.extend(FEATURE_NAMES.to_be_bytes());
        header.extend((name.len() as u32).to_be_bytes());
        header.extend(name);
        header.extend([0; 8]); // no further extension
        self.out.write_all_at(&header, 0)
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{disk, written};
    use super::super::{Format, SECTOR};
    use super::*;

    fn be(bytes: &[u8], at: u64) -> u64 {
        u64::from_be_bytes(bytes[at as usize..][..8].try_into().unwrap())
    }

    /// Reads an image as the specification says, and checks the reference counts on the way.
    fn read(image: &[u8]) -> Vec<u8> {
        let clusters = image.len() as u64 / CLUSTER;
        let mut expected = vec![0u16; clusters as usize];
        let mut refer = |at: u64| expected[(at / CLUSTER) as usize] += 1;
        refer(0);
        let length = be(image, 24);
        let (l1_at, table_at) = (be(image, 40), be(image, 48));
        let mut disk = vec![0; length.next_multiple_of(CLUSTER) as usize];
        refer(l1_at);
        refer(table_at);
        let address = |entry: u64| entry & ((1 << 56) - 1) & !0x1ff;
        for (i, out) in disk.chunks_mut((CLUSTER * L2_ENTRIES) as usize).enumerate() {
            let l2 = be(image, l1_at + 8 * i as u64);
            if l2 == 0 {
                continue;
            }
            refer(address(l2));
            for (j, out) in out.chunks_mut(CLUSTER as usize).enumerate() {
                let entry = be(image, address(l2) + 8 * j as u64);
                if entry & COMPRESSED != 0 {
                    let at = entry & ((1 << SECTORS_SHIFT) - 1);
                    let sectors = (entry & (COMPRESSED - 1)) >> SECTORS_SHIFT;
                    let end = (at / SECTOR + sectors + 1) * SECTOR;
                    let bytes = &image[at as usize..end as usize];
                    let mut decoder = zstd::stream::read::Decoder::new(bytes).unwrap().single_frame();
                    std::io::Read::read_exact(&mut decoder, out).unwrap();
                    (at / CLUSTER..=(end - 1) / CLUSTER).for_each(|c| refer(c * CLUSTER));
                } else if entry != 0 {
                    assert_eq!(entry & COPIED, COPIED);
                    refer(address(entry));
                    out.copy_from_slice(&image[address(entry) as usize..][..CLUSTER as usize]);
                }
            }
        }
        let block = be(image, table_at);
        refer(block);
        let counts: Vec<u16> = image[block as usize..][..2 * clusters as usize]
            .chunks(2)
            .map(|c| u16::from_be_bytes([c[0], c[1]]))
            .collect();
        assert_eq!(counts, expected);
        disk.truncate(length as usize);
        disk
    }

    #[test]
    fn an_image_reads_as_its_disk_and_counts_its_clusters() {
        let (disk, whole) = disk();
        let image = written(Format::Qcow2, &disk);
        assert!(read(&image) == whole);
        assert_eq!(image.len() as u64 % CLUSTER, 0);
        assert!(image.len() < 700_000, "{} bytes: holes or text take room", image.len());
    }

    #[test]
    fn an_empty_disk_is_its_tables() {
        let image = written(Format::Qcow2, &Extents::new(3 << 30));
        assert_eq!(image.len() as u64, 4 * CLUSTER);
        assert_eq!(be(&image, 24), 3 << 30);
    }

    #[test]
    fn a_disk_beyond_the_tables_is_refused() {
        let out = tempfile::tempfile().unwrap();
        assert!(write(&Extents::new(1 << 52), &out).unwrap_err().to_string().contains("longer than"));
    }
}
