//! A strict, streaming tar reader: ustar, GNU long names, PAX records with binary values.
//!
//! The tar crate parses and writes single headers; its own PAX parser splits records at newlines, which breaks binary
//! attributes (a file capability may hold the byte 0x0a), so the walk over entries is done here. POSIX.1-2017, pax.

use crate::tree::{BadPath, Content, Node, NodeKind, TreeError, TreePath};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// More entries than any real layer has; a bomb is refused before its names fill the memory.
const MAX_ENTRIES: u64 = 4_000_000;
/// The largest PAX header or GNU long name that is read into memory, in bytes.
const MAX_EXTENSION: u64 = 4 << 20;
/// The longest target of a symbolic link, in bytes: Linux's PATH_MAX less the terminator.
const MAX_LINK: usize = 4095;

/// What is wrong with a tar.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// Its file could not be read, or ends too early.
    #[error("reading tar: {0}")]
    Io(#[from] io::Error),
    /// Not a tar: a header's checksum or a field of it is wrong.
    #[error("the header at byte {at} is damaged: {why}")]
    Damaged {
        /// Offset of the header.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The file ends inside an entry.
    #[error("`{path}` is cut short")]
    CutShort {
        /// The entry.
        path: TreePath,
    },
    /// A path leaves the tree or cannot be one.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Entries contradict each other.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A type of entry that layers do not have.
    #[error("entry `{path}` is of type `{kind}`, which is refused")]
    Type {
        /// The entry.
        path: TreePath,
        /// Its type byte.
        kind: char,
    },
    /// More entries than any real layer has.
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// Where a tar comes from: bytes in order, some of which can be passed over.
pub trait Source: Read {
    /// Passes over `count` bytes.
    ///
    /// # Errors
    /// What the source says; a source that ends earlier may say so only at the next read.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// Any reader as a [`Source`]: what is passed over is read and dropped.
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let n = io::copy(&mut (&mut self.0).take(count), &mut io::sink())?;
        if n < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// One entry. A regular file's node carries empty content: the bytes follow in the [`Reader`]. A hard link's target is
/// as the tar says and may be a link itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it belongs.
    pub path: TreePath,
    /// What it is.
    pub node: Node,
    /// Length of the content that follows, in bytes; 0 but for regular files.
    pub size: u64,
}

/// Walks the entries of a tar. After an entry, the reader itself [reads](Read) that entry's content; what is not read is
/// passed over by the next call.
pub struct Reader<S> {
    /// The source, positioned inside the current entry's content.
    pub(super) source: S,
    at: u64,
    left: u64,
    padding: u64,
    entries: u64,
}

impl<S: Source> Reader<S> {
    /// Starts at the first header.
    pub fn new(source: S) -> Reader<S> {
        Reader { source, at: 0, left: 0, padding: 0, entries: 0 }
    }

    /// The next entry, or `None` at the end-of-archive mark or the end of the source.
    ///
    /// # Errors
    /// [`TarError`], naming the entry or the place.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extension = Extension::default();
        loop {
            let pending = self.left + self.padding;
            if pending > 0 {
                self.source.skip(pending)?;
                self.at += pending;
                (self.left, self.padding) = (0, 0);
            }
            let start = self.at;
            let mut header = tar::Header::new_old();
            if !self.read_block(header.as_mut_bytes())? || header.as_bytes().iter().all(|b| *b == 0) {
                return Ok(None);
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TarError::TooMany);
            }
            let damaged = |why: String| TarError::Damaged { at: start, why };
            let sum: u32 = header
                .as_bytes()
                .iter()
                .enumerate()
                .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
                .sum();
            if header.cksum().ok() != Some(sum) {
                return Err(damaged("its checksum is wrong".into()));
            }
            let size = header.entry_size().map_err(|e| damaged(e.to_string()))?;
            match header.entry_type() {
                tar::EntryType::XHeader => {
                    extension.take_pax(&self.read_extension(size)?).map_err(|why| damaged(why.into()))?
                }
                tar::EntryType::XGlobalHeader => drop(self.read_extension(size)?),
                tar::EntryType::GNULongName => extension.path = Some(self.read_extension(size)?),
                tar::EntryType::GNULongLink => extension.link = Some(self.read_extension(size)?),
                _ => return self.entry(&header, size, extension).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &tar::Header, size: u64, extension: Extension) -> Result<Entry, TarError> {
        let until_nul = |bytes: Vec<u8>| bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        let path = TreePath::from_bytes(
            &extension.path.map_or_else(|| header.path_bytes().into_owned(), until_nul),
        )?;
        let damaged = |why: String| TarError::Damaged { at: self.at - 512, why: format!("`{path}`: {why}") };
        let field = |n: io::Result<u64>| n.map_err(|e| damaged(e.to_string()));
        let id = |n: Option<i64>, from: io::Result<u64>| match n {
            Some(n) => u32::try_from(n).map_err(|_| damaged("owner beyond 32 bits".into())),
            None => u32::try_from(field(from)?).map_err(|_| damaged("owner beyond 32 bits".into())),
        };
        let link = || {
            let bytes = match &extension.link {
                Some(bytes) => until_nul(bytes.clone()),
                None => header.link_name_bytes().unwrap_or_default().into_owned(),
            };
            match String::from_utf8(bytes) {
                Ok(s) if !s.is_empty() && s.len() <= MAX_LINK => Ok(s),
                _ => Err(damaged("its link target is empty, too long or not UTF-8".into())),
            }
        };
        let device =
            |n: io::Result<Option<u32>>| n.map(|n| n.unwrap_or(0)).map_err(|e| damaged(e.to_string()));
        let size = extension.size.unwrap_or(size);
        let (mut content, trailing_slash) = (0, header.path_bytes().ends_with(b"/"));
        let kind = match header.entry_type() {
            tar::EntryType::Directory => NodeKind::Dir,
            // Tars of before POSIX spell a directory as a file with a slash.
            tar::EntryType::Regular if trailing_slash && size == 0 => NodeKind::Dir,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                content = size;
                NodeKind::File(Content::Bytes([].into()))
            }
            tar::EntryType::Symlink => NodeKind::Symlink(link()?),
            tar::EntryType::Link => NodeKind::HardLink(TreePath::parse(&link()?)?),
            tar::EntryType::Char => NodeKind::CharDevice {
                major: device(header.device_major())?,
                minor: device(header.device_minor())?,
            },
            tar::EntryType::Block => NodeKind::BlockDevice {
                major: device(header.device_major())?,
                minor: device(header.device_minor())?,
            },
            tar::EntryType::Fifo => NodeKind::Fifo,
            other => return Err(TarError::Type { path, kind: other.as_byte() as char }),
        };
        let mtime = match extension.mtime {
            Some(t) => t,
            None => i64::try_from(field(header.mtime())?).unwrap_or(i64::MAX),
        };
        let node = Node {
            kind,
            mode: header.mode().map_err(|e| damaged(e.to_string()))? & 0o7777,
            uid: id(extension.uid, header.uid())?,
            gid: id(extension.gid, header.gid())?,
            mtime,
            xattrs: extension.xattrs,
        };
        // A size in base 256 has 64 bits, and with its padding would have more.
        let padded = content.checked_next_multiple_of(512).filter(|end| self.at.checked_add(*end).is_some());
        let padded = padded.ok_or_else(|| damaged(format!("{content} bytes, which no file has")))?;
        (self.left, self.padding) = (content, padded - content);
        Ok(Entry { path, node, size: content })
    }

    /// False at a clean end of the source.
    fn read_block(&mut self, block: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        self.at += filled as u64;
        Ok(true)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::Damaged {
                at: self.at - 512,
                why: format!("an extended header of {size} bytes, more than {MAX_EXTENSION}"),
            });
        }
        let mut bytes = vec![0; size.next_multiple_of(512) as usize];
        self.source.read_exact(&mut bytes)?;
        self.at += bytes.len() as u64;
        bytes.truncate(size as usize);
        Ok(bytes)
    }
}

impl<S: Source> Read for Reader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.left.min(buffer.len() as u64) as usize;
        let n = self.source.read(&mut buffer[..n])?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        self.at += n as u64;
        Ok(n)
    }
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    uid: Option<i64>,
    gid: Option<i64>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Extension {
    /// Records are `LENGTH KEY=VALUE\n` with LENGTH over the whole record, so values may hold any byte.
    fn take_pax(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        const BAD: &str = "a malformed PAX record";
        while !records.is_empty() {
            let space = records.iter().take(20).position(|b| *b == b' ').ok_or(BAD)?;
            let length: usize =
                std::str::from_utf8(&records[..space]).ok().and_then(|s| s.parse().ok()).ok_or(BAD)?;
            let record = records.get(space + 1..length).ok_or(BAD)?.strip_suffix(b"\n").ok_or(BAD)?;
            records = &records[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            let (key, value) =
                (std::str::from_utf8(&record[..equals]).map_err(|_| BAD)?, &record[equals + 1..]);
            // Fractions of a second are dropped: no format that forge writes has them.
            let number = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|v| v.split('.').next()?.parse::<i64>().ok())
                    .ok_or(BAD)
            };
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "size" => self.size = Some(u64::try_from(number()?).map_err(|_| BAD)?),
                "mtime" => self.mtime = Some(number()?),
                "uid" => self.uid = Some(number()?),
                "gid" => self.gid = Some(number()?),
                _ if key.starts_with("GNU.sparse") => return Err("a sparse file"),
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        self.xattrs.insert(name.into(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}
