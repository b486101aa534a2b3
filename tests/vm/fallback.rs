//! Two versions on one device: a newer one in slot B that is good, is spoilt later, and gives way by itself.

use crate::boots::{BOOT, DISK, answers, flip, given};
use crate::fixture::{self, Fixture};
use crate::vm::Vm;
use forge::disk::gpt::{Partition, PartitionType, Table};
use forge::disk::{DiskImage, fat};
use forge::tree::{Content, TreePath};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The label of a partition that is there to be written.
const EMPTY: &str = "_empty";

#[test]
fn a_good_version_that_is_spoilt_later_gives_way_to_the_other_slot() {
    let Some((disk, opts)) = given() else { return };
    let Some(shared) = fixture::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let next = newer_version(shared, dir.path());
    let own = dir.path().join("device.raw");
    forge::run::disk::unpack(&disk, &own, DISK).unwrap();
    let older = open(&disk, &dir.path().join("older.raw"));
    let newer = open(&next, &dir.path().join("newer.raw"));
    let (old, new) = (version(&older), version(&newer));
    assert_ne!(old, new);

    // Makes slot B. The version is alone, so no boot of it is counted once it was good.
    let mut first = Vm::boot(&own, &opts);
    let took = first.wait_for(&format!("{old}: boot complete, good"), BOOT);
    println!("version {old}, first boot: good after {took:?}");
    first.power_off_hard();

    install(&newer, &older, &own);
    let mut second = Vm::boot(&own, &opts);
    let took = second.wait_for(&format!("{new}: boot complete, good"), BOOT);
    println!("version {new} from slot B: good after {took:?}");
    second.wait_for("boots that are not good", BOOT);
    answers(&second, &opts);
    second.power_off_hard();

    // The superblock of the payload's EROFS, of which every boot mounts one.
    let payload = PartitionType::Payload.guid();
    flip(&own, |p| p.type_guid == payload && p.name.contains(&new), 1024 + 64);
    let start = Instant::now();
    let mut third = Vm::boot(&own, &opts);
    for n in 1..=3 {
        third.wait_for("dm-verity device corrupted", BOOT);
        println!("version {new}, boot {n} of the spoilt slot ended after {:?}", start.elapsed());
        assert!(!third.has_said("boot complete"), "changed bytes were run");
    }
    third.wait_for(&format!("{old}: boot complete"), BOOT);
    println!("version {old} is back by itself after {:?}", start.elapsed());
    answers(&third, &opts);
}

/// The disk of a release of the same site, of a newer version whose page says something else.
fn newer_version(shared: &Fixture, dir: &Path) -> PathBuf {
    let profile = shared.source_in(dir);
    std::fs::write(profile.with_file_name("hello").join("index.html"), "<h1>The next version.</h1>\n")
        .unwrap();
    let mut build = fixture::forge(&shared.cache());
    build.args(["--json", "build", "--set", "image.version=9999.1.0", "--artifact", "disk"]).arg(&profile);
    let told = fixture::ok(build.arg("--out").arg(dir.join("dist")));
    let release = fixture::events(&told, "release");
    Path::new(release[0]["dir"].as_str().unwrap()).join("amd64/disk.raw.zst")
}

/// A disk that forge wrote, unpacked to `to`.
fn open(artifact: &Path, to: &Path) -> DiskImage {
    forge::run::disk::unpack(artifact, to, 0).unwrap();
    DiskImage::open(Content::of_file(Arc::new(File::open(to).unwrap())).unwrap()).unwrap()
}

/// What stands between the site's name and the end of the root's label.
fn version(disk: &DiskImage) -> String {
    let labels = disk.table().partitions.iter().map(|p| p.name.as_str());
    labels.filter_map(|label| label.rsplit_once('_')).find(|(_, v)| *v != "verity").unwrap().1.into()
}

/// Writes the slot of the image `next` into the empty slot of the device's disk, and its boot image with three tries
/// beside that of `old`, the version that the device was made with and that was good once. What an update does, offline.
fn install(next: &DiskImage, old: &DiskImage, device: &Path) {
    let file = File::options().read(true).write(true).open(device).unwrap();
    let content = Content::of_file(Arc::new(file.try_clone().unwrap())).unwrap();
    let mut table = Table::read(&content).unwrap();
    for source in &next.table().partitions {
        // A root or payload that both versions have is there once: both boot images find it by its hash.
        if table.partitions.iter().any(|p| p.guid == source.guid) {
            continue;
        }
        let Some(place) =
            table.partitions.iter_mut().find(|p| p.type_guid == source.type_guid && p.name == EMPTY)
        else {
            continue;
        };
        assert!(source.length <= place.length, "`{}` does not fit into slot B", source.name);
        next.partition(source).unwrap().copy_to(&file, place.offset).unwrap();
        *place = Partition { offset: place.offset, length: place.length, ..source.clone() };
    }
    let payload = PartitionType::Payload.guid();
    let payloads = table.partitions.iter().filter(|p| p.type_guid == payload && p.name != EMPTY).count();
    assert_eq!(payloads, 2, "the newer version has no workloads of its own");
    let (head, tail) = table.encode().unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.write_all_at(&tail, table.length - tail.len() as u64).unwrap();

    // The device has written to its ESP, so it is made anew: the newer image's files, and the older boot image, blessed.
    let (esp, volume) = next.only(PartitionType::Esp).unwrap();
    let mut volume = fat::read(&volume).unwrap();
    let former = fat::read(&old.only(PartitionType::Esp).unwrap().1).unwrap().tree;
    for (path, node) in former.below(&TreePath::parse("EFI/Linux").unwrap()) {
        volume.tree.insert(TreePath::parse(&path.as_str().replace("+3", "")).unwrap(), node.clone()).unwrap();
    }
    let place = table.partitions.iter().find(|p| p.type_guid == esp.type_guid).unwrap();
    let zeros = vec![0; 1 << 20]; // what is zero on a new volume is not written
    for at in (0..place.length).step_by(zeros.len()) {
        file.write_all_at(&zeros, place.offset + at).unwrap();
    }
    let spec = fat::FatSpec { size: place.length, hidden: place.offset, ..volume.spec };
    fat::write(&volume.tree, &spec, &file, place.offset).unwrap();
    file.sync_all().unwrap();
}
