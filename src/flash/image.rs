//! A disk image in a file, as it is or packed with Zstandard → its digest, length and partition table, and then its bytes
//! once more, changed on the way to what one disk gets.
//!
//! The first pass ([`Image::survey`]) writes nothing and finds a damaged file before a disk is touched; the second
//! ([`Image::bytes`]) is hashed again, for a file may be changed between the two.

use crate::disk::gpt::{ALIGNMENT, Partition, PartitionType, TAIL};
use crate::disk::{DiskImage, ImageError};
use crate::error::{Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::fs;
use crate::model::digest::Hasher;
use crate::model::{Arch, Digest};
use crate::tree::Content;
use anyhow::{Context as _, ensure};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// The longest disk, in bytes: what a wrong or hostile file may at most claim.
const MAX_DISK: u64 = 2 << 40;
/// The largest window that is taken in, as a power of two: the format's recommended most for decoders.
const WINDOW_LOG: u32 = 27;
/// What is read at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// An image that was read through once.
pub struct Image {
    file: File,
    packed: bool,
    digest: Digest,
    disk: DiskImage,
    cancel: Cancel,
}

impl Image {
    /// Reads the file at `path` to its end. Of the disk in it the partition table is kept, and with `system` also what the
    /// root partition holds, in a nameless file in `work`.
    ///
    /// # Errors
    /// When it is no disk image, is damaged, or has no table that forge writes; cancellation.
    pub fn survey(path: &Path, system: bool, work: &Path, cancel: &Cancel) -> anyhow::Result<Image> {
        let file =
            File::open(path).with_context(|| format!("opening {}", path.display())).kind(Kind::Input)?;
        let packed = path.extension().is_some_and(|e| e == "zst");
        let survey = || -> anyhow::Result<Image> {
            let scratch = fs::anonymous(work)?;
            let mut source = Source::open(&file, packed, cancel)?;
            let length = keep(&mut source, system, &scratch)?;
            let digest = source.finish()?;
            scratch.set_len(length)?;
            let disk = DiskImage::open(Content::of_file(Arc::new(scratch))?)?;
            Ok(Image { file: file.try_clone()?, packed, digest, disk, cancel: cancel.clone() })
        };
        let image = survey().with_context(|| format!("reading the disk image {}", path.display()));
        cancel.check()?; // whatever a broken-off read was taken for
        image
    }

    /// Digest of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the disk in bytes.
    pub fn length(&self) -> u64 {
        self.disk.table().length
    }

    /// The disk: its table, and where it was asked for its root partition; the rest is zero.
    pub fn disk(&self) -> &DiskImage {
        &self.disk
    }

    /// The disk's bytes from the first on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn bytes(&self) -> io::Result<Source> {
        Source::open(&self.file, self.packed, &self.cancel)
    }
}

/// Keeps the ends of the disk that `source` gives in `to`, where they lie on it, and with `system` the root partition; the
/// disk's length.
fn keep(source: &mut Source, system: bool, to: &File) -> anyhow::Result<u64> {
    let (mut at, mut wanted) = (0, 0..ALIGNMENT);
    let mut before: Vec<u8> = vec![];
    let mut buffer = vec![0; CHUNK];
    loop {
        let filled = fill(source, &mut buffer)?;
        let bytes = &buffer[..filled];
        ensure!(at + filled as u64 <= MAX_DISK, "it unpacks to more than {MAX_DISK} bytes");
        if at == 0 && system {
            wanted.end = system_end(bytes);
        }
        if wanted.contains(&at) && bytes.iter().any(|byte| *byte != 0) {
            to.write_all_at(bytes, at)?;
        }
        at += filled as u64;
        if filled < CHUNK {
            // The backup of the table may begin in the chunk before the last.
            before.extend(bytes);
            let tail = before.len().min(TAIL as usize);
            to.write_all_at(&before[before.len() - tail..], at - tail as u64)?;
            return Ok(at);
        }
        before.clear();
        before.extend(bytes);
    }
}

/// Where the root partition ends by the table at the start of `head`, which nothing has checked yet: it only decides what
/// is kept.
fn system_end(head: &[u8]) -> u64 {
    const ENTRIES: usize = 1024;
    let entries = head.get(ENTRIES..ENTRIES + 128 * 128).unwrap_or_default().chunks_exact(128);
    let roots = PartitionType::ALL.into_iter().filter(|kind| matches!(kind, PartitionType::Root(_)));
    let types: Vec<[u8; 16]> = roots.map(|kind| kind.guid().to_gpt()).collect();
    let last = entries.filter(|entry| types.iter().any(|kind| entry[..16] == *kind)).map(|entry| {
        let mut sector = [0; 8];
        sector.copy_from_slice(&entry[40..48]);
        u64::from_le_bytes(sector)
    });
    last.max().map_or(ALIGNMENT, |last| last.saturating_add(1).saturating_mul(crate::disk::gpt::SECTOR))
}

/// The bytes of an image, unpacked; the file's own are hashed as they go by. A raised flag ends it with an error.
pub struct Source {
    inner: Form,
    cancel: Cancel,
}

type Packed = Hashing<File>;

enum Form {
    Plain(Packed),
    Packed(Box<zstd::Decoder<'static, BufReader<Packed>>>),
}

impl Source {
    fn open(file: &File, packed: bool, cancel: &Cancel) -> io::Result<Source> {
        let mut file = file.try_clone()?;
        file.rewind()?; // clones share their place
        let hashing = Hashing { inner: file, hasher: Hasher::default() };
        let inner = if packed {
            let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(CHUNK, hashing))?;
            decoder.window_log_max(WINDOW_LOG)?;
            Form::Packed(Box::new(decoder))
        } else {
            Form::Plain(hashing)
        };
        Ok(Source { inner, cancel: cancel.clone() })
    }

    /// Reads what is left of the file; the digest of all of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(self) -> io::Result<Digest> {
        let mut rest = match self.inner {
            Form::Plain(hashing) => hashing,
            Form::Packed(decoder) => {
                let mut buffered = decoder.finish();
                io::copy(&mut buffered, &mut io::sink())?;
                buffered.into_inner()
            }
        };
        io::copy(&mut rest, &mut io::sink())?;
        Ok(rest.hasher.finish().0)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            // Not `Interrupted`, after which readers try again.
            return Err(io::Error::other("interrupted"));
        }
        match &mut self.inner {
            Form::Plain(file) => file.read(buffer),
            Form::Packed(decoder) => decoder.read(buffer),
        }
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Another reader's bytes with some of them replaced.
pub struct Patched<R> {
    inner: R,
    at: u64,
    patches: Vec<(u64, Vec<u8>)>,
}

impl<R: Read> Patched<R> {
    /// The bytes of `inner`, but at each offset of `patches` those that are given.
    pub fn new(inner: R, patches: Vec<(u64, Vec<u8>)>) -> Patched<R> {
        Patched { inner, at: 0, patches }
    }

    /// The reader itself.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Patched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let end = self.at + n as u64;
        for (offset, bytes) in &self.patches {
            let (from, to) = (self.at.max(*offset), end.min(offset + bytes.len() as u64));
            if from < to {
                let (here, there) = ((from - self.at) as usize, (from - offset) as usize);
                let count = (to - from) as usize;
                buffer[here..here + count].copy_from_slice(&bytes[there..there + count]);
            }
        }
        self.at = end;
        Ok(n)
    }
}

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

/// The root partition of a surveyed disk, the one of its hash tree, and the bytes of the first.
///
/// # Errors
/// [`ImageError::Count`] when there is none, or several.
pub fn root_partition(disk: &DiskImage) -> Result<(&Partition, &Partition, Content), ImageError> {
    let there = Arch::ALL.into_iter().find(|arch| disk.only(PartitionType::Root(*arch)).is_ok());
    let arch = there.unwrap_or(Arch::Amd64); // whose absence the error names
    let (root, content) = disk.only(PartitionType::Root(arch))?;
    Ok((root, disk.only(PartitionType::RootVerity(arch))?.0, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_show_whatever_is_read_at_a_time() {
        let original: Vec<u8> = (0..200).collect();
        let mut expected = original.clone();
        expected[..3].fill(255);
        expected[90..120].fill(254);
        for step in [1, 7, 64, 200] {
            let patches = vec![(0, vec![255; 3]), (90, vec![254; 30])];
            let mut patched = Patched::new(&original[..], patches);
            let mut read: Vec<u8> = vec![];
            let mut buffer = vec![0; step];
            loop {
                match patched.read(&mut buffer).unwrap() {
                    0 => break,
                    n => read.extend(&buffer[..n]),
                }
            }
            assert_eq!(read, expected, "{step}");
        }
    }
}
