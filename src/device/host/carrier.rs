//! Where bundles come from: the image's own FORGE-ENROLL partition, a stick, the firmware's credentials.
//!
//! Carriers are hostile. Nothing is mounted: volumes are read by [`crate::disk::fat::foreign`], and only the files that a
//! bundle has are asked for, each up to its size. Whether what they say is believed is decided elsewhere, by signature.

use crate::disk::fat::foreign::{self, Foreign, Unreadable};
use crate::enroll::bundle::{self, FILES};
use crate::host::fs;
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

/// What carries a bundle, in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// The partition FORGE-ENROLL on a disk that stays in the box.
    Partition(PathBuf),
    /// A volume of a USB stick or a card.
    Stick(PathBuf),
    /// The firmware, or the hypervisor.
    Firmware,
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Carrier::Partition(device) => write!(f, "the partition {}", device.display()),
            Carrier::Stick(device) => write!(f, "the stick {}", device.display()),
            Carrier::Firmware => write!(f, "the firmware"),
        }
    }
}

/// A bundle's files as a carrier has them: unverified.
#[derive(Debug)]
pub struct Found {
    /// Where they were.
    pub carrier: Carrier,
    /// The content of [`FILES`], as far as they are there, by name.
    pub files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// What a look at every carrier gave.
#[derive(Debug, Default)]
pub struct Search {
    /// Bundles, the preferred first.
    pub found: Vec<Found>,
    /// Volumes that should have had one and could not be read, for the screen.
    pub faults: Vec<(Carrier, Unreadable)>,
}

/// Looks at every carrier of the machine whose root is `root` (`/`).
pub fn search(root: &Path) -> Search {
    let mut search = Search::default();
    for carrier in volumes(root) {
        let (Carrier::Partition(device) | Carrier::Stick(device)) = &carrier else { continue };
        match read_volume(device, bundle::DIRECTORY) {
            Ok(files) if files.is_empty() => {}
            Ok(files) => search.found.push(Found { carrier, files }),
            // A stick with another file system is nobody's mistake, a partition of the image's own is.
            Err(Unreadable::NotFat(_)) if matches!(carrier, Carrier::Stick(_)) => {}
            Err(fault) => search.faults.push((carrier, fault)),
        }
    }
    let files = credentials(&root.join(CREDENTIALS));
    if !files.is_empty() {
        search.found.push(Found { carrier: Carrier::Firmware, files });
    }
    search
}

/// One more file of the bundle that `carrier` has: an offline grant.
///
/// # Errors
/// [`Unreadable`].
pub fn read(carrier: &Carrier, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, Unreadable> {
    let (Carrier::Partition(device) | Carrier::Stick(device)) = carrier else { return Ok(None) };
    let file = open(device, false)?;
    Foreign::open(&file)?.read(&format!("{}/{name}", bundle::DIRECTORY), limit)
}

/// Erases the ticket on the carrier; whether there was one. Flash may keep copies, which is why safety rests on the
/// fleet's binding of the ticket and not on this.
///
/// # Errors
/// [`Unreadable`]; a credential of the firmware is not this program's to erase, and is left.
pub fn erase_ticket(carrier: &Carrier) -> Result<bool, Unreadable> {
    let (Carrier::Partition(device) | Carrier::Stick(device)) = carrier else { return Ok(false) };
    let path = format!("{}/{}", bundle::DIRECTORY, bundle::TICKET);
    foreign::erase(&open(device, true)?, &path, bundle_limit(bundle::TICKET))
}

fn bundle_limit(name: &str) -> usize {
    FILES.iter().find(|(file, _)| *file == name).map_or(0, |(_, limit)| *limit)
}

fn read_volume(device: &Path, dir: &str) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, Unreadable> {
    let file = open(device, false)?;
    let volume = Foreign::open(&file)?;
    let mut files = BTreeMap::new();
    for (name, limit) in FILES {
        if let Some(content) = volume.read(&format!("{dir}/{name}"), *limit)? {
            files.insert(name.to_string(), content);
        }
    }
    Ok(files)
}

fn credentials(dir: &Path) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (credential, name) in CREDENTIAL_NAMES {
        let limit = bundle_limit(name) as u64;
        let mut content = Zeroizing::new(vec![]);
        let Ok(file) = fs::open_regular(&dir.join(credential)) else { continue };
        if file.take(limit + 1).read_to_end(&mut content).is_ok() && content.len() as u64 <= limit {
            files.insert(name.to_string(), content);
        }
    }
    files
}

/// Volumes that may carry a bundle, the preferred first: by what the kernel says of every block device.
fn volumes(root: &Path) -> Vec<Carrier> {
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
        let node = root.join("dev").join(&device);
        if is_removable(&place) {
            volumes.push(Carrier::Stick(node));
        } else if value("PARTNAME") == bundle::LABEL {
            volumes.push(Carrier::Partition(node));
        }
    }
    volumes.sort();
    volumes.truncate(MAX_VOLUMES);
    volumes
}

fn uevent(place: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(place.join("uevent")) {
        let _ = file.take(MAX_UEVENT).read_to_string(&mut text); // what is there counts
    }
    text
}

/// Whether a block device, or the disk that it is a partition of, comes out of the box.
fn is_removable(place: &Path) -> bool {
    let Ok(place) = place.canonicalize() else { return false };
    let says = |dir: &Path| std::fs::read_to_string(dir.join("removable")).is_ok_and(|s| s.trim() == "1");
    let on_usb = place.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    on_usb || says(&place) || place.parent().is_some_and(says)
}

fn open(device: &Path, write: bool) -> io::Result<File> {
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
        let search = search(machine.root());
        assert!(search.faults.is_empty(), "{:?}", search.faults);
        let first: Vec<_> = search.found.iter().map(|f| &**f.files[bundle::BOOTSTRAP]).collect();
        assert_eq!(first, [&b"own"[..], b"stick", b"firmware"]);
        assert_eq!(search.found[1].files.len(), 1, "only what a bundle has is read");
        assert_eq!(search.found[2].files.len(), 1, "what is too long is not read");
        let own = &search.found[0].carrier;
        assert!(erase_ticket(own).unwrap());
        assert!(!erase_ticket(own).unwrap());
        let after = super::search(machine.root());
        assert!(!after.found[0].files.contains_key(bundle::TICKET));
        assert!(!erase_ticket(&Carrier::Firmware).unwrap());
    }

    #[test]
    fn a_carrier_that_is_too_large_or_torn_is_a_fault_and_no_more() {
        let machine = Machine::new();
        let large = "x".repeat(300);
        let bytes = fat(&[("forge-enroll/ticket.key", &large)]);
        machine.device("vda5", "pci0/virtio0/block/vda/vda5", Some("FORGE-ENROLL"), &bytes);
        machine.device("sda1", "pci0/usb1/1-1/block/sda/sda1", None, &bytes[..100 << 10]);
        let search = search(machine.root());
        assert!(search.found.is_empty());
        assert_eq!(search.faults.len(), 2, "{:?}", search.faults);
        assert!(search.faults[0].1.to_string().contains("300 bytes, more than 256"));
    }
}
