//! Where bundles come from: the image's own FORGE-ENROLL partition, a stick, the firmware's credentials.
//!
//! Carriers are hostile. To read them nothing is mounted: [`crate::disk::fat::foreign`] reads their volumes, and only the
//! files that the caller names are asked for, each up to its size. Whether what they say is believed is decided elsewhere,
//! by signature; so any stick with the folder will do, whatever its label is.

use crate::device::effects::{Carrier, CarrierKind};
use crate::disk::fat::foreign::{self, Foreign, Unreadable};
use crate::enroll::bundle;
use crate::host::fs;
use crate::model::Digest;
use anyhow::Context as _;
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The most volumes that are looked at: a hub with twenty readers has that many.
const MAX_VOLUMES: usize = 64;
/// The most bytes of a uevent file.
const MAX_UEVENT: u64 = 4096;
/// Where systemd leaves what came over SMBIOS type 11 strings or fw_cfg (systemd.system-credentials(7)).
const CREDENTIALS: &str = "run/credentials/@system";
/// Names of a bundle's files among the credentials, which have no directories.
const CREDENTIAL_NAMES: [(&str, &str); 3] = [
    ("forge.bootstrap", bundle::BOOTSTRAP),
    ("forge.ticket", bundle::TICKET),
    ("forge.revocation", bundle::REVOCATION),
];

/// The most bytes of a ticket that are looked at.
const MAX_TICKET: usize = 4096;
/// A stick that takes requests along says so by one of these labels: of its partition, or of its volume, which has eleven
/// letters at most.
const WRITABLE: [&str; 2] = ["FORGE-ENROLL-RW", "FORGE-RW"];
/// Where such a stick is mounted while a request is written, below /run.
const MOUNT: &str = "run/forge/stick";

/// All carriers of the machine whose root is `root` (`/`), the preferred first, with those of `names` that each has. What
/// cannot be read has none.
pub fn bundles(root: &Path, names: &[(String, usize)]) -> Vec<Carrier> {
    let mut carriers = vec![];
    for volume in volumes(root) {
        // A stick with another file system is nobody's mistake; one that is torn is looked at again later.
        let files = read_volume(&volume.device, names).unwrap_or_default();
        if volume.kind == CarrierKind::Partition || !files.is_empty() {
            carriers.push(Carrier { kind: volume.kind, place: volume.device.display().to_string(), files });
        }
    }
    let files = credentials(&root.join(CREDENTIALS), names);
    if !files.is_empty() {
        carriers.push(Carrier { kind: CarrierKind::Firmware, place: "firmware".into(), files });
    }
    carriers
}

/// Erases the ticket on the box's own partition, and on sticks where its bytes have the digest `sha256`. Flash may keep
/// copies, which is why safety rests on the fleet's binding of the ticket and not on this.
///
/// # Errors
/// When the box's own partition does not take the write.
pub fn scrub(root: &Path, sha256: Digest) -> anyhow::Result<()> {
    let path = format!("{}/{}", bundle::DIRECTORY, bundle::TICKET);
    for volume in volumes(root) {
        let own = volume.kind == CarrierKind::Partition;
        let erase = || -> Result<(), Unreadable> {
            let file = open(&volume.device, own)?;
            let there = Foreign::open(&file)?.read(&path, MAX_TICKET);
            let same = there.as_ref().is_ok_and(|t| t.as_ref().is_some_and(|t| Digest::of(&**t) == sha256));
            if own || same {
                foreign::erase(&open(&volume.device, true)?, &path, MAX_TICKET)?;
            }
            Ok(())
        };
        match erase() {
            // Emptied by somebody, or never formatted: there is no ticket either.
            Ok(()) | Err(Unreadable::NotFat(_)) => {}
            Err(fault) if own => {
                return Err(fault)
                    .with_context(|| format!("erasing the ticket on {}", volume.device.display()));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Writes `name` with `bytes` to every stick that takes requests along; on how many it lies now. Only here does the kernel
/// mount a stick: one that somebody labelled for it, whose volume this program could read, and for a moment.
pub fn leave(root: &Path, name: &str, bytes: &[u8]) -> usize {
    let sticks = volumes(root).into_iter().filter(|v| v.kind == CarrierKind::Stick);
    sticks.filter(|stick| leave_on(root, stick, name, bytes).unwrap_or(false)).count()
}

fn leave_on(root: &Path, stick: &Volume, name: &str, bytes: &[u8]) -> anyhow::Result<bool> {
    let file = open(&stick.device, false)?;
    let volume = Foreign::open(&file)?;
    let label = volume.label()?.unwrap_or_default();
    if !WRITABLE.contains(&&*label) && !WRITABLE.contains(&&*stick.partition) {
        return Ok(false);
    }
    if volume.read(name, bytes.len())?.is_some_and(|there| **there == *bytes) {
        return Ok(true);
    }
    drop(file);
    let place = root.join(MOUNT);
    fs::make_private_dir(&place)?;
    let flags = MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC
        | MountFlags::NOSYMFOLLOW
        | MountFlags::SYNCHRONOUS;
    rustix::mount::mount(&stick.device, &place, "vfat", flags, c"umask=0077,utf8")?;
    let written = fs::write_atomic(&place.join(name), bytes, 0o600);
    rustix::mount::unmount(&place, UnmountFlags::NOFOLLOW)?;
    written?;
    Ok(true)
}

fn read_volume(
    device: &Path,
    names: &[(String, usize)],
) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, Unreadable> {
    let file = open(device, false)?;
    let volume = Foreign::open(&file)?;
    let mut files = BTreeMap::new();
    for (name, most) in names {
        match volume.read(&format!("{}/{name}", bundle::DIRECTORY), *most) {
            Ok(Some(content)) => drop(files.insert(name.clone(), content)),
            Ok(None) | Err(Unreadable::TooLarge { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(files)
}

fn credentials(dir: &Path, names: &[(String, usize)]) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, most) in names {
        let Some((credential, _)) = CREDENTIAL_NAMES.iter().find(|(_, of)| of == name) else { continue };
        let mut content = Zeroizing::new(vec![]);
        let Ok(file) = fs::open_regular(&dir.join(credential)) else { continue };
        if file.take(*most as u64 + 1).read_to_end(&mut content).is_ok() && content.len() <= *most {
            files.insert(name.clone(), content);
        }
    }
    files
}

/// A block device that may carry a bundle.
struct Volume {
    kind: CarrierKind,
    device: PathBuf,
    /// The label of the partition in its table.
    partition: String,
}

/// Volumes that may carry a bundle, the preferred first: by what the kernel says of every block device.
fn volumes(root: &Path) -> Vec<Volume> {
    let mut volumes = vec![];
    for entry in std::fs::read_dir(root.join("sys/class/block")).into_iter().flatten().flatten() {
        let place = entry.path();
        let event = uevent(&place);
        let value = |key: &str| {
            let line = event.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_string()
        };
        let device = value("DEVNAME");
        // Made of other devices: they would be found there.
        let made = ["dm-", "loop", "ram", "zram", "md", "nbd"].iter().any(|kind| device.starts_with(kind));
        if device.is_empty() || device.contains("..") || made {
            continue;
        }
        let partition = value("PARTNAME");
        let kind = match is_removable(&place) {
            true => CarrierKind::Stick,
            false if partition == bundle::LABEL => CarrierKind::Partition,
            // A hypervisor's disk does not come out, and says by its label what it is.
            false if partition.is_empty() && is_labelled(&root.join("dev").join(&device)) => {
                CarrierKind::Stick
            }
            false => continue,
        };
        volumes.push(Volume { kind, device: root.join("dev").join(&device), partition });
    }
    volumes.sort_by(|a, b| (a.kind, &a.device).cmp(&(b.kind, &b.device)));
    volumes.truncate(MAX_VOLUMES);
    volumes
}

/// Whether a volume has the label of a bundle's image, or of a NoCloud seed.
fn is_labelled(device: &Path) -> bool {
    let label = || Foreign::open(&open(device, false)?)?.label();
    label().is_ok_and(|l: Option<String>| l.is_some_and(|l| matches!(&*l, "FORGEENROLL" | "CIDATA")))
}

fn uevent(place: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(place.join("uevent")) {
        let _ = file.take(MAX_UEVENT).read_to_string(&mut text); // what is there counts
    }
    text
}

/// Whether a block device, or the disk that it is a partition of, comes out of the box.
pub fn is_removable(place: &Path) -> bool {
    let Ok(place) = place.canonicalize() else { return false };
    let says = |dir: &Path| std::fs::read_to_string(dir.join("removable")).is_ok_and(|s| s.trim() == "1");
    let on_usb = place.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    on_usb || says(&place) || place.parent().is_some_and(says)
}

/// Opens a block device.
///
/// # Errors
/// What the kernel says.
pub fn open(device: &Path, write: bool) -> io::Result<File> {
    // Never waits for a medium, and never follows a link that somebody put in the device's place.
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits() as i32;
    OpenOptions::new().read(true).write(write).custom_flags(flags).open(device)
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests {
    use super::*;
    use crate::disk::fat::{FatSpec, write};
    use crate::model::Epoch;
    use crate::tree::{Node, Tree, TreePath};

    fn names() -> Vec<(String, usize)> {
        bundle::FILES.iter().map(|(name, most)| (name.to_string(), *most)).collect()
    }

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            Machine(tempfile::tempdir().unwrap())
        }
        fn root(&self) -> &Path {
            self.0.path()
        }
        /// A block device: `place` below /sys/devices, and what is in it.
        fn device(&self, name: &str, place: &str, partition: Option<&str>, content: &[u8]) {
            let sys = self.root().join("sys/devices").join(place);
            let label = partition.map(|l| format!("PARTNAME={l}\n")).unwrap_or_default();
            fs::write_atomic(&sys.join("uevent"), format!("DEVNAME={name}\n{label}").as_bytes(), 0o444)
                .unwrap();
            let class = self.root().join("sys/class/block");
            std::fs::create_dir_all(&class).unwrap();
            std::os::unix::fs::symlink(&sys, class.join(name)).unwrap();
            fs::write_atomic(&self.root().join("dev").join(name), content, 0o600).unwrap();
        }
    }

    fn fat(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tree = Tree::new();
        for (path, text) in files {
            tree.insert(TreePath::parse(path).unwrap(), Node::text(*text, 0o644)).unwrap();
        }
        let spec = FatSpec {
            size: 8 << 20,
            fat32: false,
            label: "FORGEENROLL".into(),
            volume_id: 1,
            hidden: 0,
            epoch: Epoch(1_795_305_600),
        };
        let out = tempfile::tempfile().unwrap();
        out.set_len(spec.size).unwrap();
        write(&tree, &spec, &out, 0).unwrap();
        let mut bytes = vec![0; spec.size as usize];
        foreign::ReadAt::fill(&out, &mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn the_boxs_own_partition_comes_first_then_sticks_then_the_firmware() {
        let machine = Machine::new();
        let own = fat(&[("forge-enroll/bootstrap.dsse.json", "own"), ("forge-enroll/ticket.key", "secret")]);
        let stick = fat(&[("forge-enroll/bootstrap.dsse.json", "stick"), ("forge-enroll/evil.sh", "x")]);
        machine.device("vda5", "pci0/virtio0/block/vda/vda5", Some("FORGE-ENROLL"), &own);
        machine.device("vda1", "pci0/virtio0/block/vda/vda1", Some("esp"), &own);
        machine.device("sda1", "pci0/usb1/1-1/block/sda/sda1", None, &stick);
        machine.device("sdb", "pci0/usb1/1-2/block/sdb", None, &[0; 4096]);
        machine.device("sdc1", "pci0/usb1/1-3/block/sdc/sdc1", None, &fat(&[("photos/1.jpg", "x")]));
        let credentials = machine.root().join(CREDENTIALS);
        fs::write_atomic(&credentials.join("forge.bootstrap"), b"firmware", 0o400).unwrap();
        fs::write_atomic(&credentials.join("forge.ticket"), &[b'x'; 257], 0o400).unwrap();
        let found = bundles(machine.root(), &names());
        let first: Vec<_> = found.iter().map(|f| &**f.files[bundle::BOOTSTRAP]).collect();
        assert_eq!(first, [&b"own"[..], b"stick", b"firmware"]);
        assert_eq!(found[1].files.len(), 1, "only what is named is read");
        assert_eq!(found[2].files.len(), 1, "what is too long is not read");
        scrub(machine.root(), Digest::of("another")).unwrap();
        let after = bundles(machine.root(), &names());
        assert!(!after[0].files.contains_key(bundle::TICKET));
        scrub(machine.root(), Digest::of("another")).unwrap();
    }

    #[test]
    fn a_ticket_on_a_stick_is_erased_where_it_is_the_one() {
        let machine = Machine::new();
        let stick = fat(&[("forge-enroll/ticket.key", "mine")]);
        machine.device("sda1", "pci0/usb1/1-1/block/sda/sda1", None, &stick);
        scrub(machine.root(), Digest::of("another")).unwrap();
        assert_eq!(bundles(machine.root(), &names()).len(), 1);
        scrub(machine.root(), Digest::of("mine")).unwrap();
        assert!(bundles(machine.root(), &names()).is_empty());
        assert_eq!(leave(machine.root(), "requests/x.req", b"x"), 0, "nobody labelled it for that");
    }

    #[test]
    fn a_carrier_that_is_too_large_or_torn_has_nothing() {
        let machine = Machine::new();
        let large = "x".repeat(300);
        let bytes = fat(&[("forge-enroll/ticket.key", &large)]);
        machine.device("vda5", "pci0/virtio0/block/vda/vda5", Some("FORGE-ENROLL"), &bytes);
        machine.device("sda1", "pci0/usb1/1-1/block/sda/sda1", None, &bytes[..100 << 10]);
        let found = bundles(machine.root(), &names());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].files.is_empty());
    }
}
