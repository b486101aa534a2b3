//! What Podman's `kube play` would skip, misread or fetch, found at build time and named with file and line.

use super::Workload;
use crate::layer::workload::manifest::yaml::Place;
use crate::layer::workload::manifest::{Fault, HostPort, ImageUse, Manifest, Object};
use std::collections::BTreeMap;

/// Kinds that `kube play` runs under a unit. DaemonSet and Job are played too, but without the service container that
/// ties a pod to its unit: Podman 5.4 makes one for pods and deployments only, and crashes when a file has neither.
const KINDS: [&str; 4] = ["Pod", "Deployment", "ConfigMap", "PersistentVolumeClaim"];

/// Where directories can be made: on the state partition, and in memory.
const WRITABLE: [&str; 6] = ["/var", "/srv", "/opt", "/home", "/run", "/tmp"];

/// All faults, sorted by file and place.
pub fn workloads(workloads: &[Workload]) -> Vec<Fault> {
    let mut faults = vec![];
    let mut pods: BTreeMap<String, (&str, Place)> = BTreeMap::new();
    let mut ports: Vec<(&HostPort, &str)> = vec![];
    for workload in workloads {
        for (manifest, _) in &workload.manifests {
            let mut at = |place, message: String, hint: Option<&str>| {
                let (file, hint) = (manifest.file.clone(), hint.map(String::from));
                faults.push(Fault { file, place, message, hint });
            };
            for object in &manifest.objects {
                check_object(object, &mut at);
            }
            for image in manifest.images() {
                check_pull(image, &mut at);
            }
            for (path, place) in manifest.pods().flat_map(|(_, pod)| &pod.made_paths) {
                if !WRITABLE
                    .iter()
                    .any(|dir| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
                {
                    let hint = "the root is read-only; below /var, /srv, /opt and /home things stay, also over updates";
                    at(*place, format!("`{path}` cannot be made on the device"), Some(hint));
                }
            }
            for (object, _) in manifest.pods() {
                let name = pod_name(object);
                if let Some((file, first)) = pods.insert(name.clone(), (&manifest.file, object.place)) {
                    at(object.place, format!("the pod `{name}` is also made at {file}:{}", first.line), None);
                }
            }
            for port in manifest.host_ports() {
                if let Some((other, file)) = ports.iter().find(|(other, _)| clash(port, other)) {
                    let line = other.place.line;
                    at(port.place, format!("host port {} is also taken at {file}:{line}", port.host), None);
                }
                ports.push((port, &manifest.file));
            }
        }
        if let Some((manifest, _)) = workload.manifests.first()
            && !workload.manifests.iter().any(|(m, _)| has_pod(m))
        {
            let (file, place) = (manifest.file.clone(), Place { line: 1, column: 1 });
            let message = format!("workload `{}` has neither a Pod nor a Deployment", workload.name);
            faults.push(Fault { file, place, message, hint: None });
        }
    }
    faults.sort();
    faults
}

fn pod_name(object: &Object) -> String {
    if object.kind == "Pod" { object.name.clone() } else { format!("{}-pod", object.name) }
}

fn has_pod(manifest: &Manifest) -> bool {
    manifest.objects.iter().any(|o| o.kind == "Pod" || o.kind == "Deployment")
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    let anywhere = |p: &HostPort| p.address.as_deref().is_none_or(|a| a == "0.0.0.0" || a == "::");
    a.host == b.host && (anywhere(a) || anywhere(b) || a.address == b.address)
}

fn check_object(object: &Object, at: &mut impl FnMut(Place, String, Option<&str>)) {
    let kind = object.kind.as_str();
    if !KINDS.contains(&kind) {
        let hint = match kind {
            "DaemonSet" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => {
                "a Deployment does the same on one device"
            }
            "Job" => "a Pod with `restartPolicy: OnFailure` runs to its end",
            "CronJob" => "a systemd timer in [[os.file]], or a Kubernetes distribution",
            "Service" | "Ingress" => "`hostPort` publishes a port; pods reach each other by their names",
            "Secret" => "an image may be published; secrets come with the enrollment bundle",
            _ => "it needs an API server: `distribution = \"k3s\"`",
        };
        let Object { document, name, .. } = object;
        let message = format!("document {document}: Podman does not run kind `{kind}` (`{name}`)");
        at(object.place, message, Some(hint));
    }
    if let Some((replicas, place)) = object.replicas
        && replicas != 1
        && KINDS.contains(&kind)
    {
        at(
            place,
            format!("Podman runs one replica, not {replicas}"),
            Some("write `replicas: 1`, or leave it out"),
        );
    }
}

/// Podman pulls always when told so, and asks the registry for something newer when a complete name has no tag, or the
/// tag `latest`, and no policy (`pkg/domain/infra/abi/play.go`, `pullImageWithPolicy`).
fn check_pull(image: &ImageUse, at: &mut impl FnMut(Place, String, Option<&str>)) {
    let reaches_out = match image.pull_policy.as_deref() {
        Some(policy) => !matches!(policy, "IfNotPresent" | "Never"),
        None => {
            // A short name is no complete name and is taken from the store when it is there.
            let moving = image.name.tag().is_none_or(|tag| tag == "latest");
            !image.name.is_short() && moving
        }
    };
    if reaches_out {
        at(
            image.place,
            format!("`{}` would be looked for in its registry at each start", image.written),
            Some("the image is embedded: write `imagePullPolicy: IfNotPresent` beside it"),
        );
    }
}
