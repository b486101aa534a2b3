//! Packages → a configured tree.

use super::{Kitchen, LAYER};
use crate::debian::bootstrap::{self, Variant};
use crate::debian::deb::Deb;
use crate::error::{Kind, Mark as _};
use crate::host::env;
use crate::model::{Arch, Digest};
use crate::plan::{Purpose, Rootfs};
use anyhow::{Context as _, ensure};

/// Writes the tree's layer.
pub fn run(spec: &Rootfs, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let blobs = kitchen.env.blobs;
    let mut packages = spec
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
        .collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(digest) = spec.kernel {
        let own = own_kernel(digest, spec.arch, kitchen)
            .with_context(|| format!("taking `image.kernel`, {digest}"))
            .kind(Kind::Input)
            .hint(
                "it has to be the .deb of a kernel for that architecture, as `make bindeb-pkg` writes it",
            )?;
        packages.push(own);
    }
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

/// The profile's own kernel: what it is called, the package says itself.
fn own_kernel(digest: Digest, arch: Arch, kitchen: &Kitchen<'_>) -> anyhow::Result<bootstrap::Package> {
    let (_, control) = Deb::open(kitchen.blob(digest)?.reader())?;
    let (name, made_for) = (control.required("Package")?, control.required("Architecture")?);
    ensure!(made_for == arch.to_string(), "{name} is for {made_for}, not {arch}");
    ensure!(name.starts_with("linux-image-"), "it is the package {name}, no kernel's");
    let path = kitchen.env.blobs.get(digest)?.context("it was not fetched")?;
    Ok(bootstrap::Package {
        name: name.into(),
        version: control.required("Version")?.into(),
        path,
        sha256: digest,
        automatic: false,
    })
}
