//! `forge inspect` and `forge diff` on small releases, disks, kernel images and locks: as text, as JSON and as a page.

use super::disk::{disk_spec, uki};
use forge::disk;
use forge::host::fs::Durability;
use forge::model::{Arch, Bytes, Digest, Epoch};
use forge::oci::layer::{self, Codec};
use forge::oci::layout::{Layout, LayoutWriter};
use forge::oci::{self, Annotations, image};
use forge::plan::StepId;
use forge::release::{Artifact, ImageRecord, MANIFEST, Manifest};
use forge::seal;
use forge::sign::{PrivateKey, Signer as _};
use forge::tree::{Node, Tree, TreePath, tar};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Output};

const EPOCH: Epoch = Epoch(1_795_219_200);

fn forge(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forge"))
        .current_dir(dir)
        .args(arguments)
        .arg("--cache-dir")
        .arg(dir.join("cache"))
        .output()
        .unwrap()
}

fn stdout(dir: &Path, arguments: &[&str]) -> String {
    let output = forge(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(dir: &Path, arguments: &[&str]) -> Vec<serde_json::Value> {
    let text = stdout(dir, &[arguments, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An operating system of two packages, one of `version`, with a file for it.
fn os(version: &str) -> Tree {
    let mut tree = Tree::new();
    let package = |name: &str, version: &str, size: u32| {
        format!(
            "Package: {name}\nStatus: install ok installed\nInstalled-Size: {size}\nVersion: {version}\n\n"
        )
    };
    let status = package("base-files", "13", 300) + &package("nginx-light", version, 1200);
    for (path, text) in [
        ("var/lib/dpkg/status", status),
        ("etc/motd", "Store 042\n".into()),
        ("usr/sbin/nginx", format!("nginx {version}").repeat(version.len())),
    ] {
        tree.insert(TreePath::parse(path).unwrap(), Node::text(text, 0o644)).unwrap();
    }
    tree
}

fn payload() -> Tree {
    let id = "ab".repeat(32);
    let images = serde_json::json!([{ "id": "x", "digest": Digest::of("till"), "names": ["localhost/till:1"], "layer": id }]);
    let layers = serde_json::json!([{ "id": id, "diff-size": 4096 }]);
    let mut tree = Tree::new();
    for (path, text) in
        [("images/overlay-images/images.json", images), ("images/overlay-layers/layers.json", layers)]
    {
        tree.insert(TreePath::parse(path).unwrap(), Node::text(text.to_string(), 0o644)).unwrap();
    }
    tree
}

fn layout(dir: &Path, layers: &[(&str, Tree)], key: &PrivateKey) -> Digest {
    let mut writer = LayoutWriter::create(dir).unwrap();
    let blobs = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    let mut made = vec![];
    for (name, tree) in layers {
        let mut bytes = vec![];
        let written = tar::write(tree, EPOCH, &mut bytes).unwrap();
        let path = blobs.path().join(name);
        let out = File::create(&path).unwrap();
        let layer = layer::compress(&bytes[..], written, out, Codec::Zstd, NonZero::<u32>::MIN).unwrap();
        writer.file(oci::digest(&layer.descriptor).unwrap(), &path).unwrap();
        made.push((layer, format!("forge layer {name}")));
    }
    let spec = image::Spec {
        arch: Arch::Amd64,
        epoch: EPOCH,
        layers: made,
        run: image::Run::default(),
        labels: Annotations::new(),
    };
    let image = image::compose(&spec).unwrap();
    let index = image::index(std::slice::from_ref(&image), EPOCH, &Annotations::new()).unwrap();
    writer.image(&[image], &index, "1").unwrap();
    writer.commit(Durability::Cached).unwrap();
    seal::layout(&mut Layout::open(dir).unwrap(), "", key).unwrap();
    oci::digest(&index.descriptor).unwrap()
}

/// A release with a layout and a disk, as `forge build` lays it out.
fn release(dir: &Path, version: &str, key: &PrivateKey) {
    std::fs::create_dir_all(dir.join("amd64")).unwrap();
    let index = layout(&dir.join("oci"), &[("os", os(version)), ("workloads", payload())], key);
    let work = tempfile::tempdir().unwrap();
    let raw = dir.join("amd64/disk.raw");
    let out = File::options().read(true).write(true).create_new(true).open(&raw).unwrap();
    disk::write(&disk_spec(work.path()).0, &out).unwrap();
    let (digest, size) = Digest::of_reader(File::open(&raw).unwrap()).unwrap();
    let bundle = seal::file("amd64/disk.raw", digest, key).unwrap();
    std::fs::write(dir.join("amd64/disk.raw.sigstore.json"), bundle).unwrap();
    let manifest = Manifest {
        schema: forge::release::SCHEMA,
        site: "store-042".into(),
        version: version.into(),
        epoch: EPOCH,
        forge: "0.0.0".into(),
        plan: Digest::of(version),
        lock: Digest::of("lock"),
        key: key.key_id(),
        image: Some(ImageRecord { tag: "1".into(), index, manifests: BTreeMap::new() }),
        artifacts: vec![Artifact {
            path: "amd64/disk.raw".into(),
            size: Bytes(size),
            digest,
            media_type: "application/octet-stream".into(),
            arch: Arch::Amd64,
            step: StepId::new("amd64/disk.raw"),
            volumes: BTreeMap::new(),
        }],
        steps: BTreeMap::new(),
        packages: BTreeMap::new(),
    };
    std::fs::write(dir.join(MANIFEST), manifest.to_bytes().unwrap()).unwrap();
}

struct Two {
    dir: tempfile::TempDir,
    key: PrivateKey,
}

fn two() -> Two {
    let two = Two { dir: tempfile::tempdir().unwrap(), key: PrivateKey::generate().unwrap() };
    release(&two.dir.path().join("a"), "1.26", &two.key);
    release(&two.dir.path().join("b"), "1.28-1", &two.key);
    two
}

#[test]
fn a_release_is_shown_as_a_tree() {
    let two = two();
    let tree = stdout(two.dir.path(), &["inspect", "a"]);
    let key = two.key.key_id();
    for line in [
        "a  release
├─ ",
        "├─ site: store-042
",
        "│  ├─ layer os  ",
        ", 2 packages  sha256:",
        "│  └─ layer workloads  ",
        "│  ├─ EFI system  esp  40.0 MiB
",
        "│  │  └─ root hash ",
        " command line: console=ttyS0 roothash=",
        "└─ nginx-light 1.26
",
        "└─ localhost/till:1  4.00 KiB  sha256:",
        "└─ signatures (not checked here: run `forge verify`)
",
        &format!(
            "amd64/disk.raw  sigstore bundle  {key}
"
        ),
    ] {
        assert!(tree.contains(line), "{line}: {tree}");
    }
}

#[test]
fn json_has_what_the_tree_has() {
    let two = two();
    let [found] = &json(two.dir.path(), &["inspect", "a"])[..] else { panic!("one line") };
    assert_eq!(
        (&found["v"], &found["type"], &found["form"]),
        (&1.into(), &"inspected".into(), &"release".into())
    );
    assert_eq!(found["packages"]["amd64"]["os"]["nginx-light"]["version"], "1.26");
    assert_eq!(found["containers"]["amd64"][0]["names"][0], "localhost/till:1");
    assert_eq!(found["images"][0]["layers"][0]["name"], "os");
    assert_eq!(found["images"][0]["layers"][0]["contents"]["packages"]["os"], 2);
    let kinds: Vec<_> =
        found["disks"][0]["partitions"].as_array().unwrap().iter().map(|p| &p["kind"]).collect();
    assert_eq!(kinds, ["EFI system", "root", "root verity", "payload", "payload verity", "enrollment"]);
    let root_hash = found["disks"][0]["partitions"][1]["root-hash"].as_str().unwrap();
    assert!(found["kernels"][0]["cmdline"].as_str().unwrap().contains(&format!("roothash={root_hash}")));
    let signed: Vec<_> = found["signatures"].as_array().unwrap().iter().map(|s| &s["form"]).collect();
    assert_eq!(signed.iter().filter(|f| ***f == "sigstore bundle").count(), 3, "{signed:?}");
}

#[test]
fn the_difference_of_two_releases_names_package_file_and_layer() {
    let two = two();
    let text = stdout(two.dir.path(), &["diff", "a", "b", "--html", "changes.html"]);
    for line in
        ["~ nginx-light 1.26 → 1.28-1", "~ /usr/sbin/nginx", "~ os sha256:", "~ version 1.26 → 1.28-1"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.starts_with("packages +0 -0 ~1, layers +0 -0 ~1"), "{text}");
    assert!(!text.contains("motd") && !text.contains("workloads"), "{text}");
    let lines = json(two.dir.path(), &["diff", "a", "b"]);
    assert_eq!(lines[0]["counts"]["package"], serde_json::json!({ "added": 0, "removed": 0, "changed": 1 }));
    let package = lines.iter().find(|l| l["what"] == "package").unwrap();
    assert_eq!(
        (&package["place"], &package["old"], &package["new"]),
        (&"amd64/os".into(), &"1.26".into(), &"1.28-1".into())
    );
    let page = std::fs::read_to_string(two.dir.path().join("changes.html")).unwrap();
    assert!(page.contains("nginx-light<td>1.26<td>1.28-1"), "{page}");
}

#[test]
fn nothing_differs_from_itself() {
    let two = two();
    for what in ["a", "a/oci", "a/amd64/disk.raw"] {
        assert_eq!(stdout(two.dir.path(), &["diff", what, what]), "no differences\n");
    }
}

#[test]
fn a_layer_that_both_have_is_not_read() {
    let two = two();
    // The payload's layer is the same blob in both: its bytes may even be gone wrong.
    let same = std::fs::read_dir(two.dir.path().join("a/oci/blobs/sha256"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|name| two.dir.path().join("b/oci/blobs/sha256").join(name).exists());
    let mut damaged = 0;
    for name in same {
        let path = two.dir.path().join("a/oci/blobs/sha256").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            bytes.iter_mut().skip(8).for_each(|b| *b ^= 0x55);
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    stdout(two.dir.path(), &["diff", "a", "b"]);
    let output = forge(two.dir.path(), &["inspect", "a"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_kernel_image_shows_its_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let work = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("forge.efi"), uki(work.path(), "quiet console=ttyS0")).unwrap();
    std::fs::write(dir.path().join("other.efi"), uki(work.path(), "debug console=ttyS1")).unwrap();
    let tree = stdout(dir.path(), &["inspect", "forge.efi"]);
    for line in ["kernel 6.12.0\n", "command line: quiet console=ttyS0\n", ".linux  488 KiB  sha256:"] {
        assert!(tree.contains(line), "{line}: {tree}");
    }
    let text = stdout(dir.path(), &["diff", "forge.efi", "other.efi"]);
    for line in ["- quiet", "+ debug", "~ console ttyS0 → ttyS1"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

fn lock(version: &str) -> String {
    let package = forge::lock::LockedPackage {
        arch: Arch::Amd64,
        name: "nginx-light".into(),
        version: version.into(),
        suite: "debian:trixie".into(),
        path: "pool/main/n/nginx.deb".into(),
        size: Bytes(version.len() as u64),
        digest: Digest::of(version),
        sets: vec!["container/till".into(), "os".into()],
    };
    let lock = forge::lock::Lock {
        schema: forge::lock::SCHEMA,
        epoch: EPOCH,
        archives: vec![],
        sets: vec![],
        packages: vec![package],
        images: vec![],
        releases: vec![],
        remotes: vec![],
        charts: vec![],
        files: vec![],
    };
    lock.to_text()
}

#[test]
fn locks_are_shown_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.lock"), lock("1.26")).unwrap();
    std::fs::write(dir.path().join("b.lock"), lock("1.28-1")).unwrap();
    let tree = stdout(dir.path(), &["inspect", "a.lock"]);
    assert!(tree.starts_with("a.lock  lock\n") && tree.contains("os: 1, 4 B\n"), "{tree}");
    let text = stdout(dir.path(), &["diff", "a.lock", "b.lock"]);
    for set in ["packages of amd64/container/till", "packages of amd64/os"] {
        assert!(text.contains(&format!("{set}\n  ~ nginx-light 1.26 → 1.28-1  +2 B")), "{text}");
    }
    std::fs::write(dir.path().join("bad.lock"), lock("1").replace("schema = 1", "schema = 9")).unwrap();
    assert_eq!(forge(dir.path(), &["inspect", "bad.lock"]).status.code(), Some(5));
}

#[test]
fn names_of_others_do_not_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = os("1");
    let status = "Package: \u{1b}[2Jevil\nStatus: install ok installed\nVersion: 1\u{7}\n";
    tree.insert(TreePath::parse("var/lib/dpkg/status").unwrap(), Node::text(status, 0o644)).unwrap();
    layout(&dir.path().join("oci"), &[("os", tree)], &PrivateKey::generate().unwrap());
    let text = stdout(dir.path(), &["inspect", "oci"]);
    assert!(text.contains("\\u{1b}[2Jevil 1\\u{7}") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn what_is_nothing_known_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for (what, code) in [("empty", 2), ("missing", 2), (".", 2)] {
        let output = forge(dir.path(), &["inspect", what]);
        assert_eq!(output.status.code(), Some(code), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::write(dir.path().join("noise.raw"), [0x5a; 4096]).unwrap();
    assert_eq!(forge(dir.path(), &["inspect", "noise.raw"]).status.code(), Some(4));
}

proptest! {
    /// Whatever a tree holds, it does not differ from itself; and one file more is one file added.
    #[test]
    fn a_tree_differs_by_what_was_put_in(names in proptest::collection::btree_map("[a-z]{1,3}", any::<Vec<u8>>(), 0..8)) {
        use forge::contents::{Detail, of_tar};
        let mut tree = Tree::new();
        for (name, bytes) in names {
            tree.insert(TreePath::parse(&name).unwrap(), Node::file(bytes, 0o644)).unwrap();
        }
        let entries = |tree: &Tree| {
            let mut bytes = vec![];
            tar::write(tree, EPOCH, &mut bytes).unwrap();
            of_tar(&bytes[..], Detail::Files).unwrap().entries
        };
        let before = entries(&tree);
        prop_assert_eq!(&before, &entries(&tree));
        tree.insert(TreePath::parse("NEW").unwrap(), Node::text("x", 0o644)).unwrap();
        let after = entries(&tree);
        prop_assert_eq!(after.len(), before.len() + 1);
        prop_assert!(before.iter().all(|(path, state)| after.get(path) == Some(state)));
    }
}
