//! An image onto a real disk: written with its table last, read back, compared.
//!
//! The disk is whole or has no partition table: what starts at the first byte is taken off before anything else is
//! written and put there when all of the rest has been read back. A disk keeps sectors whole and no order among them, so
//! the header of the table, which alone makes one of the rest, is a step of its own ([`Pending::steps`]); until it is
//! there, a mark says that the disk is being written ([`is_half_written`]). A power cut at any moment leaves a disk that no
//! firmware starts and that may be written anew. What is zero in the image becomes zero on the disk, whatever was there: the kernel is
//! asked to zero the range, which costs a disk that can nothing, and writes zeros to one that cannot.

use crate::model::Digest;
use rustix::fs::{Advice, FallocateFlags};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// What is written, hashed and read back at a time.
pub const CHUNK: usize = 1 << 20;

/// Bytes of a sector: the least that a disk writes whole.
const SECTOR: usize = 512;
/// The header of a partition table (UEFI 2.10 §5.3.2).
const HEADER: Range<usize> = SECTOR..2 * SECTOR;
/// The sector that says that the disk is being written: the last of the first chunk, which few images use.
const MARK: Range<usize> = CHUNK - SECTOR..CHUNK;
/// What it begins with.
const MARKED: &[u8] = b"forge: this disk is being written\n";

/// Whether the disk that begins with `head`, of [`CHUNK`] bytes at least, was left while it was written.
pub fn is_half_written(head: &[u8]) -> bool {
    head.get(MARK).is_some_and(|sector| sector.starts_with(MARKED))
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of the image are written.
    Written(u64),
    /// So many bytes are read back.
    Compared(u64),
}

/// Why a disk does not hold the image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OntoError {
    /// The image's source.
    #[error("reading the image at byte {at}")]
    Source {
        /// Byte of the image.
        at: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// The image has another length than was said.
    #[error("the image has {found} bytes, expected {expected}")]
    Length {
        /// What was said.
        expected: u64,
        /// What came, at least.
        found: u64,
    },
    /// The disk.
    #[error("writing the disk at byte {at}")]
    Disk {
        /// Byte of the disk.
        at: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// The disk gives back something else than was written.
    #[error("the disk does not give back what was written at byte {at}")]
    Differs {
        /// Start of the chunk.
        at: u64,
    },
}

/// An image on its disk but for the first [`CHUNK`], which makes it one.
#[derive(Debug)]
#[must_use = "without its first chunk the disk holds nothing"]
pub struct Pending {
    head: Vec<u8>,
    length: u64,
}

/// Writes the image that `source` gives, of `length` bytes, to `disk`, and reads all of it back; but for the first chunk,
/// in whose place are zeros and the mark. `disk_length` is that of the disk, whose end is cleared of an old table. `told` hears of
/// every chunk.
///
/// # Errors
/// [`OntoError`]. The disk then has no partition table.
pub fn write(
    mut source: impl Read,
    length: u64,
    disk: &File,
    disk_length: u64,
    told: &mut dyn FnMut(Progress),
) -> Result<Pending, OntoError> {
    let on_disk = |at| move |source| OntoError::Disk { at, source };
    let chunk = CHUNK as u64;
    let end = disk_length.saturating_sub(chunk);
    zero(disk, 0, chunk.min(disk_length)).map_err(on_disk(0))?;
    zero(disk, end, disk_length - end).map_err(on_disk(end))?;
    disk.sync_all().map_err(on_disk(0))?;
    if disk_length >= chunk {
        disk.write_all_at(&mark(), MARK.start as u64)
            .and_then(|()| disk.sync_all())
            .map_err(on_disk(MARK.start as u64))?;
    }
    let mut head = vec![];
    // A digest a chunk: `None` for zeros, of which an image has many, and which are quicker looked at than hashed.
    let mut digests: Vec<Option<Digest>> = vec![];
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let filled = fill(&mut source, &mut buffer).map_err(|source| OntoError::Source { at, source })?;
        let bytes = &buffer[..filled];
        if at + filled as u64 > length || (filled < CHUNK && at + (filled as u64) < length) {
            return Err(OntoError::Length { expected: length, found: at + filled as u64 });
        }
        if filled == 0 {
            break;
        }
        if at == 0 {
            head = bytes.to_vec();
            digests.push(None);
        } else if is_zero(bytes) {
            zero(disk, at, filled as u64).map_err(on_disk(at))?;
            digests.push(None);
        } else {
            disk.write_all_at(bytes, at).map_err(on_disk(at))?;
            digests.push(Some(Digest::of(bytes)));
        }
        at += filled as u64;
        told(Progress::Written(at));
    }
    disk.sync_all().map_err(on_disk(0))?;
    forget(disk);
    for (index, digest) in digests.iter().enumerate() {
        let at = index as u64 * chunk;
        let bytes = &mut buffer[..chunk.min(length - at) as usize];
        disk.read_exact_at(bytes, at).map_err(on_disk(at))?;
        if index == 0 && is_half_written(bytes) {
            bytes[MARK].fill(0);
        }
        let same = match digest {
            None => is_zero(bytes),
            Some(digest) => Digest::of(&*bytes) == *digest,
        };
        if !same {
            return Err(OntoError::Differs { at });
        }
        told(Progress::Compared(at + bytes.len() as u64));
    }
    Ok(Pending { head, length })
}

impl Pending {
    /// The image's first chunk, with its partition table.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Length of the image.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What is left to be written, as place and bytes, with all that is before on the disk before what is after: the first
    /// chunk without its header, the header, and what the mark stood in the place of.
    pub fn steps(&self) -> Vec<(u64, Vec<u8>)> {
        if self.head.len() < CHUNK {
            return vec![(0, self.head.clone())]; // too short for a table
        }
        let mut rest = self.head.clone();
        rest[HEADER].fill(0);
        rest[MARK].copy_from_slice(&mark());
        let sector = |place: Range<usize>| (place.start as u64, self.head[place].to_vec());
        vec![(0, rest), sector(HEADER), sector(MARK)]
    }

    /// Puts the first chunk in its place: from here on the disk is the image.
    ///
    /// # Errors
    /// [`OntoError`].
    pub fn finish(self, disk: &File) -> Result<(), OntoError> {
        let on_disk = |source| OntoError::Disk { at: 0, source };
        disk.sync_all().map_err(on_disk)?;
        for (at, bytes) in self.steps() {
            disk.write_all_at(&bytes, at).and_then(|()| disk.sync_all()).map_err(on_disk)?;
        }
        forget(disk);
        let mut back = vec![0; self.head.len()];
        disk.read_exact_at(&mut back, 0).map_err(on_disk)?;
        if back == self.head { Ok(()) } else { Err(OntoError::Differs { at: 0 }) }
    }
}

fn mark() -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    sector[..MARKED.len()].copy_from_slice(MARKED);
    sector
}

/// Fills `buffer` as far as `source` goes.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Word by word: a disk is mostly zeros, and this is what they cost.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Makes a range read as zeros.
fn zero(disk: &File, at: u64, length: u64) -> io::Result<()> {
    let flags = if disk.metadata()?.is_file() {
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
    } else {
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
    };
    if length == 0 || rustix::fs::fallocate(disk, flags, at, length).is_ok() {
        return Ok(());
    }
    // A range that ends within a block of the disk, or a kernel that does not do it.
    let zeros = vec![0; (length as usize).min(CHUNK)];
    let mut done = 0;
    while done < length {
        let n = (length - done).min(zeros.len() as u64);
        disk.write_all_at(&zeros[..n as usize], at + done)?;
        done += n;
    }
    Ok(())
}

/// Has the kernel forget what it holds of the disk in memory: what is read afterwards comes from the disk.
fn forget(disk: &File) {
    let _ = rustix::fs::fadvise(disk, 0, None::<NonZeroU64>, Advice::DontNeed); // a file system without it reads its own
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 5 * CHUNK + 512;

    fn image() -> Vec<u8> {
        let mut image = vec![0; LENGTH];
        for (at, byte) in [(0, 1), (513, 2), (CHUNK + 7, 3), (3 * CHUNK, 4), (LENGTH - 1, 5)] {
            image[at] = byte;
        }
        image
    }

    /// A disk that is longer than the image and full of something else.
    fn used() -> (File, u64) {
        let disk = tempfile::tempfile().unwrap();
        let length = 8 * CHUNK + 4096;
        disk.write_all_at(&vec![0xaa; length], 0).unwrap();
        (disk, length as u64)
    }

    fn read(disk: &File, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        disk.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    #[test]
    fn zeros_of_the_image_replace_what_was_there_and_the_table_comes_last() {
        let (disk, length) = used();
        let mut last = None;
        let pending = write(&image()[..], LENGTH as u64, &disk, length, &mut |p| last = Some(p)).unwrap();
        assert_eq!(last, Some(Progress::Compared(LENGTH as u64)));
        assert!(is_zero(&read(&disk, 0, CHUNK - SECTOR)), "the table is there already");
        assert!(is_half_written(&read(&disk, 0, CHUNK)));
        assert_eq!(pending.head()[513], 2);
        pending.finish(&disk).unwrap();
        assert!(read(&disk, 0, LENGTH) == image());
        assert!(is_zero(&read(&disk, length - CHUNK as u64, CHUNK)), "the end of an old table is left");
    }

    #[test]
    fn a_source_that_ends_early_or_late_leaves_a_disk_without_a_table() {
        for expected in [LENGTH as u64 - 1, LENGTH as u64 + 1, (LENGTH + CHUNK) as u64] {
            let (disk, length) = used();
            let fault = write(&image()[..], expected, &disk, length, &mut |_| ()).unwrap_err();
            assert!(matches!(fault, OntoError::Length { .. }), "{fault}");
            assert!(is_zero(&read(&disk, 0, CHUNK - SECTOR)) && is_half_written(&read(&disk, 0, CHUNK)));
        }
    }

    #[test]
    fn a_disk_that_forgets_is_found_out() {
        let (disk, length) = used();
        let mut spoilt = false;
        let fault = write(&image()[..], LENGTH as u64, &disk, length, &mut |p| {
            // Between writing and reading back, as a worn-out flash would.
            if p == Progress::Written(LENGTH as u64) && !spoilt {
                spoilt = true;
                disk.write_all_at(&[9], 3 * CHUNK as u64 + 5).unwrap();
            }
        });
        assert!(matches!(fault, Err(OntoError::Differs { at }) if at == 3 * CHUNK as u64), "{fault:?}");
    }
}
