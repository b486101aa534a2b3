//! A layer's tar to its compressed blob, and foreign blobs back to tars, within limits.
//!
//! The tar is known by its [`DiffId`], the blob by a [`Descriptor`]; the two are different types, so that neither is taken
//! for the other. Compressed bytes depend on the tar and the codec alone, never on the number of threads; another
//! version of a codec may give other bytes, which a golden test tells.
//!
//! image-spec v1.1, layer.md; RFC 8878 (zstd), RFC 1952 (gzip).

use super::Descriptor;
use crate::model::Digest;
use crate::model::digest::{Hasher, HashingWriter};
use crate::tree::tar::Written;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read, Write};
use std::num::NonZero;

mod gzip;

/// Media type of an uncompressed layer.
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a gzip layer.
pub const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a zstd layer.
pub const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's name of a gzip layer.
pub const DOCKER_TAR_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// zstd's own default: half of the best ratio's gain over level 1 at two thirds of its speed.
const ZSTD_LEVEL: i32 = 3;
/// Base-2 logarithm of the largest zstd window that is decoded: 128 MiB, the format's recommended most for decoders.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The digest of a layer's uncompressed tar, as a config's `rootfs.diff_ids` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// zstd at level 3: what every client of today reads.
    #[default]
    Zstd,
    /// gzip at level 6, for registries and clients of before 2021.
    Gzip,
}

impl Codec {
    /// The media type of a layer so compressed.
    pub fn media_type(self) -> &'static str {
        match self {
            Codec::Zstd => TAR_ZSTD,
            Codec::Gzip => TAR_GZIP,
        }
    }
}

/// A compressed layer: where its blob is to be found, and which tar it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// The tar inside.
    pub diff_id: DiffId,
}

/// Compresses the tar that `tar` reads, and that was `written` with that digest and length, into `out`. Digest and size
/// come out of the same pass. zstd uses `threads` of its own, gzip rayon's.
///
/// # Errors
/// What `tar` or `out` says; [`io::ErrorKind::InvalidData`] when `tar` gives other bytes than were written.
pub fn compress(
    tar: impl Read,
    written: Written,
    out: impl Write,
    codec: Codec,
    threads: NonZero<u32>,
) -> io::Result<Layer> {
    let mut tar = HashingReader::new(tar);
    let out = HashingWriter::new(out);
    let (mut out, digest, size) = match codec {
        Codec::Gzip => gzip::compress(&mut tar, out)?,
        Codec::Zstd => {
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
            // Without workers (0) the bytes would be others; with any number of them they are the same.
            encoder.multithread(threads.get())?;
            encoder.set_pledged_src_size(Some(written.length))?;
            io::copy(&mut tar, &mut encoder)?;
            encoder.finish()?
        }
    }
    .finish();
    out.flush()?;
    if tar.finish() != (written.diff_id, written.length) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the tar is no longer {} with {} bytes", written.diff_id, written.length),
        ));
    }
    Ok(Layer {
        descriptor: super::descriptor(codec.media_type(), digest, size),
        diff_id: DiffId(written.diff_id),
    })
}

/// A reader that hashes and counts what it gives.
pub(super) struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> HashingReader<R> {
    pub(super) fn new(inner: R) -> Self {
        HashingReader { inner, hasher: Hasher::default() }
    }

    /// The digest and the count of what was read.
    pub(super) fn finish(self) -> (Digest, u64) {
        self.hasher.finish()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// The tar inside the layer blob that `blob` reads. zstd may have many frames and skippable ones, gzip many members.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] for a media type that is no layer's. Reading fails with
/// [`io::ErrorKind::FileTooLarge`] after `limit` bytes.
pub fn decompress<'a>(media_type: &str, blob: impl Read + 'a, limit: u64) -> io::Result<Box<dyn Read + 'a>> {
    let tar: Box<dyn Read + 'a> = match media_type {
        TAR => Box::new(blob),
        TAR_GZIP | DOCKER_TAR_GZIP => Box::new(flate2::read::MultiGzDecoder::new(blob)),
        TAR_ZSTD => {
            let mut decoder = zstd::Decoder::new(blob)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        other => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("`{other}` is no layer's media type"),
            ));
        }
    };
    Ok(Box::new(Limited { inner: tar, left: limit, limit }))
}

/// The most bytes that a blob of `size` bytes may hold: 200 times its size, which real layers stay far below, but
/// small blobs (a layer of one sparse file) always up to 1 GiB, and no blob more than 256 GiB.
pub fn uncompressed_limit(size: u64) -> u64 {
    size.saturating_mul(200).clamp(1 << 30, 256 << 30)
}

struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("it holds more than {} bytes", self.limit))
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four mebibytes and a bit that compress like text does.
    fn sample() -> Vec<u8> {
        let mut state = 1u32;
        (0..(4 << 20) + 12_345)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b"the quick brown fox jumps over"[(state >> 24) as usize % 30]
            })
            .collect()
    }

    fn packed(tar: &[u8], codec: Codec, threads: u32) -> (Vec<u8>, Layer) {
        let written = Written { diff_id: Digest::of(tar), length: tar.len() as u64 };
        let mut out = vec![];
        let layer = compress(tar, written, &mut out, codec, NonZero::new(threads).unwrap()).unwrap();
        (out, layer)
    }

    #[test]
    fn bytes_are_the_same_for_any_number_of_threads_and_come_back() {
        let tar = sample();
        for codec in [Codec::Zstd, Codec::Gzip] {
            let (one, layer) = packed(&tar, codec, 1);
            assert_eq!(super::super::describe(codec.media_type(), &one), layer.descriptor);
            for threads in [2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert_eq!(pool.install(|| packed(&tar, codec, threads as u32)).0, one, "{codec:?}");
            }
            let mut back = vec![];
            decompress(codec.media_type(), &one[..], 5 << 20).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == tar, "{codec:?}");
        }
        for codec in [Codec::Zstd, Codec::Gzip] {
            let (empty, _) = packed(b"", codec, 1);
            assert_eq!(decompress(codec.media_type(), &empty[..], 0).unwrap().read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn golden_bytes_move_only_with_a_codecs_version() {
        let digests =
            [Codec::Zstd, Codec::Gzip].map(|c| packed(&sample(), c, 2).1.descriptor.digest().to_string());
        assert_eq!(
            digests,
            [
                "sha256:7cdc390002c5fb1ab6dcd699aa763f44b6b63ed7531782d7860d4fb2d88123bc",
                "sha256:f5915de47d930f2f81e715a29ca6b234be515fb9ff66637e3fb70314eb3b53f9"
            ]
        );
    }

    #[test]
    fn a_tar_that_changed_since_is_refused() {
        let written = Written { diff_id: Digest::of("other"), length: 5 };
        let error =
            compress(&b"bytes"[..], written, io::sink(), Codec::Zstd, NonZero::<u32>::MIN).unwrap_err();
        assert!(error.to_string().contains("no longer"), "{error}");
    }

    #[test]
    fn foreign_blobs_of_many_members_and_skippable_frames_are_read_whole() {
        let zstd = |b: &[u8]| zstd::encode_all(b, 1).unwrap();
        let skippable = [&0x184D_2A50u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"toc"].concat();
        let frames = [skippable.clone(), zstd(b"one "), skippable.clone(), zstd(b"two"), skippable].concat();
        let gzip = |b: &[u8]| packed(b, Codec::Gzip, 1).0;
        let members = [gzip(b"one "), gzip(b"two")].concat();
        for (media_type, blob) in [(TAR_ZSTD, frames), (TAR_GZIP, members), (TAR, b"one two".to_vec())] {
            let mut back = String::new();
            decompress(media_type, &blob[..], 100).unwrap().read_to_string(&mut back).unwrap();
            assert_eq!(back, "one two", "{media_type}");
        }
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let zeros = vec![0; 10 << 20];
        for codec in [Codec::Zstd, Codec::Gzip] {
            let (bomb, _) = packed(&zeros, codec, 1);
            let error =
                io::copy(&mut decompress(codec.media_type(), &bomb[..], 1 << 20).unwrap(), &mut io::sink());
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::FileTooLarge, "{codec:?}");
        }
    }
}
