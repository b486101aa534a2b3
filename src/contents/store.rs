//! The tables of a containers/storage store → its images with names and sizes. Field names are those of `layers.go` and
//! `images.go`.

use super::Package;
use crate::model::{Bytes, Digest};
use crate::tree::TreePath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A container image that a tree carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ContainerImage {
    /// What manifests call it.
    pub names: Vec<String>,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its layers, uncompressed; shared ones count for each image.
    pub size: Bytes,
}

#[derive(Deserialize)]
struct ImageRow {
    digest: Digest,
    #[serde(default)]
    names: Vec<String>,
    layer: Option<String>,
}

#[derive(Deserialize)]
struct LayerRow {
    id: String,
    parent: Option<String>,
    #[serde(rename = "diff-size", default)]
    size: u64,
}

/// What has been read of a store.
#[derive(Default)]
pub(super) struct Tables {
    images: Vec<ImageRow>,
    layers: BTreeMap<String, LayerRow>,
    /// Packages by the id of the layer that has their database.
    pub packages: BTreeMap<String, BTreeMap<String, Package>>,
}

impl Tables {
    /// Whether `path` is one of a store's tables.
    pub fn is_table(path: &TreePath) -> bool {
        ["overlay-images/images.json", "overlay-layers/layers.json"].iter().any(|table| {
            path.as_str().strip_suffix(table).is_some_and(|dir| dir.is_empty() || dir.ends_with('/'))
        })
    }

    /// Takes in the table at `path`.
    pub fn table(&mut self, path: &TreePath, bytes: &[u8]) -> serde_json::Result<()> {
        if path.name() == "images.json" {
            self.images.extend(serde_json::from_slice::<Vec<ImageRow>>(bytes)?);
        } else {
            let rows: Vec<LayerRow> = serde_json::from_slice(bytes)?;
            self.layers.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
        }
        Ok(())
    }

    /// The images, sorted, and the packages of each by set.
    pub fn finish(self) -> (Vec<ContainerImage>, BTreeMap<String, BTreeMap<String, Package>>) {
        let mut packages = BTreeMap::new();
        let mut images = vec![];
        for row in &self.images {
            let (mut size, mut seen, mut at) = (0u64, BTreeSet::new(), row.layer.as_deref());
            let mut installed = None;
            // From the top layer down; a hostile table may run in a circle.
            while let Some(layer) = at.filter(|id| seen.insert(*id)).and_then(|id| self.layers.get(id)) {
                size = size.saturating_add(layer.size);
                installed = installed.or_else(|| self.packages.get(&layer.id));
                at = layer.parent.as_deref();
            }
            if let (Some(installed), Some(name)) = (installed, row.names.first()) {
                let name = name.strip_prefix("localhost/").unwrap_or(name);
                packages.insert(format!("container/{name}"), installed.clone());
            }
            images.push(ContainerImage { names: row.names.clone(), digest: row.digest, size: Bytes(size) });
        }
        images.sort();
        (images, packages)
    }
}
