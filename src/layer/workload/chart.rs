//! Helm charts: a package → its name, version and images, and the object that a distribution's own controller installs.
//!
//! The chart travels inside its `HelmChart` object (`spec.chartContent`, helm-controller `docs/helm.md`): one file, put in
//! place with the other manifests, the same on k3s and RKE2, which serve static files at different addresses; and the
//! job that installs it asks nobody for it. An object is at most what etcd takes, which bounds the package.
//!
//! Only Helm renders a chart, when it is locked and the profile names a Helm. Here it is read: without rendering, images
//! are those of the annotation that Artifact Hub defines, else of values and of what templates say outright ([`images`]).
//! Helm 3, `docs/topics/charts.md` and `docs/topics/chart_repository.md`.

pub mod images;

use super::manifest::yaml::{self, Node};
use super::name::ImageName;
use crate::model::Digest;
use crate::oci;
use crate::tree::NodeKind;
use crate::tree::tar::{Reader, Stream, TarError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};

/// The largest package, in bytes: in base64 and with its values it is below the 1.5 MiB of an etcd request.
pub const MAX_PACKAGE: u64 = 1 << 20;
/// What to do about a larger one.
pub const TOO_LARGE: &str = "a chart travels inside a Kubernetes object: leave documentation and tests out of it, or carry its manifests";
/// The largest index of a repository, in bytes; the largest public ones have about 25 MiB.
pub const MAX_INDEX: u64 = 64 << 20;
/// The most nodes of an index.
const MAX_INDEX_NODES: u64 = 4_000_000;
/// The most bytes of all files of a chart: what a package of the largest size cannot unpack to by honest means.
const MAX_UNPACKED: u64 = 32 << 20;
/// The most files of a chart; the largest operators have some hundreds.
const MAX_FILES: usize = 4096;

/// What is known of a chart without rendering it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chart {
    /// Its own name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// The images that it was found to need.
    pub images: BTreeSet<ImageName>,
    /// How they were found.
    pub images_from: Vec<&'static str>,
}

/// A package that is no chart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadChart {
    /// More than can travel.
    #[error("{0} bytes, more than the {MAX_PACKAGE} that a chart may have")]
    TooLarge(u64),
    /// More, unpacked, than any chart has.
    #[error("it unpacks to more than {MAX_FILES} files or {MAX_UNPACKED} bytes")]
    Bomb,
    /// No archive.
    #[error("its archive: {0}")]
    Tar(#[from] TarError),
    /// No gzip.
    #[error("its archive: {0}")]
    Io(#[from] io::Error),
    /// A file that a chart must have.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A file that is no YAML, or not the YAML that it should be.
    #[error("{file}: {fault}")]
    Yaml {
        /// Its path.
        file: String,
        /// What is wrong.
        fault: String,
    },
}

/// Reads a package and, over its own values, `values`.
///
/// # Errors
/// [`BadChart`].
pub fn read(package: &[u8], values: &[u8]) -> Result<Chart, BadChart> {
    let files = unpack(package)?;
    let chart = document("Chart.yaml", files.get("Chart.yaml").ok_or(BadChart::Missing("Chart.yaml"))?)?
        .ok_or(BadChart::Missing("Chart.yaml"))?;
    let text = |key: &str| chart.get(key).and_then(Node::text).map(String::from);
    let bad = |fault: &str| BadChart::Yaml { file: "Chart.yaml".into(), fault: fault.into() };
    let name = text("name").ok_or_else(|| bad("it has no `name`"))?;
    let version = text("version").ok_or_else(|| bad("it has no `version`"))?;
    let (images, images_from) = images::find(&chart, &files, values)?;
    Ok(Chart { name, version, images, images_from })
}

/// The text files of a package by their path below its one directory.
fn unpack(package: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BadChart> {
    if package.len() as u64 > MAX_PACKAGE {
        return Err(BadChart::TooLarge(package.len() as u64));
    }
    // One byte more than is taken, so that what is too long is told from what is cut.
    let tar = oci::layer::decompress(oci::layer::TAR_GZIP, package, MAX_UNPACKED + 1)?;
    let mut reader = Reader::new(Stream(tar));
    let (mut files, mut total) = (BTreeMap::new(), 0_u64);
    while let Some(entry) = reader.next_entry()? {
        if !matches!(entry.node.kind, NodeKind::File(_)) {
            continue;
        }
        total = total.saturating_add(entry.size);
        if total > MAX_UNPACKED || files.len() >= MAX_FILES {
            return Err(BadChart::Bomb);
        }
        let mut bytes = vec![];
        (&mut reader).take(entry.size).read_to_end(&mut bytes)?;
        if let Some((_, path)) = entry.path.as_str().split_once('/') {
            files.insert(path.to_string(), bytes);
        }
    }
    Ok(files)
}

/// The first document of a YAML file; `None` for an empty one.
fn document(file: &str, bytes: &[u8]) -> Result<Option<std::sync::Arc<Node>>, BadChart> {
    let bad = |fault: String| BadChart::Yaml { file: file.into(), fault };
    let text = std::str::from_utf8(bytes).map_err(|_| bad("not UTF-8".into()))?;
    let documents =
        yaml::parse(text).map_err(|e| bad(format!("{}:{}: {}", e.place.line, e.place.column, e.why)))?;
    Ok(documents.into_iter().next())
}

/// A chart of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its package is: complete, or below the repository.
    pub url: String,
    /// The package's digest, where the index says one.
    pub digest: Option<Digest>,
}

/// What the index of a repository says of a chart.
///
/// # Errors
/// When it is no index, or has no such chart or version.
pub fn listed(index: &[u8], name: &str, version: &str) -> Result<Entry, BadChart> {
    let bad = |fault: String| BadChart::Yaml { file: "index.yaml".into(), fault };
    let text = std::str::from_utf8(index).map_err(|_| bad("not UTF-8".into()))?;
    let documents = yaml::parse_up_to(text, MAX_INDEX_NODES)
        .map_err(|e| bad(format!("{}:{}: {}", e.place.line, e.place.column, e.why)))?;
    let charts = documents.first().and_then(|d| d.at(&["entries", name])).and_then(Node::items);
    let charts = charts.ok_or_else(|| bad(format!("it has no chart `{name}`")))?;
    let text = |node: &Node, key: &str| node.get(key).and_then(Node::text).map(String::from);
    let entry = charts.iter().find(|c| text(c, "version").as_deref() == Some(version));
    let entry = entry.ok_or_else(|| {
        let has: Vec<String> = charts.iter().take(5).filter_map(|c| text(c, "version")).collect();
        bad(format!("`{name}` has no version {version}; its newest are {}", has.join(", ")))
    })?;
    let url = entry.get("urls").and_then(Node::items).and_then(|urls| urls.first()?.text());
    let url = url.ok_or_else(|| bad(format!("`{name}` {version} has no URL")))?.to_string();
    let hex = text(entry, "digest").map(|d| d.trim_start_matches("sha256:").to_string());
    let digest = match hex.filter(|hex| !hex.is_empty()) {
        Some(hex) => Some(Digest::from_hex(&hex).map_err(|_| bad(format!("`{hex}` is no digest")))?),
        None => None,
    };
    Ok(Entry { url, digest })
}

/// A reference of a chart with its version as the tag, in which `_` stands for the `+` that no tag may have. One that has
/// a tag or a digest stays as it is.
pub fn tagged(reference: &str, version: Option<&str>) -> String {
    let last = reference.rsplit('/').next().unwrap_or_default();
    match version {
        Some(version) if !last.contains([':', '@']) => format!("{reference}:{}", version.replace('+', "_")),
        _ => reference.into(),
    }
}

/// The object that the distribution's controller installs the chart from, as a manifest.
pub fn object(workload: &str, namespace: &str, package: &[u8], values: &str) -> String {
    let mut spec = serde_json::json!({
        "chartContent": STANDARD.encode(package),
        "targetNamespace": namespace,
        "createNamespace": true,
    });
    if !values.trim().is_empty() {
        spec["valuesContent"] = values.into();
    }
    let object = serde_json::json!({
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChart",
        "metadata": { "name": workload, "namespace": NAMESPACE },
        "spec": spec,
    });
    // JSON is YAML (YAML 1.2 §1.3).
    format!("# Written by forge.\n{object}\n")
}

/// Where the controller looks for its objects.
pub const NAMESPACE: &str = "kube-system";

/// The name of the job that installs a chart: complete once it is installed.
pub fn job(workload: &str) -> String {
    format!("helm-install-{workload}")
}

#[cfg(test)]
mod tests;
