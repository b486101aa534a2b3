//! What the kernel says in sysfs → the disks of this machine, with all that tells one from another and what speaks against
//! writing to it.
//!
//! Reads text below a root directory and opens no disk; so it needs no privilege, and a test plants its own machine.

use super::Unfit;
use crate::model::Bytes;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Kernel devices that are no disks of their own: made of others, or of memory.
const NOT_DISKS: [&str; 8] = ["dm-", "md", "ram", "zram", "nbd", "sr", "fd", "drbd"];
/// The largest text that is kept of what a disk says of itself.
const MAX_WORD: usize = 60;

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A stick, or a card in a reader of that kind.
    Usb,
    /// A memory card or soldered flash.
    Mmc,
    /// NVM Express.
    Nvme,
    /// Serial or parallel ATA.
    Ata,
    /// A disk of a hypervisor.
    Virtio,
    /// A file that the kernel shows as a disk.
    Loop,
    /// Anything else.
    Other,
}

impl Transport {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Transport::Usb => "usb",
            Transport::Mmc => "mmc",
            Transport::Nvme => "nvme",
            Transport::Ata => "ata",
            Transport::Virtio => "virtio",
            Transport::Loop => "loop",
            Transport::Other => "other",
        }
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// The device node.
    pub path: PathBuf,
    /// Its length.
    pub size: Bytes,
    /// Maker and model, as far as it says them.
    pub model: String,
    /// Its serial number, as far as it says it.
    pub serial: String,
    /// How it is attached.
    pub transport: Transport,
    /// Whether it is one to take out: on USB, a memory card, or said by the disk.
    pub removable: bool,
    /// Whether it refuses to be written.
    pub read_only: bool,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// Its partitions: the kernel's name, and the label where the table has one.
    pub partitions: Vec<String>,
    /// What uses it now, in words: `sdb1 is mounted at /media/x`.
    pub in_use: Vec<String>,
}

impl Disk {
    /// For people: `/dev/sdb, 29.1 GiB, usb, SanDisk Ultra, serial 4C53`.
    pub fn title(&self) -> String {
        let mut title = format!("{}, {}, {}", self.path.display(), self.size, self.transport.word());
        if !self.model.is_empty() {
            title += &format!(", {}", self.model);
        }
        if !self.serial.is_empty() {
            title += &format!(", serial {}", self.serial);
        }
        title
    }

    /// What it holds, in words.
    pub fn holds(&self) -> String {
        match &self.partitions[..] {
            [] => "no partitions".into(),
            some => some.join(" "),
        }
    }

    /// Says that an image of `length` bytes may be written to it; with `all` also where it is built in.
    ///
    /// # Errors
    /// [`Unfit`]: the first reason against it, the most dangerous first.
    pub fn fit(&self, length: u64, all: bool) -> Result<(), Unfit> {
        let disk = || self.title();
        if !self.in_use.is_empty() {
            return Err(Unfit::InUse { disk: disk(), by: self.in_use.join(", ") });
        }
        if !self.removable && !all {
            return Err(Unfit::BuiltIn { disk: disk() });
        }
        if self.read_only {
            return Err(Unfit::ReadOnly { disk: disk() });
        }
        if self.sector != crate::disk::gpt::SECTOR {
            return Err(Unfit::Sector { disk: disk(), sector: self.sector });
        }
        if self.size.0 < length {
            return Err(Unfit::Small { target: disk(), has: self.size, needs: Bytes(length) });
        }
        Ok(())
    }
}

/// The disks of the machine below `root`, by name.
pub fn list(root: &Path) -> Vec<Disk> {
    let uses = Uses::read(root);
    let mut disks: Vec<Disk> = names(&root.join("sys/block"))
        .into_iter()
        .filter(|name| !NOT_DISKS.iter().any(|kind| name.starts_with(kind)))
        // eMMC's boot partitions are devices of their own, and its firmware's.
        .filter(|name| !(name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"))))
        .map(|name| read(root, &name, &uses))
        .filter(|disk| disk.size.0 > 0) // a reader without a card, a free loop device
        .collect();
    disks.sort_by(|a, b| a.path.cmp(&b.path));
    disks
}

/// The disk with the kernel's device number `MAJOR:MINOR`.
///
/// # Errors
/// [`Unfit::NoDisk`] for a partition, and for what is made of other devices; `given` is what the person called it.
pub fn by_number(root: &Path, number: &str, given: &Path) -> Result<Disk, Unfit> {
    let no_disk = |why: String| Unfit::NoDisk { given: given.display().to_string(), why };
    let place = root.join("sys/dev/block").join(number);
    let place = place.canonicalize().map_err(|e| no_disk(format!("the kernel does not know it: {e}")))?;
    let name = |place: &Path| place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if place.join("partition").exists() {
        let whole = place.parent().map(name).unwrap_or_default();
        return Err(no_disk(format!("a partition; the disk is /dev/{whole}")));
    }
    let name = name(&place);
    if NOT_DISKS.iter().any(|kind| name.starts_with(kind)) {
        return Err(no_disk("made of other devices, or of memory".into()));
    }
    Ok(read(root, &name, &Uses::read(root)))
}

fn read(root: &Path, name: &str, uses: &Uses) -> Disk {
    let place = root.join("sys/block").join(name);
    let says = |file: &str| text(&place.join(file));
    let number = |file: &str| says(file).parse::<u64>().unwrap_or(0);
    let transport = transport(name, &place);
    // A card says "SD", soldered flash "MMC".
    let card = transport == Transport::Mmc && says("device/type") == "SD";
    let model = [says("device/vendor"), says("device/model"), says("device/name")];
    let model: Vec<String> =
        model.into_iter().filter(|word| !word.is_empty() && !word.starts_with("0x")).collect();
    let udev = text(&root.join("run/udev/data").join(format!("b{}", says("dev"))));
    let noted = |key: &str| udev.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().to_string();
    let serials = [says("serial"), says("device/serial"), noted("E:ID_SERIAL_SHORT=")];
    let (partitions, in_use) = uses.of(root, name, &place);
    Disk {
        path: Path::new("/dev").join(name),
        // sysfs counts in 512 bytes, whatever the sectors have.
        size: Bytes(number("size").saturating_mul(512)),
        model: clean(&model.join(" ")),
        serial: clean(&serials.into_iter().find(|serial| !serial.is_empty()).unwrap_or_default()),
        transport,
        removable: number("removable") == 1 || transport == Transport::Usb || card,
        read_only: number("ro") == 1,
        sector: number("queue/logical_block_size"),
        partitions,
        in_use,
    }
}

fn transport(name: &str, place: &Path) -> Transport {
    let place = place.canonicalize().unwrap_or_else(|_| place.into());
    let on = |bus: &str| place.iter().any(|part| part.to_string_lossy().starts_with(bus));
    match name {
        _ if on("usb") => Transport::Usb,
        _ if name.starts_with("loop") => Transport::Loop,
        _ if name.starts_with("mmcblk") => Transport::Mmc,
        _ if name.starts_with("nvme") => Transport::Nvme,
        _ if name.starts_with("vd") || on("virtio") => Transport::Virtio,
        _ if on("ata") => Transport::Ata,
        _ => Transport::Other,
    }
}

/// What of this machine's disks is in use, whole or in part.
struct Uses {
    /// Device number or node, and where it is mounted.
    mounts: Vec<(String, String)>,
    /// Device nodes.
    swaps: BTreeSet<String>,
}

impl Uses {
    fn read(root: &Path) -> Uses {
        // proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [TAG…] - TYPE SOURCE …
        let mut mounts = vec![];
        for line in text(&root.join("proc/self/mountinfo")).lines() {
            let mut words = line.split(' ');
            let (Some(number), Some(place)) = (words.nth(2), words.nth(1)) else { continue };
            mounts.push((number.to_string(), place.to_string()));
            // Btrfs has a number that is no device's; its source names one.
            if let Some(source) = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1)) {
                mounts.push((source.to_string(), place.to_string()));
            }
        }
        let swaps = text(&root.join("proc/swaps"));
        let swaps = swaps.lines().skip(1).filter_map(|l| l.split_ascii_whitespace().next().map(String::from));
        Uses { mounts, swaps: swaps.collect() }
    }

    /// The partitions of the disk `name` at `place` in sysfs, and what uses it or them.
    fn of(&self, root: &Path, name: &str, place: &Path) -> (Vec<String>, Vec<String>) {
        let mut partitions = vec![];
        let mut in_use = self.by(root, name, place, 0);
        for part in names(place) {
            let place = place.join(&part);
            if !place.join("partition").exists() {
                continue;
            }
            let event = text(&place.join("uevent"));
            let label = event.lines().find_map(|l| l.strip_prefix("PARTNAME=")).map(clean);
            in_use.extend(self.by(root, &part, &place, 0));
            partitions.push(label.unwrap_or(part));
        }
        (partitions, in_use)
    }

    /// What uses one device, through at most a few layers of others.
    fn by(&self, root: &Path, name: &str, place: &Path, depth: usize) -> Vec<String> {
        let (number, node) = (text(&place.join("dev")), format!("/dev/{name}"));
        let here = self.mounts.iter().find(|(device, _)| *device == number || *device == node);
        let mut by: Vec<String> = here.iter().map(|(_, at)| format!("{name} is mounted at {at}")).collect();
        if self.swaps.contains(&node) {
            by.push(format!("{name} is swap space"));
        }
        for holder in names(&place.join("holders")) {
            let held = format!("{name} is part of {holder}");
            let place = root.join("sys/block").join(&holder);
            // Crypt on a volume on an array on a disk is four; a circle would be a broken kernel.
            let above = if depth < 8 { self.by(root, &holder, &place, depth + 1) } else { vec![] };
            by.push(held);
            by.extend(above);
        }
        by
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A file of the kernel's; empty where there is none.
fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).trim().to_string()
}

/// What a disk says of itself may be anything, and is shown.
fn clean(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with the system's disk under LVM, a stick, a mounted stick, a card, and an empty reader.
    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (name, bus, number, sectors) in [
            ("sda", "pci0/ata1/host0", "8:0", 1 << 30),
            ("sdb", "pci0/usb1/1-1/host1", "8:16", 60_555_264),
            ("sdc", "pci0/usb1/1-2/host2", "8:32", 1 << 21),
            ("sdd", "pci0/usb1/1-3/host3", "8:48", 0),
            ("mmcblk0", "mmc0/mmc0:1", "179:0", 1 << 22),
            ("nvme0n1", "pci0/nvme/nvme0", "259:0", 1 << 30),
            ("dm-0", "virtual", "253:0", 1 << 29),
        ] {
            let at = format!("sys/devices/{bus}/block/{name}");
            put(&format!("{at}/dev"), &format!("{number}\n"));
            put(&format!("{at}/size"), &format!("{sectors}\n"));
            put(&format!("{at}/ro"), "0\n");
            put(
                &format!("{at}/queue/logical_block_size"),
                if name == "nvme0n1" { "4096\n" } else { "512\n" },
            );
            let link = |from: String| {
                std::fs::create_dir_all(from.rsplit_once('/').unwrap().0).unwrap();
                std::os::unix::fs::symlink(dir.path().join(&at), from).unwrap();
            };
            link(format!("{}/sys/block/{name}", dir.path().display()));
            link(format!("{}/sys/dev/block/{number}", dir.path().display()));
        }
        put("sys/block/sdb/device/vendor", "SanDisk ");
        put("sys/block/sdb/device/model", "Ultra\u{1b}[2J ");
        put("run/udev/data/b8:16", "N:sdb\nE:ID_SERIAL_SHORT=4C53\n");
        put("sys/block/mmcblk0/device/type", "SD\n");
        put("sys/block/mmcblk0/device/serial", "0x1234\n");
        put("sys/block/sda/sda1/partition", "1\n");
        put("sys/block/sda/sda1/dev", "8:1\n");
        put("sys/block/sda/sda1/holders/dm-0/x", "");
        put("sys/block/sdc/sdc1/partition", "1\n");
        put("sys/block/sdc/sdc1/dev", "8:33\n");
        put("sys/block/sdc/sdc1/uevent", "MAJOR=8\nPARTNAME=photos\n");
        put(
            "proc/self/mountinfo",
            "22 1 253:0 / / rw - ext4 /dev/mapper/root rw\n30 22 0:40 /@ /media/x rw shared:1 - btrfs /dev/sdc1 rw\n",
        );
        put("proc/swaps", "Filename Type Size Used Priority\n");
        dir
    }

    #[test]
    fn disks_are_told_apart_and_what_speaks_against_one_is_named() {
        let machine = machine();
        let disks = list(machine.path());
        let names: Vec<_> = disks.iter().map(|d| d.path.to_str().unwrap()).collect();
        assert_eq!(names, ["/dev/mmcblk0", "/dev/nvme0n1", "/dev/sda", "/dev/sdb", "/dev/sdc"]);
        let removable: Vec<_> = disks.iter().map(|d| d.removable).collect();
        assert_eq!(removable, [true, false, false, true, true]);
        assert_eq!(disks[3].title(), "/dev/sdb, 28.9 GiB, usb, SanDisk Ultra[2J, serial 4C53");
        assert_eq!(disks[0].serial, "0x1234");
        assert_eq!(disks[4].holds(), "photos");
        assert!(disks[3].fit(60_555_264 * 512, false).is_ok());
        for (disk, length, all, says) in [
            (0, (1 << 31) + 512, false, "2.00 GiB"),
            (1, 512, false, "is built in"),
            (1, 512, true, "sectors of 4096 bytes"),
            (2, 512, true, "sda1 is part of dm-0, dm-0 is mounted at /"),
            (4, 512, true, "sdc1 is mounted at /media/x"),
        ] {
            let unfit = disks[disk].fit(length, all).unwrap_err().to_string();
            assert!(unfit.contains(says), "{unfit}");
        }
    }

    #[test]
    fn a_partition_is_refused_with_the_name_of_its_disk() {
        let machine = machine();
        let part = machine.path().join("sys/dev/block/8:33");
        std::os::unix::fs::symlink(machine.path().join("sys/block/sdc/sdc1"), part).unwrap();
        let given = Path::new("/dev/disk/by-label/photos");
        let unfit = by_number(machine.path(), "8:33", given).unwrap_err().to_string();
        assert!(unfit.contains("by-label/photos") && unfit.contains("the disk is /dev/sdc"), "{unfit}");
        assert!(by_number(machine.path(), "253:0", given).is_err());
        assert_eq!(by_number(machine.path(), "8:16", given).unwrap().serial, "4C53");
    }
}
