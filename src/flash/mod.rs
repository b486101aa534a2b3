//! `forge flash`: a disk image onto a disk or stick of this machine, read back and compared, with one box's bundle in it.
//!
//! | part | what it turns into what | module |
//! |---|---|---|
//! | disks | sysfs → the disks that are there, and what speaks against each | [`disks`] |
//! | target | a path → an open disk or file that may be written | [`target`] |
//! | image | a file → digest, length, partition table, bytes | [`image`] |
//! | stamp | a bundle and the image that has to take it → a FAT volume | [`stamp`] |
//! | label | what was written → text or SVG to stick on the box | [`label`] |
//!
//! What is written is the image but for two things: the table is that of the real disk, with its backup at the disk's end,
//! where systemd-repart would move it at the first boot; and FORGE-ENROLL holds the bundle. The way onto the disk is the
//! installer's ([`crate::disk::onto`]): the first mebibyte comes last, so that whatever ends the work before leaves a disk
//! that nothing starts from.

pub mod disks;
pub mod image;
pub mod label;
pub mod stamp;
pub mod target;

use crate::disk::gpt::{TAIL, Table};
use crate::disk::onto::{self, OntoError, Progress};
use crate::error::{self, Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::model::Bytes;
use anyhow::anyhow;
use image::{Image, Patched};
use std::os::unix::fs::FileExt as _;
use target::Target;

/// Why nothing is written to a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Mounted, swap, or part of something that is.
    #[error("{disk}: in use: {by}")]
    InUse {
        /// The disk.
        disk: String,
        /// What uses it.
        by: String,
    },
    /// Not one to take out.
    #[error("{disk}: it is built in")]
    BuiltIn {
        /// The disk.
        disk: String,
    },
    /// Its switch is on.
    #[error("{disk}: it is write-protected")]
    ReadOnly {
        /// The disk.
        disk: String,
    },
    /// Sectors that the image is not made for.
    #[error("{disk}: it has sectors of {sector} bytes, the image is for 512")]
    Sector {
        /// The disk.
        disk: String,
        /// Bytes of one.
        sector: u64,
    },
    /// Shorter than the image.
    #[error("{target}: it has {has}, the image needs {needs}")]
    Small {
        /// The disk or file.
        target: String,
        /// What it has.
        has: Bytes,
        /// What it takes.
        needs: Bytes,
    },
    /// Neither a disk nor a file.
    #[error("{given} is no disk: {why}")]
    NoDisk {
        /// What was given.
        given: String,
        /// What it is.
        why: String,
    },
}

/// Writes `image` to `target`, with `stamp` where it says: bytes by their place. Everything is read back; `told` hears how
/// far it is.
///
/// # Errors
/// [`Kind::Verify`] when the image is no longer what was surveyed or the disk gives back something else;
/// [`Kind::Interrupted`]. The target then has no partition table.
pub fn write(
    image: &Image,
    stamp: Option<(u64, Vec<u8>)>,
    target: &Target,
    cancel: &Cancel,
    told: &mut dyn FnMut(Progress),
) -> anyhow::Result<()> {
    let (length, disk_length) = (image.length(), target.length());
    let table = Table { length: disk_length, ..image.disk().table().clone() };
    let (head, tail) = table.encode().kind(Kind::Input)?;
    let mut patches = vec![(0, head)];
    if disk_length != length {
        // The image's backup would be one more table in the middle of the disk.
        patches.push((length - TAIL, vec![0; TAIL as usize]));
    }
    patches.extend(stamp);
    let failed = |error: OntoError| {
        // However it was broken off, the person who pressed Ctrl-C knows why.
        if let Err(interrupted) = cancel.check() {
            return interrupted;
        }
        let kind = match error {
            OntoError::Disk { .. } => Kind::Unexpected,
            // It could be read a moment ago: it is not what it was.
            OntoError::Source { .. } | OntoError::Length { .. } | OntoError::Differs { .. } => Kind::Verify,
        };
        error::of(kind, anyhow::Error::from(error).context(format!("writing {}", target.title())))
    };
    let mut source = Patched::new(image.bytes()?, patches);
    let disk = target.file()?;
    let pending = onto::write(&mut source, length, disk, disk_length, told).map_err(failed)?;
    let digest = source.into_inner().finish()?;
    if digest != image.digest() {
        let error = anyhow!("the image was {} and is now {digest}", image.digest());
        return Err(error::of(Kind::Verify, error));
    }
    if disk_length != length {
        backup(disk, &tail, disk_length - TAIL).map_err(failed)?;
    }
    cancel.check()?;
    pending.finish(disk).map_err(failed)
}

/// Writes the table's backup to byte `at`, the last of the disk, and reads it back.
fn backup(disk: &std::fs::File, tail: &[u8], at: u64) -> Result<(), OntoError> {
    let on_disk = |source| OntoError::Disk { at, source };
    disk.write_all_at(tail, at).and_then(|()| disk.sync_all()).map_err(on_disk)?;
    let _ = rustix::fs::fadvise(disk, 0, None, rustix::fs::Advice::DontNeed); // as `onto` does before it compares
    let mut back = vec![0; tail.len()];
    disk.read_exact_at(&mut back, at).map_err(on_disk)?;
    if back == tail { Ok(()) } else { Err(OntoError::Differs { at }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::gpt::PartitionType;
    use crate::disk::{self, DiskSpec, PartitionContent, PartitionSpec};
    use crate::model::{Digest, Guid};
    use std::fs::File;
    use std::path::{Path, PathBuf};

    const MIB: usize = 1 << 20;

    /// A disk image of a few mebibytes, packed.
    fn packed(dir: &Path) -> PathBuf {
        let raw = File::options().read(true).write(true).create_new(true).open(dir.join("disk.raw")).unwrap();
        let bytes: Vec<u8> =
            (0..3 * MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let spec = DiskSpec {
            guid: Guid::derived(&Digest::of("x"), "disk"),
            partitions: vec![PartitionSpec {
                kind: PartitionType::Payload,
                guid: Guid::derived(&Digest::of("x"), "part"),
                name: "store_1".into(),
                flags: 0,
                content: PartitionContent::Image(bytes.into()),
                min_length: 5 << 20,
            }],
        };
        disk::write(&spec, &raw).unwrap();
        let path = dir.join("disk.raw.zst");
        let out = File::create(&path).unwrap();
        zstd::stream::copy_encode(File::open(dir.join("disk.raw")).unwrap(), out, 1).unwrap();
        path
    }

    /// Flashes onto a used disk of 16 MiB; what came of it, and the disk's first mebibyte.
    fn flash(
        cancel: &Cancel,
        meddle: &mut dyn FnMut(Progress, &Path, &Path),
    ) -> (anyhow::Result<()>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = packed(dir.path());
        let disk = dir.path().join("stick");
        std::fs::write(&disk, vec![0xaa; 16 * MIB]).unwrap();
        let image = Image::survey(&path, false, dir.path(), cancel).unwrap();
        let target = Target::open(Path::new("/"), &disk, image.length(), false).unwrap();
        let done = write(&image, None, &target, cancel, &mut |progress| meddle(progress, &disk, &path));
        target.commit().unwrap();
        if done.is_ok() {
            let table = Table::decode(&std::fs::read(&disk).unwrap().into()).unwrap();
            assert_eq!((table.length, table.partitions.len()), (16 << 20, 1));
        }
        (done, std::fs::read(disk).unwrap()[..MIB].to_vec())
    }

    /// Zeros, but for the mark that says why.
    fn starts_nothing(disk: &[u8]) -> bool {
        disk[..MIB - 512].iter().all(|byte| *byte == 0)
    }

    fn poke(path: &Path, at: usize) {
        File::options().write(true).open(path).unwrap().write_all_at(&[0x55], at as u64).unwrap();
    }

    #[test]
    fn the_table_is_the_disks_own_and_comes_last() {
        let (mut written, mut compared) = (0, 0);
        let (done, head) = flash(&Cancel::default(), &mut |progress, disk, _| {
            match progress {
                Progress::Written(at) => written = at,
                Progress::Compared(at) => compared = at,
            }
            let so_far = std::fs::read(disk).unwrap();
            assert!(starts_nothing(&so_far), "something could start from it already");
        });
        done.unwrap();
        assert_eq!((written, compared), (7 << 20, 7 << 20));
        assert_eq!(head[512..520], *b"EFI PART");
    }

    #[test]
    fn a_stick_that_gives_back_another_byte_is_found_out() {
        let (done, head) = flash(&Cancel::default(), &mut |progress, disk, _| {
            if progress == Progress::Written(7 << 20) {
                poke(disk, 2 * MIB + 77);
            }
        });
        let error = done.unwrap_err();
        assert_eq!(error::kind(&error), Kind::Verify);
        assert!(
            format!("{error:#}").contains("does not give back what was written at byte 2097152"),
            "{error:#}"
        );
        assert!(starts_nothing(&head));
    }

    #[test]
    fn an_interrupted_disk_has_no_table() {
        for stop in [Progress::Written(3 << 20), Progress::Compared(7 << 20)] {
            let cancel = Cancel::default();
            let (done, head) = flash(&cancel, &mut |progress, _, _| {
                if progress == stop {
                    cancel.cancel();
                }
            });
            assert_eq!(error::kind(&done.unwrap_err()), Kind::Interrupted, "{stop:?}");
            assert!(starts_nothing(&head), "{stop:?}");
        }
    }

    #[test]
    fn an_image_that_changes_after_it_was_checked_is_not_believed() {
        let (done, head) = flash(&Cancel::default(), &mut |progress, _, image| {
            // Behind what is unpacked: the disk's bytes stay, and the digest is another.
            if progress == Progress::Written(1 << 20) {
                let file = File::options().append(true).open(image).unwrap();
                std::io::Write::write_all(&mut &file, b"more").unwrap();
            }
        });
        let error = done.unwrap_err();
        assert_eq!(error::kind(&error), Kind::Verify, "{error:#}");
        assert!(starts_nothing(&head), "{error:#}");
    }
}
