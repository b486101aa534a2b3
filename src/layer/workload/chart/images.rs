//! A chart's files and values → the container images that it will ask for, as far as that can be told unrendered.
//!
//! Annotated images (`artifacthub.io/images`, Artifact Hub's `annotations.md`) are the author's own list and are taken
//! alone. Without them: values in the shape that `helm create` gives them (`image: {repository, tag}`, with `registry`
//! beside it in many charts; the tag is the chart's `appVersion` where it is left out), and `image:` lines of templates
//! and CRDs that have no expression in them.

use super::{BadChart, document};
use crate::layer::workload::manifest::yaml::{Node, Value};
use crate::layer::workload::name::ImageName;
use std::collections::{BTreeMap, BTreeSet};

/// How deep values are looked through: deeper than a chart's have been seen to go.
const MAX_DEPTH: usize = 32;

/// The images, and where they were found.
pub(super) fn find(
    chart: &Node,
    files: &BTreeMap<String, Vec<u8>>,
    values: &[u8],
) -> Result<(BTreeSet<ImageName>, Vec<&'static str>), BadChart> {
    let annotated = annotated(chart)?;
    if !annotated.is_empty() {
        return Ok((annotated, vec!["annotations"]));
    }
    let (mut images, mut from) = (BTreeSet::new(), vec![]);
    let own = match files.get("values.yaml") {
        Some(bytes) => document("values.yaml", bytes)?,
        None => None,
    };
    let given = document("the profile's values", values)?;
    let mut search = Search { app_version: text(chart, "appVersion"), found: BTreeSet::new() };
    search.values(Layered { over: given.as_deref(), under: own.as_deref() }, "", 0);
    for (name, found) in [("values", search.found), ("templates", written(files))] {
        if !found.is_empty() {
            from.push(name);
        }
        images.extend(found);
    }
    Ok((images, from))
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.get(key).and_then(Node::text).filter(|text| !text.is_empty())
}

/// Those of the annotation: a list, as YAML in a text.
fn annotated(chart: &Node) -> Result<BTreeSet<ImageName>, BadChart> {
    let list = chart.at(&["annotations", "artifacthub.io/images"]).and_then(Node::text).unwrap_or_default();
    let bad =
        |fault: String| BadChart::Yaml { file: "Chart.yaml: annotation artifacthub.io/images".into(), fault };
    let Some(list) = document("Chart.yaml: annotation artifacthub.io/images", list.as_bytes())? else {
        return Ok(BTreeSet::new());
    };
    let items = list.items().ok_or_else(|| bad("it is no list".into()))?;
    let name = |item: &std::sync::Arc<Node>| {
        let image = text(item, "image").ok_or_else(|| bad("an item has no `image`".into()))?;
        image.parse().map_err(|e: crate::layer::workload::name::BadImageName| bad(e.to_string()))
    };
    items.iter().map(name).collect()
}

/// Values as Helm merges them: mappings key by key, all else replaced.
#[derive(Clone, Copy)]
struct Layered<'n> {
    over: Option<&'n Node>,
    under: Option<&'n Node>,
}

impl<'n> Layered<'n> {
    fn get(self, key: &str) -> Layered<'n> {
        let child = |node: Option<&'n Node>| node.and_then(|n| n.get(key));
        Layered { over: child(self.over), under: child(self.under) }
    }
    /// The node that decides what this is.
    fn top(self) -> Option<&'n Node> {
        self.over.or(self.under)
    }
    fn text(self, key: &str) -> Option<&'n str> {
        self.get(key).top()?.text().filter(|text| !text.is_empty())
    }
    fn keys(self) -> BTreeSet<&'n str> {
        let keys = |node: Option<&'n Node>| match node.map(|n| &n.value) {
            Some(Value::Mapping(entries)) => entries.iter().map(|(k, _)| k.as_str()).collect(),
            _ => vec![],
        };
        keys(self.over).into_iter().chain(keys(self.under)).collect()
    }
}

struct Search<'n> {
    app_version: Option<&'n str>,
    found: BTreeSet<ImageName>,
}

impl Search<'_> {
    fn values(&mut self, at: Layered<'_>, key: &str, depth: usize) {
        let Some(top) = at.top() else { return };
        let is_image = key.to_ascii_lowercase().ends_with("image");
        match &top.value {
            Value::Scalar { text, .. } if is_image => self.found.extend(complete(text)),
            Value::Scalar { .. } => {}
            _ if depth >= MAX_DEPTH => {}
            Value::Sequence(items) => {
                for item in items {
                    self.values(Layered { over: Some(item), under: None }, key, depth + 1);
                }
            }
            Value::Mapping(_) => {
                if let Some(repository) = at.text("repository") {
                    let tagged = !at.get("tag").keys().is_empty() || at.get("tag").top().is_some();
                    if is_image || tagged {
                        self.found.extend(self.image(at, repository));
                    }
                }
                for key in at.keys() {
                    self.values(at.get(key), key, depth + 1);
                }
            }
        }
    }

    fn image(&self, at: Layered<'_>, repository: &str) -> Option<ImageName> {
        let name = match at.text("registry") {
            Some(registry) => format!("{registry}/{repository}"),
            None => repository.into(),
        };
        let last = name.rsplit('/').next().unwrap_or_default();
        let name = match (at.text("digest"), at.text("tag").or(self.app_version)) {
            _ if last.contains([':', '@']) => name.clone(),
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, Some(tag)) => format!("{name}:{tag}"),
            (None, None) => name.clone(),
        };
        name.parse().ok()
    }
}

/// A text that names an image with its tag or digest; others may name anything.
fn complete(text: &str) -> Option<ImageName> {
    let last = text.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { text.parse().ok() } else { None }
}

/// `image:` lines of templates and CRDs that say it outright.
fn written(files: &BTreeMap<String, Vec<u8>>) -> BTreeSet<ImageName> {
    let read = |path: &str| path.starts_with("templates/") || path.starts_with("crds/");
    let lines = files.iter().filter(|(path, _)| read(path)).filter_map(|(_, b)| std::str::from_utf8(b).ok());
    let line = |line: &str| {
        let value = line.trim().trim_start_matches("- ").strip_prefix("image:")?.split(" #").next()?;
        let value = value.trim().trim_matches(['"', '\'']);
        if value.contains("{{") { None } else { complete(value) }
    };
    lines.flat_map(str::lines).filter_map(line).collect()
}
