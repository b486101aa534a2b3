//! A disk's pieces → one file in the format of a hypervisor, in one pass over what is no hole.
//!
//! Formats are rooms of their own: [`qcow2`], [`vmdk`], [`vhdx`]. All cut the disk into chunks, leave out those that are zero (whether a hole
//! of the file or written zeros, so that the bytes depend on the disk alone), and keep a table of where the others are.
//! Memory is a few MiB, and a few bytes for each chunk. What identifies a file follows from the disk's UUID; no clock.

pub mod qcow2;
pub mod vhdx;
pub mod vmdk;

use super::Extents;
use crate::model::Guid;
use rayon::prelude::*;
use serde::Serialize;
use std::fs::File;
use std::io;

/// What a disk's length is a multiple of, in all formats: a sector, in bytes.
const SECTOR: u64 = 512;

/// How many bytes are compressed at a time, by all of rayon's threads together: enough that none waits for another long.
const BATCH: u64 = 8 << 20;

/// A hypervisor's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// QEMU, and what is built on it: [`qcow2`].
    Qcow2,
    /// VMware's, as a stream: [`vmdk`].
    Vmdk,
    /// Hyper-V's: [`vhdx`].
    Vhdx,
}

impl Format {
    /// How file names end, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhdx => "vhdx",
        }
    }

    /// The format of a file that begins with `start`, where it is one of them.
    pub fn of(start: &[u8]) -> Option<Format> {
        match start.get(..4)? {
            b"QFI\xfb" => Some(Format::Qcow2),
            b"KDMV" => Some(Format::Vmdk),
            b"vhdx" => Some(Format::Vhdx),
            _ => None,
        }
    }
}

/// Writes `disk` to the empty file `out`. Equal disks with equal `guid`, the disk's own UUID, give equal bytes.
///
/// # Errors
/// What the pieces and `out` say; [`io::ErrorKind::InvalidInput`] for a disk that ends within a sector or is longer than
/// the format can say.
pub fn write(format: Format, disk: &Extents, guid: Guid, out: &File) -> io::Result<()> {
    if disk.length() == 0 || !disk.length().is_multiple_of(SECTOR) {
        return Err(invalid(format!("a disk of {} bytes ends within a sector", disk.length())));
    }
    match format {
        Format::Qcow2 => qcow2::write(disk, out), // it has no place for a UUID
        Format::Vmdk => vmdk::write(disk, guid, io::BufWriter::with_capacity(1 << 20, out)),
        Format::Vhdx => vhdx::write(disk, guid, out),
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Goes through the chunks of `size` bytes that are not zero, in order: `pack` compresses each, on any thread, `place`
/// takes its index and what was packed. The last chunk ends with the disk and is shorter where that is no multiple.
fn chunks<T: Send>(
    disk: &Extents,
    size: u64,
    pack: impl Fn(Vec<u8>) -> io::Result<T> + Sync,
    mut place: impl FnMut(u64, T) -> io::Result<()>,
) -> io::Result<()> {
    let at_once = (BATCH / size).max(1) as usize;
    let mut places = Places { disk, size, at: 0, data: 0..0 };
    loop {
        let indices = places.by_ref().take(at_once).collect::<io::Result<Vec<u64>>>()?;
        let packed = indices
            .par_iter()
            .map(|index| {
                let at = index * size;
                let mut chunk = vec![0; size.min(disk.length() - at) as usize];
                disk.read_exact_at(&mut chunk, at)?;
                let zero = chunk.iter().all(|byte| *byte == 0);
                Ok((!zero).then(|| pack(chunk)).transpose()?.map(|packed| (*index, packed)))
            })
            .collect::<io::Result<Vec<_>>>()?;
        for (index, packed) in packed.into_iter().flatten() {
            place(index, packed)?;
        }
        if indices.len() < at_once {
            return Ok(());
        }
    }
}

/// The indices of the chunks that are no holes.
struct Places<'a> {
    disk: &'a Extents,
    size: u64,
    /// The first byte that was not looked at.
    at: u64,
    /// The run of data that was found last.
    data: std::ops::Range<u64>,
}

impl Iterator for Places<'_> {
    type Item = io::Result<u64>;

    fn next(&mut self) -> Option<io::Result<u64>> {
        if self.at >= self.data.end {
            self.data = match self.disk.next_data(self.at).transpose()? {
                Ok(data) => data,
                Err(e) => return Some(Err(e)),
            };
        }
        let index = self.at.max(self.data.start) / self.size;
        self.at = (index + 1) * self.size;
        Some(Ok(index))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tree::Content;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;

    /// Bytes that no codec makes smaller.
    pub fn noise(length: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        let step = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *state as u8
        };
        (0..length).map(|_| step(&mut state)).collect()
    }

    /// A disk whose last chunk is short in every format: text, noise, zeros that are no hole, and holes.
    pub fn disk() -> (Extents, Vec<u8>) {
        let length = (9 << 20) + 3 * 512;
        let text = b"what compresses well ".repeat(20_000);
        let sparse = tempfile::tempfile().unwrap();
        sparse.write_all_at(&noise(200_000), 1 << 20).unwrap();
        sparse.write_all_at(&[0; 300_000], 2 << 20).unwrap();
        sparse.set_len(3 << 20).unwrap();
        let mut disk = Extents::new(length);
        disk.push(0, vec![0x55; 512].into()).unwrap();
        disk.push(100_000, text.into()).unwrap();
        disk.push(2 << 20, Content::of_file(Arc::new(sparse)).unwrap()).unwrap();
        disk.push(length - 700, noise(700).into()).unwrap();
        let mut whole = vec![0; length as usize];
        disk.read_exact_at(&mut whole, 0).unwrap();
        (disk, whole)
    }

    /// The same bytes as [`disk`], in one piece without holes.
    pub fn whole() -> Extents {
        let (disk, whole) = disk();
        let mut one = Extents::new(disk.length());
        one.push(0, whole.into()).unwrap();
        one
    }

    /// What a format makes of a disk.
    pub fn written(format: Format, disk: &Extents) -> Vec<u8> {
        let out = Arc::new(tempfile::tempfile().unwrap());
        write(format, disk, Guid::from_u128(7), &out).unwrap();
        Content::of_file(out).unwrap().to_vec(1 << 30).unwrap()
    }

    #[test]
    fn bytes_do_not_depend_on_holes_and_are_recognised() {
        for format in [Format::Qcow2, Format::Vmdk, Format::Vhdx] {
            let image = written(format, &disk().0);
            assert!(image == written(format, &whole()), "{format:?}");
            assert_eq!(Format::of(&image), Some(format));
        }
    }

    #[test]
    fn a_disk_that_ends_within_a_sector_is_refused() {
        let out = tempfile::tempfile().unwrap();
        for length in [0, 511, (1 << 20) + 1] {
            let fault = write(Format::Qcow2, &Extents::new(length), Guid::NIL, &out).unwrap_err().to_string();
            assert!(fault.contains("ends within a sector"), "{fault}");
        }
    }

    #[test]
    fn chunks_that_are_zero_are_left_out() {
        let (disk, whole) = disk();
        let mut seen = vec![];
        let copy = |index: u64, chunk: Vec<u8>| {
            assert_eq!(chunk, whole[index as usize * 65536..][..chunk.len()]);
            seen.push((index, chunk.len()));
            Ok(())
        };
        chunks(&disk, 65536, Ok, copy).unwrap();
        let full = [0, 1, 2, 3, 4, 5, 6, 7, 48, 49, 50, 51];
        let expected: Vec<_> = full.iter().map(|i| (*i, 65536)).chain([(144, 1536)]).collect();
        assert_eq!(seen, expected);
    }
}
