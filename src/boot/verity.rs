//! dm-verity: a hash tree over a partition, whose root stands in the signed kernel command line.
//!
//! The kernel's Documentation/admin-guide/device-mapper/verity.rst, and cryptsetup's superblock, version 1: SHA-256,
//! blocks of 4096 bytes, salt before the block. The bytes are those of `veritysetup format` with the same salt and UUID:
//!
//! ```text
//! 0            4096       …
//! | superblock | top level | … | hashes of data blocks |
//! ```

use crate::model::{Digest, Guid, digest::hex};
use crate::tree::Content;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

/// Bytes of a data block and of a hash block: the page size of every machine forge builds for.
pub const BLOCK: u64 = 4096;
/// Hashes in a hash block.
const FAN_OUT: u64 = BLOCK / 32;
/// The longest salt that the superblock holds.
const MAX_SALT: usize = 256;

/// The hash over a whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// The UUIDs of the data and of the verity partition: the first and the last 128 bits (UAPI.2, "root-verity").
    pub fn partition_uuids(&self) -> (Guid, Guid) {
        let half = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&self.0[at..at + 16]);
            Guid::from_bytes(bytes)
        };
        (half(0), half(16))
    }

    /// The hash's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for RootHash {
    type Err = crate::model::digest::BadDigest;
    fn from_str(s: &str) -> Result<RootHash, Self::Err> {
        Digest::from_hex(s).map(|digest| RootHash(*digest.as_raw()))
    }
}

/// What a tree's bytes depend on besides the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VeritySpec {
    /// Put before each block that is hashed: at most 256 bytes.
    pub salt: Vec<u8>,
    /// The superblock's UUID; the root hash does not cover it.
    pub uuid: Guid,
}

impl VeritySpec {
    /// Salt and UUID of a tree over an image that is derived from `digest`. The UUID follows from the salt, so that
    /// [whoever checks a disk](crate::disk) can tell a changed one.
    pub fn derived(digest: &Digest) -> VeritySpec {
        let salt = Digest::of([digest.as_raw().as_slice(), b"dm-verity salt"].concat());
        VeritySpec { salt: salt.as_raw().to_vec(), uuid: VeritySpec::uuid_for(salt.as_raw()) }
    }

    /// The UUID that goes with a salt in forge's trees.
    pub fn uuid_for(salt: &[u8]) -> Guid {
        Guid::derived(&Digest::of(salt), "dm-verity")
    }
}

/// The bytes that [`format()`] writes for `length` bytes of data.
pub fn tree_length(length: u64) -> u64 {
    BLOCK + levels(length.div_ceil(BLOCK)).iter().sum::<u64>() * BLOCK
}

/// Hash blocks of each level over `blocks` data blocks, the lowest first. A single block needs none: its own hash is
/// the root.
fn levels(blocks: u64) -> Vec<u64> {
    let mut levels = vec![];
    let mut below = blocks;
    while below > 1 {
        below = below.div_ceil(FAN_OUT);
        levels.push(below);
    }
    levels
}

/// Hashes all of `data` and writes superblock and tree to `out` from byte `at`; the root hash.
///
/// Reads by position on all of rayon's threads; memory is a few MiB, and 32 bytes for each 512 KiB of data.
///
/// # Errors
/// Data of no or a broken block, a salt that is too long; what either file says.
pub fn format(data: &Content, spec: &VeritySpec, out: &File, at: u64) -> io::Result<RootHash> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    if data.is_empty() || !data.len().is_multiple_of(BLOCK) {
        return Err(invalid(format!("{} bytes are no whole count of 4096-byte blocks", data.len())));
    }
    if spec.salt.len() > MAX_SALT {
        return Err(invalid(format!("a salt of {} bytes, more than 256", spec.salt.len())));
    }
    let blocks = data.len() / BLOCK;
    let salted = Sha256::new_with_prefix(&spec.salt);
    out.write_all_at(&superblock(spec, blocks), at)?;
    let levels = levels(blocks);
    let Some(lowest) = levels.first().copied() else {
        return Ok(RootHash(hash(&salted, &data.to_vec(BLOCK)?)));
    };
    // The top level comes first in the file, so the lowest is its last.
    let mut end = at + BLOCK + levels.iter().sum::<u64>() * BLOCK;
    let mut start = end - lowest * BLOCK;
    let mut hashes: Vec<[u8; 32]> = (0..lowest)
        .into_par_iter()
        .map_init(
            || vec![0; (FAN_OUT * BLOCK) as usize],
            |buffer, index| {
                let covered = covered_by(index, data.len());
                let buffer = &mut buffer[..(covered.end - covered.start) as usize];
                data.read_exact_at(buffer, covered.start)?;
                let block = hash_block(buffer.chunks_exact(BLOCK as usize).map(|b| hash(&salted, b)));
                out.write_all_at(&block, start + index * BLOCK)?;
                Ok(hash(&salted, &block))
            },
        )
        .collect::<io::Result<_>>()?;
    for level in &levels[1..] {
        end = start;
        start = end - level * BLOCK;
        let blocks: Vec<_> =
            hashes.chunks(FAN_OUT as usize).map(|below| hash_block(below.iter().copied())).collect();
        for (index, block) in blocks.iter().enumerate() {
            out.write_all_at(block, start + index as u64 * BLOCK)?;
        }
        hashes = blocks.iter().map(|block| hash(&salted, block)).collect();
    }
    Ok(RootHash(hashes[0]))
}

/// The bytes of data under hash block `index` of the lowest level.
fn covered_by(index: u64, length: u64) -> std::ops::Range<u64> {
    let start = index * FAN_OUT * BLOCK;
    start..(start + FAN_OUT * BLOCK).min(length)
}

fn hash(salted: &Sha256, block: &[u8]) -> [u8; 32] {
    let mut state = salted.clone();
    state.update(block);
    state.finalize().into()
}

fn hash_block(hashes: impl Iterator<Item = [u8; 32]>) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK as usize);
    hashes.for_each(|h| block.extend(h));
    block.resize(BLOCK as usize, 0);
    block
}

/// cryptsetup's `struct verity_sb`, padded to a block.
fn superblock(spec: &VeritySpec, blocks: u64) -> Vec<u8> {
    let mut sb = vec![0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| sb[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &1u32.to_le_bytes()); // version
    put(12, &1u32.to_le_bytes()); // hash type 1: the salt comes first
    put(16, spec.uuid.as_bytes());
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &blocks.to_le_bytes());
    put(80, &(spec.salt.len() as u16).to_le_bytes());
    put(88, &spec.salt);
    sb
}

/// What a tree was found to cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The root hash that everything led up to.
    pub root_hash: RootHash,
    /// Salt and UUID from the superblock. Nothing vouches for the UUID.
    pub spec: VeritySpec,
    /// Bytes of data under the tree.
    pub data_length: u64,
    /// Bytes of superblock and tree.
    pub tree_length: u64,
}

/// What does not hold. Offsets are in bytes from the start of the data or the tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerityError {
    /// The superblock is none, or none of forge's.
    #[error("verity superblock: {0}")]
    Superblock(&'static str),
    /// A block of the tree is not what the one above it, or the root hash, says.
    #[error("verity tree block {block} at byte {offset} does not have the hash that is recorded for it")]
    TreeBlock {
        /// Number of the block, the superblock being 0.
        block: u64,
        /// Its first byte.
        offset: u64,
    },
    /// A data block is not what the tree says.
    #[error("data block {block} at byte {offset} does not have the hash that is recorded for it")]
    DataBlock {
        /// Number of the block.
        block: u64,
        /// Its first byte.
        offset: u64,
    },
    /// Data or tree could not be read.
    #[error("reading data and hash tree")]
    Io(#[from] io::Error),
}

/// Checks tree and data against `root_hash`, from the top down, so that the first wrong block is named and not one that
/// only depends on it. Both may be followed by other bytes.
///
/// # Errors
/// [`VerityError`] for the first fault by level and position.
pub fn verify(data: &Content, tree: &Content, root_hash: &RootHash) -> Result<Verified, VerityError> {
    let (spec, blocks) = read_superblock(tree)?;
    let data_length = blocks
        .checked_mul(BLOCK)
        .filter(|length| (BLOCK..=data.len()).contains(length))
        .ok_or(VerityError::Superblock("it covers more data than there is, or none"))?;
    let tree_length = tree_length(data_length);
    if tree_length > tree.len() {
        return Err(VerityError::Superblock("the tree is cut off"));
    }
    let verified = Verified { root_hash: *root_hash, spec, data_length, tree_length };
    let salted = Sha256::new_with_prefix(&verified.spec.salt);
    let levels = levels(blocks);
    if levels.is_empty() {
        return match hash(&salted, &data.slice(0, BLOCK)?.to_vec(BLOCK)?) == root_hash.0 {
            true => Ok(verified),
            false => Err(VerityError::DataBlock { block: 0, offset: 0 }),
        };
    }
    let mut expected = vec![root_hash.0];
    let mut first = 1; // number of the level's first block in the tree
    for (above_lowest, count) in levels.iter().enumerate().rev() {
        let check = |buffer: &mut Vec<u8>, index: usize| -> Result<Vec<[u8; 32]>, VerityError> {
            let block = first + index as u64;
            let offset = block * BLOCK;
            buffer.resize(BLOCK as usize, 0);
            tree.read_exact_at(buffer, offset)?;
            if hash(&salted, buffer) != expected[index] {
                return Err(VerityError::TreeBlock { block, offset });
            }
            let hashes = buffer.chunks_exact(32).map(|h| {
                let mut hash = [0; 32];
                hash.copy_from_slice(h);
                hash
            });
            let hashes: Vec<_> = hashes.collect();
            if above_lowest > 0 {
                return Ok(hashes);
            }
            let covered = covered_by(index as u64, data_length);
            buffer.resize((covered.end - covered.start) as usize, 0);
            data.read_exact_at(buffer, covered.start)?;
            for (i, (block, recorded)) in buffer.chunks_exact(BLOCK as usize).zip(&hashes).enumerate() {
                if hash(&salted, block) != *recorded {
                    let offset = covered.start + i as u64 * BLOCK;
                    return Err(VerityError::DataBlock { block: offset / BLOCK, offset });
                }
            }
            Ok(vec![])
        };
        let checked: Vec<Result<Vec<[u8; 32]>, VerityError>> =
            (0..expected.len()).into_par_iter().map_init(Vec::new, check).collect();
        let mut next = vec![];
        for hashes in checked {
            next.extend(hashes?);
        }
        if above_lowest > 0 {
            next.truncate(levels[above_lowest - 1] as usize); // the rest of the last block is padding
        }
        expected = next;
        first += count;
    }
    Ok(verified)
}

/// Salt, UUID and count of data blocks; any bit of the superblock that forge would have set otherwise is an error.
fn read_superblock(tree: &Content) -> Result<(VeritySpec, u64), VerityError> {
    let refuse = |why| Err(VerityError::Superblock(why));
    if tree.len() < BLOCK {
        return refuse("shorter than a block");
    }
    let sb = tree.slice(0, BLOCK)?.to_vec(BLOCK)?;
    if &sb[..8] != b"verity\0\0" {
        return refuse("no verity signature");
    }
    let mut number = [0; 8];
    number.copy_from_slice(&sb[72..80]);
    let salt_length = usize::from(u16::from_le_bytes([sb[80], sb[81]]));
    if salt_length > MAX_SALT {
        return refuse("the salt is longer than 256 bytes");
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&sb[16..32]);
    let blocks = u64::from_le_bytes(number);
    let spec = VeritySpec { salt: sb[88..88 + salt_length].to_vec(), uuid: Guid::from_bytes(uuid) };
    if superblock(&spec, blocks) != sb {
        return refuse("not version 1 with SHA-256 and blocks of 4096 bytes, or not zero where it must be");
    }
    Ok((spec, blocks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn formatted(blocks: usize) -> (Vec<u8>, Vec<u8>, RootHash) {
        let data: Vec<u8> = (0..blocks * BLOCK as usize).map(|i| (i / 7 % 251) as u8).collect();
        let out = tempfile::tempfile().unwrap();
        let spec = VeritySpec::derived(&Digest::of("x"));
        let root = format(&data.clone().into(), &spec, &out, 0).unwrap();
        let tree = Content::of_file(Arc::new(out)).unwrap().to_vec(u64::MAX).unwrap();
        assert_eq!(tree.len() as u64, tree_length(data.len() as u64));
        (data, tree, root)
    }

    #[test]
    fn what_is_written_verifies_at_every_depth() {
        for blocks in [1, 2, 128, 129, 300] {
            let (data, tree, root) = formatted(blocks);
            let verified = verify(&data.into(), &tree.into(), &root).unwrap();
            assert_eq!(verified.root_hash, root);
            assert_eq!(verified.spec.uuid, VeritySpec::uuid_for(&verified.spec.salt));
            assert_eq!(verified.data_length, blocks as u64 * BLOCK);
        }
    }

    #[test]
    fn one_flipped_byte_is_named() {
        let (data, tree, root) = formatted(300);
        for at in [0, 4095, 4096 * 128, 4096 * 299 + 17] {
            let mut bad = data.clone();
            bad[at] ^= 1;
            match verify(&bad.into(), &tree.clone().into(), &root).unwrap_err() {
                VerityError::DataBlock { block, offset } => {
                    assert_eq!((block, offset), (at as u64 / 4096, at as u64 / 4096 * 4096));
                }
                other => panic!("{other}"),
            }
        }
        // Every block of the tree, the padding in its last hash block included.
        for at in (4096..tree.len()).step_by(777).chain([tree.len() - 1]) {
            let mut bad = tree.clone();
            bad[at] ^= 0x80;
            match verify(&data.clone().into(), &bad.into(), &root).unwrap_err() {
                VerityError::TreeBlock { block, .. } => assert_eq!(block, at as u64 / 4096),
                other => panic!("{other}"),
            }
        }
        for at in [0, 9, 33, 70, 73, 81, 90, 600] {
            let mut bad = tree.clone();
            bad[at] ^= 1;
            verify(&data.clone().into(), &bad.into(), &root).unwrap_err();
        }
    }

    #[test]
    fn a_wrong_root_hash_is_refused() {
        let (data, tree, root) = formatted(3);
        let mut wrong = root;
        wrong.0[31] ^= 1;
        assert!(matches!(
            verify(&data.into(), &tree.into(), &wrong),
            Err(VerityError::TreeBlock { block: 1, offset: 4096 })
        ));
    }

    #[test]
    fn partition_uuids_are_the_halves() {
        let root: RootHash =
            "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef".parse().unwrap();
        let (data, verity) = root.partition_uuids();
        assert_eq!(data.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(verity.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
