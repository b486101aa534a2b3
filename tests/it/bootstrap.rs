//! Packages → configured tree, with mmdebstrap and dpkg as oracles.
//!
//! Needs an archive: `FORGE_TEST_NETWORK=1` says that there is one. Which, is the machine's apt configuration's to say.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use forge::debian::bootstrap::{Env, Package, Spec, Variant, run};
use forge::debian::deb::Deb;
use forge::host::cancel::Cancel;
use forge::host::tool::ToolCall;
use forge::model::{Arch, Digest, Epoch};
use forge::tree::tar::{self, Written};
use forge::tree::{NodeKind, Tree, TreePath};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

const EPOCH: Epoch = Epoch(1_795_305_600);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Names of package sets; `apt` is what mmdebstrap's minbase adds to the essential ones.
const MINBASE: &[&str] = &["apt"];
const SERVICES: &[&str] = &["apt", "python3", "openssh-server", "nginx", "podman"];

/// What differs from mmdebstrap's tree, and why. A path stands for all below it.
const EXPLAINED: &[(&str, &str)] = &[
    ("dev", "mmdebstrap makes device nodes; the kernel, or a container's runtime, brings /dev"),
    ("run", "is empty at every start"),
    ("etc/hostname", "mmdebstrap copies the machine's"),
    ("etc/resolv.conf", "mmdebstrap copies the machine's"),
    ("etc/.resolv.conf.systemd-resolved.bak", "of the machine's"),
    ("etc/fstab", "mmdebstrap writes a comment"),
    ("etc/passwd-", "state of before the last change"),
    ("etc/group-", "state of before the last change"),
    ("etc/shadow-", "state of before the last change"),
    ("etc/gshadow-", "state of before the last change"),
    ("etc/subuid-", "state of before the last change"),
    ("etc/subgid-", "state of before the last change"),
    ("etc/machine-id", "says `uninitialized`, so that the first boot is known as such"),
    ("etc/apt/sources.list", "is another layer's"),
    ("etc/apt/apt.conf.d/99mmdebstrap", "mmdebstrap's own"),
    ("etc/ssh/ssh_host_rsa_key", "each device makes its own"),
    ("etc/ssh/ssh_host_rsa_key.pub", "each device makes its own"),
    ("etc/ssh/ssh_host_ecdsa_key", "each device makes its own"),
    ("etc/ssh/ssh_host_ecdsa_key.pub", "each device makes its own"),
    ("etc/ssh/ssh_host_ed25519_key", "each device makes its own"),
    ("etc/ssh/ssh_host_ed25519_key.pub", "each device makes its own"),
    ("initrd.img", "forge composes the initrd"),
    ("initrd.img.old", "forge composes the initrd"),
    ("var/lib/apt/extended_states", "the test marks no package as automatic"),
    ("var/lib/apt/lists", "apt's locks: apt never runs"),
    ("var/cache/apt/archives", "apt's locks: apt never runs"),
    ("var/lib/dpkg/diversions-old", "state of before the last change"),
    ("var/lib/dpkg/statoverride-old", "state of before the last change"),
    ("var/lib/dpkg/status-old", "state of before the last change"),
    ("var/cache/debconf/config.dat-old", "state of before the last change"),
    ("var/cache/debconf/templates.dat-old", "state of before the last change"),
];
/// The same lines in another order: users get numbers, and triggers lines, in the order of unpacking and configuring.
const REORDERED: &[&str] = &[
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
    "etc/subuid",
    "etc/subgid",
    "var/lib/dpkg/triggers/File",
];

fn wanted(programs: &[&str]) -> bool {
    if forge::host::env::var("FORGE_TEST_NETWORK").is_none() {
        println!("skipped: FORGE_TEST_NETWORK is not set");
        return false;
    }
    if !rustix::process::getuid().is_root() {
        println!("skipped: not root");
        return false;
    }
    for program in programs {
        let path = forge::host::env::var("PATH").unwrap_or_default();
        if !path.split(':').any(|dir| Path::new(dir).join(program).exists()) {
            assert!(forge::host::env::var("FORGE_TEST_REQUIRE_TOOLS").is_none(), "no {program}");
            println!("skipped: no {program}");
            return false;
        }
    }
    true
}

fn output(call: ToolCall) -> String {
    String::from_utf8(call.output(&Cancel::default()).unwrap()).unwrap()
}

fn mirror() -> String {
    let lines = output(ToolCall::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Identifier: Packages",
    ]));
    let found = lines.lines().find(|l| l.trim_end_matches('/').ends_with("/debian"));
    found.expect("the machine's apt knows a Debian archive").to_string()
}

/// Downloads a set with all it needs, by an apt that knows nothing of this machine.
fn fetch(dir: &Path, names: &[&str]) -> Vec<Package> {
    for sub in ["etc/apt.conf.d", "etc/preferences.d", "lists/partial", "archives/partial"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let write = |name: &str, text: String| {
        forge::host::fs::write_atomic(&dir.join(name), text.as_bytes(), 0o644).unwrap()
    };
    write("status", String::new());
    write("sources.list", format!("deb [signed-by={KEYRING}] {} trixie main\n", mirror()));
    let d = dir.display();
    write(
        "apt.conf",
        format!(
            "Dir::State::status \"{d}/status\";\nDir::State::lists \"{d}/lists\";\nDir::Cache::archives \"{d}/archives\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nDir::Etc::sourcelist \"{d}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\nDir::Etc::parts \"{d}/etc/apt.conf.d\";\nDir::Etc::preferencesparts \"{d}/etc\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAPT::Install-Recommends \"0\";\n\
             APT::Sandbox::User \"root\";\nDebug::NoLocking \"1\";\n"
        ),
    );
    let apt = |program: &str| ToolCall::new(program).env("APT_CONFIG", dir.join("apt.conf"));
    output(apt("apt-get").args(["update", "-q"]));
    let available = output(apt("apt-cache").arg("dumpavail"));
    let base = available
        .split("\n\n")
        .filter(|p| p.contains("\nEssential: yes") || p.contains("\nPriority: required"));
    let base: BTreeSet<&str> =
        base.filter_map(|p| p.lines().find_map(|l| l.strip_prefix("Package: "))).collect();
    output(apt("apt-get").args(["install", "-y", "-q", "--download-only"]).args(base).args(names));
    let debs = std::fs::read_dir(dir.join("archives")).unwrap().map(|e| e.unwrap().path());
    debs.filter(|p| p.extension().is_some_and(|e| e == "deb")).map(|p| package(&p)).collect()
}

fn package(path: &Path) -> Package {
    let (_, control) = Deb::open(File::open(path).unwrap()).unwrap();
    Package {
        name: control.required("Package").unwrap().into(),
        version: control.required("Version").unwrap().into(),
        path: path.into(),
        sha256: Digest::of_reader(File::open(path).unwrap()).unwrap().0,
        automatic: false,
    }
}

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_forge").into()
}

fn spec(packages: Vec<Package>, variant: Variant) -> Spec {
    Spec { arch: Arch::Amd64, epoch: EPOCH, packages, variant }
}

fn make(spec: &Spec, work: &Path, jobs: usize) -> (Written, File) {
    let out = tempfile::tempfile().unwrap();
    let env = Env {
        program: &program(),
        work,
        jobs,
        emulator: None,
        cancel: &Cancel::default(),
        progress: &|_| {},
    };
    let written = run(spec, &env, &out).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(std::fs::read_dir(work).unwrap().count(), 0, "the work directory is not empty");
    (written, out)
}

fn text(tree: &Tree, path: &str) -> String {
    let content = tree.file(&TreePath::parse(path).unwrap());
    String::from_utf8(content.map(|c| c.to_vec(64 << 20).unwrap()).unwrap_or_default()).unwrap()
}

/// Everything about a node that must be equal, with owners by name.
fn describe(tree: &Tree) -> BTreeMap<String, String> {
    let names = |path: &str| -> BTreeMap<u32, String> {
        let text = text(tree, path);
        let line = |l: &str| Some((l.split(':').nth(2)?.parse().ok()?, l.split(':').next()?.to_string()));
        text.lines().filter_map(line).collect()
    };
    let (users, groups) = (names("etc/passwd"), names("etc/group"));
    let one = |(path, node): (&TreePath, &forge::tree::Node)| {
        let kind = match &node.kind {
            NodeKind::File(_) | NodeKind::HardLink(_) if REORDERED.contains(&path.as_str()) => {
                // Numbers of users differ with the order of their making; names and the number of lines may not.
                let text = text(tree, path.as_str());
                let by_name = |l: &str| {
                    if path.as_str().starts_with("etc/") {
                        l.split(':').next().unwrap().to_string()
                    } else {
                        l.into()
                    }
                };
                let lines: BTreeSet<String> = text.lines().map(by_name).collect();
                format!("{lines:?}")
            }
            NodeKind::File(_) | NodeKind::HardLink(_) => {
                format!("file {}", Digest::of_reader(tree.file(path).unwrap().reader()).unwrap().0)
            }
            other => format!("{other:?}"),
        };
        let owner = |names: &BTreeMap<u32, String>, id: u32| {
            names.get(&id).cloned().unwrap_or_else(|| id.to_string())
        };
        let xattrs = if matches!(node.kind, NodeKind::HardLink(_)) {
            String::new()
        } else {
            format!("{:?}", node.xattrs)
        };
        let about = format!(
            "{kind} {:o} {} {} {xattrs}",
            node.mode,
            owner(&users, node.uid),
            owner(&groups, node.gid)
        );
        (path.as_str().to_string(), about)
    };
    tree.iter().map(one).collect()
}

fn same_as_mmdebstrap(names: &[&str]) {
    if !wanted(&["mmdebstrap", "apt-get"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let packages = fetch(&dir.path().join("apt"), names);
    let (_, out) = make(&spec(packages, Variant::Os), &dir.path().join("work"), 2);
    let ours = describe(&tar::index(out).unwrap());
    let theirs = dir.path().join("oracle.tar");
    let mut call = ToolCall::new("mmdebstrap").env("SOURCE_DATE_EPOCH", EPOCH.0.to_string());
    call = call.args(["--mode=root", "--variant=minbase", "--format=tar", "--quiet"]);
    call =
        call.arg("--aptopt=Apt::Install-Recommends \"false\"").arg(format!("--include={}", names.join(",")));
    output(call.arg("trixie").arg(&theirs).arg(format!("deb {} trixie main", mirror())));
    let theirs = describe(&tar::index(File::open(theirs).unwrap()).unwrap());
    let explained = |path: &str| {
        path.starts_with("boot/initrd.img-")
            || EXPLAINED
                .iter()
                .any(|(p, _)| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
    };
    let all: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let different = all.into_iter().filter(|path| ours.get(*path) != theirs.get(*path) && !explained(path));
    let different: Vec<String> = different
        .map(|path| format!("{path}\n  ours   {:?}\n  theirs {:?}", ours.get(path), theirs.get(path)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn minbase_is_as_mmdebstrap_makes_it() {
    same_as_mmdebstrap(MINBASE);
}

#[test]
fn a_system_that_boots_is_as_mmdebstrap_makes_it() {
    same_as_mmdebstrap(&[MINBASE, crate::support::BOOT].concat());
}

#[test]
fn services_are_as_mmdebstrap_makes_them() {
    same_as_mmdebstrap(SERVICES);
}

#[test]
fn dpkg_finds_nothing_wrong_and_two_runs_are_equal() {
    if !wanted(&["apt-get", "chroot", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let packages = fetch(&dir.path().join("apt"), SERVICES);
    let spec = spec(packages, Variant::Os);
    let (first, mut out) = make(&spec, &dir.path().join("one"), 1);
    let (second, _) = make(&spec, &dir.path().join("another/place"), 2);
    assert_eq!(first, second);
    let (archive, root) = (dir.path().join("tree.tar"), dir.path().join("root"));
    std::io::Seek::rewind(&mut out).unwrap();
    let mut copy = forge::host::fs::Staged::file(&archive, 0o600).unwrap();
    std::io::copy(&mut out, &mut copy).unwrap();
    copy.commit(forge::host::fs::Durability::Cached).unwrap();
    std::fs::create_dir(&root).unwrap();
    output(ToolCall::new("tar").arg("-C").arg(&root).args(["--numeric-owner", "-xpf"]).arg(&archive));
    for question in ["--audit", "--verify"] {
        assert_eq!(
            output(ToolCall::new("chroot").arg(&root).args(["dpkg", question])),
            "",
            "dpkg {question}"
        );
    }
}

#[test]
fn a_container_keeps_licences_and_status_and_no_manuals() {
    if !wanted(&["apt-get"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let packages = fetch(&dir.path().join("apt"), MINBASE);
    let (_, out) = make(&spec(packages, Variant::Container), &dir.path().join("work"), 2);
    let tree = tar::index(out).unwrap();
    assert!(text(&tree, "var/lib/dpkg/status").contains("Status: install ok installed"));
    assert!(!text(&tree, "usr/share/doc/base-files/copyright").is_empty());
    assert!(
        !tree
            .iter()
            .any(|(p, _)| p.as_str().starts_with("usr/share/man/") || p.as_str().ends_with("changelog.gz"))
    );
}

#[test]
fn an_ordinary_user_makes_the_same_bytes_and_leaves_nothing() {
    if !wanted(&["apt-get", "newuidmap", "useradd", "setpriv"]) {
        return;
    }
    let user = "forge-it-user";
    let _ = ToolCall::new("useradd").args(["--create-home", user]).output(&Cancel::default()); // of an earlier run
    let ids = |file: &str| std::fs::read_to_string(file).unwrap().contains(&format!("{user}:"));
    if !ids("/etc/subuid") {
        output(ToolCall::new("usermod").args([
            "--add-subuids",
            "500000-565535",
            "--add-subgids",
            "500000-565535",
            user,
        ]));
    }
    let dir = tempfile::tempdir().unwrap();
    let packages = fetch(&dir.path().join("apt"), MINBASE);
    let order = spec(packages, Variant::Os);
    let (as_root, _) = make(&order, &dir.path().join("root"), 2);
    // This very test program, as that user, in the mode that the variable asks for.
    let home = dir.path().join("user");
    std::fs::create_dir(&home).unwrap();
    for readable in [dir.path(), &dir.path().join("apt"), &dir.path().join("apt/archives")] {
        rustix::fs::chmod(readable, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    }
    output(ToolCall::new("chown").arg(user).arg(&home));
    let reachable = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let this = reachable(&std::env::current_exe().unwrap(), "test-program");
    let forge = reachable(&program(), "forge");
    forge::host::fs::write_atomic(&dir.path().join("spec"), &serde_json::to_vec(&order).unwrap(), 0o644)
        .unwrap();
    let said = output(
        ToolCall::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(this)
            .args(["--exact", "bootstrap::inner_run_of_an_ordinary_user", "--nocapture"])
            .env("FORGE_TEST_INNER", dir.path())
            .env("FORGE_TEST_PROGRAM", forge)
            .env("TZ", "America/New_York"),
    );
    assert!(said.contains(&as_root.diff_id.to_string()), "{said}");
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "something is left of the work");
    output(ToolCall::new("userdel").args(["--remove", user]));
}

/// The other half of the test above; alone it has nothing to do.
#[test]
fn inner_run_of_an_ordinary_user() {
    let (Some(dir), Some(program)) =
        (forge::host::env::var("FORGE_TEST_INNER"), forge::host::env::var("FORGE_TEST_PROGRAM"))
    else {
        return;
    };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let dir = PathBuf::from(dir);
    let spec: Spec = serde_json::from_slice(&std::fs::read(dir.join("spec")).unwrap()).unwrap();
    let out = tempfile::tempfile().unwrap();
    let (cancel, work) = (Cancel::default(), dir.join("user"));
    let env = Env {
        program: Path::new(&program),
        work: &work,
        jobs: 1,
        emulator: None,
        cancel: &cancel,
        progress: &|_| {},
    };
    println!("{}", run(&spec, &env, &out).unwrap_or_else(|e| panic!("{e:#}")).diff_id);
}

#[test]
fn interrupted_work_leaves_no_process_and_no_tree() {
    if !wanted(&["apt-get"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let packages = fetch(&dir.path().join("apt"), MINBASE);
    let (work, out, cancel) = (dir.path().join("work"), tempfile::tempfile().unwrap(), Cancel::default());
    // In the middle of configuring, with scripts running.
    let progress = |line: &str| {
        if line.starts_with("Setting up") {
            cancel.cancel()
        }
    };
    let env = Env {
        program: &program(),
        work: &work,
        jobs: 2,
        emulator: None,
        cancel: &cancel,
        progress: &progress,
    };
    let error = run(&spec(packages, Variant::Os), &env, &out).unwrap_err();
    assert_eq!(forge::error::kind(&error), forge::error::Kind::Interrupted);
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
    assert_eq!(out.metadata().unwrap().len(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(work.to_str().unwrap()));
}

#[test]
fn a_package_changed_after_it_was_locked_stops_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.deb");
    forge::host::fs::write_atomic(&path, b"!<arch>\n", 0o644).unwrap();
    let package = Package {
        name: "a".into(),
        version: "1".into(),
        path,
        sha256: Digest::of("locked"),
        automatic: false,
    };
    let (out, work) = (tempfile::tempfile().unwrap(), dir.path().join("work"));
    let cancel = Cancel::default();
    let env =
        Env { program: &program(), work: &work, jobs: 1, emulator: None, cancel: &cancel, progress: &|_| {} };
    let error = run(&spec(vec![package], Variant::Os), &env, &out).unwrap_err();
    if rustix::process::getuid().is_root() {
        assert_eq!(forge::error::kind(&error), forge::error::Kind::Verify, "{error:#}");
    }
    assert!(std::fs::read_dir(&work).unwrap().next().is_none());
}
