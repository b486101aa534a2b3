//! The farm's profile with a real EdgeCore, CloudCore and Kubernetes API: a box joins its fleet with nobody there, becomes
//! a node with the certificate that the fleet had made for it, and runs what the cluster sends out of the image that it
//! carries. Without cloud, fleet and cable the same box comes back from a power cut with its pod.

use super::cloud::{Cloud, TOKEN};
use super::{START, change, given, telling, told};
use crate::boots;
use crate::fixture::{self, FORGE, Fixture, ok};
use crate::vm::{Opts, Vm, free_port};
use forge::layer::agent::kubeedge::program_in_release;
use forge::model::Arch;
use forge::model::digest::hex;
use forge::run::qemu::MAC;
use forge::source::release::Product;
use sha2::{Digest as _, Sha512};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

/// EdgeCore says its version nowhere; the profile's is that of the worked one.
const VERSION: &str = "v1.22.1";
/// The box's name in the inventory, and its node's.
const NODE: &str = "barn-7";
/// Where the pod's page is, on the box, by CNI's `portmap`.
const PAGE: u16 = 30080;
/// Room for slot B, and for containerd's store.
const DISK: u64 = 16 << 30;

/// What the profile has beside what is there.
const PAGE_IMAGE: &str = r#"
[[container]]
name = "barn-page:1"
packages = ["busybox-static"]
files = [{ path = "/srv/index.html", content = "the barn's page" }]
command = ["busybox", "httpd", "-f", "-p", "80", "-h", "/srv"]

[[workload]]
name = "page"
manifests = ["workloads/page.yaml"]
"#;
/// What the cluster sends: for that node, so that it needs no scheduler.
const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: { name: page, namespace: default }
spec:
  nodeName: barn-7
  automountServiceAccountToken: false
  containers:
    - name: page
      image: localhost/barn-page:1
      imagePullPolicy: Never
      ports: [{ containerPort: 80, hostPort: 30080 }]
"#;
/// Asked from within the box, for nothing else reaches it without a cable: what the pod's page says, once it says something.
/// Then what containerd runs, and how often images were imported at this start.
const TELL: &str = r#"
ask='exec 3<>/dev/tcp/127.0.0.1/30080 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && tail -n 1 <&3'
until said=$(timeout 10 bash -c "$ask" 2>/dev/null) && [ -n "$said" ]; do sleep 2; done
echo "page $said after $(cut -d. -f1 /proc/uptime) s"
ctr --namespace k8s.io tasks list --quiet | wc -l | sed 's/^/tasks /'
echo "imports $(journalctl -b -u forge-edge-images.service -o cat | grep -c ^unpacking)"
ip -brief link show enp0s2 | sed 's/^/cable /'
"#;

#[test]
#[ignore = "hack/e2e kubeedge EDGECORE CLOUDCORE CRDS APISERVER"]
fn a_barn_joins_a_real_cloudcore_and_its_pod_outlives_cloud_cable_and_power() {
    let shared = fixture::shared().expect("a network to build from");
    let dir = shared.scratch();
    let mut cloud = Cloud::start(&dir.path().join("cloud"));
    let port = free_port();
    let (release, bundle) = build(shared, dir.path(), port);
    let fleet = Fleet::serve(dir.path(), port, &cloud);
    let (_, opts) = boots::given().unwrap();
    let opts = Opts { ports: vec![PAGE], cpus: 2, ..opts };
    let own = dir.path().join("device.raw");
    forge::run::disk::unpack(&release.join("amd64/disk.raw.zst"), &own, DISK).unwrap();
    forge::run::bundle::place(&forge::run::bundle::read(&bundle).unwrap(), &own).unwrap();

    let started = Instant::now();
    let mut vm = Vm::boot(&own, &opts);
    let node = cloud.ready_node(NODE, START);
    println!("node ready {:.0?} after power on: {node}", started.elapsed());
    // CloudCore passes on what is scheduled to a node that it knows, as schedulers do.
    cloud.post("/api/v1/namespaces/default/pods", POD);
    let answer = vm.http_get(PAGE, START);
    println!("page {:.0?} after power on", started.elapsed());
    assert!(answer.ends_with("the barn's page"), "{answer}");
    let first = told(&mut vm, START);
    println!("{}", first.join("\n"));
    assert!(first.iter().any(|line| line == "tasks 2"), "pause and page: {first:?}");

    // Nothing is left that the box could ask.
    drop(fleet);
    cloud.stop_cloudcore();
    vm.power_off_hard();
    let mut vm = Vm::boot(&own, &opts);
    vm.link(false);
    let second = told(&mut vm, START);
    println!("{}", second.join("\n"));
    assert!(second.iter().any(|line| line.starts_with("page the barn's page after ")), "{second:?}");
    for said in ["tasks 2", "imports 0"] {
        assert!(second.iter().any(|line| line == said), "no `{said}`: {second:?}");
    }
    assert!(
        second.iter().any(|line| line.starts_with("cable ") && line.contains("NO-CARRIER")),
        "{second:?}"
    );

    // The cloud and the cable come back, and with them the node.
    cloud.forget_heartbeats(NODE);
    cloud.start_cloudcore();
    let again = Instant::now();
    vm.link(true);
    cloud.ready_node(NODE, START);
    println!("node ready again {:.0?} after the cable", again.elapsed());
}

/// The worked profile, its release made of what was given, in upstream's layout; the release, and the bundle of its box.
fn build(shared: &Fixture, dir: &Path, port: u16) -> (PathBuf, PathBuf) {
    place(&dir.join("release"), &given("FORGE_E2E_EDGECORE"));
    let profile = shared.source_in(dir).with_file_name("farm-kubeedge.toml");
    let endpoint = format!("https://10.0.2.2:{port}");
    let replacements = [
        (r#"arch = ["amd64", "arm64"]"#, r#"arch = ["amd64"]"#),
        (r#"source = "release""#, r#"source = "file:../../release""#),
        ("https://fleet.example:8443", endpoint.as_str()),
        ("farm/fleet-root.pub", "fleet-root.pub"),
    ];
    change(&profile, &replacements, &format!("{PAGE_IMAGE}{}", telling(Some("edgecore.service"), TELL)));
    std::fs::write(profile.with_file_name("workloads").join("page.yaml"), POD).unwrap();
    let root = profile.with_file_name("fleet-root.key");
    ok(Command::new(FORGE).args(["key", "generate", "--no-passphrase"]).arg(&root));
    let programs = crate::joins::programs().expect("hack/device has run");
    let mut build = fixture::forge(&shared.cache());
    build.env("FORGE_DEVICE_DIR", programs).args(["--json", "build", "--artifact", "disk"]).arg(&profile);
    let told = ok(build.arg("--out").arg(dir.join("dist")));
    let release = fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into();

    let fleet = dir.join("fleet");
    ok(Command::new(FORGE).args(["fleet", "init", "--name", "farms"]).arg(&fleet));
    let inventory = dir.join("devices.csv");
    std::fs::write(&inventory, format!("name,macs\n{NODE},{MAC}\n")).unwrap();
    let mut bundle = Command::new(FORGE);
    bundle.args(["enroll", "bundle"]).arg(&profile).arg("--inventory").arg(&inventory);
    ok(bundle.arg("--fleet").arg(fleet.join("fleet.json")).arg("--out").arg(dir.join("bundles")));
    (release, dir.join("bundles").join(NODE))
}

/// EdgeCore in an archive of upstream's layout, with its sum.
fn place(dir: &Path, edgecore: &Path) {
    let dir = dir.join(VERSION);
    let program = dir.join(program_in_release(VERSION, Arch::Amd64));
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    std::fs::copy(edgecore, &program).unwrap();
    let name = Product::Kubeedge.program(VERSION, Arch::Amd64);
    let top = name.strip_suffix(".tar.gz").unwrap();
    ok(Command::new("tar").args(["--create", "--gzip", "--file", &name, top]).current_dir(&dir));
    let sum = hex(&Sha512::digest(std::fs::read(dir.join(&name)).unwrap()));
    std::fs::write(dir.join(Product::Kubeedge.sums(&name, Arch::Amd64)), sum).unwrap();
}

/// `forge fleet serve`, which ends when dropped.
struct Fleet(Child);

impl Fleet {
    fn serve(dir: &Path, port: u16, cloud: &Cloud) -> Fleet {
        let home = dir.join("fleet");
        std::fs::write(home.join("farms.token"), TOKEN).unwrap();
        let clusters = format!(
            "[[cluster]]\nname = \"farms\"\nprofiles = [\"farm-kubeedge\"]\n\
             api = {{ server = \"{}\", ca = \"{}\", token = \"farms.token\" }}\n\
             join = {{ kubeedge = {{ https = \"https://{}\", websocket = \"{}\" }} }}\n",
            cloud.api,
            cloud.authority().display(),
            cloud.signs_at,
            cloud.talks_at,
        );
        std::fs::write(home.join("clusters.toml"), clusters).unwrap();
        let mut serve = Command::new(FORGE);
        serve.args(["fleet", "serve"]).arg(&home).arg("--listen").arg(format!("127.0.0.1:{port}"));
        serve.arg("--trust").arg(dir.join("source/profiles/fleet-root.pub"));
        Fleet(serve.spawn().unwrap())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}
