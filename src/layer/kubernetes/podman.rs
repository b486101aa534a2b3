//! Podman as the runtime: Kubernetes manifests run by `podman kube play` units, no API server.
//!
//! The OS side ([`os_tree`]) holds what no workload changes: configuration, a template unit that runs a workload, one
//! that waits for its health, and two targets. Which workloads there are stands on the payload side ([`payload_tree`]),
//! so that a changed workload rewrites neither the OS on the builder nor on the device:
//!
//! ```text
//! /usr/lib/forge/payload/                    the payload partition, mounted before the root is switched
//!   host-ports                               what the workloads publish, `80/tcp` a line: the box's own page keeps off
//!   images/                                  the image store, read where it lies
//!   workloads/NAME/manifest.yaml             the manifests as written, joined
//!   workloads/NAME/containers                names of its containers and the state that means health
//!   units/forge-workloads.target.wants/      what is started; a link in the OS leads systemd here
//!   units/forge-required-workloads.target.requires/    what `boot-complete.target` waits for
//! ```
//!
//! Written for Podman 5.4 (Debian trixie) and systemd 257. Runs as root, with no user namespace and no network at start.

use crate::layer::workload::manifest::{Fault, Manifest, Pod};
use crate::layer::workload::{IMAGES, PAYLOAD, WORKLOADS, Workload};
use crate::template::podman as template;
use crate::tree::{BadPath, Content, Node, Tree, TreeError, TreePath};
use std::collections::BTreeMap;

mod check;

/// The image of every pod's first process, which holds its namespaces. It must be in the image store.
pub const PAUSE_IMAGE: &str = "localhost/forge-pause:1";
/// Debian's package of the program in it, which is linked statically and stands alone, and where the program is.
pub const PAUSE_PACKAGE: (&str, &str) = ("catatonit", "usr/bin/catatonit");
/// What the program is told: to wait, and to reap.
pub const PAUSE_ARGUMENTS: [&str; 1] = ["-P"];

/// Directory of unit links, below the payload's root.
const UNITS: &str = "units";
/// The file of published ports, there.
const HOST_PORTS: &str = "host-ports";
const SYSTEM: &str = "usr/lib/systemd/system";
const WANTS: &str = "forge-workloads.target.wants";
const REQUIRES: &str = "forge-required-workloads.target.requires";

/// Trees that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodmanError {
    /// A name that cannot be a directory.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Two workloads of one name.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A manifest could not be read.
    #[error("reading manifest {file}: {fault}")]
    Io {
        /// The file.
        file: String,
        /// What it said.
        fault: std::io::Error,
    },
}

/// Debian packages that this runtime needs, without their recommendations. `nftables`: netavark calls `nft` to publish
/// ports. `aardvark-dns`: pods find each other by name. `dbus`: the cgroups of containers are systemd's.
pub fn implied_packages() -> &'static [&'static str] {
    &["podman", "crun", "netavark", "aardvark-dns", "nftables", "dbus"]
}

/// What is wrong with `workloads` for this runtime: kinds and settings that Podman would skip or that would reach for
/// the network, and names or host ports that two pods want. Sorted by file and place.
pub fn check(workloads: &[Workload]) -> Vec<Fault> {
    check::workloads(workloads)
}

/// The OS side. `has_images`: a payload with an image store comes with it; Podman refuses to start over one that is
/// missing.
///
/// # Errors
/// None in practice: every path is known here.
pub fn os_tree(has_images: bool) -> Result<Tree, PodmanError> {
    let storage = match has_images {
        true => format!("{}{}", template::STORAGE_CONF, template::STORAGE_IMAGES_CONF),
        false => template::STORAGE_CONF.into(),
    };
    let mut tree = Tree::new();
    for (path, node) in [
        ("etc/containers/storage.conf", Node::text(storage, 0o644)),
        ("etc/containers/containers.conf.d/50-forge.conf", Node::text(template::CONTAINERS_CONF, 0o644)),
        ("etc/containers/registries.conf.d/50-forge.conf", Node::text(template::REGISTRIES_CONF, 0o644)),
        // Podman would write it at first boot, where a power cut can leave it empty.
        (
            "etc/containers/networks/podman-default-kube-network.json",
            Node::text(template::KUBE_NETWORK, 0o644),
        ),
        ("usr/lib/forge/workload-ready", Node::text(template::READY_PROGRAM, 0o755)),
        ("usr/lib/forge/workload-secrets", Node::text(template::SECRETS_PROGRAM, 0o755)),
        ("usr/lib/forge/payload", Node::dir(0o755)),
        ("usr/lib/forge/images", Node::symlink(format!("payload/{IMAGES}"))),
        ("usr/lib/forge/workloads", Node::symlink(format!("payload/{WORKLOADS}"))),
    ] {
        tree.insert(TreePath::parse(path)?, node)?;
    }
    for (unit, text) in [
        ("forge-podman.service", template::RUNTIME_SERVICE),
        ("forge-workload@.service", template::WORKLOAD_SERVICE),
        ("forge-workload-ready@.service", template::READY_SERVICE),
        ("forge-workloads.target", template::WORKLOADS_TARGET),
        ("forge-required-workloads.target", template::REQUIRED_TARGET),
    ] {
        tree.insert(TreePath::parse(&format!("{SYSTEM}/{unit}"))?, Node::text(text, 0o644))?;
    }
    for (link, target) in [
        ("multi-user.target.wants/forge-workloads.target", "../forge-workloads.target".to_string()),
        ("boot-complete.target.requires/forge-podman.service", "../forge-podman.service".to_string()),
        (
            "boot-complete.target.requires/forge-required-workloads.target",
            "../forge-required-workloads.target".to_string(),
        ),
        (WANTS, format!("{PAYLOAD}/{UNITS}/{WANTS}")),
        (REQUIRES, format!("{PAYLOAD}/{UNITS}/{REQUIRES}")),
    ] {
        tree.insert(TreePath::parse(&format!("{SYSTEM}/{link}"))?, Node::symlink(target))?;
    }
    Ok(tree)
}

/// The payload side: manifests, which of them are started, and the image `store`, which must hold every image that they
/// name and [`PAUSE_IMAGE`].
///
/// # Errors
/// [`PodmanError`] for a manifest that cannot be read, or a path of the store that becomes too long.
pub fn payload_tree(workloads: &[Workload], store: Tree) -> Result<Tree, PodmanError> {
    let mut tree = Tree::new();
    tree.graft(&TreePath::parse(IMAGES)?, store)?;
    for dir in [WORKLOADS.to_string(), format!("{UNITS}/{WANTS}"), format!("{UNITS}/{REQUIRES}")] {
        tree.insert(TreePath::parse(&dir)?, Node::dir(0o755))?;
    }
    let ports: String = host_ports(workloads).iter().map(|port| format!("{port}\n")).collect();
    tree.insert(TreePath::parse(HOST_PORTS)?, Node::text(ports, 0o644))?;
    for workload in workloads {
        let name = &workload.name;
        let home = format!("{WORKLOADS}/{name}");
        let link = |unit: &str| Node::symlink(format!("/{SYSTEM}/{unit}@.service"));
        let mut entries = vec![
            (format!("{home}/manifest.yaml"), Node::file(joined(&workload.manifests)?, 0o644)),
            (format!("{home}/containers"), Node::text(containers(workload), 0o644)),
            (format!("{UNITS}/{WANTS}/forge-workload@{name}.service"), link("forge-workload")),
        ];
        if workload.required {
            let unit = format!("{UNITS}/{REQUIRES}/forge-workload-ready@{name}.service");
            entries.push((unit, link("forge-workload-ready")));
        }
        for (path, node) in entries {
            tree.insert(TreePath::parse(&path)?, node)?;
        }
    }
    Ok(tree)
}

/// Adds `ports` (`8080/tcp`) of what is not Podman's to those that the payload says it takes.
///
/// # Errors
/// [`PodmanError`] for a tree that is no payload's.
pub fn add_host_ports(payload: &mut Tree, ports: &[String]) -> Result<(), PodmanError> {
    let path = TreePath::parse(HOST_PORTS)?;
    let before = payload.file(&path).map_or(Ok(vec![]), |content| content.to_vec(content.len()));
    let before = before.map_err(|fault| PodmanError::Io { file: HOST_PORTS.into(), fault })?;
    let mut text = String::from_utf8_lossy(&before).into_owned();
    ports.iter().for_each(|port| text += &format!("{port}\n"));
    payload.insert(path, Node::text(text, 0o644))?;
    Ok(())
}

/// The files as one stream of documents: what a pod refers to must come in the stream that it comes in.
fn joined(manifests: &[(Manifest, Content)]) -> Result<Vec<u8>, PodmanError> {
    let mut stream = vec![];
    for (manifest, content) in manifests {
        let bytes = content
            .to_vec(content.len())
            .map_err(|fault| PodmanError::Io { file: manifest.file.clone(), fault })?;
        stream.extend_from_slice(b"---\n");
        stream.extend_from_slice(&bytes);
        if !bytes.ends_with(b"\n") {
            stream.push(b'\n');
        }
    }
    Ok(stream)
}

/// A line for each container that stays: its name, as Podman forms it, and the state that means health.
fn containers(workload: &Workload) -> String {
    let mut lines = String::new();
    for (name, pod) in pods(workload) {
        for container in pod.containers.iter().filter(|c| !c.is_init) {
            let wanted = match (pod.ends, container.has_liveness_probe) {
                (true, _) => "done",
                (false, true) => "healthy",
                (false, false) => "running",
            };
            lines += &format!("{name}-{} {wanted}\n", container.name);
        }
    }
    lines
}

/// The pods of a workload by the names that Podman gives them.
fn pods(workload: &Workload) -> impl Iterator<Item = (String, &Pod)> {
    workload.manifests.iter().flat_map(|(manifest, _)| manifest.pods()).map(|(object, pod)| {
        let suffix = if object.kind == "Pod" { "" } else { "-pod" };
        (format!("{}{suffix}", object.name), pod)
    })
}

/// Host ports that the workloads take, as protocol and number, each once: what an emulator forwards.
pub fn host_ports(workloads: &[Workload]) -> Vec<crate::layer::workload::container::Port> {
    let manifests = workloads.iter().flat_map(|w| &w.manifests);
    let ports: BTreeMap<_, ()> = manifests.flat_map(|(m, _)| m.host_ports()).map(|p| (p.host, ())).collect();
    ports.into_keys().collect()
}

#[cfg(test)]
mod tests;
