//! Worked profiles of every kind of workload, built by the real program into one cache, and what their payloads hold;
//! models and charts from a registry and a repository.

use crate::fixture::{self, Fixture, events, forge, ok, refused};
use crate::kubernetes::{serve, stand_in};
use forge::host::cancel::Cancel;
use forge::host::http::Client;
use forge::model::{Arch, Digest};
use forge::oci::{self, layout::Layout, registry::Registry};
use forge::source::blobs::Blobs;
use forge::source::release::Product;
use forge::source::remote;
use forge::tree::{NodeKind, Tree, TreePath, tar};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The profiles' directory, copied, with a cache of its own, and a place of releases.
struct Bench {
    scratch: tempfile::TempDir,
    cache: PathBuf,
    profiles: PathBuf,
    place: String,
}

impl Bench {
    fn new(shared: &Fixture) -> Bench {
        let scratch = shared.scratch();
        let place = scratch.path().join("release");
        std::fs::create_dir(&place).unwrap();
        for (product, version) in [(Product::K3s, "v1.34.2+k3s1"), (Product::Rke2, "v1.34.2+rke2r1")] {
            stand_in(&place, product, version, Arch::Amd64, &program(product));
        }
        let profiles = shared.source_in(scratch.path()).parent().unwrap().to_path_buf();
        Bench { cache: shared.warm_cache_in(scratch.path()), profiles, place: serve(&place), scratch }
    }

    fn run(&self, verb: &[&str], profile: &str) -> Command {
        let mut command = forge(&self.cache);
        command.args(verb).arg(self.profiles.join(profile)).args(["--set", "image.artifacts=[\"oci\"]"]);
        if profile.starts_with("mqtt") {
            command.arg("--set").arg(format!("kubernetes.source=\"{}\"", self.place));
        }
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command
    }

    /// The payload of the profile, built.
    fn payload(&self, profile: &str, more: &[&str]) -> Tree {
        let out = self.scratch.path().join(format!("dist-{profile}-{}", more.len()));
        let told = ok(self.run(&["--json", "build"], profile).args(more).arg("--out").arg(out));
        let release = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
        let layout = Layout::open(&Path::new(&release).join("oci")).unwrap();
        let index = layout.index(&layout.entries()[0]).unwrap();
        let manifest = layout.manifest(&index.manifests()[0]).unwrap();
        let layer = manifest.layers().last().unwrap();
        let blob = layout.open_blob(layer).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let media_type = layer.media_type().to_string();
        std::io::copy(&mut oci::layer::decompress(&media_type, blob, 1 << 32).unwrap(), &mut file).unwrap();
        tar::index(file).unwrap()
    }

    fn lock(&self, profile: &str) -> String {
        std::fs::read_to_string(self.profiles.join(format!("{profile}.lock"))).unwrap()
    }
}

/// A release's program: of RKE2 a tar.gz around it.
fn program(product: Product) -> Vec<u8> {
    const PROGRAM: &str = "#!/bin/sh\nexec sleep infinity\n";
    if product == Product::K3s {
        return PROGRAM.into();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::write(dir.path().join("bin/rke2"), PROGRAM).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--to-stdout", "--directory"]).arg(dir.path()).arg(".");
    tar.output().unwrap().stdout
}

fn p(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

fn read(tree: &Tree, path: &str) -> String {
    let content = tree.file(&p(path)).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(content.to_vec(1 << 24).unwrap()).unwrap()
}

/// The images of the payload's one archive, by name.
fn archived(payload: &Tree) -> Vec<String> {
    let found: Vec<_> =
        payload.iter().filter(|(path, _)| path.as_str().ends_with("-workloads.tar")).collect();
    let [(_, node)] = found[..] else { panic!("{} archives", found.len()) };
    let NodeKind::File(content) = &node.kind else { panic!() };
    let mut file = tempfile::tempfile().unwrap();
    std::io::copy(&mut content.reader(), &mut file).unwrap();
    let archive = tar::index(file).unwrap();
    let index: Value = serde_json::from_str(&read(&archive, "index.json")).unwrap();
    let name = |m: &Value| m["annotations"]["io.containerd.image.name"].as_str().unwrap().to_string();
    index["manifests"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn worked_profiles_of_all_kinds_of_workloads_are_built() {
    let Some(shared) = fixture::shared() else { return };
    let bench = Bench::new(shared);

    let clinic = bench.payload("clinic-podman.toml", &[]);
    assert_eq!(read(&clinic, "workloads/records/containers"), "records-web healthy\n");
    let said =
        refused(bench.run(&["check"], "clinic-podman.toml").args(["--set", "hardware.memory=\"32MiB\""]), 2);
    assert!(
        said.contains("records.yaml:") && said.contains("64.0 MiB") && said.contains("32.0 MiB"),
        "{said}"
    );

    let media = bench.payload("media-models.toml", &[]);
    let labels = media.iter().filter(|(path, _)| path.as_str().ends_with("labels.txt")).count();
    assert_eq!((labels, read(&media, "models/shelf-model/labels.txt").as_str()), (1, "empty\nhalf\nfull\n"));
    assert!(
        read(&media, "units/system/var-lib-models-shelf.mount").contains("Where=/var/lib/models/shelf\n")
    );

    let emqx = bench.payload("mqtt-emqx.toml", &[]);
    let names = archived(&emqx);
    for name in ["localhost/emqx:5.8", "localhost/emqx-operator:2.2.29", "docker.io/library/emqx:5.8"] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    let chart = read(&emqx, "workloads/emqx-operator/manifests/forge-emqx-operator-0.yaml");
    assert!(chart.contains("\"kind\":\"HelmChart\"") && chart.contains("replicaCount: 1"), "{chart}");
    let ready = read(&emqx, "workloads/emqx-operator/required");
    assert_eq!(ready, "job kube-system helm-install-emqx-operator\n");
    assert!(bench.lock("mqtt-emqx.toml").contains("images = [], images-from = [\"values\"]"));
    // Locked and offline, the same payload; a chart that changed is told.
    let again = bench.payload("mqtt-emqx.toml", &["--locked", "--offline"]);
    assert_eq!(read(&again, "workloads/emqx-operator/manifests/forge-emqx-operator-0.yaml"), chart);
    std::fs::write(bench.profiles.join("mqtt/emqx-values.yaml"), "replicaCount: 2\n").unwrap();
    let said = refused(bench.run(&["build"], "mqtt-emqx.toml").arg("--locked"), 5);
    assert!(said.contains("chart file:mqtt/emqx-operator for amd64 is not locked as it is now"), "{said}");

    let hivemq = bench.payload("mqtt-hivemq.toml", &[]);
    assert!(archived(&hivemq).contains(&"localhost/hivemq4:4.45.0".to_string()));
    assert!(bench.lock("mqtt-hivemq.toml").contains("images-from = [\"annotations\"]"));

    let legacy = bench.payload("legacy-vm.toml", &[]);
    let disk = legacy.file(&p("vms/old-till/disk")).unwrap().to_vec(1 << 20).unwrap();
    assert_eq!(disk, std::fs::read("profiles/legacy/till.img").unwrap());
    assert!(read(&legacy, "host-ports").contains("8080/tcp\n"));
    assert!(read(&legacy, "units/system/forge-vm-old-till.service").contains("-machine pc "));
}

/// Pushes files as ORAS does, a layer a file named by its title; each layer's media type beside it.
fn push(host: &str, name: &str, tag: &str, files: &[(&str, &str, &[u8])]) -> oci::Reference {
    let dir = tempfile::tempdir().unwrap();
    let mut blobs = vec![];
    for (number, (title, media_type, bytes)) in files.iter().enumerate() {
        let path = dir.path().join(number.to_string());
        std::fs::write(&path, bytes).unwrap();
        let mut layer = oci::descriptor(media_type, Digest::of(bytes), bytes.len() as u64);
        layer.set_annotations(Some(HashMap::from([(
            "org.opencontainers.image.title".into(),
            title.to_string(),
        )])));
        blobs.push((layer, path));
    }
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "{}").unwrap();
    let config = oci::descriptor("application/vnd.oci.empty.v1+json", Digest::of("{}"), 2);
    let layers: Vec<_> = blobs.iter().map(|(layer, _)| layer.clone()).collect();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": oci::MANIFEST, "config": config, "layers": layers });
    let reference: oci::Reference = format!("{host}/{name}:{tag}").parse().unwrap();
    let to = Registry::open(&reference, false).unwrap();
    blobs.push((config, empty));
    to.push_blobs(blobs, None).unwrap();
    to.push_manifest(oci::MANIFEST, manifest.to_string().as_bytes(), Some(tag)).unwrap();
    reference
}

#[test]
fn a_model_is_pinned_from_an_artifact_and_from_a_url() {
    let Some(registry) = crate::oci::registry() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (client, cancel) = (Client::new().unwrap(), Cancel::default());
    let blobs = |name: &str| Blobs::open(&dir.path().join(name)).unwrap();
    let octets = "application/octet-stream";
    let files: &[(&str, &str, &[u8])] =
        &[("w/1.onnx", octets, b"weights"), ("labels.txt", octets, b"empty\n")];
    let reference = push(&registry.host, "models/shelf", "3", files);
    let source = format!("oci:{reference}");
    let pinned = remote::pin(&source, &client, &blobs("a"), &cancel).unwrap();
    let named: Vec<_> = pinned.files.iter().map(|f| (f.path.as_str(), f.digest)).collect();
    assert_eq!(named, [("w/1.onnx", Digest::of("weights")), ("labels.txt", Digest::of("empty\n"))]);
    // By digest from then on, also when the tag moves.
    push(&registry.host, "models/shelf", "3", &[("w/1.onnx", octets, b"others")]);
    let cold = blobs("b");
    remote::fetch(&pinned, &client, &cold, &|_| {}, &cancel).unwrap();
    assert!(cold.get(Digest::of("weights")).unwrap().is_some());
    let offline = remote::fetch(&pinned, &Client::offline(), &blobs("c"), &|_| {}, &cancel).unwrap_err();
    assert!(format!("{offline:#}").contains("offline"), "{offline:#}");
    let hostile = push(&registry.host, "models/hostile", "1", &[("../../etc/passwd", octets, b"x")]);
    let fault = remote::pin(&format!("oci:{hostile}"), &client, &cold, &cancel).unwrap_err();
    assert_eq!(forge::error::kind(&fault), forge::error::Kind::Verify, "{fault:#}");

    let served = dir.path().join("served");
    std::fs::create_dir(&served).unwrap();
    std::fs::write(served.join("shelf.onnx"), "weights").unwrap();
    let source = format!("{}/shelf.onnx", serve(&served));
    let pinned = remote::pin(&source, &client, &blobs("d"), &cancel).unwrap();
    assert_eq!(
        (pinned.files[0].path.as_str(), pinned.files[0].digest),
        ("shelf.onnx", Digest::of("weights"))
    );
    // What the place gives later is held against what was pinned.
    std::fs::write(served.join("shelf.onnx"), "weightz").unwrap();
    let fault = remote::fetch(&pinned, &client, &blobs("e"), &|_| {}, &cancel).unwrap_err();
    assert_eq!(forge::error::kind(&fault), forge::error::Kind::Verify, "{fault:#}");
}
