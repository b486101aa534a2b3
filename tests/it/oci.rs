//! OCI layouts and signatures against the clients that people have: skopeo, umoci, podman, docker-registry, cosign.

use forge::host::cancel::Cancel;
use forge::host::fs::Durability;
use forge::host::tool::ToolCall;
use forge::model::{Arch, Digest, Epoch};
use forge::oci::layer::{self, Codec};
use forge::oci::layout::{Layout, LayoutWriter};
use forge::oci::{Annotations, image};
use forge::sign::{PrivateKey, Signer as _};
use forge::source::oci::BlobStore;
use forge::tree::{Node, Tree, TreePath, tar};
use forge::{oci, publish, seal, source};
use std::num::NonZero;
use std::path::{Path, PathBuf};

const EPOCH: Epoch = Epoch(1_795_219_200);
const TAG: &str = "v1";

/// A program by its name, in PATH or below FORGE_ORACLES (what hack/oracles made); `None`, said aloud, without it.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn oracle(name: &str) -> Option<String> {
    let made = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).chain([made.join("bin")]).map(|d| d.join(name)).find(|p| p.is_file());
    if found.is_none() {
        assert!(std::env::var("FORGE_TEST_REQUIRE_TOOLS").as_deref() != Ok("1"), "no {name}");
        eprintln!("skipped: no {name}");
    }
    found.map(|p| p.display().to_string())
}

fn run(call: ToolCall) -> Result<String, String> {
    let home = tempfile::tempdir().unwrap(); // cosign keeps a trust root there
    let call = call.env("HOME", home.path()).env("TMPDIR", home.path());
    call.output(&Cancel::default())
        .map(|out| String::from_utf8_lossy(&out).into_owned())
        .map_err(|e| format!("{e:#}"))
}

/// What a test works with: a signed two-architecture layout, the key, and a place for files.
struct Bench {
    dir: tempfile::TempDir,
    key: PrivateKey,
    public: String,
}

impl Bench {
    fn layout(&self) -> PathBuf {
        self.dir.path().join("oci")
    }
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
    fn reference(&self) -> String {
        format!("oci:{}:{TAG}", self.layout().display())
    }
}

fn tree(arch: Arch) -> Tree {
    let mut tree = Tree::new();
    let p = |s: &str| TreePath::parse(s).unwrap();
    tree.insert(p("etc/motd"), Node::text(format!("Store 042 on {arch}\n"), 0o644)).unwrap();
    tree.insert(p("usr/bin/link"), Node::symlink("../../etc/motd")).unwrap();
    if let (Arch::Amd64, Ok(busybox)) = (arch, std::fs::read("/bin/busybox")) {
        tree.insert(p("bin/busybox"), Node::file(busybox, 0o755)).unwrap();
    }
    tree
}

fn write_layout(dir: &Path, codec: Codec) {
    let mut writer = LayoutWriter::create(dir).unwrap();
    let cache = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    let mut images = vec![];
    for arch in Arch::ALL {
        let mut bytes = vec![];
        let written = tar::write(&tree(arch), EPOCH, &mut bytes).unwrap();
        let blob = cache.path().join(arch.oci());
        let mut out = std::fs::OpenOptions::new().create_new(true).write(true).open(&blob).unwrap();
        let layer = layer::compress(&bytes[..], written, &mut out, codec, NonZero::<u32>::MIN).unwrap();
        writer.file(oci::digest(&layer.descriptor).unwrap(), &blob).unwrap();
        let spec = image::Spec {
            arch,
            epoch: EPOCH,
            layers: vec![(layer, "forge: layer os".into())],
            run: image::Run {
                command: vec!["/bin/busybox".into(), "cat".into(), "/etc/motd".into()],
                ..Default::default()
            },
            labels: Annotations::from([("org.opencontainers.image.title".into(), "store-042".into())]),
        };
        let image = image::compose(&spec).unwrap();
        images.push(image);
    }
    let index = image::index(&images, EPOCH, &Annotations::new()).unwrap();
    writer.image(&images, &index, TAG).unwrap();
    writer.commit(Durability::Cached).unwrap();
}

fn bench(codec: Codec) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    write_layout(&dir.path().join("oci"), codec);
    let key = PrivateKey::generate().unwrap();
    let public = dir.path().join("release.pub");
    std::fs::write(&public, key.public_key().to_pem()).unwrap();
    let bench = Bench { dir, key, public: public.display().to_string() };
    let mut layout = Layout::open(&bench.layout()).unwrap();
    seal::layout(&mut layout, "registry.example/edge", &bench.key).unwrap();
    bench
}

#[test]
fn the_same_image_under_the_same_key_is_the_same_layout() {
    let first = bench(Codec::Zstd);
    let dir = tempfile::tempdir().unwrap();
    let second = dir.path().join("elsewhere");
    write_layout(&second, Codec::Zstd);
    seal::layout(&mut Layout::open(&second).unwrap(), "registry.example/edge", &first.key).unwrap();
    let digests = |dir: &Path| {
        let mut all: Vec<_> =
            std::fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|e| e.unwrap().file_name()).collect();
        all.sort();
        (all, Digest::of(std::fs::read(dir.join("index.json")).unwrap()))
    };
    assert_eq!(digests(&first.layout()), digests(&second));
}

#[test]
fn a_signed_layout_is_verified() {
    let bench = bench(Codec::Gzip);
    let report = seal::verify::layout(&bench.layout(), bench.key.public_key()).unwrap();
    assert_eq!(report.images.iter().map(|i| i.signatures).collect::<Vec<_>>(), [2, 2, 2]);
    let other = PrivateKey::generate().unwrap();
    let fault = seal::verify::layout(&bench.layout(), other.public_key()).unwrap_err();
    assert!(matches!(fault, seal::verify::Fault::Signature { .. }), "{fault}");
}

#[test]
fn skopeo_reads_and_copies_every_architecture() {
    let Some(skopeo) = oracle("skopeo") else { return };
    for codec in [Codec::Zstd, Codec::Gzip] {
        let bench = bench(codec);
        let inspected =
            run(ToolCall::new(&skopeo).args(["inspect", "--override-arch", "arm64"]).arg(bench.reference()))
                .unwrap();
        assert!(inspected.contains("\"Architecture\": \"arm64\""), "{inspected}");
        let to = format!("oci:{}:copy", bench.path("copied"));
        run(ToolCall::new(&skopeo)
            .args(["copy", "--all", "--preserve-digests"])
            .arg(bench.reference())
            .arg(to))
        .unwrap();
        let copied = Layout::open(&bench.dir.path().join("copied")).unwrap();
        let original = Layout::open(&bench.layout()).unwrap();
        assert_eq!(copied.named("copy").unwrap().digest(), original.named(TAG).unwrap().digest());
    }
}

#[test]
fn umoci_unpacks() {
    let Some(umoci) = oracle("umoci") else { return };
    // umoci of Debian 12 cannot choose within an index and knows no zstd.
    let bench = bench(Codec::Gzip);
    let image = format!("{}:{TAG}-amd64", bench.layout().display());
    let to = bench.path("bundle");
    run(ToolCall::new(umoci).args(["unpack", "--rootless", "--image", &image, &to])).unwrap();
    let motd = std::fs::read_to_string(bench.dir.path().join("bundle/rootfs/etc/motd")).unwrap();
    assert!(motd.starts_with("Store 042"), "{motd}");
}

/// A docker-registry on a port of this machine, killed when dropped.
pub(crate) struct Registry {
    child: std::process::Child,
    pub(crate) host: String,
    dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn registry() -> Option<Registry> {
    let program = oracle("docker-registry")?;
    let dir = tempfile::tempdir().unwrap();
    // The port is free now; should another program take it before the registry does, the test fails aloud.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = dir.path().join("config.yml");
    let storage = dir.path().join("storage");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        storage.display()
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = std::process::Command::new(program)
        .arg("serve")
        .arg(&config)
        .env_clear()
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let registry = Registry { child, host: format!("127.0.0.1:{port}"), dir };
    for _ in 0..200 {
        if std::net::TcpStream::connect(&registry.host).is_ok() {
            return Some(registry);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("docker-registry does not listen");
}

#[test]
fn what_is_pushed_is_pulled_and_verified_by_cosign_and_by_forge() {
    let Some(registry) = registry() else { return };
    let bench = bench(Codec::Zstd);
    let to: oci::Reference = format!("{}/edge/store-042:{TAG}", registry.host).parse().unwrap();
    let published = publish::push(&bench.layout(), TAG, &to, false, None).unwrap();
    assert_eq!(published.referrers, 6);
    // A second push sends nothing new and changes nothing.
    assert_eq!(publish::push(&bench.layout(), TAG, &to, false, None).unwrap(), published);

    let back = bench.dir.path().join("back");
    publish::pull(&to, &back, false).unwrap();
    let report = seal::verify::layout(&back, bench.key.public_key()).unwrap();
    assert_eq!(report.images.iter().map(|i| i.signatures).collect::<Vec<_>>(), [2, 2, 2]);

    let arm = Layout::open(&bench.layout()).unwrap().named("v1-arm64").unwrap().digest().to_string();
    let child = to.with_digest(arm.parse().unwrap()).to_string();
    let other = bench.path("other.pub");
    std::fs::write(&other, PrivateKey::generate().unwrap().public_key().to_pem()).unwrap();
    for (program, modes) in [
        ("cosign-2", vec![vec!["--insecure-ignore-tlog=true"]]),
        (
            "cosign-3",
            vec![
                vec!["--insecure-ignore-tlog=true"],
                vec!["--insecure-ignore-tlog=true", "--new-bundle-format=false"],
            ],
        ),
    ] {
        let Some(cosign) = oracle(program) else { continue };
        for mode in modes {
            for image in [to.to_string(), child.clone()] {
                let verify = |key: &str| {
                    run(ToolCall::new(&cosign)
                        .args(["verify", "--key", key, "--allow-insecure-registry", "--allow-http-registry"])
                        .args(&mode)
                        .arg(&image))
                };
                verify(&bench.public).unwrap_or_else(|e| panic!("{program} {mode:?} {image}: {e}"));
                assert!(verify(&other).is_err(), "{program} {mode:?} took another key");
            }
        }
    }
    if let Some(skopeo) = oracle("skopeo") {
        let copy = format!("oci:{}:copy", bench.path("from-registry"));
        run(ToolCall::new(skopeo)
            .args(["copy", "--all", "--src-tls-verify=false"])
            .arg(format!("docker://{to}"))
            .arg(copy))
        .unwrap();
    }
}

#[test]
fn podman_takes_the_image_from_the_layout_and_makes_a_container_of_it() {
    // The container is made, not started: that needs a kernel set up for containers, which a test machine may lack.
    let Some(podman) = oracle("podman") else { return };
    for codec in [Codec::Zstd, Codec::Gzip] {
        let bench = bench(codec);
        let podman = |args: &[&str]| {
            run(ToolCall::new(&podman)
                .args([
                    "--root",
                    &bench.path("root"),
                    "--runroot",
                    &bench.path("run"),
                    "--storage-driver",
                    "vfs",
                ])
                .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
                .args(args)
                .dir(bench.dir.path())) // podman takes no capital letters in an image's path
            .unwrap()
        };
        let image = podman(&["pull", "--quiet", &format!("oci:oci:{TAG}")]);
        let container = podman(&["create", image.trim()]);
        podman(&["export", "--output", "exported.tar", container.trim()]);
        let exported = tar::index(std::fs::File::open(bench.path("exported.tar")).unwrap()).unwrap();
        let motd = exported.file(&TreePath::parse("etc/motd").unwrap()).unwrap().to_vec(100).unwrap();
        assert_eq!(motd, b"Store 042 on amd64\n", "{codec:?}");
    }
}

#[test]
fn cosign_verifies_files_and_sums_offline() {
    let bench = bench(Codec::Zstd);
    let (file, bundle) = (bench.path("disk.raw.zst"), bench.path("disk.raw.zst.sigstore.json"));
    let content = vec![7; 3 << 20];
    std::fs::write(&file, &content).unwrap();
    std::fs::write(&bundle, seal::file("disk.raw.zst", Digest::of(&content), &bench.key).unwrap()).unwrap();
    let sums = seal::sums([("disk.raw.zst", Digest::of(&content))]);
    let signature = seal::sums_signature(&sums, &bench.key).unwrap();
    std::fs::write(bench.path("SHA256SUMS"), &sums).unwrap();
    std::fs::write(bench.path("SHA256SUMS.sig"), &signature).unwrap();
    std::fs::write(bench.path("changed"), &content[1..]).unwrap();
    // cosign 2 would fetch a trust root that a key does not need.
    let root = bench.path("root.json");
    std::fs::write(&root, r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#)
        .unwrap();
    for (program, flags) in
        [("cosign-2", &["--new-bundle-format", "--trusted-root", &root][..]), ("cosign-3", &[])]
    {
        let Some(cosign) = oracle(program) else { continue };
        let blob = |flags: &[&str], file: &str| {
            let call = ToolCall::new(&cosign).args([
                "verify-blob",
                "--key",
                &bench.public,
                "--insecure-ignore-tlog",
            ]);
            run(call.args(flags).arg(file))
        };
        let with_bundle = [&["--bundle", &bundle], flags].concat();
        blob(&with_bundle, &file).unwrap();
        blob(&with_bundle, &bench.path("changed")).unwrap_err();
        blob(&["--signature", &bench.path("SHA256SUMS.sig")], &bench.path("SHA256SUMS")).unwrap();
        blob(&["--signature", &bench.path("SHA256SUMS.sig")], &file).unwrap_err();
    }
    let key = bench.key.public_key();
    assert_eq!(
        seal::verify::sums(&sums, &signature, key).unwrap().get(),
        &[("disk.raw.zst".to_string(), Digest::of(&content))]
    );
    seal::verify::sums(&sums.replace("disk", "disc"), &signature, key).unwrap_err();
    let bundle = std::fs::read(&bundle).unwrap();
    seal::verify::file("disk.raw.zst", Digest::of(&content), &bundle, key).unwrap();
    let fault = seal::verify::file("disk.raw.zst", Digest::of(&content[1..]), &bundle, key).unwrap_err();
    assert!(fault.to_string().starts_with("disk.raw.zst: the signature is for"), "{fault}");
}

/// Changes `index.json` of a layout as an attacker would, who can write anything but sign nothing.
fn edit_index(dir: &Path, edit: impl FnOnce(&mut Vec<serde_json::Value>)) {
    let path = dir.join("index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(index["manifests"].as_array_mut().unwrap());
    std::fs::write(path, index.to_string()).unwrap();
}

fn refused(bench: &Bench) -> String {
    seal::verify::layout(&bench.layout(), bench.key.public_key()).unwrap_err().to_string()
}

#[test]
fn one_flipped_byte_in_any_blob_is_refused_by_the_blobs_name() {
    let bench = bench(Codec::Zstd);
    let blobs = bench.layout().join("blobs/sha256");
    let mut tried = 0;
    for entry in std::fs::read_dir(blobs).unwrap() {
        let path = entry.unwrap().path();
        let good = std::fs::read(&path).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let fault = refused(&bench);
            assert!(
                fault.contains(path.file_name().unwrap().to_str().unwrap()),
                "byte {at} of {path:?}: {fault}"
            );
        }
        for (length, content) in [("short", &good[1..]), ("long", &[&good[..], b"x"].concat())] {
            std::fs::write(&path, content).unwrap();
            let fault = refused(&bench);
            assert!(
                fault.contains(path.file_name().unwrap().to_str().unwrap()),
                "{length} {path:?}: {fault}"
            );
        }
        std::fs::write(&path, good).unwrap();
        tried += 1;
    }
    // Index, two of manifest, config and layer each; three signatures of two shapes; the empty config is shared.
    assert_eq!(tried, 1 + 2 * 3 + 3 * (3 + 2) + 1);
    seal::verify::layout(&bench.layout(), bench.key.public_key()).unwrap();
}

#[test]
fn an_unsigned_image_is_refused_however_it_is_slipped_in() {
    let evil = bench(Codec::Gzip);
    let evil_index = Layout::open(&evil.layout()).unwrap().named(TAG).unwrap().clone();
    let copy_blobs = |to: &Path| {
        for entry in std::fs::read_dir(evil.layout().join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join("blobs/sha256").join(path.file_name().unwrap())).unwrap();
        }
    };
    type Edit<'a> = Box<dyn Fn(&mut Vec<serde_json::Value>) + 'a>;
    let evil_entry = serde_json::to_value(&evil_index).unwrap();
    let cases: [(&str, &str, Edit); 6] = [
        ("index swapped for another", "is not signed", Box::new(|m| m[0] = evil_entry.clone())),
        ("an unsigned image besides", "is not signed", Box::new(|m| m.push(evil_entry.clone()))),
        ("signatures stripped", "is not signed", Box::new(|m| m.truncate(3))),
        (
            "signature of another key",
            "does not hold",
            Box::new(|m| {
                let theirs = Layout::open(&evil.layout()).unwrap();
                m.extend(theirs.entries()[3..].iter().map(|e| serde_json::to_value(e).unwrap()));
            }),
        ),
        ("size lies", "bytes, not", Box::new(|m| m[0]["size"] = 1.into())),
        ("type lies", "missing field", Box::new(|m| m[0]["mediaType"] = oci::MANIFEST.into())),
    ];
    for (attack, says, edit) in cases {
        let bench = bench(Codec::Zstd);
        copy_blobs(&bench.layout());
        edit_index(&bench.layout(), edit);
        let fault = refused(&bench);
        assert!(fault.contains(says), "{attack}: {fault}");
    }
}

#[test]
fn a_swapped_signature_is_refused() {
    // The signature of one image under the name of another: every digest holds, the payload is about something else.
    let bench = bench(Codec::Zstd);
    let mut layout = Layout::open(&bench.layout()).unwrap();
    let subject = layout.named("v1-amd64").unwrap().clone();
    let other = layout.named("v1-arm64").unwrap().clone();
    let [_, (stolen, _)] = seal::signatures(&other, "", &bench.key).unwrap();
    let forged =
        oci::referrer::bundle(&subject, &stolen.blobs[1].bytes, "https://sigstore.dev/cosign/sign/v1")
            .unwrap();
    layout.append(&[forged.manifest.bytes], vec![forged.manifest.descriptor]).unwrap();
    let fault = refused(&bench);
    assert!(fault.contains("the signature is for"), "{fault}");
}

/// A layout of one image whose one layer is `blob` of `media_type`, with `diff_id`.
fn layout_of(dir: &Path, media_type: &str, blob: &[u8], diff_id: Digest) -> Layout {
    let mut writer = LayoutWriter::create(dir).unwrap();
    writer.bytes(blob).unwrap();
    let layer = layer::Layer { descriptor: oci::describe(media_type, blob), diff_id: layer::DiffId(diff_id) };
    let spec = image::Spec {
        arch: Arch::Amd64,
        epoch: EPOCH,
        layers: vec![(layer, String::new())],
        run: Default::default(),
        labels: Annotations::new(),
    };
    let image = image::compose(&spec).unwrap();
    let index = image::index(std::slice::from_ref(&image), EPOCH, &Annotations::new()).unwrap();
    writer.image(&[image], &index, TAG).unwrap();
    writer.commit(Durability::Cached).unwrap();
    Layout::open(dir).unwrap()
}

fn raw_entry(name: &str, kind: u8, link: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    for field in [108, 116] {
        block[field..field + 7].copy_from_slice(b"0000000");
    }
    block[124..135].copy_from_slice(b"00000000000");
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[test]
fn hostile_layers_are_refused_by_name() {
    let file = |name| raw_entry(name, b'0', "");
    let end = vec![0; 1024];
    let cases: [(&str, Vec<Vec<u8>>); 7] = [
        ("..", vec![file("../etc/passwd")]),
        ("..", vec![file("a/../../b")]),
        ("`d`", vec![raw_entry("d", b'2', "/etc"), file("d/passwd")]),
        ("..", vec![raw_entry("l", b'1', "../../etc/shadow")]),
        ("`d`", vec![raw_entry("d", b'2', "/etc"), raw_entry("l", b'1', "d/shadow")]),
        ("`x/.wh.` is no whiteout", vec![file("x/.wh.")]),
        ("`.wh..` is no whiteout", vec![file(".wh..")]),
    ];
    for (says, entries) in cases {
        let dir = tempfile::tempdir().unwrap();
        let tar = [entries.concat(), end.clone()].concat();
        let layout = layout_of(&dir.path().join("oci"), layer::TAR, &tar, Digest::of(&tar));
        let fault = oci::validate::layout(&layout).unwrap_err().to_string();
        assert!(fault.contains(says), "{says}: {fault}");
    }
    for good in [".wh.gone", "x/.wh..wh..opq"] {
        let dir = tempfile::tempdir().unwrap();
        let tar = [file(good), end.clone()].concat();
        oci::validate::layout(&layout_of(&dir.path().join("oci"), layer::TAR, &tar, Digest::of(&tar)))
            .unwrap();
    }
}

#[test]
fn a_layer_that_holds_another_tar_or_a_bomb_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let empty = zstd::encode_all(&[0; 1024][..], 3).unwrap();
    let layout = layout_of(&dir.path().join("diff"), layer::TAR_ZSTD, &empty, Digest::of("another"));
    let fault = oci::validate::layout(&layout).unwrap_err().to_string();
    assert!(fault.contains("holds the tar"), "{fault}");
    // 2 GiB of zeros in 64 KiB: no real layer of that size holds more than 1 GiB.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 2 << 30), 3).unwrap();
    assert!(bomb.len() < 200 << 10, "{}", bomb.len());
    let layout = layout_of(&dir.path().join("bomb"), layer::TAR_ZSTD, &bomb, Digest::of("never reached"));
    let fault = oci::validate::layout(&layout).unwrap_err().to_string();
    assert!(fault.contains("more than 1073741824 bytes"), "{fault}");
}

/// Blobs in a directory, by their hex.
struct Store(tempfile::TempDir);

impl BlobStore for Store {
    fn has(&self, digest: Digest) -> bool {
        self.0.path().join(digest.hex()).exists()
    }
    fn put(
        &self,
        digest: Digest,
        fill: &mut dyn FnMut(&mut std::fs::File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.0.path())?;
        fill(file.as_file_mut())?;
        file.persist(self.0.path().join(digest.hex()))?;
        Ok(())
    }
}

#[test]
fn a_pinned_image_is_fetched_by_digest_and_a_registry_that_changes_it_is_refused() {
    let Some(registry) = registry() else { return };
    let bench = bench(Codec::Zstd);
    let to: oci::Reference = format!("{}/edge/store-042:{TAG}", registry.host).parse().unwrap();
    publish::push(&bench.layout(), TAG, &to, false, None).unwrap();
    let pinned = source::oci::pin(&to, Arch::Arm64, false).unwrap();
    assert_eq!(pinned.layers.len(), 1);
    let store = Store(tempfile::tempdir().unwrap());
    source::oci::fetch(&pinned, &store, false).unwrap();
    for blob in [&pinned.manifest, &pinned.config, &pinned.layers[0]] {
        assert_eq!(Digest::of(std::fs::read(store.0.path().join(blob.digest.hex())).unwrap()), blob.digest);
    }

    let hex = pinned.layers[0].digest.hex();
    let blobs = registry.dir.path().join("storage/docker/registry/v2/blobs/sha256");
    let data = blobs.join(&hex[..2]).join(&hex).join("data");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let empty = Store(tempfile::tempdir().unwrap());
    let error = source::oci::fetch(&pinned, &empty, false).unwrap_err();
    assert_eq!(forge::error::kind(&error), forge::error::Kind::Verify, "{error:#}");
    assert!(format!("{error:#}").contains(&hex) && !empty.has(pinned.layers[0].digest), "{error:#}");

    drop(registry);
    // All that is needed is there: no packet is sent to the registry that is gone.
    source::oci::fetch(&pinned, &store, false).unwrap();
}
