//! Unified kernel images: kernel, initrd and command line in one file that UEFI starts and one signature covers.
//!
//! UAPI.5: sections `.osrel`, `.cmdline`, `.uname`, `.splash`, `.dtb`, `.initrd`, `.linux` behind systemd's boot stub. The command
//! line names the root hashes, so it is written after the hash trees and signed after both. Knows no keys and no ESP.

use super::pe::{Pe, PeError};
use super::verity::RootHash;
use crate::model::Digest;
use crate::tree::Content;
use std::fs::File;
use std::io;

/// The argument that names the root's hash: systemd-veritysetup-generator(8).
pub const ROOT_HASH: &str = "roothash";
/// The argument that names the payload's hash: forge's own.
pub const PAYLOAD_HASH: &str = "forge.payloadhash";

/// What is read into memory of a text section: the kernel takes 2 KiB of command line, os-release is a page.
const MAX_TEXT: u64 = 64 * 1024;

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct UkiSpec {
    /// systemd's `linuxx64.efi.stub` or `linuxaa64.efi.stub`.
    pub stub: Content,
    /// The text of os-release: names the boot entry and its version.
    pub os_release: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// The kernel's release (`uname -r`).
    pub uname: String,
    /// The kernel.
    pub linux: Content,
    /// Initrds, which the kernel unpacks one over the other: microcode first, uncompressed.
    pub initrds: Vec<Content>,
    /// A flattened device tree, in the place of the firmware's.
    pub devicetree: Option<Content>,
    /// A BMP picture.
    pub splash: Option<Content>,
    /// SBAT text, for a stub that has none of its own.
    pub sbat: Option<String>,
}

/// Writes the image to `out` from its first byte; the length. The bytes depend on the spec alone.
///
/// # Errors
/// [`PeError`] when the stub is no PE image, has no room, or has one of the sections already; NUL in a text.
pub fn write(spec: &UkiSpec, out: &File) -> Result<u64, PeError> {
    for text in [&spec.os_release, &spec.cmdline, &spec.uname] {
        if text.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a text of the image has a NUL").into());
        }
    }
    let text = |s: &str| vec![Content::from(s.as_bytes().to_vec())];
    let mut sections = vec![];
    if let Some(sbat) = &spec.sbat {
        sections.push((".sbat", text(sbat)));
    }
    sections.push((".osrel", text(&spec.os_release)));
    sections.push((".cmdline", text(&spec.cmdline)));
    sections.push((".uname", text(&spec.uname)));
    if let Some(splash) = &spec.splash {
        sections.push((".splash", vec![splash.clone()]));
    }
    if let Some(devicetree) = &spec.devicetree {
        sections.push((".dtb", vec![devicetree.clone()]));
    }
    sections.push((".initrd", spec.initrds.clone()));
    // Last, as ukify has it: nothing may lie in memory behind a kernel that unpacks itself in place.
    sections.push((".linux", vec![spec.linux.clone()]));
    Pe::open(spec.stub.clone())?.append(&sections, out)
}

/// An image that exists.
#[derive(Clone, Debug)]
pub struct Uki {
    pe: Pe,
    /// The kernel's command line, without the NUL and white space at its end.
    pub cmdline: String,
    /// The text of os-release.
    pub os_release: String,
    /// The kernel's release.
    pub uname: String,
}

/// A section as `forge inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionDigest {
    /// Its name.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// Digest of its bytes.
    pub digest: Digest,
}

impl Uki {
    /// Reads the headers and texts of an image.
    ///
    /// # Errors
    /// [`PeError`] when it is no PE image, or lacks `.linux`, `.cmdline` or `.osrel`, or has one of them twice.
    pub fn open(content: Content) -> Result<Uki, PeError> {
        let pe = Pe::open(content)?;
        for name in [".linux", ".cmdline", ".osrel", ".initrd"] {
            // With two of a name, one is started and the other shown.
            if pe.sections().iter().filter(|s| s.name == name).count() != 1 {
                return Err(PeError::Header("not exactly one each of .linux, .initrd, .cmdline and .osrel"));
            }
        }
        let text = |name: &str| -> Result<String, PeError> {
            let Some(section) = pe.section(name) else { return Ok(String::new()) };
            let text = String::from_utf8(section.content.to_vec(MAX_TEXT)?)
                .map_err(|_| PeError::Header("a text section is not UTF-8"))?;
            let text = text.trim_end_matches(['\0', '\n', ' ']);
            if text.contains('\0') {
                return Err(PeError::Header("a text section has a NUL inside"));
            }
            Ok(text.into())
        };
        let (cmdline, os_release, uname) = (text(".cmdline")?, text(".osrel")?, text(".uname")?);
        Ok(Uki { pe, cmdline, os_release, uname })
    }

    /// The value of `KEY=` on the command line; of several the last, as the kernel and systemd take it.
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.cmdline
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .next_back()
    }

    /// The root hashes that the command line names, each with its key: [`ROOT_HASH`], [`PAYLOAD_HASH`]. A key that is
    /// there twice is here twice.
    pub fn root_hashes(&self) -> Vec<(&'static str, RootHash)> {
        let words = self.cmdline.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        words
            .filter_map(|(key, value)| {
                let key = [ROOT_HASH, PAYLOAD_HASH].into_iter().find(|known| *known == key)?;
                Some((key, value.parse().ok()?))
            })
            .collect()
    }

    /// All sections with their digests, those of the stub included.
    ///
    /// # Errors
    /// What reading says.
    pub fn sections(&self) -> io::Result<Vec<SectionDigest>> {
        let digest = |section: &super::pe::Section| {
            let (digest, length) = Digest::of_reader(section.content.reader())?;
            Ok(SectionDigest { name: section.name.clone(), length, digest })
        };
        self.pe.sections().iter().map(digest).collect()
    }

    /// The content of the first section called `name`.
    pub fn section(&self, name: &str) -> Option<&Content> {
        self.pe.section(name).map(|s| &s.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn spec() -> UkiSpec {
        UkiSpec {
            stub: super::super::pe::tests::minimal().into(),
            os_release: "ID=forge\nVERSION_ID=1\n".into(),
            cmdline: format!("console=ttyS0 roothash={} quiet", "ab".repeat(32)),
            uname: "6.12.0-amd64".into(),
            linux: vec![3; 9000].into(),
            initrds: vec![vec![1; 6].into(), vec![2; 6].into()],
            devicetree: None,
            splash: None,
            sbat: None,
        }
    }

    #[test]
    fn an_image_tells_what_it_was_made_of() {
        let out = tempfile::tempfile().unwrap();
        write(&spec(), &out).unwrap();
        let uki = Uki::open(Content::of_file(Arc::new(out)).unwrap()).unwrap();
        assert_eq!(uki.uname, "6.12.0-amd64");
        assert_eq!(uki.argument("console"), Some("ttyS0"));
        assert_eq!(uki.root_hashes(), [(ROOT_HASH, "ab".repeat(32).parse().unwrap())]);
        assert_eq!(uki.section(".linux").unwrap().len(), 9000);
        let last = uki.sections().unwrap().pop().unwrap();
        assert_eq!((last.name.as_str(), last.digest), (".linux", Digest::of(vec![3; 9000])));
    }

    #[test]
    fn a_second_command_line_is_refused() {
        let out = tempfile::tempfile().unwrap();
        write(&spec(), &out).unwrap();
        let mut bytes = Content::of_file(Arc::new(out)).unwrap().to_vec(1 << 20).unwrap();
        let at = bytes.windows(6).position(|w| w == b".uname").unwrap();
        bytes[at..at + 8].copy_from_slice(b".cmdline");
        assert!(Uki::open(bytes.into()).is_err());
        let nul = UkiSpec { cmdline: "a\0b".into(), ..spec() };
        assert!(write(&nul, &tempfile::tempfile().unwrap()).is_err());
    }
}
