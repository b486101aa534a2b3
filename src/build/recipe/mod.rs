//! Recipes: a step's specification and its inputs' outputs → its own outputs, through one domain room each.

mod boot;
mod disk;
mod filesystem;
mod firmware;
mod installer;
mod large;
mod layers;
mod payload;
mod rootfs;
mod signed;

use super::Env;
use super::cache::{Entry, Stage};
use crate::model::{Digest, Epoch};
use crate::plan::{FileContent, FileInput, Recipe, StepId};
use crate::tree::{Content, Tree, TreePath, tar};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

/// What a layer's step makes.
pub const LAYER: &str = "layer.tar";

/// What a recipe works with.
pub struct Kitchen<'a> {
    /// The step.
    pub step: &'a StepId,
    /// The step's key, from which identifiers are derived.
    pub key: Digest,
    /// Outputs of the steps that it takes in.
    pub inputs: &'a BTreeMap<StepId, Entry>,
    /// The time that outputs bear.
    pub epoch: Epoch,
    /// Cache, blobs, cancellation.
    pub env: &'a Env<'a>,
    /// Where the outputs go.
    pub stage: &'a mut Stage,
}

/// Runs one recipe.
///
/// # Errors
/// What the domain room says.
pub fn run(recipe: &Recipe, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    match recipe {
        Recipe::Rootfs(spec) => rootfs::run(spec, kitchen),
        Recipe::Os(spec) => layers::os(spec, kitchen),
        Recipe::Site(spec) => layers::site(spec, kitchen),
        Recipe::Runtime(spec) => layers::runtime(spec, kitchen),
        Recipe::Payload(spec) => payload::run(spec, kitchen),
        Recipe::Initrd(spec) => boot::initrd(spec, kitchen),
        Recipe::Filesystem(spec) => filesystem::run(spec, kitchen),
        Recipe::Uki(spec) => boot::uki(spec, kitchen),
        Recipe::Signed(spec) => signed::run(spec, kitchen),
        Recipe::Frame(spec) => disk::frame(spec, kitchen),
        Recipe::Disk(spec) => disk::run(spec, kitchen),
        Recipe::Firmware(spec) => firmware::run(spec, kitchen),
        Recipe::Installer(spec) => installer::kernel_image(spec, kitchen),
        Recipe::Iso(spec) => installer::medium(spec, kitchen),
        Recipe::Blob(spec) => layers::blob(spec, kitchen),
    }
}

impl Kitchen<'_> {
    fn entry(&self, step: &StepId) -> anyhow::Result<&Entry> {
        self.inputs.get(step).with_context(|| format!("step {step} is no input"))
    }

    /// The tree of a layer's step.
    fn tree(&self, step: &StepId) -> anyhow::Result<Tree> {
        tar::index(self.entry(step)?.open(LAYER)?).with_context(|| format!("reading the layer of {step}"))
    }

    /// An output of an input, as content.
    fn content(&self, step: &StepId, output: &str) -> anyhow::Result<Content> {
        Ok(Content::of_file(Arc::new(self.entry(step)?.open(output)?))?)
    }

    /// A fetched input.
    fn blob(&self, digest: Digest) -> anyhow::Result<Content> {
        let path = self.env.blobs.get(digest)?.with_context(|| format!("{digest} was not fetched"))?;
        Ok(Content::of_file(Arc::new(File::open(path)?))?)
    }

    fn file(&self, file: &FileInput) -> anyhow::Result<(TreePath, Content)> {
        let content = match &file.content {
            FileContent::Text(text) => Content::from(text.clone().into_bytes()),
            FileContent::Locked(digest) => self.blob(*digest)?,
        };
        Ok((TreePath::parse(&file.path)?, content))
    }

    /// Writes a tree as this step's layer.
    fn write_layer(&mut self, tree: &Tree) -> anyhow::Result<()> {
        let out = std::io::BufWriter::with_capacity(1 << 20, self.stage.create(LAYER)?);
        let written = tar::write(tree, self.epoch, out)?;
        self.stage.record(LAYER, written.diff_id, written.length);
        Ok(())
    }
}
