//! What images the containers of a profile become.

use super::*;
use crate::layer::workload::store::store_tree;

const EPOCH: Epoch = Epoch(1_763_769_600);

fn p(s: &str) -> TreePath {
    TreePath::parse(s).unwrap()
}

/// A merged-usr root with one program, one user and a directory of that user's.
fn packages() -> Tree {
    let mut tree = Tree::new();
    for (path, node) in [
        ("usr/sbin/nginx", Node::text("#!", 0o755)),
        ("usr/lib/data", Node::text("x", 0o644)),
        ("bin", Node::symlink("usr/bin")),
        ("usr/bin/sh", Node::text("#!", 0o755)),
        ("void", Node::symlink("/nowhere")),
        ("etc/passwd", Node::text("www-data:x:33:33:::\n", 0o644)),
        ("var/www", Node::dir(0o2750).owned(33, 33)),
    ] {
        tree.insert(p(path), node).unwrap();
    }
    tree
}

fn spec(files: &[&str]) -> Spec {
    Spec {
        name: "till-web:1".parse().unwrap(),
        files: files
            .iter()
            .map(|path| File { path: p(path), content: b"hello".to_vec().into(), mode: 0o644 })
            .collect(),
        command: ["nginx", "-g", "daemon off;"].map(String::from).to_vec(),
        user: Some("www-data".into()),
        ports: vec!["8080".parse().unwrap()],
        env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
        labels: BTreeMap::new(),
    }
}

#[test]
fn a_container_says_what_it_runs_and_as_whom() {
    let image = image(&spec(&["var/www/index.html"]), packages(), Arch::Amd64, EPOCH).unwrap();
    let config: Value = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(
        config["config"],
        json!({
            "Entrypoint": ["nginx", "-g", "daemon off;"],
            "Env": [format!("PATH={PATH}"), "LANG=C.UTF-8"],
            "ExposedPorts": { "8080/tcp": {} },
            "User": "33:33",
        })
    );
    assert_eq!(image.names[0].to_string(), "localhost/till-web:1");
    store_tree(&[image], EPOCH).unwrap();
}

#[test]
fn an_edited_file_rewrites_only_the_small_layer() {
    let before = image(&spec(&["var/www/index.html"]), packages(), Arch::Amd64, EPOCH).unwrap();
    let mut edited = spec(&["var/www/index.html"]);
    edited.files[0].content = b"other".to_vec().into();
    let after = image(&edited, packages(), Arch::Amd64, EPOCH).unwrap();
    assert_eq!(before.layers[0].diff_id, after.layers[0].diff_id);
    assert_ne!(before.layers[1].diff_id, after.layers[1].diff_id);
    assert!(after.layers[1].length < 10 * 1024);
}

#[test]
fn files_keep_the_directories_of_the_packages() {
    let image = image(&spec(&["var/www/a", "bin/tool"]), packages(), Arch::Amd64, EPOCH).unwrap();
    let files = &image.layers[1].tree;
    let dir = files.get(&p("var/www")).unwrap();
    assert_eq!((dir.mode, dir.uid), (0o2750, 33), "an upper directory's attributes win");
    assert!(files.get(&p("usr/bin/tool")).is_some());
    assert!(files.get(&p("bin")).is_none(), "a directory would hide the link and every program behind it");
}

#[test]
fn what_cannot_run_is_refused() {
    let with = |change: fn(&mut Spec)| {
        let mut spec = spec(&[]);
        change(&mut spec);
        image(&spec, packages(), Arch::Amd64, EPOCH).unwrap_err().fault
    };
    assert!(matches!(with(|s| s.command.clear()), ContainerFault::NoCommand));
    for program in ["apache2", "/usr/lib/data", "/usr/sbin", ""] {
        let mut spec = spec(&[]);
        spec.command = vec![program.into()];
        let fault = image(&spec, packages(), Arch::Amd64, EPOCH).unwrap_err().fault;
        assert!(matches!(fault, ContainerFault::NoProgram(_)), "{program}");
    }
    assert!(matches!(with(|s| s.user = Some("nginx".into())), ContainerFault::User(_)));
    assert!(matches!(with(|s| drop(s.env.insert("A=B".into(), String::new()))), ContainerFault::Env(_)));
    let fault = image(&spec(&["void/x"]), packages(), Arch::Amd64, EPOCH).unwrap_err().fault;
    assert!(matches!(fault, ContainerFault::DanglingLink { .. }));
    let fault = image(&spec(&["etc/passwd/x"]), packages(), Arch::Amd64, EPOCH).unwrap_err().fault;
    assert!(matches!(fault, ContainerFault::Tree(_)), "{fault}");
    let fault = image(&spec(&["var/www"]), packages(), Arch::Amd64, EPOCH).unwrap_err().fault;
    assert!(matches!(fault, ContainerFault::Tree(_)), "{fault}");
}

#[test]
fn a_program_alone_is_an_image() {
    let image = program_image(
        "localhost/pause:1".parse().unwrap(),
        p("program"),
        b"\x7fELF".to_vec().into(),
        &["-P"],
        Arch::Arm64,
        EPOCH,
    )
    .unwrap();
    assert_eq!(image.layers.len(), 1);
    assert_eq!(image.layers[0].tree.get(&p("program")).unwrap().mode, 0o755);
}

#[test]
fn ports_are_numbers_with_a_protocol() {
    assert_eq!("53/udp".parse::<Port>().unwrap().to_string(), "53/udp");
    for bad in ["0", "65536", "http", "80/quic", ""] {
        assert!(bad.parse::<Port>().is_err(), "{bad}");
    }
}
