//! Packages of charts, right and hostile, and indexes.

use super::*;
use crate::model::Epoch;
use crate::tree::{Node as TreeNode, Tree, TreePath, tar};
use std::num::NonZero;

fn package(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tree = Tree::new();
    for (path, text) in files {
        let path = TreePath::parse(&format!("broker/{path}")).unwrap();
        tree.insert(path, TreeNode::text(*text, 0o644)).unwrap();
    }
    let mut bytes = vec![];
    let written = tar::write(&tree, Epoch(0), &mut bytes).unwrap();
    let mut out = vec![];
    let threads = NonZero::<u32>::MIN;
    oci::layer::compress(&bytes[..], written, &mut out, oci::layer::Codec::Gzip, threads).unwrap();
    out
}

const CHART: &str = "apiVersion: v2\nname: broker\nversion: 2.2.29\nappVersion: \"5.8\"\n";
const VALUES: &str = "image:\n  repository: emqx/operator\n  tag: \"\"\nmetrics: {image: {registry: quay.example, repository: m, tag: v1}}\n\
                      sidecar:\n  image: busybox:1\ngit: {repository: some/where}\n";

fn names(chart: &Chart) -> Vec<String> {
    chart.images.iter().map(ToString::to_string).collect()
}

#[test]
fn images_are_found_in_values_as_helm_merges_them() {
    let template =
        "spec:\n  containers:\n  - image: {{ .Values.image }}\n  - image: \"a.example/init:3\" # fixed\n";
    let chart = read(
        &package(&[("Chart.yaml", CHART), ("values.yaml", VALUES), ("templates/x.yaml", template)]),
        b"image: {tag: \"5.9\"}\nsidecar: {image: busybox:2}\n",
    )
    .unwrap();
    let expected = [
        "a.example/init:3",
        "docker.io/emqx/operator:5.9",
        "docker.io/library/busybox:2",
        "quay.example/m:v1",
    ];
    assert_eq!(names(&chart), expected);
    assert_eq!((chart.version.as_str(), chart.images_from), ("2.2.29", vec!["values", "templates"]));
    let plain = read(&package(&[("Chart.yaml", CHART), ("values.yaml", VALUES)]), b"").unwrap();
    assert!(names(&plain).contains(&"docker.io/emqx/operator:5.8".into()), "the app's version: {plain:?}");
}

#[test]
fn the_authors_own_list_is_taken_alone() {
    let chart = format!(
        "{CHART}annotations:\n  artifacthub.io/images: |\n    - name: op\n      image: a.example/op:1\n"
    );
    let read = read(&package(&[("Chart.yaml", &chart), ("values.yaml", VALUES)]), b"").unwrap();
    assert_eq!((names(&read), read.images_from), (vec!["a.example/op:1".to_string()], vec!["annotations"]));
}

#[test]
fn what_is_no_chart_is_refused() {
    let told = |package: &[u8], values: &[u8]| read(package, values).unwrap_err().to_string();
    assert_eq!(told(&package(&[("values.yaml", "")]), b""), "it has no Chart.yaml");
    assert!(told(&package(&[("Chart.yaml", "name: x\n")]), b"").contains("it has no `version`"));
    assert!(told(&package(&[("Chart.yaml", CHART)]), b"a: [").starts_with("the profile's values: "));
    assert!(told(b"no gzip", b"").starts_with("its archive:"));
    let whole = package(&[("Chart.yaml", CHART)]);
    assert!(told(&whole[..whole.len() / 2], b"").starts_with("its archive:"));
    assert!(told(&vec![0; (MAX_PACKAGE + 1) as usize], b"").contains("more than the 1048576"));
    let bomb = "0".repeat((MAX_UNPACKED + 1) as usize);
    assert!(matches!(read(&package(&[("Chart.yaml", CHART), ("x", &bomb)]), b""), Err(BadChart::Bomb)));
}

#[test]
fn an_index_says_where_a_version_is() {
    let digest = Digest::of("x");
    let index = format!(
        "apiVersion: v1\nentries:\n  broker:\n  - {{version: 2.3.0, urls: [b-2.3.0.tgz]}}\n  - version: 2.2.29\n    digest: {}\n    \
         urls: [\"https://charts.example/broker-2.2.29.tgz\"]\n",
        digest.hex()
    );
    let entry = listed(index.as_bytes(), "broker", "2.2.29").unwrap();
    assert_eq!(entry, Entry { url: "https://charts.example/broker-2.2.29.tgz".into(), digest: Some(digest) });
    assert_eq!(listed(index.as_bytes(), "broker", "2.3.0").unwrap().digest, None);
    for (name, version, told) in
        [("none", "1.0.0", "no chart `none`"), ("broker", "9.9.9", "its newest are 2.3.0, 2.2.29")]
    {
        let fault = listed(index.as_bytes(), name, version).unwrap_err().to_string();
        assert!(fault.contains(told), "{fault}");
    }
}

#[test]
fn a_version_is_a_tag() {
    for (reference, version, tagged_as) in [
        ("r.example:5000/c/b", Some("1.0.0+2"), "r.example:5000/c/b:1.0.0_2"),
        ("r.example/c/b:1", Some("1.0.0"), "r.example/c/b:1"),
        ("r.example/c/b", None, "r.example/c/b"),
    ] {
        assert_eq!(tagged(reference, version), tagged_as);
    }
}

#[test]
fn the_object_holds_package_and_values() {
    let text = object("broker", "mqtt", b"package", "image: {tag: x}\n");
    let documents = yaml::parse(&text).unwrap();
    let spec = documents[0].get("spec").unwrap();
    assert_eq!(spec.get("chartContent").and_then(Node::text), Some("cGFja2FnZQ=="));
    assert_eq!(spec.get("valuesContent").and_then(Node::text), Some("image: {tag: x}\n"));
    assert_eq!(spec.get("targetNamespace").and_then(Node::text), Some("mqtt"));
}
