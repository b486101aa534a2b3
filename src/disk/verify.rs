//! Whether a disk image is one that forge wrote, byte by byte.
//!
//! The chain: the ESP's files have the digests that the caller knows from a signed manifest; a UKI among them names root
//! hashes; partitions are found by the UUIDs that follow from these (UAPI.2), and every block of tree and data leads up
//! to them. What no file and no tree covers must be zero or follow from the rest. So one changed byte anywhere is named.

use super::gpt::{HEAD, Partition, PartitionType, TAIL};
use super::image::DiskImage;
use super::{fat, first_nonzero};
use crate::boot::authenticode::{self, SignatureError};
use crate::boot::pe::PeError;
use crate::boot::uki::{PAYLOAD_HASH, ROOT_HASH, Uki};
use crate::boot::verity::{self, RootHash, VerityError, VeritySpec};
use crate::model::{Digest, Guid};
use crate::tree::{Content, Tree, TreePath};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Where a UKI lies on the ESP (UAPI.1).
const UKI_DIR: &str = "EFI/Linux";

/// The files that a FAT partition has to hold, each with the digest of its content; by the partition's label.
pub type ExpectedFiles = BTreeMap<String, BTreeMap<TreePath, Digest>>;

/// What was found and held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskReport {
    /// Each partition, in the order of the table.
    pub partitions: Vec<PartitionReport>,
    /// Boot images of the ESP that are signed for Secure Boot, by path, with signatures that are of these images: whose key
    /// made them is for others to say.
    pub signed: Vec<(String, authenticode::Signature)>,
}

/// A partition that held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// Its label.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// What was shown of it.
    pub shown: Shown,
}

/// What was shown of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Exactly these files, with the digests that were expected.
    Files(usize),
    /// Every block leads up to this root hash, which a UKI names.
    Covered {
        /// The root hash.
        root_hash: RootHash,
        /// The key of the UKI's command line.
        argument: &'static str,
        /// Count of 4 KiB blocks.
        blocks: u64,
    },
    /// The tree itself: every hash block leads up to this root hash.
    HashTree {
        /// The root hash.
        root_hash: RootHash,
    },
}

/// What does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskFault {
    /// A byte between partitions that is not zero.
    #[error("byte {offset} of the disk lies in no partition and is not zero")]
    Gap {
        /// The byte, from the disk's start.
        offset: u64,
    },
    /// A byte behind a partition's content that is not zero.
    #[error("partition `{partition}`: byte {offset} lies behind its content and is not zero")]
    Slack {
        /// The partition's label.
        partition: String,
        /// The byte, from the partition's start.
        offset: u64,
    },
    /// A partition that nothing vouches for.
    #[error("partition `{partition}`: {why}")]
    Partition {
        /// The partition's label.
        partition: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A FAT volume that does not follow from its files.
    #[error("partition `{partition}`")]
    Fat {
        /// The partition's label.
        partition: String,
        /// What is wrong.
        source: fat::FatError,
    },
    /// A file that is not what it has to be.
    #[error("partition `{partition}`: file `{path}` {why}")]
    File {
        /// The partition's label.
        partition: String,
        /// The file.
        path: TreePath,
        /// What is wrong.
        why: String,
    },
    /// A UKI that cannot be read.
    #[error("partition `{partition}`: `{path}`")]
    Uki {
        /// The partition's label.
        partition: String,
        /// The file.
        path: TreePath,
        /// What is wrong.
        source: PeError,
    },
    /// A signature for Secure Boot that is of another image, or none.
    #[error("partition `{partition}`: `{path}`")]
    Signature {
        /// The partition's label.
        partition: String,
        /// The file.
        path: TreePath,
        /// What is wrong.
        source: SignatureError,
    },
    /// A root hash that no pair of partitions belongs to.
    #[error("`{argument}={root_hash}` of `{path}` has no partitions of its own on the disk")]
    NoPartition {
        /// The UKI.
        path: TreePath,
        /// The key of its command line.
        argument: &'static str,
        /// The root hash.
        root_hash: RootHash,
    },
    /// A block of data or tree.
    #[error("partition `{partition}`")]
    Verity {
        /// The label of the partition in which the block lies.
        partition: String,
        /// The block.
        source: VerityError,
    },
    /// The disk could not be read.
    #[error("reading the disk image")]
    Io(#[from] io::Error),
}

/// Checks all of `disk`; FAT partitions without an entry in `expected` must hold no file.
///
/// # Errors
/// [`DiskFault`] for the first thing that does not hold, naming partition, file, block and offset.
pub fn verify(disk: &DiskImage, expected: &ExpectedFiles) -> Result<DiskReport, DiskFault> {
    gaps(disk)?;
    let mut shown: BTreeMap<Guid, Shown> = BTreeMap::new();
    let (mut named, mut signed) = (vec![], vec![]);
    for partition in &disk.table().partitions {
        let kind = PartitionType::of(partition.type_guid);
        if matches!(kind, Some(PartitionType::Esp | PartitionType::Enroll)) {
            let none = BTreeMap::new();
            let tree = fat_partition(disk, partition, expected.get(&partition.name).unwrap_or(&none))?;
            if kind == Some(PartitionType::Esp) {
                named.extend(root_hashes(partition, &tree)?);
                signed.extend(signatures(partition, &tree)?);
            }
            let files = tree.iter().filter(|(_, node)| !node.is_dir()).count();
            shown.insert(partition.guid, Shown::Files(files));
        }
    }
    if let Some(name) = expected.keys().find(|name| !disk.table().partitions.iter().any(|p| p.name == **name))
    {
        return Err(DiskFault::Partition { partition: name.clone(), why: "it is not on the disk" });
    }
    for RootHashIn { uki, argument, root_hash } in named {
        let (data, tree) = partitions_of(disk, argument, &root_hash).ok_or(DiskFault::NoPartition {
            path: uki,
            argument,
            root_hash,
        })?;
        let blocks = covered(disk, data, tree, &root_hash)?;
        shown.insert(data.guid, Shown::Covered { root_hash, argument, blocks });
        shown.insert(tree.guid, Shown::HashTree { root_hash });
    }
    let report = disk.table().partitions.iter().map(|partition| {
        let name = partition.name.clone();
        let Some(shown) = shown.remove(&partition.guid) else {
            return Err(DiskFault::Partition {
                partition: name,
                why: "no boot image on the disk vouches for it",
            });
        };
        Ok(PartitionReport { name, length: partition.length, shown })
    });
    Ok(DiskReport { partitions: report.collect::<Result<_, _>>()?, signed })
}

/// The signatures of boot images, each of the image that it stands in.
fn signatures(
    partition: &Partition,
    tree: &Tree,
) -> Result<Vec<(String, authenticode::Signature)>, DiskFault> {
    let mut signed = vec![];
    for (path, _) in tree.iter().filter(|(path, _)| path.name().to_ascii_lowercase().ends_with(".efi")) {
        let Some(content) = tree.file(path) else { continue };
        match authenticode::signatures(content) {
            Ok(found) => signed.extend(found.into_iter().map(|signature| (path.to_string(), signature))),
            // What is no image that can bear a signature bears none. That it is the right file was shown by its digest.
            Err(SignatureError::Image(_)) => {}
            Err(source) => {
                let (partition, path) = (partition.name.clone(), path.clone());
                return Err(DiskFault::Signature { partition, path, source });
            }
        }
    }
    Ok(signed)
}

fn gaps(disk: &DiskImage) -> Result<(), DiskFault> {
    let mut at = HEAD;
    let ends = disk.table().partitions.iter().map(|p| (p.offset, p.offset + p.length));
    for (start, end) in ends.chain([(disk.table().length - TAIL, 0)]) {
        if let Some(offset) = first_nonzero(disk.content(), at..start)? {
            return Err(DiskFault::Gap { offset });
        }
        at = end;
    }
    Ok(())
}

/// Checks a FAT partition and its files; the files.
fn fat_partition(
    disk: &DiskImage,
    partition: &Partition,
    expected: &BTreeMap<TreePath, Digest>,
) -> Result<Tree, DiskFault> {
    let name = || partition.name.clone();
    let volume = fat::read(&disk.partition(partition)?)
        .map_err(|source| DiskFault::Fat { partition: name(), source })?;
    if volume.spec.volume_id != fat::volume_id(&partition.guid) || volume.spec.hidden != partition.offset {
        let why = "its volume ID or place is not the partition's";
        return Err(DiskFault::Partition { partition: name(), why });
    }
    let fault = |path: &TreePath, why: String| DiskFault::File { partition: name(), path: path.clone(), why };
    let mut found = BTreeSet::new();
    for (path, _) in volume.tree.iter() {
        let Some(content) = volume.tree.file(path) else { continue };
        let Some(wanted) = expected.get(path) else {
            return Err(fault(path, "is not expected there".into()));
        };
        let (digest, _) = Digest::of_reader(content.reader())?;
        if digest != *wanted {
            return Err(fault(path, format!("has {digest}, expected {wanted}")));
        }
        found.insert(path);
    }
    match expected.keys().find(|path| !found.contains(path)) {
        Some(missing) => Err(fault(missing, "is missing".into())),
        None => Ok(volume.tree),
    }
}

/// A root hash and who names it.
struct RootHashIn {
    uki: TreePath,
    argument: &'static str,
    root_hash: RootHash,
}

fn root_hashes(esp: &Partition, tree: &Tree) -> Result<Vec<RootHashIn>, DiskFault> {
    let mut named = vec![];
    for (path, _) in tree.iter() {
        // As the boot loader takes them: by folder and ending, in any case of letters.
        let in_place = path.parent().is_some_and(|dir| dir.as_str().eq_ignore_ascii_case(UKI_DIR))
            && path.name().to_ascii_lowercase().ends_with(".efi");
        let Some(content) = tree.file(path).filter(|_| in_place) else { continue };
        let uki = Uki::open(content.clone()).map_err(|source| DiskFault::Uki {
            partition: esp.name.clone(),
            path: path.clone(),
            source,
        })?;
        let hashes = uki.root_hashes();
        if !hashes.iter().any(|(argument, _)| *argument == ROOT_HASH) {
            let (partition, why) = (esp.name.clone(), "is a boot image that names no root hash".into());
            return Err(DiskFault::File { partition, path: path.clone(), why });
        }
        named.extend(hashes.into_iter().map(|(argument, root_hash)| RootHashIn {
            uki: path.clone(),
            argument,
            root_hash,
        }));
    }
    Ok(named)
}

/// The partitions of a root hash: found by its halves, and of the types that the argument is for.
fn partitions_of<'a>(
    disk: &'a DiskImage,
    argument: &str,
    root_hash: &RootHash,
) -> Option<(&'a Partition, &'a Partition)> {
    let (data, tree) = root_hash.partition_uuids();
    let find = |guid| disk.table().partitions.iter().find(|p| p.guid == guid);
    let (data, tree) = (find(data)?, find(tree)?);
    let types = (PartitionType::of(data.type_guid)?, PartitionType::of(tree.type_guid)?);
    let pair = match types {
        (PartitionType::Root(a), PartitionType::RootVerity(b)) => a == b && argument == ROOT_HASH,
        (PartitionType::Payload, PartitionType::PayloadVerity) => argument == PAYLOAD_HASH,
        _ => false,
    };
    pair.then_some((data, tree))
}

/// Checks data and tree against the root hash, and that nothing follows either; the count of data blocks.
fn covered(
    disk: &DiskImage,
    data: &Partition,
    tree: &Partition,
    root_hash: &RootHash,
) -> Result<u64, DiskFault> {
    let (data_bytes, tree_bytes) = (disk.partition(data)?, disk.partition(tree)?);
    let verified = verity::verify(&data_bytes, &tree_bytes, root_hash).map_err(|source| {
        let place = if matches!(source, VerityError::DataBlock { .. }) { data } else { tree };
        DiskFault::Verity { partition: place.name.clone(), source }
    })?;
    if verified.spec.uuid != VeritySpec::uuid_for(&verified.spec.salt) {
        let why = "the UUID in its superblock does not follow from the salt";
        return Err(DiskFault::Partition { partition: tree.name.clone(), why });
    }
    slack(data, &data_bytes, verified.data_length)?;
    slack(tree, &tree_bytes, verified.tree_length)?;
    Ok(verified.data_length / verity::BLOCK)
}

fn slack(partition: &Partition, bytes: &Content, from: u64) -> Result<(), DiskFault> {
    match first_nonzero(bytes, from..bytes.len())? {
        Some(offset) => Err(DiskFault::Slack { partition: partition.name.clone(), offset }),
        None => Ok(()),
    }
}
