//! Kubernetes distributions: their trees as expected, their program run on what a power cut leaves, and a worked profile
//! built by the real program from a server with upstream's layout.

use crate::fixture::{self, events, forge, ok, refused};
use crate::golden;
use forge::host::cancel::Cancel;
use forge::host::http::Client;
use forge::layer::kubernetes::cluster::{self, Distribution, Role, Spec, Start};
use forge::layer::kubernetes::k3s::K3s;
use forge::layer::kubernetes::rke2::Rke2;
use forge::model::{Arch, Digest};
use forge::oci::{self, registry::Registry};
use forge::source::blobs::Blobs;
use forge::source::release::{self, Place, Product, Wanted};
use forge::tree::{Content, NodeKind, Tree};
use serde_json::json;
use sha2::{Digest as _, Sha512};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const GOLDEN: &str = "tests/fixtures/kubernetes";
const DISTRIBUTIONS: [(Product, &dyn Distribution, &str); 2] =
    [(Product::K3s, &K3s, "v1.34.2+k3s1"), (Product::Rke2, &Rke2, "v1.34.2+rke2r1")];

fn spec(product: Product, version: &str, role: Role, arch: Arch) -> Spec {
    let content = |what: &str| Content::from(format!("{what} of {product} for {arch}").into_bytes());
    let server = role == Role::Server;
    Spec {
        version: version.into(),
        role,
        start: if server { Start::Boot } else { Start::Granted },
        program: content("program"),
        images: product.images(arch).map(|file| (file, content("images"))),
        node_name: "store-042".into(),
        labels: BTreeMap::from([("region".into(), "eu-west".into()), ("tier".into(), "retail".into())]),
        config: match server {
            true => BTreeMap::from([("disable".into(), json!(["traefik"]))]),
            false => BTreeMap::from([("node-taint".into(), json!(["tier=retail:NoSchedule"]))]),
        },
        registries: BTreeMap::from([(
            "mirrors".into(),
            json!({ "docker.io": { "endpoint": ["https://registry.example"] } }),
        )]),
    }
}

/// A line an entry; below it, indented, what is in files that the specification decides.
pub fn listing(tree: &Tree) -> String {
    let mut text = String::new();
    for (path, node) in tree.iter() {
        let (path, mode) = (path.as_str(), node.mode);
        match &node.kind {
            NodeKind::Dir => continue,
            NodeKind::Symlink(target) => {
                let _ = writeln!(text, "{path} -> {target}");
            }
            NodeKind::File(content) => {
                let bytes = content.to_vec(1 << 20).unwrap();
                let decided = path.starts_with("etc/") || path.contains("/system/");
                let digest = Digest::of(&bytes);
                let shown = if decided { String::new() } else { format!(" {}", &digest.hex()[..12]) };
                let _ = writeln!(text, "{path} {mode:04o}{shown}");
                for line in String::from_utf8_lossy(&bytes).lines().filter(|_| decided) {
                    let _ = writeln!(text, "    {line}");
                }
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    text
}

#[test]
fn trees_of_every_distribution_role_and_architecture_are_as_expected() {
    let mut wrong = vec![];
    for (product, distribution, version) in DISTRIBUTIONS {
        for role in [Role::Server, Role::Agent] {
            for arch in [Arch::Amd64, Arch::Arm64] {
                let tree = cluster::os_tree(distribution, &spec(product, version, role, arch)).unwrap();
                let path = format!("{GOLDEN}/{product}-{}-{arch}.txt", role.as_str());
                wrong.extend(golden::compare(Path::new(&path), &listing(&tree)).err());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A device's directories, with the program that the units call made to look there.
struct Device {
    root: tempfile::TempDir,
}

impl Device {
    fn new() -> Device {
        let root = tempfile::tempdir().unwrap();
        let text = forge::template::cluster::PROGRAM;
        let text =
            ["/usr/lib/forge/", "/var/lib/", "/etc/", "/run/"].iter().fold(text.to_string(), |text, dir| {
                text.replace(dir, &format!("{}{dir}", root.path().display()))
            });
        std::fs::write(root.path().join("program"), text).unwrap();
        Device { root }
    }
    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }
    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
    fn run(&self, arguments: &[&str]) -> String {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        ok(Command::new("sh").arg(self.path("program")).args(arguments).env("PATH", path))
    }
    /// A program that the device's own calls.
    fn put_program(&self, name: &str, text: &str) -> String {
        let path = format!("bin/{name}");
        self.put(&path, format!("#!/bin/sh\n{text}").as_bytes());
        std::fs::set_permissions(self.path(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
        self.path(&path).display().to_string()
    }
    fn prepare(&self) -> String {
        self.run(&["prepare", "k3s", "server", "itself"])
    }
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(dir)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const PASSWORD: &str = "etc/rancher/node/password";
const STATE: &str = "var/lib/rancher/k3s";

#[test]
fn the_nodes_password_outlives_what_a_power_cut_does_to_it() {
    let device = Device::new();
    device.prepare();
    let drawn = device.read(PASSWORD);
    assert!(drawn.len() == 32 && drawn.bytes().all(|b| b.is_ascii_hexdigit()), "{drawn}");
    let mode = std::fs::metadata(device.path(PASSWORD)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for cut in [&b""[..], b"\n", &[0; 33]] {
        device.put(PASSWORD, cut);
        assert!(device.prepare().contains("put in place"));
        assert_eq!(device.read(PASSWORD), drawn);
    }
    std::fs::remove_file(device.path(PASSWORD)).unwrap();
    device.prepare();
    assert_eq!(device.read(PASSWORD), drawn);
    // A grant's is the right one, and is kept from then on.
    device.put(PASSWORD, b"granted\n");
    device.prepare();
    device.put(PASSWORD, b"");
    device.prepare();
    assert_eq!(device.read(PASSWORD), "granted\n");
}

#[test]
fn what_a_power_cut_broke_goes_and_what_is_whole_stays() {
    let device = Device::new();
    let whole = [
        ("server/tls/dynamic-cert.json", r#"{"metadata":{"name":"k3s-serving"}}"#),
        ("server/tls/server-ca.crt", "-----BEGIN CERTIFICATE-----\n"),
        ("agent/client-kubelet.key", "-----BEGIN EC PRIVATE KEY-----\n"),
        ("agent/images/.cache.json", r#"{"a.tar":{"size":1}}"#),
    ];
    for (file, text) in whole {
        device.put(&format!("{STATE}/{file}"), text.as_bytes());
    }
    assert_eq!(device.prepare().lines().filter(|l| l.contains("removed")).count(), 0);
    for (file, text) in whole {
        assert_eq!(device.read(&format!("{STATE}/{file}")), text);
    }
    for (file, text) in whole {
        let zeros = vec![0; text.len()];
        for cut in [&b""[..], &zeros] {
            device.put(&format!("{STATE}/{file}"), cut);
            device.prepare();
            let left = std::fs::read(device.path(&format!("{STATE}/{file}")));
            // What is imported is kept account of only in a file that is there.
            assert!(left.as_ref().map_or(!file.contains("images"), Vec::is_empty), "{file}: {left:?}");
            if !file.contains("images") {
                assert!(left.is_err(), "{file} is there");
            }
        }
    }
    device.put(&format!("{STATE}/server/tls/dynamic-cert.json"), br#"{"metadata":{"name":"k3s-ser"#);
    assert!(device.prepare().contains("dynamic-cert.json"));
}

/// A pod's process heeds a signal and a shim does not; both are only killed while the box goes down.
#[test]
fn pods_and_their_shims_end_with_the_box_and_not_with_the_unit() {
    let device = Device::new();
    let (_, text) =
        forge::template::cluster::FILES.iter().find(|(path, _)| path.ends_with("end-pods")).unwrap();
    let root = device.root.path().display().to_string();
    std::fs::write(device.path("program"), text.replace("/sys/fs/cgroup", &root)).unwrap();
    let start = |script: &str| Command::new("sh").args(["-c", script]).spawn().unwrap();
    let mut pod = start("exec sleep 1000");
    let mut shim = start("trap '' TERM; while :; do sleep 1; done");
    let (pods, unit) = ("kubepods/burstable/cgroup.procs", "system.slice/k3s.service/cgroup.procs");
    device.put(pods, format!("{}\n", pod.id()).as_bytes());
    device.put(unit, format!("{}\n", shim.id()).as_bytes());
    device.put("kubepods/cgroup.kill", b"");

    device.put_program("systemctl", "echo running\n");
    device.run(&["k3s.service"]);
    assert!(pod.try_wait().unwrap().is_none() && shim.try_wait().unwrap().is_none());

    // As systemd says it, with an error.
    device.put_program("systemctl", "echo stopping; exit 1\n");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(pod.wait().unwrap().signal(), Some(15));
            device.put(pods, b"");
        });
        device.run(&["k3s.service"]);
    });
    assert_eq!(shim.wait().unwrap().signal(), Some(9));
    assert_eq!(device.read("kubepods/cgroup.kill"), "1\n");
}

#[test]
fn a_broken_image_store_is_made_again_but_never_under_running_containers() {
    let device = Device::new();
    let index = format!("{STATE}/agent/containerd/io.containerd.metadata.v1.bolt/meta.db");
    let mut good = vec![0; 32768];
    good[16..20].copy_from_slice(&0xed0c_daedu32.to_le_bytes());
    let cache = format!("{STATE}/agent/images/.cache.json");
    device.put(&index, &good);
    device.put(&cache, b"{\"a\":{}}");
    device.prepare();
    assert!(device.path(&index).exists() && device.read(&cache) == "{\"a\":{}}");
    for broken in [&b""[..], &[0; 32768]] {
        device.put(&index, broken);
        device.put(&cache, b"{\"a\":{}}");
        device.put("run/k3s/containerd/task", b"");
        device.prepare();
        assert!(device.path(&index).exists());
        std::fs::remove_dir_all(device.path("run/k3s")).unwrap();
        assert!(device.prepare().contains("imported again"));
        assert!(!device.path(&index).exists());
        assert_eq!(device.read(&cache), "", "the distribution imports everything again");
    }
}

#[test]
fn a_new_image_brings_its_archives_and_manifests_and_takes_the_old_ones_away() {
    let device = Device::new();
    let (images, manifests) = (format!("{STATE}/agent/images"), format!("{STATE}/server/manifests"));
    let workload =
        |name: &str| format!("usr/lib/forge/payload/workloads/{name}/manifests/forge-{name}-0.yaml");
    device.put("usr/lib/forge/airgap/0123-images.tar.zst", b"images");
    device.put("usr/lib/forge/payload/archives/4567-workloads.tar", b"one");
    device.put(&workload("till"), b"kind: Pod\n");
    device.put(&workload("sign"), b"kind: Pod\n");
    device.prepare();
    let first = device.names(&images);
    assert_eq!(first, [".cache.json", "forge-0123-images.tar.zst", "forge-4567-workloads.tar"]);
    assert_eq!(device.read(&format!("{images}/{}", first[2])), "one");
    device.put(&format!("{images}/by-hand.tar"), b"");
    device.put(&format!("{manifests}/by-hand.yaml"), b"kind: Job\n");
    // The next image: other content of the same length, and one workload fewer.
    std::fs::remove_file(device.path("usr/lib/forge/payload/archives/4567-workloads.tar")).unwrap();
    device.put("usr/lib/forge/payload/archives/89ab-workloads.tar", b"two");
    std::fs::remove_file(device.path(&workload("sign"))).unwrap();
    for _ in 0..2 {
        device.prepare();
        let names = device.names(&images);
        let expected =
            [".cache.json", "by-hand.tar", "forge-0123-images.tar.zst", "forge-89ab-workloads.tar"];
        assert_eq!(names, expected);
        assert_eq!(device.names(&manifests), ["by-hand.yaml", "forge-sign-0.yaml", "forge-till-0.yaml"]);
        assert_eq!(device.read(&format!("{manifests}/forge-till-0.yaml")), "kind: Pod\n");
        // Empty, so that what it had made is deleted; k3s leaves alone what has no manifest any more.
        let gone = device.read(&format!("{manifests}/forge-sign-0.yaml"));
        assert!(gone.lines().all(|l| l.starts_with('#')), "{gone}");
    }
    // Back again, as after a rollback.
    device.put(&workload("sign"), b"kind: Pod\n");
    device.prepare();
    assert_eq!(device.read(&format!("{manifests}/forge-sign-0.yaml")), "kind: Pod\n");
}

#[test]
fn the_boot_is_good_when_this_node_and_the_required_objects_are_ready() {
    let device = Device::new();
    device.put("usr/lib/forge/payload/workloads/till/required", b"deployment default till\njob batch once\n");
    // Answers as the API server does, the node being late, and writes down what it was asked.
    let log = device.path("asked");
    let kubectl = format!(
        "echo \"$@\" >>{log}\ncase \"$*\" in\n*nodes*) [ $(wc -l <{log}) -lt 2 ] || echo old store-042 ;;\n*node/old*) exit 1 ;;\nesac\n",
        log = log.display()
    );
    // Started again at that moment: what does not answer has not lost its images.
    let answered = device.path("answered");
    device.put_program("ctr", &format!("[ -e {0} ] || {{ touch {0}; exit 1; }}\n", answered.display()));
    device.run(&["ready", &device.put_program("kubectl", &kubectl)]);
    assert!(answered.exists() && device.path("var/lib/forge/kubernetes/imported").exists());
    let asked = device.read("asked");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(asked.contains(&format!("bootID==\"{}\"", boot.trim())), "{asked}");
    let last: Vec<&str> = asked.lines().rev().take(3).collect();
    assert_eq!(
        last,
        [
            "--namespace batch wait --for=condition=Complete --timeout=10s job/once",
            "--namespace default rollout status --timeout=10s deployment/till",
            "wait --for=condition=Ready --timeout=10s node/store-042",
        ]
    );
}

#[test]
fn a_distribution_without_an_account_is_given_what_it_has_not_imported() {
    let device = Device::new();
    let images = format!("{STATE}/agent/images");
    let archives = "usr/lib/forge/payload/archives";
    device.put("usr/lib/forge/airgap/0123-images.tar.zst", b"images");
    device.put(&format!("{archives}/4567-workloads.tar"), b"one");
    device.put(
        &format!("{archives}/4567-workloads.images"),
        b"localhost/till:1 sha256:aa\nlocalhost/sign:1 sha256:bb\n",
    );
    let index = format!("{STATE}/agent/containerd/io.containerd.metadata.v1.bolt/meta.db");
    let mut good = vec![0; 32768];
    good[16..20].copy_from_slice(&0xed0c_daedu32.to_le_bytes());
    let kubectl = device.put_program("kubectl", "echo store-042\n");
    let (all, none) = (["forge-0123-images.tar.zst", "forge-4567-workloads.tar"], [""; 0]);
    let offered = || {
        device.run(&["prepare", "k3s", "server", "forge"]);
        let links = device.names(&images).into_iter();
        links.filter(|name| name.starts_with("forge-")).collect::<Vec<_>>()
    };
    // Offered until the node was ready with every image; an import that broke off is seen by what is not there.
    assert_eq!(offered(), all);
    device.put(&index, &good);
    assert_eq!(offered(), all);
    let ready = |till: &str| {
        let line =
            |name: &str, digest: &str| format!("echo 'localhost/{name}:1 type sha256:{digest} 1 B -'\n");
        device.put_program("ctr", &(line("till", till) + &line("sign", "bb")));
        device.run(&["ready", &kubectl])
    };
    ready("other");
    assert_eq!(offered(), all);
    ready("aa");
    assert_eq!(offered(), none);
    assert_eq!(device.names(&images), none, "nor a file that it would take for an archive");
    device.run(&["prepare", "k3s", "server", "itself"]);
    assert_eq!(
        device.names(&images),
        [".cache.json", all[0], all[1]],
        "one that keeps an account sees them always"
    );
    // Another image of the device, and a store that was lost or broken.
    assert_eq!(offered(), none);
    device.put("usr/lib/forge/airgap/89ab-images.tar.zst", b"more");
    assert_eq!(offered().len(), 3);
    ready("aa");
    assert_eq!(offered(), none);
    for broken in [Some(&b""[..]), None] {
        match broken {
            Some(bytes) => device.put(&index, bytes),
            None => std::fs::remove_file(device.path(&index)).unwrap(),
        }
        assert_eq!(offered().len(), 3);
        device.put(&index, &good);
        ready("aa");
        assert_eq!(offered(), none);
    }
}

/// Serves a directory until the process ends.
pub(crate) fn serve(dir: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let dir = dir.to_path_buf();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            std::thread::spawn(move || answer(stream, &dir));
        }
    });
    base
}

fn answer(mut stream: TcpStream, dir: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.replace("%2B", "+");
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let (status, body) = match std::fs::read(dir.join(path.trim_start_matches('/'))) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", vec![]),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).ok()
}

/// A release in upstream's layout, of stand-ins: the images are a tar of nothing.
pub fn stand_in(dir: &Path, product: Product, version: &str, arch: Arch, program: &[u8]) {
    let dir = dir.join(version);
    std::fs::create_dir_all(&dir).unwrap();
    let mut sums = String::new();
    let mut files = vec![(product.program(version, arch), program)];
    files.extend(product.images(arch).map(|file| (file, &[0; 1024][..])));
    for (file, bytes) in files {
        std::fs::write(dir.join(&file), bytes).unwrap();
        match product {
            Product::Kubeedge => {
                let sum = format!("{}\n", forge::model::digest::hex(&Sha512::digest(bytes)));
                std::fs::write(dir.join(product.sums(&file, arch)), sum).unwrap();
            }
            _ => drop(writeln!(sums, "{}  {file}", Digest::of(bytes).hex())),
        }
    }
    if !sums.is_empty() {
        std::fs::write(dir.join(product.sums("", arch)), sums).unwrap();
    }
}

/// A tar.gz with a program at `path` in it.
pub fn archive(path: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "#!/bin/sh\nexec sleep infinity\n").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--to-stdout", "--directory"]).arg(dir.path()).arg(".");
    tar.output().unwrap().stdout
}

/// A worked profile, built without a disk by the real program, with a cache of its own.
pub struct Bench {
    pub scratch: tempfile::TempDir,
    cache: PathBuf,
    pub profile: PathBuf,
    pub place: PathBuf,
    pub source: String,
    /// The table of the profile whose `source` is replaced.
    table: &'static str,
}

impl Bench {
    pub fn new(name: &str, table: &'static str) -> Option<Bench> {
        let shared = fixture::shared()?;
        let scratch = shared.scratch();
        let place = scratch.path().join("release");
        std::fs::create_dir(&place).unwrap();
        Some(Bench {
            cache: shared.warm_cache_in(scratch.path()),
            profile: shared.source_in(scratch.path()).with_file_name(name),
            source: serve(&place),
            place,
            scratch,
            table,
        })
    }
    pub fn run(&self, arguments: &[&str], source: &str) -> Command {
        let mut command = forge(&self.cache);
        command.args(arguments).arg(&self.profile).args(["--set", "image.artifacts=[\"oci\"]"]);
        command.arg("--set").arg(format!("{}.source=\"{source}\"", self.table));
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command
    }
    /// The files of the image, by digest.
    pub fn build(&self, out: &str, more: &[&str], source: &str) -> BTreeMap<String, String> {
        let mut command = self.run(&["--json", "build"], source);
        let told = ok(command.args(more).arg("--out").arg(self.scratch.path().join(out)));
        let release = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
        fixture::digests(&Path::new(&release).join("oci"))
    }
    pub fn lock(&self) -> String {
        std::fs::read_to_string(self.profile.with_extension("toml.lock")).unwrap_or_default()
    }
}

#[test]
fn the_shops_profile_is_built_from_a_server_with_upstreams_layout() {
    let Some(bench) = Bench::new("retail-k3s.toml", "kubernetes") else { return };
    const VERSION: &str = "v1.34.2+k3s1";
    stand_in(&bench.place, Product::K3s, VERSION, Arch::Amd64, b"#!/bin/sh\nexec sleep infinity\n");

    // What the sums do not say is not taken; what is not there is named.
    let images = bench.place.join(VERSION).join(Product::K3s.images(Arch::Amd64).unwrap());
    std::fs::write(&images, [1; 1024]).unwrap();
    let said = refused(&mut bench.run(&["lock"], &bench.source), 4);
    assert!(said.contains("k3s-airgap-images-amd64.tar.zst"), "{said}");
    std::fs::remove_file(&images).unwrap();
    let said = refused(&mut bench.run(&["lock"], &bench.source), 3);
    assert!(said.contains("k3s-airgap-images-amd64.tar.zst") && said.contains("404"), "{said}");
    assert_eq!(bench.lock(), "");
    std::fs::write(&images, [0; 1024]).unwrap();

    let first = bench.build("dist", &[], &bench.source);
    let lock = bench.lock();
    assert!(lock.contains("product = \"k3s\", version = \"v1.34.2+k3s1\", arch = \"amd64\""), "{lock}");
    // Locked and offline, from a directory of the same layout, the same image; and the lock holds against another program.
    let directory = "file:../../release";
    assert_eq!(bench.build("again", &["--locked", "--offline"], directory), first);
    stand_in(&bench.place, Product::K3s, VERSION, Arch::Amd64, b"#!/bin/sh\n# another\n");
    let said = refused(bench.run(&["lock"], &bench.source).args(["--update"]), 4);
    assert!(said.contains("is another than the one that is locked"), "{said}");
}

#[test]
fn the_factorys_profile_is_built_from_a_program_in_an_archive() {
    let Some(bench) = Bench::new("factory-rke2.toml", "kubernetes") else { return };
    const VERSION: &str = "v1.34.2+rke2r1";
    stand_in(&bench.place, Product::Rke2, VERSION, Arch::Amd64, &archive("bin/other"));
    let mut command = bench.run(&["build"], &bench.source);
    let said = refused(command.arg("--out").arg(bench.scratch.path().join("dist")), 4);
    assert!(said.contains("rke2.linux-amd64.tar.gz") && said.contains("bin/rke2"), "{said}");
    std::fs::remove_file(bench.profile.with_extension("toml.lock")).unwrap();
    stand_in(&bench.place, Product::Rke2, VERSION, Arch::Amd64, &archive("bin/rke2"));
    assert!(!bench.build("dist", &[], &bench.source).is_empty());
}

#[test]
fn a_release_is_taken_from_an_artifact_by_the_titles_of_its_layers() {
    let Some(registry) = crate::oci::registry() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (product, arch) = (Product::K3s, Arch::Arm64);
    let mut layers = vec![];
    let files = [product.program("v1.34.2+k3s1", arch), product.images(arch).unwrap()];
    for file in files.clone() {
        let path = dir.path().join(&file);
        std::fs::write(&path, &file).unwrap();
        let mut layer = oci::descriptor("application/octet-stream", Digest::of(&file), file.len() as u64);
        layer.set_annotations(Some(HashMap::from([("org.opencontainers.image.title".into(), file)])));
        layers.push((layer, path));
    }
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "{}").unwrap();
    let config = oci::descriptor("application/vnd.oci.empty.v1+json", Digest::of("{}"), 2);
    let descriptors: Vec<_> = layers.iter().map(|(layer, _)| layer).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": oci::MANIFEST, "artifactType": "application/vnd.example.release",
        "config": config, "layers": descriptors,
    });
    let reference: oci::Reference = format!("{}/mirror/k3s:v1.34.2-k3s1", registry.host).parse().unwrap();
    let to = Registry::open(&reference, false).unwrap();
    let blobs = layers.iter().cloned().chain([(config, empty)]);
    to.push_blobs(blobs.collect(), None).unwrap();
    to.push_manifest(oci::MANIFEST, manifest.to_string().as_bytes(), Some("v1.34.2-k3s1")).unwrap();

    let (place, client, cancel) = (Place::Artifact(reference), Client::new().unwrap(), Cancel::default());
    let wanted = |files: Vec<String>| Wanted { product, version: "v1.34.2+k3s1".into(), arch, files };
    let blobs = |name: &str| Blobs::open(&dir.path().join(name)).unwrap();
    let both = wanted(files.to_vec());
    let pinned = release::pin(&both, &place, &client, &blobs("a"), &cancel).unwrap();
    assert_eq!(pinned[0].digest, Digest::of("k3s-arm64"));
    let cold = blobs("b");
    release::fetch(&pinned[1], &place, &client, &cold, &|_| {}, &cancel).unwrap();
    assert!(cold.get(pinned[1].digest).unwrap().is_some());

    let error = release::pin(&wanted(vec!["k3s".into()]), &place, &client, &cold, &cancel).unwrap_err();
    assert_eq!(forge::error::kind(&error), forge::error::Kind::Verify, "{error:#}");
    assert!(error.to_string().contains("0 layers of the title k3s"), "{error:#}");
    let error = release::fetch(&pinned[0], &place, &Client::offline(), &cold, &|_| {}, &cancel).unwrap_err();
    assert!(format!("{error:#}").contains("offline"), "{error:#}");
}
