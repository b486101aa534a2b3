//! What the cache holds, altered between two builds.

use super::*;

/// Same size, same time of writing, same boot of the machine.
#[test]
fn an_output_of_a_step_altered_between_builds() {
    let Some(bench) = bench() else { return };
    let project = bench.project();
    // An entry of this cache alone, taken over by a build and then altered.
    let entry = project.step("amd64/kubernetes");
    let shared = std::fs::read_link(&entry).unwrap();
    std::fs::remove_file(&entry).unwrap();
    std::fs::create_dir(&entry).unwrap();
    for name in files(&shared) {
        std::fs::copy(shared.join(&name), entry.join(&name)).unwrap();
    }
    let taken = project.forge("build", &["--locked", "--offline"]).done();
    assert!(!taken.contains("damaged"), "{taken}");
    let output = files(&entry).into_iter().find(|name| name != "record.json").unwrap();
    let modified = std::fs::metadata(entry.join(&output)).unwrap().modified().unwrap();
    flip(&entry.join(&output), length(&entry.join(&output)) / 2);
    File::options().write(true).open(entry.join(&output)).unwrap().set_modified(modified).unwrap();
    let text = project.forge("build", &["--locked", "--offline"]).done();
    assert!(text.contains("amd64/kubernetes: ") && text.contains("in the cache was damaged"), "{text}");
    assert_eq!(
        std::fs::read(entry.join(&output)).unwrap(),
        std::fs::read(shared.join(&output)).unwrap(),
        "it was made again as it was"
    );
}

#[test]
fn a_record_of_a_step_altered_between_builds() {
    let Some(bench) = bench() else { return };
    let project = bench.project();
    let entry = project.step("amd64/kubernetes");
    let shared = std::fs::read_link(&entry).unwrap();
    std::fs::remove_file(&entry).unwrap();
    std::fs::create_dir(&entry).unwrap();
    for name in files(&shared) {
        std::fs::copy(shared.join(&name), entry.join(&name)).unwrap();
    }
    let output = files(&entry).into_iter().find(|name| name != "record.json").unwrap();
    let digest = Digest::of(std::fs::read(entry.join(&output)).unwrap());
    let record = std::fs::read_to_string(entry.join("record.json")).unwrap();
    std::fs::write(entry.join("record.json"), record.replace(&digest.hex(), &Digest::of("evil").hex()))
        .unwrap();
    let text = project.forge("build", &["--locked", "--offline"]).done();
    assert!(text.contains("in the cache was damaged"), "{text}");
}

/// Gone from the cache and fetched again, or, without a network, refused; never used.
#[test]
fn a_package_altered_in_the_cache() {
    let Some(bench) = bench() else { return };
    let project = bench.project();
    let lock = bench.lock();
    let package = lock.packages.iter().find(|p| p.name == "busybox-static").unwrap();
    let hex = package.digest.hex();
    let blob = project.cache().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let alter = || {
        let bytes = std::fs::read(&blob).unwrap();
        replace(&blob, &bytes);
        flip(&blob, bytes.len() as u64 / 2);
    };
    alter();
    project.forget("amd64/container/busy:1");
    project.forge("build", &["--locked", "--offline"]).refused(3, &["busybox-static", "not in the cache"]);
    assert!(!blob.exists());

    std::os::unix::fs::symlink(bench.cache.join("blobs/sha256").join(&hex[..2]).join(&hex), &blob).unwrap();
    alter();
    let mirror = mirror(bench);
    let at = format!("os.mirror=\"http://{}\"", mirror.host);
    let text = project.forge("build", &["--locked", "--set", &at, "--artifact", "oci"]).done();
    assert!(text.contains("container/busy:1"), "{text}");
    assert_eq!(Digest::of(std::fs::read(&blob).unwrap()), package.digest);
}
