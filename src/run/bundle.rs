//! An enrollment bundle's folder → the FORGE-ENROLL partition of a disk, as a person's laptop would copy it there.

use crate::disk::fat::{self, FatSpec};
use crate::disk::gpt::{Partition, PartitionType, Table};
use crate::disk::{ENROLL_LABEL, ENROLL_SIZE};
use crate::enroll::bundle::{BOOTSTRAP, DIRECTORY, FILES};
use crate::host::{clock, fs};
use crate::model::Epoch;
use crate::tree::{Content, Node, Tree, TreePath};
use anyhow::{Context as _, ensure};
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// Reads the bundle in `dir`, which is the folder itself or holds it, as a carrier has it.
///
/// # Errors
/// When there is no bundle, or a file of it is larger than any.
pub fn read(dir: &Path) -> anyhow::Result<Tree> {
    let inner = dir.join(DIRECTORY);
    let dir = if inner.is_dir() { &inner } else { dir };
    let mut tree = Tree::new();
    for (name, most) in FILES {
        let path = dir.join(name);
        if !fs::exists(&path) {
            ensure!(
                *name != BOOTSTRAP,
                "{} has no enrollment bundle: {BOOTSTRAP} is not there",
                dir.display()
            );
            continue;
        }
        let mut bytes = vec![];
        fs::open_regular(&path)
            .and_then(|file| file.take(*most as u64 + 1).read_to_end(&mut bytes))
            .with_context(|| format!("reading {}", path.display()))?;
        ensure!(bytes.len() <= *most, "{} has more than {most} bytes", path.display());
        tree.insert(TreePath::parse(&format!("{DIRECTORY}/{name}"))?, Node::file(bytes, 0o600))?;
    }
    Ok(tree)
}

/// Formats the FORGE-ENROLL partition of the disk in the file `disk`, with the files of `tree`.
///
/// # Errors
/// When the disk has no such partition, or cannot be written.
pub fn place(tree: &Tree, disk: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let content = Content::of_file(Arc::new(File::open(disk)?))?;
    let table = Table::read(&content).with_context(|| format!("reading {}", disk.display()))?;
    let mut partitions = table.partitions.iter().filter(|p| p.type_guid == PartitionType::Enroll.guid());
    let place =
        partitions.next().with_context(|| format!("{} has no FORGE-ENROLL partition", disk.display()))?;
    // What was there goes: the writer leaves out what is zero.
    file.write_all_at(&vec![0; place.length.min(ENROLL_SIZE) as usize], place.offset)?;
    format(tree, place, clock::now(), &file, place.offset)?;
    Ok(file.sync_all()?)
}

/// Writes the volume of the partition `place` with the files of `tree`, all of the time `epoch`, to `file` from byte `at`
/// on, where zeros are.
///
/// # Errors
/// When the partition is too small for a volume, or `file` cannot be written.
pub fn format(tree: &Tree, place: &Partition, epoch: Epoch, file: &File, at: u64) -> anyhow::Result<()> {
    ensure!(place.length >= ENROLL_SIZE, "the FORGE-ENROLL partition has only {} bytes", place.length);
    let spec = FatSpec {
        size: ENROLL_SIZE,
        fat32: false,
        label: ENROLL_LABEL.into(),
        volume_id: fat::volume_id(&place.guid),
        hidden: place.offset,
        epoch,
    };
    fat::write(tree, &spec, file, at).context("writing the FORGE-ENROLL partition")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fat::foreign::Foreign;
    use crate::disk::{self, DiskSpec, PartitionContent, PartitionSpec};
    use crate::model::{Digest, Guid};

    #[test]
    fn a_bundle_lands_in_its_partition_of_a_grown_disk_and_replaces_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.raw");
        let out = fs::create_new(&image).unwrap();
        let guid = |name: &str| Guid::derived(&Digest::of("disk"), name);
        let partition = |kind, name: &str| PartitionSpec {
            kind,
            guid: guid(name),
            name: name.into(),
            flags: 0,
            content: PartitionContent::Empty,
            min_length: ENROLL_SIZE,
        };
        let enroll = PartitionSpec {
            content: PartitionContent::Fat {
                tree: Tree::new(),
                label: ENROLL_LABEL.into(),
                fat32: false,
                epoch: Epoch(1_795_305_600),
            },
            ..partition(PartitionType::Enroll, "FORGE-ENROLL")
        };
        let spec =
            DiskSpec { guid: guid("disk"), partitions: vec![partition(PartitionType::Payload, "x"), enroll] };
        let table = disk::write(&spec, &out).unwrap();
        out.set_len(table.length + (8 << 20)).unwrap();
        let bundle = dir.path().join("store-042/forge-enroll");
        for (bootstrap, ticket) in [("first", Some("secret")), ("second", None)] {
            fs::write_atomic(&bundle.join(BOOTSTRAP), bootstrap.as_bytes(), 0o600).unwrap();
            match ticket {
                Some(ticket) => {
                    fs::write_atomic(&bundle.join("ticket.key"), ticket.as_bytes(), 0o600).unwrap()
                }
                None => std::fs::remove_file(bundle.join("ticket.key")).unwrap(),
            }
            place(&read(bundle.parent().unwrap()).unwrap(), &image).unwrap();
            let place = &table.partitions[1];
            let mut volume = vec![0; place.length as usize];
            out.read_exact_at(&mut volume, place.offset).unwrap();
            let volume = Foreign::open(&volume[..]).unwrap();
            let there = volume.read("forge-enroll/bootstrap.dsse.json", 99).unwrap().unwrap();
            assert_eq!(**there, *bootstrap.as_bytes());
            assert_eq!(volume.read("forge-enroll/ticket.key", 99).unwrap().is_some(), ticket.is_some());
        }
        assert!(read(dir.path()).unwrap_err().to_string().contains("no enrollment bundle"));
    }
}
