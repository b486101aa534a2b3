//! Contents as windows of files: cut, and copied from file to file without passing through memory where the kernel can.

use super::Content;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Below this many bytes a read and a write cost less than a `copy_file_range` that has to look at page caches twice.
const SMALL: u64 = 64 * 1024;
/// Bytes moved at a time where the kernel cannot copy by itself.
const BUFFER: u64 = 1024 * 1024;

impl Content {
    /// All of an open file, as long as it is now.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of_file(file: Arc<File>) -> io::Result<Content> {
        let length = file.metadata()?.len();
        Ok(Content::Range { file, offset: 0, length })
    }

    /// `length` bytes from `offset`: a window of the same file, or a copy of what is in memory.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the window reaches past the end.
    pub fn slice(&self, offset: u64, length: u64) -> io::Result<Content> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.len());
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(match self {
            Content::Bytes(b) => Content::Bytes(b[offset as usize..(offset + length) as usize].into()),
            Content::Range { file, offset: start, .. } => {
                Content::Range { file: file.clone(), offset: start + offset, length }
            }
        })
    }

    /// Writes the content to `out` from byte `at`. Holes of the source are skipped, so `out` must read as zeros there:
    /// it stays sparse.
    ///
    /// # Errors
    /// What either file says; [`io::ErrorKind::UnexpectedEof`] when the source is shorter than promised.
    pub fn copy_to(&self, out: &File, at: u64) -> io::Result<()> {
        match self {
            Content::Bytes(bytes) => out.write_all_at(bytes, at),
            Content::Range { length, .. } if *length <= SMALL => self.copy_buffered(out, 0..*length, at),
            Content::Range { .. } => {
                let mut done = 0;
                while let Some(data) = self.next_data(done)? {
                    self.copy_range(out, data.clone(), at + data.start)?;
                    done = data.end;
                }
                Ok(())
            }
        }
    }

    /// The next run of bytes at or after `from` that is no hole of the underlying file; `None` when only holes follow.
    /// Moves the file's own position, which nothing that reads a content looks at.
    ///
    /// # Errors
    /// What the file system says.
    pub fn next_data(&self, from: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        let length = self.len();
        if from >= length {
            return Ok(None);
        }
        let Content::Range { file, offset, .. } = self else { return Ok(Some(from..length)) };
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset + from)) {
            Ok(position) => position.saturating_sub(*offset),
            // No data up to the end of the file, which is an end of this content only if the file is long enough.
            Err(rustix::io::Errno::NXIO) if file.metadata()?.len() >= offset + length => return Ok(None),
            Err(rustix::io::Errno::NXIO) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(rustix::io::Errno::INVAL) => return Ok(Some(from..length)), // no notion of holes
            Err(e) => return Err(e.into()),
        };
        if start >= length {
            return Ok(None);
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(offset + start)) {
            Ok(position) => position.saturating_sub(*offset).min(length),
            Err(_) => length,
        };
        // A file that shrinks between the two calls must not stop progress.
        Ok(Some(start..end.max(start + 1)))
    }

    fn copy_range(&self, out: &File, range: std::ops::Range<u64>, to: u64) -> io::Result<()> {
        let Content::Range { file, offset, .. } = self else { return self.copy_buffered(out, range, to) };
        let (mut from, mut into) = (offset + range.start, to);
        let end = offset + range.end;
        while from < end {
            let before = from;
            let wanted = (end - from).min(1 << 30) as usize;
            match rustix::fs::copy_file_range(file, Some(&mut from), out, Some(&mut into), wanted) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    from = before + n as u64;
                    into = to + (from - offset - range.start);
                }
                Err(rustix::io::Errno::INTR) => {}
                // Other file systems, or a kernel or sandbox without the call.
                Err(_) => return self.copy_buffered(out, before - offset..range.end, into),
            }
        }
        Ok(())
    }

    fn copy_buffered(&self, out: &File, range: std::ops::Range<u64>, mut to: u64) -> io::Result<()> {
        let mut buffer = vec![0; (range.end - range.start).min(BUFFER) as usize];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(BUFFER) as usize;
            self.read_exact_at(&mut buffer[..n], at)?;
            out.write_all_at(&buffer[..n], to)?;
            at += n as u64;
            to += n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes_and_bytes_stay_bytes() {
        let source = tempfile::tempfile().unwrap();
        source.write_all_at(&[7; 300_000], 4 << 20).unwrap();
        source.set_len(64 << 20).unwrap();
        let content = Content::of_file(Arc::new(source)).unwrap().slice(1 << 20, 62 << 20).unwrap();
        let out = tempfile::tempfile().unwrap();
        out.set_len(64 << 20).unwrap();
        content.copy_to(&out, 512).unwrap();
        let mut byte = [0; 2];
        out.read_exact_at(&mut byte, (3 << 20) + 511).unwrap();
        assert_eq!(byte, [0, 7]);
        assert!(out.metadata().unwrap().blocks() * 512 < 2 << 20, "the copy is not sparse");
        assert!(content.slice(62 << 20, 1).is_err());
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error() {
        let source = tempfile::tempfile().unwrap();
        source.set_len(100_000).unwrap();
        let content = Content::Range { file: Arc::new(source), offset: 0, length: 200_000 };
        assert!(content.copy_to(&tempfile::tempfile().unwrap(), 0).is_err());
    }
}
