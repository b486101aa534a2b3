//! Bytes that may be published → the secrets in them, each with its place.
//!
//! What is packed is unpacked on the way: a release by its files, a disk by its partitions and their file systems, a kernel
//! image by its sections, archives by their entries, to any depth up to `MAX_DEPTH`. What cannot be read as what it seems
//! to be is searched as the bytes that it is, or listed as not searched: a search that is silent about a part would lie.
//!
//! A package's own files, as its list of digests has them, are in the archive for everybody to read: the keys that libraries
//! test themselves with, and the examples of manuals.

use super::{Env, MAX_DISK};
use crate::boot::uki::Uki;
use crate::disk::{DiskImage, compressed, erofs, fat};
use crate::error::{self, Kind};
use crate::host::fs;
use crate::model::Bytes;
use crate::model::digest::hex;
use crate::secret;
use crate::tree::tar::reader::{Reader, Stream};
use crate::tree::{Content, NodeKind};
use anyhow::Context as _;
use md5::{Digest as _, Md5};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Archives within archives that are entered.
const MAX_DEPTH: usize = 8;
/// Secrets of one file that are listed; who has that many knows enough.
const MAX_FINDINGS: usize = 20;
/// The longest list of a package's files, in bytes; a kernel's has 700 KiB.
const MAX_LIST: u64 = 16 << 20;
/// Memory that a hostile xz stream may ask for, in bytes; `xz -9` takes 65 MiB.
const MAX_XZ_MEMORY: u64 = 256 << 20;
/// The first bytes of a file that say what it is: up to EROFS' superblock.
const LOOK: usize = 2048;
/// The sections of a kernel image that forge fills.
const SECTIONS: [&str; 5] = [".linux", ".initrd", ".cmdline", ".osrel", ".dtb"];

/// A secret where none may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The path to it, from the outermost file inwards: `disk.raw.zst: root: etc/shadow`.
    pub place: String,
    /// "a private key".
    pub what: &'static str,
    /// Its first byte in the innermost file.
    pub offset: u64,
}

/// What a search came to.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Searched {
    /// Files that were looked into, the innermost ones.
    pub files: u64,
    /// Their bytes.
    pub size: Bytes,
    /// What was found.
    pub findings: Vec<Finding>,
    /// How many there were in files that are as their package brought them: those are no secrets.
    pub packaged: u64,
    /// What could not be unpacked to its end, with the reason.
    pub unread: Vec<String>,
}

/// Searches the file or directory at `path`, which is called `name`.
///
/// # Errors
/// [`Kind::Input`] when it is not there; what reading says; [`Kind::Interrupted`].
pub fn search(path: &Path, name: &str, env: &Env<'_>) -> anyhow::Result<Searched> {
    let mut search = Search { env, searched: Searched::default() };
    search.path(path, name)?;
    Ok(search.searched)
}

struct Search<'a> {
    env: &'a Env<'a>,
    searched: Searched,
}

impl Search<'_> {
    fn path(&mut self, path: &Path, place: &str) -> anyhow::Result<()> {
        let context = || format!("reading {}", path.display());
        let kind = std::fs::symlink_metadata(path)
            .map_err(|e| error::of(Kind::Input, e.into()))
            .with_context(context)?
            .file_type();
        if kind.is_dir() {
            let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut names: Vec<_> = entries.with_context(context)?.iter().map(|e| e.file_name()).collect();
            names.sort();
            for name in names {
                let inside = format!("{place}/{}", name.to_string_lossy());
                self.path(&path.join(&name), &inside)?;
            }
        } else if kind.is_file() {
            let file = File::open(path).with_context(context)?;
            self.content(&Content::of_file(Arc::new(file)).with_context(context)?, place, 0)?;
        }
        Ok(())
    }

    /// A whole file, in which a file system can be found its way in.
    fn content(&mut self, content: &Content, place: &str, depth: usize) -> anyhow::Result<()> {
        self.env.cancel.check()?;
        let mut start = vec![];
        content.reader().take(LOOK as u64).read_to_end(&mut start)?;
        let form = Form::of(&start);
        if form == Some(Form::Zstd) && depth < MAX_DEPTH {
            let mut inner = vec![];
            let head =
                zstd::Decoder::new(content.reader()).map(|d| d.take(LOOK as u64).read_to_end(&mut inner));
            if head.is_ok() && Form::of(&inner) == Some(Form::Disk) {
                let unpacked = fs::anonymous(self.env.work)?;
                let stop = || self.env.cancel.is_cancelled();
                compressed::read(content.reader(), &unpacked, MAX_DISK, &stop)
                    .with_context(|| format!("unpacking {place}"))?;
                return self.content(&Content::of_file(Arc::new(unpacked))?, place, depth + 1);
            }
        }
        let entered = match form {
            Some(Form::Disk) if depth < MAX_DEPTH => self.disk(content, place, depth),
            Some(Form::Erofs) => self.erofs(content, place, depth),
            Some(Form::Fat) => self.fat(content, place, depth),
            Some(Form::Program) => self.kernel(content, place, depth),
            _ => Ok(false),
        };
        match entered {
            Ok(true) => Ok(()),
            Ok(false) => self.stream(&mut content.reader(), place, depth),
            Err(error) => {
                self.not_read(place, error)?;
                self.plain(&mut content.reader(), place)
            }
        }
    }

    /// Whether it was one: another's table may be damaged, or be none.
    fn disk(&mut self, content: &Content, place: &str, depth: usize) -> anyhow::Result<bool> {
        let disk = DiskImage::open(content.clone())?;
        for partition in &disk.table().partitions {
            let inside = format!("{place}: {}", partition.name);
            self.content(&disk.partition(partition)?, &inside, depth + 1)?;
        }
        Ok(true)
    }

    fn erofs(&mut self, content: &Content, place: &str, depth: usize) -> anyhow::Result<bool> {
        let mut tree = Packaged::default();
        for (path, entry) in erofs::Image::open(content.clone())?.walk()? {
            self.entry(&mut entry.reader(), path.as_str(), place, depth, &mut tree)?;
        }
        tree.forget_from(&mut self.searched);
        Ok(true)
    }

    fn fat(&mut self, content: &Content, place: &str, depth: usize) -> anyhow::Result<bool> {
        for (path, node) in fat::read(content)?.tree.iter() {
            if let NodeKind::File(file) = &node.kind {
                self.content(file, &format!("{place}: {path}"), depth + 1)?;
            }
        }
        Ok(true)
    }

    fn kernel(&mut self, content: &Content, place: &str, depth: usize) -> anyhow::Result<bool> {
        let Ok(uki) = Uki::open(content.clone()) else { return Ok(false) };
        for name in SECTIONS {
            if let Some(section) = uki.section(name) {
                self.stream(&mut section.reader(), &format!("{place}: {name}"), depth + 1)?;
            }
        }
        Ok(true)
    }

    /// One thing packed after the other until the stream ends, as an initrd has them; what is not packed goes to its end.
    fn stream(&mut self, source: &mut dyn Read, place: &str, depth: usize) -> anyhow::Result<()> {
        let mut ahead = Ahead::new(source);
        loop {
            self.env.cancel.check()?;
            let start = ahead.look()?;
            if start.is_empty() {
                return Ok(());
            }
            let form = Form::of(start).filter(|_| depth < MAX_DEPTH);
            let unpacked = match form {
                Some(Form::Zstd) => {
                    let decoder = zstd::Decoder::with_buffer(&mut ahead);
                    decoder
                        .map_err(Into::into)
                        .and_then(|d| self.stream(&mut d.single_frame(), place, depth + 1))
                }
                Some(Form::Gzip) => {
                    self.stream(&mut flate2::bufread::GzDecoder::new(&mut ahead), place, depth + 1)
                }
                Some(Form::Xz) => liblzma::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY, 0)
                    .map_err(Into::into)
                    .and_then(|coder| {
                        let mut decoder = liblzma::bufread::XzDecoder::new_stream(&mut ahead, coder);
                        self.stream(&mut decoder, place, depth + 1)
                    }),
                Some(Form::Tar) => self.tar(&mut ahead, place, depth),
                Some(Form::Cpio) => self.cpio(&mut ahead, place, depth),
                _ => return self.plain(&mut ahead, place),
            };
            if let Err(error) = unpacked {
                // How much of it was used up, nobody knows.
                return self.not_read(place, error);
            }
            ahead.skip_zeros()?;
        }
    }

    fn tar(&mut self, tar: &mut dyn Read, place: &str, depth: usize) -> anyhow::Result<()> {
        let mut reader = Reader::new(Stream(tar));
        let mut tree = Packaged::default();
        while let Some(entry) = reader.next_entry()? {
            self.entry(&mut (&mut reader).take(entry.size), entry.path.as_str(), place, depth, &mut tree)?;
        }
        tree.forget_from(&mut self.searched);
        Ok(())
    }

    /// A file of a tree that packages may have been installed in.
    fn entry(
        &mut self,
        reader: &mut dyn Read,
        path: &str,
        place: &str,
        depth: usize,
        tree: &mut Packaged,
    ) -> anyhow::Result<()> {
        let before = self.searched.findings.len();
        let mut file = Hashed { reader, hash: Md5::new(), text: Packaged::is_list(path).then(Vec::new) };
        self.stream(&mut file, &format!("{place}: {path}"), depth + 1)?;
        io::copy(&mut file, &mut io::sink())?; // what an unreadable archive left
        tree.take(path, file, before..self.searched.findings.len());
        Ok(())
    }

    /// `newc` (the kernel's initramfs buffer format).
    fn cpio(&mut self, cpio: &mut dyn Read, place: &str, depth: usize) -> anyhow::Result<()> {
        const HEADER: usize = 110;
        let skip = |cpio: &mut dyn Read, n: u64| io::copy(&mut cpio.take(n), &mut io::sink());
        loop {
            let mut header = [0; HEADER];
            cpio.read_exact(&mut header)?;
            anyhow::ensure!(header.starts_with(b"0707"), "no cpio header where one has to be");
            let field = |at: usize| -> anyhow::Result<u64> {
                let digits = std::str::from_utf8(&header[at..at + 8])?;
                Ok(u64::from(u32::from_str_radix(digits, 16)?))
            };
            let (size, name_size) = (field(54)?, field(94)?);
            anyhow::ensure!(name_size <= 4096, "a cpio entry with a name of {name_size} bytes");
            let mut name = vec![0; name_size as usize];
            cpio.read_exact(&mut name)?;
            skip(cpio, (HEADER as u64 + name_size).next_multiple_of(4) - HEADER as u64 - name_size)?;
            let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(&name)).into_owned();
            if name == "TRAILER!!!" {
                return Ok(());
            }
            self.stream(&mut (&mut *cpio).take(size), &format!("{place}: {name}"), depth + 1)?;
            skip(cpio, size.next_multiple_of(4) - size)?;
        }
    }

    fn plain(&mut self, reader: &mut dyn Read, place: &str) -> anyhow::Result<()> {
        let findings = &mut self.searched.findings;
        let most = findings.len() + MAX_FINDINGS;
        let read = secret::search(reader, &mut |secret| {
            if findings.len() < most {
                findings.push(Finding { place: place.into(), what: secret.what, offset: secret.start });
            }
        });
        self.searched.size.0 += read.with_context(|| format!("reading {place}"))?;
        self.searched.files += 1;
        Ok(())
    }

    fn not_read(&mut self, place: &str, error: anyhow::Error) -> anyhow::Result<()> {
        if error::kind(&error) == Kind::Interrupted {
            return Err(error);
        }
        self.searched.unread.push(format!("{place}: {error:#}"));
        Ok(())
    }
}

/// What dpkg knows of the files of a tree: their MD5 in `var/lib/dpkg/info/NAME.md5sums`, or in `status.d` where an image has
/// no package manager.
#[derive(Default)]
struct Packaged {
    /// By path: the lists come in the middle of the tree.
    digests: BTreeMap<String, String>,
    /// Files with findings: path, MD5, and which.
    suspects: Vec<(String, String, Range<usize>)>,
}

impl Packaged {
    /// `PREFIX` of a list `PREFIXvar/lib/dpkg/info/NAME.md5sums`: a tree may lie within another.
    fn prefix(path: &str) -> Option<&str> {
        let (dir, _) = path.strip_suffix(".md5sums")?.rsplit_once('/')?;
        ["var/lib/dpkg/info", "var/lib/dpkg/status.d"].iter().find_map(|end| dir.strip_suffix(end))
    }

    fn is_list(path: &str) -> bool {
        Packaged::prefix(path).is_some()
    }

    fn take(&mut self, path: &str, file: Hashed<'_>, findings: Range<usize>) {
        if let (Some(prefix), Some(text)) = (Packaged::prefix(path), &file.text) {
            let text = String::from_utf8_lossy(text);
            let lines = text.lines().filter_map(|line| line.split_once("  "));
            self.digests.extend(lines.map(|(digest, name)| (format!("{prefix}{name}"), digest.to_string())));
        }
        if !findings.is_empty() {
            self.suspects.push((path.into(), hex(&file.hash.finalize()), findings));
        }
    }

    /// Takes away what was found in files that are as their package brought them.
    fn forget_from(self, searched: &mut Searched) {
        for (path, digest, findings) in self.suspects.into_iter().rev() {
            if self.digests.get(&path) == Some(&digest) {
                searched.packaged += findings.len() as u64;
                searched.findings.drain(findings);
            }
        }
    }
}

/// A file that is hashed, and kept when it is a list, as it is read.
struct Hashed<'a> {
    reader: &'a mut dyn Read,
    hash: Md5,
    text: Option<Vec<u8>>,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.hash.update(&buffer[..n]);
        if let Some(text) = self.text.as_mut().filter(|text| text.len() as u64 + n as u64 <= MAX_LIST) {
            text.extend_from_slice(&buffer[..n]);
        }
        Ok(n)
    }
}

/// What a file begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Zstd,
    Gzip,
    Xz,
    Tar,
    Cpio,
    Disk,
    Erofs,
    Fat,
    Program,
}

impl Form {
    /// Each with the place of its magic.
    const MAGIC: [(Form, usize, &[u8]); 11] = [
        (Form::Zstd, 0, b"\x28\xb5\x2f\xfd"),
        (Form::Gzip, 0, b"\x1f\x8b\x08"),
        (Form::Xz, 0, b"\xfd7zXZ\0"),
        (Form::Cpio, 0, b"070701"),
        (Form::Cpio, 0, b"070702"),
        (Form::Program, 0, b"MZ"),
        (Form::Fat, 54, b"FAT16"),
        (Form::Fat, 82, b"FAT32"),
        (Form::Tar, 257, b"ustar"),
        (Form::Disk, 512, b"EFI PART"),
        (Form::Erofs, 1024, b"\xe2\xe1\xf5\xe0"),
    ];

    fn of(start: &[u8]) -> Option<Form> {
        let has = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
        Form::MAGIC.into_iter().find(|(_, at, magic)| has(*at, magic)).map(|(form, _, _)| form)
    }
}

/// A reader whose next bytes can be looked at. An error comes after all that came before it.
struct Ahead<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    at: usize,
    failed: Option<io::Error>,
}

impl<'a> Ahead<'a> {
    fn new(source: &'a mut dyn Read) -> Ahead<'a> {
        Ahead { source, buffer: Vec::with_capacity(32 << 10), at: 0, failed: None }
    }

    /// Fills the buffer behind what was not consumed yet.
    fn fill(&mut self) {
        self.buffer.drain(..self.at);
        self.at = 0;
        let room = self.buffer.capacity() - self.buffer.len();
        if self.failed.is_none() {
            self.failed = (&mut *self.source).take(room as u64).read_to_end(&mut self.buffer).err();
        }
    }

    /// The next [`LOOK`] bytes, or as many as there are.
    fn look(&mut self) -> io::Result<&[u8]> {
        if self.buffer.len() - self.at < LOOK {
            self.fill();
        }
        self.fill_buf().map(|ahead| &ahead[..ahead.len().min(LOOK)])
    }

    fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let zeros = self.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                return Ok(());
            }
            self.consume(zeros);
        }
    }
}

impl Read for Ahead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Ahead<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.fill();
            if let (true, Some(error)) = (self.buffer.is_empty(), self.failed.take()) {
                return Err(error);
            }
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}
