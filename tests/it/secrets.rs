//! `forge check --secrets`: what is hidden in a release, however it is packed, is found and named; what a package brings is
//! not taken for a secret.

use crate::fixture::{self, FORGE, events, ok, refused};
use forge::model::Epoch;
use forge::tree::{Node, Tree, TreePath, cpio};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// No file of ours is to hold what is looked for.
fn private_key() -> String {
    let line = ["-----BEGIN ", "OPENSSH PRIVATE ", "KEY-----"].concat();
    format!("{line}\n{}\n", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU".repeat(2))
}

fn hash() -> String {
    ["root:$", "y$j9T$F5Jx5fExrKuPp53xLKQ..1$", &"Vb0Y1r8".repeat(7)[..43], ":20000:0:99999:7:::\n"].concat()
}

fn tree(files: &[(&str, &[u8])]) -> Tree {
    let mut tree = Tree::new();
    for (path, bytes) in files {
        tree.insert(TreePath::parse(path).unwrap(), Node::file(bytes.to_vec(), 0o644)).unwrap();
    }
    tree
}

fn check(path: &Path) -> Command {
    let mut check = Command::new(FORGE);
    check.args(["--json", "check", "--secrets"]).arg(path);
    check
}

/// Whatever else is in it.
fn places(path: &Path) -> Vec<(String, String)> {
    let out = check(path).output().unwrap();
    assert_eq!(out.status.code(), Some(4));
    let said = String::from_utf8(out.stdout).unwrap();
    let text = |found: &serde_json::Value, key: &str| found[key].as_str().unwrap().to_string();
    let name = path.display().to_string();
    let found = events(&said, "secret");
    found.iter().map(|f| (text(f, "place").replace(&name, ""), text(f, "what"))).collect()
}

#[test]
fn secrets_are_found_in_whatever_they_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    // An initrd: an archive, zeros, and a compressed one behind it.
    let mut initrd = vec![];
    cpio::write(&tree(&[("init", b"#!/bin/sh\n")]), Epoch(0), &mut initrd).unwrap();
    initrd.extend([0; 512]);
    let mut second = vec![];
    cpio::write(&tree(&[("etc/shadow", hash().as_bytes())]), Epoch(0), &mut second).unwrap();
    initrd.extend(zstd::encode_all(&second[..], 3).unwrap());
    std::fs::write(path.join("initrd"), initrd).unwrap();
    // An archive in an archive, by the tools that people pack with.
    std::fs::create_dir(path.join("home")).unwrap();
    std::fs::write(path.join("home/id_ed25519"), private_key()).unwrap();
    let inner = ["--create", "--gzip", "--file", "backup.tar.gz", "home"];
    ok(Command::new("tar").args(inner).current_dir(path));
    ok(Command::new("tar")
        .args(["--create", "--xz", "--file", "all.tar.xz", "backup.tar.gz"])
        .current_dir(path));
    std::fs::remove_dir_all(path.join("home")).unwrap();
    std::fs::remove_file(path.join("backup.tar.gz")).unwrap();
    // Cut off: what was there is found, and that it was cut is said.
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gz.write_all(private_key().as_bytes()).unwrap();
    let whole = gz.finish().unwrap();
    std::fs::write(path.join("zz-cut.gz"), &whole[..whole.len() - 4]).unwrap();

    let found = places(path);
    let expected = [
        ("/all.tar.xz: backup.tar.gz: home/id_ed25519", "a private key"),
        ("/initrd: etc/shadow", "a password hash"),
        ("/zz-cut.gz", "a private key"),
    ];
    assert_eq!(found, expected.map(|(place, what)| (place.to_string(), what.to_string())));
    let said = check(path).output().unwrap();
    let searched = &events(&String::from_utf8(said.stdout).unwrap(), "searched")[0];
    assert!(searched["unread"][0].as_str().unwrap().contains("zz-cut.gz"), "{searched}");
}

#[test]
fn what_a_package_brings_is_no_secret_until_it_is_changed() {
    use md5::{Digest as _, Md5};
    let dir = tempfile::tempdir().unwrap();
    let key = private_key();
    let md5 = forge::model::digest::hex(&Md5::digest(key.as_bytes()));
    let list = format!("{md5}  usr/share/doc/openssh/example\n");
    let pack = |name: &str, content: &str| {
        let tree = tree(&[
            ("rootfs/usr/share/doc/openssh/example", content.as_bytes()),
            ("rootfs/var/lib/dpkg/info/openssh.md5sums", list.as_bytes()),
        ]);
        let mut tar = vec![];
        forge::tree::tar::write(&tree, Epoch(0), &mut tar).unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, zstd::encode_all(&tar[..], 3).unwrap()).unwrap();
        path
    };
    let told = ok(&mut check(&pack("whole.tar.zst", &key)));
    assert_eq!(events(&told, "searched")[0]["packaged"], 1);
    let changed = pack("changed.tar.zst", &format!("{key}\n"));
    assert_eq!(places(&changed)[0].0, ": rootfs/usr/share/doc/openssh/example");
}

/// A model is bytes that no profile check reads.
#[test]
fn a_release_is_clean_and_what_is_hidden_in_it_is_not() {
    let Some(shared) = fixture::shared() else { return };
    let told = ok(&mut check(&shared.release));
    let searched = &events(&told, "searched")[0];
    println!("{searched}");
    assert!(searched["files"].as_u64().unwrap() > 10_000, "the disk and the layers were not looked into");
    assert_eq!(searched["unread"], serde_json::json!([]));

    let scratch = shared.scratch();
    let profile = shared.source_in(scratch.path());
    let weights = profile.with_file_name("weights");
    std::fs::create_dir(&weights).unwrap();
    std::fs::write(weights.join("model"), zstd::encode_all(private_key().as_bytes(), 3).unwrap()).unwrap();
    let text = std::fs::read_to_string(&profile).unwrap();
    let model = "[[workload]]\nname = \"weights\"\nmodel = { source = \"file:weights\", mount = \"/var/lib/models/w\" }\n";
    std::fs::write(&profile, format!("{text}\n{model}")).unwrap();
    let mut build = fixture::forge(&shared.cache());
    build.args(["--json", "build", "--artifact", "disk"]).arg(&profile);
    let told = ok(build.arg("--out").arg(scratch.path().join("out")));
    let disk = Path::new(events(&told, "release")[0]["dir"].as_str().unwrap()).join("amd64/disk.raw.zst");
    let found = places(&disk);
    assert!(found.len() == 1 && found[0].0.ends_with("/model") && found[0].0.starts_with(": "), "{found:?}");
    let said = refused(Command::new(FORGE).args(["check", "--secrets"]).arg(&disk), 4);
    assert!(said.contains("there is a secret in what may be published"), "{said}");
}
