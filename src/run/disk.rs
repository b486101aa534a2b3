//! An artifact → a disk that a device may grow into: unpacked once, with holes where it is empty, longer than its content.

use crate::boot::sealed;
use crate::boot::uki::Uki;
use crate::disk::fat::foreign::Foreign;
use crate::disk::gpt::{PartitionType, Table};
use crate::host::fs::{Durability, Staged};
use crate::tree::Content;
use anyhow::{Context as _, bail};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// What is looked at for being empty: the block of every file system that holds the copy.
const BLOCK: usize = 4096;
/// The largest disk that is unpacked, in bytes: what a wrong or hostile file may at most claim.
const MAX_DISK: u64 = 2 << 40;
/// The largest kernel image that is looked into, in bytes.
const MAX_KERNEL: usize = 512 << 20;
/// What follows the name of a slot's kernel image: tries left and done (UAPI.1, "Boot counting"; [`crate::boot`]).
const TRIES: [&str; 5] = ["+3", "+2-1", "+1-2", "+0-3", ""];

/// Makes `target` from `artifact`, a raw disk or one compressed with Zstandard (`.zst`), at least `size` bytes long.
/// Appears whole or not at all.
///
/// # Errors
/// When the artifact is of another kind, is damaged, or there is no room.
pub fn unpack(artifact: &Path, target: &Path, size: u64) -> anyhow::Result<()> {
    let name = artifact.to_string_lossy();
    let file = File::open(artifact).with_context(|| format!("opening {name}"))?;
    let staged = Staged::file(target, 0o644)?;
    let mut length = if name.ends_with(".zst") {
        copy(zstd::Decoder::new(file)?, staged.as_file()?)
    } else if name.ends_with(".raw") || name.ends_with(".img") {
        copy(file, staged.as_file()?)
    } else {
        bail!("{name} is neither a raw disk (.raw, .img) nor a compressed one (.raw.zst)");
    }
    .with_context(|| format!("unpacking {name}"))?;
    length = length.max(size).next_multiple_of(1 << 20);
    staged.as_file()?.set_len(length)?;
    // Synced: nothing checks a copy that an earlier boot of this machine left.
    staged.commit(Durability::Synced)?;
    Ok(())
}

/// Makes an empty disk of `size` bytes, where `disk` is none yet.
///
/// # Errors
/// What the file system says.
pub fn empty(disk: &Path, size: u64) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(disk)?;
    if file.metadata()?.len() == 0 { file.set_len(size) } else { Ok(()) }
}

/// Copies the disk `from` into the empty file `to`, holes staying holes.
///
/// # Errors
/// What the file system says.
pub fn copy_sparse(from: &Path, to: &File) -> anyhow::Result<()> {
    let content = Content::of_file(Arc::new(File::open(from)?))?;
    to.set_len(content.len())?;
    content.copy_to(to, 0).with_context(|| format!("copying {}", from.display()))
}

/// Whether the box of a raw disk encrypts its state: it starts under Secure Boot alone, and with a TPM. The disk may have
/// been run: then partitions were added, and the kernel's FAT has written to the boot partition.
///
/// # Errors
/// When its table, boot partition or a kernel image there cannot be read.
pub fn is_sealed(disk: &Path) -> anyhow::Result<bool> {
    let content = Content::of_file(Arc::new(File::open(disk)?))?;
    let table = Table::read(&content).with_context(|| format!("reading {}", disk.display()))?;
    let of = |kind: fn(PartitionType) -> bool| {
        table.partitions.iter().filter(move |p| PartitionType::of(p.type_guid).is_some_and(kind))
    };
    for esp in of(|kind| kind == PartitionType::Esp) {
        let esp = content.slice(esp.offset, esp.length)?;
        let volume = Foreign::open(&esp).context("reading the boot partition")?;
        for slot in of(|kind| matches!(kind, PartitionType::Root(_))) {
            for tries in TRIES {
                let path = format!("EFI/Linux/{}{tries}.efi", slot.name);
                let Some(image) =
                    volume.read(&path, MAX_KERNEL).with_context(|| format!("reading {path}"))?
                else {
                    continue;
                };
                let kernel = Uki::open(Content::from(image.to_vec()));
                let kernel = kernel.with_context(|| format!("reading {path}"))?;
                if kernel.cmdline.split_ascii_whitespace().any(|word| word == sealed::ARGUMENT) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Copies with holes; the length.
fn copy(mut from: impl Read, to: &File) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        for (i, block) in buffer[..filled].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                to.write_all_at(block, at + (i * BLOCK) as u64)?;
            }
        }
        at += filled as u64;
        if at > MAX_DISK {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 2 TiB"));
        }
        if filled < buffer.len() {
            return Ok(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn what_is_empty_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = vec![0; 8 << 20];
        disk[5_000_000] = 7;
        let packed = dir.path().join("disk.raw.zst");
        crate::host::fs::write_atomic(&packed, &zstd::encode_all(&disk[..], 1).unwrap(), 0o644).unwrap();
        let target = dir.path().join("copy");
        unpack(&packed, &target, 64 << 20).unwrap();
        let file = File::open(&target).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5_000_000).unwrap();
        assert_eq!(byte, [7]);
    }

    #[test]
    fn another_kind_of_file_is_refused_and_a_cut_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("copy");
        let iso = dir.path().join("x.iso");
        crate::host::fs::write_atomic(&iso, b"x", 0o644).unwrap();
        assert!(unpack(&iso, &target, 0).unwrap_err().to_string().contains("neither"));
        let cut = dir.path().join("x.raw.zst");
        let whole = zstd::encode_all(&vec![3; 1 << 20][..], 1).unwrap();
        crate::host::fs::write_atomic(&cut, &whole[..whole.len() - 5], 0o644).unwrap();
        assert!(unpack(&cut, &target, 0).is_err());
        assert!(!target.exists());
    }
}
