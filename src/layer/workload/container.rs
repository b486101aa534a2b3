//! `[[container]]` → an OCI image: the packages' root file system, a few files over it, and what to run.
//!
//! Two layers, so that an edited page or setting rewrites kilobytes and the packages' layer, which images may share,
//! stays as it is. The image lives in the device's image store alone and is never compressed: its layers' blob digests
//! are their diff_ids. OCI image-spec v1.1, config.md and manifest.md.
//!
//! Knows nothing of packages: their tree comes configured. Contents are read only to be hashed.

use super::name::ImageName;
use super::store::{ImageLayer, OciImage};
use crate::model::{Arch, Digest, Epoch};
use crate::tree::{BadPath, Content, Node, NodeKind, Tree, TreeError, TreePath, tar};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

mod account;

pub use account::BadUser;

/// Where programs are looked for, and what `PATH` says in the container: Debian's own for root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container as the profile describes it, its files read.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What manifests call it; a short name becomes `localhost/NAME`.
    pub name: ImageName,
    /// Files over the packages'.
    pub files: Vec<File>,
    /// Program and arguments: the image's entrypoint, which is what Kubernetes calls `command`.
    pub command: Vec<String>,
    /// `USER`, `UID`, `USER:GROUP` or `UID:GID`; root where none.
    pub user: Option<String>,
    /// Ports that the program listens on.
    pub ports: Vec<Port>,
    /// Environment; `PATH` has a default.
    pub env: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
}

/// One file that is put into a container.
#[derive(Clone, Debug)]
pub struct File {
    /// Where; symbolic links of the packages (`/bin`) are followed.
    pub path: TreePath,
    /// What is in it.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
}

/// A port and its protocol, spelled `80/tcp` or `80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
}

/// A transport that ports belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// RFC 9260.
    Sctp,
}

/// A container that cannot be made, and why.
#[derive(Debug, thiserror::Error)]
#[error("container `{container}`: {fault}")]
pub struct ContainerError {
    /// The container's name.
    pub container: String,
    /// What is wrong with it.
    pub fault: ContainerFault,
}

/// What can be wrong with a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerFault {
    /// Nothing to run.
    #[error("it has no command")]
    NoCommand,
    /// The command names no program of the image.
    #[error("no program `{0}` among its packages and files")]
    NoProgram(String),
    /// The user is not one of the image's.
    #[error(transparent)]
    User(#[from] BadUser),
    /// A file's directory is a symbolic link that leads nowhere.
    #[error("`{path}` runs through `{link}`, which leads nowhere")]
    DanglingLink {
        /// The file.
        path: TreePath,
        /// The link.
        link: TreePath,
    },
    /// An environment variable that no process can have.
    #[error("`{0}` is no name of an environment variable, or its value has a NUL")]
    Env(String),
    /// A path that is too long with its links followed.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Files contradict the packages or each other.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A content could not be read to be hashed.
    #[error("reading its files: {0}")]
    Io(#[from] io::Error),
}

/// The image of `spec` over `base`, the configured tree of its packages. Reads every content once, to hash it.
///
/// # Errors
/// [`ContainerError`]: no such program or user in the trees, files that clash, contents that cannot be read.
pub fn image(spec: &Spec, base: Tree, arch: Arch, epoch: Epoch) -> Result<OciImage, ContainerError> {
    compose(spec, base, arch, epoch)
        .map_err(|fault| ContainerError { container: spec.name.local().to_string(), fault })
}

fn compose(spec: &Spec, base: Tree, arch: Arch, epoch: Epoch) -> Result<OciImage, ContainerFault> {
    let files = files_layer(spec, &base)?;
    let merged = files.clone().over(base.clone())?;
    check_program(spec, &merged)?;
    let user = spec.user.as_deref().map(|user| account::resolve(user, &merged)).transpose()?;
    let mut layers = vec![];
    for tree in [base, files] {
        if !tree.is_empty() {
            layers.push(layer(tree, epoch)?);
        }
    }
    let config = to_bytes(&config(spec, user, &layers, arch, epoch)?);
    let manifest = to_bytes(&manifest(&config, &layers));
    Ok(OciImage { names: vec![spec.name.local()], index: None, manifest, config, layers })
}

/// The image of one static program at `path` without a root file system around it, such as a pod's pause process.
///
/// # Errors
/// [`ContainerError`] where the program cannot be read.
pub fn program_image(
    name: ImageName,
    path: TreePath,
    program: Content,
    arguments: &[&str],
    arch: Arch,
    epoch: Epoch,
) -> Result<OciImage, ContainerError> {
    let command =
        std::iter::once(format!("/{path}")).chain(arguments.iter().map(ToString::to_string)).collect();
    let files = vec![File { path, content: program, mode: 0o755 }];
    let (env, labels) = (BTreeMap::new(), BTreeMap::new());
    let spec = Spec { name, files, command, user: None, ports: vec![], env, labels };
    image(&spec, Tree::new(), arch, epoch)
}

/// The files as a layer. Directories on the way are given as the packages have them: an upper layer's attributes win.
fn files_layer(spec: &Spec, base: &Tree) -> Result<Tree, ContainerFault> {
    let mut layer = Tree::new();
    for file in &spec.files {
        let path = through_links(base, &file.path)?;
        for dir in path.ancestors() {
            if let Some(node) = base.get(&dir) {
                layer.insert(dir, node.clone())?;
            }
        }
        layer.insert(path, Node::file(file.content.clone(), file.mode & 0o7777))?;
    }
    Ok(layer)
}

/// `path` with the links among its directories followed: a directory `bin` over the packages' link of that name would
/// hide every program.
fn through_links(base: &Tree, path: &TreePath) -> Result<TreePath, ContainerFault> {
    let mut at = TreePath::root();
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        let next = at.join(name)?;
        let is_link = matches!(base.get(&next).map(|n| &n.kind), Some(NodeKind::Symlink(_)));
        at = if is_link && components.peek().is_some() {
            let dangling = || ContainerFault::DanglingLink { path: path.clone(), link: next.clone() };
            base.resolve(&next).ok_or_else(dangling)?
        } else {
            next
        };
    }
    Ok(at)
}

fn check_program(spec: &Spec, merged: &Tree) -> Result<(), ContainerFault> {
    let program = spec.command.first().ok_or(ContainerFault::NoCommand)?;
    let is_program = |path: &str| {
        let found = TreePath::parse(path).ok().and_then(|p| merged.resolve(&p));
        let file = found.and_then(|p| match merged.get(&p).map(|n| &n.kind) {
            Some(NodeKind::HardLink(target)) => merged.get(target),
            _ => merged.get(&p),
        });
        file.is_some_and(|n| matches!(n.kind, NodeKind::File(_)) && n.mode & 0o111 != 0)
    };
    let path = spec.env.get("PATH").map_or(PATH, String::as_str);
    let found = if program.contains('/') {
        is_program(program)
    } else {
        !program.is_empty() && path.split(':').any(|dir| is_program(&format!("{dir}/{program}")))
    };
    if found { Ok(()) } else { Err(ContainerFault::NoProgram(program.clone())) }
}

fn layer(tree: Tree, epoch: Epoch) -> io::Result<ImageLayer> {
    let written = tar::write(&tree, epoch, io::sink())?;
    Ok(ImageLayer { diff_id: written.diff_id, length: written.length, tree: Arc::new(tree) })
}

fn config(
    spec: &Spec,
    user: Option<String>,
    layers: &[ImageLayer],
    arch: Arch,
    epoch: Epoch,
) -> Result<Value, ContainerFault> {
    let mut env = vec![];
    if !spec.env.contains_key("PATH") {
        env.push(format!("PATH={PATH}"));
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ContainerFault::Env(name.clone()));
        }
        env.push(format!("{name}={value}"));
    }
    let mut run = json!({ "Entrypoint": spec.command, "Env": env });
    if let Some(user) = user {
        run["User"] = user.into();
    }
    if !spec.ports.is_empty() {
        run["ExposedPorts"] = spec.ports.iter().map(|p| (p.to_string(), json!({}))).collect();
    }
    if !spec.labels.is_empty() {
        run["Labels"] = json!(spec.labels);
    }
    let created = epoch.rfc3339();
    let history: Vec<_> =
        layers.iter().map(|_| json!({ "created": created, "created_by": "forge [[container]]" })).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    Ok(json!({
        "architecture": arch.oci(),
        "os": "linux",
        "created": created,
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    }))
}

fn manifest(config: &[u8], layers: &[ImageLayer]) -> Value {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer.diff_id,
                "size": layer.length,
            })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config),
            "size": config.len(),
        },
        "layers": layers,
    })
}

/// Sorted keys and no spaces: one spelling, one digest.
fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = BadPort;
    fn from_str(s: &str) -> Result<Protocol, BadPort> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|p| p.to_string().eq_ignore_ascii_case(s))
            .ok_or_else(|| BadPort(s.chars().take(80).collect()))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for Port {
    type Err = BadPort;
    fn from_str(s: &str) -> Result<Port, BadPort> {
        let bad = || BadPort(s.chars().take(80).collect());
        let (number, protocol) = s.split_once('/').unwrap_or((s, "tcp"));
        let number = number.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?;
        Ok(Port { number, protocol: protocol.parse().map_err(|_| bad())? })
    }
}

/// Text that is no port.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no port: 1 to 65535, then perhaps /tcp, /udp or /sctp")]
pub struct BadPort(pub String);

#[cfg(test)]
mod tests;
