//! A device that may be an installer's medium → where a file of its root lies.
//!
//! A medium is hostile: nothing of it is mounted, one directory of one sector is read, and what it says of a file is held
//! against the device by whoever reads there. What the file is worth its digest says.

use super::{DESCRIPTOR, MULTI_EXTENT, ROOT, SECTOR, STANDARD, VOLUME};
use crate::disk::fat::foreign::ReadAt;
use std::io;

/// A file's place on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte.
    pub offset: u64,
    /// Count of bytes.
    pub length: u64,
}

/// Whether `device` bears an installer's volume.
pub fn is_medium<D: ReadAt + ?Sized>(device: &D) -> bool {
    descriptor(device).is_ok_and(|found| found.is_some())
}

/// Where the file `name` of the root lies; `None` when there is no such file, no medium, or a record that cannot be.
///
/// # Errors
/// What the device says.
pub fn find<D: ReadAt + ?Sized>(device: &D, name: &str) -> io::Result<Option<Place>> {
    let Some(descriptor) = descriptor(device)? else { return Ok(None) };
    let root = u64::from(u32_at(&descriptor, ROOT + 2));
    let mut directory = vec![0; SECTOR as usize];
    device.fill(&mut directory, root * SECTOR)?;
    let wanted = format!("{name};1");
    let mut at = 0;
    let mut place: Option<Place> = None;
    while let Some(&length @ 34..) = directory.get(at) {
        let Some(record) = directory.get(at..at + usize::from(length)) else { return Ok(None) };
        at += usize::from(length);
        if record.get(33..33 + usize::from(record[32])) != Some(wanted.as_bytes()) {
            continue;
        }
        let piece =
            Place { offset: u64::from(u32_at(record, 2)) * SECTOR, length: u64::from(u32_at(record, 10)) };
        match &mut place {
            None => place = Some(piece),
            // A file of more than 4 GiB is one run that several records share.
            Some(whole) if whole.offset + whole.length == piece.offset => whole.length += piece.length,
            Some(_) => return Ok(None),
        }
        if record[25] & MULTI_EXTENT == 0 {
            return Ok(place);
        }
    }
    Ok(None)
}

fn descriptor<D: ReadAt + ?Sized>(device: &D) -> io::Result<Option<Vec<u8>>> {
    let mut descriptor = vec![0; SECTOR as usize];
    device.fill(&mut descriptor, DESCRIPTOR * SECTOR)?;
    let label = String::from_utf8_lossy(&descriptor[40..72]);
    let ours = descriptor[0] == 1 && descriptor[1..7] == *STANDARD && label.trim_end() == VOLUME;
    Ok(ours.then_some(descriptor))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_lies_is_no_medium() {
        let mut medium = vec![0; 32 * SECTOR as usize];
        assert!(!is_medium(&medium[..]));
        assert!(find(&medium[..40], "DISK.ZST").is_err());
        let at = (DESCRIPTOR * SECTOR) as usize;
        medium[at] = 1;
        medium[at + 1..at + 7].copy_from_slice(STANDARD);
        medium[at + 40..at + 72].copy_from_slice(&[b' '; 32]);
        medium[at + 40..at + 40 + VOLUME.len()].copy_from_slice(VOLUME.as_bytes());
        medium[at + ROOT + 2] = 20;
        assert!(is_medium(&medium[..]));
        // A record that reaches beyond its sector, one of no length, one that names itself with more than it has.
        let directory = 20 * SECTOR as usize;
        for (length, name) in [(255, 3), (0, 0), (34, 200)] {
            medium[directory] = length;
            medium[directory + 32] = name;
            assert_eq!(find(&medium[..], "DISK.ZST").unwrap(), None);
        }
        medium[at + ROOT + 2..at + ROOT + 6].copy_from_slice(&[0xff; 4]);
        assert!(find(&medium[..], "DISK.ZST").is_err(), "the root lies beyond the device");
    }
}
