//! A disk image with a byte changed, signed by somebody who has the key and only the disk wrong: every part of it is
//! vouched for by another, so that each attack names partition and place. Sums are made anew and signed each time, for
//! they would tell first.

use super::*;
use forge::disk::{self, DiskImage, fat};
use forge::tree::{Content, TreePath};

/// A release that holds nothing but a raw disk, which may be changed.
struct Insider {
    bench: &'static Bench,
    dir: tempfile::TempDir,
    image: DiskImage,
}

const RAW: &str = "amd64/disk.raw";
const SECTOR: u64 = 512;

fn insider() -> Option<Insider> {
    let bench = bench()?;
    let dir = bench.scratch();
    std::fs::create_dir(dir.path().join("amd64")).unwrap();
    for path in ["manifest.json", RAW] {
        std::fs::copy(bench.release.join(path), dir.path().join(path)).unwrap();
    }
    let file = File::open(bench.release.join(RAW)).unwrap();
    let image = DiskImage::open(Content::of_file(Arc::new(file)).unwrap()).unwrap();
    Some(Insider { bench, dir, image })
}

impl Insider {
    fn raw(&self) -> PathBuf {
        self.dir.path().join(RAW)
    }

    /// Name, start and length of the partition whose label ends so.
    fn partition(&self, ends: &str) -> (String, u64, u64) {
        let found = self.image.table().partitions.iter().find(|p| p.name.ends_with(ends)).unwrap();
        (found.name.clone(), found.offset, found.length)
    }

    /// Flips the byte, signs all of it again, and asserts that `words` are named; then flips it back.
    #[track_caller]
    fn attack(&self, offset: u64, words: &[&str]) {
        flip(&self.raw(), offset);
        reseal(self.dir.path(), &self.bench.key);
        let outcome = self.bench.verify(self.dir.path());
        assert!(outcome.text.contains("signed"), "the sums were not believed: {}", outcome.text);
        outcome.refused(4, &[&["checking amd64/disk.raw"], words].concat());
        flip(&self.raw(), offset);
    }
}

#[test]
fn a_disk_that_is_signed_again_unchanged_passes() {
    let Some(insider) = insider() else { return };
    reseal(insider.dir.path(), &insider.bench.key);
    assert!(insider.bench.verify(insider.dir.path()).done().contains("PASS"));
}

#[test]
fn a_byte_of_the_partition_table() {
    let Some(insider) = insider() else { return };
    let length = length(&insider.raw());
    for (offset, word) in [
        (446 + 4, "protective MBR"),
        (SECTOR + 16, "primary"),
        (SECTOR + 56, "primary"),
        (2 * SECTOR + 56, "primary"),
        (length - SECTOR + 16, "backup"),
        (length - 33 * SECTOR + 56, "backup"),
    ] {
        insider.attack(offset, &[word]);
    }
}

#[test]
fn a_byte_between_and_behind_the_partitions() {
    let Some(insider) = insider() else { return };
    let (_, esp, _) = insider.partition("esp");
    insider.attack(esp - 1, &[&format!("byte {} of the disk lies in no partition", esp - 1)]);
    let end = length(&insider.raw()) - 33 * SECTOR - 1;
    insider.attack(end, &[&end.to_string()]);
}

#[test]
fn a_byte_of_each_file_of_the_esp() {
    let Some(insider) = insider() else { return };
    let (_, start, _) = insider.partition("esp");
    let esp = insider.image.table().partitions.iter().find(|p| p.name == "esp").unwrap();
    let volume = insider.image.partition(esp).unwrap();
    let bytes = volume.to_vec(1 << 30).unwrap();
    let tree = fat::read(&volume).unwrap().tree;
    let files: Vec<&TreePath> = tree.iter().filter(|(_, n)| !n.is_dir()).map(|(path, _)| path).collect();
    assert!(files.iter().any(|p| p.as_str().starts_with("EFI/Linux/")), "{files:?}");
    assert!(files.iter().any(|p| p.as_str() == "loader/loader.conf"), "{files:?}");
    let mut from = 0;
    for path in files {
        let content = tree.file(path).unwrap();
        let head = content.to_vec(1 << 30).unwrap();
        let head = &head[..head.len().min(4096)];
        // A file begins at a sector; two copies of the boot loader lie one after the other.
        let found = |from: usize| {
            (from..bytes.len() - head.len())
                .step_by(SECTOR as usize)
                .find(|at| &bytes[*at..*at + head.len()] == head)
        };
        let at = found(from).or_else(|| found(0)).unwrap();
        from = at + SECTOR as usize;
        // In its middle, and of the boot image behind its head, where root hash and signature would be.
        insider.attack(start + at as u64 + content.len() / 2, &["partition `esp`", path.name()]);
    }
}

#[test]
fn a_byte_of_the_esp_that_is_of_no_file() {
    let Some(insider) = insider() else { return };
    for label in ["esp", "FORGE-ENROLL"] {
        let (name, start, length) = insider.partition(label);
        let partition = format!("partition `{name}`");
        let image = File::open(insider.raw()).unwrap();
        let mut boot = [0; 64];
        image.read_exact_at(&mut boot, start).unwrap();
        let fat = u64::from(u16::from_le_bytes([boot[14], boot[15]])) * SECTOR;
        for (what, offset) in [
            ("boot sector: maker", 3),
            ("boot sector: volume id", 67),
            ("boot sector: boot code", 300),
            ("reserved sector", fat - 1),
            ("first entry of the FAT", fat),
            ("an entry of the FAT", fat + 8),
            ("free space", length - SECTOR),
        ] {
            eprintln!("{label}: {what}");
            insider.attack(start + offset, &[&partition]);
        }
    }
    let (_, start, length) = insider.partition("esp");
    let mut bytes = vec![0; length as usize];
    File::open(insider.raw()).unwrap().read_exact_at(&mut bytes, start).unwrap();
    let entry = bytes.chunks(32).position(|e| e.starts_with(b"EFI        ")).unwrap() as u64 * 32;
    for offset in [entry, entry + 11, entry + 22, entry + 28] {
        insider.attack(start + offset, &["partition `esp`"]);
    }
}

#[test]
fn a_block_of_the_root_or_the_payload() {
    let Some(insider) = insider() else { return };
    for label in ["tamper_", "_payload"] {
        let (name, start, length) = match label {
            "tamper_" => {
                insider.image.table().partitions.get(1).map(|p| (p.name.clone(), p.offset, p.length)).unwrap()
            }
            ends => insider.partition(ends),
        };
        assert!(!name.ends_with("_verity"));
        for block in [0, length / 4096 / 3] {
            insider.attack(
                start + block * 4096 + 1024,
                &[&format!("partition `{name}`"), &format!("block {block}")],
            );
        }
    }
}

#[test]
fn a_byte_of_a_hash_tree() {
    let Some(insider) = insider() else { return };
    let verities: Vec<_> =
        insider.image.table().partitions.iter().filter(|p| p.name.ends_with("_verity")).collect();
    assert_eq!(verities.len(), 2);
    for partition in verities {
        let named = format!("partition `{}`", partition.name);
        // The superblock's magic, its UUID and salt, what pads it; the root of the tree, a leaf; behind the tree.
        for offset in [0, 16, 88, 600, 4096, 2 * 4096 + 32, partition.length - 1] {
            insider.attack(partition.offset + offset, &[&named]);
        }
    }
}

#[test]
fn a_compressed_disk_with_a_changed_block() {
    let Some(insider) = insider() else { return };
    let zst = "amd64/disk.raw.zst";
    let (name, start, _) = insider.partition("_payload");
    flip(&insider.raw(), start + 4096);
    let image = Content::of_file(Arc::new(File::open(insider.raw()).unwrap())).unwrap();
    let path = insider.dir.path().join(zst);
    disk::compressed::write(&image, File::create(&path).unwrap(), 2).unwrap();
    std::fs::remove_file(insider.raw()).unwrap();
    reseal(insider.dir.path(), &insider.bench.key);
    let words = ["checking amd64/disk.raw.zst", &format!("partition `{name}`"), "block 1"];
    insider.bench.verify(insider.dir.path()).refused(4, &words);
    // The same with a byte of the compressed stream: of its head, of its middle and of its end.
    std::fs::copy(insider.bench.release.join(zst), &path).unwrap();
    for offset in [0, length(&path) / 2, length(&path) - 1] {
        flip(&path, offset);
        reseal(insider.dir.path(), &insider.bench.key);
        insider.bench.verify(insider.dir.path()).refused(4, &["checking amd64/disk.raw.zst"]);
        flip(&path, offset);
    }
}
