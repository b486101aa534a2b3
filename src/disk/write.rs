//! A [`DiskSpec`] → a raw disk image: partitions one behind the other, each with its content.

use super::gpt::{ALIGNMENT, GptError, HEAD, Partition, PartitionType, TAIL, Table};
use super::{Extents, fat};
use crate::model::Guid;
use crate::tree::{Content, Tree};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A disk to be written.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    /// The disk's UUID: [derived](Guid::derived) from the build's digest.
    pub guid: Guid,
    /// The partitions in the order in which they lie.
    pub partitions: Vec<PartitionSpec>,
}

/// A partition to be written.
#[derive(Clone, Debug)]
pub struct PartitionSpec {
    /// What it is for.
    pub kind: PartitionType,
    /// Its UUID: a half of the root hash for what verity covers, else derived from the build's digest.
    pub guid: Guid,
    /// Its label: `NAME_VERSION`.
    pub name: String,
    /// [`flag`](super::gpt::flag) bits.
    pub flags: u64,
    /// What is in it.
    pub content: PartitionContent,
    /// Least length in bytes; the partition is as long as its content or this, rounded up to 1 MiB.
    pub min_length: u64,
}

/// What is in a partition.
#[derive(Clone, Debug)]
pub enum PartitionContent {
    /// A file system image or hash tree, copied; holes stay holes.
    Image(Content),
    /// A FAT volume as long as the partition. Its volume ID and place are those of the partition.
    Fat {
        /// Files and directories.
        tree: Tree,
        /// The label.
        label: String,
        /// FAT32, as an ESP has to be; else FAT16.
        fat32: bool,
        /// The time of every file.
        epoch: crate::model::Epoch,
    },
    /// Zeros.
    Empty,
}

/// Why a disk could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The partitions cannot be described.
    #[error(transparent)]
    Table(#[from] GptError),
    /// A FAT volume.
    #[error("writing partition `{name}`")]
    Fat {
        /// The partition's label.
        name: String,
        /// What went wrong.
        source: fat::WriteError,
    },
    /// A partition's content could not be copied.
    #[error("copying into partition `{name}`")]
    Copy {
        /// The partition's label.
        name: String,
        /// What the file system said.
        source: io::Error,
    },
    /// The image could not be written.
    #[error("writing the disk image")]
    Io(#[from] io::Error),
}

impl DiskSpec {
    /// Gives every partition its place, one behind the other.
    pub fn table(&self) -> Table {
        let mut at = HEAD.next_multiple_of(ALIGNMENT);
        let mut partitions = vec![];
        for spec in &self.partitions {
            let content = match &spec.content {
                PartitionContent::Image(content) => content.len(),
                PartitionContent::Fat { .. } | PartitionContent::Empty => 0,
            };
            let length = partition_length(content.max(spec.min_length));
            partitions.push(Partition {
                type_guid: spec.kind.guid(),
                guid: spec.guid,
                name: spec.name.clone(),
                flags: spec.flags,
                offset: at,
                length,
            });
            at += length;
        }
        Table { disk: self.guid, length: (at + TAIL).next_multiple_of(ALIGNMENT), partitions }
    }

    /// The same disk with the partitions that are images left empty, each in its place: for what takes images from where
    /// they are.
    pub fn without_images(&self) -> DiskSpec {
        let mut bare = self.clone();
        for partition in &mut bare.partitions {
            if let PartitionContent::Image(content) = &partition.content {
                partition.min_length = partition.min_length.max(content.len());
                partition.content = PartitionContent::Empty;
            }
        }
        bare
    }
}

/// The length in bytes of the partition that holds `content` bytes: rounded up to 1 MiB.
pub fn partition_length(content: u64) -> u64 {
    content.next_multiple_of(ALIGNMENT)
}

/// Writes the disk to `out` from its first byte; the table with every partition's place. The bytes depend on the spec
/// alone; what is zero is left as a hole.
///
/// # Errors
/// [`DiskError`] naming the partition.
pub fn write(spec: &DiskSpec, out: &File) -> Result<Table, DiskError> {
    let table = spec.table();
    let (head, tail) = table.encode()?;
    out.set_len(0)?; // what was there would show through the holes
    out.set_len(table.length)?;
    out.write_all_at(&head, 0)?;
    out.write_all_at(&tail, table.length - TAIL)?;
    for (spec, place) in spec.partitions.iter().zip(&table.partitions) {
        let name = || spec.name.clone();
        match &spec.content {
            PartitionContent::Empty => {}
            PartitionContent::Image(content) => content
                .copy_to(out, place.offset)
                .map_err(|source| DiskError::Copy { name: name(), source })?,
            PartitionContent::Fat { tree, label, fat32, epoch } => {
                let volume = fat::FatSpec {
                    size: place.length,
                    fat32: *fat32,
                    label: label.clone(),
                    volume_id: fat::volume_id(&spec.guid),
                    hidden: place.offset,
                    epoch: *epoch,
                };
                fat::write(tree, &volume, out, place.offset)
                    .map_err(|source| DiskError::Fat { name: name(), source })?;
            }
        }
    }
    Ok(table)
}

/// Gives every piece of the disk its place and copies none: what is written here, table and FAT volumes, goes to the
/// empty file `scratch`, images stay in their own files.
///
/// # Errors
/// As [`write()`].
pub fn compose(spec: &DiskSpec, scratch: Arc<File>) -> Result<Extents, DiskError> {
    let table = write(&spec.without_images(), &scratch)?;
    let written = Content::of_file(scratch)?;
    let mut disk = Extents::new(table.length);
    let mut at = 0;
    for (partition, place) in spec.partitions.iter().zip(&table.partitions) {
        if let PartitionContent::Image(content) = &partition.content {
            if place.offset > at {
                disk.push(at, written.slice(at, place.offset - at)?)?;
            }
            disk.push(place.offset, content.clone())?;
            at = place.offset + place.length;
        }
    }
    disk.push(at, written.slice(at, table.length - at)?)?;
    Ok(disk)
}

/// The first byte of `range` that is not zero; holes of the file are not read.
pub(super) fn first_nonzero(content: &Content, range: Range<u64>) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = range.start;
    while at < range.end {
        let Some(data) = content.next_data(at)? else { return Ok(None) };
        at = data.start;
        let end = data.end.min(range.end);
        while at < end {
            let n = (end - at).min(buffer.len() as u64) as usize;
            content.read_exact_at(&mut buffer[..n], at)?;
            if let Some(i) = buffer[..n].iter().position(|b| *b != 0) {
                return Ok(Some(at + i as u64));
            }
            at += n as u64;
        }
    }
    Ok(None)
}
