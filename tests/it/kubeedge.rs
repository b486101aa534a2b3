//! KubeEdge: trees as expected, and the worked profile built by the real program from a server with upstream's layout.

use crate::fixture::{self, refused};
use crate::golden;
use crate::kubernetes::{Bench, archive, listing, stand_in};
use forge::layer::agent::kubeedge::{self, Spec};
use forge::layer::kubernetes::cluster::Start;
use forge::model::Arch;
use forge::source::release::Product;
use forge::tree::{Content, TreePath, tar};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

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
    stand_in(&bench.place, Product::Kubeedge, VERSION, Arch::Amd64, &archive(&within));

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
