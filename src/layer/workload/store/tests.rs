//! The store's files as Podman expects them, and what is refused.

use super::*;
use crate::tree::NodeKind;
use serde_json::{Value, json};

const EPOCH: Epoch = Epoch(1_763_769_600);

fn p(s: &str) -> TreePath {
    TreePath::parse(s).unwrap()
}

fn layer(paths: &[&str]) -> ImageLayer {
    let mut tree = Tree::new();
    for path in paths {
        tree.insert(p(path), Node::text("x", 0o644)).unwrap();
    }
    let written = crate::tree::tar::write(&tree, EPOCH, std::io::sink()).unwrap();
    ImageLayer { diff_id: written.diff_id, length: written.length, tree: Arc::new(tree) }
}

/// An image whose documents agree with each other and with `layers`, after `change` had its way with the first two.
fn image_with(name: &str, layers: Vec<ImageLayer>, change: impl FnOnce(&mut Value, &mut Value)) -> OciImage {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id).collect();
    let mut config = json!({
        "architecture": "amd64", "os": "linux", "created": "2025-11-22T01:02:03Z",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let listed: Vec<_> = layers
        .iter()
        .map(|l| {
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            json!({ "mediaType": media_type, "digest": Digest::of(l.diff_id.hex()), "size": 99 })
        })
        .collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json" },
        "layers": listed,
    });
    change(&mut manifest, &mut config);
    let config = config.to_string().into_bytes();
    if manifest["config"]["digest"].is_null() {
        manifest["config"]["digest"] = json!(Digest::of(&config));
    }
    manifest["config"]["size"] = json!(config.len());
    let manifest = manifest.to_string().into_bytes();
    OciImage { names: vec![name.parse().unwrap()], index: None, manifest, config, layers }
}

fn image(name: &str, layers: Vec<ImageLayer>) -> OciImage {
    image_with(name, layers, |_, _| {})
}

fn read(tree: &Tree, path: &str) -> String {
    String::from_utf8(tree.file(&p(path)).unwrap().to_vec(1 << 20).unwrap()).unwrap()
}

/// Every path but directories, and the text of the small files: `golden.txt`, which real Podman has read (tests/it). A
/// change of it is a change of every payload partition.
#[test]
fn the_files_are_those_that_podman_reads() {
    let image = image("localhost/web:1", vec![layer(&["a"]), layer(&[".wh.a", "b"])]);
    let tree = store_tree(&[image], EPOCH).unwrap();
    let mut listing = String::new();
    for (path, node) in tree.iter() {
        listing += &match &node.kind {
            NodeKind::Dir => format!("{:o} {path}/\n", node.mode),
            NodeKind::File(_) => format!("{:o} {path}\n    {}\n", node.mode, read(&tree, &path.to_string())),
            NodeKind::Symlink(target) => format!("{path} -> {target}\n"),
            other => format!("{:o} {path} {other:?}\n", node.mode),
        };
    }
    assert_eq!(listing, include_str!("golden.txt"), "{listing}");
}

#[test]
fn layers_that_images_share_are_there_once() {
    let shared = || vec![layer(&["a"]), layer(&["b"])];
    let mut more = shared();
    more.push(layer(&["c"]));
    let images = [image("localhost/one:1", shared()), image("localhost/two:1", more)];
    let tree = store_tree(&images, EPOCH).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&read(&tree, "overlay-layers/layers.json")).unwrap();
    assert_eq!(rows.len(), 3);
    for (i, row) in rows.iter().enumerate() {
        let parent = if i == 0 { &Value::Null } else { &rows[i - 1]["id"] };
        assert_eq!(row["parent"], *parent, "parents come first");
    }
    let lower = read(&tree, &format!("overlay/{}/lower", rows[2]["id"].as_str().unwrap()));
    assert_eq!(lower.split(':').count(), 2);
    let nearest = read(&tree, &format!("overlay/{}/link", rows[1]["id"].as_str().unwrap()));
    assert!(lower.starts_with(&format!("l/{nearest}:")), "the nearest comes first");
}

#[test]
fn the_order_of_the_images_changes_nothing() {
    let one = || image("localhost/one:1", vec![layer(&["a"])]);
    let other_name = || OciImage { names: vec!["localhost/uno:1".parse().unwrap()], ..one() };
    let two = || image("localhost/two:1", vec![layer(&["x"]), layer(&["b"])]);
    let table = |images: &[OciImage]| {
        let tree = store_tree(images, EPOCH).unwrap();
        (read(&tree, "overlay-images/images.json"), read(&tree, "overlay-layers/layers.json"))
    };
    let first = table(&[one(), other_name(), two()]);
    assert_eq!(first, table(&[two(), other_name(), one()]));
    let rows: Vec<Value> = serde_json::from_str(&first.0).unwrap();
    assert!(rows.iter().any(|row| row["names"] == json!(["localhost/one:1", "localhost/uno:1"])));
}

#[test]
fn an_image_with_two_manifests_answers_to_both() {
    let one = image("localhost/web:1", vec![layer(&["a"])]);
    let mut other = image("localhost/web:2", vec![layer(&["a"])]);
    other.manifest.push(b'\n');
    let tree = store_tree(&[one.clone(), other.clone()], EPOCH).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&read(&tree, "overlay-images/images.json")).unwrap();
    assert_eq!(rows.len(), 1);
    let digests = &rows[0]["big-data-digests"];
    assert_eq!(rows[0]["digest"], digests["manifest"]);
    for image in [one, other] {
        let digest = Digest::of(&image.manifest);
        assert_eq!(digests[format!("manifest-{digest}")], json!(digest));
    }
}

#[test]
fn an_index_is_kept_so_that_its_digest_finds_the_image() {
    let mut image = image("localhost/web:1", vec![layer(&["a"])]);
    let listed = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(&image.manifest), "size": image.manifest.len(),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string().into_bytes();
    let key = format!("manifest-{}", Digest::of(&index));
    image.index = Some(index);
    let tree = store_tree(&[image.clone()], EPOCH).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&read(&tree, "overlay-images/images.json")).unwrap();
    assert!(rows[0]["big-data-names"].as_array().unwrap().contains(&json!(key)));
    image.index = Some(json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes());
    let fault = store_tree(&[image], EPOCH).unwrap_err();
    assert!(matches!(fault, StoreError::Document { fault: BadDocument::NotInIndex(_), .. }), "{fault}");
}

#[test]
fn documents_that_contradict_each_other_are_refused() {
    let layers = || vec![layer(&["a"])];
    let other = Digest::of("other");
    let fault = |image: OciImage| store_tree(&[image], EPOCH).unwrap_err().to_string();
    for (change, told) in [
        (
            (|m: &mut Value, _: &mut Value| m["config"]["digest"] = json!(Digest::of("other")))
                as fn(&mut _, &mut _),
            "its config is",
        ),
        (|_, c| c["rootfs"]["diff_ids"] = json!([Digest::of("other")]), "its layer is"),
        (|_, c| c["rootfs"]["diff_ids"] = json!([]), "the manifest lists 1, the config 0"),
        (|m, _| m["layers"] = json!([]), "the manifest lists 0"),
        (
            |m, _| {
                m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
            },
            "is of type",
        ),
        (|m, _| m["layers"][0]["digest"] = json!("sha512:00"), "cannot be read"),
        (|m, _| m["layers"] = json!("none"), "its manifest cannot be read"),
    ] {
        let text = fault(image_with("localhost/web:1", layers(), change));
        assert!(text.starts_with("image `localhost/web:1`: ") && text.contains(told), "{told}: {text}");
    }
    let mut swapped = image("localhost/web:1", layers());
    swapped.layers[0].diff_id = other;
    assert!(fault(swapped).contains("its layer is"));
    let mut long = image("localhost/web:1", layers());
    long.manifest.resize((4 << 20) + 1, b' ');
    assert!(fault(long).contains("more than the 4194304 allowed"));
    let many = (0..128).map(|i| layer(&[&format!("f{i}")])).collect();
    assert!(fault(image("localhost/web:1", many)).contains("128 layers"));
    assert!(fault(image("localhost/web:1", vec![])).contains("no layers"));
}

#[test]
fn a_name_cannot_be_taken_from_another_image() {
    let images =
        [image("localhost/web:1", vec![layer(&["a"])]), image("localhost/web:1", vec![layer(&["b"])])];
    let fault = store_tree(&images, EPOCH).unwrap_err();
    assert!(matches!(fault, StoreError::NameClash { .. }), "{fault}");
}

#[test]
fn a_date_that_podman_could_not_read_is_replaced() {
    let bad = image_with("localhost/web:1", vec![layer(&["a"])], |_, c| c["created"] = json!("yesterday"));
    let tree = store_tree(&[bad], EPOCH).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&read(&tree, "overlay-images/images.json")).unwrap();
    assert_eq!(rows[0]["created"], json!(EPOCH.rfc3339()));
}

#[test]
fn ids_are_containers_images_own() {
    // Taken from a store that skopeo 1.18 wrote.
    let diff_id = |hex| Digest::from_hex(hex).unwrap();
    let base = layer_id(None, diff_id("4317fbf125e0ee87092b90d71e8143a0b62261e4a71f9d4cb0730b68786ceb6d"));
    let top = diff_id("ed67353706165f9aed801b43dff207e9f65e72c048cc8b79088b670fc50809b3");
    assert_eq!(
        layer_id(Some(&base), top),
        "87f4201c6e9e9496b5b50fd886725abc1af5f1e79945963763212678c83906d4"
    );
    assert_eq!(
        big_data_file("sha256:4b92e8c2069167d61781b5f841b142446a51ab5d60b5d456e7a1b45bf218c7c8"),
        "=c2hhMjU2OjRiOTJlOGMyMDY5MTY3ZDYxNzgxYjVmODQxYjE0MjQ0NmE1MWFiNWQ2MGI1ZDQ1NmU3YTFiNDViZjIxOGM3Yzg="
    );
    let link = link_name(&base);
    assert!(link.len() == 26 && link.bytes().all(|c| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c)));
}
