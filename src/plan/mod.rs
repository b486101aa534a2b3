//! The plan: what a build does, as data.
//!
//! Steps in topological order, each a recipe with everything that decides its output: specifications, digests, other
//! steps. Composed without touching clock, files, environment or network; equal profiles and locks give equal plans.

mod board;
mod compose;
mod demand;
mod distribution;
pub mod fit;
mod packages;
mod payload;
mod recipe;
mod shim;

pub use compose::{PlanError, compose};
pub use demand::{Beside, demand};
pub use recipe::*;

use crate::model::{Arch, Digest, Epoch, LayerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Everything that a build makes, and in which order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// The site.
    pub name: String,
    /// Version of the image.
    pub version: String,
    /// The time that artifacts bear.
    pub epoch: Epoch,
    /// Labels of the site, for the OCI image.
    pub labels: BTreeMap<String, String>,
    /// Steps: an input before what takes it in.
    pub steps: Vec<Step>,
    /// What becomes of the steps' outputs, for each architecture.
    pub targets: BTreeMap<Arch, Target>,
}

/// What is released for one architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Target {
    /// The OCI image's layers, lower first: their compressed blobs.
    pub layers: Vec<(LayerName, StepId)>,
    /// Files: name in the architecture's directory, step, and the step's output.
    pub files: BTreeMap<String, (StepId, String)>,
}

impl Plan {
    /// The digest of the whole plan: equal digests, equal artifacts.
    pub fn digest(&self) -> Digest {
        // Plain data with string keys serialises.
        Digest::of(serde_json::to_value(self).unwrap_or_default().to_string())
    }

    /// The step `id`.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|s| s.id == *id)
    }
}

/// The name of a step within its plan: `amd64/os`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(String);

impl StepId {
    /// A step's name.
    pub fn new(id: impl Into<String>) -> StepId {
        StepId(id.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// Its name.
    pub id: StepId,
    /// What it does, to what.
    pub recipe: Recipe,
    /// Digest of all that decides its output. The same key means the same bytes, on any machine.
    pub key: Digest,
}
