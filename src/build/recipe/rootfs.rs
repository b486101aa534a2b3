//! Packages → a configured tree.

use super::{Kitchen, LAYER};
use crate::debian::bootstrap::{self, Variant};
use crate::host::env;
use crate::plan::{Purpose, Rootfs};
use anyhow::Context as _;

/// Writes the tree's layer.
pub fn run(spec: &Rootfs, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let blobs = kitchen.env.blobs;
    let packages = spec
        .packages
        .iter()
        .map(|p| {
            let path =
                blobs.get(p.digest)?.with_context(|| format!("{} {} was not fetched", p.name, p.version))?;
            Ok(bootstrap::Package {
                name: p.name.clone(),
                version: p.version.clone(),
                path,
                sha256: p.digest,
                automatic: p.automatic,
            })
        })
        .collect::<anyhow::Result<_>>()?;
    let variant = match spec.purpose {
        Purpose::Os => Variant::Os,
        Purpose::Container => Variant::Container,
    };
    let job = bootstrap::Spec { arch: spec.arch, epoch: kitchen.epoch, packages, variant };
    let out = kitchen.stage.create(LAYER)?;
    let (observer, step) = (kitchen.env.observer, kitchen.step);
    let env = bootstrap::Env {
        program: &env::program()?,
        work: &kitchen.env.cache.work(),
        jobs: kitchen.env.threads,
        emulator: kitchen.env.emulators.get(&spec.arch).map(|path| &**path),
        cancel: kitchen.env.cancel,
        progress: &|what| observer.event(crate::build::observe::Event::Doing { step: step.as_str(), what }),
    };
    let written = bootstrap::run(&job, &env, &out)?;
    kitchen.stage.record(LAYER, written.diff_id, written.length);
    Ok(())
}
