use super::*;
use crate::model::Epoch;
use crate::tree::{Content, Node, Tree, TreePath};
use proptest::prelude::*;
use std::fs::File;
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1_795_305_600);

fn p(s: &str) -> TreePath {
    TreePath::parse(s).unwrap()
}

fn spec(size: u64, fat32: bool) -> FatSpec {
    FatSpec {
        size,
        fat32,
        label: "FORGEENROLL".into(),
        volume_id: 0x1234_abcd,
        hidden: 1 << 20,
        epoch: EPOCH,
    }
}

fn tree() -> Tree {
    let mut tree = Tree::new();
    for (path, length) in [
        ("EFI/BOOT/BOOTX64.EFI", 70_000),
        ("EFI/Linux/site_2026.11.22+3.efi", 300_001),
        ("EFI/Linux/site_2026.11.23+3.efi", 512),
        ("loader/loader.conf", 10),
        ("loader/empty", 0),
        ("größe.txt", 3),
    ] {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 253) as u8).collect();
        tree.insert(p(path), Node::file(bytes, 0o644)).unwrap();
    }
    for i in 0..60 {
        tree.insert(p(&format!("many/a file with number {i}")), Node::text("x", 0o644)).unwrap();
    }
    tree
}

fn written(tree: &Tree, spec: &FatSpec) -> Vec<u8> {
    let out: File = tempfile::tempfile().unwrap();
    out.set_len(spec.size).unwrap();
    write(tree, spec, &out, 0).unwrap();
    Content::of_file(Arc::new(out)).unwrap().to_vec(u64::MAX).unwrap()
}

#[test]
fn what_is_written_is_read() {
    for (size, fat32) in [(8 << 20, false), (40 << 20, true)] {
        let volume = read(&written(&tree(), &spec(size, fat32)).into()).unwrap();
        assert_eq!(volume.spec, spec(size, fat32));
        let wanted = tree();
        let names = |t: &Tree| t.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&volume.tree), names(&wanted));
        for (path, _) in wanted.iter() {
            let bytes = |t: &Tree| t.file(path).map(|c| c.to_vec(1 << 20).unwrap());
            assert_eq!(bytes(&volume.tree), bytes(&wanted), "{path}");
        }
    }
    let empty = read(&written(&Tree::new(), &spec(4 << 20, false)).into()).unwrap();
    assert!(empty.tree.is_empty());
}

#[test]
fn one_flipped_byte_outside_the_files_is_refused() {
    let spec = spec(4 << 20, false);
    let mut tree = Tree::new();
    tree.insert(p("dir/a long name"), Node::file(vec![7; 3000], 0o644)).unwrap();
    let good = written(&tree, &spec);
    let volume = read(&good.clone().into()).unwrap();
    let at = good.windows(3000).position(|w| w == [7; 3000]).unwrap();
    let id = 36 + 3; // the volume ID: the partition's UUID vouches for it
    let sampled = (1200..40_000).step_by(53).chain((40_000..good.len()).step_by(49_999));
    let interesting = (0..1200).chain(sampled).chain([good.len() - 1]);
    for i in interesting.filter(|i| !(at..at + 3000).contains(i) && !(id..id + 4).contains(i)) {
        let mut bad = good.clone();
        bad[i] ^= 1;
        match read(&bad.into()) {
            Err(_) => {}
            // The bytes before the volume are checked by whoever knows the partition.
            Ok(other) => assert_ne!(other.spec.hidden, volume.spec.hidden, "byte {i}"),
        }
    }
}

#[test]
fn what_fat_cannot_hold_is_refused() {
    let out = tempfile::tempfile().unwrap();
    for (paths, why) in
        [(vec!["A", "a"], "by case only"), (vec!["a:b"], "FAT forbids"), (vec!["a."], "Windows drops")]
    {
        let mut tree = Tree::new();
        for path in paths {
            tree.insert(p(path), Node::text("", 0o644)).unwrap();
        }
        let error = write(&tree, &spec(4 << 20, false), &out, 0).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(why), "{source}");
    }
    let mut tree = Tree::new();
    tree.insert(p("link"), Node::symlink("x")).unwrap();
    assert!(matches!(write(&tree, &spec(4 << 20, false), &out, 0), Err(WriteError::Unfit { .. })));
    let mut tree = Tree::new();
    tree.insert(p("big"), Node::file(vec![0; 5 << 20], 0o644)).unwrap();
    assert!(matches!(write(&tree, &spec(4 << 20, false), &out, 0), Err(WriteError::Full { .. })));
    assert!(matches!(write(&tree, &spec(1 << 20, true), &out, 0), Err(WriteError::Size { .. })));
}

#[test]
fn times_are_kept_to_two_seconds() {
    let (date, time) = dos_time(Epoch(1_795_373_283));
    assert_eq!(epoch_of(date, time), Some(Epoch(1_795_373_282)));
    assert_eq!(dos_time(Epoch(0)), (0x21, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back(files in proptest::collection::btree_map("[A-Za-zé~]{1,14}(\\.[a-zA-Z]{1,4})?(/[a-z0-9 +]{0,30}[a-z]){0,2}", (0usize..6000, any::<u8>()), 0..50)) {
        let mut tree = Tree::new();
        for (name, (length, byte)) in files {
            let _ = tree.insert(p(&name), Node::file(vec![byte; length], 0o644)); // clashes of the generator
        }
        let out = tempfile::tempfile().unwrap();
        let spec = spec(4 << 20, false);
        out.set_len(spec.size).unwrap();
        match write(&tree, &spec, &out, 0) {
            Err(WriteError::Name { .. }) => return Ok(()), // case clashes and leading spaces of the generator
            written => written.unwrap(),
        }
        let volume = read(&Content::of_file(Arc::new(out)).unwrap()).unwrap();
        let list = |t: &Tree| t.iter().map(|(p, _)| (p.clone(), t.file(p).map(|c| c.to_vec(1 << 20).unwrap()))).collect::<Vec<_>>();
        prop_assert_eq!(list(&volume.tree), list(&tree));
    }

    #[test]
    fn no_volume_makes_the_reader_panic(noise in proptest::collection::vec((0usize..60_000, any::<u8>()), 1..12)) {
        let mut image = written(&tree(), &spec(4 << 20, false));
        for (at, value) in noise {
            image[at] = value;
        }
        let _ = read(&image.into());
    }
}
