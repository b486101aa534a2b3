//! `forge flash` onto files, onto a loop device, and onto what it has to refuse.

use crate::fixture::{self, events, forge, ok, refused};
use crate::support::{self, tool};
use forge::disk::erofs::{self, ErofsSpec};
use forge::disk::gpt::{PartitionType, TAIL, Table};
use forge::disk::{self, DiskSpec, ENROLL_LABEL, ENROLL_SIZE, PartitionContent, PartitionSpec};
use forge::enroll::bootstrap::{DevicePolicy, Mode};
use forge::enroll::inventory;
use forge::enroll::issue::{Description, Order, issue};
use forge::model::{Arch, Digest, Epoch, Guid};
use forge::release::{MANIFEST, Manifest, SUMS, SUMS_SIGNATURE};
use forge::seal;
use forge::sign::{PrivateKey, Signer as _};
use forge::tree::{Content, Node, Tree, TreePath};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1_795_305_600);

/// A signed release of a small disk, whose root trusts a fleet.
struct Bench {
    dir: tempfile::TempDir,
    root: PrivateKey,
    raw: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let root = PrivateKey::generate().unwrap();
        let raw = image(dir.path(), &root);
        let bench = Bench { dir, root, raw };
        bench.release();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn artifact(&self) -> PathBuf {
        self.path("release/amd64/disk.raw.zst")
    }

    /// The release's directory, as `forge build` seals one of a single disk.
    fn release(&self) {
        let key = PrivateKey::generate().unwrap();
        std::fs::create_dir_all(self.path("release/amd64")).unwrap();
        let packed = zstd::encode_all(&self.raw[..], 1).unwrap();
        std::fs::write(self.artifact(), &packed).unwrap();
        let (name, digest) = ("amd64/disk.raw.zst", Digest::of(&packed));
        let manifest = serde_json::json!({
            "schema": 1, "site": "store-042", "version": "1.2", "epoch": EPOCH, "forge": "0",
            "plan": digest, "lock": digest, "key": key.key_id(), "image": null, "steps": {}, "packages": {},
            "artifacts": [{ "path": name, "size": packed.len(), "digest": digest, "media-type": "x",
                "arch": "amd64", "step": "amd64/disk" }],
        });
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let manifest = manifest.to_bytes().unwrap();
        let sums = seal::sums([(name, digest), (MANIFEST, Digest::of(&manifest))]);
        let put = |name: &str, bytes: &[u8]| std::fs::write(self.path("release").join(name), bytes).unwrap();
        put(MANIFEST, &manifest);
        put(SUMS_SIGNATURE, seal::sums_signature(&sums, &key).unwrap().as_bytes());
        put(SUMS, sums.as_bytes());
        put("amd64/disk.raw.zst.sigstore.json", &seal::file(name, digest, &key).unwrap());
        std::fs::write(self.path("release.pub"), key.public_key().to_pem()).unwrap();
    }

    /// `forge flash` of the release, not asking.
    fn flash(&self, to: &Path) -> Command {
        let mut flash = forge(&self.path("cache"));
        flash.args(["--json", "flash", "--yes"]).arg(self.path("release")).arg(to);
        flash.arg("--key").arg(self.path("release.pub")).stdin(Stdio::null());
        flash
    }

    /// A file full of something, as long as a disk.
    fn stick(&self, name: &str, length: usize) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, vec![0xaa; length]).unwrap();
        path
    }

    /// What a disk of `length` bytes has to hold: the image, its table's backup at the end, zeros between.
    fn expected(&self, length: usize) -> Vec<u8> {
        let mut disk = self.raw.clone();
        let table = Table::decode(&disk.clone().into()).unwrap();
        let (head, tail) = Table { length: length as u64, ..table }.encode().unwrap();
        let old = disk.len() - TAIL as usize;
        disk[old..].fill(0);
        disk.resize(length, 0);
        disk[..head.len()].copy_from_slice(&head);
        disk[length - tail.len()..].copy_from_slice(&tail);
        disk
    }

    /// The bundle of one box, for `profile`, signed by `root`.
    fn bundle(&self, name: &str, profile: &str, root: &PrivateKey) -> PathBuf {
        let fleet = Description {
            schema: 1,
            fleet: "shops".into(),
            spki_sha256: vec![Digest::of("certificate")],
            ca_pem: None,
            grant_keys: vec![root.public_key().clone()],
        };
        let order = Order {
            fleet,
            endpoints: vec!["https://fleet.example:8443".into()],
            profile: profile.into(),
            mode: Mode::Device,
            batch: None,
            max_claims: 1,
            serial: 7,
            issued_at: EPOCH,
            shelf_life_days: 180,
            rows: inventory::parse(b"name,serial,macs\ntill-1,PF-1,\n").unwrap(),
            proxy: None,
            proxy_ca: None,
            ntp: vec![],
            policy: DevicePolicy { portal: Some("https://fleet.example:8443".into()), ..Default::default() },
        };
        let issued = issue(&order, root).unwrap().remove(0);
        let dir = self.path(name).join("forge-enroll");
        std::fs::create_dir_all(&dir).unwrap();
        for (file, bytes) in &issued.files {
            std::fs::write(dir.join(file), &bytes[..]).unwrap();
        }
        self.path(name)
    }
}

/// A raw disk: a root that trusts `fleet`, something in the place of its tree, FORGE-ENROLL.
fn image(dir: &Path, fleet: &PrivateKey) -> Vec<u8> {
    let mut tree = Tree::new();
    let mut put = |path: &str, node| tree.insert(TreePath::parse(path).unwrap(), node).unwrap();
    for path in ["usr", "usr/lib", "usr/lib/forge", "usr/lib/forge/trust.d"] {
        put(path, Node::dir(0o755));
    }
    put("usr/lib/forge/trust.d/root.pub", Node::text(fleet.public_key().to_pem(), 0o644));
    put("usr/lib/forge/profile.json", Node::text(r#"{"site":{"name":"store-042"}}"#, 0o644));
    let noise: Vec<u8> = (0..1u32 << 20).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    put("usr/lib/noise", Node::file(noise, 0o644));
    let root = File::options().read(true).write(true).create_new(true).open(dir.join("root")).unwrap();
    let spec = ErofsSpec { uuid: Guid::from_u128(5), epoch: EPOCH, name: "root".into() };
    erofs::write(&tree, &spec, &root).unwrap();
    let partition = |kind, name: &str, content, min_length| PartitionSpec {
        kind,
        guid: Guid::derived(&Digest::of("disk"), name),
        name: name.into(),
        flags: 0,
        content,
        min_length,
    };
    let enroll =
        PartitionContent::Fat { tree: Tree::new(), label: ENROLL_LABEL.into(), fat32: false, epoch: EPOCH };
    let root = PartitionContent::Image(Content::of_file(Arc::new(root)).unwrap());
    let spec = DiskSpec {
        guid: Guid::derived(&Digest::of("disk"), "disk"),
        partitions: vec![
            partition(PartitionType::Root(Arch::Amd64), "store-042_1.2", root, 0),
            partition(PartitionType::RootVerity(Arch::Amd64), "tree", PartitionContent::Empty, 1 << 20),
            partition(PartitionType::Enroll, "FORGE-ENROLL", enroll, ENROLL_SIZE),
        ],
    };
    let path = dir.join("disk.raw");
    disk::write(&spec, &File::options().read(true).write(true).create_new(true).open(&path).unwrap())
        .unwrap();
    std::fs::read(path).unwrap()
}

/// Partition tools of others find nothing wrong.
fn assert_sound(disk: &Path) {
    if let (Some(sfdisk), Some(sgdisk)) = (tool("sfdisk"), tool("sgdisk")) {
        let said = ok(Command::new(sfdisk).arg("--verify").arg(disk));
        assert!(said.contains("No errors detected"), "{said}");
        let said = ok(Command::new(sgdisk).arg("-v").arg(disk));
        assert!(said.contains("No problems found"), "{said}");
    }
}

#[test]
fn a_disk_holds_the_image_with_a_table_of_its_own() {
    let bench = Bench::new();
    const LENGTH: usize = (64 << 20) + 512 * 7;
    let stick = bench.stick("stick.img", LENGTH);
    let told = ok(&mut bench.flash(&stick));
    let flashed = &events(&told, "flashed")[0];
    assert_eq!((&flashed["signed"], &flashed["size"]), (&true.into(), &bench.raw.len().into()));
    assert_eq!(flashed["label"]["image"], "store-042 1.2 amd64");
    let (found, expected) = (std::fs::read(&stick).unwrap(), bench.expected(LENGTH));
    let last = LENGTH - (1 << 20);
    assert!(found[..bench.raw.len()] == expected[..bench.raw.len()], "the image");
    assert!(found[last..] == expected[last..], "the end of the disk");
    assert_sound(&stick);
    // Without a disk to keep anything of, it is the image and nothing else, with its holes.
    let fresh = bench.path("fresh.img");
    ok(&mut bench.flash(&fresh));
    assert!(std::fs::read(&fresh).unwrap() == bench.raw);
    let meta = std::fs::metadata(&fresh).unwrap();
    assert!(meta.blocks() * 512 < meta.len() / 2, "{} of {}", meta.blocks() * 512, meta.len());
    // A plain image, of which nobody says anything.
    let plain = bench.path("plain.img");
    let mut flash = forge(&bench.path("cache"));
    flash.args(["flash", "--yes"]).arg(bench.path("disk.raw")).arg(&plain);
    let out = flash.output().unwrap();
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stderr).contains("nobody's signature"),
        "{out:?}"
    );
    assert!(std::fs::read(&plain).unwrap() == bench.raw);
}

#[test]
fn a_bundle_goes_along_if_the_image_will_take_it() {
    let bench = Bench::new();
    let stick = bench.stick("stick.img", 48 << 20);
    let bundle = bench.bundle("till-1", "store-042", &bench.root);
    let svg = bench.path("label.svg");
    let mut label = std::ffi::OsString::from("--label=");
    label.push(&svg);
    let told = ok(bench.flash(&stick).arg("--bundle").arg(&bundle).arg(&label));
    let label = events(&told, "flashed")[0]["label"].clone();
    assert_eq!((&label["serial"], &label["fleet"]), (&"PF-1".into(), &"shops".into()), "{label}");
    let drawn = std::fs::read_to_string(svg).unwrap();
    for word in ["till-1", "PF-1", "store-042 1.2 amd64", label["ticket"].as_str().unwrap()] {
        assert!(drawn.contains(word), "{word}: {drawn}");
    }
    let seed = std::fs::read_to_string(bundle.join("forge-enroll/ticket.key")).unwrap();
    assert!(!drawn.contains(seed.trim()) && !told.contains(seed.trim()), "the ticket's seed is on the label");
    assert_sound(&stick);
    if let Some(mcopy) = tool("mcopy") {
        let content = Content::of_file(Arc::new(File::open(&stick).unwrap())).unwrap();
        let table = Table::decode(&content).unwrap();
        let place = table.partitions.iter().find(|p| p.name == "FORGE-ENROLL").unwrap();
        let volume = format!("{}@@{}", stick.display(), place.offset);
        let out = bench.path("back");
        std::fs::create_dir(&out).unwrap();
        ok(Command::new(mcopy).args(["-s", "-i", &volume, "::forge-enroll"]).arg(&out));
        assert_eq!(
            fixture::digests(&out.join("forge-enroll")),
            fixture::digests(&bundle.join("forge-enroll"))
        );
    }
    let text = ok(forge(&bench.path("cache"))
        .args(["flash", "--yes", "--label"])
        .arg(bench.artifact())
        .arg(bench.path("fresh.img"))
        .arg("--bundle")
        .arg(&bundle));
    assert!(text.contains("serial      PF-1") && text.contains('█'), "{text}");

    let other = PrivateKey::generate().unwrap();
    let before = fixture::digest(&stick);
    for (bundle, says) in [
        (bench.bundle("foreign", "store-042", &other), "not signed by this fleet"),
        (bench.bundle("elsewhere", "store-043", &bench.root), "the bundle is for store-043"),
        (bench.path("release"), "no enrollment bundle"),
    ] {
        let said = refused(bench.flash(&stick).arg("--bundle").arg(bundle), 2);
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(fixture::digest(&stick), before, "a refused bundle touched the disk");
}

#[test]
fn what_must_not_be_written_leaves_the_target_as_it_was() {
    let bench = Bench::new();
    let stick = bench.stick("stick.img", 48 << 20);
    let before = fixture::digest(&stick);
    let small = bench.stick("small.img", bench.raw.len() - 512);
    let said = refused(&mut bench.flash(&small), 2);
    assert!(said.contains("small.img") && said.contains("the image needs"), "{said}");
    assert!(std::fs::read(&small).unwrap().iter().all(|byte| *byte == 0xaa));
    let said = refused(&mut bench.flash(bench.dir.path()), 2);
    assert!(said.contains("a directory"), "{said}");
    let said = refused(&mut bench.flash(Path::new("/dev/no-such-disk")), 2);
    assert!(said.contains("/dev/no-such-disk is no disk: it is not there"), "{said}");
    let mut asking = forge(&bench.path("cache"));
    asking.arg("flash").arg(bench.path("release")).arg(&stick).stdin(Stdio::null());
    let said = refused(&mut asking, 2);
    assert!(said.contains("no terminal") && said.contains("--yes"), "{said}");

    let packed = std::fs::read(bench.artifact()).unwrap();
    let sums = std::fs::read_to_string(bench.path("release").join(SUMS)).unwrap();
    // Damaged; whole and another; and another that its own sums are right about.
    let mut damaged = packed.clone();
    damaged[packed.len() / 2] ^= 1;
    let other = zstd::encode_all(&bench.raw[..], 3).unwrap();
    for (bytes, consistent) in [(&damaged, false), (&other, false), (&other, true)] {
        std::fs::write(bench.artifact(), bytes).unwrap();
        let text = if consistent {
            sums.replace(&Digest::of(&packed).hex(), &Digest::of(bytes).hex())
        } else {
            sums.clone()
        };
        std::fs::write(bench.path("release").join(SUMS), text).unwrap();
        let said = refused(&mut bench.flash(&stick), 4);
        assert!(said.contains("disk.raw.zst") || said.contains("signature"), "{said}");
    }
    let fresh = bench.path("fresh.img");
    refused(&mut bench.flash(&fresh), 4);
    assert!(!fresh.exists(), "a file of a refused image");
    assert_eq!(fixture::digest(&stick), before);
}

/// A loop device over a file, gone with this.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status(); // it may be gone
    }
}

#[test]
fn a_block_device_is_written_when_nothing_uses_it_and_it_is_asked_for() {
    if !support::is_root() {
        return;
    }
    let Some(losetup) = tool("losetup") else { return };
    let bench = Bench::new();
    const LENGTH: usize = 64 << 20;
    let file = bench.stick("behind.img", LENGTH);
    let made = Command::new(&losetup).args(["--find", "--show"]).arg(&file).output().unwrap();
    if !made.status.success() {
        println!("skipped: no loop device: {}", String::from_utf8_lossy(&made.stderr).trim());
        return;
    }
    let device = Loop(String::from_utf8(made.stdout).unwrap().trim().into());
    let path = Path::new(&device.0);
    let said = refused(&mut bench.flash(path), 2);
    assert!(said.contains("it is built in") && said.contains("--all"), "{said}");
    // Somebody has it for himself, as a mounted file system has.
    let held = {
        use std::os::unix::fs::OpenOptionsExt as _;
        File::options().read(true).custom_flags(rustix::fs::OFlags::EXCL.bits() as i32).open(path).unwrap()
    };
    let said = refused(bench.flash(path).arg("--all"), 2);
    assert!(said.contains("in use"), "{said}");
    drop(held);
    let told = ok(bench.flash(path).arg("--all"));
    let disk = &events(&told, "flashed")[0]["disk"];
    assert_eq!((&disk["transport"], &disk["size"]), (&"loop".into(), &LENGTH.into()), "{disk}");
    assert_sound(path);
    let mut found = vec![0; LENGTH];
    File::open(path).unwrap().read_exact_at(&mut found, 0).unwrap();
    let expected = bench.expected(LENGTH);
    let (image, last) = (bench.raw.len(), LENGTH - (1 << 20));
    assert!(found[..image] == expected[..image] && found[last..] == expected[last..]);
    let listed =
        ok(forge(&bench.path("cache")).args(["--json", "flash", "--all"]).arg(bench.path("release")));
    assert!(events(&listed, "disk").iter().any(|disk| disk["path"] == device.0), "{listed}");
    let listed = ok(forge(&bench.path("cache")).args(["--json", "flash"]).arg(bench.path("release")));
    assert!(events(&listed, "disk").iter().all(|disk| disk["removable"] == true), "{listed}");
}

#[test]
fn a_built_release_is_flashed_and_passes_every_check_of_the_disk() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let stick = scratch.path().join("stick.raw");
    File::create(&stick).unwrap().set_len(8 << 30).unwrap();
    let start = std::time::Instant::now();
    let mut flash = forge(&scratch.path().join("cache"));
    flash.args(["--json", "flash", "--yes"]).arg(&shared.release).arg(&stick).arg("--key").arg(shared.key());
    let told = ok(&mut flash);
    println!("flashed in {:.1?}: {}", start.elapsed(), events(&told, "flashed")[0]);
    assert_sound(&stick);
    let content = Content::of_file(Arc::new(File::open(&stick).unwrap())).unwrap();
    let image = disk::DiskImage::open(content).unwrap();
    let manifest = Manifest::from_bytes(&std::fs::read(shared.release.join(MANIFEST)).unwrap()).unwrap();
    let artifact = manifest.artifacts.iter().find(|a| a.path == "amd64/disk.raw.zst").unwrap();
    let files = |named: &BTreeMap<String, Digest>| {
        named.iter().map(|(path, digest)| (TreePath::parse(path).unwrap(), *digest)).collect()
    };
    let expected = artifact.volumes.iter().map(|(label, named)| (label.clone(), files(named))).collect();
    let report = disk::verify(&image, &expected).unwrap();
    assert_eq!(report.partitions.len(), image.table().partitions.len());
}
