//! gzip by blocks in parallel, as pigz does: one member, whose bytes do not depend on the number of threads.
//!
//! Each block of 1 MiB is deflated on its own, with the 32 KiB before it as its dictionary, and ends in a sync flush, so
//! that the blocks joined are one deflate stream. RFC 1951, RFC 1952.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rayon::prelude::*;
use std::io::{self, Read, Write};

/// Input bytes of a block: large enough that dictionaries and flushes cost under 0.1 %, small enough to spread.
const BLOCK: usize = 1 << 20;
/// How far deflate looks back.
const DICTIONARY: usize = 32 << 10;
/// gzip's own default.
const LEVEL: u32 = 6;
/// Magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block of a deflate stream: final, fixed codes, empty.
const END: [u8; 2] = [3, 0];

/// Compresses all of `input` into `out`, and gives `out` back.
///
/// # Errors
/// What `input` or `out` says.
pub(super) fn compress<W: Write>(input: &mut impl Read, mut out: W) -> io::Result<W> {
    out.write_all(&HEADER)?;
    let mut crc = Crc::new();
    let at_once = 2 * rayon::current_num_threads() * BLOCK;
    // What was read, behind the end of what was read before.
    let mut buffer: Vec<u8> = Vec::with_capacity(DICTIONARY + at_once);
    let mut dictionary = 0;
    loop {
        input.by_ref().take(at_once as u64).read_to_end(&mut buffer)?;
        let fresh = &buffer[dictionary..];
        if fresh.is_empty() {
            break;
        }
        let blocks: Vec<(Vec<u8>, Crc)> = (0..fresh.len().div_ceil(BLOCK))
            .into_par_iter()
            .map(|i| {
                let start = dictionary + i * BLOCK;
                let end = (start + BLOCK).min(buffer.len());
                deflate(&buffer[start..end], &buffer[start.saturating_sub(DICTIONARY)..start])
            })
            .collect::<io::Result<_>>()?;
        for (bytes, block_crc) in blocks {
            out.write_all(&bytes)?;
            crc.combine(&block_crc);
        }
        let keep = buffer.len().min(DICTIONARY);
        buffer.drain(..buffer.len() - keep);
        dictionary = keep;
    }
    out.write_all(&END)?;
    out.write_all(&crc.sum().to_le_bytes())?;
    out.write_all(&crc.amount().to_le_bytes())?;
    Ok(out)
}

fn deflate(block: &[u8], dictionary: &[u8]) -> io::Result<(Vec<u8>, Crc)> {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary).map_err(io::Error::other)?;
    }
    // Room for what cannot be compressed: a flush that is not drained corrupts the stream in some zlib versions.
    let mut out = Vec::with_capacity(block.len() + block.len() / 7 + 4096);
    let status = compress.compress_vec(block, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
    if status != Status::Ok || compress.total_in() != block.len() as u64 || out.len() == out.capacity() {
        return Err(io::Error::other("deflate left a block unfinished"));
    }
    let mut crc = Crc::new();
    crc.update(block);
    Ok((out, crc))
}
