//! Clusters that boxes join: `clusters.toml` and a device → what it joins its cluster with.
//!
//! | kind | what the grant has | asked of the cluster | module |
//! |---|---|---|---|
//! | `k3s-agent`, `rke2-agent` | server, a token of an hour, the node's password | a bootstrap token; a stale node is removed | [`k3s`] |
//! | `k3s-server` | the node's name, password, a token of its own | nothing: the cluster is the box | [`k3s`] |
//! | `kubeedge` | a certificate, CloudCore's authority and addresses | CloudCore's token, and its signature | [`kubeedge`] |
//!
//! ```toml
//! [[cluster]]
//! name = "farms"
//! profiles = ["farm-kubeedge"]          # boxes with these images
//! [cluster.api]                         # the Kubernetes API; not for k3s-server
//! server = "https://kubernetes.farms.example:6443"
//! ca = "farms-ca.pem"                   # beside this file, as the next
//! token = "farms.token"                 # a service account's that may do what the kind needs
//! [cluster.join.kubeedge]
//! https = "https://cloudcore.farms.example:10002"
//! websocket = "cloudcore.farms.example:10000"
//! ```
//!
//! Another kind is another module and another arm in `Join`.

pub mod api;
pub mod k3s;
pub mod kubeedge;

use crate::enroll::claim::Csr;
use crate::enroll::grant::{File, Item, Material};
use crate::fleet::granting::GrantSource;
use crate::fleet::record::Device;
use crate::model::Epoch;
use anyhow::{Context as _, ensure};
use api::Api;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// `clusters.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "cluster")]
    clusters: Vec<Cluster>,
}

/// A cluster, and who joins it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    name: String,
    /// Profiles whose boxes join it.
    profiles: Vec<String>,
    api: Option<Access>,
    join: Join,
}

/// How the Kubernetes API is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    /// https.
    server: String,
    /// PEM of its authority.
    ca: PathBuf,
    /// A file with a bearer token: read at each call, for it may be rotated.
    token: PathBuf,
}

/// As what a box joins.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Join {
    K3sAgent(k3s::Agent),
    Rke2Agent(k3s::Agent),
    K3sServer {},
    Kubeedge(kubeedge::CloudCore),
}

/// The clusters of a fleet.
pub struct Clusters {
    clusters: Vec<Cluster>,
    dir: PathBuf,
    secret: hmac::Key,
}

/// A device that asks, and what its cluster's kind may need of the fleet.
pub struct Joining<'a> {
    /// Who.
    pub device: &'a Device,
    /// The name that its node has.
    pub node: &'a str,
    /// What it wants signed.
    pub csrs: &'a [Csr],
    /// The fleet's clock.
    pub now: Epoch,
    secret: &'a hmac::Key,
}

impl Joining<'_> {
    /// A secret for `purpose` that is this device's, the same each time: what was granted before stays right.
    pub fn lasting(&self, purpose: &str) -> Zeroizing<String> {
        let tag = hmac::sign(self.secret, format!("{purpose}|{}", self.device.id).as_bytes());
        Zeroizing::new(crate::model::digest::hex(&tag.as_ref()[..16]))
    }

    /// Whether it has never held a grant: then what the cluster knows under its name is another box's.
    pub fn is_new(&self) -> bool {
        self.device.acked == 0
    }
}

impl Clusters {
    /// What `clusters.toml` in `dir` says; none where it is not there. `secret` is behind what the fleet itself makes up.
    ///
    /// # Errors
    /// When it cannot be read, or contradicts itself.
    pub fn load(dir: &Path, secret: &[u8; 32]) -> anyhow::Result<Clusters> {
        let path = dir.join("clusters.toml");
        let document = match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Document::default(),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let clusters = Clusters {
            clusters: document.clusters,
            dir: dir.into(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
        };
        clusters.check().with_context(|| format!("reading {}", path.display()))?;
        Ok(clusters)
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut taken = BTreeSet::new();
        for cluster in &self.clusters {
            let name = &cluster.name;
            ensure!(!cluster.profiles.is_empty(), "cluster `{name}`: no box joins it, it has no `profiles`");
            for profile in &cluster.profiles {
                ensure!(taken.insert(profile), "cluster `{name}`: boxes of `{profile}` join another already");
            }
            match (&cluster.join, &cluster.api) {
                (Join::K3sServer {}, _) => {}
                (_, Some(api)) => ensure!(
                    is_https(&api.server)
                        && self.dir.join(&api.ca).is_file()
                        && self.dir.join(&api.token).is_file(),
                    "cluster `{name}`: `api` needs an https: `server`, and files for `ca` and `token`"
                ),
                (_, None) => anyhow::bail!("cluster `{name}`: it has no `api`"),
            }
            let addresses = match &cluster.join {
                Join::K3sAgent(agent) | Join::Rke2Agent(agent) => is_https(&agent.server),
                Join::K3sServer {} => true,
                Join::Kubeedge(cloudcore) => cloudcore.is_sound(),
            };
            ensure!(addresses, "cluster `{name}`: an address in `join` is none");
        }
        Ok(())
    }

    fn api(&self, cluster: &Cluster) -> anyhow::Result<Api> {
        let access =
            cluster.api.as_ref().with_context(|| format!("cluster `{}` has no `api`", cluster.name))?;
        let read = |path: &Path| {
            let path = self.dir.join(path);
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
        };
        let token = Zeroizing::new(String::from_utf8(read(&access.token)?).context("reading a token")?);
        Ok(Api::new(&access.server, read(&access.ca)?, token.trim()))
    }
}

impl GrantSource for Clusters {
    fn material(&self, device: &Device, csrs: &[Csr], now: Epoch) -> anyhow::Result<Material> {
        let Some(cluster) = self.clusters.iter().find(|c| c.profiles.contains(&device.profile)) else {
            return Ok(Material::default());
        };
        let node = device.node.as_deref().context("a device without a name")?;
        let joining = Joining { device, node, csrs, now, secret: &self.secret };
        let items = match &cluster.join {
            Join::K3sAgent(agent) => k3s::K3S.join(agent, &self.api(cluster)?, &joining),
            Join::Rke2Agent(agent) => k3s::RKE2.join(agent, &self.api(cluster)?, &joining),
            Join::K3sServer {} => k3s::K3S.serve(&joining),
            Join::Kubeedge(cloudcore) => cloudcore.join(&self.api(cluster)?, &joining),
        };
        let items = items.with_context(|| format!("asking cluster `{}` for {node}", cluster.name))?;
        Ok(Material { items })
    }
}

/// An https URL of a host and perhaps a port, with nothing behind it.
fn is_https(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(is_authority)
}

/// `HOST` or `HOST:PORT`, spelled so that it is one thing in a URL, in JSON and in YAML.
fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

/// A file of a grant.
fn file(path: impl Into<String>, mode: u32, content: &[u8]) -> File {
    File { path: path.into(), mode, content: Zeroizing::new(STANDARD.encode(content)) }
}

/// Files as an item.
fn files(files: Vec<File>) -> Item {
    Item::Files { files }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Clusters, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("clusters.toml", text), ("ca.pem", ""), ("token", "t")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Clusters::load(dir.path(), &[1; 32]).map_err(|e| format!("{e:#}"))
    }

    const API: &str = "api = { server = \"https://api.example:6443\", ca = \"ca.pem\", token = \"token\" }\n";

    #[test]
    fn a_cluster_says_who_joins_it_and_how() {
        let text = format!(
            "[[cluster]]\nname = \"a\"\nprofiles = [\"farm\"]\n{API}\
             join = {{ kubeedge = {{ https = \"https://cc.example:10002\", websocket = \"cc.example:10000\" }} }}\n\
             [[cluster]]\nname = \"b\"\nprofiles = [\"shop\"]\n{API}\
             join = {{ k3s-agent = {{ server = \"https://k3s.example:6443\" }} }}\n\
             [[cluster]]\nname = \"c\"\nprofiles = [\"alone\"]\njoin = {{ k3s-server = {{}} }}\n"
        );
        assert_eq!(load(&text).unwrap().clusters.len(), 3);
        assert_eq!(load("").unwrap().clusters.len(), 0);
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        let one = |profile: &str, api: &str, join: &str| {
            format!("[[cluster]]\nname = \"a\"\nprofiles = [{profile}]\n{api}join = {{ {join} }}\n")
        };
        let k3s = "k3s-agent = { server = \"https://k3s.example:6443\" }";
        for (text, said) in [
            (one("", API, k3s), "no `profiles`"),
            (one("\"x\"", "", k3s), "no `api`"),
            (one("\"x\"", API, k3s).repeat(2), "join another already"),
            (one("\"x\"", &API.replace("ca.pem", "none.pem"), k3s), "`ca` and `token`"),
            (one("\"x\"", &API.replace("https", "http"), k3s), "https"),
            (one("\"x\"", API, "k3s-agent = { server = \"https://a b\" }"), "an address in `join`"),
            (one("\"x\"", API, "k3s-agent = { servr = \"https://a\" }"), "servr"),
            (one("\"x\"", API, "docker = {}"), "docker"),
        ] {
            let error = load(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
            assert!(error.contains(said), "{error}\n{text}");
        }
    }
}
