//! A release directory with something changed, added or taken away by somebody without the key.

use super::*;
use forge::sign::Signer as _;

#[test]
fn a_byte_flipped_in_each_file() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let paths: Vec<String> =
        files(copy.path()).into_iter().filter(|p| !p.starts_with("oci/blobs/")).collect();
    for expected in ["SHA256SUMS.sig", "amd64/disk.raw", "amd64/disk.raw.zst.sigstore.json", "oci/index.json"]
    {
        assert!(paths.iter().any(|p| p == expected), "{paths:?}");
    }
    for path in paths {
        let file = copy.path().join(&path);
        own(&file);
        for offset in [0, length(&file) / 2] {
            flip(&file, offset);
            // The signature's own file is told of by what it signs.
            bench.verify(copy.path()).refused(4, &[path.trim_end_matches(".sig")]);
            flip(&file, offset);
        }
    }
    assert!(bench.verify(copy.path()).done().contains("PASS"));
}

/// Layers, config, manifest, index; signatures in both shapes with their payloads and manifests.
#[test]
fn a_byte_flipped_in_each_blob_of_the_layout() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let (layout, blobs) = (copy.path().join("oci"), copy.path().join("oci/blobs/sha256"));
    let digests = files(&blobs);
    assert!(digests.len() >= 12, "{digests:?}");
    for digest in digests {
        let blob = blobs.join(&digest);
        own(&blob);
        let offset = length(&blob) / 2;
        flip(&blob, offset);
        bench.verify(&layout).refused(4, &[&digest]);
        flip(&blob, offset);
    }
    assert!(bench.verify(&layout).done().contains("PASS"));
}

#[test]
fn a_blob_of_the_layout_in_a_release() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let blobs = copy.path().join("oci/blobs/sha256");
    let smallest = files(&blobs).into_iter().min_by_key(|digest| length(&blobs.join(digest))).unwrap();
    own(&blobs.join(&smallest));
    flip(&blobs.join(&smallest), 0);
    bench.verify(copy.path()).refused(4, &["OCI layout", &smallest]);
}

#[test]
fn index_manifest_and_config_in_each_others_place() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let blobs = copy.path().join("oci/blobs/sha256");
    let image = Manifest::from_bytes(&std::fs::read(copy.path().join("manifest.json")).unwrap()).unwrap();
    let image = image.image.unwrap();
    let (index, manifest) = (image.index.hex(), image.manifests.into_values().next().unwrap().hex());
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(blobs.join(&manifest)).unwrap()).unwrap();
    let config = config["config"]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_string();
    for (a, b) in [(&index, &manifest), (&manifest, &config), (&index, &config)] {
        let [of_a, of_b] = [a, b].map(|digest| std::fs::read(blobs.join(digest)).unwrap());
        replace(&blobs.join(a), &of_b);
        replace(&blobs.join(b), &of_a);
        let outcome = bench.verify(copy.path());
        let named = outcome.text.contains(a.as_str()) || outcome.text.contains(b.as_str());
        assert!(named, "{}", outcome.text);
        outcome.refused(4, &["OCI layout"]);
        replace(&blobs.join(a), &of_a);
        replace(&blobs.join(b), &of_b);
    }
}

#[test]
fn an_unsigned_image_beside_the_signed_one() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let layout = copy.path().join("oci");
    let image = Manifest::from_bytes(&std::fs::read(copy.path().join("manifest.json")).unwrap()).unwrap();
    let manifest = image.image.unwrap().manifests.into_values().next().unwrap();
    // The signed image with one word more: everything holds but that nobody signed it.
    let bytes = std::fs::read(layout.join("blobs/sha256").join(manifest.hex())).unwrap();
    let mut evil: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    evil["annotations"] = serde_json::json!({ "org.example.note": "evil" });
    let evil = serde_json::to_vec(&evil).unwrap();
    let digest = Digest::of(&evil);
    replace(&layout.join("blobs/sha256").join(digest.hex()), &evil);
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(), "size": evil.len()
    });
    index["manifests"].as_array_mut().unwrap().push(entry);
    replace(&layout.join("index.json"), &serde_json::to_vec(&index).unwrap());
    bench.verify(&layout).refused(4, &[&digest.hex(), "not signed"]);
    bench.verify(copy.path()).refused(4, &["is in no signed list"]);
}

#[test]
fn the_signatures_of_the_layout_taken_away() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let path = copy.path().join("oci/index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    index["manifests"].as_array_mut().unwrap().truncate(1);
    replace(&path, &serde_json::to_vec(&index).unwrap());
    bench.verify(&copy.path().join("oci")).refused(4, &["is not signed"]);
    bench.verify(copy.path()).refused(4, &["oci/index.json"]);
}

#[test]
fn a_file_added() {
    let Some(bench) = bench() else { return };
    for path in ["evil.sh", "amd64/disk2.raw", "oci/blobs/sha256/evil", ".hidden"] {
        let copy = bench.copy();
        std::fs::write(copy.path().join(path), b"evil").unwrap();
        bench.verify(copy.path()).refused(4, &[path, "in no signed list"]);
    }
}

#[test]
fn a_file_removed_or_renamed() {
    let Some(bench) = bench() else { return };
    for path in files(&bench.release) {
        let copy = bench.copy();
        let (name, file) = (path.rsplit('/').next().unwrap(), copy.path().join(&path));
        std::fs::rename(&file, copy.path().join("oci/renamed")).unwrap();
        let named = if path.starts_with("SHA") { name } else { "oci/renamed" };
        bench.verify(copy.path()).refused(4, &[named]);
        std::fs::remove_file(copy.path().join("oci/renamed")).unwrap();
        bench.verify(copy.path()).refused(4, &[name]);
    }
}

#[test]
fn a_link_in_place_of_a_file() {
    let Some(bench) = bench() else { return };
    for path in ["manifest.json", "amd64/disk.raw", "oci/index.json"] {
        let copy = bench.copy();
        std::fs::remove_file(copy.path().join(path)).unwrap();
        std::os::unix::fs::symlink(bench.release.join(path), copy.path().join(path)).unwrap();
        bench.verify(copy.path()).refused(4, &[path]);
    }
    let copy = bench.copy();
    std::os::unix::fs::symlink("/etc", copy.path().join("elsewhere")).unwrap();
    bench.verify(copy.path()).refused(4, &["elsewhere"]);
}

#[test]
fn a_line_dropped_from_the_sums() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let sums = std::fs::read_to_string(copy.path().join(SUMS)).unwrap();
    let dropped: String = sums.lines().skip(1).map(|line| format!("{line}\n")).collect();
    replace(&copy.path().join(SUMS), dropped.as_bytes());
    bench.verify(copy.path()).refused(4, &[SUMS]);
    // And with a signature that holds: the file is then one that nobody lists.
    replace(
        &copy.path().join(SUMS_SIGNATURE),
        seal::sums_signature(&dropped, &bench.key).unwrap().as_bytes(),
    );
    bench.verify(copy.path()).refused(4, &["amd64/disk.raw is in no signed list"]);
}

#[test]
fn another_key() {
    let Some(bench) = bench() else { return };
    let other = PrivateKey::generate().unwrap();
    let copy = bench.copy();
    let public = copy.path().join("../other.pub");
    std::fs::write(&public, other.public_key().to_pem()).unwrap();
    let [dir, public] = [copy.path(), &public].map(|p| p.display().to_string());
    forge(&bench.cache, &["verify", &dir, "--key", &public]).refused(4, &[SUMS]);
    // An altered disk, signed throughout by whoever altered it.
    own(&copy.path().join("amd64/disk.raw"));
    flip(&copy.path().join("amd64/disk.raw"), 1 << 20);
    reseal(copy.path(), &other);
    bench.verify(copy.path()).refused(4, &[SUMS]);
    // The true sums over a bundle of that person.
    reseal_sums(copy.path(), &BTreeMap::new(), &bench.key);
    bench.verify(copy.path()).refused(4, &["amd64/disk.raw"]);
}

#[test]
fn a_manifest_that_names_another_image() {
    let Some(bench) = bench() else { return };
    let copy = bench.copy();
    let path = copy.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let image = Manifest::from_bytes(text.as_bytes()).unwrap().image.unwrap().index;
    replace(&path, text.replace(&image.hex(), &Digest::of("evil").hex()).as_bytes());
    bench.verify(copy.path()).refused(4, &["manifest.json"]);
    reseal_sums(copy.path(), &BTreeMap::new(), &bench.key);
    bench.verify(copy.path()).refused(4, &[&Digest::of("evil").hex()]);
}
