//! Words with a grammar: names, versions, addresses.

use super::grammar::*;
use super::parsed;
use crate::model::SiteName;
use crate::profile::fragment::Node;
use crate::profile::shape::{Definitions, Reader, Shape, Wrong};
use crate::profile::word::word;
use serde::Serialize;
use serde_json::{Value as Json, json};

word! {
    /// The version of an image: it names folders, files, boot entries (where `+` counts tries) and partitions.
    ImageVersion: "an image version", "^[0-9A-Za-z][0-9A-Za-z.-]{0,31}$",
        "at most 32 letters, digits, `.` and `-`, such as `2026.11.22`",
        |s| s.len() <= 32 && spelled(s, alphanumeric, |c| alphanumeric(c) || matches!(c, b'.' | b'-'));
    /// The name of a Debian binary package (Debian policy §5.6.1).
    PackageName: "a package name", "^[a-z0-9][a-z0-9+.-]+$",
        "lowercase letters, digits, `+`, `-` and `.`, such as `openssh-server`",
        |s| (2..=128).contains(&s.len()) && spelled(s, lower, |c| lower(c) || matches!(c, b'+' | b'-' | b'.'));
    /// One word of the kernel's command line.
    KernelArg: "a kernel argument", r"^[!#-&(-~]+$",
        "one word of printable ASCII without quotes, such as `console=ttyS0`",
        |s| (1..=512).contains(&s.len()) && s.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\'');
    /// The name of a device tree, as the kernel's sources have it: the vendor's folder and the file.
    DeviceTree: "a device tree", r"^[0-9A-Za-z][0-9A-Za-z,_.+-]*(/[0-9A-Za-z][0-9A-Za-z,_.+-]*)*\.dtb$",
        "folder and file, such as `nvidia/tegra234-p3768-0000+p3767-0005.dtb`", is_device_tree;
    /// The name of a kernel module.
    ModuleName: "a kernel module", "^[a-z0-9][a-z0-9_-]*$",
        "lowercase letters, digits, `_` and `-`, such as `dm_crypt`",
        |s| s.len() <= 64 && spelled(s, lower, |c| lower(c) || matches!(c, b'_' | b'-'));
    /// A host name or an IP address.
    HostName: "a host name or address", "^[0-9A-Za-z.:-]+$",
        "such as `0.pool.example` or `192.0.2.1`", is_host;
    /// The name of a user, as useradd(8) takes it.
    UserName: "a user name", "^[a-z_][a-z0-9_-]{0,31}$",
        "at most 32 lowercase letters, digits, `_` and `-`, not starting with a digit or `-`",
        |s| s.len() <= 32 && spelled(s, |c| c.is_ascii_lowercase() || c == b'_', |c| lower(c) || matches!(c, b'_' | b'-'));
    /// A public key in the form of authorized_keys(5).
    SshKey: "an SSH public key", "^(ssh|ecdsa|sk)-",
        "one line of a `.pub` file: type, base64, comment; not the private key", is_ssh_key;
    /// The name and tag of an OCI image made here: `till-web:1`, which Podman knows as `localhost/till-web:1`.
    ContainerName: "a container name", "^[a-z0-9]+([._-][a-z0-9]+)*:[0-9A-Za-z_][0-9A-Za-z._-]{0,127}$",
        "a name and a tag, such as `till-web:1`", is_container_name;
    /// A DNS label (RFC 1123) that names a workload and its units.
    WorkloadName: "a workload name", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "1 to 63 of a-z, 0-9 and `-`, not starting or ending with `-`", |s| SiteName::parse(s).is_ok();
    /// The name of a container image in a registry: complete, with a tag or a digest.
    ImageName: "a container image", "^[^/@]+(/[^/:@]+)+(:[^/:@]+)?(@sha256:[0-9a-f]{64})?$",
        "registry, `/`, name and tag, such as `registry.example/emqx/emqx:5.8`",
        |s| is_reference(s) && s.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    /// The `kind` of a Kubernetes object.
    ObjectKind: "a kind of object", "^[A-Z][0-9A-Za-z]{0,62}$",
        "an uppercase letter, then letters and digits, such as `EMQX`",
        |s| s.len() <= 63 && spelled(s, |c| c.is_ascii_uppercase(), alphanumeric);
    /// The way to a field of an object: keys, with `[]` where one holds a list.
    FieldPath: "the way to a field", r"^[0-9A-Za-z_-]+(\[\])?(\.[0-9A-Za-z_-]+(\[\])?)*$",
        "keys with dots between, `[]` behind one that holds a list, such as `spec.brokers[].image`", is_field_path;
    /// A Kubernetes namespace: a DNS label.
    Namespace: "a namespace", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "1 to 63 of a-z, 0-9 and `-`, not starting or ending with `-`", |s| SiteName::parse(s).is_ok();
    /// The address of a Git repository.
    GitUrl: "a repository's address", "^(https|ssh)://",
        "an https or ssh URL, such as `https://git.example/sites.git` or `ssh://git@git.example/sites`", is_git_url;
    /// The name of a branch (git-check-ref-format(1), narrowed).
    BranchName: "a branch", "^[0-9A-Za-z][0-9A-Za-z/._-]{0,127}$",
        "letters, digits, `/`, `.`, `_` and `-`, such as `main`",
        |s| s.len() <= 128 && spelled(s, alphanumeric, |c| alphanumeric(c) || matches!(c, b'/' | b'.' | b'_' | b'-'))
            && !s.contains("..") && !s.ends_with(['/', '.']);
    /// A directory of a repository.
    RepositoryPath: "a directory of a repository", "^[0-9A-Za-z._-]+(/[0-9A-Za-z._-]+)*$",
        "a relative path without `..`, such as `sites/store-042`",
        |s| s.len() <= 512 && s.split('/').all(|p| p != ".." && spelled(p,
            |c| alphanumeric(c) || matches!(c, b'.' | b'_' | b'-'), |c| alphanumeric(c) || matches!(c, b'.' | b'_' | b'-')));
    /// The name of a network interface of Linux.
    InterfaceName: "the name of an interface", "^[a-z][0-9a-z._-]{0,14}$",
        "at most 15 lowercase letters, digits, `.`, `_` and `-`, such as `br0`",
        |s| s.len() <= 15 && spelled(s, |c| c.is_ascii_lowercase(), |c| lower(c) || matches!(c, b'.' | b'_' | b'-'));
    /// A version of an upstream release: `v1.34.2+k3s1`.
    ReleaseVersion: "a release version", r"^v[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$",
        "`v` and three numbers, such as `v1.34.2+k3s1`", is_release_version;
    /// The version of a Helm chart: a semantic version.
    ChartVersion: "a chart version", r"^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$",
        "three numbers, such as `2.2.29`", |s| is_release_version(&format!("v{s}"));
    /// The address of a Debian archive; no part of what is built, which the lock pins by digest.
    Mirror: "an archive mirror", "^(https?://|.*[$][{])",
        "an http or https URL, such as `https://deb.example/debian`", |s| is_url(s, &["https://", "http://"]), env;
    /// The address of an enrollment endpoint.
    Endpoint: "an endpoint", "^https://", "an https URL, such as `https://fleet.example:8443`", |s| is_url(s, &["https://"]);
    /// Where an installer fetches its disk image from: what comes is held against a signed digest, so http will do.
    ImageUrl: "the address of a disk image", "^http://", "an http URL, such as `http://boot.example/store-042/disk.raw.zst`",
        |s| is_url(s, &["http://"]) && s.bytes().all(|c| c.is_ascii_graphic());
    /// A name of a disk below /dev.
    DevicePath: "a name of a disk", "^/dev/[!-~]+$", "a path below /dev, such as `/dev/disk/by-path/pci-0000:00:17.0-ata-1`",
        |s| s.strip_prefix("/dev/").is_some_and(|name| !name.is_empty() && !name.contains("..")) && s.bytes().all(|c| c.is_ascii_graphic());
    /// The repository that images are pushed to, without tag or digest.
    Repository: "a repository", "^[^/@]+(/[^/:@]+)+$|[$][{]",
        "registry, `/` and path, without tag or digest, such as `registry.example/edge/store-042`",
        |s| is_reference(s) && !s.contains('@') && !s.rsplit('/').next().unwrap_or_default().contains(':'), env;
}

impl Namespace {
    /// Where Kubernetes puts what names none.
    pub fn default_one() -> Namespace {
        Namespace("default".into())
    }
}

impl BranchName {
    /// What a new repository has.
    pub fn main() -> BranchName {
        BranchName("main".into())
    }
}

impl RepositoryPath {
    /// The whole repository.
    pub fn root() -> RepositoryPath {
        RepositoryPath(".".into())
    }
}

/// An IANA time zone: `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Timezone(String);

impl Timezone {
    /// UTC: servers without a place.
    pub fn utc() -> Timezone {
        Timezone("UTC".into())
    }
    /// The name, a path below `/usr/share/zoneinfo`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Shape for Timezone {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Timezone> {
        parsed(node, reader, "a time zone", |s| {
            let zones: Vec<&str> = crate::template::TIME_ZONES.lines().collect();
            if zones.contains(&s) {
                return Ok(Timezone(s.into()));
            }
            let shown: String = s.chars().take(80).collect();
            let meant = crate::profile::suggest::nearest(s, &zones)
                .map(|z| format!(", did you mean `{z}`?"))
                .unwrap_or_default();
            Err(Wrong::new(
                format!("`{shown}` is not a time zone{meant}"),
                "a name of the IANA time zone database, such as `Europe/Berlin` or `UTC`",
            ))
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9+/_-]+$" })
    }
}
