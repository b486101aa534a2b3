//! Kubernetes YAML → the objects in it: which container images they need, which ports of the host they take.
//!
//! Serves every distribution: all built-in kinds with a pod template are read, others pass as they are. What a
//! distribution cannot run, its own module says ([`crate::layer::kubernetes`]). Manifests are passed on byte for byte.
//! Kubernetes API reference, `core/v1` PodSpec, `apps/v1`, `batch/v1`.

pub mod field;
pub mod quantity;
pub mod yaml;

use super::container::{Port, Protocol};
use super::name::ImageName;
use field::ImageField;
use std::fmt;
use std::sync::Arc;
use yaml::{Node, Place};

/// The largest file of manifests, in bytes: beyond etcd's own bound for an object, with room for many.
const MAX_FILE: usize = 8 << 20;

/// A fault of a manifest: what, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, as the profile names it.
    pub file: String,
    /// Line and column in it, from 1.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.place.line, self.place.column, self.message)
    }
}

impl std::error::Error for Fault {}

/// A file of manifests.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The file, as the profile names it.
    pub file: String,
    /// Its objects in the order of the text, lists taken apart.
    pub objects: Vec<Object>,
}

/// One object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Number of its document in the file, from 1.
    pub document: usize,
    /// Where it begins.
    pub place: Place,
    /// `Deployment`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, where written.
    pub namespace: Option<String>,
    /// Its pod or pod template; `None` for kinds without one.
    pub pod: Option<Pod>,
    /// `spec.replicas`, where written.
    pub replicas: Option<(u64, Place)>,
    /// Images in fields of its kind, beyond a pod's.
    pub images: Vec<ImageUse>,
}

/// A pod specification.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Where its specification begins.
    pub place: Place,
    /// `automountServiceAccountToken`, where written.
    pub token: Option<bool>,
    /// Whether its containers may end well and stay ended (`restartPolicy` is not `Always`).
    pub ends: bool,
    /// All kinds of containers: init containers first.
    pub containers: Vec<Container>,
    /// Images that are mounted as volumes.
    pub volume_images: Vec<ImageUse>,
    /// Ports of the host that the pod takes.
    pub host_ports: Vec<HostPort>,
    /// Directories and files of the host that the pod wants made where they are missing: path, and where it is written.
    pub made_paths: Vec<(String, Place)>,
}

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// `name`.
    pub name: String,
    /// Whether it ends before the others start.
    pub is_init: bool,
    /// Whether it has a probe that tells whether it is alive.
    pub has_liveness_probe: bool,
    /// Its image.
    pub image: ImageUse,
    /// What it asks for.
    pub requests: Requests,
}

/// What a container asks to be kept for it; what it is limited to, where it asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a processor.
    pub cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Where it is written.
    pub place: Place,
}

/// Where an image is asked for.
#[derive(Clone, Debug)]
pub struct ImageUse {
    /// The name, complete.
    pub name: ImageName,
    /// As it is written.
    pub written: String,
    /// `imagePullPolicy` or `pullPolicy`, where written.
    pub pull_policy: Option<String>,
    /// Where the name is written.
    pub place: Place,
}

/// A port of the host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The host's.
    pub host: Port,
    /// The container's.
    pub container: u16,
    /// The host's address that it is bound to; all where `None`.
    pub address: Option<String>,
    /// Where it is written.
    pub place: Place,
}

/// Reads a file of manifests; `file` is its name in faults.
///
/// # Errors
/// Every fault of the first document that has one, or of the text as YAML.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Manifest, Vec<Fault>> {
    parse_with(file, bytes, &[])
}

/// [`parse`], with images also in `fields`.
///
/// # Errors
/// As [`parse`], and where a field is there and names no image.
pub fn parse_with(file: &str, bytes: &[u8], fields: &[ImageField]) -> Result<Manifest, Vec<Fault>> {
    let fault = |place, message: String| vec![Fault { file: file.into(), place, message, hint: None }];
    if bytes.len() > MAX_FILE {
        return Err(fault(Place { line: 1, column: 1 }, format!("{} bytes, more than 8 MiB", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        fault(Place { line, column: 1 }, "not UTF-8".into())
    })?;
    let documents = yaml::parse(text).map_err(|e| fault(e.place, e.why))?;
    let mut reader = Reader { file, fields, faults: vec![] };
    let mut objects = vec![];
    for (i, document) in documents.iter().enumerate() {
        let lone = [document.clone()];
        let items: &[Arc<Node>] = match document.get("kind").and_then(Node::text) {
            Some("List") => document.get("items").and_then(Node::items).unwrap_or_default(),
            _ => &lone,
        };
        objects.extend(items.iter().filter_map(|item| reader.object(i + 1, item)));
    }
    if reader.faults.is_empty() { Ok(Manifest { file: file.into(), objects }) } else { Err(reader.faults) }
}

impl Manifest {
    /// Every image that is asked for, with repetitions, in the order of the text.
    pub fn images(&self) -> impl Iterator<Item = &ImageUse> {
        self.objects.iter().flat_map(|object| {
            let pod = object.pod.iter();
            pod.flat_map(|pod| pod.containers.iter().map(|c| &c.image).chain(&pod.volume_images))
                .chain(&object.images)
        })
    }

    /// Every port of the host that is taken.
    pub fn host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods().flat_map(|(_, pod)| &pod.host_ports)
    }

    /// The objects that have pods, with them.
    pub fn pods(&self) -> impl Iterator<Item = (&Object, &Pod)> {
        self.objects.iter().filter_map(|object| Some((object, object.pod.as_ref()?)))
    }
}

/// Where kinds keep their pod's specification.
fn pod_path(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "Pod" => &["spec"],
        "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            &["spec", "template", "spec"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template", "spec"],
        "PodTemplate" => &["template", "spec"],
        _ => return None,
    })
}

/// Reads objects and collects what is wrong with them.
struct Reader<'a> {
    file: &'a str,
    fields: &'a [ImageField],
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, place: Place, message: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(String::from);
        self.faults.push(Fault { file: self.file.into(), place, message: message.into(), hint });
    }

    fn object(&mut self, document: usize, node: &Node) -> Option<Object> {
        let kind = self.required_text(node, "kind", "object")?;
        if kind == "List" {
            self.fault(node.place, "a list inside a list", None);
            return None;
        }
        let name = node.at(&["metadata", "name"]).and_then(Node::text).unwrap_or_default().to_string();
        let namespace = node.at(&["metadata", "namespace"]).and_then(Node::text).map(String::from);
        let pod = match pod_path(&kind) {
            None => None,
            Some(path) => match node.at(path) {
                Some(spec) => Some(self.pod(spec)),
                None => {
                    self.fault(node.place, format!("{kind} `{name}` has no {}", path.join(".")), None);
                    return None;
                }
            },
        };
        if pod.is_some() && name.is_empty() {
            self.fault(node.place, format!("{kind} has no metadata.name"), None);
        }
        let replicas = node.at(&["spec", "replicas"]).and_then(|n| Some((n.text()?.parse().ok()?, n.place)));
        let images = self.images_in_fields(&kind, node);
        Some(Object { document, place: node.place, kind, name, namespace, pod, replicas, images })
    }

    fn images_in_fields(&mut self, kind: &str, object: &Node) -> Vec<ImageUse> {
        let mut images = vec![];
        let fields = self.fields;
        for field in fields.iter().filter(|field| field.kind == kind) {
            for node in field.of(object) {
                let parsed = node.text().and_then(|text| Some((text, field::name(text).parse().ok()?)));
                match parsed {
                    Some((text, name)) => {
                        let (written, place) = (text.to_string(), node.place);
                        images.push(ImageUse { name, written, pull_policy: None, place });
                    }
                    None => {
                        let message = format!("`{}` names no container image", field.path);
                        self.fault(node.place, message, Some("see `image-paths` of this workload"));
                    }
                }
            }
        }
        images
    }

    fn requests(&self, container: &Node) -> Requests {
        let of = |what: &str| {
            ["requests", "limits"].iter().find_map(|bound| {
                let node = container.at(&["resources", bound, what])?;
                Some((quantity::thousandths(node.text()?)?, node.place))
            })
        };
        let (cpu, memory) = (of("cpu"), of("memory"));
        let place = memory.or(cpu).map_or(container.place, |(_, place)| place);
        Requests { cpu: cpu.map_or(0, |c| c.0), memory: memory.map_or(0, |m| m.0.div_ceil(1000)), place }
    }

    fn pod(&mut self, spec: &Node) -> Pod {
        let host_network = spec.get("hostNetwork").and_then(Node::text) == Some("true");
        let ends = spec.get("restartPolicy").and_then(Node::text).is_some_and(|policy| policy != "Always");
        let token = spec.get("automountServiceAccountToken").and_then(|node| node.text()?.parse().ok());
        let mut pod = Pod {
            place: spec.place,
            token,
            ends,
            containers: vec![],
            volume_images: vec![],
            host_ports: vec![],
            made_paths: vec![],
        };
        for (key, is_init) in
            [("initContainers", true), ("containers", false), ("ephemeralContainers", false)]
        {
            for node in self.list(spec, key) {
                let Some(name) = self.required_text(&node, "name", "container") else { continue };
                let Some(image) =
                    self.image(&node, "image", "imagePullPolicy", &format!("container `{name}`"))
                else {
                    continue;
                };
                let has_liveness_probe = node.get("livenessProbe").is_some();
                let requests = self.requests(&node);
                pod.containers.push(Container { name, is_init, has_liveness_probe, image, requests });
                for port in self.list(&node, "ports") {
                    pod.host_ports.extend(self.port(&port, host_network));
                }
            }
        }
        if !pod.containers.iter().any(|c| !c.is_init) {
            self.fault(spec.place, "the pod has no containers", None);
        }
        for volume in self.list(spec, "volumes") {
            if let Some(image) = volume.get("image") {
                pod.volume_images.extend(self.image(image, "reference", "pullPolicy", "image volume"));
            }
            let kind = volume.at(&["hostPath", "type"]).and_then(Node::text);
            if let Some(path) = volume.at(&["hostPath", "path"])
                && kind.is_some_and(|kind| kind.ends_with("OrCreate"))
            {
                pod.made_paths.extend(path.text().map(|text| (text.to_string(), path.place)));
            }
        }
        pod
    }

    fn list(&mut self, node: &Node, key: &str) -> Vec<Arc<Node>> {
        match node.get(key) {
            None => vec![],
            Some(list) => match list.items() {
                Some(items) => items.to_vec(),
                None => {
                    self.fault(list.place, format!("`{key}` is no list"), None);
                    vec![]
                }
            },
        }
    }

    fn required_text(&mut self, node: &Node, key: &str, of: &str) -> Option<String> {
        match node.get(key).and_then(Node::text) {
            Some(text) if !text.is_empty() => Some(text.into()),
            _ => {
                let place = node.get(key).map_or(node.place, |n| n.place);
                self.fault(place, format!("{of} has no `{key}`"), None);
                None
            }
        }
    }

    fn image(&mut self, node: &Node, key: &str, policy: &str, of: &str) -> Option<ImageUse> {
        let written = self.required_text(node, key, of)?;
        let place = node.get(key).map_or(node.place, |n| n.place);
        let pull_policy = node.get(policy).and_then(Node::text).map(String::from);
        match written.parse() {
            Ok(name) => Some(ImageUse { name, written, pull_policy, place }),
            Err(fault) => {
                self.fault(
                    place,
                    fault.to_string(),
                    Some("write REGISTRY/NAME:TAG, or NAME:TAG of a [[container]]"),
                );
                None
            }
        }
    }

    fn port(&mut self, node: &Node, host_network: bool) -> Option<HostPort> {
        let container = self.number(node, "containerPort")?;
        let host = match self.number(node, "hostPort") {
            Some(port) => port,
            None if host_network => container,
            None => return None,
        };
        let protocol = match node.get("protocol") {
            None => Protocol::Tcp,
            Some(word) => match word.text().unwrap_or_default().parse() {
                Ok(protocol) => protocol,
                Err(_) => {
                    self.fault(word.place, "unknown protocol", Some("TCP, UDP or SCTP"));
                    return None;
                }
            },
        };
        let address = node.get("hostIP").and_then(Node::text).map(String::from);
        let place = node.get("hostPort").map_or(node.place, |n| n.place);
        Some(HostPort { host: Port { number: host, protocol }, container, address, place })
    }

    fn number(&mut self, node: &Node, key: &str) -> Option<u16> {
        let value = node.get(key)?;
        let port = value.text().and_then(|text| text.parse().ok()).filter(|port| *port > 0);
        if port.is_none() {
            self.fault(value.place, format!("`{key}` is no port, 1 to 65535"), None);
        }
        port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_every_kind() {
        let spec = "{initContainers: [{name: i, image: init:1}], containers: [{name: c, image: main:1}], \
                    volumes: [{name: v, image: {reference: data:1}}]}";
        for object in [
            format!("kind: Pod\nspec: {spec}"),
            format!("kind: Deployment\nspec: {{template: {{spec: {spec}}}}}"),
            format!("kind: StatefulSet\nspec: {{template: {{spec: {spec}}}}}"),
            format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {{spec: {spec}}}}}}}}}"),
            format!("kind: PodTemplate\ntemplate: {{spec: {spec}}}"),
        ] {
            let text = format!("{object}\nmetadata: {{name: x}}\n");
            let manifest = parse("x.yaml", text.as_bytes()).unwrap();
            let images: Vec<_> = manifest.images().map(|i| i.written.as_str()).collect();
            assert_eq!(images, ["init:1", "main:1", "data:1"], "{object}");
        }
        let list = format!(
            "kind: List\nitems:\n- {{kind: Pod, metadata: {{name: a}}, spec: {spec}}}\n- {{kind: Service}}\n"
        );
        let manifest = parse("x.yaml", list.as_bytes()).unwrap();
        assert_eq!((manifest.objects.len(), manifest.images().count()), (2, 3));
    }

    #[test]
    fn host_ports_are_those_that_the_host_gives() {
        let text = "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: c\n    image: c:1\n    ports:\n    \
                    - {containerPort: 80, hostPort: 8080}\n    - {containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 192.0.2.1}\n    \
                    - {containerPort: 9000}\n";
        let manifest = parse("x.yaml", text.as_bytes()).unwrap();
        let ports: Vec<_> = manifest.host_ports().map(|p| (p.host.to_string(), p.container)).collect();
        assert_eq!(ports, [("8080/tcp".to_string(), 80), ("53/udp".to_string(), 53)]);
        let text = text.replace("spec:\n", "spec:\n  hostNetwork: true\n");
        assert_eq!(parse("x.yaml", text.as_bytes()).unwrap().host_ports().count(), 3);
    }

    #[test]
    fn faults_name_file_line_and_column() {
        for (text, told) in [
            ("a: b\n", "m.yaml:1:1: object has no `kind`"),
            ("kind: Pod\nmetadata: {name: x}\n", "m.yaml:1:1: Pod `x` has no spec"),
            (
                "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: c\n    image: Bad Name\n",
                "m.yaml:6:12: `Bad Name` is no container image name: its parts are not lowercase letters and digits, \
                 separated by . _ - or /",
            ),
            (
                "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: c\n",
                "m.yaml:5:5: container `c` has no `image`",
            ),
            (
                "kind: Pod\nmetadata: {name: x}\nspec:\n  containers: {}\n",
                "m.yaml:4:15: `containers` is no list",
            ),
            (
                "kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - {name: c, image: c:1, ports: [{containerPort: 80, hostPort: 80800}]}\n",
                "m.yaml:5:65: `hostPort` is no port, 1 to 65535",
            ),
            ("kind: Pod\nkind: Pod\n", "m.yaml:2:1: the key `kind` is there twice"),
            ("kind: List\nitems:\n- kind: List\n", "m.yaml:3:3: a list inside a list"),
        ] {
            let faults = parse("m.yaml", text.as_bytes()).unwrap_err();
            assert_eq!(faults[0].to_string(), told, "{text}");
        }
        assert_eq!(parse("m.yaml", b"a: 1\nb: \xff\n").unwrap_err()[0].place.line, 2);
    }
}
