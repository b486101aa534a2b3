//! A FAT volume that anybody wrote → a few named files. For the device, which reads sticks that people bring.
//!
//! Reads the block device itself: a stick never meets the kernel's file systems, nothing is mounted, and a hostile volume
//! can only make this program say no. FAT12, FAT16 and FAT32, whatever order the clusters have. Only paths that the caller
//! names are looked for, and every walk has an end: entries of a directory, clusters of a file, bytes of a result. What
//! [`super::read()`] checks beyond that is none of a stick's duties.

use super::{ENTRY, FAT16_CLUSTERS, FAT32_CLUSTERS, attribute, names};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use zeroize::Zeroizing;

/// The most bytes of a directory that are walked: 65536 entries, which is all that FAT allows.
const MAX_DIRECTORY: usize = 2 << 20;
/// Long-name entries that one name can have (255 UTF-16 units, 13 in each).
const MAX_LONG: usize = 20;
/// First byte of an entry that was deleted.
const DELETED: u8 = 0xe5;

/// Bytes at places: a block device or an image in memory.
pub trait ReadAt {
    /// Fills `buffer` from byte `at`.
    ///
    /// # Errors
    /// What the device says; [`io::ErrorKind::UnexpectedEof`] past its end.
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

#[cfg(feature = "cli")]
impl ReadAt for crate::tree::Content {
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl ReadAt for [u8] {
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why a volume, or a file of it, is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is something else than FAT.
    #[error("not a FAT volume: {0}")]
    NotFat(&'static str),
    /// A chain of clusters or a directory that cannot be.
    #[error("`{path}` on the FAT volume {why}")]
    Damaged {
        /// The file or directory.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More bytes than the caller takes.
    #[error("`{path}` has {size} bytes, more than {limit}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// What the caller takes.
        limit: usize,
    },
    /// The device could not be read or written.
    #[error("reading or writing the FAT volume: {0}")]
    Io(#[from] io::Error),
}

/// Bits of an entry in the file allocation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

/// A volume whose boot sector makes sense.
pub struct Foreign<'a, D: ReadAt + ?Sized> {
    device: &'a D,
    width: Width,
    /// Byte of the first FAT, bytes of one, and how many there are.
    fat: (u64, u64, u64),
    /// Byte and length of the root directory of FAT12 and FAT16.
    root: (u64, usize),
    /// First cluster of FAT32's root directory.
    root_cluster: u32,
    /// Byte of cluster 2.
    data: u64,
    /// Bytes of a cluster.
    cluster: usize,
    /// Count of clusters.
    clusters: u32,
}

/// An entry of a directory as it lies on the volume, and its byte.
type Raw = (u64, [u8; ENTRY]);

/// Is shown an entry and those of the long name before it; whether it has seen enough.
type Visit<'a> = dyn FnMut(&Raw, &[Raw]) -> bool + 'a;

/// An entry of a directory.
#[derive(Clone, Debug)]
struct Found {
    is_dir: bool,
    start: u32,
    size: u64,
    /// Where its entries lie: those of the long name, then its own.
    entries: Vec<u64>,
}

impl<'a, D: ReadAt + ?Sized> Foreign<'a, D> {
    /// Reads the boot sector.
    ///
    /// # Errors
    /// [`Unreadable::NotFat`] when it is none of FAT, [`Unreadable::Io`].
    pub fn open(device: &'a D) -> Result<Foreign<'a, D>, Unreadable> {
        let mut b = [0; 512];
        device.fill(&mut b, 0)?;
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([b[at], b[at + 1]]));
        let u32_at = |at: usize| u64::from(u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
        let refuse = |why| Err(Unreadable::NotFat(why));
        if b[510..] != [0x55, 0xaa] {
            return refuse("no boot signature");
        }
        let (sector, per_cluster) = (u16_at(11), u64::from(b[13]));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() {
            return refuse("sectors or clusters of no size");
        }
        let (reserved, fats, root_entries) = (u16_at(14), u64::from(b[16]), u16_at(17));
        let nonzero = |short: u64, long: u64| if short != 0 { short } else { long };
        let (sectors, fat) = (nonzero(u16_at(19), u32_at(32)), nonzero(u16_at(22), u32_at(36)));
        if reserved == 0 || !(1..=2).contains(&fats) || fat == 0 {
            return refuse("no file allocation table");
        }
        let root_sectors = (root_entries * ENTRY as u64).div_ceil(sector);
        let front = reserved + fats * fat + root_sectors;
        let Some(data_sectors) = sectors.checked_sub(front) else { return refuse("no room for files") };
        let clusters = data_sectors / per_cluster;
        let width = match clusters {
            n if n < FAT16_CLUSTERS => Width::Twelve,
            n if n < FAT32_CLUSTERS => Width::Sixteen,
            _ => Width::ThirtyTwo,
        };
        let bits = match width {
            Width::Twelve => 12,
            Width::Sixteen => 16,
            Width::ThirtyTwo => 32,
        };
        if clusters > 0x0fff_fff0 || (clusters + 2) * bits > fat * sector * 8 {
            return refuse("the file allocation table is too short");
        }
        if (width == Width::ThirtyTwo) != (root_entries == 0) {
            return refuse("no root directory");
        }
        Ok(Foreign {
            device,
            width,
            fat: (reserved * sector, fat * sector, fats),
            root: ((reserved + fats * fat) * sector, root_entries as usize * ENTRY),
            root_cluster: u32_at(44) as u32 & 0x0fff_ffff,
            data: front * sector,
            cluster: (per_cluster * sector) as usize,
            clusters: clusters as u32,
        })
    }

    /// The volume's label, where its root directory has one.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn label(&self) -> Result<Option<String>, Unreadable> {
        let mut label = None;
        self.walk("/", None, &mut |(_, entry), _| {
            let is_label =
                entry[11] & (attribute::VOLUME_LABEL | attribute::DIRECTORY) == attribute::VOLUME_LABEL;
            if is_label && label.is_none() {
                label = std::str::from_utf8(&entry[..11]).ok().map(|s| s.trim_end().to_string());
            }
            label.is_some()
        })?;
        Ok(label)
    }

    /// The content of the file `path` (`DIRECTORY/FILE`, in any case); `None` where there is no such file.
    ///
    /// # Errors
    /// [`Unreadable::TooLarge`] beyond `limit` bytes, before anything of it is read; else [`Unreadable`].
    pub fn read(&self, path: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, Unreadable> {
        let Some(found) = self.find(path)?.filter(|found| !found.is_dir) else { return Ok(None) };
        let size = match usize::try_from(found.size) {
            Ok(size) if size <= limit => size,
            _ => return Err(Unreadable::TooLarge { path: path.into(), size: found.size, limit }),
        };
        let mut bytes = Zeroizing::new(vec![0; size]);
        let chain = if size == 0 { vec![] } else { self.chain(path, found.start, size)? };
        let mut parts = bytes.chunks_mut(self.cluster);
        for cluster in chain {
            let Some(part) = parts.next() else { break };
            self.device.fill(part, self.place(cluster))?;
        }
        if parts.next().is_some() {
            return Err(damaged(path, "is cut short"));
        }
        Ok(Some(bytes))
    }

    /// Whether there is a directory `path`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn has_directory(&self, path: &str) -> Result<bool, Unreadable> {
        Ok(self.find(path)?.is_some_and(|found| found.is_dir))
    }

    fn find(&self, path: &str) -> Result<Option<Found>, Unreadable> {
        let mut at: Option<Found> = None;
        for name in path.split('/') {
            if at.as_ref().is_some_and(|found| !found.is_dir) {
                return Ok(None);
            }
            let mut next = None;
            self.walk(path, at.as_ref().map(|found| found.start), &mut |(place, entry), long| {
                let mut short = [0; 11];
                short.copy_from_slice(&entry[..11]);
                let shown =
                    names::decode_long(&long.iter().map(|(_, entry)| *entry).collect::<Vec<_>>(), &short)
                        .filter(|_| !long.is_empty());
                let fits = |text: Option<String>| text.is_some_and(|text| text.eq_ignore_ascii_case(name));
                if entry[11] & attribute::VOLUME_LABEL != 0 || !(fits(shown) || fits(names::text_of(&short)))
                {
                    return false;
                }
                let half = |at: usize| u32::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
                next = Some(Found {
                    is_dir: entry[11] & attribute::DIRECTORY != 0,
                    start: half(20) << 16 | half(26),
                    size: u64::from(half(30) << 16 | half(28)),
                    entries: long.iter().map(|(at, _)| *at).chain([*place]).collect(),
                });
                true
            })?;
            match next {
                Some(found) => at = Some(found),
                None => return Ok(None),
            }
        }
        Ok(at)
    }

    /// Calls `visit` with each entry of the directory that starts at `start` (`None`: the root), where it lies, and the
    /// long-name entries before it, until it returns true.
    fn walk(&self, path: &str, start: Option<u32>, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        let windows: Vec<(u64, usize)> = match start {
            None if self.width != Width::ThirtyTwo => vec![self.root],
            start => {
                let chain = self.chain(path, start.unwrap_or(self.root_cluster), MAX_DIRECTORY)?;
                chain.into_iter().map(|cluster| (self.place(cluster), self.cluster)).collect()
            }
        };
        let mut long: Vec<Raw> = vec![];
        for (at, length) in windows {
            let mut bytes = vec![0; length];
            self.device.fill(&mut bytes, at)?;
            for (n, entry) in bytes.as_chunks::<ENTRY>().0.iter().enumerate() {
                let place = at + (n * ENTRY) as u64;
                match (entry[0], entry[11]) {
                    (0, _) => return Ok(()),
                    (DELETED, _) => long.clear(),
                    (_, attribute::LONG_NAME) => {
                        if long.len() == MAX_LONG {
                            long.clear();
                        }
                        long.push((place, *entry));
                    }
                    _ => {
                        if visit(&(place, *entry), &long) {
                            return Ok(());
                        }
                        long.clear();
                    }
                }
            }
        }
        Ok(())
    }

    /// The clusters from `start` on, as many as `bytes` take at most.
    fn chain(&self, path: &str, start: u32, bytes: usize) -> Result<Vec<u32>, Unreadable> {
        let most = bytes.div_ceil(self.cluster);
        let (mut chain, mut at) = (vec![], start);
        while chain.len() < most {
            if !(2..self.clusters + 2).contains(&at) {
                return Err(damaged(path, "has a cluster outside the volume"));
            }
            chain.push(at);
            let (next, end) = self.next(at)?;
            if next >= end {
                break;
            }
            at = next;
        }
        Ok(chain)
    }

    /// What the FAT says of `cluster`, and from where on a value is an end.
    fn next(&self, cluster: u32) -> io::Result<(u32, u32)> {
        let mut b = [0; 4];
        let (at, length) = self.fat_entry(cluster);
        self.device.fill(&mut b[..length], self.fat.0 + at)?;
        let value = u32::from_le_bytes(b);
        Ok(match self.width {
            Width::Twelve if cluster.is_multiple_of(2) => (value & 0xfff, 0xff8),
            Width::Twelve => (value >> 4, 0xff8),
            Width::Sixteen => (value, 0xfff8),
            Width::ThirtyTwo => (value & 0x0fff_ffff, 0x0fff_fff8),
        })
    }

    /// Where the FAT's entry for `cluster` lies in a FAT, and its bytes.
    fn fat_entry(&self, cluster: u32) -> (u64, usize) {
        let n = u64::from(cluster);
        match self.width {
            Width::Twelve => (n + n / 2, 2),
            Width::Sixteen => (n * 2, 2),
            Width::ThirtyTwo => (n * 4, 4),
        }
    }

    fn place(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster - 2) * self.cluster as u64
    }
}

/// Overwrites the content of the file `path` of the volume on `device` with zeros and takes its name away; whether there
/// was such a file. In this order, each step on the disk before the next: a power cut leaves a file of zeros, or clusters
/// that belong to nobody. Flash may keep old copies of blocks all the same.
///
/// # Errors
/// [`Unreadable`]: the content may be gone already then.
pub fn erase(device: &File, path: &str, limit: usize) -> Result<bool, Unreadable> {
    let volume = Foreign::open(device)?;
    let Some(found) = volume.find(path)?.filter(|found| !found.is_dir) else { return Ok(false) };
    let size = found.size.min(limit as u64) as usize;
    let chain = if size == 0 { vec![] } else { volume.chain(path, found.start, size)? };
    for &cluster in &chain {
        device.write_all_at(&vec![0; volume.cluster], volume.place(cluster))?;
    }
    device.sync_all()?;
    for place in found.entries {
        device.write_all_at(&[DELETED], place)?;
    }
    device.sync_all()?;
    for &cluster in &chain {
        let (at, length) = volume.fat_entry(cluster);
        for copy in 0..volume.fat.2 {
            let place = volume.fat.0 + copy * volume.fat.1 + at;
            let mut b = [0; 2];
            if volume.width == Width::Twelve {
                // An entry shares a byte with its neighbour.
                device.read_exact_at(&mut b, place)?;
                if cluster.is_multiple_of(2) {
                    b = [0, b[1] & 0xf0]
                } else {
                    b = [b[0] & 0x0f, 0]
                }
                device.write_all_at(&b, place)?;
            } else {
                device.write_all_at(&[0; 4][..length], place)?;
            }
        }
    }
    device.sync_all()?;
    Ok(true)
}

fn damaged(path: &str, why: &'static str) -> Unreadable {
    Unreadable::Damaged { path: path.into(), why }
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests {
    use super::super::{FatSpec, write};
    use super::*;
    use crate::model::Epoch;
    use crate::tree::{Node, Tree, TreePath};

    const SECRET: &[u8] = b"c2VlZCBvZiBhIHRpY2tldCwgbm90IHRvIHN0YXk=";

    fn volume(size: u64, fat32: bool) -> File {
        let mut tree = Tree::new();
        for (path, bytes) in [
            ("forge-enroll/bootstrap.dsse.json", vec![7; 20_000]),
            ("forge-enroll/ticket.key", SECRET.to_vec()),
            ("forge-enroll/empty", vec![]),
            ("another file with a long name", vec![1]),
        ] {
            tree.insert(TreePath::parse(path).unwrap(), Node::file(bytes, 0o644)).unwrap();
        }
        let spec = FatSpec {
            size,
            fat32,
            label: "FORGEENROLL".into(),
            volume_id: 1,
            hidden: 0,
            epoch: Epoch(1_795_305_600),
        };
        let out = tempfile::tempfile().unwrap();
        out.set_len(size).unwrap();
        write(&tree, &spec, &out, 0).unwrap();
        out
    }

    #[test]
    fn named_files_are_read_in_any_case_and_to_a_size() {
        for (size, fat32) in [(8 << 20, false), (40 << 20, true)] {
            let file = volume(size, fat32);
            let volume = Foreign::open(&file).unwrap();
            assert_eq!(volume.label().unwrap().as_deref(), Some("FORGEENROLL"));
            let bootstrap = volume.read("forge-enroll/bootstrap.dsse.json", 1 << 20).unwrap().unwrap();
            assert_eq!(*bootstrap, vec![7; 20_000]);
            assert_eq!(**volume.read("FORGE-ENROLL/Ticket.KEY", 256).unwrap().unwrap(), *SECRET);
            assert!(volume.read("forge-enroll/empty", 0).unwrap().unwrap().is_empty());
            assert!(volume.has_directory("forge-enroll").unwrap());
            assert!(!volume.has_directory("forge-enroll/ticket.key").unwrap());
            for none in ["forge-enroll/none", "none/ticket.key", "forge-enroll", "forge-enroll/ticket.key/x"]
            {
                assert!(volume.read(none, 256).unwrap().is_none(), "{none}");
            }
            let refused = volume.read("forge-enroll/bootstrap.dsse.json", 19_999).unwrap_err();
            assert!(matches!(refused, Unreadable::TooLarge { size: 20_000, .. }), "{refused}");
        }
    }

    #[test]
    fn an_erased_file_leaves_no_byte_and_its_neighbours_stay() {
        for (size, fat32) in [(8 << 20, false), (40 << 20, true)] {
            let file = volume(size, fat32);
            assert!(erase(&file, "forge-enroll/ticket.key", 256).unwrap());
            let volume = Foreign::open(&file).unwrap();
            assert!(volume.read("forge-enroll/ticket.key", 256).unwrap().is_none());
            assert_eq!(
                volume.read("forge-enroll/bootstrap.dsse.json", 1 << 20).unwrap().unwrap().len(),
                20_000
            );
            let mut all = vec![0; size as usize];
            ReadAt::fill(&file, &mut all, 0).unwrap();
            assert!(!all.windows(SECRET.len()).any(|w| w == SECRET));
            assert!(!erase(&file, "forge-enroll/ticket.key", 256).unwrap());
        }
    }

    #[test]
    fn a_chain_in_a_circle_or_out_of_the_volume_ends() {
        let file = volume(8 << 20, false);
        let mut bytes = vec![0; 8 << 20];
        ReadAt::fill(&file, &mut bytes, 0).unwrap();
        let good = Foreign::open(&bytes[..]).unwrap();
        let start = good.find("forge-enroll/bootstrap.dsse.json").unwrap().unwrap().start;
        let entry = (good.fat.0 + u64::from(start) * 2) as usize;
        for (next, sound) in [(start as u16, true), (0xfff0, false), (1, false), (0xffff, false)] {
            bytes[entry..entry + 2].copy_from_slice(&next.to_le_bytes());
            let volume = Foreign::open(&bytes[..]).unwrap();
            let read = volume.read("forge-enroll/bootstrap.dsse.json", 1 << 20);
            // A circle gives as many clusters as the size asks for; the signature over the content says the rest.
            assert_eq!(read.is_ok(), sound, "{next:#x}: {read:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_volume_makes_it_panic(at in 0usize..70_000, with in proptest::collection::vec(0u8.., 1..64)) {
            let file = volume(8 << 20, false);
            let mut bytes = vec![0; 1 << 20];
            ReadAt::fill(&file, &mut bytes, 0).unwrap();
            // Boot sector, FATs and root directory are in the first 70 kB, mostly at its front.
            let at = if at % 2 == 0 { at / 2 % 128 } else { at };
            bytes[at..at + with.len()].copy_from_slice(&with);
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            if let Ok(volume) = Foreign::open(&bytes[..]) {
                let _ = (volume.label(), volume.read("forge-enroll/ticket.key", 256));
            }
        }
    }
}
