//! What the two trees hold, and what is refused.

use super::*;
use crate::layer::workload::manifest;

fn workload(name: &str, files: &[(&str, &str)]) -> Workload {
    let manifests = files
        .iter()
        .map(|(file, text)| {
            let bytes = text.as_bytes();
            (manifest::parse(file, bytes).unwrap(), Content::from(bytes.to_vec()))
        })
        .collect();
    Workload { name: name.into(), required: true, manifests }
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "kind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: web\n    image: web:1\n{more}"
    )
}

#[test]
fn a_workload_changes_the_payload_only() {
    let text = pod(
        "pos",
        "    livenessProbe: {exec: {command: [x]}}\n    ports: [{containerPort: 8, hostPort: 80}]\n",
    );
    let tree =
        payload_tree(&[workload("point-of-sale", &[("pos.yaml", text.trim_end())])], Tree::new()).unwrap();
    let read = |path: &str| {
        let path = TreePath::parse(path).unwrap();
        String::from_utf8(tree.file(&path).unwrap().to_vec(4096).unwrap()).unwrap()
    };
    assert_eq!(read("workloads/point-of-sale/manifest.yaml"), format!("---\n{text}"));
    assert_eq!(read("workloads/point-of-sale/containers"), "pos-web healthy\n");
    assert_eq!(read("host-ports"), "80/tcp\n");
    for link in [
        "units/forge-workloads.target.wants/forge-workload@point-of-sale.service",
        "units/forge-required-workloads.target.requires/forge-workload-ready@point-of-sale.service",
    ] {
        assert!(tree.get(&TreePath::parse(link).unwrap()).is_some(), "{link}");
    }
}

#[test]
fn unit_links_lead_to_units() {
    let os = os_tree(true).unwrap();
    let payload = payload_tree(&[workload("pos", &[("pos.yaml", &pod("pos", ""))])], Tree::new()).unwrap();
    let mut device = os.clone();
    device.graft(&TreePath::parse(PAYLOAD).unwrap(), payload).unwrap();
    for (path, node) in device.iter() {
        if let crate::tree::NodeKind::Symlink(target) = &node.kind {
            assert!(device.resolve(path).is_some(), "{path} -> {target}");
        }
    }
}

#[test]
fn without_images_podman_looks_for_no_store() {
    for (has_images, there) in [(true, true), (false, false)] {
        let tree = os_tree(has_images).unwrap();
        let path = TreePath::parse("etc/containers/storage.conf").unwrap();
        let text = String::from_utf8(tree.file(&path).unwrap().to_vec(4096).unwrap()).unwrap();
        assert_eq!(text.contains(&format!("{PAYLOAD}/{IMAGES}")), there);
    }
}

#[test]
fn what_podman_cannot_run_is_named_with_its_line() {
    let deployment = |more: &str| {
        format!(
            "kind: Deployment\nmetadata: {{name: d}}\nspec:\n{more}  template: {{spec: {{containers: [{{name: c, image: c:1}}]}}}}\n"
        )
    };
    let ports = "    ports: [{containerPort: 80, hostPort: 80}]\n";
    for (files, told) in [
        (
            vec![("a.yaml", pod("a", "") + "---\nkind: Service\nmetadata: {name: s}\n")],
            "a.yaml:8:1: document 2: Podman does not run kind `Service` (`s`)",
        ),
        (
            vec![("a.yaml", pod("a", "") + "---\nkind: Secret\nmetadata: {name: s}\n")],
            "a.yaml:8:1: document 2: Podman does not run kind `Secret` (`s`)",
        ),
        (vec![("a.yaml", deployment("  replicas: 3\n"))], "a.yaml:4:13: Podman runs one replica, not 3"),
        (
            vec![("a.yaml", "kind: ConfigMap\nmetadata: {name: c}\n".into())],
            "a.yaml:1:1: workload `w` has neither a Pod nor a Deployment",
        ),
        (
            vec![("a.yaml", pod("a", "    imagePullPolicy: Always\n"))],
            "a.yaml:6:12: `web:1` would be looked for in its registry at each start",
        ),
        (
            vec![("a.yaml", pod("a", "").replace("web:1", "quay.example/web"))],
            "a.yaml:6:12: `quay.example/web` would be looked for in its registry at each start",
        ),
        (
            vec![("a.yaml", pod("d-pod", "")), ("b.yaml", deployment(""))],
            "b.yaml:1:1: the pod `d-pod` is also made at a.yaml:1",
        ),
        (
            vec![("a.yaml", pod("a", ports)), ("b.yaml", pod("b", ports))],
            "b.yaml:7:43: host port 80/tcp is also taken at a.yaml:7",
        ),
    ] {
        let files: Vec<_> = files.iter().map(|(file, text)| (*file, text.as_str())).collect();
        let faults: Vec<_> = check(&[workload("w", &files)]).iter().map(ToString::to_string).collect();
        assert_eq!(faults, [told]);
    }
    let good = pod("a", ports) + "---\n" + &deployment("  replicas: 1\n");
    assert_eq!(check(&[workload("w", &[("a.yaml", &good)])]), []);
}

#[test]
fn a_directory_of_the_read_only_root_cannot_be_made() {
    let volumes = |path: &str| {
        let more =
            format!("  volumes:\n  - {{name: v, hostPath: {{path: {path}, type: DirectoryOrCreate}}}}\n");
        check(&[workload("pos", &[("pos.yaml", &pod("pos", &more))])])
    };
    assert_eq!(volumes("/var/lib/sales"), []);
    let faults = volumes("/usr/share/sales");
    assert_eq!(faults[0].to_string(), "pos.yaml:8:32: `/usr/share/sales` cannot be made on the device");
}
