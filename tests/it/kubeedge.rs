//! KubeEdge: trees as expected, and the worked profile built by the real program from a server with upstream's layout.

use crate::fixture::{self, refused};
use crate::golden;
use crate::kubernetes::{Bench, archive as archive_of, listing, stand_in};
use crate::support::{is_root, tool};
use forge::layer::agent::kubeedge::{self, Spec};
use forge::layer::kubernetes::cluster::Start;
use forge::layer::workload::archive::{self, ArchivedImage};
use forge::layer::workload::container;
use forge::model::{Arch, Epoch};
use forge::source::release::Product;
use forge::tree::{Content, TreePath, tar};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

const GOLDEN: &str = "tests/fixtures/kubernetes";
const VERSION: &str = "v1.22.1";

fn spec(start: Start, arch: Arch) -> Spec {
    Spec {
        version: VERSION.into(),
        start,
        program: Content::from(format!("edgecore for {arch}").into_bytes()),
        pause: "localhost/forge-pause:1".into(),
        node_name: "barn-7".into(),
        labels: BTreeMap::from([("region".into(), "north".into()), ("tier".into(), "farm".into())]),
        config: BTreeMap::from([("modules.eventBus".into(), json!({ "enable": true, "mqttMode": 2 }))]),
    }
}

#[test]
fn trees_of_every_start_and_architecture_are_as_expected() {
    let mut wrong = vec![];
    for (start, name) in [(Start::Granted, "granted"), (Start::Boot, "by-hand")] {
        for arch in [Arch::Amd64, Arch::Arm64] {
            let tree = kubeedge::tree(&spec(start, arch)).unwrap();
            let path = format!("{GOLDEN}/kubeedge-{name}-{arch}.txt");
            wrong.extend(golden::compare(Path::new(&path), &listing(&tree)).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_farms_profile_is_built_from_a_server_with_upstreams_layout() {
    let Some(bench) = Bench::new("farm-kubeedge.toml", "agent") else { return };
    // No box boots here: a program is one by its header.
    let programs = bench.scratch.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    for (arch, machine) in [("amd64", 62), ("arm64", 183)] {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = machine;
        std::fs::write(programs.join(format!("forge-device-{arch}")), elf).unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = bench.run(arguments, &bench.source);
        command.args(["--set", "image.arch=[\"amd64\"]"]).env("FORGE_DEVICE_DIR", &programs);
        command
    };
    let within = kubeedge::program_in_release(VERSION, Arch::Amd64);
    stand_in(&bench.place, Product::Kubeedge, VERSION, Arch::Amd64, &archive_of(&within));

    // What the sum does not say is not taken.
    let file = bench.place.join(VERSION).join(Product::Kubeedge.program(VERSION, Arch::Amd64));
    let right = std::fs::read(&file).unwrap();
    std::fs::write(&file, "another").unwrap();
    let said = refused(&mut run(&["lock"]), 4);
    assert!(said.contains("kubeedge-v1.22.1-linux-amd64.tar.gz") && said.contains("SHA-512"), "{said}");
    std::fs::write(&file, right).unwrap();

    let out = bench.scratch.path().join("dist");
    let told = fixture::ok(run(&["--json", "build"]).arg("--out").arg(&out));
    assert!(bench.lock().contains("product = \"kubeedge\", version = \"v1.22.1\", arch = \"amd64\""));
    let release = fixture::events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
    let paths = paths_of_layers(&Path::new(&release).join("oci"));
    for path in [
        "usr/local/bin/edgecore",
        "etc/kubeedge/config/edgecore.yaml",
        "usr/bin/containerd",
        "usr/sbin/runc",
        "usr/lib/cni/bridge",
        "usr/lib/cni/portmap",
        "usr/sbin/mosquitto",
        "usr/lib/forge/forge-device",
    ] {
        assert!(paths.iter().any(|p| p == path), "no {path}");
    }
    let carried = |end: &str| paths.iter().any(|p| p.starts_with("archives/") && p.ends_with(end));
    assert!(carried("-workloads.tar") && carried("-workloads.images"), "pause and the profile's image");
    assert!(!paths.iter().any(|p| p.ends_with("climate.yaml")), "the cluster has the manifests");
}

/// The paths in all layers of an OCI layout.
fn paths_of_layers(layout: &Path) -> Vec<String> {
    let mut paths = vec![];
    for entry in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let Ok(tar) = zstd::decode_all(&bytes[..]) else { continue };
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &tar).unwrap();
        let tree = tar::index(file).unwrap();
        paths.extend(tree.iter().map(|(path, _): (&TreePath, _)| path.as_str().to_string()));
    }
    paths
}

/// A real containerd over a box's directories, with the program that the units call made to look there.
struct Containerd {
    root: tempfile::TempDir,
    programs: [PathBuf; 2],
    running: Option<Child>,
}

impl Containerd {
    fn new() -> Option<Containerd> {
        let programs = [tool("containerd")?, tool("ctr")?];
        if !is_root() {
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let program = forge::template::kubeedge::PROGRAM;
        let text = ["/usr/lib/forge/", "/var/lib/", "/run/"].iter().fold(program.to_string(), |text, dir| {
            text.replace(dir, &format!("{}{dir}", root.path().display()))
        });
        std::fs::write(root.path().join("program"), text).unwrap();
        let path = |path: &str| root.path().join(path).display().to_string();
        // Without what makes it a kubelet's: only its images are looked at.
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n",
            path("var/lib/containerd"),
            path("run/containerd"),
            path("socket")
        );
        std::fs::write(root.path().join("config.toml"), config).unwrap();
        std::fs::create_dir_all(root.path().join(CARRIED)).unwrap();
        Some(Containerd { root, programs, running: None })
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.root.path().join("log")).unwrap();
        let mut command = Command::new(&self.programs[0]);
        command.arg("--config").arg(self.root.path().join("config.toml")).stderr(log);
        self.running = Some(command.spawn().unwrap());
        for _ in 0..200 {
            if self.ctr(&["version"]).output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}", std::fs::read_to_string(self.root.path().join("log")).unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let id = rustix::process::Pid::from_child(&running);
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
            running.wait().unwrap();
        }
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs[1]);
        command
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .env("CONTAINERD_ADDRESS", self.root.path().join("socket"));
        command
    }

    /// What the unit does, and says.
    fn run(&self, verb: &str) -> String {
        let mut command = Command::new("sh");
        command.arg(self.root.path().join("program")).arg(verb);
        // Of the layers nothing is looked at, and a test's directory may lie on what cannot be stacked.
        command
            .env("CONTAINERD_ADDRESS", self.root.path().join("socket"))
            .env("CONTAINERD_SNAPSHOTTER", "native");
        fixture::ok(&mut command)
    }

    /// Lies in the image of the box from now on: images by name, each a program of that text.
    fn carry(&self, images: &[(&str, &str)]) {
        let carried = self.root.path().join(CARRIED);
        std::fs::remove_dir_all(&carried).unwrap();
        let images: Vec<ArchivedImage> = images.iter().map(|(name, text)| image(name, text)).collect();
        let mut tar = vec![];
        tar::write(&archive::layout_tree(&images).unwrap(), Epoch(0), &mut tar).unwrap();
        let tree = kubeedge::payload_tree(Content::from(tar), archive::list(&images)).unwrap();
        std::fs::create_dir_all(&carried).unwrap();
        for (path, node) in tree.iter() {
            if let forge::tree::NodeKind::File(content) = &node.kind {
                let bytes = content.to_vec(1 << 20).unwrap();
                std::fs::write(self.root.path().join(PAYLOAD).join(path.as_str()), bytes).unwrap();
            }
        }
    }

    /// Names, each with whether the kubelet keeps it.
    fn images(&self) -> BTreeMap<String, bool> {
        let text = fixture::ok(&mut self.ctr(&["images", "list"]));
        let lines = text.lines().skip(1);
        lines.map(|l| (l.split(' ').next().unwrap().to_string(), l.contains("pinned=pinned"))).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.stop();
    }
}

const PAYLOAD: &str = "usr/lib/forge/payload";
const CARRIED: &str = "usr/lib/forge/payload/archives";

/// An image of one program, as a build archives it.
fn image(name: &str, program: &str) -> ArchivedImage {
    let program = Content::from(program.as_bytes().to_vec());
    let path = TreePath::parse("pause").unwrap();
    let image =
        container::program_image(name.parse().unwrap(), path, program, &[], Arch::Amd64, Epoch(0)).unwrap();
    let mut layers = BTreeMap::new();
    for layer in &image.layers {
        let mut tar = vec![];
        let written = tar::write(&layer.tree, Epoch(0), &mut tar).unwrap();
        layers.insert(written.diff_id, Content::from(tar));
    }
    ArchivedImage { names: image.names, manifest: image.manifest, config: image.config, layers }
}

#[test]
fn what_cni_noted_of_pods_goes_with_the_boot_that_they_ran_in() {
    let Some(box_) = Containerd::new() else { return };
    let noted = |path: &str| box_.root.path().join("var/lib/cni").join(path);
    let empty = ["results/forge-584dea90-eth0", "networks/forge/10.88.0.2"].map(noted);
    for file in &empty {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "").unwrap();
    }
    // Containerd alone was started again, and the pod runs on.
    let task = box_.root.path().join("run/containerd/io.containerd.runtime.v2.task/k8s.io/584dea90");
    std::fs::create_dir_all(&task).unwrap();
    box_.run("repair");
    assert!(empty.iter().all(|file| file.exists()));
    std::fs::remove_dir(&task).unwrap();
    box_.run("repair");
    assert!(empty.iter().all(|file| !file.exists()));
}

#[test]
fn carried_images_are_imported_once_kept_and_given_up_with_the_image_that_carried_them() {
    let Some(mut box_) = Containerd::new() else { return };
    let (pause, climate) = ("docker.io/library/forge-pause:1", "docker.io/library/barn-climate:1");
    box_.carry(&[("localhost/forge-pause:1", "pause"), ("localhost/barn-climate:1", "climate")]);
    assert_eq!(box_.run("repair"), "");
    box_.start();
    assert_ne!(box_.run("import"), "");
    let both = |images: &BTreeMap<String, bool>| (images.get(pause).copied(), images.get(climate).copied());
    assert_eq!(both(&box_.images()), (Some(true), Some(true)), "{:?}", box_.images());
    assert_eq!(box_.images().len(), 4, "under the names that manifests may have");
    assert_eq!(box_.run("import"), "", "nothing is imported at the second start");

    // A power cut between import and note: it is done again.
    fixture::ok(&mut box_.ctr(&["images", "label", climate, "io.cri-containerd.pinned="]));
    assert_ne!(box_.run("import"), "");
    assert_eq!(both(&box_.images()), (Some(true), Some(true)));

    // The next image of the box: another program under one name, and one image fewer.
    box_.carry(&[("localhost/forge-pause:1", "another")]);
    assert_ne!(box_.run("import"), "");
    assert_eq!(both(&box_.images()), (Some(true), Some(false)), "it may go when there is no room");
    assert_eq!(box_.run("import"), "");

    // A whole store stays; one that a cut has broken is made again from what is carried.
    box_.stop();
    assert_eq!(box_.run("repair"), "");
    let index = box_.root.path().join("var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db");
    let length = std::fs::metadata(&index).unwrap().len() as usize;
    for broken in [vec![], vec![0; length]] {
        std::fs::write(&index, broken).unwrap();
        assert!(box_.run("repair").contains("imported again"));
        assert!(!index.exists());
        box_.start();
        assert_ne!(box_.run("import"), "");
        assert_eq!(both(&box_.images()), (Some(true), None));
        box_.stop();
    }
}
