//! A Kubernetes distribution with an API server: a release's program and images, and a profile's configuration → trees.
//!
//! The OS side ([`os_tree`]) holds what no workload changes. Its configuration is layered as the distribution itself
//! reads it, a later file over an earlier one, so that nothing of the profile's is interpreted here:
//!
//! ```text
//! /etc/rancher/NAME/config.yaml                  forge's: node name, labels, resolv-conf
//! /etc/rancher/NAME/config.yaml.d/10-profile.yaml    the profile's `[kubernetes] config`; `key+` appends
//! /etc/rancher/NAME/config.yaml.d/50-forge.yaml      the grant's, written on the device
//! /etc/rancher/NAME/registries.yaml              the profile's `[kubernetes] registries`; a grant may write another
//! /usr/lib/forge/airgap/                         images of the distribution, imported from here once
//! /usr/lib/forge/payload/archives/               images of the workloads, likewise, and a list of them
//! /usr/lib/forge/payload/workloads/NAME/         manifests, and the objects that must be ready
//! ```
//!
//! State is the distribution's own, below `/var/lib/rancher`. `/usr/lib/forge/kubernetes`, run before each start, links
//! images and manifests into it and repairs what a power cut is known to break; it says how.

use crate::layer::workload::manifest::Object;
use crate::layer::workload::{WORKLOADS, Workload};
use crate::model::Digest;
use crate::template::cluster as template;
use crate::tree::{BadPath, Content, Node, Tree, TreeError, TreePath};
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

/// Debian packages that a distribution needs, without their recommendations. It brings containerd, runc and CNI itself;
/// `kmod` loads the modules of the networks, `conntrack` is for kube-proxy, `ethtool` and `ipset` are for the networks.
/// `apparmor`: containerd loads a profile for its containers where the kernel has AppArmor on, as Debian's has, and
/// starts none without the program that does it.
pub const PACKAGES: &[&str] = &[
    "apparmor",
    "ca-certificates",
    "conntrack",
    "ethtool",
    "ipset",
    "iproute2",
    "iptables",
    "kmod",
    "nftables",
    "procps",
];

/// Directory of image archives, below the payload's root.
pub const ARCHIVES: &str = "archives";

const SYSTEM: &str = "usr/lib/systemd/system";
const READY: &str = "forge-kubernetes-ready.service";

/// What one distribution calls its files, and where it has them.
pub trait Distribution: Sync {
    /// The program's name, and of its directories in `/etc/rancher` and `/var/lib/rancher`.
    fn name(&self) -> &'static str;
    /// Where it is documented.
    fn documentation(&self) -> &'static str;
    /// Upstream's name of the unit.
    fn unit(&self, role: Role) -> &'static str;
    /// Where the release's archive has the program; `None` for a release that is the program itself.
    fn program_in_release(&self) -> Option<&'static str>;
    /// Links beside the program: name and target.
    fn links(&self) -> &'static [(&'static str, &'static str)];
    /// Where kubectl is once it runs.
    fn kubectl(&self) -> &'static str;
}

/// The machine's part in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the API server, and workloads.
    Server,
    /// Runs workloads. It asks its server for configuration and certificates at each start.
    Agent,
}

impl Role {
    /// The program's verb.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
        }
    }
}

/// What a start waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Nothing: at each boot, and where this is a server the boot is good only when the node is ready.
    Boot,
    /// A grant that was applied. No boot depends on it: whether there is a grant is not the image's fault.
    Granted,
}

/// A distribution on a device.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The release's version.
    pub version: String,
    /// The machine's part.
    pub role: Role,
    /// What a start waits for.
    pub start: Start,
    /// The program.
    pub program: Content,
    /// File name and content of the archive of the distribution's own images.
    pub images: Option<(String, Content)>,
    /// The node's name, where neither profile nor grant says another. A name that changes makes another node.
    pub node_name: String,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The profile's own configuration.
    pub config: BTreeMap<String, Json>,
    /// Registries and their mirrors: `registries.yaml`, where there are any.
    pub registries: BTreeMap<String, Json>,
}

/// Trees that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
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

/// The OS side.
///
/// # Errors
/// [`ClusterError`] for an archive that cannot be read, or whose name cannot be a file's.
pub fn os_tree(distribution: &dyn Distribution, spec: &Spec) -> Result<Tree, ClusterError> {
    let name = distribution.name();
    let etc = format!("etc/rancher/{name}");
    let mut tree = Tree::new();
    let mut put =
        |path: &str, node: Node| tree.insert(TreePath::parse(path)?, node).map_err(ClusterError::from);
    put(&format!("usr/local/bin/{name}"), Node::file(spec.program.clone(), 0o755))?;
    for (link, target) in distribution.links() {
        put(&format!("usr/local/bin/{link}"), Node::symlink(*target))?;
    }
    // Readable by root alone, as the distribution's installer has it: a grant's files beside them hold tokens.
    put(&format!("{etc}/config.yaml"), Node::text(to_yaml(&own_config(spec)), 0o600))?;
    for (file, passed) in
        [("config.yaml.d/10-profile.yaml", &spec.config), ("registries.yaml", &spec.registries)]
    {
        if !passed.is_empty() {
            let passed: Vec<_> = passed.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
            put(&format!("{etc}/{file}"), Node::text(to_yaml(&passed), 0o600))?;
        }
    }
    if let Some((file, content)) = &spec.images {
        let path = format!("usr/lib/forge/airgap/{}", by_content(file, content)?);
        put(&path, Node::file(content.clone(), 0o644))?;
    }
    put("usr/lib/forge/payload", Node::dir(0o755))?;
    put("usr/lib/forge/workloads", Node::symlink(format!("payload/{WORKLOADS}")))?;
    put("usr/lib/forge/kubernetes", Node::text(template::PROGRAM, 0o755))?;
    for (path, text) in template::FILES {
        put(path, Node::text(*text, 0o644))?;
    }
    if spec.role == Role::Server {
        for (path, text) in template::SERVER_FILES {
            put(path, Node::text(*text, 0o644))?;
        }
    }
    let unit = distribution.unit(spec.role);
    let link = |unit: &str| Node::symlink(format!("../{unit}"));
    put(&format!("{SYSTEM}/{unit}"), Node::text(filled(template::SERVICE, distribution, spec), 0o644))?;
    match spec.start {
        Start::Boot => {
            put(&format!("{SYSTEM}/multi-user.target.wants/{unit}"), link(unit))?;
            // Only a server knows by itself whether it is well.
            if spec.role == Role::Server {
                let ready = filled(template::READY, distribution, spec);
                put(&format!("{SYSTEM}/{READY}"), Node::text(ready, 0o644))?;
                put(&format!("{SYSTEM}/boot-complete.target.requires/{READY}"), link(READY))?;
                // Read after forge's own of the target, by its name.
                let complete = format!("{SYSTEM}/boot-complete.target.d/kubernetes.conf");
                put(&complete, Node::text(template::COMPLETE, 0o644))?;
            }
        }
        Start::Granted => {
            put(&format!("{SYSTEM}/{unit}.d/50-forge-grant.conf"), Node::text(template::GRANTED, 0o644))?;
            put(&format!("{SYSTEM}/forge-device.target.wants/{unit}"), link(unit))?;
        }
    }
    Ok(tree)
}

/// An archive's name with its digest in it. The distribution takes an archive of a known name and size for imported,
/// whatever is in it (k3s-io/k3s#14284), and in an image all files are of one time.
fn by_content(file: &str, content: &Content) -> io::Result<String> {
    let (digest, _) = Digest::of_reader(content.reader())?;
    Ok(format!("{}-{file}", &digest.hex()[..12])) // 48 bits tell the archives of one box apart
}

/// Whether a release imports an archive once by itself: k3s-io/k3s#12237, of May 2025 in each version then kept, and in
/// RKE2 by way of it. An older one imports all that it finds at each start, before its kubelet starts.
fn keeps_account(version: &str) -> bool {
    const SINCE: [(u32, u32); 4] = [(30, 13), (31, 9), (32, 5), (33, 1)];
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']);
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let (major, minor, patch) = (number(), number(), number());
    match SINCE.iter().find(|(since, _)| *since == minor) {
        Some((_, since)) if major == 1 => patch >= *since,
        _ => (major, minor) > (1, SINCE[SINCE.len() - 1].0),
    }
}

fn filled(text: &str, distribution: &dyn Distribution, spec: &Spec) -> String {
    [
        ("@NAME@", distribution.name()),
        ("@ROLE@", spec.role.as_str()),
        ("@UNIT@", distribution.unit(spec.role)),
        ("@VERSION@", &spec.version),
        ("@ACCOUNT@", if keeps_account(&spec.version) { "itself" } else { "forge" }),
        ("@DOCUMENTATION@", distribution.documentation()),
        ("@KUBECTL@", distribution.kubectl()),
    ]
    .iter()
    .fold(text.to_string(), |text, (mark, value)| text.replace(mark, value))
}

fn own_config(spec: &Spec) -> Vec<(&'static str, Json)> {
    let mut config = vec![("node-name", json!(spec.node_name))];
    if !spec.labels.is_empty() {
        let labels: Vec<String> = spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        config.push(("node-label", json!(labels)));
    }
    // Otherwise a device without a link is given 8.8.8.8, which then answers nobody on a closed network.
    config.push(("resolv-conf", json!("/run/systemd/resolve/resolv.conf")));
    if spec.role == Role::Server {
        config.push(("write-kubeconfig-mode", json!("0600")));
    }
    config
}

/// YAML in block style at the top and flow style below: JSON is YAML (YAML 1.2 §1.3), and a line a key reads well.
fn to_yaml(config: &[(&str, Json)]) -> String {
    let mut text = String::from("# Written by forge.\n");
    for (key, value) in config {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+".contains(&b));
        let plain =
            plain && key.as_bytes()[0].is_ascii_alphabetic() && !["true", "false", "null"].contains(key);
        let key = if plain { key.to_string() } else { json!(key).to_string() };
        let _ = writeln!(text, "{key}: {value}"); // writing to a String cannot fail
    }
    text
}

/// The payload side: manifests as written, what of them must be ready, and an archive of their images with the list of
/// what is in it, a name and a digest a line.
///
/// # Errors
/// [`ClusterError`] for two workloads of one name, or an archive that cannot be read.
pub fn payload_tree(workloads: &[Workload], images: Option<(Content, String)>) -> Result<Tree, ClusterError> {
    let mut tree = Tree::new();
    tree.insert(TreePath::parse(WORKLOADS)?, Node::dir(0o755))?;
    if let Some((archive, list)) = images {
        let path = format!("{ARCHIVES}/{}", by_content("workloads", &archive)?);
        tree.insert(TreePath::parse(&format!("{path}.tar"))?, Node::file(archive, 0o644))?;
        tree.insert(TreePath::parse(&format!("{path}.images"))?, Node::text(list, 0o644))?;
    }
    for workload in workloads {
        let home = format!("{WORKLOADS}/{}", workload.name);
        for (number, (_, content)) in workload.manifests.iter().enumerate() {
            // The deploy controller calls an addon by its file's name up to the first dot, whatever the directory.
            let path = format!("{home}/manifests/forge-{}-{number}.yaml", workload.name);
            tree.insert(TreePath::parse(&path)?, Node::file(content.clone(), 0o644))?;
        }
        if workload.required {
            tree.insert(
                TreePath::parse(&format!("{home}/required"))?,
                Node::text(required(workload), 0o644),
            )?;
        }
    }
    Ok(tree)
}

/// A line for each object that must be ready: kind, namespace, name.
fn required(workload: &Workload) -> String {
    let objects = workload.manifests.iter().flat_map(|(manifest, _)| &manifest.objects);
    let kinds = ["Deployment", "DaemonSet", "StatefulSet", "Pod", "Job", "VirtualMachine"];
    let waited = objects.filter(|o| kinds.contains(&o.kind.as_str()));
    let line = |o: &Object| {
        format!("{} {} {}\n", o.kind.to_lowercase(), o.namespace.as_deref().unwrap_or("default"), o.name)
    };
    waited.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::kubernetes::{k3s::K3s, rke2::Rke2};
    use crate::layer::workload::manifest::yaml;

    fn spec(role: Role, start: Start) -> Spec {
        Spec {
            version: "v1.34.2+k3s1".into(),
            role,
            start,
            program: Content::from(b"program".to_vec()),
            images: Some(("images.tar.zst".into(), Content::from(b"images".to_vec()))),
            node_name: "store-042".into(),
            labels: BTreeMap::from([("region".into(), "eu-west".into())]),
            config: BTreeMap::from([
                ("disable".into(), json!(["traefik"])),
                ("node-taint+".into(), json!(["a=b:NoSchedule"])),
                ("odd: key".into(), json!("line\nbreak: é")),
            ]),
            registries: BTreeMap::from([("mirrors".into(), json!({ "*": {} }))]),
        }
    }

    fn read(tree: &Tree, path: &str) -> String {
        let content = tree.file(&TreePath::parse(path).unwrap()).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(content.to_vec(1 << 20).unwrap()).unwrap()
    }

    fn has(tree: &Tree, path: &str) -> bool {
        tree.get(&TreePath::parse(path).unwrap()).is_some()
    }

    #[test]
    fn configuration_is_yaml_and_the_profiles_is_not_interpreted() {
        let tree = os_tree(&K3s, &spec(Role::Server, Start::Boot)).unwrap();
        let own = read(&tree, "etc/rancher/k3s/config.yaml");
        assert!(own.contains("node-label: [\"region=eu-west\"]\n"), "{own}");
        let text = read(&tree, "etc/rancher/k3s/config.yaml.d/10-profile.yaml");
        let documents = yaml::parse(&text).unwrap();
        let profile = documents[0].as_ref();
        assert_eq!(profile.get("disable").unwrap().items().unwrap()[0].text(), Some("traefik"));
        assert_eq!(profile.get("node-taint+").unwrap().items().unwrap()[0].text(), Some("a=b:NoSchedule"));
        assert_eq!(profile.get("odd: key").unwrap().text(), Some("line\nbreak: é"));
    }

    #[test]
    fn a_release_imports_once_by_itself_since_its_line_does() {
        for version in
            ["v1.30.13+k3s1", "v1.31.9+rke2r1", "v1.32.5+k3s1", "v1.33.1+k3s1", "v1.34.2+k3s1", "v2.0.0"]
        {
            assert!(keeps_account(version), "{version}");
        }
        for version in
            ["v1.21.2+k3s1", "v1.30.12+k3s1", "v1.31.8+k3s1", "v1.32.4+rke2r1", "v1.33.0+k3s1", "v0.9.1"]
        {
            assert!(!keeps_account(version), "{version}");
        }
        let old = Spec { version: "v1.21.2+k3s1".into(), ..spec(Role::Server, Start::Boot) };
        let unit = read(&os_tree(&K3s, &old).unwrap(), &format!("{SYSTEM}/k3s.service"));
        assert!(unit.contains("prepare k3s server forge\n"), "{unit}");
    }

    #[test]
    fn a_server_that_stands_alone_waits_for_nothing_and_makes_the_boot_good() {
        for distribution in [&K3s as &dyn Distribution, &Rke2] {
            let tree = os_tree(distribution, &spec(Role::Server, Start::Boot)).unwrap();
            let unit = distribution.unit(Role::Server);
            let text = read(&tree, &format!("{SYSTEM}/{unit}"));
            assert!(!text.contains('@') && !text.contains("ConditionPathExists"), "{text}");
            let lines = || text.lines().filter(|l| !l.starts_with('#'));
            assert!(!lines().any(|l| l.contains("network-online") || l.contains("forge-device")), "{text}");
            assert!(has(&tree, &format!("{SYSTEM}/multi-user.target.wants/{unit}")));
            assert!(has(&tree, &format!("{SYSTEM}/boot-complete.target.requires/{READY}")));
            let ready = read(&tree, &format!("{SYSTEM}/{READY}"));
            assert!(ready.contains(distribution.kubectl()));
            // The target gives up after the unit, in a file that is read after the target's own.
            let own = crate::template::OS
                .iter()
                .find(|(path, _)| path.contains("boot-complete.target.d/"))
                .unwrap()
                .0;
            let longer = format!("{SYSTEM}/boot-complete.target.d/kubernetes.conf");
            assert!(*longer > *own, "{own}");
            let minutes = |text: &str, key: &str| -> u32 {
                text.split(key).nth(1).and_then(|rest| rest.split("min").next()).unwrap().parse().unwrap()
            };
            assert!(minutes(&read(&tree, &longer), "JobTimeoutSec=") > minutes(&ready, "TimeoutStartSec="));
        }
    }

    #[test]
    fn an_agent_waits_for_its_grant_and_no_boot_waits_for_it() {
        for distribution in [&K3s as &dyn Distribution, &Rke2] {
            let tree = os_tree(distribution, &spec(Role::Agent, Start::Granted)).unwrap();
            let unit = distribution.unit(Role::Agent);
            let gate = read(&tree, &format!("{SYSTEM}/{unit}.d/50-forge-grant.conf"));
            assert!(gate.contains("ConditionPathExists=/var/lib/forge/enroll/applied\n"), "{gate}");
            assert!(has(&tree, &format!("{SYSTEM}/forge-device.target.wants/{unit}")));
            assert!(!has(&tree, &format!("{SYSTEM}/multi-user.target.wants/{unit}")));
            assert!(!has(&tree, &format!("{SYSTEM}/boot-complete.target.requires/{READY}")));
        }
    }
}
