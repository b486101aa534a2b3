//! Disk images and file systems against the programs and the kernel that will read them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which say what they skip")]

use forge::boot::verity::{self, VeritySpec};
use forge::disk::erofs::{self, ErofsSpec};
use forge::disk::gpt::{PartitionType, flag};
use forge::disk::{self, DiskImage, DiskSpec, PartitionContent, PartitionSpec, fat};
use forge::host::cancel::Cancel;
use forge::host::tool::ToolCall;
use forge::model::{Arch, Digest, Epoch, Guid};
use forge::tree::{Content, Node, NodeKind, Tree, TreePath, cpio};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1_795_305_600);

/// The programs, or `None` after saying which is missing.
fn tools<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let mut found = names.map(PathBuf::from);
    for path in &mut found {
        let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        match places.iter().map(|dir| Path::new(dir).join(&*path)).find(|p| p.exists()) {
            Some(place) => *path = place,
            None if forge::host::env::var("FORGE_TEST_REQUIRE_TOOLS").as_deref() == Some("1") => {
                panic!("no {}", path.display())
            }
            None => {
                println!("skipped: no {}", path.display());
                return None;
            }
        }
    }
    Some(found)
}

fn run(program: &Path, args: &[&str]) -> String {
    let output = ToolCall::new(program).args(args).output(&Cancel::default());
    String::from_utf8_lossy(&output.unwrap_or_else(|e| panic!("{args:?}: {e:#}"))).into_owned()
}

fn p(s: &str) -> TreePath {
    TreePath::parse(s).unwrap()
}

fn scratch(dir: &Path, name: &str) -> (PathBuf, File) {
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    (path, file)
}

fn content_of(path: &Path) -> Content {
    Content::of_file(Arc::new(File::open(path).unwrap())).unwrap()
}

/// Bytes that repeat at no block size.
fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

/// A tree with one of everything that a root file system may hold.
fn everything() -> Tree {
    let mut tree = Tree::new();
    let mut put = |path: &str, node: Node| tree.insert(p(path), node).unwrap();
    for (i, length) in [0, 1, 31, 2000, 2048, 2049, 4000, 4095, 4096, 4097, 8191, 8192, 10_000, 1_000_003]
        .into_iter()
        .enumerate()
    {
        let node = Node { mtime: EPOCH.0 - 1000 + i as i64, ..Node::file(bytes(length, i), 0o644) };
        put(&format!("sizes/{length}"), node);
        put(
            &format!("same-time/{length}"),
            Node { mtime: EPOCH.0 + 5, ..Node::file(bytes(length, i), 0o4711) },
        );
    }
    for i in 0..3000 {
        put(&format!("large/a name of middling length, number {i}"), Node::text(i.to_string(), 0o600));
    }
    for i in 0..40 {
        put(&format!("large2/{i}{}", "n".repeat(250)), Node::symlink("t".repeat(1 + i * 100)));
    }
    put("usr/lib/os-release", Node::text("ID=forge\n", 0o644));
    put("etc/os-release", Node::symlink("../usr/lib/os-release"));
    put("owned", Node::text("x", 0o640).owned(70_000, 4_000_000_000));
    put("old", Node { mtime: -86_400, ..Node::text("x", 0o640) });
    put("dev/null", Node { kind: NodeKind::CharDevice { major: 1, minor: 3 }, ..Node::text("", 0o666) });
    put(
        "dev/many",
        Node { kind: NodeKind::BlockDevice { major: 259, minor: 70_000 }, ..Node::text("", 0o660) },
    );
    put("run/pipe", Node { kind: NodeKind::Fifo, ..Node::text("", 0o620) });
    put("tmp", Node::dir(0o1777));
    let mut capable = Node::file(bytes(5000, 1), 0o755);
    // cap_net_raw=ep, as setcap stores it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    capable.xattrs.insert("security.capability".into(), capability.to_vec());
    capable.xattrs.insert("user.comment".into(), b"two words".to_vec());
    capable.xattrs.insert("trusted.overlay.opaque".into(), b"y".to_vec());
    capable.xattrs.insert("user.long".into(), bytes(3000, 4));
    put("usr/bin/ping", capable);
    put("a-link", Node { kind: NodeKind::HardLink(p("usr/bin/ping")), ..Node::text("", 0) });
    put("zz/link", Node { kind: NodeKind::HardLink(p("usr/bin/ping")), ..Node::text("", 0) });
    let mut shared = Node::dir(0o750);
    // user::rwx, user:1000:r-x, group::r-x, mask::r-x, other::--- in the kernel's form, version 2.
    let acl = [
        2u8, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255,
        255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    shared.xattrs.insert("system.posix_acl_access".into(), acl.to_vec());
    shared.xattrs.insert("system.posix_acl_default".into(), acl.to_vec());
    put("srv/shared", shared);
    tree
}

/// What a name stands for, in words that are the same for a tree and for a mounted file system.
fn described(tree: &Tree) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (path, node) in tree.iter() {
        let (target, node) = match &node.kind {
            NodeKind::HardLink(target) => (target, tree.get(target).unwrap()),
            _ => (path, node),
        };
        let links = tree.iter().filter(|(_, n)| n.kind == NodeKind::HardLink(target.clone())).count();
        let what = match &node.kind {
            NodeKind::Dir => "dir".into(),
            NodeKind::File(content) => {
                format!("file {} of {} links", Digest::of_reader(content.reader()).unwrap().0, links + 1)
            }
            NodeKind::Symlink(target) => format!("symlink {target}"),
            NodeKind::CharDevice { major, minor } => format!("char {major}:{minor}"),
            NodeKind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            NodeKind::Fifo => "fifo".into(),
            NodeKind::HardLink(_) => unreachable!("resolved above"),
        };
        let line = format!(
            "{what} {:o} {}:{} at {} {:?}",
            node.mode,
            node.uid,
            node.gid,
            node.mtime.min(EPOCH.0),
            node.xattrs
        );
        lines.insert(path.as_str().to_string(), line);
    }
    lines
}

fn described_below(root: &Path, path: &str, lines: &mut BTreeMap<String, String>) {
    let full = if path.is_empty() { root.to_path_buf() } else { root.join(path) };
    let meta = full.symlink_metadata().unwrap();
    let kind = meta.file_type();
    let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let what = if kind.is_dir() {
        "dir".into()
    } else if kind.is_file() {
        let digest = Digest::of_reader(File::open(&full).unwrap()).unwrap().0;
        format!("file {digest} of {} links", meta.nlink())
    } else if kind.is_symlink() {
        format!("symlink {}", std::fs::read_link(&full).unwrap().display())
    } else if kind.is_char_device() {
        format!("char {}:{}", device().0, device().1)
    } else if kind.is_block_device() {
        format!("block {}:{}", device().0, device().1)
    } else {
        "fifo".into()
    };
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(&full, &mut names[..]).unwrap();
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|c| *c == 0).filter(|n| !n.is_empty()) {
        let name = std::str::from_utf8(name).unwrap();
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(&full, name, &mut value[..]).unwrap();
        value.truncate(length);
        xattrs.insert(name.to_string(), value);
    }
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    lines.insert(path.into(), format!("{what} {mode:o} {uid}:{gid} at {} {xattrs:?}", meta.mtime()));
    if kind.is_dir() {
        for entry in std::fs::read_dir(&full).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let child = if path.is_empty() { name } else { format!("{path}/{name}") };
            described_below(root, &child, lines);
        }
    }
}

fn assert_same(found: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) {
    for (path, line) in wanted {
        assert_eq!(found.get(path), Some(line), "{path}");
    }
    let names = |lines: &BTreeMap<String, String>| lines.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(found), names(wanted));
}

fn erofs_of(tree: &Tree, out: &File) -> u64 {
    let spec =
        ErofsSpec { uuid: Guid::derived(&Digest::of("test"), "root"), epoch: EPOCH, name: "forge".into() };
    erofs::write(tree, &spec, out).unwrap()
}

#[test]
fn fsck_takes_the_erofs_image() {
    let Some([fsck, dump]) = tools(["fsck.erofs", "dump.erofs"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, tree) in [("everything", everything()), ("empty", Tree::new())] {
        let (path, file) = scratch(dir.path(), name);
        erofs_of(&tree, &file);
        let path = path.to_str().unwrap();
        run(&fsck, &["--extract", path]);
        assert!(run(&dump, &["-s", path]).contains("0xE0F5E1E2"));
    }
}

/// A mounted file system, unmounted when dropped.
struct Mounted(PathBuf, PathBuf);

impl Mounted {
    fn new(image: &Path, kind: &str, at: &Path) -> Option<Mounted> {
        let [mount, umount] = tools(["mount", "umount"])?;
        std::fs::create_dir(at).unwrap();
        let call = ToolCall::new(mount).args(["-t", kind, "-o", "loop,ro"]).arg(image).arg(at);
        match call.output(&Cancel::default()) {
            Ok(_) => Some(Mounted(at.into(), umount)),
            Err(e) => {
                println!("skipped: cannot mount here: {e:#}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = ToolCall::new(&self.1).arg(&self.0).output(&Cancel::default());
    }
}

#[test]
fn the_kernel_reads_the_erofs_image_as_it_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = scratch(dir.path(), "image");
    let tree = everything();
    erofs_of(&tree, &file);
    let Some(mounted) = Mounted::new(&path, "erofs", &dir.path().join("mnt")) else { return };
    let mut found = BTreeMap::new();
    described_below(&mounted.0, "", &mut found);
    assert_same(&found, &described(&tree));
}

#[test]
fn erofs_images_of_equal_trees_are_equal_bytes() {
    let image = || {
        let file = tempfile::tempfile().unwrap();
        let length = erofs_of(&everything(), &file);
        assert_eq!(file.metadata().unwrap().len(), length);
        Digest::of_reader(Content::of_file(Arc::new(file)).unwrap().reader()).unwrap()
    };
    assert_eq!(image(), image());
}

#[test]
fn veritysetup_writes_the_same_tree_and_verifies_ours() {
    let Some([veritysetup]) = tools(["veritysetup"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    for blocks in [1usize, 2, 128, 129, 20_000] {
        let (data, file) = scratch(dir.path(), "data");
        file.write_all_at(&bytes(blocks * 4096, blocks), 0).unwrap();
        let spec = VeritySpec::derived(&Digest::of("verity"));
        let (ours, out) = scratch(dir.path(), "ours");
        let root = verity::format(&content_of(&data), &spec, &out, 0).unwrap().to_string();
        let theirs = dir.path().join("theirs");
        let (salt, uuid) = (forge::model::digest::hex(&spec.salt), spec.uuid.to_string());
        let [data, ours, theirs] = [&data, &ours, &theirs].map(|p| p.to_str().unwrap());
        let args = ["--salt", &salt, "--uuid", &uuid, data, theirs];
        let said = run(&veritysetup, &[&["format"], &args[..]].concat());
        assert!(said.contains(&root), "{blocks}: {root}\n{said}");
        let read = |path: &str| std::fs::read(path).unwrap();
        assert!(read(ours) == read(theirs), "{blocks} blocks: the trees differ");
        run(&veritysetup, &["verify", data, ours, &root]);
    }
}

fn esp_tree() -> Tree {
    let mut tree = Tree::new();
    for (path, length) in [
        ("EFI/BOOT/BOOTX64.EFI", 120_000),
        ("EFI/systemd/systemd-bootx64.efi", 120_000),
        ("EFI/Linux/quickstart_2026.11.22+3.efi.txt", 3_000_001),
        ("loader/loader.conf", 20),
        ("loader/empty file", 0),
        ("größer als 8.3", 5),
    ] {
        tree.insert(p(path), Node::file(bytes(length, length), 0o644)).unwrap();
    }
    for i in 0..300 {
        tree.insert(p(&format!("many/file number {i}")), Node::text(i.to_string(), 0o644)).unwrap();
    }
    tree
}

#[test]
fn fsck_and_mtools_take_the_fat_volume() {
    let Some([fsck, mcopy]) = tools(["fsck.vfat", "mcopy"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    for (mib, fat32) in [
        (4u64, false),
        (8, false),
        (40, false),
        (300, false),
        (34, true),
        (64, true),
        (300, true),
        (1024, true),
    ] {
        let (path, file) = scratch(dir.path(), &format!("{mib}-{fat32}"));
        file.set_len(mib << 20).unwrap();
        let label = "FORGEENROLL".to_string();
        let spec = fat::FatSpec { size: mib << 20, fat32, label, volume_id: 7, hidden: 0, epoch: EPOCH };
        let tree = if mib == 8 { Tree::new() } else { esp_tree() };
        fat::write(&tree, &spec, &file, 0).unwrap();
        let image = path.to_str().unwrap();
        let said = run(&fsck, &["-n", "-v", image]);
        let kind = if fat32 { "32 bit" } else { "16 bit" };
        assert!(said.contains(kind) || said.contains(&format!("{} bits/entry", &kind[..2])), "{mib}: {said}");
        let out = dir.path().join(format!("out-{mib}-{fat32}"));
        std::fs::create_dir(&out).unwrap();
        if !tree.is_empty() {
            run(&mcopy, &["-s", "-n", "-i", image, "::*", out.to_str().unwrap()]);
        }
        for (path, node) in tree.iter() {
            let copied = out.join(path.as_str());
            match &node.kind {
                NodeKind::File(content) => {
                    assert!(
                        std::fs::read(copied).unwrap() == content.to_vec(1 << 30).unwrap(),
                        "{mib}: {path}"
                    )
                }
                _ => assert!(copied.is_dir(), "{mib}: {path}"),
            }
        }
    }
}

/// A whole disk with root, payload and both trees, and what its ESP has to hold.
pub fn disk_spec(dir: &Path) -> (DiskSpec, disk::verify::ExpectedFiles) {
    let build = Digest::of("a build");
    let mut partitions = vec![];
    let mut cmdline = String::from("console=ttyS0");
    for (key, name, kind, tree_kind, tree) in [
        (
            "roothash",
            "site_1",
            PartitionType::Root(Arch::Amd64),
            PartitionType::RootVerity(Arch::Amd64),
            everything(),
        ),
        (
            "forge.payloadhash",
            "site_1_payload",
            PartitionType::Payload,
            PartitionType::PayloadVerity,
            esp_tree(),
        ),
    ] {
        let (image, file) = scratch(dir, name);
        erofs_of(&tree, &file);
        let (hashes, out) = scratch(dir, &format!("{name}_verity"));
        let root = verity::format(&content_of(&image), &VeritySpec::derived(&build), &out, 0).unwrap();
        cmdline += &format!(" {key}={root}");
        let (data, tree) = root.partition_uuids();
        for (kind, guid, name, path) in
            [(kind, data, name.to_string(), image), (tree_kind, tree, format!("{name}_verity"), hashes)]
        {
            let content = PartitionContent::Image(content_of(&path));
            partitions.push(PartitionSpec {
                kind,
                guid,
                name,
                flags: flag::READ_ONLY,
                content,
                min_length: 0,
            });
        }
    }
    let mut tree = esp_tree();
    tree.insert(p("EFI/Linux/site_1+3.efi"), Node::file(uki(dir, &cmdline), 0o644)).unwrap();
    let digest = |content: &Content| Digest::of_reader(content.reader()).unwrap().0;
    let files = tree.iter().filter_map(|(path, _)| Some((path.clone(), digest(tree.file(path)?)))).collect();
    let fat = |kind, name: &str, tree, fat32, mib: u64| PartitionSpec {
        kind,
        guid: Guid::derived(&build, name),
        name: name.into(),
        flags: 0,
        content: PartitionContent::Fat { tree, label: name.to_uppercase(), fat32, epoch: EPOCH },
        min_length: mib << 20,
    };
    partitions.insert(0, fat(PartitionType::Esp, "esp", tree, true, 40));
    partitions.push(fat(PartitionType::Enroll, "enroll", Tree::new(), false, 4));
    (DiskSpec { guid: Guid::derived(&build, "disk"), partitions }, BTreeMap::from([("esp".into(), files)]))
}

pub fn uki(dir: &Path, cmdline: &str) -> Vec<u8> {
    let (path, file) = scratch(dir, "uki");
    let spec = forge::boot::uki::UkiSpec {
        stub: stub().into(),
        os_release: "ID=forge\n".into(),
        cmdline: cmdline.into(),
        uname: "6.12.0".into(),
        linux: bytes(500_000, 1).into(),
        initrds: vec![bytes(70_001, 2).into(), bytes(30, 3).into()],
        devicetree: None,
        splash: None,
        sbat: Some("sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n".into()),
    };
    forge::boot::uki::write(&spec, &file).unwrap();
    std::fs::read(path).unwrap()
}

/// A PE image with headers and one section: enough for tools that list sections, not for a machine.
fn stub() -> Vec<u8> {
    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0\x64\x86\x01\0");
    put(0x40 + 20, &240u16.to_le_bytes());
    put(0x40 + 22, &0x22eu16.to_le_bytes());
    put(0x58, &0x20bu16.to_le_bytes());
    put(0x58 + 16, &0x1000u32.to_le_bytes());
    put(0x58 + 32, &0x1000u32.to_le_bytes());
    put(0x58 + 36, &0x200u32.to_le_bytes());
    put(0x58 + 56, &0x2000u32.to_le_bytes());
    put(0x58 + 60, &0x400u32.to_le_bytes());
    put(0x58 + 68, &10u16.to_le_bytes());
    put(0x58 + 108, &16u32.to_le_bytes());
    let table = 0x58 + 240;
    put(table, b".text\0\0\0");
    for (offset, value) in [(8, 5u32), (12, 0x1000), (16, 0x200), (20, 0x400), (36, 0x6000_0020)] {
        put(table + offset, &value.to_le_bytes());
    }
    put(0x400, b"hello");
    image
}

#[test]
fn partition_tools_take_the_disk_and_it_is_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let (spec, expected) = disk_spec(dir.path());
    let (path, file) = scratch(dir.path(), "disk.raw");
    let table = disk::write(&spec, &file).unwrap();
    let image = DiskImage::open(content_of(&path)).unwrap();
    assert_eq!(*image.table(), table);
    let report = disk::verify(&image, &expected).unwrap();
    assert_eq!(report.partitions.len(), 6);
    let meta = file.metadata().unwrap();
    assert!(meta.blocks() * 512 < meta.len() / 2, "the image is not sparse");
    if let Some([sfdisk, sgdisk]) = tools(["sfdisk", "sgdisk"]) {
        let path = path.to_str().unwrap();
        run(&sfdisk, &["--verify", path]);
        assert!(run(&sgdisk, &["-v", path]).contains("No problems found"));
        let listed = run(&sfdisk, &["--dump", path]);
        for partition in &table.partitions {
            let uuid = partition.guid.to_string().to_uppercase();
            assert!(listed.contains(&uuid) && listed.contains(&partition.name), "{listed}");
        }
    }
}

#[test]
fn systemd_finds_the_partitions_by_their_types() {
    let Some([dissect]) = tools(["systemd-dissect"]) else { return };
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        println!("skipped: systemd-dissect needs loop devices");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (spec, _) = disk_spec(dir.path());
    let (path, file) = scratch(dir.path(), "disk.raw");
    disk::write(&spec, &file).unwrap();
    let said = run(&dissect, &["--no-pager", path.to_str().unwrap()]);
    for words in [["ro root ", "erofs"], ["ro root-verity ", "DM_verity_hash"], ["rw esp ", "vfat"]] {
        assert!(said.lines().any(|line| words.iter().all(|w| line.contains(w))), "{words:?}: {said}");
    }
    assert!(said.contains("ID=forge"), "{said}");
}

#[test]
fn objdump_lists_the_sections_of_a_boot_image() {
    let Some([objdump]) = tools(["objdump"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    uki(dir.path(), "quiet");
    let listed = run(&objdump, &["-h", dir.path().join("uki").to_str().unwrap()]);
    let sizes =
        [(".osrel", 9), (".cmdline", 5), (".uname", 6), (".initrd", 70_004 + 30), (".linux", 500_000)];
    for (name, size) in sizes {
        let line = listed.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{listed}"));
        assert!(line.contains(&format!("{size:08x}")), "{line}");
    }
}

#[test]
fn one_flipped_byte_anywhere_on_the_disk_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (spec, expected) = disk_spec(dir.path());
    let (path, file) = scratch(dir.path(), "disk.raw");
    let table = disk::write(&spec, &file).unwrap();
    let disk = content_of(&path);
    let fault = |at: u64| -> String {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let said = match DiskImage::open(disk.clone()) {
            Err(e) => format!("{:#}", anyhow::Error::from(e)),
            Ok(image) => match disk::verify(&image, &expected) {
                Err(e) => format!("{:#}", anyhow::Error::from(e)),
                Ok(_) => panic!("byte {at} was changed and nothing said so"),
            },
        };
        file.write_all_at(&byte, at).unwrap();
        said
    };
    let [esp, root, root_verity, payload, payload_verity, enroll] = &table.partitions[..] else { panic!() };
    let found = |what: &[u8]| {
        let whole = disk.to_vec(u64::MAX).unwrap();
        whole.windows(what.len()).position(|w| w == what).unwrap() as u64
    };
    let end = table.length;
    let cases: Vec<(u64, &[&str])> = vec![
        (440, &["protective MBR"]),
        (512 + 60, &["primary GPT header"]),
        (1024 + 130, &["primary GPT entry 1"]),
        (end - 33 * 512, &["backup GPT entry 0"]),
        (end - 512, &["backup GPT header"]),
        (600_000, &["byte 600000 of the disk"]),
        (esp.offset + 3, &["`esp`", "reserved sector"]),
        (esp.offset + 32 * 512 + 9, &["`esp`", "allocation table"]),
        (esp.offset + esp.length - 1, &["`esp`", "space that no file has"]),
        (found(&bytes(120_000, 120_000)) + 77, &["`esp`", "EFI/BOOT/BOOTX64.EFI", "expected sha256"]),
        (found(b"console=ttyS0"), &["`esp`", "EFI/Linux/site_1+3.efi"]),
        (root.offset + 1030, &["`site_1`", "data block 0 "]),
        (root.offset + 4096 * 7 + 5, &["`site_1`", "data block 7 at byte 28672"]),
        (root.offset + root.length - 1, &["`site_1`", "behind its content"]),
        (root_verity.offset + 20, &["`site_1_verity`", "UUID"]),
        (root_verity.offset + 4096 + 1, &["`site_1_verity`", "tree block 1 "]),
        (root_verity.offset + 4096 * 3, &["`site_1_verity`", "tree block 3 "]),
        (root_verity.offset + root_verity.length - 1, &["`site_1_verity`", "behind its content"]),
        (payload.offset + 4096 * 3, &["`site_1_payload`", "data block 3 "]),
        (payload_verity.offset + 5000, &["`site_1_payload_verity`", "tree block 1 "]),
        (enroll.offset + 40, &["`enroll`", "volume ID"]),
        (enroll.offset + (2 << 20), &["`enroll`"]),
    ];
    for (at, says) in cases {
        let said = fault(at);
        assert!(says.iter().all(|s| said.contains(s)), "byte {at}: {said}, expected {says:?}");
    }
    disk::verify(&DiskImage::open(disk.clone()).unwrap(), &expected).unwrap();
}

#[test]
fn a_disk_with_another_root_than_its_boot_image_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spec, expected) = disk_spec(dir.path());
    spec.partitions[1].guid = Guid::from_u128(7);
    let (path, file) = scratch(dir.path(), "disk.raw");
    disk::write(&spec, &file).unwrap();
    let image = DiskImage::open(content_of(&path)).unwrap();
    let said = disk::verify(&image, &expected).unwrap_err().to_string();
    assert!(said.starts_with("`roothash="), "{said}");
    // And a file more, and a file less, than the manifest says.
    let (spec, mut expected) = disk_spec(dir.path());
    disk::write(&spec, &file).unwrap();
    let image = DiskImage::open(content_of(&path)).unwrap();
    let digest = expected.get_mut("esp").unwrap().remove(&p("loader/loader.conf")).unwrap();
    assert!(disk::verify(&image, &expected).unwrap_err().to_string().contains("not expected"));
    let esp = expected.get_mut("esp").unwrap();
    esp.insert(p("loader/loader.conf"), digest);
    esp.insert(p("loader/other"), digest);
    assert!(disk::verify(&image, &expected).unwrap_err().to_string().contains("is missing"));
}

#[test]
fn cpio_unpacks_the_archive() {
    let Some([program]) = tools(["cpio"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut tree = Tree::new();
    for (path, length) in [("init", 1), ("usr/lib/a", 5000), ("usr/lib/b", 0), ("zzz", 3)] {
        tree.insert(p(path), Node::file(bytes(length, length), 0o755)).unwrap();
    }
    tree.insert(p("bin"), Node::symlink("usr/bin")).unwrap();
    tree.insert(p("hard"), Node { kind: NodeKind::HardLink(p("usr/lib/a")), ..Node::text("", 0) }).unwrap();
    let (path, file) = scratch(dir.path(), "initrd");
    cpio::write(&tree, EPOCH, &file).unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    ToolCall::new(program)
        .args(["-i", "--quiet", "--no-absolute-filenames", "-F"])
        .arg(&path)
        .dir(&out)
        .output(&Cancel::default())
        .unwrap();
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    assert_eq!(read("usr/lib/a"), bytes(5000, 5000));
    assert_eq!(read("hard"), read("usr/lib/a"));
    assert_eq!(out.join("hard").metadata().unwrap().nlink(), 2);
    assert_eq!(std::fs::read_link(out.join("bin")).unwrap(), Path::new("usr/bin"));
}
