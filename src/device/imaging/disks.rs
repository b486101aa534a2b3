//! Block devices → the disks that can be installed on, and what one of them holds.
//!
//! By what the kernel says in sysfs, with udev's names and serial numbers. What is on a disk is read as bytes: no file system
//! is recognised, for whatever is there and not zero is somebody's.

use crate::device::host::carrier;
use crate::disk::iso::read as iso;
use crate::disk::order::Candidate;
use crate::model::{Bytes, Guid};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes of the sectors that an image is made for.
pub const SECTOR: u64 = 512;
/// What is looked at of either end of a disk: partition tables, and the superblocks of file systems, volume managers and
/// arrays, lie there.
const END: u64 = 1 << 20;
/// Bytes of a partition table at either end, the protective record among them.
const TABLE: usize = 34 * 512;
/// The most bytes of a file of sysfs or of udev's database.
const MAX_TEXT: u64 = 64 << 10;
/// Devices that are made of others, or are no disks.
const NOT_DISKS: [&str; 9] = ["dm-", "loop", "ram", "zram", "md", "nbd", "sr", "fd", "drbd"];

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What a rule sees of it.
    pub candidate: Candidate,
    /// Bytes of a logical sector.
    pub sector: u64,
}

impl Disk {
    /// For people: `nvme0n1 (238 GiB, MODEL)`.
    pub fn title(&self) -> String {
        let Candidate { name, size, model, .. } = &self.candidate;
        let model = if model.is_empty() { String::new() } else { format!(", {model}") };
        format!("{name} ({}{model})", Bytes(*size))
    }
}

/// What a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing: zeros, or a table without partitions.
    Nothing,
    /// What is to be installed.
    This,
    /// Something else.
    Other,
}

/// All disks but the installer's own media, in the order of their names.
pub fn list(root: &Path) -> Vec<Disk> {
    let mut disks = vec![];
    for entry in std::fs::read_dir(root.join("sys/block")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // eMMC's boot partitions are devices of their own.
        let part = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
        if part || NOT_DISKS.iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        let place = entry.path();
        let says = |file: &str| text(&place.join(file));
        let number = |file: &str| says(file).parse::<u64>().unwrap_or(0);
        // sysfs counts in 512 bytes, whatever the sectors have.
        let size = number("size").saturating_mul(512);
        if size == 0 || number("ro") == 1 || number("hidden") == 1 || is_medium(root, &name) {
            continue;
        }
        let udev = text(&root.join("run/udev/data").join(format!("b{}", says("dev"))));
        let property = |key: &str| {
            let line = udev.lines().find_map(|l| l.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim().to_string()
        };
        let first = |mut values: Vec<String>| {
            let at = values.iter().position(|value| !value.is_empty());
            clean(&at.map(|at| values.swap_remove(at)).unwrap_or_default())
        };
        let mut paths = vec![format!("/dev/{name}")];
        paths.extend(udev.lines().filter_map(|l| l.strip_prefix("S:")).map(|link| format!("/dev/{link}")));
        disks.push(Disk {
            candidate: Candidate {
                serial: first(vec![says("serial"), says("device/serial"), property("ID_SERIAL_SHORT")]),
                model: first(vec![says("device/model"), says("device/name"), property("ID_MODEL")]),
                removable: carrier::is_removable(&place),
                name,
                size,
                paths,
            },
            sector: number("queue/logical_block_size"),
        });
    }
    disks.sort_by(|a, b| a.candidate.name.cmp(&b.candidate.name));
    disks
}

/// Opens a disk by its name.
///
/// # Errors
/// What the kernel says.
pub fn open(root: &Path, disk: &Disk, write: bool) -> io::Result<File> {
    carrier::open(&device(root, &disk.candidate.name), write)
}

/// Where a block device is.
pub fn device(root: &Path, name: &str) -> PathBuf {
    root.join("dev").join(name)
}

/// What `disk` holds, where `wanted` is the disk UUID of what is to be installed.
///
/// # Errors
/// What the disk says.
pub fn holds(root: &Path, disk: &Disk, wanted: Guid) -> io::Result<Holds> {
    let file = open(root, disk, false)?;
    let size = disk.candidate.size;
    let mut head = vec![0; END.min(size) as usize];
    file.read_exact_at(&mut head, 0)?;
    let mut tail = vec![0; END.min(size) as usize];
    file.read_exact_at(&mut tail, size - END.min(size))?;
    Ok(judge(&head, &tail, wanted))
}

fn judge(head: &[u8], tail: &[u8], wanted: Guid) -> Holds {
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if head.len() < TABLE || tail.len() < TABLE {
        return Holds::Other;
    }
    let has_table = head[512..520] == *b"EFI PART";
    if has_table && head[568..584] == wanted.to_gpt() {
        return Holds::This;
    }
    let empty_table = has_table && zero(&head[1024..TABLE]);
    // The signature of a disk and of a record, which fresh disks may have; the record of a table that has no partition.
    let mut record = head[..512].to_vec();
    record[440..446].fill(0);
    record[510..512].fill(0);
    if empty_table {
        record[446..510].fill(0);
    }
    let header = if empty_table { TABLE } else { 512 };
    let end = if empty_table { tail.len() - TABLE } else { tail.len() };
    if zero(&record) && zero(&head[header..]) && zero(&tail[..end]) { Holds::Nothing } else { Holds::Other }
}

fn is_medium(root: &Path, name: &str) -> bool {
    carrier::open(&device(root, name), false).is_ok_and(|file| iso::is_medium(&file))
}

/// A line of a file of the kernel's or udev's; empty where there is none.
fn text(path: &Path) -> String {
    let mut text = vec![];
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_TEXT).read_to_end(&mut text); // what is there counts
    }
    String::from_utf8_lossy(&text).trim().to_string()
}

/// What a disk says of itself may be anything, and is shown.
fn clean(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests {
    use super::*;
    use crate::host::fs;

    const WANTED: Guid = Guid::from_u128(7);

    fn disk(edit: impl Fn(&mut [u8], &mut [u8])) -> Holds {
        let (mut head, mut tail) = (vec![0; END as usize], vec![0; END as usize]);
        edit(&mut head, &mut tail);
        judge(&head, &tail, WANTED)
    }

    #[test]
    fn whatever_is_not_zero_is_somebodys() {
        assert_eq!(disk(|_, _| ()), Holds::Nothing);
        let table = |head: &mut [u8], guid: Guid| {
            head[446..510].fill(0xee);
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
            head[512..520].copy_from_slice(b"EFI PART");
            head[568..584].copy_from_slice(&guid.to_gpt());
        };
        assert_eq!(disk(|head, _| table(head, WANTED)), Holds::This);
        assert_eq!(disk(|head, _| table(head, Guid::from_u128(8))), Holds::Nothing, "no partition");
        let fresh = |head: &mut [u8], _: &mut [u8]| {
            head[440..444].fill(9);
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
        };
        assert_eq!(disk(fresh), Holds::Nothing);
        // A partition of either table; ext4's superblock; LUKS; btrfs; an array's superblock at the end.
        for at in [446 + 4, 1024 + 56, 0, 64 << 10] {
            assert_eq!(disk(|head, _| head[at] = 1), Holds::Other, "{at}");
        }
        assert_eq!(
            disk(|head, _| {
                table(head, Guid::from_u128(8));
                head[1024] = 1;
            }),
            Holds::Other
        );
        assert_eq!(disk(|_, tail| tail[END as usize - 65536] = 1), Holds::Other);
    }

    #[test]
    fn disks_are_listed_with_what_they_say_and_media_are_not() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| fs::write_atomic(&root.path().join(path), bytes, 0o644).unwrap();
        let mut medium = vec![0; 64 << 10];
        medium[16 * 2048] = 1;
        medium[16 * 2048 + 1..16 * 2048 + 7].copy_from_slice(b"CD001\x01");
        medium[16 * 2048 + 40..16 * 2048 + 72].copy_from_slice(b"FORGE_INSTALLER                 ");
        for (name, content, number) in
            [("vda", &vec![0; 64 << 10], "254:0"), ("sda", &medium, "8:0"), ("loop0", &vec![], "7:0")]
        {
            put(&format!("dev/{name}"), content);
            put(&format!("sys/block/{name}/size"), b"2048\n");
            put(&format!("sys/block/{name}/dev"), number.as_bytes());
            put(&format!("sys/block/{name}/queue/logical_block_size"), b"512\n");
        }
        put("sys/block/vda/serial", b"\x1b[2JS1\n");
        put("run/udev/data/b254:0", b"S:disk/by-path/pci-0000:00:04.0\nE:ID_SERIAL_SHORT=other\n");
        let found = list(root.path());
        assert_eq!(found.len(), 1, "{found:?}");
        let disk = &found[0].candidate;
        assert_eq!((disk.name.as_str(), disk.size, disk.serial.as_str()), ("vda", 1 << 20, "[2JS1"));
        assert_eq!(disk.paths, ["/dev/vda", "/dev/disk/by-path/pci-0000:00:04.0"]);
    }
}
