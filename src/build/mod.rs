//! Walks a plan: the only place with threads, and with effects on the cache.
//!
//! [`run`] makes each step's outputs or finds them in the [`cache`], and tells an [`observe::Observer`] as it goes. The
//! recipes (module `recipe`) translate a step's specification into calls of the domain rooms.

pub mod cache;
pub mod fetch;
pub mod observe;
mod recipe;
mod schedule;

pub use recipe::LAYER;
pub use schedule::run;

use crate::host::cancel::Cancel;
use crate::model::Arch;
use crate::plan::StepId;
use crate::sign::rsa::BootSigner;
use crate::source::blobs::Blobs;
use cache::{Cache, Entry};
use observe::Observer;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything outside of the plan that a build needs. Nothing of it decides a byte of an artifact.
pub struct Env<'a> {
    /// Where steps' outputs are kept.
    pub cache: &'a Cache,
    /// Fetched inputs, by digest: all that the plan names must be there.
    pub blobs: &'a Blobs,
    /// Stops the build.
    pub cancel: &'a Cancel,
    /// Hears of it.
    pub observer: &'a dyn Observer,
    /// What runs programs of other architectures than this machine's, for those that the plan needs.
    pub emulators: &'a BTreeMap<Arch, PathBuf>,
    /// Signs what starts a device, where the plan wants that.
    pub boot_signer: Option<&'a BootSigner>,
    /// How many steps run at a time.
    pub jobs: usize,
    /// How many threads a step may use.
    pub threads: usize,
}

/// What a build made: the outputs of every step.
#[derive(Clone, Debug)]
pub struct Built {
    entries: BTreeMap<StepId, Entry>,
}

impl Built {
    /// The outputs of step `id`.
    ///
    /// # Errors
    /// When the plan had no such step.
    pub fn entry(&self, id: &StepId) -> anyhow::Result<&Entry> {
        self.entries.get(id).ok_or_else(|| anyhow::anyhow!("the plan has no step {id}"))
    }
}
