//! A tree onto a FAT volume.

use super::{ENTRY, Geometry, NameError, SECTOR, attribute, dos_time, names};
use crate::model::Epoch;
use crate::tree::{Content, NodeKind, Tree, TreePath};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a volume is besides its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatSpec {
    /// Bytes of the volume: a multiple of 512. FAT16 from about 3 MiB to 2 GiB, FAT32 from about 34 MiB.
    pub size: u64,
    /// FAT32, as an ESP has to be; else FAT16.
    pub fat32: bool,
    /// The label: 1 to 11 of `A-Z`, `0-9`, `-`, `_`.
    pub label: String,
    /// The volume ID: [`super::volume_id`] of the partition.
    pub volume_id: u32,
    /// Bytes before the volume on its disk.
    pub hidden: u64,
    /// The time of every file and directory, in UTC and cut to two seconds: FAT has no time zone.
    pub epoch: Epoch,
}

/// A tree that the volume cannot hold, or a file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A size at which no volume of the kind is valid.
    #[error("no {kind} volume can have {size} bytes")]
    Size {
        /// `FAT16` or `FAT32`.
        kind: &'static str,
        /// The size asked for.
        size: u64,
    },
    /// A label that cannot be written.
    #[error("volume label `{0}` is not 1 to 11 of A-Z, 0-9, `-` and `_`")]
    Label(String),
    /// A symbolic link, device or fifo, or a file of 4 GiB or more.
    #[error("`{path}` cannot be on a FAT volume: {why}")]
    Unfit {
        /// The path.
        path: TreePath,
        /// Why not.
        why: &'static str,
    },
    /// A name that FAT cannot hold.
    #[error("in directory `{directory}`")]
    Name {
        /// The directory.
        directory: TreePath,
        /// The name and what is wrong with it.
        source: NameError,
    },
    /// The tree needs more room than there is.
    #[error("the files need {needed} bytes, the volume has room for {room}")]
    Full {
        /// Bytes in whole clusters.
        needed: u64,
        /// Bytes of all clusters.
        room: u64,
    },
    /// A content that could not be copied.
    #[error("copying `{path}` onto the volume")]
    Copy {
        /// The file.
        path: TreePath,
        /// What the file system said.
        source: io::Error,
    },
    /// The volume could not be written.
    #[error("writing the volume")]
    Io(#[from] io::Error),
}

/// Writes `tree` as a FAT volume to `out` from byte `at`. The range must read as zeros before: what is zero on the volume
/// is not written, so the file stays sparse. Owners, modes and times of the tree are not kept; a hard link becomes a
/// file of its own.
///
/// # Errors
/// [`WriteError`] as its variants say.
pub fn write(tree: &Tree, spec: &FatSpec, out: &File, at: u64) -> Result<(), WriteError> {
    let plan = plan(tree, spec)?;
    for (offset, bytes) in plan.metadata {
        out.write_all_at(&bytes, at + offset)?;
    }
    for (path, offset, content) in plan.files {
        content
            .copy_to(out, at + offset)
            .map_err(|source| WriteError::Copy { path: path.clone(), source })?;
    }
    Ok(())
}

/// A volume before it is written: everything that is not zero, by byte offset.
pub(super) struct Plan<'a> {
    /// Boot sectors, FATs, directories.
    pub metadata: Vec<(u64, Vec<u8>)>,
    /// Contents of files that are not empty, in order of their offsets.
    pub files: Vec<(&'a TreePath, u64, &'a Content)>,
}

pub(super) fn plan<'a>(tree: &'a Tree, spec: &FatSpec) -> Result<Plan<'a>, WriteError> {
    let kind = if spec.fat32 { "FAT32" } else { "FAT16" };
    let geometry = Geometry::new(spec.size, spec.fat32).ok_or(WriteError::Size { kind, size: spec.size })?;
    let good = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    if !(1..=11).contains(&spec.label.len()) || !spec.label.bytes().all(good) {
        return Err(WriteError::Label(spec.label.clone()));
    }
    let mut volume = Layout {
        geometry,
        spec,
        children: children(tree)?,
        next: 2,
        chains: vec![],
        plan: Plan { metadata: vec![], files: vec![] },
    };
    let root = TreePath::root();
    let root_cluster = if spec.fat32 { volume.take(volume.slots(&root)? * ENTRY as u64) } else { 0 };
    volume.directory(&root, root_cluster, 0)?;
    let used = volume.next - 2;
    if used > geometry.clusters {
        let [needed, room] = [used, geometry.clusters].map(|n| n * geometry.cluster);
        return Err(WriteError::Full { needed, room });
    }
    let free = (geometry.clusters - used, volume.next);
    let mut plan = volume.finish();
    plan.metadata.extend(boot_sectors(&geometry, spec, free));
    Ok(plan)
}

type Children<'a> = BTreeMap<TreePath, Vec<(&'a TreePath, Option<&'a Content>)>>;

/// The children of every directory: files with their content, directories with none.
fn children(tree: &Tree) -> Result<Children<'_>, WriteError> {
    let mut children = Children::new();
    for (path, node) in tree.iter() {
        let content = match &node.kind {
            NodeKind::Dir => {
                children.entry(path.clone()).or_default();
                None
            }
            NodeKind::File(_) | NodeKind::HardLink(_) => {
                let content = tree.file(path);
                if content.is_none_or(|c| c.len() > u64::from(u32::MAX)) {
                    return Err(WriteError::Unfit { path: path.clone(), why: "it has 4 GiB or more" });
                }
                content
            }
            _ => {
                let why = "it is neither file nor directory";
                return Err(WriteError::Unfit { path: path.clone(), why });
            }
        };
        if let Some(parent) = path.parent() {
            children.entry(parent).or_default().push((path, content));
        }
    }
    Ok(children)
}

struct Layout<'a, 's> {
    geometry: Geometry,
    spec: &'s FatSpec,
    children: Children<'a>,
    /// The next free cluster.
    next: u64,
    /// First cluster and length of every chain, in order.
    chains: Vec<(u64, u64)>,
    plan: Plan<'a>,
}

impl<'a> Layout<'a, '_> {
    fn take(&mut self, bytes: u64) -> u64 {
        let count = bytes.div_ceil(self.geometry.cluster).max(1);
        let first = self.next;
        self.next += count;
        self.chains.push((first, count));
        first
    }

    /// Entries that a directory needs: its label or `.` and `..`, then short and long names.
    fn slots(&self, directory: &TreePath) -> Result<u64, WriteError> {
        let own = if directory.as_str().is_empty() { 1 } else { 2 };
        let mut slots = own;
        for (short, (path, _)) in self.short_names(directory)?.iter().zip(&self.children[directory]) {
            slots += 1 + if short.1 { names::long_entries(path.name()) as u64 } else { 0 };
        }
        // The specification's limit, which the root of FAT16 undercuts.
        let limit = if own == 1 && !self.geometry.wide { self.geometry.root_entries } else { 65536 };
        if slots > limit {
            let why = "its entries are more than such a directory holds";
            return Err(WriteError::Unfit { path: directory.clone(), why });
        }
        Ok(slots)
    }

    fn short_names(&self, directory: &TreePath) -> Result<Vec<([u8; 11], bool)>, WriteError> {
        names::short_names(self.children[directory].iter().map(|(path, _)| path.name()))
            .map_err(|source| WriteError::Name { directory: directory.clone(), source })
    }

    /// Lays out `directory`, whose clusters begin at `own`, and all below it.
    fn directory(&mut self, directory: &TreePath, own: u64, parent: u64) -> Result<(), WriteError> {
        let is_root = directory.as_str().is_empty();
        let shorts = self.short_names(directory)?;
        self.slots(directory)?;
        let mut bytes = vec![];
        let epoch = self.spec.epoch;
        if is_root {
            bytes.extend(entry(&padded(&self.spec.label), attribute::VOLUME_LABEL, 0, 0, Epoch(0)));
        } else {
            bytes.extend(entry(b".          ", attribute::DIRECTORY, own, 0, epoch));
            bytes.extend(entry(b"..         ", attribute::DIRECTORY, parent, 0, epoch));
        }
        for ((path, content), (short, long)) in self.children[directory].clone().into_iter().zip(shorts) {
            if long {
                names::encode_long(path.name(), &short).iter().for_each(|part| bytes.extend(part));
            }
            let entry = match content {
                None => {
                    let cluster = self.take(self.slots(path)? * ENTRY as u64);
                    // In a child of the root `..` is cluster 0, whatever the root's own is.
                    self.directory(path, cluster, if is_root { 0 } else { own })?;
                    entry(&short, attribute::DIRECTORY, cluster, 0, epoch)
                }
                Some(content) if content.is_empty() => entry(&short, attribute::ARCHIVE, 0, 0, epoch),
                Some(content) => {
                    let cluster = self.take(content.len());
                    self.plan.files.push((path, self.geometry.cluster_at(cluster), content));
                    entry(&short, attribute::ARCHIVE, cluster, content.len() as u32, epoch)
                }
            };
            bytes.extend(entry);
        }
        let at = if own == 0 { self.geometry.root_at() } else { self.geometry.cluster_at(own) };
        self.plan.metadata.push((at, bytes));
        Ok(())
    }

    /// Adds both FATs, as far as they are not zero.
    fn finish(mut self) -> Plan<'a> {
        let end = self.geometry.end_of_chain();
        let mut fat = vec![end & !0x7, end]; // media byte 0xf8; clean, no errors
        for (first, count) in &self.chains {
            fat.extend((first + 1..first + count).map(|next| next as u32));
            fat.push(end);
        }
        let bytes: Vec<u8> = if self.geometry.wide {
            fat.iter().flat_map(|entry| entry.to_le_bytes()).collect()
        } else {
            fat.iter().flat_map(|entry| (*entry as u16).to_le_bytes()).collect()
        };
        self.plan.metadata.push((self.geometry.fat_at(0), bytes.clone()));
        self.plan.metadata.push((self.geometry.fat_at(1), bytes));
        self.plan
    }
}

fn padded(label: &str) -> [u8; 11] {
    let mut name = [b' '; 11];
    name[..label.len()].copy_from_slice(label.as_bytes());
    name
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u64, size: u32, epoch: Epoch) -> [u8; ENTRY] {
    let (date, time) = dos_time(epoch);
    let mut e = [0; ENTRY];
    let mut put = |at: usize, bytes: &[u8]| e[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(11, &[attributes]);
    put(14, &time.to_le_bytes()); // created
    put(16, &date.to_le_bytes());
    put(18, &date.to_le_bytes()); // read
    put(20, &((cluster >> 16) as u16).to_le_bytes());
    put(22, &time.to_le_bytes()); // written
    put(24, &date.to_le_bytes());
    put(26, &(cluster as u16).to_le_bytes());
    put(28, &size.to_le_bytes());
    e
}

/// The boot sector; of FAT32 also the count of free clusters, and the copy of both.
fn boot_sectors(g: &Geometry, spec: &FatSpec, free: (u64, u64)) -> Vec<(u64, Vec<u8>)> {
    let mut b = vec![0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, if g.wide { b"\xeb\x58\x90" } else { b"\xeb\x3c\x90" }); // a jump over the parameters
    put(3, b"MSWIN4.1"); // the name that the specification advises, for drivers that look
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[(g.cluster / SECTOR) as u8]);
    put(14, &(g.reserved as u16).to_le_bytes());
    put(16, &[2]); // FATs
    put(17, &(g.root_entries as u16).to_le_bytes());
    put(21, &[0xf8]); // fixed disk
    put(24, &63u16.to_le_bytes()); // sectors and heads, for BIOSes of old
    put(26, &255u16.to_le_bytes());
    put(28, &((spec.hidden / SECTOR) as u32).to_le_bytes());
    if g.sectors < 0x10000 && !g.wide {
        put(19, &(g.sectors as u16).to_le_bytes());
    } else {
        put(32, &(g.sectors as u32).to_le_bytes());
    }
    let extended = if g.wide { 64 } else { 36 };
    if g.wide {
        put(36, &(g.fat as u32).to_le_bytes());
        put(44, &2u32.to_le_bytes()); // the root's cluster
        put(48, &1u16.to_le_bytes()); // where the count of free clusters is
        put(50, &6u16.to_le_bytes()); // where the copy is
    } else {
        put(22, &(g.fat as u16).to_le_bytes());
    }
    put(extended, &[0x80]); // drive number of BIOSes
    put(extended + 2, &[0x29]); // the three fields that follow are there
    put(extended + 3, &spec.volume_id.to_le_bytes());
    put(extended + 7, &padded(&spec.label));
    put(extended + 18, if g.wide { b"FAT32   " } else { b"FAT16   " });
    put(510, &[0x55, 0xaa]);
    if !g.wide {
        return vec![(0, b)];
    }
    let mut info = vec![0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RRaA");
    put(484, b"rrAa");
    put(488, &(free.0 as u32).to_le_bytes());
    put(492, &(free.1 as u32).to_le_bytes());
    put(510, &[0x55, 0xaa]);
    b.extend(info);
    vec![(0, b.clone()), (6 * SECTOR, b)]
}
