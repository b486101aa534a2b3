//! A FAT volume that forge wrote, back into its files; and any other into an error.
//!
//! Strict on purpose: after reading, the volume is planned anew from what was read and compared, so that no byte but
//! those of the files' contents is unchecked. A volume that another system has written to (which FORGE-ENROLL is for) is
//! none that forge released, and is refused here; [`super::foreign`] reads those.

use super::write::{FatSpec, plan};
use super::{ENTRY, Geometry, SECTOR, attribute, epoch_of, names};
use crate::model::Epoch;
use crate::tree::{Content, Node, Tree, TreePath};
use std::io;

/// The largest tree of directories that is read: an ESP has a dozen files.
const MAX_ENTRIES: usize = 65536;
/// How deep directories may lie.
const MAX_DEPTH: usize = 64;

/// Why a volume is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatError {
    /// The boot sector is none that forge writes.
    #[error("FAT boot sector: {0}")]
    BootSector(&'static str),
    /// A directory's entries.
    #[error("FAT directory `{path}`: {why}")]
    Directory {
        /// The directory.
        path: TreePath,
        /// What is wrong.
        why: &'static str,
    },
    /// A byte of boot sector, FAT, directory, padding or free space is not what the files call for.
    #[error("FAT volume: {part} at byte {offset} is not what its files call for")]
    Damaged {
        /// What lies there.
        part: &'static str,
        /// The byte, from the volume's start.
        offset: u64,
    },
    /// The volume could not be read.
    #[error("reading the FAT volume")]
    Io(#[from] io::Error),
}

/// A volume that was read and compared.
#[derive(Clone, Debug)]
pub struct Volume {
    /// What it was written with. Nothing on a FAT16 vouches for the volume ID.
    pub spec: FatSpec,
    /// Files and directories; contents are windows of the volume.
    pub tree: Tree,
}

/// Reads all of `volume`.
///
/// # Errors
/// [`FatError`] naming the directory, or the first byte that is not as it should be.
pub fn read(volume: &Content) -> Result<Volume, FatError> {
    let (geometry, mut spec) = boot_sector(volume)?;
    let mut reader = Reader {
        volume,
        geometry,
        label: None,
        epoch: None,
        entries: 0,
        left: volume.len(),
        tree: Tree::new(),
    };
    let root = if geometry.wide { 2 } else { 0 };
    reader.directory(&TreePath::root(), root, 0)?;
    let root_fault = |why| FatError::Directory { path: TreePath::root(), why };
    spec.label = reader.label.ok_or_else(|| root_fault("it has no volume label"))?;
    spec.epoch = reader.epoch.unwrap_or(Epoch(0));
    let tree = reader.tree;
    compare(volume, &geometry, &tree, &spec)?;
    Ok(Volume { spec, tree })
}

fn boot_sector(volume: &Content) -> Result<(Geometry, FatSpec), FatError> {
    let mut b = [0; SECTOR as usize];
    if volume.len() < SECTOR {
        return Err(FatError::BootSector("cut off"));
    }
    volume.read_exact_at(&mut b, 0)?;
    if b[510..] != [0x55, 0xaa] {
        return Err(FatError::BootSector("no boot signature"));
    }
    let fat32 = &b[82..90] == b"FAT32   ";
    if !fat32 && &b[54..62] != b"FAT16   " {
        return Err(FatError::BootSector("neither FAT32 nor FAT16"));
    }
    // Everything else follows from the size, and is compared in the end.
    let geometry =
        Geometry::new(volume.len(), fat32).ok_or(FatError::BootSector("no such volume has this size"))?;
    let extended = if fat32 { 64 } else { 36 };
    let spec = FatSpec {
        size: volume.len(),
        fat32,
        label: String::new(),
        volume_id: u32_at(&b, extended + 3),
        hidden: u64::from(u32_at(&b, 28)) * SECTOR,
        epoch: Epoch(0),
    };
    Ok((geometry, spec))
}

struct Reader<'a> {
    volume: &'a Content,
    geometry: Geometry,
    label: Option<String>,
    epoch: Option<Epoch>,
    entries: usize,
    /// Bytes that no file has taken so far.
    left: u64,
    tree: Tree,
}

impl Reader<'_> {
    /// Reads the directory at `cluster` (0: the root of FAT16) and all below it.
    fn directory(&mut self, path: &TreePath, cluster: u64, depth: usize) -> Result<(), FatError> {
        let refuse = |why| FatError::Directory { path: path.clone(), why };
        if depth > MAX_DEPTH {
            return Err(refuse("directories lie too deep"));
        }
        let (at, most) = if cluster == 0 {
            (self.geometry.root_at(), self.geometry.root_entries as usize)
        } else {
            (self.cluster_at(cluster).ok_or_else(|| refuse("it lies outside the volume"))?, MAX_ENTRIES)
        };
        let mut long = vec![];
        for index in 0..most {
            let mut entry = [0; ENTRY];
            self.volume.read_exact_at(&mut entry, at + (index * ENTRY) as u64)?;
            if entry[0] == 0 {
                return Ok(()); // that the rest is zero, and no entry lies past a chain's end, is compared later
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(refuse("it has more entries than forge writes"));
            }
            if entry[11] == attribute::LONG_NAME {
                long.push(entry);
                continue;
            }
            let mut short = [0; 11];
            short.copy_from_slice(&entry[..11]);
            match entry[11] {
                attribute::VOLUME_LABEL if depth == 0 && self.label.is_none() => {
                    self.label = names::text_of(&short).map(|label| label.replace('.', ""));
                    continue;
                }
                // `.` and `..` follow from the layout and are compared later.
                attribute::DIRECTORY if short[0] == b'.' => continue,
                attribute::DIRECTORY | attribute::ARCHIVE => {}
                _ => return Err(refuse("an entry is neither file nor directory")),
            }
            let name =
                if long.is_empty() { names::text_of(&short) } else { names::decode_long(&long, &short) };
            long.clear();
            let name = name.ok_or_else(|| refuse("a name cannot be read"))?;
            let child = path.join(&name).map_err(|_| refuse("a name is no name"))?;
            if child.parent().as_ref() != Some(path) {
                return Err(refuse("a name is no name"));
            }
            if self.tree.get(&child).is_some() {
                return Err(refuse("two entries have one name"));
            }
            if self.epoch.is_none() {
                self.epoch = epoch_of(u16_at(&entry, 24), u16_at(&entry, 22));
            }
            let cluster = u64::from(u16_at(&entry, 20)) << 16 | u64::from(u16_at(&entry, 26));
            let length = u64::from(u32_at(&entry, 28));
            self.left = self.left.checked_sub(length).ok_or_else(|| refuse("its files overlap"))?;
            let node = if entry[11] == attribute::DIRECTORY {
                if cluster == 0 {
                    return Err(refuse("a directory has no cluster"));
                }
                Node::dir(0o755)
            } else if length == 0 {
                Node::file(vec![], 0o644)
            } else {
                let start = self.cluster_at(cluster);
                let content = start.and_then(|start| self.volume.slice(start, length).ok());
                Node::file(content.ok_or_else(|| refuse("a file reaches out of the volume"))?, 0o644)
            };
            let is_dir = node.is_dir();
            self.tree.insert(child.clone(), node).map_err(|_| refuse("two entries have one name"))?;
            if is_dir {
                self.directory(&child, cluster, depth + 1)?;
            }
        }
        Ok(())
    }

    fn cluster_at(&self, cluster: u64) -> Option<u64> {
        (2..self.geometry.clusters + 2).contains(&cluster).then(|| self.geometry.cluster_at(cluster))
    }
}

/// Plans the volume anew and compares it with what is there.
fn compare(volume: &Content, g: &Geometry, tree: &Tree, spec: &FatSpec) -> Result<(), FatError> {
    let plan =
        plan(tree, spec).map_err(|_| FatError::BootSector("forge would not have written such files"))?;
    let damaged = |offset: u64| FatError::Damaged { part: part_at(g, offset), offset };
    let mut known: Vec<(u64, u64)> = vec![];
    for (at, good) in &plan.metadata {
        let mut found = vec![0; good.len()];
        volume.read_exact_at(&mut found, *at)?;
        if let Some(differs) = found.iter().zip(good).position(|(a, b)| a != b) {
            return Err(damaged(at + differs as u64));
        }
        known.push((*at, good.len() as u64));
    }
    for (path, at, content) in &plan.files {
        // The plan's offset and the entry's cluster agree, because the directories that name them are equal; that the
        // tree's window is the same place follows.
        debug_assert!(tree.file(path).is_some_and(|c| c.len() == content.len()));
        known.push((*at, content.len()));
    }
    known.sort_unstable();
    let mut at = 0;
    for (start, length) in known.into_iter().chain([(volume.len(), 0)]) {
        if let Some(offset) = crate::disk::first_nonzero(volume, at..start)? {
            return Err(damaged(offset));
        }
        at = start + length;
    }
    Ok(())
}

fn part_at(g: &Geometry, offset: u64) -> &'static str {
    if offset < g.fat_at(0) {
        "a reserved sector"
    } else if offset < g.root_at() {
        "the file allocation table"
    } else if offset < g.cluster_at(2) {
        "the root directory"
    } else {
        "a directory, or space that no file has,"
    }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
