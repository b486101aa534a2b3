//! A raw image as a zstd stream, for download: `raw.zst`.

use crate::tree::Content;
use std::io::{self, Read, Write};

/// Beyond this level a disk image takes much longer and hardly shrinks.
const LEVEL: i32 = 3;

/// Compresses all of `image` to `out`, with a checksum and its length in the frame's header, so that a reader can say
/// how far it is; what `out` was, back. `threads` changes the time and not the bytes: one thread is asked for too,
/// because zstd without worker threads gives other bytes than with them.
///
/// # Errors
/// What image and `out` say.
pub fn write<W: Write>(image: &Content, out: W, threads: u32) -> io::Result<W> {
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(image.len()))?;
    encoder.multithread(threads.max(1))?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < image.len() {
        // What lies in a hole is not read from the file.
        let data = image.next_data(at)?.unwrap_or(image.len()..image.len());
        io::copy(&mut io::repeat(0).take(data.start - at), &mut encoder)?;
        at = data.start;
        while at < data.end {
            let n = (data.end - at).min(buffer.len() as u64) as usize;
            image.read_exact_at(&mut buffer[..n], at)?;
            encoder.write_all(&buffer[..n])?;
            at += n as u64;
        }
    }
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    #[test]
    fn bytes_do_not_depend_on_threads_or_holes() {
        let sparse = tempfile::tempfile().unwrap();
        let data: Vec<u8> =
            (0..3_000_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 9).to_le_bytes()).collect();
        sparse.write_all_at(&data, 5 << 20).unwrap();
        sparse.set_len(40 << 20).unwrap();
        let sparse = Content::of_file(Arc::new(sparse)).unwrap();
        let whole = sparse.to_vec(1 << 30).unwrap();
        let one = write(&sparse, vec![], 1).unwrap();
        assert_eq!(write(&sparse, vec![], 4).unwrap(), one);
        assert_eq!(write(&whole.clone().into(), vec![], 2).unwrap(), one);
        assert_eq!(zstd::decode_all(&one[..]).unwrap(), whole);
    }
}
