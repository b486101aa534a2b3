//! Layers → EROFS and its verity tree.

use super::Kitchen;
use crate::boot::verity::{self, VeritySpec};
use crate::disk::erofs::{self, ErofsSpec};
use crate::model::Guid;
use crate::plan::Filesystem;
use crate::tree::{Content, Tree};
use anyhow::Context as _;
use std::sync::Arc;

/// Writes `image` and `verity`; notes `root-hash`.
pub fn run(spec: &Filesystem, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let mut merged = Tree::new();
    for layer in &spec.layers {
        let upper = kitchen.tree(layer)?;
        merged = if merged.is_empty() {
            upper
        } else {
            upper.over(merged).with_context(|| format!("laying {layer} over what is below"))?
        };
    }
    let image = Arc::new(kitchen.stage.create("image")?);
    let erofs = ErofsSpec {
        uuid: Guid::derived(&kitchen.key, "file system"),
        epoch: kitchen.epoch,
        name: spec.label.clone(),
    };
    erofs::write(&merged, &erofs, &image).context("writing the file system")?;
    kitchen.env.cancel.check()?;
    let tree = kitchen.stage.create("verity")?;
    let root_hash = verity::format(&Content::of_file(image)?, &VeritySpec::derived(&kitchen.key), &tree, 0)
        .context("hashing the file system")?;
    kitchen.stage.fact("root-hash", root_hash);
    kitchen.stage.hash("image")?;
    kitchen.stage.hash("verity")?;
    Ok(())
}
