//! Writes small valid inputs for every target, by the program's own writers: `seeds CORPUS` fills `CORPUS/TARGET/`.

use forge::boot::verity::{self, VeritySpec};
use forge::debian::{archive::ListInfo, openpgp::Keyring};
use forge::disk::{erofs, fat, gpt};
use forge::enroll::csr::CertificateKey;
use forge::lock::{self, Lock, LockedArchive, LockedFile, LockedPackage, PackageSet, SetVariant};
use forge::model::{Arch, Bytes, Digest, Epoch, Guid};
use forge::oci::{self, image, layer};
use forge::sign::{PrivateKey, Signer as _, bundle, dsse::Statement, simple_signing};
use forge::template::KEYRINGS;
use forge::tree::{Content, Node, NodeKind, Tree, TreePath, cpio, tar};
use forge_fuzz::{DISK_LENGTH, FAT_LENGTH, file};
use std::error::Error;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1_700_000_000);

const PACKAGES: &str = "Package: a\nVersion: 1:2.0-1\nArchitecture: amd64\nMulti-Arch: same\nEssential: yes\n\
Priority: required\nDepends: b (>= 1.0~rc1) | c:any, d [amd64 !arm64] <!nocheck>\nConflicts: e (<< 3)\n\
Provides: f (= 1), g\nFilename: pool/main/a/a/a_2.0-1_amd64.deb\nSize: 10\n\
SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\nPackage: b\nVersion: 1.0\n\
Architecture: all\nPre-Depends: g\nFilename: pool/b.deb\nSize: 1\n\
SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

const RELEASE: &str = "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n\
Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC\nAcquire-By-Hash: yes\nArchitectures: all amd64 arm64\n\
Components: main contrib\nSHA256:\n \
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages.xz\n";

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: app, labels: &l {app: a}}\nspec:\n  \
initContainers: []\n  containers:\n  - name: c\n    image: registry.example/app:1\n    \
ports: [{containerPort: 80, hostPort: 8080, hostIP: 10.0.0.1, protocol: TCP}]\n    \
env:\n    - name: A\n      value: \"b\"\n---\nkind: List\nitems:\n- kind: ConfigMap\n  metadata: *l\n";

const BOOTSTRAP: &str = r#"{"schema":1,"bundle_id":"b","serial":7,"fleet":"f","batch":"x","mode":"device","issued_at":1,
"image":{"profile":"store","root_hashes":[]},"endpoints":[{"url":"https://fleet.example:8443","ca_pem":"x","priority":1}],
"signers":{"grant_keys":["11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="],"threshold":1},"devices":[{"ref":"a","match":{
"serial":"S1","macs":["02:00:00:00:00:01"]},"min_score":40,"labels":{"a":"b"}}],"ticket":{"id":"t","pub":
"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","max_claims":1,"not_before":1,"not_after":2},"network":[{"match":{"mac":
"02:00:00:00:00:01"},"addresses":["192.0.2.7/24"],"gateways":["192.0.2.1"],"vlan":7}],"proxy":"http://192.0.2.2:3128",
"ntp":["a"],"dns":["192.0.2.3"],"policy":{"require_tpm":false,"splay_s":60},"x-note":"for people"}"#;
const STANDING: &str = r#"{"status":200,"now":1795305600,"nonce":"0123456789abcdef","retry_after_s":1,"body":{"device":
"fd-aaaaaaaaaaaaaaaaaaaaaaaaaa","state":"pending","code":"E-CLAIM-01","reason":"why","node_name":"a","generation":1}}"#;
const EVENTS: &str =
    r#"{"events":[{"seq":1,"at":0,"kind":"bootstrap-initiated","code":"E-NET-03","detail":"x"}]}"#;
const SEALED: &str = r#"{"payload":"e30=","nonce":"0123456789abcdef","signatures":[{"key":
"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","sig":"AAAA"}]}"#;
const GRANT: &str = r#"{"schema":1,"grant_id":"g","device":"fd-aaaaaaaaaaaaaaaaaaaaaaaaaa","generation":1,"nonce":
"0123456789abcdef","issued_at":1,"node_name":"n","labels":{},"enc":"AAAA","sealed":"AAAA"}"#;
const MATERIAL: &str =
    r#"{"items":[{"kind":"files","files":[{"path":"/etc/forge/x","mode":384,"content":"eA=="}]}]}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = std::env::args().nth(1).ok_or("usage: seeds CORPUS")?;
    let put = |target: &str, name: &str, bytes: &[u8]| -> std::io::Result<()> {
        let dir = Path::new(&corpus).join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(format!("seed-{name}")), bytes)
    };

    let tree = tree()?;
    let tar = tar_of(&tree)?;
    put("tar", "tree", &tar)?;
    put("tar", "gnu", &gnu_tar()?)?;
    put("secrets", "tar", &tar)?;
    let mut initrd = vec![];
    cpio::write(&tree_of([("etc/motd", Node::text("a\n", 0o644))])?, EPOCH, &mut initrd)?;
    put("secrets", "initrd", &initrd)?;
    let control = Node::text("Package: a\nVersion: 1\nConffiles:\n /etc/a 0\n", 0o644);
    let control = tar_of(&tree_of([
        ("control", control),
        ("conffiles", Node::text("/etc/a\n", 0o644)),
        ("triggers", Node::text("interest-noawait /usr/lib\nactivate x\n", 0o644)),
    ])?)?;
    put("deb", "plain", &ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", &tar)]))?;
    put("packages", "two", PACKAGES.as_bytes())?;
    put("release", "release", RELEASE.as_bytes())?;
    put(
        "release",
        "sources",
        b"Types: deb\nURIs: https://archive.example/debian\nSuites: trixie\nComponents: main\n",
    )?;
    put("release", "list", b"deb [signed-by=/usr/x] https://archive.example/debian trixie main\n")?;
    put("release", "diversions", b"/bin/sh\n/bin/sh.distrib\ndash\n")?;
    put("release", "overrides", b"root root 4755 /usr/bin/a\n")?;
    put("release", "passwd", b"root:x:0:0:root:/root:/bin/sh\n")?;
    for (name, bytes) in KEYRINGS {
        put("keyring", name, bytes)?;
        put("keyring", "head", &bytes[..bytes.len().min(3000)])?;
        put("inrelease", name, clear_signed(RELEASE, bytes).as_bytes())?;
    }
    for field in ["a (>= 1:2.0-1~b+c), b | c [!arm64] <!nocheck>", "a:any (<< 3)", "1:2.0~rc1-1+b1\n1:2.0-1"]
    {
        put("relation", &Digest::of(field).hex()[..8], field.as_bytes())?;
    }
    for profile in [include_str!("../../../../profiles/quickstart.toml")] {
        put("profile", "quickstart", profile.as_bytes())?;
    }
    put("lock", "full", lock().as_bytes())?;

    let mut zstd = vec![];
    let written = tar::write(&tree, EPOCH, std::io::sink())?;
    for (kind, codec) in [(1, layer::Codec::Gzip), (2, layer::Codec::Zstd)] {
        let mut blob = vec![kind];
        let threads = std::num::NonZero::<u32>::MIN;
        let layer = layer::compress(&tar[..], written, &mut blob, codec, threads)?;
        put("layer", codec.media_type().rsplit('+').next().unwrap_or("x"), &blob)?;
        put("secrets", codec.media_type().rsplit('+').next().unwrap_or("x"), &blob[1..])?;
        zstd = vec![(layer, "forge".to_string())];
    }
    put("layer", "tar", &[&[0], &tar[..]].concat())?;
    let spec = image::Spec {
        arch: Arch::Arm64,
        epoch: EPOCH,
        layers: zstd,
        run: image::Run { user: "1:1".into(), ports: vec!["80/tcp".into()], ..image::Run::default() },
        labels: [("org.opencontainers.image.ref.name".to_string(), "a".to_string())].into(),
    };
    let image = image::compose(&spec)?;
    let index = image::index(std::slice::from_ref(&image), EPOCH, &spec.labels)?;
    put("oci_documents", "index", &index.bytes)?;
    put("oci_documents", "manifest", &image.manifest.bytes)?;
    put("oci_documents", "config", &image.config.bytes)?;
    put("oci_documents", "both", &[&image.manifest.bytes[..], b"\0", &image.config.bytes].concat())?;

    let key = PrivateKey::generate()?;
    let nothing = Digest::of([]);
    let statement = Statement::about(nothing, "a", bundle::SIGNED, oci::json::parse(b"{}")?);
    put("signature", "bundle", &bundle::Bundle::seal(&key, &statement)?.to_bytes()?)?;
    put("signature", "statement", &oci::json::canonical(&statement)?)?;
    put("signature", "payload", &simple_signing::payload("registry.example/a", nothing))?;
    put("signature", "key", key.public_key().to_pem().as_bytes())?;
    put("signature", "sums", forge::seal::sums([("a.img", nothing)]).as_bytes())?;

    disks(&tree, &put)?;

    put("enroll_bundle", "bootstrap", BOOTSTRAP.as_bytes())?;
    put("enroll_bundle", "ticket", format!("{BOOTSTRAP}\0{}=\n", "A".repeat(43)).as_bytes())?;
    for (name, body) in [("standing", STANDING), ("events", EVENTS), ("sealed", SEALED)] {
        put("enroll_body", name, body.as_bytes())?;
    }
    for (name, grant) in [("grant", GRANT), ("material", MATERIAL)] {
        put("enroll_grant", name, grant.as_bytes())?;
    }

    put("manifest", "pod", POD.as_bytes())?;
    put("chart", "index", b"entries:\n  broker:\n  - {version: 1.0.0, urls: [b.tgz]}\n")?;
    for name in [
        "registry.example:5000/a/b:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "docker.io/library/a:latest",
        "a",
        "8080:80/tcp",
        "pkcs11:token=a;object=b?pin-value=1",
        "env:KEY",
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "./a//b/",
    ] {
        put("names", &Digest::of(name).hex()[..8], name.as_bytes())?;
    }
    Ok(())
}

/// Everything that lies on a disk, and the disk's table.
fn disks(tree: &Tree, put: &dyn Fn(&str, &str, &[u8]) -> std::io::Result<()>) -> Result<(), Box<dyn Error>> {
    let uuid = Guid::derived(&Digest::of([]), "seed");
    let out = file(&[]);
    erofs::write(tree, &erofs::ErofsSpec { uuid, epoch: EPOCH, name: "seed".into() }, &out)?;
    let image = Content::of_file(Arc::new(out))?.to_vec(1 << 20)?;
    put("erofs", "tree", &image)?;
    put("secrets", "erofs", &image)?;

    let files = tree_of([
        ("EFI", Node::dir(0o755)),
        ("EFI/Linux", Node::dir(0o755)),
        ("EFI/Linux/a-long-name.efi", Node::text("x", 0o644)),
        ("loader.txt", Node::text("timeout 0\n", 0o644)),
    ])?;
    let spec = fat::FatSpec {
        size: FAT_LENGTH,
        fat32: false,
        label: "ESP".into(),
        volume_id: fat::volume_id(&uuid),
        hidden: 1 << 20,
        epoch: EPOCH,
    };
    let out = file(&[]);
    out.set_len(FAT_LENGTH)?;
    fat::write(&files, &spec, &out, 0)?;
    let mut volume = Content::of_file(Arc::new(out))?.to_vec(FAT_LENGTH)?;
    volume.truncate(volume.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1));
    put("fat", "esp", &volume)?;
    put("secrets", "fat", &volume)?;

    let partition = gpt::Partition {
        type_guid: gpt::PartitionType::Esp.guid(),
        guid: uuid,
        name: "FORGE-ESP".into(),
        flags: gpt::flag::NO_AUTO,
        offset: 1 << 20,
        length: 512 << 10,
    };
    let disk = Guid::derived(&Digest::of([]), "disk");
    let (head, tail) = gpt::Table { disk, length: DISK_LENGTH, partitions: vec![partition] }.encode()?;
    put("gpt", "one", &[head, tail].concat())?;

    let mut data = image;
    data.resize(data.len().max(8192), 0);
    let tree = file(&[]);
    let content: Content = data.clone().into();
    let root = verity::format(&content, &VeritySpec::derived(&Digest::of([])), &tree, 0)?;
    let mut bytes = vec![0; 8192];
    tree.read_exact_at(&mut bytes, 0)?;
    put("verity", "tree", &[root.as_bytes(), &bytes[..], &data].concat())?;

    put("pe", "uki", &uki())?;
    put("secrets", "uki", &uki())?;
    put("authenticode", "unsigned", &uki())?;
    put("csr", "request", &CertificateKey::generate()?.request("till-1")?)?;
    let mut medium = vec![0; 8 * 2048];
    medium[..7].copy_from_slice(b"\x01CD001\x01");
    put("iso", "descriptor", &medium)?;
    put("elf", "header", &elf())?;
    Ok(())
}

fn tree_of<const N: usize>(nodes: [(&str, Node); N]) -> Result<Tree, Box<dyn Error>> {
    let mut tree = Tree::new();
    for (path, node) in nodes {
        tree.insert(TreePath::parse(path)?, node)?;
    }
    Ok(tree)
}

/// A node of every kind, with attributes, a long path and a negative time.
fn tree() -> Result<Tree, Box<dyn Error>> {
    let mut capable = Node::text("#!/bin/sh\n", 0o4755);
    capable.xattrs.insert("security.capability".into(), b"\x01\0\0\x02\n\0".to_vec());
    capable.mtime = -5;
    let long = format!("usr/{}/{}", "d".repeat(200), "f".repeat(200));
    let mut tree = tree_of([
        ("dev", Node::dir(0o755)),
        ("dev/null", Node { kind: NodeKind::CharDevice { major: 1, minor: 3 }, ..Node::text("", 0o666) }),
        ("etc", Node::dir(0o755)),
        ("etc/a", capable),
        ("etc/b", Node { kind: NodeKind::HardLink(TreePath::parse("etc/a")?), ..Node::text("", 0o644) }),
        ("etc/c", Node::symlink("../etc/a")),
        ("etc/fifo", Node { kind: NodeKind::Fifo, ..Node::text("", 0o600) }),
        ("usr", Node::dir(0o755)),
        ("usr/large", Node::text("a".repeat(5000), 0o644)),
    ])?;
    tree.insert(TreePath::parse(&long)?, Node::text("x", 0o644).owned(70_000, 70_000))?;
    Ok(tree)
}

fn tar_of(tree: &Tree) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut out = vec![];
    tar::write(tree, EPOCH, &mut out)?;
    Ok(out)
}

/// A tar with what forge reads and does not write: GNU's long names, a size in base 256, a global header.
fn gnu_tar() -> Result<Vec<u8>, Box<dyn Error>> {
    let header = |kind: u8, size: &[u8; 12]| {
        let mut header = [0; 512];
        header[..4].copy_from_slice(b"name");
        header[100..107].copy_from_slice(b"0000644");
        header[124..136].copy_from_slice(size);
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar  \0");
        header
    };
    let block = |text: &[u8]| {
        let mut block = [0; 512];
        block[..text.len()].copy_from_slice(text);
        block
    };
    let large = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let tar = [
        header(b'g', b"00000000013\0"),
        block(b"11 a=bcdef\n"),
        header(b'L', b"00000000006\0"),
        block(b"long/x"),
        header(b'K', b"00000000003\0"),
        block(b"a/b"),
        header(b'2', b"00000000000\0"),
        header(b'x', b"00000000013\0"),
        block(b"11 size=1\n\n"),
        header(b'0', &large),
        block(b"x"),
        [0; 512],
        [0; 512],
    ];
    Ok(forge_fuzz::with_tar_checksums(&tar.concat()))
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        out.extend(format!("{name:<16}{:<32}{:<10}`\n", "0", bytes.len()).bytes());
        out.extend_from_slice(bytes);
        out.extend(std::iter::repeat_n(b'\n', bytes.len() % 2));
    }
    out
}

/// `text` under a signature that names the first key of `keyring` and cannot hold.
fn clear_signed(text: &str, keyring: &[u8]) -> String {
    let keyring = Keyring::parse(keyring).expect("the embedded keyring is one");
    let fingerprint = keyring.primaries()[0].to_string().to_lowercase();
    let fingerprint = (0..40).step_by(2).map(|at| u8::from_str_radix(&fingerprint[at..at + 2], 16));
    let fingerprint = fingerprint.collect::<Result<Vec<_>, _>>().expect("a fingerprint is hex");
    let hashed = [&[5, 2][..], &1_700_000_000_u32.to_be_bytes(), &[22, 33, 4], &fingerprint].concat();
    let length = u16::try_from(hashed.len()).unwrap_or(0).to_be_bytes();
    let body = [&[4, 1, 1, 8][..], &length, &hashed, &[0, 0, 1, 2, 0, 9, 1, 0xff]].concat();
    let packet = [&[0xc2, body.len() as u8], &body[..]].concat();
    format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}-----BEGIN PGP SIGNATURE-----\n\n{}\n\
         -----END PGP SIGNATURE-----\n",
        base64(&packet)
    )
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize]);
            out.push(if i <= three.len() { letter } else { '=' });
        }
    }
    out
}

fn lock() -> String {
    let digest = Digest::of([]);
    let set = |name: &str| PackageSet {
        components: vec![],
        name: name.into(),
        arch: Arch::Amd64,
        base: "debian:trixie".into(),
        variant: SetVariant::Minbase,
        request: vec!["a".into()],
    };
    let package = LockedPackage {
        arch: Arch::Amd64,
        name: "a".into(),
        version: "1:2.0-1".into(),
        suite: "debian:trixie".into(),
        path: "pool/main/a.deb".into(),
        size: Bytes(7),
        digest,
        sets: vec!["os".into()],
    };
    let lists = vec![ListInfo { path: "main/binary-amd64/Packages.xz".into(), sha256: digest, size: 5 }];
    let archive = LockedArchive {
        suite: "debian:trixie".into(),
        origin: "Debian".into(),
        codename: "trixie".into(),
        date: EPOCH,
        inrelease: digest,
        lists,
    };
    Lock {
        schema: lock::SCHEMA,
        epoch: EPOCH,
        archives: vec![archive],
        sets: vec![set("os")],
        packages: vec![package],
        images: vec![],
        releases: vec![],
        remotes: vec![],
        charts: vec![],
        files: vec![LockedFile { path: "app.yaml".into(), size: Bytes(3), digest }],
    }
    .to_text()
}

/// A PE image with the four sections that a unified kernel image has to have, a page of headers, a text each.
fn uki() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0\x64\x86\x04\0");
    put(0x40 + 20, &240_u16.to_le_bytes());
    put(0x58, &0x20b_u16.to_le_bytes());
    for (at, value) in [(32, 0x1000_u32), (36, 0x200), (60, 0x400), (108, 16)] {
        put(0x58 + at, &value.to_le_bytes());
    }
    for (i, name) in [".linux\0\0", ".initrd\0", ".cmdline", ".osrel\0\0"].into_iter().enumerate() {
        let (entry, at) = (0x58 + 240 + 40 * i, 0x400 + 0x200 * i as u32);
        put(entry, name.as_bytes());
        for (offset, value) in [(8, 80), (12, 0x1000 * (i as u32 + 1)), (16, 0x200), (20, at)] {
            put(entry + offset, &value.to_le_bytes());
        }
        put(at as usize, format!("roothash={:064}\n", 0).as_bytes());
    }
    image
}

/// An ELF header of a 64-bit program with one program header, a dynamic section.
fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x200];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    put(64, &[2, 0, 0, 0, 4, 0, 0, 0]);
    put(72, &0x100_u64.to_le_bytes());
    put(96, &48_u64.to_le_bytes());
    put(104, &48_u64.to_le_bytes());
    for (i, value) in [5_u64, 0x180, 1, 1, 0, 0].into_iter().enumerate() {
        put(0x100 + 8 * i, &value.to_le_bytes());
    }
    put(0x180, b"\0libc.so.6\0");
    image
}
