//! Block devices → the disks that can be installed on, and what one of them holds.
//!
//! By what the kernel says in sysfs, with udev's names and serial numbers. What is on a disk is read as bytes: no file system
//! is recognised, for whatever is there and not zero is somebody's.

use crate::device::host::carrier;
use crate::disk::crc32::crc32;
use crate::disk::iso::read as iso;
use crate::disk::onto;
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
/// Where the header of a table has the disk's UUID.
const DISK_GUID: std::ops::Range<usize> = 568..584;
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
    /// For people: `nvme0n1 (238 GiB, MODEL, serial NUMBER)`.
    pub fn title(&self) -> String {
        let Candidate { name, size, model, serial, .. } = &self.candidate;
        let mut title = format!("{name} ({}", Bytes(*size));
        for (word, value) in [("", model), ("serial ", serial)] {
            if !value.is_empty() {
                title.push_str(&format!(", {word}{value}"));
            }
        }
        title + ")"
    }
}

/// What a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing that anybody would miss: zeros, a table without partitions, an installation that was cut short.
    Nothing,
    /// What is to be installed.
    This,
    /// Something else, in words.
    Other(&'static str),
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
        return Holds::Other("less than a disk");
    }
    // The table is written last: where it is whole, so is the rest.
    if is_whole(head) && head[DISK_GUID] == wanted.to_gpt() {
        return Holds::This;
    }
    if onto::is_half_written(head) {
        return Holds::Nothing;
    }
    let has_table = head[512..520] == *b"EFI PART";
    let empty_table = has_table && zero(&head[1024..TABLE]);
    // The signature of a disk and of a record, which fresh disks may have; the record of a table that has no partition.
    let mut record = head[..512].to_vec();
    record[440..446].fill(0);
    record[510..512].fill(0);
    if empty_table {
        record[446..510].fill(0);
    }
    // Of an empty table the header is passed over, and of its copy at the disk's end.
    let header = if empty_table { TABLE } else { 512 };
    let end = if empty_table { tail.len() - 512 } else { tail.len() };
    if zero(&record) && zero(&head[header..]) && zero(&tail[..end]) {
        Holds::Nothing
    } else {
        Holds::Other(what(head, has_table && !empty_table))
    }
}

/// Whether both checksums of a partition table of 128 entries hold (UEFI 2.10 §5.3.2).
fn is_whole(head: &[u8]) -> bool {
    let mut covered = head[512..604].to_vec();
    covered[16..20].fill(0);
    head[512..520] == *b"EFI PART"
        && crc32(&covered).to_le_bytes() == head[528..532]
        && crc32(&head[1024..TABLE]).to_le_bytes() == head[600..604]
}

/// What a disk that begins with `head` holds, for the person who has to decide about it.
fn what(head: &[u8], has_table: bool) -> &'static str {
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    // Of file systems, volume managers and encryption: where each has its magic.
    let known: [(usize, &[u8], &str); 6] = [
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (0, b"XFSB", "a file system (XFS)"),
        (1080, b"\x53\xef", "a file system (ext)"),
        (0x1_0040, b"_BHRfS_M", "a file system (btrfs)"),
        (512, b"LABELONE", "a volume group (LVM)"),
        (3, b"NTFS    ", "a file system (NTFS)"),
    ];
    if has_table {
        return "partitions (GPT)";
    }
    if let Some((_, _, what)) = known.into_iter().find(|(at, magic, _)| has(*at, magic)) {
        return what;
    }
    let record = has(510, &[0x55, 0xaa]) && head[446..510].iter().any(|byte| *byte != 0);
    if record { "partitions (MBR)" } else { "data" }
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

    fn table(head: &mut [u8], guid: Guid, entries: &[u8]) {
        head[446..510].fill(0xee);
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head[512..520].copy_from_slice(b"EFI PART");
        head[DISK_GUID].copy_from_slice(&guid.to_gpt());
        head[1024..1024 + entries.len()].copy_from_slice(entries);
        let sum = crc32(&head[1024..TABLE]).to_le_bytes();
        head[600..604].copy_from_slice(&sum);
        let sum = crc32(&head[512..604]).to_le_bytes();
        head[528..532].copy_from_slice(&sum);
    }

    #[test]
    fn whatever_is_not_zero_is_somebodys() {
        assert_eq!(disk(|_, _| ()), Holds::Nothing);
        assert_eq!(disk(|head, _| table(head, WANTED, &[1])), Holds::This);
        assert_eq!(disk(|head, _| table(head, Guid::from_u128(8), &[])), Holds::Nothing, "no partition");
        let fresh = |head: &mut [u8], _: &mut [u8]| {
            head[440..444].fill(9);
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
        };
        assert_eq!(disk(fresh), Holds::Nothing);
        // A partition of either table; LUKS; ext4's superblock; btrfs; an array's superblock at the end.
        for (at, magic, what) in [
            (446, &[0x80][..], "data"),
            (1024 + 56, b"\x53\xef", "a file system (ext)"),
            (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
            (65_600, b"_BHRfS_M", "a file system (btrfs)"),
        ] {
            let found = disk(|head, _| head[at..at + magic.len()].copy_from_slice(magic));
            assert_eq!(found, Holds::Other(what), "{at}");
        }
        let found = disk(|head, _| table(head, Guid::from_u128(8), &[1]));
        assert_eq!(found, Holds::Other("partitions (GPT)"));
        assert_eq!(disk(|_, tail| tail[END as usize - 65536] = 1), Holds::Other("data"));
        // A damaged table of ours may have a joined box's state behind it; an empty one may have a whole copy at the end.
        let damaged = |head: &mut [u8], _: &mut [u8]| {
            table(head, WANTED, &[1]);
            head[1024] = 2;
        };
        assert_eq!(disk(damaged), Holds::Other("partitions (GPT)"));
        let copied = |head: &mut [u8], tail: &mut [u8]| {
            table(head, Guid::from_u128(8), &[]);
            tail[END as usize - 33 * 512] = 1;
        };
        assert!(matches!(disk(copied), Holds::Other(_)));
    }

    /// A disk may keep any of the sectors that were written since it was last told to keep all: every cut of the last
    /// steps, with sectors kept by chance, leaves a disk that is whole or is written anew.
    #[test]
    fn no_cut_leaves_a_disk_that_is_neither_installed_nor_to_be_installed() {
        let mut image = vec![0; 3 << 20];
        let entries: Vec<u8> = (0..32 * 512_usize).map(|at| (at % 251) as u8 + 1).collect();
        table(&mut image, WANTED, &entries);
        let disk = tempfile::tempfile().unwrap();
        let length = 4 << 20;
        disk.set_len(length).unwrap();
        let pending = onto::write(&image[..], image.len() as u64, &disk, length, &mut |_| ()).unwrap();
        let mut settled = vec![0; END as usize];
        disk.read_exact_at(&mut settled, 0).unwrap();
        let tail = vec![0; END as usize];
        assert_eq!(judge(&settled, &tail, WANTED), Holds::Nothing);
        let (mut chance, mut whole) = (1_u64, 0);
        for (at, bytes) in pending.steps() {
            for _ in 0..200 {
                let mut cut = settled.clone();
                for (n, sector) in bytes.chunks(512).enumerate() {
                    // Xorshift (Marsaglia 2003): the same cuts in every run.
                    chance ^= chance << 13;
                    chance ^= chance >> 7;
                    chance ^= chance << 17;
                    if chance % 2 == 0 {
                        let to = at as usize + n * 512;
                        cut[to..to + 512].copy_from_slice(sector);
                    }
                }
                match judge(&cut, &tail, WANTED) {
                    Holds::Nothing => {}
                    Holds::This => {
                        whole += 1;
                        assert_eq!(cut[..TABLE], image[..TABLE]);
                    }
                    Holds::Other(what) => panic!("after {at}: {what}"),
                }
            }
            let at = at as usize;
            settled[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        assert!(whole > 200, "{whole}");
        assert_eq!((judge(&settled, &tail, WANTED), settled == image[..END as usize]), (Holds::This, true));
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
