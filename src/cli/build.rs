//! `forge build`: profile → lock → plan → steps → release.

use super::args::{BuildOptions, ProfileArgs, Selection};
use super::compose::{self, LockMode, Workshop};
use super::{Session, key, registry};
use crate::error::{Kind, Mark as _};
use crate::model::Bytes;
use crate::oci::Reference;
use crate::release;
use std::path::Path;
use std::time::Instant;

/// Builds every profile.
pub fn run(
    session: &Session,
    args: &ProfileArgs,
    selection: &Selection,
    options: &BuildOptions,
) -> anyhow::Result<()> {
    let shop = Workshop::open(session, options.offline)?;
    let mode = if options.locked { LockMode::Locked } else { LockMode::Mend };
    for path in &args.profiles {
        let start = Instant::now();
        let profile = compose::load(session, path, &args.set, selection)?;
        // Before anything is fetched: a build that cannot be signed is of no use.
        let signer = key::signer(&profile)?;
        let boot_signer = key::boot_signer(&profile)?;
        let lock = compose::locked(session, path, &profile, &shop, mode)?;
        let plan = compose::planned(&profile, &lock, &shop)?;
        let built =
            compose::made(session, &profile, &lock, &plan, &shop, boot_signer.as_ref(), options.jobs)?;
        // Classic signatures name the repository, as cosign's do.
        let pushed = options.push.as_deref().map(|r| r.parse::<Reference>().kind(Kind::Input)).transpose()?;
        let published = profile.publish.as_ref().map(|p| p.r#ref.as_str().to_string());
        let repository = pushed.map(|r| r.name()).or(published).unwrap_or_default();
        let env = release::Env {
            cache: &shop.cache,
            signer: &*signer,
            repository: &repository,
            cancel: &session.cancel,
            observer: &session.ui,
        };
        let release = release::seal(&plan, &built, &lock, &options.out, &env)?;
        let mut human = format!("{}\n", release.dir.display());
        for artifact in &release.manifest.artifacts {
            human += &format!("  {:>9}  {}\n", artifact.size.to_string(), artifact.path);
        }
        if let Some(image) = &release.manifest.image {
            human += &format!("  {:>9}  oci: {}\n", oci_size(&release.dir).to_string(), image.index);
        }
        session.ui.result("release", &release, human);
        if let Some(reference) = &options.push {
            registry::push(session, &release.dir, reference)?;
        }
        let word = if release.unchanged { "unchanged" } else { "built" };
        let seconds = start.elapsed().as_secs_f64();
        session.ui.note(format!("{word} in {seconds:.1} s; next: forge run {}", release.dir.display()));
    }
    Ok(())
}

/// Sum of the layout's blobs; 0 where they cannot be listed, which the build would have told.
fn oci_size(dir: &Path) -> Bytes {
    let blobs = std::fs::read_dir(dir.join(release::LAYOUT).join("blobs/sha256")).into_iter().flatten();
    blobs.filter_map(|e| Some(Bytes(e.ok()?.metadata().ok()?.len()))).sum()
}
