//! The shop's profile with a real k3s: its node becomes ready and its pod answers out of carried images alone, and the
//! second start imports none of them again.

use super::{START, change, given, telling, told};
use crate::boots;
use crate::fixture::{self, Fixture, ok};
use crate::vm::{Opts, Vm};
use forge::model::{Arch, Digest};
use forge::source::release::Product;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Where the pod of the profile answers, beside k3s' load balancer, which is turned off: its image need not be there.
const NODE_PORT: u16 = 30080;
/// Room for slot B, and for images in containerd's store.
const DISK: u64 = 16 << 30;
/// What the archive of images need not hold.
const DISABLED: &str = r#"disable = ["coredns", "servicelb", "traefik", "local-storage", "metrics-server"]"#;

/// Bytes that no compression makes fewer, as a model's are.
const MODEL: u64 = 256 << 20;
/// A workload of the profile's that carries them.
const CARRIED: &str = "\n[[workload]]\nname = \"weights\"\nrequired = true\n\
                       model = { source = \"file:weights\", mount = \"/var/lib/models/weights\" }\n";

/// The nodes, the pods, what was imported at this start, and what containerd keeps: blobs by number and MiB, and when its
/// youngest was written.
const TELL: &str = r#"
# k3s' controller manager waits ten seconds for the API server to be healthy, which reconciles its roles first, and ends k3s
# otherwise: on an emulated machine it takes some starts.
until kubectl wait --for=condition=Ready --timeout=60s nodes --all && kubectl wait --for=condition=Ready --timeout=60s pods --all; do
    sleep 2
done >/dev/null 2>&1
systemctl show --property NRestarts k3s.service
journalctl -b -u k3s.service -o cat | grep -E 'level=fatal|^F[0-9]|leaderelection lost' | sed 's/^/end /'
kubectl get nodes --no-headers -o wide | sed 's/^/node /'
kubectl get pods -A --no-headers -o wide | sed 's/^/pod /'
journalctl -b -u k3s.service -o cat | grep -iE 'import(ing|ed) ' | sed 's/^/log /'
cd /var/lib/rancher/k3s/agent/containerd
crictl images --no-trunc 2>/dev/null | sed 's/^/image /'
blobs=io.containerd.content.v1.content/blobs/sha256
echo "model $(sha256sum </var/lib/models/weights/model)"
echo "store $(ls $blobs | wc -l) blobs, $(du -sm $blobs | cut -f 1) MiB, the youngest of $(stat -c %y $blobs/* | sort | tail -n 1)"
echo "snapshots $(ls io.containerd.snapshotter.v1.overlayfs/snapshots | wc -l), $(du -sm io.containerd.snapshotter.v1.overlayfs | cut -f 1) MiB"
"#;

#[test]
#[ignore = "hack/e2e k3s BINARY IMAGES"]
fn a_shop_opens_with_a_real_k3s_and_imports_its_images_once() {
    let shared = fixture::shared().expect("a network to build from");
    let dir = shared.scratch();
    let start = Instant::now();
    let (release, model) = build(shared, dir.path());
    println!("built after {:.0?}", start.elapsed());
    let (_, opts) = boots::given().unwrap();
    let opts = Opts { ports: vec![NODE_PORT], memory: 4096, cpus: 2, cut_off: true, ..opts };
    let own = dir.path().join("device.raw");
    forge::run::disk::unpack(&release.join("amd64/disk.raw.zst"), &own, DISK).unwrap();

    let mut vm = Vm::boot(&own, &opts);
    let took = vm.wait_for("boot complete, good", START);
    println!("node ready and pod available, first start: {took:.0?}");
    let first = told(&mut vm, START);
    println!("{}", first.join("\n"));
    is_up(&vm, &first);
    assert!(first.contains(&format!("model {}  -", model.hex())), "{first:?}");
    assert!(
        first.iter().any(|line| line.starts_with("log ") && line.contains("mporting images")),
        "{first:?}"
    );

    vm.reboot();
    let took = vm.wait_for("boot complete", START);
    println!("node ready and pod available, second start: {took:.0?}");
    let all = told(&mut vm, START);
    let second = &all[first.len()..];
    println!("{}", second.join("\n"));
    is_up(&vm, second);
    let imports: Vec<_> = second.iter().filter(|line| line.starts_with("log ")).collect();
    assert!(imports.is_empty(), "imported again: {imports:?}");
    let store = |lines: &[String]| lines.iter().find(|line| line.starts_with("store ")).cloned();
    assert_eq!(store(&first), store(second), "containerd's blobs");
}

/// The node and all pods say so, and the pod's page is there.
fn is_up(vm: &Vm, lines: &[String]) {
    let said = |what: &str| lines.iter().filter(|line| line.starts_with(what)).collect::<Vec<_>>();
    let (nodes, pods) = (said("node "), said("pod "));
    assert!(nodes.len() == 1 && nodes[0].contains(" Ready "), "{nodes:?}");
    assert!(!pods.is_empty() && pods.iter().all(|pod| pod.contains(" 1/1 ")), "{pods:?}");
    let answer = vm.http_get(NODE_PORT, START);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The worked profile, its release made of what was given, in upstream's layout; and the digest of a model that it carries.
fn build(shared: &Fixture, dir: &Path) -> (PathBuf, Digest) {
    let program = given("FORGE_E2E_K3S");
    let version = version(&program);
    println!("k3s {version}");
    place(&dir.join("release").join(&version), &program, &given("FORGE_E2E_K3S_IMAGES"));
    let profile = shared.source_in(dir).with_file_name("retail-k3s.toml");
    change(
        &profile,
        &[(r#"disable = ["traefik", "metrics-server"]"#, DISABLED)],
        &(telling(None, TELL) + CARRIED),
    );
    let model = profile.with_file_name("weights").join("model");
    std::fs::create_dir(model.parent().unwrap()).unwrap();
    let random = File::open("/dev/urandom").unwrap();
    std::io::copy(&mut random.take(MODEL), &mut File::create(&model).unwrap()).unwrap();
    let (digest, _) = Digest::of_reader(File::open(&model).unwrap()).unwrap();
    let node_port = format!("type: NodePort\n  ports: [{{ port: 80, nodePort: {NODE_PORT} }}]");
    let till = profile.with_file_name("workloads").join("till.yaml");
    change(&till, &[("  ports: [{ port: 80 }]\n", ""), ("type: LoadBalancer", &node_port)], "");
    let mut build = fixture::forge(&shared.cache());
    build.args([
        "--json",
        "build",
        "--artifact",
        "disk",
        "--set",
        "kubernetes.source=\"file:../../release\"",
    ]);
    build.arg("--set").arg(format!("kubernetes.version=\"{version}\""));
    let told = ok(build.arg(&profile).arg("--out").arg(dir.join("dist")));
    (fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into(), digest)
}

/// `k3s version v1.34.2+k3s1 (0123abcd)`.
fn version(program: &Path) -> String {
    let said = ok(Command::new(program).arg("--version"));
    said.split_whitespace().nth(2).unwrap_or_else(|| panic!("{said}")).into()
}

fn place(dir: &Path, program: &Path, images: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let names = [Product::K3s.program("", Arch::Amd64), Product::K3s.images(Arch::Amd64).unwrap()];
    std::fs::copy(program, dir.join(&names[0])).unwrap();
    let archive = dir.join(&names[1]);
    if images.extension().is_some_and(|e| e == "zst") {
        std::fs::copy(images, &archive).unwrap();
    } else {
        let (from, to) = (File::open(images).unwrap(), File::create(&archive).unwrap());
        zstd::stream::copy_encode(from, to, 1).unwrap();
    }
    let sum = |name: &String| {
        let (digest, _) = Digest::of_reader(File::open(dir.join(name)).unwrap()).unwrap();
        format!("{}  {name}\n", digest.hex())
    };
    let sums = names.iter().map(sum).collect::<String>();
    std::fs::write(dir.join(Product::K3s.sums("", Arch::Amd64)), sums).unwrap();
}
