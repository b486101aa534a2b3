//! Packages made on the spot: attributes, conflicts, diversions, and what a hostile package tries.

use super::super::deb::tests::{deb, tar_of};
use super::*;
use std::os::unix::fs::MetadataExt;

fn mine(node: Node) -> Node {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    node.owned(uid, gid)
}

fn package(rank: usize, name: &str, entries: &[(&str, Node)]) -> Source {
    let entries: Vec<(&str, Node)> = entries.iter().map(|(path, node)| (*path, mine(node.clone()))).collect();
    raw(rank, name, &tar_of(&entries))
}

fn raw(rank: usize, name: &str, data: &[u8]) -> Source {
    let control = ("control", Node::text(format!("Package: {name}\nVersion: 1\n"), 0o644));
    let bytes = deb(&[control], data);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let conffiles = BTreeSet::from([TreePath::parse("etc/conf").unwrap()]);
    let (_, control) = Deb::open(&bytes[..]).unwrap();
    Source {
        rank,
        name: name.into(),
        file,
        sha256: Digest::of(&bytes),
        control: Arc::new(control),
        data: None,
        conffiles,
    }
}

/// Unpacks into `tree` below a directory that is otherwise empty and must stay so.
fn unpack(
    sources: &[Source],
    rules: &Rules,
    replaces: Replaces<'_>,
) -> (tempfile::TempDir, anyhow::Result<Unpacked>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    let mut unpacker = Unpacker::new(File::open(&root).unwrap().into(), Epoch(1_000_000_000));
    let done = unpacker.unpack(sources, rules, replaces, 2, &Cancel::default());
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "something was written outside of the tree"
    );
    (dir, done)
}

fn refusal(sources: &[Source]) -> String {
    format!("{:#}", unpack(sources, &Rules::default(), &|_, _| false).1.unwrap_err())
}

fn entry(name: &[u8], kind: tar::EntryType, link: &[u8]) -> Vec<u8> {
    let mut h = tar::Header::new_ustar();
    h.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
    h.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
    h.set_entry_type(kind);
    h.set_mode(0o644);
    h.set_uid(u64::from(rustix::process::getuid().as_raw()));
    h.set_gid(u64::from(rustix::process::getgid().as_raw()));
    h.set_mtime(0);
    h.set_size(0);
    h.set_cksum();
    h.as_bytes().to_vec()
}

#[test]
fn modes_times_links_and_conffiles() {
    let mut old = Node::text("x", 0o4750);
    old.mtime = 5;
    let entries = [
        ("usr/bin/tool", old.clone()),
        ("usr/bin/z", Node { kind: NodeKind::HardLink(TreePath::parse("usr/bin/tool").unwrap()), ..old }),
        ("etc/conf", Node::text("c", 0o600)),
        ("usr/share", Node::dir(0o2775)),
        ("link", Node::symlink("/usr")),
    ];
    let (dir, done) = unpack(&[package(0, "a", &entries)], &Rules::default(), &|_, _| false);
    assert!(done.unwrap().lists[&0].contains(&TreePath::parse("etc/conf").unwrap()));
    let stat = |s: &str| std::fs::symlink_metadata(dir.path().join("tree").join(s)).unwrap();
    let tool = stat("usr/bin/tool");
    assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o4750, 5, 2));
    assert_eq!(stat("etc/conf.dpkg-new").mode() & 0o7777, 0o600);
    assert_eq!(stat("usr/share").mode() & 0o7777, 0o2775);
    assert!(stat("link").is_symlink());
}

#[test]
fn a_file_of_two_packages_needs_replaces() {
    let two = || {
        [package(0, "a", &[("f", Node::text("a", 0o644))]), package(1, "b", &[("f", Node::text("b", 0o644))])]
    };
    let said = refusal(&two());
    assert!(said.contains("`/f` is also in") && said.contains('a') && said.contains('b'), "{said}");
    for winner in [0, 1] {
        let (dir, done) = unpack(&two(), &Rules::default(), &|x, _| x == winner);
        done.unwrap();
        assert_eq!(std::fs::read(dir.path().join("tree/f")).unwrap(), [b"a", b"b"][winner]);
    }
}

#[test]
fn diversions_and_statoverrides() {
    let rules = Rules::parse("/f\n/f.real\nb\n", "#0 #0 750 /d\n", "", "").unwrap();
    let mut rules = rules;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    rules.overrides.values_mut().for_each(|o| (o.0, o.1) = (uid, gid));
    let two = [
        package(0, "a", &[("f", Node::text("a", 0o644)), ("d", Node::dir(0o755))]),
        package(1, "b", &[("f", Node::text("b", 0o644))]),
    ];
    let (dir, done) = unpack(&two, &rules, &|_, _| false);
    done.unwrap();
    let read = |s: &str| std::fs::read(dir.path().join("tree").join(s)).unwrap();
    assert_eq!((read("f"), read("f.real")), (b"b".to_vec(), b"a".to_vec()));
    assert_eq!(std::fs::metadata(dir.path().join("tree/d")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn escapes_devices_and_swaps_are_refused_or_stay_inside() {
    use tar::EntryType::*;
    let disk = NodeKind::BlockDevice { major: 8, minor: 0 };
    let device = tar_of(&[
        ("dev/sda", mine(Node { kind: disk, ..Node::dir(0o660) })),
        ("dev", mine(Node::dir(0o755))),
    ]);
    for (says, data) in [
        ("`..`", entry(b"../../x", Regular, b"")),
        ("is a device", device),
        ("which the package has not", entry(b"passwd", Link, b"/etc/passwd")),
        ("`..`", entry(b"passwd", Link, b"../../etc/passwd")),
        ("checksum", vec![b'x'; 512]),
    ] {
        let said = refusal(&[raw(0, "evil", &data)]);
        assert!(said.contains(says) && said.contains("evil"), "{says}: {said}");
    }
    // A link to the outside, and a file through it: it leads to a directory of that name inside, or nowhere.
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for link in [target, "../../../../../../../.."] {
        let swap = [entry(b"dir", Symlink, link.as_bytes()), entry(b"dir/file", Regular, b"")].concat();
        let _ = unpack(&[raw(0, "evil", &swap)], &Rules::default(), &|_, _| false);
        let later = [
            package(0, "evil", &[("dir", Node::symlink(link))]),
            raw(1, "b", &entry(b"dir/file", Regular, b"")),
        ];
        let _ = unpack(&later, &Rules::default(), &|_, _| false);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_package_that_changed_since_it_was_locked_is_refused() {
    for ahead in [false, true] {
        let mut source = package(0, "a", &[("f", Node::text("a", 0o644))]);
        source.sha256 = Digest::of("another");
        let error = match ahead {
            false => unpack(&[source], &Rules::default(), &|_, _| false).1.unwrap_err(),
            true => in_advance(source, true).1.unwrap_err(),
        };
        assert_eq!(crate::error::kind(&error), crate::error::Kind::Verify);
    }
}

#[test]
fn control_information_that_was_another_when_the_work_was_planned_is_refused() {
    for ahead in [false, true] {
        let mut source = package(0, "a", &[("f", Node::text("a", 0o644))]);
        Arc::make_mut(&mut source.control).text.push_str("Essential: yes\n");
        let error = match ahead {
            false => unpack(&[source], &Rules::default(), &|_, _| false).1.unwrap_err(),
            true => in_advance(source, true).1.unwrap_err(),
        };
        assert!(format!("{error:#}").contains("changed while it was read"), "{error:#}");
    }
}

fn in_advance(mut source: Source, parallel: bool) -> (Source, anyhow::Result<()>) {
    let dir = tempfile::tempdir().unwrap();
    let copy = Source {
        rank: source.rank,
        name: source.name.clone(),
        file: source.file.try_clone().unwrap(),
        sha256: source.sha256,
        control: source.control.clone(),
        data: None,
        conffiles: source.conffiles.clone(),
    };
    let mut ahead = Ahead::start(dir.path(), vec![copy], parallel).unwrap();
    let done = ahead.finish(&mut source);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a name is left");
    (source, done)
}

#[test]
fn decompressed_ahead_or_not_a_package_is_the_same() {
    for parallel in [false, true] {
        let source =
            package(0, "a", &[("d/f", Node::text("text", 0o644)), ("etc/conf", Node::text("c", 0o600))]);
        let (source, done) = in_advance(source, parallel);
        done.unwrap();
        let (dir, done) = unpack(&[source], &Rules::default(), &|_, _| false);
        assert!(done.unwrap().lists[&0].contains(&TreePath::parse("d/f").unwrap()));
        assert_eq!(std::fs::read(dir.path().join("tree/d/f")).unwrap(), b"text");
        assert!(dir.path().join("tree/etc/conf.dpkg-new").exists());
    }
}
