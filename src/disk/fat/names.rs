//! Names on FAT: the 8.3 name that every entry has, the long name beside it, and what neither can be.

use super::{ENTRY, attribute};
use std::collections::{BTreeSet, HashSet};

/// UTF-16 units in one long-name entry, and where they lie.
const UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A name that FAT cannot hold.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{name}` {why}")]
pub struct NameError {
    /// The name.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The 8.3 names of a directory's children, in order, and whether each needs a long name beside it.
///
/// # Errors
/// [`NameError`] for characters that FAT forbids, a final dot or space, or two names that differ by case only.
pub fn short_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<([u8; 11], bool)>, NameError> {
    let mut folded = HashSet::new();
    let names: Vec<&str> = names.collect();
    for name in &names {
        check(name)?;
        if !folded.insert(name.to_uppercase()) {
            return Err(NameError {
                name: name.to_string(),
                why: "differs from another name of its directory by case only, which FAT cannot tell apart",
            });
        }
    }
    // Names that are 8.3 as they stand keep that name, so the invented ones must go round them.
    let mut used: BTreeSet<[u8; 11]> = names.iter().filter_map(|name| plain(name)).collect();
    names
        .iter()
        .map(|name| match plain(name) {
            Some(short) => Ok((short, false)),
            None => invented(name, &mut used).map(|short| (short, true)),
        })
        .collect()
}

fn check(name: &str) -> Result<(), NameError> {
    let refuse = |why| Err(NameError { name: name.into(), why });
    if name.encode_utf16().count() > 255 {
        refuse("is longer than 255 UTF-16 units")
    } else if name.chars().any(|c| c.is_control() || "\"*/:<>?\\|".contains(c)) {
        refuse("has a character that FAT forbids")
    } else if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        refuse("begins with a space or ends with a dot or space, which Windows drops")
    } else {
        Ok(())
    }
}

/// The 8.3 form of a name that needs no other.
fn plain(name: &str) -> Option<[u8; 11]> {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let good = |s: &str| {
        s.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&c))
    };
    let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && good(base) && good(extension);
    (fits && !name.ends_with('.')).then(|| join(base.as_bytes(), extension.as_bytes()))
}

/// `BASE~n.EXT`, the first that is free.
fn invented(name: &str, used: &mut BTreeSet<[u8; 11]>) -> Result<[u8; 11], NameError> {
    let (base, extension) = match name.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base, extension),
        _ => (name, ""),
    };
    let fold = |s: &str, limit: usize| -> Vec<u8> {
        let kept = s.chars().filter(|c| !matches!(c, '.' | ' '));
        kept.map(|c| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_uppercase() as u8 } else { b'_' })
            .take(limit)
            .collect()
    };
    let extension = fold(extension, 3);
    for n in 1..1_000_000 {
        let suffix = format!("~{n}");
        let mut short = fold(base, 8 - suffix.len());
        short.extend(suffix.bytes());
        let short = join(&short, &extension);
        if used.insert(short) {
            return Ok(short);
        }
    }
    Err(NameError { name: name.into(), why: "has more like it than FAT has short names" })
}

fn join(base: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

/// The text of an 8.3 name.
pub fn text_of(short: &[u8; 11]) -> Option<String> {
    let part = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(|s| s.trim_end_matches(' ').to_string());
    let (base, extension) = (part(&short[..8])?, part(&short[8..])?);
    Some(if extension.is_empty() { base } else { format!("{base}.{extension}") })
}

/// The checksum by which long-name entries belong to their 8.3 name.
fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, c| sum.rotate_right(1).wrapping_add(*c))
}

/// Count of long-name entries for `name`.
pub fn long_entries(name: &str) -> usize {
    name.encode_utf16().count().div_ceil(UNITS.len())
}

/// The entries that say `name`, the last part first, as they lie before the 8.3 entry.
pub fn encode_long(name: &str, short: &[u8; 11]) -> Vec<[u8; ENTRY]> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let count = long_entries(name);
    if !units.len().is_multiple_of(UNITS.len()) {
        units.push(0);
    }
    units.resize(count * UNITS.len(), 0xffff);
    let parts = units.chunks_exact(UNITS.len()).enumerate().rev();
    parts
        .map(|(index, part)| {
            let mut entry = [0; ENTRY];
            let last = if index + 1 == count { 0x40 } else { 0 };
            entry[0] = (index + 1) as u8 | last;
            entry[11] = attribute::LONG_NAME;
            entry[13] = checksum(short);
            for (at, unit) in UNITS.into_iter().zip(part) {
                entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            entry
        })
        .collect()
}

/// The name that `entries` say, in the order in which they lie, for the 8.3 name `short`; `None` when they are out of
/// order, belong to another name, or say no text.
pub fn decode_long(entries: &[[u8; ENTRY]], short: &[u8; 11]) -> Option<String> {
    let mut units = vec![];
    for (index, entry) in entries.iter().rev().enumerate() {
        let last = if index + 1 == entries.len() { 0x40 } else { 0 };
        if usize::from(entry[0]) != index + 1 + last || entry[13] != checksum(short) {
            return None;
        }
        units.extend(UNITS.iter().map(|at| u16::from_le_bytes([entry[*at], entry[at + 1]])));
    }
    let end = units.iter().position(|u| *u == 0).unwrap_or(units.len());
    String::from_utf16(&units[..end]).ok()
}
