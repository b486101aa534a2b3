//! A disk image opened for reading: its table checked, each partition a window of the file.

use super::gpt::{GptError, Partition, PartitionType, Table};
use crate::tree::Content;
use std::io;

/// A disk image whose partition table has been checked.
#[derive(Clone, Debug)]
pub struct DiskImage {
    content: Content,
    table: Table,
}

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Its partition table.
    #[error(transparent)]
    Table(#[from] GptError),
    /// No partition of a type, or more than one.
    #[error("{count} partitions of type {kind:?}, expected one")]
    Count {
        /// The type.
        kind: PartitionType,
        /// How many there are.
        count: usize,
    },
    /// The image could not be read.
    #[error("reading the disk image")]
    Io(#[from] io::Error),
}

impl DiskImage {
    /// Checks the partition table of `content`.
    ///
    /// # Errors
    /// [`ImageError::Table`] naming the part of the table.
    pub fn open(content: Content) -> Result<DiskImage, ImageError> {
        let table = Table::decode(&content)?;
        Ok(DiskImage { content, table })
    }

    /// The partition table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The bytes of the whole disk.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The bytes of a partition of this image.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the partition is another disk's and lies outside this one.
    pub fn partition(&self, partition: &Partition) -> io::Result<Content> {
        self.content.slice(partition.offset, partition.length)
    }

    /// The only partition of a type, and its bytes.
    ///
    /// # Errors
    /// [`ImageError::Count`] when there is none or there are several.
    pub fn only(&self, kind: PartitionType) -> Result<(&Partition, Content), ImageError> {
        let found: Vec<_> = self.table.partitions.iter().filter(|p| p.type_guid == kind.guid()).collect();
        match found[..] {
            [partition] => Ok((partition, self.partition(partition)?)),
            _ => Err(ImageError::Count { kind, count: found.len() }),
        }
    }
}
