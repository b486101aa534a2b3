use super::*;
use crate::model::{Epoch, Guid};
use crate::tree::{Content, Node, NodeKind, Tree, TreePath};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1_000_000_000);

fn p(s: &str) -> TreePath {
    TreePath::parse(s).unwrap()
}

fn image_of(tree: &Tree) -> Content {
    let out = tempfile::tempfile().unwrap();
    let spec = ErofsSpec { uuid: Guid::from_u128(7), epoch: EPOCH, name: "forge".into() };
    let length = write(tree, &spec, &out).unwrap();
    assert_eq!(length, out.metadata().unwrap().len());
    Content::of_file(Arc::new(out)).unwrap()
}

fn bytes_of(entry: &Entry) -> Vec<u8> {
    let mut bytes = vec![];
    entry.reader().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The reader gives what the writer took: every name, attribute and byte, and links that share an inode.
fn assert_comes_back(tree: &Tree) {
    let image = Image::open(image_of(tree)).unwrap();
    let entries = image.walk().unwrap();
    let names = |paths: Vec<&TreePath>| paths.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(entries.keys().collect()), names(tree.iter().map(|(p, _)| p).collect()));
    let mut subdirectories: BTreeMap<TreePath, u32> = BTreeMap::new();
    for (path, node) in tree.iter().filter(|(_, n)| n.is_dir()) {
        assert!(node.is_dir());
        if let Some(parent) = path.parent() {
            *subdirectories.entry(parent).or_default() += 1;
        }
    }
    for (path, node) in tree.iter() {
        let entry = &entries[path];
        let (target, node) = match &node.kind {
            NodeKind::HardLink(target) => (target, tree.get(target).unwrap()),
            _ => (path, node),
        };
        assert_eq!(entry.inode, entries[target].inode, "{path}");
        let kind = match &node.kind {
            NodeKind::File(content) => {
                assert_eq!(bytes_of(entry), content.to_vec(1 << 30).unwrap(), "{path}");
                NodeKind::File(vec![].into())
            }
            other => other.clone(),
        };
        if node.is_dir() {
            assert_eq!(entry.nlink, 2 + subdirectories.get(path).copied().unwrap_or(0), "{path}");
        }
        assert_eq!(entry.node, Node { kind, mtime: node.mtime.min(EPOCH.0), ..node.clone() }, "{path}");
    }
}

#[test]
fn one_of_everything_comes_back() {
    let mut tree = Tree::new();
    for length in [0, 1, 2048, 2049, 4095, 4096, 4097, 12_288, 50_000] {
        let node = Node { mtime: length as i64, ..Node::file(vec![length as u8; length], 0o6755) };
        tree.insert(p(&format!("f{length}")), node).unwrap();
        let node = Node { mtime: EPOCH.0 + 9, ..Node::file(vec![1; length], 0o644) };
        tree.insert(p(&format!("g{length}")), node).unwrap();
    }
    for i in 0..500 {
        tree.insert(p(&format!("dir/{i:0>60}")), Node::symlink("x".repeat(i * 8 + 1))).unwrap();
    }
    tree.insert(
        p("dev/x"),
        Node { kind: NodeKind::CharDevice { major: 4095, minor: 1_048_575 }, ..Node::text("", 0o600) },
    )
    .unwrap();
    tree.insert(p("pipe"), Node { kind: NodeKind::Fifo, ..Node::text("", 0o600).owned(1 << 20, 3) }).unwrap();
    tree.insert(p("a"), Node { kind: NodeKind::HardLink(p("f4097")), ..Node::text("", 0) }).unwrap();
    let mut node = Node::text("x", 0o755);
    for i in 0..40 {
        node.xattrs.insert(format!("user.name{i}"), vec![i; usize::from(i) * 50]);
    }
    node.xattrs.insert("system.posix_acl_access".into(), vec![2, 0, 0, 0]);
    tree.insert(p("attributes"), node).unwrap();
    assert_comes_back(&tree);
    assert_comes_back(&Tree::new());
}

#[test]
fn a_file_beyond_4_gib_keeps_its_size_and_its_holes() {
    let sparse = tempfile::tempfile().unwrap();
    let length = (5 << 30) + 100;
    sparse.set_len(length).unwrap();
    sparse.write_all_at(b"tail", length - 4).unwrap();
    let content = Content::of_file(Arc::new(sparse)).unwrap();
    let mut tree = Tree::new();
    tree.insert(p("big"), Node::file(content, 0o644)).unwrap();
    let image = Image::open(image_of(&tree)).unwrap();
    let entry = &image.walk().unwrap()[&p("big")];
    assert_eq!(entry.len(), length);
    let mut end = [0; 4];
    entry.data[1].read_exact_at(&mut end, 96).unwrap();
    assert_eq!(&end, b"tail");
}

#[test]
fn what_erofs_cannot_hold_is_refused_by_name() {
    let out = tempfile::tempfile().unwrap();
    let spec = ErofsSpec { uuid: Guid::NIL, epoch: EPOCH, name: "forge".into() };
    for (name, length) in [("nonsense", 1), ("user.", 1), ("system.nfs4_acl", 1), ("user.big", 65_536)] {
        let mut node = Node::text("", 0o644);
        node.xattrs.insert(name.into(), vec![0; length]);
        let mut tree = Tree::new();
        tree.insert(p("some/file"), node).unwrap();
        let error = write(&tree, &spec, &out).unwrap_err().to_string();
        assert!(error.contains("`some/file`") && error.contains(name), "{error}");
    }
    let long = ErofsSpec { name: "sixteen letters!".into(), ..spec };
    assert!(matches!(write(&Tree::new(), &long, &out), Err(WriteError::VolumeName(_))));
}

/// Puts the right checksum into a changed image, so that the change itself is looked at.
fn reseal(image: &mut [u8]) {
    image[1028..1032].fill(0);
    let sum = !crc32c::crc32c(&image[1024..4096]);
    image[1028..1032].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn hostile_images_are_errors() {
    let mut tree = Tree::new();
    tree.insert(p("d/e/f"), Node::text("hello", 0o644)).unwrap();
    tree.insert(p("d/link"), Node::symlink("e/f")).unwrap();
    let good = image_of(&tree).to_vec(1 << 20).unwrap();
    let walk = |image: Vec<u8>| Image::open(image.into()).and_then(|i| i.walk());
    let mut same = good.clone();
    reseal(&mut same);
    assert_eq!(same, good);
    // The bytes of all metadata, each with values that lead outside, back, or into a loop.
    for at in 1024..1600 {
        for value in [0, 1, 36, 37, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = walk(bad.clone());
            reseal(&mut bad);
            let _ = walk(bad); // no panic, no endless walk; some changes make another valid image
        }
    }
    for length in (0..good.len()).step_by(61) {
        assert!(walk(good[..length].to_vec()).is_err());
    }
    let mut flipped = good.clone();
    flipped[1200] ^= 1;
    assert!(matches!(walk(flipped), Err(ErofsError::Superblock("the checksum does not hold"))));
}

#[test]
fn a_directory_that_holds_itself_is_refused() {
    let mut tree = Tree::new();
    tree.insert(p("d/e"), Node::dir(0o755)).unwrap();
    let mut image = image_of(&tree).to_vec(1 << 20).unwrap();
    // The entries of `d`: 12 bytes each for `.`, `..` and `e`, then the names; `e` is made to lead to the root, 36.
    let names = image.windows(4).position(|w| w == b"...e").unwrap();
    let e = names - 12;
    image[e..e + 8].copy_from_slice(&36u64.to_le_bytes());
    reseal(&mut image);
    let error = Image::open(image.into()).unwrap().walk().unwrap_err().to_string();
    assert!(error.contains("`e` is a directory with two names"), "{error}");
}

fn any_node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        4 => (0usize..9000, any::<u8>()).prop_map(|(n, b)| NodeKind::File(vec![b; n].into())),
        1 => "[a-z/.]{1,300}".prop_map(NodeKind::Symlink),
        1 => Just(NodeKind::Dir),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| NodeKind::BlockDevice { major, minor }),
        1 => Just(NodeKind::Fifo),
    ];
    let prefix = prop_oneof![Just("user."), Just("security."), Just("trusted.")];
    let xattrs = proptest::collection::btree_map(
        (prefix, "[a-z]{1,40}").prop_map(|(p, n)| format!("{p}{n}")),
        proptest::collection::vec(any::<u8>(), 0..600),
        0..3,
    );
    (kind, 0u32..0o10000, any::<u32>(), any::<i32>(), xattrs).prop_map(|(kind, mode, uid, mtime, xattrs)| {
        Node { kind, mode, uid: uid % 100_000, gid: uid, mtime: i64::from(mtime), xattrs }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back(nodes in proptest::collection::btree_map("[a-zé]{1,3}(/[a-z]{1,120}){0,3}", any_node(), 0..60)) {
        let mut tree = Tree::new();
        for (index, (name, node)) in nodes.into_iter().enumerate() {
            let _ = tree.insert(p(&name), node); // clashes of the generator are not what is tested
            if index % 5 == 0 && tree.file(&p(&name)).is_some() {
                let link = Node { kind: NodeKind::HardLink(p(&name)), ..Node::text("", 0) };
                tree.insert(p(&format!("links/{index}")), link).unwrap();
            }
        }
        assert_comes_back(&tree);
    }

    #[test]
    fn no_image_makes_the_reader_panic(noise in proptest::collection::vec((1024usize..9000, any::<u8>()), 1..30)) {
        let mut tree = Tree::new();
        for i in 0..30 {
            let mut node = Node::file(vec![i; usize::from(i) * 100], 0o644);
            node.xattrs.insert("user.x".into(), vec![i; 9]);
            tree.insert(p(&format!("d{}/{i}", i % 4)), node).unwrap();
        }
        let mut image = image_of(&tree).to_vec(1 << 20).unwrap();
        for (at, value) in noise {
            let at = at % image.len();
            image[at] = value;
        }
        reseal(&mut image);
        let _ = Image::open(image.into()).and_then(|i| i.walk());
    }
}
