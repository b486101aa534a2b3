//! What the initrd must know of one build: which hashes to trust, what the disk lacks, what to mount.
//!
//! A small second archive of the UKI's initrd, under the same signature: veritytab(5) for the payload (the root's hash is
//! on the command line), repart.d(5), and fstab(5) of the initrd, whose mounts are in place before the root is switched:
//!
//! | where | what |
//! |---|---|
//! | `/` | slot's root, EROFS over dm-verity |
//! | `/usr/lib/forge/payload` | slot's payload, likewise |
//! | `/usr/share/factory/var` | the root's own `/var`: what tmpfiles copies from, and dpkg's database |
//! | `/var` | state, encrypted where the profile says so ([`super::sealed`]) |
//! | `/etc` | the root's, under changes kept in state (`/var/lib/forge/overlay/etc`) |

use super::sealed;
use super::verity::{RootHash, tree_length};
use crate::model::Guid;
use crate::tree::{Node, Tree, TreePath};
use std::fmt::Write as _;

/// Where the payload is mounted on the device, without the leading slash.
pub const PAYLOAD: &str = "usr/lib/forge/payload";
/// Where the image's own `/var` is seen on the device, without the leading slash: tmpfiles.d(5)'s default source.
pub const FACTORY_VAR: &str = "usr/share/factory/var";
/// Below this directory of state each writable directory keeps its changes.
pub const OVERLAY: &str = "/var/lib/forge/overlay";
/// The least room for state, in bytes: a journal, container images' writable layers, logs. With less a disk is too small.
const MIN_STATE: u64 = 256 << 20;

/// Partitions of a slot are this many bytes long or a multiple of it: two versions that differ by little agree on it.
const STEP: u64 = 64 << 20;
/// Partitions start at multiples of this many bytes.
const ALIGNMENT: u64 = 1 << 20;

/// A file system of a slot. Its partition is longer than the file system, because partitions never move: slot B is made
/// at first boot as long as slot A, and every later version has to fit. What is left free is zeros, holes in a raw image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Volume {
    /// The operating system: security updates make it a little larger over the years, a newer release by a fifth.
    Root,
    /// The workloads: there is always one more.
    Payload,
}

impl Volume {
    /// The length in bytes of the partition for a file system of `content` bytes: a quarter more for the system, half as
    /// much again for the workloads.
    pub fn data_partition(self, content: u64) -> u64 {
        let room = match self {
            Volume::Root => content / 4,
            Volume::Payload => content / 2,
        };
        (content + room).next_multiple_of(STEP)
    }

    /// The length in bytes of the partition for the hash tree of all of a data partition of `data` bytes.
    pub fn hash_partition(self, data: u64) -> u64 {
        tree_length(data).next_multiple_of(ALIGNMENT)
    }
}

/// A partition under dm-verity, with its tree's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPart {
    /// Root of the hash tree; the partitions' UUIDs are its halves.
    pub root_hash: RootHash,
    /// Size of the data partition in bytes: a multiple of 4096. Slot B gets the same.
    pub data: u64,
    /// Size of the hash partition in bytes, likewise.
    pub hashes: u64,
}

/// A slot as one build makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// The operating system.
    pub root: SlotPart,
    /// The workloads, where there are any.
    pub payload: Option<SlotPart>,
    /// Type GUIDs of payload and payload-verity partitions.
    pub payload_types: (Guid, Guid),
    /// UUID of the state partition: the site's, the same in every version, so that an update finds its state and a disk
    /// of another site is not taken for it.
    pub state: Guid,
    /// Whether state is encrypted, with a key that the machine's TPM keeps.
    pub sealed: bool,
}

/// The archive's tree.
pub fn compose(spec: &SlotSpec) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    let mut put = |path: &str, text: String| -> anyhow::Result<()> {
        tree.insert(TreePath::parse(path)?, Node::text(text, 0o644))?;
        Ok(())
    };
    put("etc/fstab", fstab(spec))?;
    if let Some(payload) = &spec.payload {
        let (data, hashes) = payload.root_hash.partition_uuids();
        let line = format!(
            "payload PARTUUID={data} PARTUUID={hashes} {} restart-on-corruption,x-initrd.attach\n",
            payload.root_hash
        );
        put("etc/veritytab", line)?;
    }
    let (payload_type, payload_verity_type) = spec.payload_types;
    let mut sets = vec![("root".to_string(), spec.root.data), ("root-verity".to_string(), spec.root.hashes)];
    if let Some(payload) = &spec.payload {
        sets.push((payload_type.to_string(), payload.data));
        sets.push((payload_verity_type.to_string(), payload.hashes));
    }
    // repart pairs definitions and partitions of one type in order: the first is slot A, which is there, the second B.
    // A disk with no room for B drops the whole set by its priority, and still starts.
    for (slot, first, priority) in [("a", 10, ""), ("b", 20, "Priority=10\n")] {
        for (i, (kind, size)) in sets.iter().enumerate() {
            let text = format!(
                "[Partition]\nType={kind}\nLabel=_empty\nSizeMinBytes={size}\nSizeMaxBytes={size}\n{priority}"
            );
            put(&format!("usr/lib/repart.d/{}-{slot}.conf", first + i), text)?;
        }
    }
    let state = format!(
        "[Partition]\nType=var\nLabel=state\nUUID={}\nFormat=ext4\nSizeMinBytes={MIN_STATE}\n{}",
        spec.state,
        if spec.sealed { sealed::REPART } else { "" }
    );
    put("usr/lib/repart.d/50-state.conf", state)?;
    if spec.sealed {
        for (path, text) in sealed::settings(spec.state) {
            put(path, text)?;
        }
    }
    Ok(tree)
}

/// Without delayed allocation a file's bytes are on the disk before anything that was synced after it. containerd syncs its
/// index and not what it unpacked (containerd#8895), so that after a power cut it took files of no length for whole images.
const STATE_OPTIONS: &str = "nodelalloc,x-systemd.after=systemd-repart.service";

fn fstab(spec: &SlotSpec) -> String {
    let mut lines = String::new();
    let mut mount = |what: &str, at: &str, kind: &str, options: &str, pass: u8| {
        let _ = writeln!(lines, "{what} /sysroot/{at} {kind} {options} 0 {pass}"); // writing to a String cannot fail
    };
    // The root a second time: once state lies over /var, the image's own /var is seen only here.
    mount("/dev/mapper/root", FACTORY_VAR, "erofs", "ro,X-mount.subdir=var", 0);
    if spec.payload.is_some() {
        mount("/dev/mapper/payload", PAYLOAD, "erofs", "ro,nodev,nosuid", 0);
    }
    if spec.sealed {
        let options = format!("{STATE_OPTIONS},{}", sealed::MOUNT_OPTION);
        mount(sealed::DEVICE, "var", "ext4", &options, 2);
    } else {
        mount(&format!("PARTUUID={}", spec.state), "var", "ext4", STATE_OPTIONS, 2);
    }
    let etc = format!(
        "lowerdir=/sysroot/etc,upperdir=/sysroot{OVERLAY}/etc/upper,workdir=/sysroot{OVERLAY}/etc/work,\
         x-systemd.requires-mounts-for=/sysroot/var"
    );
    mount("overlay", "etc", "overlay", &etc, 0);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SlotSpec {
        SlotSpec {
            root: SlotPart { root_hash: "ab".repeat(32).parse().unwrap(), data: 8 << 20, hashes: 1 << 20 },
            payload: None,
            payload_types: (Guid::from_u128(1), Guid::from_u128(2)),
            state: Guid::from_u128(3),
            sealed: false,
        }
    }

    fn file(tree: &Tree, path: &str) -> Option<String> {
        let content = tree.file(&TreePath::parse(path).unwrap())?;
        Some(String::from_utf8(content.to_vec(1 << 20).unwrap()).unwrap())
    }

    #[test]
    fn every_later_version_of_a_little_more_fits() {
        for (volume, content, data, hashes) in [
            (Volume::Root, 4096, 64 << 20, 1 << 20),
            (Volume::Root, 300 << 20, 384 << 20, 4 << 20),
            (Volume::Payload, 300 << 20, 512 << 20, 5 << 20),
            (Volume::Payload, 40 << 30, 60 << 30, 484 << 20),
        ] {
            assert_eq!(volume.data_partition(content), data, "{volume:?} {content}");
            assert_eq!(volume.hash_partition(data), hashes, "{volume:?} {content}");
            assert!(hashes >= tree_length(data));
        }
    }

    #[test]
    fn without_workloads_nothing_speaks_of_a_payload() {
        let tree = compose(&spec()).unwrap();
        assert_eq!(file(&tree, "etc/veritytab"), None);
        assert!(!file(&tree, "etc/fstab").unwrap().contains("payload"));
        assert_eq!(tree.below(&TreePath::parse("usr/lib/repart.d").unwrap()).count(), 5);
    }

    #[test]
    fn a_sealed_state_is_made_opened_and_mounted_as_one() {
        let tree = compose(&SlotSpec { sealed: true, ..spec() }).unwrap();
        let partition = file(&tree, "usr/lib/repart.d/50-state.conf").unwrap();
        assert!(partition.ends_with("\nEncrypt=tpm2\n"), "{partition}");
        let table = file(&tree, "etc/crypttab").unwrap();
        assert!(
            table.starts_with(&format!("state PARTUUID={} - tpm2-device=auto,", spec().state)),
            "{table}"
        );
        let mounts = file(&tree, "etc/fstab").unwrap();
        assert!(mounts.contains("/dev/mapper/state /sysroot/var ext4 nodelalloc,"), "{mounts}");
        assert!(!mounts.contains(&spec().state.to_string()), "nothing mounts what is not opened: {mounts}");
        let open = compose(&spec()).unwrap();
        assert_eq!(file(&open, "etc/crypttab"), None);
        assert!(!file(&open, "usr/lib/repart.d/50-state.conf").unwrap().contains("Encrypt"));
    }

    #[test]
    fn the_payload_is_opened_by_its_hash() {
        let payload = SlotPart {
            root_hash: format!("{}{}", "01".repeat(16), "fe".repeat(16)).parse().unwrap(),
            ..spec().root
        };
        let tree = compose(&SlotSpec { payload: Some(payload), ..spec() }).unwrap();
        let tab = file(&tree, "etc/veritytab").unwrap();
        assert!(
            tab.starts_with("payload PARTUUID=01010101-0101-0101-0101-010101010101 PARTUUID=fefefefe-"),
            "{tab}"
        );
        assert!(tab.contains("restart-on-corruption"));
        let b = file(&tree, "usr/lib/repart.d/22-b.conf").unwrap();
        assert!(
            b.contains("Type=00000000-0000-0000-0000-000000000001\n") && b.contains("Priority=10"),
            "{b}"
        );
    }
}
