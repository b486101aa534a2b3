//! Container images by reference, from a registry on this machine: a good one enters the payload, hostile ones are
//! refused and leave nothing behind.

use super::*;
use crate::oci::registry;
use forge::model::{Arch, Epoch};
use forge::oci::image::{self, Image};
use forge::oci::layer::{self, Codec, DiffId, Layer, TAR, TAR_ZSTD};
use forge::oci::layout::{Layout, LayoutWriter};
use forge::oci::{self, Annotations};
use forge::tree::{Node, NodeKind, Tree, TreePath};
use std::num::NonZero;

const EPOCH: Epoch = Epoch(1_795_219_200);
const GREETING: &str = "a layer of somebody else's\n";

/// An image of the one layer.
fn image(layer: Layer) -> Image {
    let spec = image::Spec {
        arch: Arch::Amd64,
        epoch: EPOCH,
        layers: vec![(layer, "a layer".into())],
        run: image::Run { command: vec!["/bin/true".into()], ..Default::default() },
        labels: Annotations::new(),
    };
    image::compose(&spec).unwrap()
}

fn layer(media_type: &str, blob: &[u8], tar: &[u8]) -> Layer {
    let descriptor = oci::descriptor(media_type, Digest::of(blob), blob.len() as u64);
    Layer { descriptor, diff_id: DiffId(Digest::of(tar)) }
}

/// A tar of entries that an honest writer refuses: type, path, target of a link, content.
fn tar(entries: &[(tar::EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut out = tar::Builder::new(vec![]);
    for (kind, path, link, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        if kind.is_block_special() || kind.is_character_special() {
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        out.append(&header, content.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

impl Project<'_> {
    /// Lets the workload take its image from `reference`.
    fn takes(&self, reference: &str) {
        std::fs::write(self.path("busy.yaml"), workload(reference)).unwrap();
        let path = self.path("tamper.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once("[[container]]").unwrap();
        let rest = rest.split_once("[[workload]]").unwrap().1;
        std::fs::write(path, format!("{head}[[workload]]{rest}")).unwrap();
    }
}

#[test]
fn a_good_image_from_a_registry_is_in_the_payload() {
    let Some(bench) = bench() else { return };
    let Some(registry) = registry() else { return };
    let project = bench.project();
    let path = |s: &str| TreePath::parse(s).unwrap();
    let mut tree = Tree::new();
    tree.insert(path("etc/greeting"), Node::text(GREETING, 0o644)).unwrap();
    let mut bytes = vec![];
    let written = forge::tree::tar::write(&tree, EPOCH, &mut bytes).unwrap();
    let blob = project.path("layer");
    let mut out = File::options().create_new(true).write(true).open(&blob).unwrap();
    let layer = layer::compress(&bytes[..], written, &mut out, Codec::Gzip, NonZero::<u32>::MIN).unwrap();
    let mut writer = LayoutWriter::create(&project.path("image")).unwrap();
    writer.file(oci::digest(&layer.descriptor).unwrap(), &blob).unwrap();
    let images = [image(layer)];
    let index = image::index(&images, EPOCH, &Annotations::new()).unwrap();
    writer.image(&images, &index, "1").unwrap();
    writer.commit(forge::host::fs::Durability::Cached).unwrap();
    let reference = format!("{}/edge/greeting:1", registry.host);
    forge::publish::push(&project.path("image"), "1", &reference.parse().unwrap(), false, None).unwrap();

    project.takes(&reference);
    project.forge("lock", &[]).done();
    let locked = std::fs::read_to_string(project.path("tamper.toml.lock")).unwrap();
    assert!(locked.contains(&format!("reference = \"{reference}\"")), "{locked}");
    project.forge("build", &["--locked", "--artifact", "oci"]).done();
    let site = project.path("dist/tamper");
    let release = std::fs::read_dir(&site).unwrap().next().unwrap().unwrap().path();
    let layout = Layout::open(&release.join("oci")).unwrap();
    let manifest = Manifest::from_bytes(&std::fs::read(release.join("manifest.json")).unwrap()).unwrap();
    let digest = manifest.image.unwrap().manifests[&Arch::Amd64];
    let bytes = std::fs::read(layout.blob_path(digest)).unwrap();
    let manifest: oci::Manifest = oci::json::parse(&bytes).unwrap();
    let payload = manifest.layers().last().unwrap();
    let mut unpacked = tempfile::tempfile().unwrap();
    let limit = layer::uncompressed_limit(payload.size());
    let from = layout.open_blob(payload).unwrap();
    let mut tar = layer::decompress(payload.media_type().as_ref(), from, limit).unwrap();
    std::io::copy(&mut tar, &mut unpacked).unwrap();
    let tree = forge::tree::tar::index(unpacked).unwrap();
    let found = tree.iter().find(|(path, _)| path.as_str().ends_with("/diff/etc/greeting")).unwrap();
    let NodeKind::File(content) = &found.1.kind else { panic!("{found:?}") };
    assert_eq!(content.to_vec(100).unwrap(), GREETING.as_bytes());
    // With all of it in the cache, the registry is not asked again.
    drop(registry);
    project.forge("build", &["--locked", "--offline", "--artifact", "oci"]).done();
}

/// A registry that serves `image` with its layer's `blob` under `/v2/evil/NAME`; the reference.
fn serve(server: &Server, name: &str, image: &Image, blob: &[u8]) -> String {
    let at = format!("/v2/evil/{name}");
    let documents: oci::Manifest = oci::json::parse(&image.manifest.bytes).unwrap();
    for tag in ["1".to_string(), Digest::of(&image.manifest.bytes).to_string()] {
        server.put(&format!("{at}/manifests/{tag}"), oci::MANIFEST, image.manifest.bytes.clone());
    }
    let octets = "application/octet-stream";
    server.put(&format!("{at}/blobs/{}", documents.config().digest()), octets, image.config.bytes.clone());
    server.put(&format!("{at}/blobs/{}", documents.layers()[0].digest()), octets, blob);
    format!("{}/evil/{name}:1", server.host)
}

/// Locks and builds with the image of `reference`; asserts that it is refused with one of `codes`, and that no file
/// called `escaped` is anywhere it could have got to.
#[track_caller]
fn refuse(bench: &Bench, reference: &str, codes: &[i32], words: &[&str]) {
    let project = bench.project();
    project.takes(reference);
    let locked = project.forge("lock", &[]);
    let outcome = match locked.code {
        Some(0) => project.forge("build", &["--locked", "--artifact", "oci"]),
        _ => locked,
    };
    assert!(
        codes.iter().any(|code| outcome.code == Some(*code)),
        "{codes:?}, not {:?}: {}",
        outcome.code,
        outcome.text
    );
    let code = outcome.code.unwrap();
    outcome.refused(code, &[&[reference], words].concat());
    assert!(!project.path("dist").exists());
    let escaped = |dir: &Path| files(dir).into_iter().find(|path| path.ends_with("escaped"));
    assert_eq!(escaped(project.dir.path()), None);
    assert!(!Path::new("/tmp/escaped").exists() && !Path::new("/escaped").exists());
    let work = project.cache().join("work");
    assert!(!work.exists() || files(&work).is_empty(), "something was left");
}

fn lying_registry() -> Server {
    let server = Server::new(Pages::new(), |_| None);
    server.put("/v2/", "application/json", "{}");
    server
}

#[test]
fn an_image_with_a_layer_that_leaves_its_tree() {
    use tar::EntryType as T;
    let Some(bench) = bench() else { return };
    let server = lying_registry();
    let attacks: [(&str, Vec<u8>, &[&str]); 6] = [
        ("dots", tar(&[(T::Regular, "../../../escaped", "", "x")]), &["..", "layer"]),
        (
            "through-a-link",
            tar(&[(T::Symlink, "l", "/tmp", ""), (T::Regular, "l/escaped", "", "x")]),
            &["l/escaped"],
        ),
        ("hard-link-out", tar(&[(T::Link, "l", "../../escaped", "")]), &["..", "layer"]),
        ("block-device", tar(&[(T::Block, "sda", "", "")]), &["`sda` is a device node"]),
        ("character-device", tar(&[(T::Char, "etc/mem", "", "")]), &["`etc/mem` is a device node"]),
        ("whiteout-of-the-parent", tar(&[(T::Regular, "d/.wh...", "", "")]), &["no whiteout"]),
    ];
    for (name, tar, words) in attacks {
        let reference = serve(&server, name, &image(layer(TAR, &tar, &tar)), &tar);
        refuse(bench, &reference, &[4], words);
    }
}

#[test]
fn an_image_with_a_bomb() {
    let Some(bench) = bench() else { return };
    let server = lying_registry();
    let zeros = std::io::Read::take(std::io::repeat(0), (1 << 30) + 1024);
    let bomb = zstd::encode_all(zeros, 1).unwrap();
    let reference = serve(&server, "bomb", &image(layer(TAR_ZSTD, &bomb, b"")), &bomb);
    refuse(bench, &reference, &[4], &["decompressing layer", "holds more than"]);
}

#[test]
fn an_image_that_is_not_what_its_documents_say() {
    let Some(bench) = bench() else { return };
    let server = lying_registry();
    let good = tar(&[(tar::EntryType::Regular, "a", "", "x")]);
    let other = tar(&[(tar::EntryType::Regular, "a", "", "y")]);
    let honest = image(layer(TAR, &good, &good));
    let digest = Digest::of(&good).to_string();
    // Another tar than the config lists.
    let reference = serve(&server, "diff-id", &image(layer(TAR, &good, &other)), &good);
    refuse(bench, &reference, &[4], &[&Digest::of(&other).to_string()]);
    // Other bytes than the manifest names: of another content, shorter, longer.
    let cut = good.split_last_chunk::<512>().unwrap().0;
    for (name, blob) in [("content", &other[..]), ("short", cut), ("long", &[&good[..], b"x"].concat()[..])] {
        refuse(bench, &serve(&server, name, &honest, blob), &[3, 4], &[&digest]);
    }
    // Another size than the manifest says.
    for (name, size) in [("small", good.len() as u64 - 1), ("large", 1 << 40)] {
        let mut wrong = layer(TAR, &good, &good);
        wrong.descriptor = oci::descriptor(TAR, Digest::of(&good), size);
        refuse(bench, &serve(&server, name, &image(wrong), &good), &[3, 4], &[&digest]);
    }
    // A layer of a kind that nobody unpacks.
    let kind = "application/vnd.example.layer.v1.evil";
    let reference = serve(&server, "kind", &image(layer(kind, &good, &good)), &good);
    refuse(bench, &reference, &[4], &[kind]);
    // Documents that are none, or say that there is nothing.
    let reference = serve(&server, "no-json", &honest, &good);
    server.put("/v2/evil/no-json/manifests/1", oci::MANIFEST, "{\"schemaVersion\": 2, ");
    refuse(bench, &reference, &[4], &["manifest"]);
    let reference = serve(&server, "config", &honest, &good);
    let config = Digest::of(&honest.config.bytes).to_string();
    server.put(&format!("/v2/evil/config/blobs/{config}"), "application/json", "{}");
    refuse(bench, &reference, &[3, 4], &[&config]);
    refuse(bench, &format!("{}/evil/nothing:1", server.host), &[3], &["the registry has no"]);
}

/// Moved by whoever has the registry, between locking and building.
#[test]
fn an_image_that_was_moved_after_it_was_locked() {
    let Some(bench) = bench() else { return };
    let server = lying_registry();
    let [good, evil] = ["x", "y"].map(|content| tar(&[(tar::EntryType::Regular, "a", "", content)]));
    let reference = serve(&server, "moved", &image(layer(TAR, &good, &good)), &good);
    let project = bench.project();
    project.takes(&reference);
    project.forge("lock", &[]).done();
    let (image, name) = (image(layer(TAR, &good, &good)), "/v2/evil/moved");
    let manifest = Digest::of(&image.manifest.bytes);
    let other = self::image(layer(TAR, &evil, &evil));
    serve(&server, "moved", &other, &evil);
    server.put(&format!("{name}/manifests/{manifest}"), oci::MANIFEST, other.manifest.bytes.clone());
    let outcome = project.forge("build", &["--locked", "--artifact", "oci"]);
    outcome.refused(4, &[&reference, &manifest.to_string()]);
}
