//! KubeEdge: a release's EdgeCore, Debian's containerd, and a profile's configuration → a tree.
//!
//! EdgeCore reads one file, in which what belongs to every device of the image meets what belongs to this one:
//!
//! ```text
//! /etc/kubeedge/config/edgecore.yaml     forge's, with the profile's `[agent] config` over it
//! /etc/kubeedge/config/50-forge.json     the grant's: node name, labels, CloudCore's addresses
//! /run/kubeedge/edgecore.yaml            the second merged over the first, before each start (RFC 7396)
//! /etc/kubeedge/ca, /etc/kubeedge/certs  the grant's, too
//! /usr/lib/forge/payload/archives/       images of pause and workloads, imported into containerd once, and then pinned
//! ```
//!
//! No token is in an image or on a device: with CloudCore's, whoever has it can be any node for a day. The fleet has the
//! device's certificate made, and makes it anew; EdgeCore's own rotation, which writes its files where a power cut can
//! empty them, is off.
//!
//! Written for KubeEdge 1.20 to 1.23 (`edgecore.config.kubeedge.io/v1alpha2`) and containerd 1.7 (Debian trixie).

use crate::layer::kubernetes::cluster::{ARCHIVES, Start};
use crate::layer::workload::Workload;
use crate::layer::workload::manifest::Fault;
use crate::model::{Arch, Digest};
use crate::template::{cluster, kubeedge as template};
use crate::tree::{BadPath, Content, Node, Tree, TreeError, TreePath};
use serde::Serialize as _;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::io;

/// Debian packages that EdgeCore needs, without their recommendations. `dbus`: the cgroups of pods are systemd's.
/// `iptables` is called by CNI's bridge, `conntrack` by what it publishes ports with.
pub const PACKAGES: &[&str] = &[
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "dbus",
    "iproute2",
    "iptables",
    "kmod",
    "runc",
];

/// Where the release's archive has the program.
pub fn program_in_release(version: &str, arch: Arch) -> String {
    format!("kubeedge-{version}-linux-{arch}/edge/edgecore")
}

const SYSTEM: &str = "usr/lib/systemd/system";
const UNIT: &str = "edgecore.service";

/// EdgeCore on a device.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The release's version: EdgeCore rewrites a configuration that says another.
    pub version: String,
    /// What a start waits for.
    pub start: Start,
    /// The program.
    pub program: Content,
    /// The image that holds a pod's namespaces. It must be among those carried.
    pub pause: String,
    /// The node's name, where no grant says another.
    pub node_name: String,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The profile's own configuration; keys with points are paths.
    pub config: BTreeMap<String, Json>,
}

/// Trees that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeedgeError {
    /// A name that cannot be a file's.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Two things of one name.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An archive that cannot be read.
    #[error("reading an archive of images: {0}")]
    Io(#[from] io::Error),
}

/// The tree, which is of the root partition: configuration and units that no workload changes.
///
/// # Errors
/// None in practice: every path is known here.
pub fn tree(spec: &Spec) -> Result<Tree, KubeedgeError> {
    let mut tree = Tree::new();
    let mut put =
        |path: &str, node: Node| tree.insert(TreePath::parse(path)?, node).map_err(KubeedgeError::from);
    put("usr/local/bin/edgecore", Node::file(spec.program.clone(), 0o755))?;
    // Readable by root alone, as the granted file that it is merged with.
    put("etc/kubeedge/config/edgecore.yaml", Node::text(edgecore_yaml(spec), 0o600))?;
    put("usr/lib/forge/payload", Node::dir(0o755))?;
    put("usr/lib/forge/edge-images", Node::text(template::PROGRAM, 0o755))?;
    for (path, text) in template::FILES {
        put(path, Node::text(text.replace("@PAUSE@", &spec.pause), 0o644))?;
    }
    for (path, text) in cluster::FILES {
        put(path, Node::text(*text, 0o644))?;
    }
    put(
        &format!("{SYSTEM}/{UNIT}"),
        Node::text(template::SERVICE.replace("@VERSION@", &spec.version), 0o644),
    )?;
    let (drop_in, text, wanted_by) = match spec.start {
        Start::Boot => ("50-forge-by-hand.conf", template::BY_HAND, "multi-user.target"),
        Start::Granted => ("50-forge-grant.conf", template::GRANTED, "forge-device.target"),
    };
    put(&format!("{SYSTEM}/{UNIT}.d/{drop_in}"), Node::text(text, 0o644))?;
    for (target, unit) in [
        (wanted_by, UNIT),
        ("multi-user.target", "containerd.service"),
        ("multi-user.target", "forge-edge-images.service"),
    ] {
        put(&format!("{SYSTEM}/{target}.wants/{unit}"), Node::symlink(format!("../{unit}")))?;
    }
    Ok(tree)
}

/// The payload side: an archive of images, and the list of what is in it. Manifests are not there: the cluster has them, and
/// says what runs where.
///
/// # Errors
/// [`KubeedgeError::Io`] for an archive that cannot be read.
pub fn payload_tree(archive: Content, list: String) -> Result<Tree, KubeedgeError> {
    let (digest, _) = Digest::of_reader(archive.reader())?;
    let name = format!("{ARCHIVES}/{}-workloads", &digest.hex()[..12]); // as a cluster's, whose archives have such names, too
    let mut tree = Tree::new();
    tree.insert(TreePath::parse(&format!("{name}.tar"))?, Node::file(archive, 0o644))?;
    tree.insert(TreePath::parse(&format!("{name}.images"))?, Node::text(list, 0o644))?;
    Ok(tree)
}

/// Pods that would not start again without the cloud, by file and place.
///
/// A container's token for the cluster's API is what EdgeCore asks CloudCore for before it starts a pod: it keeps one for
/// four fifths of its hour, throws it away then, and without it the pod's volume is never ready. So a pod says whether it
/// has a use for one. Images are carried, and a policy that has them looked for in a registry is as good as a link that is
/// always there. KubeEdge 1.22: `edge/pkg/metamanager/client/serviceaccount.go`.
pub fn check(workloads: &[Workload]) -> Vec<Fault> {
    let manifests = workloads.iter().flat_map(|w| &w.manifests).map(|(manifest, _)| manifest);
    let mut faults = vec![];
    for manifest in manifests {
        let mut at = |place, message: String, hint: &str| {
            faults.push(Fault { file: manifest.file.clone(), place, message, hint: Some(hint.into()) });
        };
        for (object, pod) in manifest.pods() {
            if pod.token.is_none() {
                let message = format!(
                    "{} `{}` gets a token for the cluster's API, and does not start without the cloud",
                    object.kind, object.name
                );
                let hint = "write `automountServiceAccountToken: false` into the pod's specification; `true`, if it needs one";
                at(pod.place, message, hint);
            }
        }
        for image in manifest.images() {
            // What the API server writes where a manifest does not.
            let moving = image.name.digest().is_none() && image.name.tag().is_none_or(|tag| tag == "latest");
            if image.pull_policy.as_deref().map_or(moving, |policy| policy == "Always") {
                let message = format!("`{}` is looked for in a registry at every start", image.written);
                at(image.place, message, "the image is on the box: write `imagePullPolicy: Never` beside it");
            }
        }
    }
    faults.sort();
    faults
}

/// The configuration as JSON in lines, which is YAML: two readers of it, and one of them knows no YAML.
fn edgecore_yaml(spec: &Spec) -> String {
    let mut config = generated(spec);
    merge(&mut config, nested(&spec.config));
    let mut text = vec![];
    let mut writer =
        serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::new());
    // Plain data with string keys serialises.
    let _ = config.serialize(&mut writer);
    text.push(b'\n');
    String::from_utf8(text).unwrap_or_default()
}

/// What differs from EdgeCore's own defaults, over which it reads the file.
fn generated(spec: &Spec) -> Json {
    const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";
    json!({
        "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
        "kind": "EdgeCore",
        "edgecoreVersion": spec.version,
        "modules": {
            "edged": {
                "hostnameOverride": spec.node_name,
                "nodeLabels": spec.labels,
                "podSandboxImage": spec.pause,
                "tailoredKubeletConfig": {
                    // Its default is cgroupfs, which is not what containerd and systemd agree on.
                    "cgroupDriver": "systemd",
                    "containerRuntimeEndpoint": CONTAINERD,
                    "imageServiceEndpoint": CONTAINERD,
                    // The stub that /etc/resolv.conf names answers nobody in a pod.
                    "resolvConf": "/run/systemd/resolve/resolv.conf",
                },
            },
            "edgeHub": {
                "rotateCertificates": false,
                "tlsCaFile": "/etc/kubeedge/ca/rootCA.crt",
                "tlsCertFile": "/etc/kubeedge/certs/server.crt",
                "tlsPrivateKeyFile": "/etc/kubeedge/certs/server.key",
            },
            // Where a profile brings a broker, it says so.
            "eventBus": { "enable": false },
        },
    })
}

/// `{"a.b": 1}` → `{"a": {"b": 1}}`, at the top alone: below, a point belongs to a name, as in a label's.
fn nested(config: &BTreeMap<String, Json>) -> Json {
    let mut all = Json::Object(Map::new());
    for (path, value) in config {
        let wrapped = path.rsplit('.').fold(value.clone(), |inner, key| json!({ key: inner }));
        merge(&mut all, wrapped);
    }
    all
}

/// `patch` over `target`: tables key by key, everything else whole.
fn merge(target: &mut Json, patch: Json) {
    match (target, patch) {
        (Json::Object(target), Json::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Json::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::workload::manifest;

    fn spec(start: Start) -> Spec {
        Spec {
            version: "v1.22.1".into(),
            start,
            program: Content::from(b"program".to_vec()),
            pause: "localhost/forge-pause:1".into(),
            node_name: "barn-7".into(),
            labels: BTreeMap::from([("region".into(), "north".into())]),
            config: BTreeMap::from([
                ("modules.eventBus.mqttMode".into(), json!(2)),
                (
                    "modules".into(),
                    json!({ "eventBus": { "enable": true }, "edged": { "nodeLabels": { "a.b/c": "d" } } }),
                ),
            ]),
        }
    }

    fn read(tree: &Tree, path: &str) -> String {
        let content = tree.file(&TreePath::parse(path).unwrap()).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(content.to_vec(1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn the_profiles_values_are_over_forges_and_points_make_paths_at_the_top_alone() {
        let text = read(&tree(&spec(Start::Boot)).unwrap(), "etc/kubeedge/config/edgecore.yaml");
        let config: Json = serde_json::from_str(&text).unwrap();
        let modules = &config["modules"];
        assert_eq!(modules["eventBus"], json!({ "enable": true, "mqttMode": 2 }));
        assert_eq!(modules["edged"]["nodeLabels"], json!({ "region": "north", "a.b/c": "d" }));
        assert_eq!(modules["edged"]["hostnameOverride"], "barn-7");
        assert_eq!((&config["edgecoreVersion"], &config["kind"]), (&json!("v1.22.1"), &json!("EdgeCore")));
        assert_eq!(modules["edgeHub"]["rotateCertificates"], false);
        assert!(!text.contains("token"), "{text}");
    }

    #[test]
    fn a_pod_that_would_wait_for_the_cloud_is_named() {
        let check = |spec: &str| {
            let text = format!(
                "kind: Pod\nmetadata: {{name: page}}\nspec:\n  {spec}\n  containers: [{{name: a, image: a:1POLICY}}]\n"
            );
            let check = |text: &str| {
                let manifest = manifest::parse("page.yaml", text.as_bytes()).unwrap();
                let manifests = vec![(manifest, Content::from(vec![]))];
                super::check(&[Workload { name: "page".into(), required: false, manifests }])
            };
            [check(&text.replace("POLICY", "")), check(&text.replace("POLICY", ", imagePullPolicy: Always"))]
                .map(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let [plain, always] = check("hostNetwork: true");
        let token = "page.yaml:4:3: Pod `page` gets a token for the cluster's API, and does not start without the cloud";
        assert_eq!(plain, token);
        assert!(always.contains(token) && always.contains("`a:1` is looked for in a registry"), "{always}");
        for said in ["automountServiceAccountToken: false", "automountServiceAccountToken: true"] {
            let [plain, always] = check(said);
            assert_eq!(plain, "");
            assert!(always.starts_with("page.yaml:5:") && !always.contains("token"), "{always}");
        }
    }

    #[test]
    fn edgecore_waits_for_its_grant_and_no_boot_waits_for_edgecore() {
        let tree = tree(&spec(Start::Granted)).unwrap();
        let gate = read(&tree, &format!("{SYSTEM}/{UNIT}.d/50-forge-grant.conf"));
        assert!(gate.contains("ConditionPathExists=/var/lib/forge/enroll/applied\n"), "{gate}");
        let has = |path: &str| tree.get(&TreePath::parse(path).unwrap()).is_some();
        assert!(has(&format!("{SYSTEM}/forge-device.target.wants/{UNIT}")));
        assert!(!has(&format!("{SYSTEM}/multi-user.target.wants/{UNIT}")));
        assert!(tree.iter().all(|(path, _)| !path.as_str().contains("boot-complete")));
        let containerd = read(&tree, "etc/containerd/config.toml");
        assert!(containerd.contains("sandbox_image = \"localhost/forge-pause:1\""), "{containerd}");
    }
}
