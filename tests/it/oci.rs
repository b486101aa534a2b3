//! OCI layouts and signatures against the clients that people have: skopeo, umoci, podman, docker-registry, cosign.

use forge::host::cancel::Cancel;
use forge::host::fs::Durability;
use forge::host::tool::ToolCall;
use forge::model::{Arch, Digest, Epoch};
use forge::oci::layer::{self, Codec};
use forge::oci::layout::{Layout, LayoutWriter};
use forge::oci::{Annotations, image};
use forge::sign::{PrivateKey, Signer as _};
use forge::tree::{Node, Tree, TreePath, tar};
use forge::{oci, publish, seal};
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
struct Registry {
    child: std::process::Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn registry() -> Option<Registry> {
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
    let registry = Registry { child, host: format!("127.0.0.1:{port}"), _dir: dir };
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
