//! The lock, and the archive behind a mirror that lies.

use super::*;

const LOCKED: [&str; 2] = ["--locked", "--offline"];

/// The profile's mirror, as an option.
fn at(mirror: &Server) -> String {
    format!("os.mirror=\"http://{}\"", mirror.host)
}

/// `line` of the lock's text with `from` replaced by `to`; the line is the one that contains `holding`.
fn in_line(text: &str, holding: &str, from: &str, to: &str) -> String {
    assert!(text.lines().any(|l| l.contains(holding) && l.contains(from)), "no {from} with {holding}");
    text.lines()
        .map(|line| if line.contains(holding) { line.replace(from, to) } else { line.into() } + "\n")
        .collect()
}

#[test]
fn a_lock_that_is_no_longer_as_forge_wrote_it() {
    let Some(bench) = bench() else { return };
    let project = bench.project();
    let text = std::fs::read_to_string(project.path("tamper.toml.lock")).unwrap();
    let attacks = [
        text.replacen("schema = 1", "schema = 2", 1),
        text.replacen("package = [", "packagf = [", 1),
        text.replacen("name = ", "namf = ", 1),
        text.replacen("sha256:", "sha257:", 1),
        text.replacen(", ", ",  ", 1),
        text.replacen("epoch = 1", "epoch = 2", 1), // the remark beside it says another day
        text.trim_end().into(),
        text[..text.len() / 2].into(),
        format!("{text}\n"),
        String::new(),
    ];
    for attack in attacks {
        assert_ne!(attack, text);
        project.edit_lock(|_| attack);
        project.forge("build", &LOCKED).refused(5, &["tamper.toml.lock", "forge lock"]);
    }
    std::fs::remove_file(project.path("tamper.toml.lock")).unwrap();
    project.forge("build", &LOCKED).refused(5, &["tamper.toml.lock"]);
}

#[test]
fn a_lock_that_answers_another_question() {
    let Some(bench) = bench() else { return };
    let attacks = [
        ("request = [\"busybox-static\"]", "busybox-static\"]", "busybox\"]", "busybox-static"),
        ("name = \"os\"", "debian:trixie", "debian:bookworm", "debian:bookworm"),
        ("name = \"os\"", "\"systemd-sysv\", ", "", "systemd-sysv"),
        ("path = \"busy.yaml\"", "size = ", "size = 1", "busy.yaml has changed"),
    ];
    for (holding, from, to, word) in attacks {
        let project = bench.project();
        project.edit_lock(|text| in_line(&text, holding, from, to));
        project.forge("build", &LOCKED).refused(5, &["tamper.toml.lock", word]);
    }
}

#[test]
fn the_digest_of_a_package_replaced_in_the_lock() {
    let Some(bench) = bench() else { return };
    let (lock, mirror) = (bench.lock(), mirror(bench));
    let digest = |name: &str| lock.packages.iter().find(|p| p.name == name).unwrap().digest.hex();
    let project = bench.project();
    let evil = Digest::of("evil").hex();
    project.edit_lock(|text| text.replace(&digest("busybox-static"), &evil));
    // What it names is nowhere; what the mirror has under the package's path is refused.
    project.forge("build", &LOCKED).refused(3, &["busybox-static", "not in the cache"]);
    project
        .forge("build", &["--locked", "--set", &at(&mirror)])
        .refused(4, &["busybox-static", &evil, &digest("busybox-static")]);
    // A digest of another package, which is in the cache and whole.
    let project = bench.project();
    project.edit_lock(|text| {
        in_line(&text, "name = \"busybox-static\"", &digest("busybox-static"), &digest("catatonit"))
    });
    project.forge("build", &LOCKED).refused(4, &["busybox-static", "catatonit"]);
}

#[test]
fn a_package_that_the_mirror_alters() {
    let Some(bench) = bench() else { return };
    let (lock, mirror) = (bench.lock(), mirror(bench));
    let package = lock.packages.iter().find(|p| p.name == "busybox-static").unwrap();
    let hex = package.digest.hex();
    let good = std::fs::read(bench.cache.join("blobs/sha256").join(&hex[..2]).join(&hex)).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for evil in [flipped, good[..good.len() - 1].to_vec(), [&good[..], b"more"].concat(), b"<html>".to_vec()]
    {
        let project = bench.project();
        project.forget("amd64/container/busy:1");
        let blob = project.cache().join("blobs/sha256").join(&hex[..2]).join(&hex);
        std::fs::remove_file(&blob).unwrap();
        mirror.put(&format!("/{}", package.path), "application/octet-stream", evil);
        let outcome = project.forge("build", &["--locked", "--set", &at(&mirror)]);
        outcome.refused(4, &["busybox-static", &package.path]);
        assert!(!blob.exists());
    }
}

#[test]
fn lists_that_the_mirror_alters() {
    let Some(bench) = bench() else { return };
    let project = bench.project();
    let honest = mirror(bench);
    let update = |mirror: &Server| project.forge("lock", &["--update", "--set", &at(mirror)]);
    let before = std::fs::read(project.path("tamper.toml.lock")).unwrap();
    let refused = |mirror: &Server, words: &[&str]| {
        update(mirror).refused(4, words);
        assert_eq!(std::fs::read(project.path("tamper.toml.lock")).unwrap(), before, "the lock was touched");
    };
    let lock = bench.lock();
    let suite = lock.archives.iter().find(|a| a.suite == "debian:trixie").unwrap();
    let path = "/dists/trixie/InRelease";
    let blobs = bench.cache.join("blobs/sha256");
    let read = |digest: Digest| std::fs::read(blobs.join(&digest.hex()[..2]).join(digest.hex())).unwrap();
    let signed = String::from_utf8(read(suite.inrelease)).unwrap();
    let body = signed.split_once("\n\n").unwrap().1.split_once("-----BEGIN PGP SIGNATURE").unwrap().0;
    let attacks = [
        ("a digest in it", signed.replacen("Codename: trixie", "Codename: trixia", 1)),
        ("no signature", body.to_string()),
        (
            "an empty signature",
            signed.replace(signed.split_once("-----BEGIN PGP SIGNATURE").unwrap().1, "-----\n"),
        ),
        ("text before what is signed", format!("Suite: evil\n{signed}")),
        ("text behind what is signed", format!("{signed}\nSuite: evil\n")),
        (
            "of another suite",
            String::from_utf8(read(
                lock.archives.iter().find(|a| a.suite == "debian:trixie-updates").unwrap().inrelease,
            ))
            .unwrap(),
        ),
    ];
    for (what, attack) in attacks {
        eprintln!("{what}");
        assert_ne!(attack, signed);
        let mirror = mirror(bench);
        mirror.put(path, "text/plain", attack);
        refused(&mirror, &["InRelease"]);
    }
    let list = &suite.lists[0];
    // The cache may not help out.
    std::fs::remove_file(
        project.cache().join("blobs/sha256").join(&list.sha256.hex()[..2]).join(list.sha256.hex()),
    )
    .unwrap();
    let mirror = mirror(bench);
    let mut altered = read(list.sha256);
    *altered.last_mut().unwrap() ^= 1;
    for at in [list.path.clone(), format!("main/binary-amd64/by-hash/SHA256/{}", list.sha256.hex())] {
        mirror.put(&format!("/dists/trixie/{at}"), "application/octet-stream", altered.clone());
    }
    refused(&mirror, &[&list.path]);
    // All of it true: the lock moves to what the archive holds, which is what it held.
    let text = update(&honest).done();
    assert!(text.contains("packages"), "{text}");
}

/// An old state is signed as well as a new one: what was locked is the newest that is known.
#[test]
fn an_archive_that_is_older_than_the_locked_one() {
    let Some(bench) = bench() else { return };
    let (project, mirror) = (bench.project(), mirror(bench));
    let lock = bench.lock();
    let suite = lock.archives.iter().find(|a| a.suite == "debian:trixie").unwrap();
    let newer = format!("date = {}", suite.date.0 + 1);
    project.edit_lock(|text| {
        in_line(&text, "suite = \"debian:trixie\", origin", &format!("date = {}", suite.date.0), &newer)
    });
    let before = std::fs::read(project.path("tamper.toml.lock")).unwrap();
    let update = || project.forge("lock", &["--update", "--set", &at(&mirror)]);
    update().refused(
        4,
        &["InRelease of debian:trixie is of", "older than the one that is locked", "remove the lock"],
    );
    assert_eq!(std::fs::read(project.path("tamper.toml.lock")).unwrap(), before);
    // Who removes the lock says that it is to be so.
    std::fs::remove_file(project.path("tamper.toml.lock")).unwrap();
    update().done();
}
