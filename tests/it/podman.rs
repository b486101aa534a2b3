//! The image store, and Podman's configuration, against the Podman that reads them on devices (Debian trixie's, in a
//! tree that `hack/podman-root` makes). The store is an EROFS image, mounted read-only as on the device, and there is
//! no network but what Podman makes.

use crate::fixture::{self, ok};
use crate::support::tool;
use forge::disk::gpt::{PartitionType, Table};
use forge::host::cancel::Cancel;
use forge::host::tool::ToolCall;
use forge::layer::kubernetes::podman;
use forge::layer::workload::container::{self, File, Spec};
use forge::layer::workload::store::{ImageLayer, OciImage, store_tree};
use forge::layer::workload::{self, manifest};
use forge::model::{Arch, Digest, Epoch};
use forge::tree::{Content, Node, Tree, TreePath, tar};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1_795_305_600);

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: pos
spec:
  containers:
  - name: web
    image: till-web:1
    ports:
    - containerPort: 8080
      hostPort: 8088
    volumeMounts:
    - {name: sales, mountPath: /sales}
  volumes:
  - name: sales
    persistentVolumeClaim: {claimName: sales}
";

/// Enters a copy of the trixie tree that forgets what is written, with namespaces of its own, lays the OS side over it,
/// mounts the payload, and runs the script inside. `pivot_root` and no chroot, because the container runtime looks at
/// the namespace's own root. Cgroups are off: whether a builder has them to give is not what is tested.
const ENTER: &str = r#"
set -eu
cd "$WORK"
mkdir -p copy
mount -t tmpfs tmpfs copy
mkdir copy/upper copy/work copy/root copy/state
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=copy/upper,workdir=copy/work" copy/root
r=$WORK/copy/root
tar -C "$r" --keep-directory-symlink -xf os.tar
mount -o loop,ro,nodev,nosuid payload.erofs "$r/usr/lib/forge/payload"
if [ -n "$RELEASE" ]; then
    mkdir "$r/release"
    mount --bind -o ro "$RELEASE" "$r/release"
fi
mkdir -p "$r/var/lib/containers"
mount --bind copy/state "$r/var/lib/containers"
mount -t proc proc "$r/proc"
mount -t sysfs sysfs "$r/sys"
mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup"
mount --rbind /dev "$r/dev"
mount -t tmpfs tmpfs "$r/dev/shm"
mount -t tmpfs tmpfs "$r/run"
mount -t tmpfs tmpfs "$r/tmp"
printf '[containers]\ncgroups="disabled"\nlog_driver="k8s-file"\n[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n' \
    > "$r/etc/containers/containers.conf.d/99-test.conf"
mkdir -p "$r/old"
cp script "$r/script"
ip link set lo up
cd "$r"
pivot_root . old
umount -l /old
exec sh -eu /script
"#;

/// The trixie tree; `None`, said aloud, where it or the right to mount is missing.
fn root() -> Option<PathBuf> {
    let made = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let root = made.join("podman-root");
    if !crate::support::is_root() {
        return None; // who alone may mount
    }
    if root.is_dir() {
        return Some(root);
    }
    let missing = "no podman-root (hack/podman-root makes it)";
    assert!(std::env::var("FORGE_TEST_REQUIRE_TOOLS").as_deref() != Ok("1"), "{missing}");
    println!("skipped: {missing}");
    None
}

fn p(s: &str) -> TreePath {
    TreePath::parse(s).unwrap()
}

fn program(root: &Path, path: &str) -> Content {
    std::fs::read(root.join(path)).unwrap().into()
}

/// Busybox, a user, and a directory of that user's.
fn packages(root: &Path) -> Tree {
    let mut tree = Tree::new();
    tree.insert(p("bin/busybox"), Node::file(program(root, "usr/bin/busybox"), 0o755)).unwrap();
    for name in ["sh", "httpd", "ls", "cat", "id", "sleep", "stat"] {
        tree.insert(p(&format!("bin/{name}")), Node::symlink("busybox")).unwrap();
    }
    tree.insert(p("etc/passwd"), Node::text("root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n", 0o644))
        .unwrap();
    tree.insert(p("www"), Node::dir(0o750).owned(33, 33)).unwrap();
    tree
}

fn till_web(root: &Path) -> OciImage {
    let spec = Spec {
        name: "till-web:1".parse().unwrap(),
        files: vec![File { path: p("www/index.html"), content: b"till 1\n".to_vec().into(), mode: 0o644 }],
        command: ["httpd", "-f", "-p", "8080", "-h", "/www"].map(String::from).to_vec(),
        user: Some("www-data".into()),
        ports: vec!["8080".parse().unwrap()],
        env: BTreeMap::from([("TILL".into(), "7".into())]),
        labels: BTreeMap::from([("org.opencontainers.image.title".into(), "till".into())]),
    };
    container::image(&spec, packages(root), Arch::Amd64, EPOCH).unwrap()
}

fn pause(root: &Path) -> OciImage {
    let (_, path) = podman::PAUSE_PACKAGE;
    let name = podman::PAUSE_IMAGE.parse().unwrap();
    container::program_image(
        name,
        p("catatonit"),
        program(root, path),
        &podman::PAUSE_ARGUMENTS,
        Arch::Amd64,
        EPOCH,
    )
    .unwrap()
}

/// An image as a registry gives it: layers with whiteouts, found through an index and named by the index's digest.
fn from_registry(layers: Vec<Tree>, repository: &str) -> OciImage {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|tree| {
            let written = tar::write(&tree, EPOCH, std::io::sink()).unwrap();
            ImageLayer { diff_id: written.diff_id, length: written.length, tree: Arc::new(tree) }
        })
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let listed: Vec<_> = layers
        .iter()
        .map(|l| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": Digest::of(l.diff_id.hex()), "size": 100,
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config), "size": config.len(),
        },
        "layers": listed,
    });
    let manifest = manifest.to_string().into_bytes();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&manifest), "size": manifest.len(),
            "platform": {"architecture": "amd64", "os": "linux"},
        }],
    });
    let index = index.to_string().into_bytes();
    let name = format!("{repository}@{}", Digest::of(&index)).parse().unwrap();
    OciImage { names: vec![name], index: Some(index), manifest, config, layers }
}

fn payload(root: &Path, images: &[OciImage]) -> Tree {
    let parsed = manifest::parse("pos.yaml", POD.as_bytes()).unwrap();
    let workload = workload::Workload {
        name: "point-of-sale".into(),
        required: true,
        manifests: vec![(parsed, POD.as_bytes().to_vec().into())],
    };
    assert_eq!(podman::check(std::slice::from_ref(&workload)), []);
    let mut all = vec![till_web(root), pause(root)];
    all.extend_from_slice(images);
    podman::payload_tree(&[workload], store_tree(&all, EPOCH).unwrap()).unwrap()
}

/// Runs `script` on a device of the image's making; what it prints.
fn on_device(root: &Path, images: &[OciImage], script: &str) -> String {
    on_device_with(root, images, Path::new(""), script)
}

/// [`on_device`], with `release` at `/release` unless it is empty.
fn on_device_with(root: &Path, images: &[OciImage], release: &Path, script: &str) -> String {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let work = dir.path();
    let sh = |text: &str| {
        ToolCall::new("sh")
            .args(["-euc", text])
            .dir(work)
            .env("WORK", work)
            .env("ROOT", root)
            .env("RELEASE", release)
    };
    let call = |call: ToolCall| match call.output(&Cancel::default()) {
        Ok(out) => String::from_utf8_lossy(&out).into_owned(),
        Err(fault) => panic!("{fault:#}"),
    };
    for (name, tree) in [("os.tar", podman::os_tree(true).unwrap()), ("payload.tar", payload(root, images))] {
        tar::write(&tree, EPOCH, std::fs::File::create(work.join(name)).unwrap()).unwrap();
    }
    call(sh("mkdir payload; tar -C payload --xattrs --xattrs-include='*' --numeric-owner -xf payload.tar
             mkfs.erofs --quiet payload.erofs payload; rm -rf payload payload.tar"));
    std::fs::write(work.join("script"), script).unwrap();
    std::fs::write(work.join("enter"), ENTER).unwrap();
    // Killing the namespace's first process ends all that Podman left behind in it.
    call(sh(
        "exec unshare --mount --pid --fork --net --ipc --uts --kill-child --propagation private sh enter",
    ))
}

#[test]
fn podman_runs_a_pod_from_the_store_where_it_lies() {
    let Some(root) = root() else { return };
    let out = on_device(
        &root,
        &[],
        "
        manifest=/usr/lib/forge/payload/workloads/point-of-sale/manifest.yaml
        podman images --format '{{.Repository}}:{{.Tag}} {{.ReadOnly}}' | sort
        podman image inspect till-web:1 --format '{{.Config.User}} {{.Config.Env}} {{.Config.Labels}} {{len .RootFS.Layers}}'
        podman kube play --replace $manifest >/dev/null
        timeout 60 /usr/lib/forge/workload-ready /usr/lib/forge/payload/workloads/point-of-sale/containers
        curl -sS -m 5 http://127.0.0.1:8088/
        podman exec pos-web id -u
        podman exec pos-web stat -c '%a %u' /www
        podman exec --user 0 pos-web sh -c 'echo 42 > /sales/total'
        # The power goes and comes back: what was in memory is gone, what was on disk is there as it was.
        kill -9 -1
        umount -l /var/lib/containers/storage/overlay/*/merged /dev/shm /run
        mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /dev/shm
        ip link del podman1
        podman system prune --external
        podman kube play --replace $manifest >/dev/null
        podman exec pos-web cat /sales/total
        ls /var/lib/containers/storage/overlay-images/images.json 2>/dev/null || echo nothing copied
        ",
    );
    let expected = "localhost/forge-pause:1 true\nlocalhost/till-web:1 true\n\
        33:33 [PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TILL=7] \
        map[org.opencontainers.image.title:till] 2\n\
        till 1\n33\n750 33\n42\nnothing copied\n";
    assert_eq!(out, expected);
}

#[test]
fn podman_sees_layers_as_whiteouts_leave_them() {
    let Some(root) = root() else { return };
    let lower = |path: &str, text: &str| (p(path), Node::text(text, 0o644));
    let mut base = packages(&root);
    for (path, node) in [
        lower("gone", "x"),
        lower("op/old", "x"),
        lower("re/old", "x"),
        lower("kept/a", "a"),
        lower("kept/b", "b"),
    ] {
        base.insert(path, node).unwrap();
    }
    let mut upper = Tree::new();
    for path in [".wh.gone", "op/.wh..wh..opq", "op/new", ".wh.re", "re/new", "kept/.wh.a", "kept/c"] {
        upper.insert(p(path), Node::text("", 0o644)).unwrap();
    }
    upper
        .insert(p("kept/d"), Node { kind: forge::tree::NodeKind::HardLink(p("kept/c")), ..Node::text("", 0) })
        .unwrap();
    let mut top = Tree::new();
    top.insert(p("top"), Node::text("", 0o4755)).unwrap();
    // Two images that share two layers.
    let small = from_registry(vec![base.clone(), upper.clone()], "quay.example/tools/small");
    let large = from_registry(vec![base, upper, top], "quay.example/tools/large");
    let (by_digest, mut large) = (small.names[0].to_string(), large);
    // A short name in a manifest is found as what it means.
    large.names = vec!["tool:1".parse().unwrap()];
    let out = on_device(
        &root,
        &[small, large],
        &format!(
            "
            for image in {by_digest} tool:1; do
                podman run --rm --network none --pull never $image sh -c \
                    'cd /; echo gone* op/* re/* kept/* top*; stat -c %h kept/c'
            done
            ls /usr/lib/forge/payload/images/overlay/l | wc -l
            "
        ),
    );
    let seen = "gone* op/new re/new kept/b kept/c kept/d";
    // till-web has two layers, pause one, small two, and large adds one to those.
    assert_eq!(out, format!("{seen} top*\n2\n{seen} top\n2\n6\n"));
}

#[test]
fn a_grants_secrets_reach_the_pods_that_name_them() {
    let Some(root) = root() else { return };
    let out = on_device(
        &root,
        &[],
        r#"
        mkdir -p /var/lib/forge/secrets/till
        printf 1234 >/var/lib/forge/secrets/till/pin
        cat >/pod.yaml <<'END'
apiVersion: v1
kind: Pod
metadata: {name: pos}
spec:
  containers:
  - name: web
    image: till-web:1
    env: [{name: PIN, valueFrom: {secretKeyRef: {name: till, key: pin}}}]
    volumeMounts: [{name: keys, mountPath: /keys}]
  volumes: [{name: keys, secret: {secretName: till}}]
END
        for pin in 1234 5678; do
            printf $pin >/var/lib/forge/secrets/till/pin
            /usr/lib/forge/workload-secrets
            podman kube play --replace /pod.yaml >/dev/null
            podman exec --user 0 pos-web sh -c 'echo $PIN; cat /keys/pin; echo'
        done
        podman kube down /pod.yaml >/dev/null
        rm -r /var/lib/forge/secrets/till
        /usr/lib/forge/workload-secrets
        podman secret ls --format '{{.Name}}' | wc -l
        "#,
    );
    assert_eq!(out, "1234\n1234\n5678\n5678\n0\n");
}

#[test]
fn podman_runs_the_image_of_the_operating_system_which_reads_its_own_esp() {
    let (Some(root), Some(shared)) = (root(), fixture::shared()) else { return };
    let Some(mcopy) = tool("mcopy") else { return };
    let version = shared.release.file_name().unwrap().to_str().unwrap();
    let scratch = shared.scratch();
    let release = scratch.path().join("release");
    let (raw, esp) = (scratch.path().join("disk.raw"), release.join("esp"));
    std::fs::create_dir_all(&esp).unwrap();
    ok(Command::new("cp").arg("--recursive").arg(shared.release.join("oci")).arg(&release));
    let mut unpacked = std::fs::File::create_new(&raw).unwrap();
    zstd::stream::copy_decode(std::fs::File::open(shared.disk()).unwrap(), &mut unpacked).unwrap();
    let table =
        Table::read(&Content::of_file(Arc::new(std::fs::File::open(&raw).unwrap())).unwrap()).unwrap();
    let at = table.partitions.iter().find(|p| p.type_guid == PartitionType::Esp.guid()).unwrap().offset;
    ok(Command::new(mcopy).args(["-s", "-i", &format!("{}@@{at}", raw.display()), "::/"]).arg(&esp));
    let out = on_device_with(
        &root,
        &[],
        &release,
        &format!(
            "
            image=$(podman pull --quiet oci:/release/oci:{version})
            podman run --rm --network none --volume /release/esp:/efi:ro --env SYSTEMD_RELAX_ESP_CHECKS=1 $image sh -c \
                '. /etc/os-release; echo $ID $VERSION_CODENAME $IMAGE_ID; dpkg --audit; command -v podman
                 bootctl --esp-path=/efi --no-variables status; bootctl --esp-path=/efi list'
            "
        ),
    );
    assert!(out.starts_with("debian trixie quickstart\n/usr/bin/podman\n"), "{out}");
    for words in ["BOOTX64.EFI (systemd-boot ", "Default Boot Loader Entry:", "tries: 3 left"] {
        assert!(out.contains(words), "{out}");
    }
    assert!(out.contains(&format!("id: quickstart_{version}.efi")), "{out}");
}
