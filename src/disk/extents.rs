//! A disk as pieces at their places, before anything puts them into one file: what lies between them is zero.

use crate::tree::Content;
use std::io;
use std::ops::Range;

/// The bytes of a disk that no file holds as a whole: contents one behind the other, with holes between and within them.
#[derive(Clone, Debug)]
pub struct Extents {
    length: u64,
    /// First byte on the disk, and content; in order, none over another.
    pieces: Vec<(u64, Content)>,
}

impl Extents {
    /// A disk of `length` bytes, all zero.
    pub fn new(length: u64) -> Extents {
        Extents { length, pieces: vec![] }
    }

    /// Puts `content` at byte `at`, behind all that is there.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when it lies over another piece or reaches beyond the disk.
    pub fn push(&mut self, at: u64, content: Content) -> io::Result<()> {
        let free = self.pieces.last().map_or(0, |(start, piece)| start + piece.len());
        if at < free || at.checked_add(content.len()).is_none_or(|end| end > self.length) {
            let why = format!("{} bytes at {at} of a disk of {}: no room", content.len(), self.length);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.pieces.push((at, content));
        Ok(())
    }

    /// Length of the disk in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next run of bytes at or after `from` that is no hole; it ends with its piece at the latest. `None` when only
    /// holes follow. What is no hole may still be zero.
    ///
    /// # Errors
    /// What the pieces say.
    pub fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let first = self.pieces.partition_point(|(start, piece)| start + piece.len() <= from);
        for (start, piece) in &self.pieces[first..] {
            if let Some(data) = piece.next_data(from.saturating_sub(*start))? {
                return Ok(Some(start + data.start..start + data.end));
            }
        }
        Ok(None)
    }

    /// Reads exactly `buffer.len()` bytes from byte `at` of the disk; holes are zeros.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end; what the pieces say.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(buffer.len() as u64).filter(|end| *end <= self.length);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.fill(0);
        let first = self.pieces.partition_point(|(start, piece)| start + piece.len() <= at);
        for (start, piece) in self.pieces[first..].iter().take_while(|(start, _)| *start < end) {
            let (from, to) = (at.max(*start), end.min(start + piece.len()));
            piece.read_exact_at(&mut buffer[(from - at) as usize..(to - at) as usize], from - start)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;

    #[test]
    fn pieces_and_holes_read_as_one_disk() {
        let sparse = tempfile::tempfile().unwrap();
        sparse.write_all_at(&[7; 4096], 1 << 20).unwrap();
        sparse.set_len(2 << 20).unwrap();
        let mut disk = Extents::new(8 << 20);
        disk.push(512, vec![1; 1000].into()).unwrap();
        disk.push(1512, vec![2; 8].into()).unwrap();
        disk.push(4 << 20, Content::of_file(Arc::new(sparse)).unwrap()).unwrap();
        let mut read = vec![9; 2000];
        disk.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, [vec![0; 512], vec![1; 1000], vec![2; 8], vec![0; 480]].concat());
        assert_eq!(disk.next_data(0).unwrap(), Some(512..1512));
        assert_eq!(disk.next_data(1512).unwrap(), Some(1512..1520));
        let data = disk.next_data(1520).unwrap().unwrap();
        assert!(data.contains(&(5 << 20)) && data.end <= 6 << 20, "{data:?}");
        let mut read = vec![9; 4098];
        disk.read_exact_at(&mut read, (5 << 20) - 1).unwrap();
        assert_eq!(read, [vec![0], vec![7; 4096], vec![0]].concat());
        assert_eq!(disk.next_data(6 << 20).unwrap(), None);
        assert!(disk.read_exact_at(&mut [0; 2], (8 << 20) - 1).is_err());
    }

    #[test]
    fn pieces_over_another_or_beyond_the_disk_are_refused() {
        let mut disk = Extents::new(4096);
        disk.push(1024, vec![1; 512].into()).unwrap();
        for at in [1024, 1535, 3585, u64::MAX] {
            assert!(disk.push(at, vec![1; 512].into()).is_err(), "{at}");
        }
    }
}
