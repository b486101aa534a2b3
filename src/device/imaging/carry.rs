//! A bundle that came with the installer → the new disk's own FORGE-ENROLL partition, before the disk has a partition table.
//!
//! From the medium's volume, which an optical drive does not show as a partition; else from a stick. Whether it is believed
//! the installed system decides, by signature.

use super::disks::{self, Disk};
use super::source::Source;
use crate::device::effects::CarrierKind;
use crate::device::host::carrier;
use crate::disk::fat::foreign::{Foreign, ReadAt};
use crate::disk::{ENROLL_TYPE, iso};
use crate::enroll::bundle::{BOOTSTRAP, DIRECTORY, FILES};
use crate::host::cancel::Cancel;
use crate::host::fs;
use crate::host::tool::ToolCall;
use anyhow::{Context as _, ensure};
use rustix::mount::UnmountFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// Where the partition is mounted while the bundle is written.
const MOUNT: &str = "run/forge/enroll";
/// Bytes of a table's entry, and where the first is.
const ENTRY: usize = 128;
const ENTRIES: usize = 1024;

type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Copies the bundle to `disk`, whose image begins with `head`; what it was taken from, where there was one.
///
/// # Errors
/// When the disk does not take it.
pub fn bundle(root: &Path, source: &Source, disk: &Disk, head: &[u8]) -> anyhow::Result<Option<String>> {
    let Some((from, files)) = found(root, source) else { return Ok(None) };
    let (offset, length) = place(head).context("the image has no FORGE-ENROLL partition")?;
    let device = disks::device(root, &disk.candidate.name);
    let at = root.join(MOUNT);
    fs::make_private_dir(&at)?;
    // There is no table yet, so the kernel shows no partition: mount(8) makes a device of the range.
    let options = format!("loop,offset={offset},sizelimit={length},nosuid,nodev,noexec,umask=0077,utf8");
    let mount = ToolCall::new("mount").args(["-t", "vfat", "-o", &options]).arg(&device).arg(&at);
    mount.within(Duration::from_secs(60)).output(&Cancel::default())?;
    let written = files
        .iter()
        .try_for_each(|(name, bytes)| fs::write_atomic(&at.join(DIRECTORY).join(name), bytes, 0o600));
    rustix::mount::unmount(&at, UnmountFlags::NOFOLLOW)?;
    written?;
    let file = disks::open(root, disk, true)?;
    file.sync_all()?;
    let volume = Window { file: &file, offset, length };
    let there = read(&volume)?;
    ensure!(there == files, "the partition does not give back the bundle");
    Ok(Some(from))
}

fn found(root: &Path, source: &Source) -> Option<(String, Files)> {
    let has = |files: &Files| files.contains_key(BOOTSTRAP);
    if let Some(medium) = source.medium()
        && let Ok(Some(place)) = iso::read::find(medium.file(), iso::ENROLL_FILE)
    {
        let volume = Window { file: medium.file(), offset: place.offset, length: place.length };
        if let Some(files) = read(&volume).ok().filter(has) {
            return Some((medium.name().into(), files));
        }
    }
    let names: Vec<(String, usize)> = FILES.iter().map(|(name, most)| (name.to_string(), *most)).collect();
    // Not what lies on another disk of the box.
    let sticks = carrier::bundles(root, &names).into_iter().filter(|c| c.kind != CarrierKind::Partition);
    sticks.map(|carrier| (carrier.place, carrier.files)).find(|(_, files)| has(files))
}

fn read(volume: &Window<'_>) -> anyhow::Result<Files> {
    let volume = Foreign::open(volume)?;
    let mut files = Files::new();
    for (name, most) in FILES {
        if let Some(content) = volume.read(&format!("{DIRECTORY}/{name}"), *most)? {
            files.insert(name.to_string(), content);
        }
    }
    Ok(files)
}

/// First byte and length of FORGE-ENROLL in the table of an image that was checked by its digest.
fn place(head: &[u8]) -> Option<(u64, u64)> {
    let entries = head.get(ENTRIES..)?.chunks_exact(ENTRY).take(128);
    let entry = entries.into_iter().find(|entry| entry[..16] == ENROLL_TYPE.to_gpt())?;
    let sector = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&entry[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (first, last) = (sector(32), sector(40));
    let count = last.checked_sub(first)?.checked_add(1)?;
    Some((first.checked_mul(disks::SECTOR)?, count.checked_mul(disks::SECTOR)?))
}

/// A part of a device.
struct Window<'a> {
    file: &'a File,
    offset: u64,
    length: u64,
}

impl ReadAt for Window<'_> {
    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.checked_add(buffer.len() as u64).filter(|end| *end <= self.length);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.file.fill(buffer, self.offset + at)
    }
}
