//! The built release before the programs that people have: container tools, cosign, a registry, partition tools.

use crate::fixture::{self, Fixture, digests, forge, ok};
use crate::support::{self, tool};
use forge::disk::gpt::PartitionType;
use forge::model::{Arch, Digest};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The tag of the index: the release's version.
fn version(shared: &Fixture) -> String {
    shared.release.file_name().unwrap().to_str().unwrap().into()
}

/// A foreign program, with a home of its own to scribble in.
fn call(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", home).env("TMPDIR", home).current_dir(home);
    command
}

#[test]
fn skopeo_and_umoci_and_podman_read_the_release() {
    let Some(shared) = fixture::shared() else { return };
    let (skopeo, umoci, podman) = (tool("skopeo"), tool("umoci"), tool("podman"));
    let scratch = shared.scratch();
    let dir = scratch.path();
    let (oci, tag) = (shared.release.join("oci"), version(shared));
    let reference = format!("oci:{}:{tag}", oci.display());
    let Some(skopeo) = skopeo else { return };
    let inspected = ok(call(&skopeo, dir).args(["inspect", "--override-arch", "amd64", &reference]));
    for words in ["\"Architecture\": \"amd64\"", "\"org.opencontainers.image.title\": \"quickstart\""] {
        assert!(inspected.contains(words), "{inspected}");
    }
    let copy = format!("oci:{}:{tag}", dir.join("copy").display());
    ok(call(&skopeo, dir).args(["copy", "--quiet", "--all", "--preserve-digests", &reference, &copy]));
    // umoci of Debian 12 knows no zstd; and nobody but root may unpack what belongs to root.
    let gzip = format!("oci:{}:plain", dir.join("gzip").display());
    ok(call(&skopeo, dir)
        .args(["copy", "--quiet", "--dest-compress-format", "gzip"])
        .args([&reference, &gzip]));
    if let Some(umoci) = umoci {
        let image = format!("{}:plain", dir.join("gzip").display());
        ok(call(&umoci, dir).args(["unpack", "--rootless", "--image", &image, "bundle"]));
        let os_release = std::fs::read_to_string(dir.join("bundle/rootfs/usr/lib/os-release")).unwrap();
        assert!(os_release.contains("ID=debian"), "{os_release}");
        ok(Command::new("chmod").args(["-R", "u+rwX"]).arg(dir.join("bundle"))); // so that it can be removed
    }
    let Some(podman) = podman else { return };
    if !support::is_root() {
        return;
    }
    let podman = |args: &[&str]| {
        let mut command = call(&podman, dir);
        let (root, run) = (dir.join("storage"), dir.join("run"));
        command.arg("--root").arg(root).arg("--runroot").arg(run).args(["--storage-driver", "vfs"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]).args(args);
        ok(&mut command)
    };
    // podman takes no capital letters in an image's path, and a checkout's may have some.
    std::os::unix::fs::symlink(&oci, dir.join("oci")).unwrap();
    let image = podman(&["pull", "--quiet", &format!("oci:oci:{tag}")]);
    let container = podman(&["create", image.trim(), "/bin/true"]);
    podman(&["export", "--output", "exported.tar", container.trim()]);
    let exported = forge::tree::tar::index(std::fs::File::open(dir.join("exported.tar")).unwrap()).unwrap();
    let file = |path: &str| exported.file(&forge::tree::TreePath::parse(path).unwrap()).is_some();
    assert!(file("usr/bin/podman") && file("usr/lib/systemd/systemd"));
}

/// A docker-registry on a port of this machine, killed when dropped.
struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn registry(dir: &Path) -> Option<Registry> {
    let program = tool("docker-registry")?;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let storage = dir.join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        storage.display()
    );
    std::fs::write(dir.join("registry.yml"), text).unwrap();
    let log = std::fs::File::create(dir.join("registry.log")).unwrap();
    let mut serve = Command::new(program);
    serve.arg("serve").arg(dir.join("registry.yml")).env_clear().stdin(Stdio::null());
    let child = serve.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let registry = Registry { child, host: format!("127.0.0.1:{port}") };
    for _ in 0..600 {
        if std::net::TcpStream::connect(&registry.host).is_ok() {
            return Some(registry);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("docker-registry does not listen");
}

#[test]
fn what_is_pushed_is_pulled_and_verified_by_cosign_and_by_forge() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let Some(registry) = registry(dir) else { return };
    let to = format!("{}/edge/quickstart", registry.host);
    let cache = dir.join("cache");
    let told = ok(forge(&cache).args(["--json", "push"]).arg(&shared.release).arg(&to));
    let pushed = fixture::events(&told, "pushed")[0]["reference"].as_str().unwrap().to_string();
    let back = dir.join("back");
    ok(forge(&cache).args(["pull", &pushed]).arg(&back));
    let said = ok(forge(&cache).arg("verify").arg(&back).arg("--key").arg(shared.key()));
    assert!(said.contains("PASS"), "{said}");
    let blobs = |oci: PathBuf| digests(&oci.join("blobs"));
    assert_eq!(blobs(back), blobs(shared.release.join("oci")));

    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(shared.release.join("manifest.json")).unwrap()).unwrap();
    let child = manifest["image"]["manifests"]["amd64"].as_str().unwrap_or_else(|| panic!("{manifest}"));
    for program in ["cosign-2", "cosign-3"] {
        let Some(cosign) = tool(program) else { continue };
        for image in [&pushed, &format!("{to}@{child}")] {
            let mut verify = call(&cosign, dir);
            verify.args(["verify", "--insecure-ignore-tlog=true", "--allow-insecure-registry"]);
            ok(verify.args(["--allow-http-registry", "--key"]).arg(shared.key()).arg(image));
        }
    }
    // What auditors look for: bills of materials on each image, provenance on the index too.
    let Some(cosign) = tool("cosign-3") else { return };
    let child = format!("{to}@{child}");
    for (image, kind) in [
        (&child, "spdxjson"),
        (&child, "cyclonedx"),
        (&child, "slsaprovenance1"),
        (&pushed, "slsaprovenance1"),
    ] {
        let mut verify = call(&cosign, dir);
        verify.args(["verify-attestation", "--insecure-ignore-tlog=true", "--allow-insecure-registry"]);
        verify.args(["--allow-http-registry", "--type", kind, "--key"]);
        let attested = ok(verify.arg(shared.key()).arg(image));
        assert!(attested.contains("payload"), "{kind}: {attested}");
    }
    let mut other = call(&cosign, dir);
    other.args(["verify-attestation", "--insecure-ignore-tlog=true", "--allow-insecure-registry"]);
    other.args(["--allow-http-registry", "--type", "spdxjson", "--key"]).arg(shared.key()).arg(&pushed);
    assert!(!other.status().unwrap().success(), "the index itself has no bill");
}

/// Runs a Python program with the packages that `hack/oracles` unpacked.
fn python(program: &str, arguments: &[&Path]) -> Option<String> {
    let python = tool("python3")?;
    let oracles = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let packages = oracles.join("sid/usr/lib/python3/dist-packages");
    if !packages.join("spdx_tools").exists() {
        assert!(std::env::var_os("FORGE_TEST_REQUIRE_TOOLS").is_none_or(|v| v != "1"), "no spdx_tools");
        eprintln!("skipped: no spdx_tools");
        return None;
    }
    Some(ok(Command::new(python)
        .env("PYTHONPATH", packages)
        .args(["-W", "ignore", "-c", program])
        .args(arguments)))
}

#[test]
fn validators_take_the_bills_of_materials() {
    let Some(shared) = fixture::shared() else { return };
    let spdx = "import sys\n\
        from spdx_tools.spdx.parser.parse_anything import parse_file\n\
        from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document\n\
        document = parse_file(sys.argv[1])\n\
        for fault in validate_full_spdx_document(document): print(fault.validation_message)\n\
        print(len(document.packages), 'packages')";
    let Some(said) = python(spdx, &[&shared.release.join("sbom.spdx.json")]) else { return };
    let packages: usize =
        said.trim().strip_suffix(" packages").unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(packages > 100, "{said}");
    let cyclonedx = "import json, os, sys, jsonschema, cyclonedx.schema._res as res\n\
        home = os.path.dirname(res.__file__)\n\
        load = lambda name: json.load(open(os.path.join(home, name + '.SNAPSHOT.schema.json')))\n\
        names = ['bom-1.6', 'spdx', 'jsf-0.82', 'cryptography-defs']\n\
        schemas = {s['$id']: s for s in map(load, names)}\n\
        schema = load('bom-1.6')\n\
        resolver = jsonschema.RefResolver(schema['$id'], schema, schemas)\n\
        document = json.load(open(sys.argv[1]))\n\
        for fault in jsonschema.Draft7Validator(schema, resolver=resolver).iter_errors(document): print(fault.message[:200])\n\
        print(len(document['components']), 'components')";
    let said = python(cyclonedx, &[&shared.release.join("sbom.cdx.json")]).unwrap();
    assert_eq!(
        said.trim(),
        format!("{} components", packages - 1),
        "the release itself is no component of its own"
    );
    // What is told as inside was found inside, with the digest of what was taken in.
    let text = std::fs::read_to_string(shared.release.join("sbom.cdx.json")).unwrap();
    let bill: serde_json::Value = serde_json::from_str(&text).unwrap();
    let systemd = bill["components"].as_array().unwrap().iter().find(|c| c["name"] == "systemd").unwrap();
    assert!(systemd["purl"].as_str().unwrap().contains("distro=trixie"), "{systemd}");
    assert_eq!(systemd["hashes"][0]["content"].as_str().unwrap().len(), 64);
}

#[test]
fn cosign_finds_every_artifact_in_the_provenance() {
    let Some(shared) = fixture::shared() else { return };
    let Some(cosign) = tool("cosign-3") else { return };
    let scratch = shared.scratch();
    let verify = |file: &Path| {
        // By digest: cosign would read the whole disk image into memory, and refuses one of over 128 MiB.
        let digest = Digest::of_reader(std::fs::File::open(file).unwrap()).unwrap().0.hex();
        let mut verify = call(&cosign, scratch.path());
        verify.args([
            "verify-blob-attestation",
            "--insecure-ignore-tlog",
            "--type",
            "slsaprovenance1",
            "--key",
        ]);
        verify.arg(shared.key()).arg("--bundle").arg(shared.release.join("provenance.sigstore.json"));
        verify.args(["--digestAlg", "sha256", "--digest", &digest]);
        verify
    };
    ok(&mut verify(&shared.disk()));
    assert!(
        !verify(&shared.release.join("manifest.json")).status().unwrap().success(),
        "it is about what was built"
    );
}

#[test]
fn cosign_verifies_the_disk_and_the_sums() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let dir = scratch.path();
    // cosign 2 would fetch a trust root that a key does not need.
    let root = dir.join("root.json");
    std::fs::write(&root, r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#)
        .unwrap();
    let root = root.to_str().unwrap();
    let bundle = shared.release.join("amd64/disk.raw.zst.sigstore.json");
    let signature = shared.release.join("SHA256SUMS.sig");
    for (program, flags) in
        [("cosign-2", &["--new-bundle-format", "--trusted-root", root][..]), ("cosign-3", &[])]
    {
        let Some(cosign) = tool(program) else { continue };
        let verify = || {
            let mut verify = call(&cosign, dir);
            verify.args(["verify-blob", "--insecure-ignore-tlog", "--key"]).arg(shared.key());
            verify
        };
        ok(verify().args(flags).arg("--bundle").arg(&bundle).arg(shared.disk()));
        let sums = shared.release.join("SHA256SUMS");
        if program == "cosign-2" {
            ok(verify().arg("--signature").arg(&signature).arg(&sums));
            let other = shared.release.join("manifest.json");
            assert!(!verify().arg("--signature").arg(&signature).arg(other).status().unwrap().success());
        }
        assert!(!verify().args(flags).arg("--bundle").arg(&bundle).arg(&sums).status().unwrap().success());
    }
    if let Some(sha256sum) = tool("sha256sum") {
        ok(Command::new(sha256sum).args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&shared.release));
    }
}

#[test]
fn partition_tools_take_the_disk() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let raw = scratch.path().join("disk.raw");
    forge::run::disk::unpack(&shared.disk(), &raw, 0).unwrap();
    if let Some(sfdisk) = tool("sfdisk") {
        let said = ok(Command::new(sfdisk).arg("--verify").arg(&raw));
        assert!(said.contains("No errors detected"), "{said}");
    }
    let content = forge::tree::Content::from(std::fs::read(&raw).unwrap());
    let image = forge::disk::DiskImage::open(content).unwrap();
    let cut = |kind: PartitionType| {
        let found = image.table().partitions.iter().find(|p| p.type_guid == kind.guid());
        let found = found.unwrap_or_else(|| panic!("no {kind:?}"));
        let path = scratch.path().join(format!("{}.part", found.name));
        let mut from = std::fs::File::open(&raw).unwrap();
        std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(found.offset)).unwrap();
        let mut to = std::fs::File::create(&path).unwrap();
        std::io::copy(&mut std::io::Read::take(from, found.length), &mut to).unwrap();
        (path, found.guid.to_string().replace('-', ""))
    };
    let root = (PartitionType::Root(Arch::Amd64), PartitionType::RootVerity(Arch::Amd64));
    for (data, tree) in [root, (PartitionType::Payload, PartitionType::PayloadVerity)] {
        let ((data, first), (tree, second)) = (cut(data), cut(tree));
        // The halves of the root hash are the partitions' UUIDs (UAPI.2).
        let hash = format!("{first}{second}");
        if let Some(veritysetup) = tool("veritysetup") {
            ok(Command::new(veritysetup).arg("verify").args([&data, &tree]).arg(&hash));
        }
        if let Some(fsck) = tool("fsck.erofs") {
            ok(Command::new(fsck).arg(&data));
        }
    }
    let (esp, _) = cut(PartitionType::Esp);
    if let Some(fsck) = tool("fsck.vfat") {
        ok(Command::new(fsck).args(["-n"]).arg(&esp));
    }
    if let Some(mcopy) = tool("mcopy") {
        let out = scratch.path().join("esp");
        std::fs::create_dir(&out).unwrap();
        ok(Command::new(mcopy).args(["-s", "-n", "-i"]).arg(&esp).arg("::*").arg(&out));
        let uki = out.join("EFI/Linux").join(format!("quickstart_{}+3.efi", version(shared)));
        assert!(uki.exists() && out.join("EFI/BOOT/BOOTX64.EFI").exists(), "{:?}", digests(&out));
        if let Some(objdump) = tool("objdump") {
            let said = ok(Command::new(objdump).arg("-h").arg(&uki));
            assert!([".linux", ".initrd", ".cmdline", ".osrel"].iter().all(|s| said.contains(s)), "{said}");
        }
    }
    let loops = Path::new("/dev/loop-control").exists();
    if !loops {
        println!("skipped: systemd-dissect needs loop devices");
    }
    if let (true, true, Some(dissect)) = (support::is_root(), loops, tool("systemd-dissect")) {
        let said = ok(Command::new(dissect).arg("--no-pager").arg(&raw));
        for words in [["ro root ", "erofs"], ["ro root-verity ", "DM_verity_hash"], ["rw esp ", "vfat"]] {
            assert!(said.lines().any(|line| words.iter().all(|w| line.contains(w))), "{words:?}: {said}");
        }
        assert!(said.contains("IMAGE_ID=quickstart"), "{said}");
    }
}
