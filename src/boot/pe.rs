//! PE images as UEFI starts them: their sections listed, and sections appended to a boot stub.
//!
//! Microsoft's "PE Format"; only PE32+ (64-bit), little-endian. Headers are read whole with every bound checked; bytes of
//! sections stay where they are. Knows nothing of what a section means: that is [`super::uki`].

use crate::tree::Content;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The largest header that is taken: stubs have 1 KiB or 4 KiB.
const MAX_HEADERS: u64 = 64 * 1024;
/// The most sections that are taken: what Windows takes, and three times what a boot image has.
const MAX_SECTIONS: usize = 96;
/// Bytes of a symbol.
const SYMBOL: u64 = 18;
/// The longest name that is looked up in a string table, in bytes: longer than any that a boot image has.
const MAX_NAME: u64 = 64;
/// Bytes of an entry in the section table.
const SECTION: usize = 40;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const READ_ONLY_DATA: u32 = 0x4000_0040;

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeError {
    /// The headers are not those of a 64-bit PE image, or contradict themselves.
    #[error("PE image: {0}")]
    Header(&'static str),
    /// A section reaches out of the file or its name is no text.
    #[error("PE section {index}: {why}")]
    Section {
        /// Position in the section table.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The section table has no room for one more.
    #[error("PE image: no room in its headers for section `{0}`")]
    NoRoom(String),
    /// A section's name is empty or longer than eight bytes, or exists already.
    #[error("PE section name `{0}` is empty, longer than eight bytes, or taken")]
    Name(String),
    /// Sizes and addresses are 32 bits.
    #[error("PE section `{0}` would end beyond 4 GiB")]
    TooLarge(String),
    /// The image could not be read or written.
    #[error("reading or writing a PE image")]
    Io(#[from] io::Error),
}

/// A section that exists.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name, `.linux`: at most eight bytes, or more in an image with a string table.
    pub name: String,
    /// Its bytes, without the padding of the file.
    pub content: Content,
}

/// An image whose headers have been checked.
#[derive(Clone, Debug)]
pub struct Pe {
    content: Content,
    headers: Vec<u8>,
    /// Offset of the `PE\0\0` signature.
    pe: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the section table.
    table: usize,
    sections: Vec<Section>,
}

impl Pe {
    /// Checks the headers of `content`.
    ///
    /// # Errors
    /// [`PeError`] naming the header's fault or the section.
    pub fn open(content: Content) -> Result<Pe, PeError> {
        let mut headers = content.slice(0, content.len().min(MAX_HEADERS))?.to_vec(MAX_HEADERS)?;
        let cut = || PeError::Header("cut off");
        if headers.get(..2) != Some(b"MZ") {
            return Err(PeError::Header("no MZ signature"));
        }
        let pe = u32_at(&headers, 0x3c).ok_or_else(cut)? as usize;
        if headers.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
            return Err(PeError::Header("no PE signature"));
        }
        let count = usize::from(u16_at(&headers, pe + 6).ok_or_else(cut)?);
        let optional = pe + 24;
        if u16_at(&headers, optional) != Some(0x20b) {
            return Err(PeError::Header("not of the 64-bit kind"));
        }
        let table = optional + usize::from(u16_at(&headers, pe + 20).ok_or_else(cut)?);
        let size = u32_at(&headers, optional + 60).ok_or_else(cut)? as usize;
        if table < optional + 112 || table + count * SECTION > size || size > headers.len() {
            return Err(PeError::Header("its headers are longer than they say"));
        }
        if count > MAX_SECTIONS {
            return Err(PeError::Header("more than 96 sections"));
        }
        headers.truncate(size);
        let mut sections = Vec::with_capacity(count);
        for (index, entry) in headers[table..table + count * SECTION].chunks_exact(SECTION).enumerate() {
            let refuse = |why| PeError::Section { index, why };
            let name = entry[..8].split(|c| *c == 0).next().unwrap_or_default();
            let name = std::str::from_utf8(name).map_err(|_| refuse("its name is no text"))?;
            let name = long_name(&content, &headers, pe, name).unwrap_or_else(|| name.into());
            let field = |at| u64::from(u32_at(entry, at).unwrap_or_default());
            // The file has a multiple of the alignment; the rest of a longer memory size is zeros that are not stored.
            let length = field(8).min(field(16));
            let content =
                content.slice(field(20), length).map_err(|_| refuse("it reaches out of the file"))?;
            sections.push(Section { name, content });
        }
        Ok(Pe { content, headers, pe, optional, table, sections })
    }

    /// The sections in the order of the table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The first section called `name`.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Writes this image with `added` behind its sections to `out` from its first byte; the length.
    ///
    /// A section's content may come in parts, each of which starts at a multiple of four bytes. A signature of the image
    /// would no longer hold, so an image with one is refused.
    ///
    /// # Errors
    /// [`PeError`] naming the section that does not fit.
    pub fn append(&self, added: &[(&str, Vec<Content>)], out: &File) -> Result<u64, PeError> {
        let field = |at: usize| u32_at(&self.headers, self.optional + at).ok_or(PeError::Header("cut off"));
        let (section_align, file_align) = (u64::from(field(32)?), u64::from(field(36)?));
        if !section_align.is_power_of_two() || !file_align.is_power_of_two() {
            return Err(PeError::Header("its alignments are no powers of two"));
        }
        // Data directory 4, "certificate table", when the optional header has that many.
        if field(108)? > 4 && field(144).unwrap_or(0) != 0 {
            return Err(PeError::Header("it is signed"));
        }
        let mut headers = self.headers.clone();
        let mut address = self.headers[self.table..]
            .chunks_exact(SECTION)
            .take(self.sections.len())
            .map(|s| u64::from(u32_at(s, 8).unwrap_or(0)) + u64::from(u32_at(s, 12).unwrap_or(0)))
            .max()
            .unwrap_or(headers.len() as u64)
            .next_multiple_of(section_align);
        let mut initialized = u64::from(field(8)?);
        let mut at = self.content.len().next_multiple_of(file_align);
        out.set_len(0)?; // what was there would show through the padding
        self.content.copy_to(out, 0)?;
        let mut names: Vec<&str> = self.sections.iter().map(|s| s.name.as_str()).collect();
        for (index, (name, parts)) in added.iter().enumerate() {
            if name.is_empty() || name.len() > 8 || names.contains(name) {
                return Err(PeError::Name((*name).into()));
            }
            names.push(name);
            let entry_at = self.table + (self.sections.len() + index) * SECTION;
            let entry = headers
                .get_mut(entry_at..entry_at + SECTION)
                .ok_or_else(|| PeError::NoRoom((*name).into()))?;
            if entry.iter().any(|b| *b != 0) {
                return Err(PeError::NoRoom((*name).into()));
            }
            let mut length = 0;
            for part in parts {
                length = u64::next_multiple_of(length, 4);
                part.copy_to(out, at + length)?;
                length += part.len();
            }
            let stored = length.next_multiple_of(file_align);
            if at + stored > u64::from(u32::MAX) || address + length + section_align > u64::from(u32::MAX) {
                return Err(PeError::TooLarge((*name).into()));
            }
            entry[..name.len()].copy_from_slice(name.as_bytes());
            for (offset, value) in
                [(8, length), (12, address), (16, stored), (20, at), (36, u64::from(READ_ONLY_DATA))]
            {
                entry[offset..offset + 4].copy_from_slice(&(value as u32).to_le_bytes());
            }
            at += stored;
            address = (address + length).next_multiple_of(section_align);
            initialized += stored;
        }
        let count = (self.sections.len() + added.len()) as u16;
        headers[self.pe + 6..self.pe + 8].copy_from_slice(&count.to_le_bytes());
        for (offset, value) in [(8, initialized), (56, address), (64, 0)] {
            // SizeOfInitializedData, SizeOfImage, and the checksum, which UEFI does not look at.
            headers[self.optional + offset..self.optional + offset + 4]
                .copy_from_slice(&(value as u32).to_le_bytes());
        }
        out.write_all_at(&headers, 0)?;
        out.set_len(at)?;
        Ok(at)
    }
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// What a name `/N` stands for: the text at byte N of the string table, behind the symbols ("PE Format", "Section Table").
/// GNU's linkers write such names into images, shim's `.vendor_cert` among them.
fn long_name(image: &Content, headers: &[u8], pe: usize, name: &str) -> Option<String> {
    let at: u64 = name.strip_prefix('/')?.parse().ok()?;
    let (symbols, count) = (u32_at(headers, pe + 12)?, u32_at(headers, pe + 16)?);
    let start = u64::from(symbols) + u64::from(count) * SYMBOL + at;
    let room = image.len().checked_sub(start)?.min(MAX_NAME);
    let bytes = image.slice(start, room).ok()?.to_vec(MAX_NAME).ok()?;
    let end = bytes.iter().position(|b| *b == 0)?;
    std::str::from_utf8(&bytes[..end]).ok().map(String::from)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Arc;

    /// The smallest image that has one section `.text` and room for more.
    pub fn minimal() -> Vec<u8> {
        let mut image = vec![0; 0x600];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &0x40u32.to_le_bytes());
        put(0x40, b"PE\0\0\x64\x86\x01\0");
        put(0x40 + 20, &240u16.to_le_bytes());
        put(0x58, &0x20bu16.to_le_bytes());
        put(0x58 + 32, &0x1000u32.to_le_bytes());
        put(0x58 + 36, &0x200u32.to_le_bytes());
        put(0x58 + 60, &0x400u32.to_le_bytes());
        put(0x58 + 108, &16u32.to_le_bytes());
        let table = 0x58 + 240;
        put(table, b".text\0\0\0");
        for (offset, value) in [(8, 5u32), (12, 0x1000), (16, 0x200), (20, 0x400)] {
            put(table + offset, &value.to_le_bytes());
        }
        put(0x400, b"hello");
        image
    }

    #[test]
    fn sections_are_appended_and_found_again() {
        let pe = Pe::open(minimal().into()).unwrap();
        let out = tempfile::tempfile().unwrap();
        let parts = vec![Content::from(vec![1; 5]), Content::from(vec![2; 700])];
        let length = pe.append(&[(".a", vec![b"one".to_vec().into()]), (".initrd", parts)], &out).unwrap();
        assert_eq!(length % 512, 0);
        let again = Pe::open(Content::of_file(Arc::new(out)).unwrap()).unwrap();
        let names: Vec<_> = again.sections().iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, [".text", ".a", ".initrd"]);
        assert_eq!(again.section(".a").unwrap().content.to_vec(9).unwrap(), b"one");
        let initrd = again.section(".initrd").unwrap().content.to_vec(999).unwrap();
        assert_eq!((initrd.len(), &initrd[4..9]), (708, &[1, 0, 0, 0, 2][..]));
    }

    #[test]
    fn hostile_headers_are_errors() {
        let good = minimal();
        for at in 0..good.len().min(0x180) {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(pe) = Pe::open(bad.into()) {
                    let _ = pe.append(&[(".x", vec![vec![1].into()])], &tempfile::tempfile().unwrap());
                }
            }
        }
        for length in 0..good.len() {
            let _ = Pe::open(good[..length].to_vec().into());
        }
        let pe = Pe::open(good.into()).unwrap();
        let out = tempfile::tempfile().unwrap();
        assert!(matches!(pe.append(&[(".text", vec![])], &out), Err(PeError::Name(_))));
        assert!(matches!(pe.append(&[(".too-long", vec![])], &out), Err(PeError::Name(_))));
        let many: Vec<String> = (0..30).map(|i| format!(".s{i}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), vec![])).collect();
        assert!(matches!(pe.append(&many, &out), Err(PeError::NoRoom(_))));
    }
}
