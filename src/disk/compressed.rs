//! A raw image as a zstd stream, for download: `raw.zst`.

use crate::tree::Content;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

/// Beyond this level a disk image takes much longer and hardly shrinks.
const LEVEL: i32 = 3;

/// The largest window that is taken in, as a power of two: 128 MiB, the format's recommended most for decoders.
const WINDOW_LOG: u32 = 27;

/// Compresses all of `image` to `out`, with a checksum and its length in the frame's header, so that a reader can say
/// how far it is; what `out` was, back. `threads` changes the time and not the bytes: one thread is asked for too,
/// because zstd without worker threads gives other bytes than with them.
///
/// # Errors
/// What image and `out` say.
pub fn write<W: Write>(image: &Content, out: W, threads: u32) -> io::Result<W> {
    write_padded(image, image.len(), out, threads)
}

/// As [`write()`], with zeros behind the image up to `length`: a frame of its own for a partition. Frames one behind the
/// other are the stream of what they hold (RFC 8878 §3), so that an image whose partition did not change keeps the frame.
///
/// # Errors
/// As [`write()`]; when the image is longer than `length`.
pub fn write_padded<W: Write>(image: &Content, length: u64, out: W, threads: u32) -> io::Result<W> {
    let padding = length.checked_sub(image.len()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(length))?;
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
    io::copy(&mut io::repeat(0).take(padding), &mut encoder)?;
    encoder.finish()
}

/// Unpacks `stream` to `out`, all frames one behind the other; runs of zeros become holes. The image's length. `stop` is
/// asked between pieces.
///
/// # Errors
/// What `stream` and `out` say; when the image is longer than `limit`, or unpacking was stopped.
pub fn read(stream: impl Read, out: &File, limit: u64, stop: &dyn Fn() -> bool) -> io::Result<u64> {
    let mut decoder = zstd::Decoder::new(stream)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        if stop() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match decoder.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            out.set_len(at)?;
            return Ok(at);
        }
        if at + filled as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {limit} bytes unpacked"),
            ));
        }
        if buffer[..filled].iter().any(|b| *b != 0) {
            out.write_all_at(&buffer[..filled], at)?;
        }
        at += filled as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let back = tempfile::tempfile().unwrap();
        let framed = write_padded(&whole.clone().into(), 50 << 20, one.clone(), 2).unwrap();
        assert_eq!(read(&framed[..], &back, 1 << 30, &|| false).unwrap(), 90 << 20);
        let back = Content::of_file(Arc::new(back)).unwrap();
        assert_eq!(back.slice(40 << 20, 40 << 20).unwrap().to_vec(1 << 30).unwrap(), whole);
        assert!(read(&framed[..], &tempfile::tempfile().unwrap(), 1 << 20, &|| false).is_err());
    }
}
