//! The built release before the programs that people have: container tools, cosign, a registry, partition tools.

use crate::fixture::{self, Fixture, digests, forge, ok};
use crate::support::{self, tool};
use forge::disk::gpt::PartitionType;
use forge::model::Arch;
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
        assert!(os_release.contains("IMAGE_ID=quickstart"), "{os_release}");
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
    if let (true, true, Some(dissect)) = (support::is_root(), loops, tool("systemd-dissect")) {
        let said = ok(Command::new(dissect).arg("--no-pager").arg(&raw));
        for words in [["ro root ", "erofs"], ["ro root-verity ", "DM_verity_hash"], ["rw esp ", "vfat"]] {
            assert!(said.lines().any(|line| words.iter().all(|w| line.contains(w))), "{words:?}: {said}");
        }
        assert!(said.contains("IMAGE_ID=quickstart"), "{said}");
    }
}
