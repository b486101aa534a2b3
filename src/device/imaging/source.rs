//! Where the image is from: a file of the medium, or of the server that the installer was booted from.

use super::{Refusal, disks, fetch};
use crate::device::host::carrier;
use crate::disk::iso::{self, read::Place};
use crate::disk::order::{IMAGE_FILE, Order, SOURCE_ARGUMENT};
use crate::enroll::code::Code;
use crate::model::Digest;
use crate::model::digest::Hasher;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// The largest window of a frame that is taken in, as a power of two: 128 MiB, what a build uses at most.
const WINDOW_LOG: u32 = 27;
/// The variable in which systemd's stub says what URL it was loaded from, of vendor systemd (systemd.io,
/// BOOT_LOADER_INTERFACE). Debian 13's, of version 257, does not; nor does it pass on what the firmware knows.
const LOADED_FROM: &str = "LoaderDeviceURL-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// The most bytes of a variable or of the command line.
const MAX_TEXT: u64 = 16 << 10;

/// Where the image is.
#[derive(Debug)]
pub enum Source {
    /// On a medium.
    Medium(Medium),
    /// At an address.
    Url(String),
}

/// An installer's medium.
#[derive(Debug)]
pub struct Medium {
    name: String,
    file: Arc<File>,
    place: Place,
}

/// Finds it: at a server where the kernel image was loaded from one, or one is named; else on a medium.
///
/// # Errors
/// [`Code::InstallSource`].
pub fn find(root: &Path, order: &Order) -> Result<Source, Refusal> {
    if let Some(url) = booted_from(root) {
        return Ok(Source::Url(order.url.clone().unwrap_or(url)));
    }
    for entry in std::fs::read_dir(root.join("sys/block")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(file) = carrier::open(&disks::device(root, &name), false) else { continue };
        // Of several media the one with this image: its length says so now, its digest before anything is written.
        if let Ok(Some(place)) = iso::read::find(&file, iso::IMAGE_FILE)
            && place.length == order.size.0
        {
            return Ok(Source::Medium(Medium { name, file: file.into(), place }));
        }
    }
    match &order.url {
        Some(url) => Ok(Source::Url(url.clone())),
        None => Err(Refusal::new(Code::InstallSource, "")),
    }
}

/// The image's address, where a network boot is what started this.
fn booted_from(root: &Path) -> Option<String> {
    let line = text(&root.join("proc/cmdline"));
    let mut named =
        line.split_ascii_whitespace().filter_map(|w| w.strip_prefix(SOURCE_ARGUMENT)?.strip_prefix('='));
    if let Some(url) = named.next_back() {
        return Some(url.into());
    }
    beside(&loaded_from(root)?)
}

/// The image's address beside the folder of the kernel image at `url`.
fn beside(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?;
    let (folder, _) = rest.split(['?', '#']).next()?.rsplit_once('/')?;
    // A kernel image at the server's top has its disk image there too.
    let above = folder.rsplit_once('/').map_or(folder, |(above, _)| above);
    Some(format!("http://{above}/{IMAGE_FILE}"))
}

/// The URL in the firmware's variable: four bytes of attributes, then UTF-16.
fn loaded_from(root: &Path) -> Option<String> {
    let path = root.join("sys/firmware/efi/efivars").join(LOADED_FROM);
    let mut bytes = vec![];
    File::open(path).ok()?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    let (units, _) = bytes.get(4..)?.as_chunks::<2>();
    let text: Vec<u16> =
        units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    String::from_utf16(&text).ok()
}

fn text(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_TEXT).read_to_string(&mut text); // what is there counts
    }
    text
}

impl Source {
    /// The medium, where it is one.
    pub fn medium(&self) -> Option<&Medium> {
        match self {
            Source::Medium(medium) => Some(medium),
            Source::Url(_) => None,
        }
    }

    /// The unpacked image, hashed as it is packed.
    ///
    /// # Errors
    /// When the server does not send it, or it is no Zstandard stream.
    pub fn image(&self, order: &Order) -> Result<Image, Refusal> {
        let packed: Box<dyn Read> = match self {
            Source::Medium(medium) => Box::new(medium.packed()),
            Source::Url(url) => Box::new(
                fetch::Download::start(url, order.size.0)
                    .map_err(|e| Refusal::new(e.code(), e.to_string()))?,
            ),
        };
        let unfit = |e: io::Error| Refusal::new(Code::InstallImage, e.to_string());
        let hashing =
            Hashing { inner: packed.take(order.size.0.saturating_add(1)), hasher: Hasher::default() };
        let mut decoder = zstd::Decoder::new(hashing).map_err(unfit)?;
        decoder.window_log_max(WINDOW_LOG).map_err(unfit)?;
        Ok(Image { decoder })
    }
}

impl Medium {
    /// The kernel's name of it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads all of the image once, before a disk is touched; `told` hears how far it is.
    ///
    /// # Errors
    /// [`Code::InstallImage`] when it is not what the order names.
    pub fn check(&self, order: &Order, told: &mut dyn FnMut(u64)) -> Result<(), Refusal> {
        let damaged = |why: String| Refusal::new(Code::InstallImage, format!("{}: {why}", self.name));
        let mut packed = self.packed();
        let (mut hasher, mut buffer, mut done) = (Hasher::default(), vec![0; 1 << 20], 0);
        loop {
            let n = packed.read(&mut buffer).map_err(|e| damaged(e.to_string()))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            done += n as u64;
            told(done);
        }
        let (digest, _) = hasher.finish();
        if digest == order.image {
            Ok(())
        } else {
            Err(damaged(format!("{digest} in place of {}", order.image)))
        }
    }

    fn packed(&self) -> Window {
        Window { file: self.file.clone(), at: self.place.offset, end: self.place.offset + self.place.length }
    }
}

/// A part of a device, from its start.
struct Window {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (self.end - self.at).min(buffer.len() as u64) as usize;
        if n == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buffer[..n], self.at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
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

/// The packed bytes, one more than there may be.
type Packed = Hashing<io::Take<Box<dyn Read>>>;

/// An image that is being unpacked.
pub struct Image {
    decoder: zstd::Decoder<'static, io::BufReader<Packed>>,
}

impl Image {
    /// Reads what is left of the packed bytes; the digest and count of all of them.
    ///
    /// # Errors
    /// What the source says.
    pub fn finish(self) -> io::Result<(Digest, u64)> {
        let mut rest = self.decoder.finish();
        io::copy(&mut rest, &mut io::sink())?;
        Ok(rest.into_inner().hasher.finish())
    }
}

impl Read for Image {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_lies_beside_the_folder_that_was_booted_from() {
        for (loaded, image) in [
            ("http://10.0.2.2:8000/netboot/forge.efi", Some("http://10.0.2.2:8000/disk.raw.zst")),
            ("http://h/a/b/netboot/forge.efi?x=/1", Some("http://h/a/b/disk.raw.zst")),
            ("http://h/forge.efi", Some("http://h/disk.raw.zst")),
            ("\\EFI\\BOOT\\BOOTX64.EFI", None),
            ("ftp://h/n/forge.efi", None),
            ("", None),
        ] {
            assert_eq!(beside(loaded).as_deref(), image, "{loaded}");
        }
    }
}
