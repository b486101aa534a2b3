//! The two JSON tables of a store, `layers.json` and `images.json`, field by field as `layers.go` and `images.go` name
//! them.

use super::ImageLayer;
use super::document::Blob;
use crate::layer::workload::name::ImageName;
use crate::model::{Digest, Epoch};
use serde::Serialize;
use std::collections::BTreeMap;

/// A row of `layers.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerRecord {
    #[serde(skip)]
    order: usize,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    created: String,
    compressed_diff_digest: Digest,
    compressed_size: u64,
    diff_digest: Digest,
    diff_size: u64,
    /// Absent where zero, as Go's `omitempty` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<u8>,
}

impl LayerRecord {
    /// The row of `layer`, the `order`th of the store.
    pub fn new(
        order: usize,
        id: &str,
        parent: Option<&str>,
        layer: &ImageLayer,
        blob: Blob,
        epoch: Epoch,
    ) -> LayerRecord {
        LayerRecord {
            order,
            id: id.into(),
            parent: parent.map(String::from),
            created: epoch.rfc3339(),
            compressed_diff_digest: blob.digest,
            compressed_size: blob.length,
            diff_digest: layer.diff_id,
            diff_size: layer.length,
            compression: Some(blob.compression as u8).filter(|c| *c != 0),
        }
    }

    /// Id of the layer below.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_deref()
    }
}

/// A row of `images.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageRecord {
    id: String,
    digest: Digest,
    names: Vec<String>,
    layer: Option<String>,
    metadata: &'static str,
    big_data_names: Vec<String>,
    big_data_sizes: BTreeMap<String, usize>,
    big_data_digests: BTreeMap<String, Digest>,
    created: String,
}

impl ImageRecord {
    /// The row of an image with top layer `layer`, without names and documents.
    pub fn new(id: &str, digest: Digest, layer: Option<&str>, created: String) -> ImageRecord {
        ImageRecord {
            id: id.into(),
            digest,
            names: vec![],
            layer: layer.map(String::from),
            metadata: "{}",
            big_data_names: vec![],
            big_data_sizes: BTreeMap::new(),
            big_data_digests: BTreeMap::new(),
            created,
        }
    }

    /// Takes in names that it does not have yet.
    pub fn add_names(&mut self, names: &[ImageName]) {
        self.names.extend(names.iter().map(ToString::to_string));
        self.names.sort();
        self.names.dedup();
    }

    /// Takes in a document by the key that it is kept under.
    pub fn add_big_data(&mut self, key: String, bytes: &[u8]) {
        self.big_data_sizes.insert(key.clone(), bytes.len());
        if self.big_data_digests.insert(key.clone(), Digest::of(bytes)).is_none() {
            self.big_data_names.push(key);
        }
    }
}

/// `layers.json`. Parents come before their children, which is how the driver expects to meet them.
pub fn layers_json(records: impl Iterator<Item = LayerRecord>) -> Vec<u8> {
    let mut rows: Vec<_> = records.collect();
    rows.sort_by_key(|row| row.order);
    json(&rows)
}

/// `images.json`.
pub fn images_json(records: impl Iterator<Item = ImageRecord>) -> Vec<u8> {
    json(&records.collect::<Vec<_>>())
}

fn json(rows: &[impl Serialize]) -> Vec<u8> {
    // Only maps with other keys than strings cannot be JSON, and rows have none.
    serde_json::to_vec(rows).unwrap_or_default()
}
