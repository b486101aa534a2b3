//! A binary package (deb(5)): an `ar` of `debian-binary`, `control.tar` and `data.tar`, each tar compressed or not.
//!
//! Strict where dpkg is lenient: members in their order, sizes that add up, no bytes behind the last. Streaming: a
//! package of any size costs the decoder's window. Knows nothing of where its files go.

use crate::tree::NodeKind;
use crate::tree::tar::{Reader, Stream, TarError};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// The largest control member that is read, decompressed, in bytes; linux-image's is 1 MiB.
const MAX_CONTROL: u64 = 64 << 20;
/// The largest file of a package's contents altogether, decompressed, in bytes: ten times the largest of Debian 13.
const MAX_DATA: u64 = 32 << 30;
/// From this size on, decompressed, the ratio below is watched: small files may well be all zeros.
const RATIO_FROM: u64 = 256 << 20;
/// How many times its compressed size a large member may have. xz reaches 7000 on zeros; real packages stay below 50.
const MAX_RATIO: u64 = 500;
/// Memory for an xz decoder in bytes: `xz -9`, the most that dpkg-deb can be told to use, takes 65 MiB to decompress.
const XZ_MEMORY: u64 = 128 << 20;
/// The largest window of a zstd decoder, as a power of two: 128 MiB, zstd's own limit for what it calls sane.
const ZSTD_WINDOW: u32 = 27;
/// The longest control text, in bytes.
const MAX_TEXT: u64 = 16 << 20;

/// What is wrong with a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadDeb {
    /// It could not be read, or ends too early.
    #[error("reading package: {0}")]
    Io(#[from] io::Error),
    /// It is not an `ar` as deb(5) has it.
    #[error("not a Debian package: {0}")]
    Ar(String),
    /// A member of the `ar` is not the one that belongs there.
    #[error("member `{found}` stands where `{wanted}` belongs")]
    Member {
        /// What the package has.
        found: String,
        /// What deb(5) asks for.
        wanted: &'static str,
    },
    /// One of its tars is damaged or hostile.
    #[error("{member}: {source}")]
    Tar {
        /// `control.tar` or `data.tar`.
        member: &'static str,
        /// What is wrong.
        source: TarError,
    },
    /// It grows beyond reason.
    #[error("{member} grows to more than {limit} bytes")]
    Bomb {
        /// `control.tar` or `data.tar`.
        member: &'static str,
        /// Where reading stopped.
        limit: u64,
    },
    /// Its control information cannot be used.
    #[error("control information: {0}")]
    Control(String),
}

/// A package's control information.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// The control file: one paragraph, with a line feed at its end.
    pub text: String,
    /// The other files by name (`preinst`, `md5sums`, `triggers` …), each with its permission bits.
    pub files: BTreeMap<String, (Vec<u8>, u32)>,
}

impl Control {
    /// The value of the field `name` of the control file, continuation lines included.
    pub fn field(&self, name: &str) -> Option<&str> {
        fields(&self.text).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of a field that every package has.
    ///
    /// # Errors
    /// [`BadDeb::Control`] naming the field.
    pub fn required(&self, name: &str) -> Result<&str, BadDeb> {
        let value = self.field(name).filter(|v| !v.is_empty() && !v.contains('\n'));
        value.ok_or_else(|| BadDeb::Control(format!("field {name} is missing or has several lines")))
    }

    /// The lines of the control file `name`, without comments and empty ones.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        let bytes = self.files.get(name).map(|(bytes, _)| bytes.as_slice()).unwrap_or_default();
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty())
    }
}

/// The fields of a control paragraph (deb822(5)), values trimmed.
pub fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = 0;
        loop {
            if end >= rest.len() {
                break;
            }
            end = rest[end..].find('\n').map_or(rest.len(), |at| end + at + 1);
            if !rest[end..].starts_with([' ', '\t']) {
                break;
            }
        }
        let (field, after) = rest.split_at(end);
        rest = after;
        let (name, value) = field.split_once(':')?;
        Some((name, value.trim()))
    })
}

/// A package as it is read, front to back.
pub struct Deb<R> {
    source: R,
}

/// `data.tar`, decompressed as it is read. Where it ends, the package ends.
pub type DataTar<R> = Bounded<Decoder<io::Take<R>>>;

/// The contents of a package, entry by entry.
pub type Data<R> = Reader<Stream<DataTar<R>>>;

impl<R: Read> Deb<R> {
    /// Reads the front of a package and its control information.
    ///
    /// # Errors
    /// [`BadDeb`], naming what is wrong.
    pub fn open(mut source: R) -> Result<(Deb<R>, Control), BadDeb> {
        let mut magic = [0; 8];
        source.read_exact(&mut magic).map_err(|_| BadDeb::Ar("it is shorter than eight bytes".into()))?;
        if &magic != b"!<arch>\n" {
            return Err(BadDeb::Ar("it does not begin with `!<arch>`".into()));
        }
        let version = member(&mut source, "debian-binary")?;
        let mut text = String::new();
        if version.size > 64 {
            return Err(BadDeb::Ar("debian-binary is longer than a version".into()));
        }
        source.by_ref().take(version.size).read_to_string(&mut text)?;
        padding(&mut source, version.size)?;
        if !text.starts_with("2.") || !text.ends_with('\n') {
            return Err(BadDeb::Ar(format!("format {:?} is not 2.0", text.trim())));
        }
        let header = member(&mut source, "control.tar")?;
        if header.size > MAX_CONTROL {
            return Err(BadDeb::Bomb { member: "control.tar", limit: MAX_CONTROL });
        }
        let mut taken = source.take(header.size);
        let decoder = Decoder::new(&mut taken, &header.suffix)?;
        let control = control(Bounded::new(decoder, "control.tar", MAX_CONTROL))?;
        io::copy(&mut taken, &mut io::sink())?; // padding that a decoder leaves
        if taken.limit() > 0 {
            return Err(BadDeb::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut source = taken.into_inner();
        padding(&mut source, header.size)?;
        Ok((Deb { source }, control))
    }

    /// Goes on to the contents.
    ///
    /// # Errors
    /// [`BadDeb`], naming what is wrong.
    pub fn data(self) -> Result<Data<R>, BadDeb> {
        Ok(Reader::new(Stream(self.data_tar()?)))
    }

    /// Goes on to the contents, as the tar that they are.
    ///
    /// # Errors
    /// [`BadDeb`], naming what is wrong.
    pub fn data_tar(mut self) -> Result<DataTar<R>, BadDeb> {
        let header = member(&mut self.source, "data.tar")?;
        let limit = header.size.saturating_mul(MAX_RATIO).clamp(RATIO_FROM, MAX_DATA);
        let decoder = Decoder::new(self.source.take(header.size), &header.suffix)?;
        Ok(Bounded::new(decoder, "data.tar", limit))
    }
}

/// An `ar` member's header: the file's ending after the name that was asked for, and the size.
struct Header {
    suffix: String,
    size: u64,
}

fn member(source: &mut impl Read, wanted: &'static str) -> Result<Header, BadDeb> {
    let mut raw = [0; 60];
    source.read_exact(&mut raw).map_err(|_| BadDeb::Ar(format!("it ends before {wanted}")))?;
    let field =
        |from: usize, to: usize| std::str::from_utf8(&raw[from..to]).unwrap_or("?").trim_end_matches(' ');
    if &raw[58..] != b"`\n" {
        return Err(BadDeb::Ar(format!("the header of {wanted} does not end as one")));
    }
    // GNU ar ends names with a slash, dpkg-deb does not.
    let name = field(0, 16).trim_end_matches('/');
    let digits = field(48, 58);
    let size = if digits.bytes().all(|c| c.is_ascii_digit()) { digits.parse().ok() } else { None };
    let size = size.ok_or_else(|| BadDeb::Ar(format!("the size of {wanted} is {digits:?}")))?;
    match name.strip_prefix(wanted) {
        Some(suffix) if wanted != "debian-binary" || suffix.is_empty() => {
            Ok(Header { suffix: suffix.into(), size })
        }
        _ => Err(BadDeb::Member { found: name.escape_default().to_string(), wanted }),
    }
}

fn padding(source: &mut impl Read, size: u64) -> Result<(), BadDeb> {
    let mut byte = [0];
    if size % 2 == 1 {
        source.read_exact(&mut byte)?;
    }
    Ok(())
}

fn control(source: impl Read) -> Result<Control, BadDeb> {
    let in_tar = |source: TarError| match source {
        TarError::Io(e) => BadDeb::Io(e),
        source => BadDeb::Tar { member: "control.tar", source },
    };
    let mut reader = Reader::new(Stream(source));
    let mut text = None;
    let mut files = BTreeMap::new();
    while let Some(entry) = reader.next_entry().map_err(in_tar)? {
        let name = entry.path.as_str();
        match entry.node.kind {
            NodeKind::Dir if name.is_empty() => continue,
            NodeKind::File(_) if is_control_name(name) && entry.size <= MAX_TEXT => {}
            _ => return Err(BadDeb::Control(format!("`{}` does not belong there", entry.path))),
        }
        let mut bytes = vec![];
        (&mut reader).take(entry.size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != entry.size {
            return Err(BadDeb::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let again = match name {
            "control" => {
                let mut string = String::from_utf8(bytes)
                    .map_err(|_| BadDeb::Control("the control file is not UTF-8".into()))?;
                string.truncate(string.trim_end().len());
                string.push('\n');
                if string.contains("\n\n") || string.starts_with('\n') || string.contains('\0') {
                    return Err(BadDeb::Control("the control file has more than one paragraph".into()));
                }
                text.replace(string).is_some()
            }
            name => files.insert(name.to_string(), (bytes, entry.node.mode & 0o777)).is_some(),
        };
        if again {
            return Err(BadDeb::Control(format!("`{}` is there twice", entry.path)));
        }
    }
    let text = text.ok_or_else(|| BadDeb::Control("there is no control file".into()))?;
    Ok(Control { text, files })
}

/// What dpkg's database can keep under `info/PACKAGE.NAME`.
fn is_control_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    !name.is_empty() && name.len() <= 50 && name.bytes().all(good) && name != "list"
}

/// One of the compressions that deb(5) allows, by file ending.
#[allow(clippy::large_enum_variant, reason = "one a package, and moved once")]
pub enum Decoder<R: Read> {
    /// No ending.
    Plain(R),
    /// `.gz`
    Gzip(flate2::read::MultiGzDecoder<R>),
    /// `.xz`
    Xz(liblzma::read::XzDecoder<R>),
    /// `.zst`
    Zstd(zstd::stream::read::Decoder<'static, io::BufReader<R>>),
}

impl<R: Read> Decoder<R> {
    fn new(source: R, suffix: &str) -> Result<Decoder<R>, BadDeb> {
        Ok(match suffix {
            "" => Decoder::Plain(source),
            ".gz" => Decoder::Gzip(flate2::read::MultiGzDecoder::new(source)),
            ".xz" => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                        .map_err(io::Error::from)?;
                Decoder::Xz(liblzma::read::XzDecoder::new_stream(source, stream))
            }
            ".zst" => {
                let mut decoder = zstd::stream::read::Decoder::new(source)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Decoder::Zstd(decoder)
            }
            other => return Err(BadDeb::Ar(format!("compression `{}` is unknown", other.escape_default()))),
        })
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(r) => r.read(buffer),
            Decoder::Gzip(r) => r.read(buffer),
            Decoder::Xz(r) => r.read(buffer),
            Decoder::Zstd(r) => r.read(buffer),
        }
    }
}

/// A reader that ends with an error where it has given more than it may.
pub struct Bounded<R> {
    inner: R,
    member: &'static str,
    limit: u64,
    left: u64,
}

impl<R> Bounded<R> {
    fn new(inner: R, member: &'static str, limit: u64) -> Bounded<R> {
        Bounded { inner, member, limit, left: limit }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(BadDeb::Bomb { member: self.member, limit: self.limit })),
        }
        Ok(n)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tree::{Node, Tree, TreePath, tar};

    pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, bytes) in members {
            out.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, bytes.len()).bytes(),
            );
            out.extend_from_slice(bytes);
            out.extend(std::iter::repeat_n(b'\n', bytes.len() % 2));
        }
        out
    }

    pub(crate) fn tar_of(entries: &[(&str, Node)]) -> Vec<u8> {
        let mut tree = Tree::new();
        for (path, node) in entries {
            tree.insert(TreePath::parse(path).unwrap(), node.clone()).unwrap();
        }
        let mut out = vec![];
        tar::write(&tree, crate::model::Epoch(1_700_000_000), &mut out).unwrap();
        out
    }

    pub(crate) fn deb(control: &[(&str, Node)], data: &[u8]) -> Vec<u8> {
        ar(&[("debian-binary", b"2.0\n"), ("control.tar", &tar_of(control)), ("data.tar", data)])
    }

    fn control_file() -> (&'static str, Node) {
        ("control", Node::text("Package: a\nVersion: 1\nDescription: x\n more\n", 0o644))
    }

    fn says(bytes: &[u8]) -> String {
        let read = Deb::open(bytes).and_then(|(deb, _)| {
            let mut data = deb.data()?;
            while data.next_entry().map_err(|source| BadDeb::Tar { member: "data.tar", source })?.is_some() {}
            Ok(())
        });
        read.unwrap_err().to_string()
    }

    #[test]
    fn control_information_comes_out() {
        let bytes = deb(&[control_file(), ("preinst", Node::text("#!/bin/sh\n", 0o755))], &tar_of(&[]));
        let (_, control) = Deb::open(&bytes[..]).unwrap();
        assert_eq!(control.field("description"), Some("x\n more"));
        assert_eq!(control.required("Version").unwrap(), "1");
        assert_eq!(control.files["preinst"], (b"#!/bin/sh\n".to_vec(), 0o755));
    }

    #[test]
    fn wrong_members_sizes_and_cuts_are_refused() {
        let good = deb(&[control_file()], &tar_of(&[("usr/x", Node::text("x", 0o644))]));
        let c = tar_of(&[control_file()]);
        let mut wrong_size = good.clone();
        wrong_size[56..66].copy_from_slice(b"-4        ");
        let mut wrong_end = good.clone();
        wrong_end[66] = b'x';
        let header = |size: u64| {
            let mut header = ::tar::Header::new_ustar();
            header.as_ustar_mut().unwrap().name[..3].copy_from_slice(b"big");
            header.set_size(size);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        let mut encoder = liblzma::write::XzEncoder::new(vec![], 1);
        std::io::Write::write_all(&mut encoder, &header(300 << 20)).unwrap();
        for _ in 0..300 {
            std::io::Write::write_all(&mut encoder, &vec![0; 1 << 20]).unwrap();
        }
        let zeros = encoder.finish().unwrap();
        for (says_so, bytes) in [
            ("does not begin", b"!<arch>x".to_vec()),
            ("shorter than eight", b"!<ar".to_vec()),
            ("size of debian-binary", wrong_size),
            ("does not end as one", wrong_end),
            (
                "`_gpgorigin` stands where `data.tar`",
                ar(&[("debian-binary", b"2.0\n"), ("control.tar", &c), ("_gpgorigin", b"")]),
            ),
            ("`data.tar` stands where `control.tar`", ar(&[("debian-binary", b"2.0\n"), ("data.tar", &c)])),
            ("compression `.lz4`", ar(&[("debian-binary", b"2.0\n"), ("control.tar.lz4", &c)])),
            ("format", ar(&[("debian-binary", b"3.0\n"), ("control.tar", &c)])),
            ("ends before data.tar", good[..8 + 60 + 4 + 60 + c.len()].to_vec()),
            ("no control file", deb(&[("preinst", Node::text("", 0o755))], &[])),
            ("`sub` does not belong", deb(&[control_file(), ("sub/x", Node::text("", 0o755))], &[])),
            (
                "`postinst` does not belong",
                deb(&[control_file(), ("postinst", Node::symlink("/bin/sh"))], &[]),
            ),
            ("more than one paragraph", deb(&[("control", Node::text("A: b\n\nC: d\n", 0o644))], &[])),
            ("reading", good[..200].to_vec()),
            ("reading", deb(&[control_file()], &header(1 << 40))),
            (
                "grows to more than",
                ar(&[("debian-binary", b"2.0\n"), ("control.tar", &c), ("data.tar.xz", &zeros)]),
            ),
        ] {
            let error = says(&bytes);
            assert!(error.contains(says_so), "{says_so}: {error}");
        }
    }
}
