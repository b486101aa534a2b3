//! Brings the inputs that a plan needs into the blob cache: packages from the archive's mirrors, files from beside the
//! profile. What the cache has, and what only finished steps need, is not fetched.

use super::cache::Cache;
use super::observe::{Event, Observer};
use crate::error::{self, Kind};
use crate::host::cancel::Cancel;
use crate::host::http::{Client, Expect};
use crate::lock::{Lock, LockedChart, LockedPackage, resolve};
use crate::model::{Bytes, Digest};
use crate::plan::{GuestDisk, Plan, Recipe, Runtime};
use crate::source::blobs::Blobs;
use crate::source::oci::{self, BlobStore as _};
use crate::source::release::{self, PinnedFile, Places};
use crate::source::remote;
use anyhow::{Context as _, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The name under which fetching is told of.
const STEP: &str = "fetch";

/// What fetching works with.
pub struct Env<'a> {
    /// Fetches.
    pub client: &'a Client,
    /// Keeps what was fetched.
    pub blobs: &'a Blobs,
    /// Knows which steps are done.
    pub cache: &'a Cache,
    /// Mirrors by base, as [`resolve::Env::mirrors`].
    pub mirrors: &'a BTreeMap<String, String>,
    /// Where upstream releases are, as [`resolve::Env::places`].
    pub places: &'a Places,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Hears of it.
    pub observer: &'a dyn Observer,
}

/// The locked packages that steps of `plan` which are still to be made need, each once; one that was altered in the cache
/// is missing too.
pub fn missing<'a>(plan: &Plan, lock: &'a Lock, cache: &Cache, blobs: &Blobs) -> Vec<&'a LockedPackage> {
    let wanted: BTreeSet<Digest> = plan
        .steps
        .iter()
        .filter(|s| !cache.contains(&s.key))
        .flat_map(|s| match &s.recipe {
            Recipe::Rootfs(rootfs) => rootfs.packages.iter().map(|p| p.digest).collect(),
            Recipe::Payload(payload) => payload.pause.iter().map(|p| p.digest).collect::<Vec<_>>(),
            Recipe::Signed(signed) => signed.shim.iter().map(|p| p.digest).collect(),
            Recipe::Firmware(firmware) => firmware.packages.iter().map(|p| p.digest).collect(),
            _ => vec![],
        })
        .collect();
    let mut seen = BTreeSet::new();
    lock.packages
        .iter()
        .filter(|p| wanted.contains(&p.digest) && seen.insert(p.digest) && !blobs.has(p.digest))
        .collect()
}

/// Fetches what is missing, the largest first.
///
/// # Errors
/// [`Kind::Fetch`] when a mirror does not have it or stays away, [`Kind::Verify`] when it gives other bytes; each names
/// the package.
pub fn packages(plan: &Plan, lock: &Lock, env: &Env<'_>) -> anyhow::Result<()> {
    let mut wanted = missing(plan, lock, env.cache, env.blobs);
    if wanted.is_empty() {
        return Ok(());
    }
    wanted.sort_by_key(|p| std::cmp::Reverse(p.size));
    let total: Bytes = wanted.iter().map(|p| p.size).sum();
    let start = Instant::now();
    env.observer.event(Event::Started { step: STEP, what: "fetching packages" });
    let mut sources = BTreeMap::new();
    for base in lock.sets.iter().map(|s| s.base.as_str()) {
        if !env.client.is_offline() && !sources.contains_key(base) {
            sources.insert(base, resolve::sources(base, env.mirrors)?);
        }
    }
    let done = AtomicU64::new(0);
    let progress = |bytes: u64| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        env.observer.event(Event::Progress { step: STEP, done, total: total.0 });
    };
    env.client.each(&wanted, env.cancel, |package| {
        let base = lock
            .sets
            .iter()
            .find(|s| package.arch == s.arch && package.sets.contains(&s.name))
            .map_or("", |s| s.base.as_str());
        let suite = package.suite.split_once(':').map_or("", |(_, s)| s);
        // The suite's own archive first: security updates have one of their own.
        let mut urls: Vec<String> = vec![];
        for own in [true, false] {
            let matching = sources.get(base).into_iter().flatten().filter(|s| (s.suite == suite) == own);
            urls.extend(matching.map(|s| format!("{}/{}", s.uri, package.path)));
        }
        let mut seen = BTreeSet::new();
        urls.retain(|url| seen.insert(url.clone()));
        if urls.is_empty() {
            return Err(error::of(
                Kind::Fetch,
                anyhow!(
                    "package {} {} is not in the cache, and --offline forbids to fetch it",
                    package.name,
                    package.version
                ),
            ));
        }
        let expect = Expect { digest: package.digest, size: Some(package.size.0) };
        env.blobs
            .fetch(env.client, &urls, expect, &progress, env.cancel)
            .with_context(|| format!("fetching package {} {}", package.name, package.version))
            .map(drop)
    })?;
    env.observer.event(Event::Finished { step: STEP, cached: false, took: start.elapsed() });
    Ok(())
}

/// The files of upstream releases that steps of `plan` which are still to be made need and that are not here.
pub fn missing_releases<'a>(
    plan: &Plan,
    lock: &'a Lock,
    cache: &Cache,
    blobs: &Blobs,
) -> Vec<&'a PinnedFile> {
    let wanted: BTreeSet<Digest> = plan
        .steps
        .iter()
        .filter(|s| !cache.contains(&s.key))
        .filter_map(|s| match &s.recipe {
            Recipe::Runtime(Runtime::Cluster(cluster)) => Some((cluster.program, cluster.images)),
            Recipe::Runtime(Runtime::Kubeedge(edge)) => Some((edge.program, None)),
            _ => None,
        })
        .flat_map(|(program, images)| std::iter::once(program).chain(images))
        .collect();
    lock.releases.iter().filter(|f| wanted.contains(&f.digest) && !blobs.has(f.digest)).collect()
}

/// Fetches them.
///
/// # Errors
/// [`Kind::Fetch`] and [`Kind::Verify`], naming file and release.
pub fn releases(plan: &Plan, lock: &Lock, env: &Env<'_>) -> anyhow::Result<()> {
    for file in missing_releases(plan, lock, env.cache, env.blobs) {
        let start = Instant::now();
        env.observer.event(Event::Started { step: STEP, what: &file.file });
        let done = AtomicU64::new(0);
        let progress = |bytes: u64| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            env.observer.event(Event::Progress { step: STEP, done, total: file.size.0 });
        };
        let place = env.places.of(file.product, file.arch);
        release::fetch(file, &place, env.client, env.blobs, &progress, env.cancel)?;
        env.observer.event(Event::Finished { step: STEP, cached: false, took: start.elapsed() });
    }
    Ok(())
}

/// Fetches the models, charts and packages of a profile's own of `plan`, as far as they are not here.
///
/// # Errors
/// [`Kind::Fetch`] and [`Kind::Verify`], naming the place.
pub fn remotes(plan: &Plan, lock: &Lock, env: &Env<'_>) -> anyhow::Result<()> {
    let payloads =
        plan.steps.iter().filter(|s| !env.cache.contains(&s.key)).filter_map(|s| match &s.recipe {
            Recipe::Payload(payload) => Some(payload),
            _ => None,
        });
    let debs = plan.steps.iter().filter(|s| !env.cache.contains(&s.key)).filter_map(|s| match &s.recipe {
        Recipe::Firmware(firmware) => firmware.source,
        Recipe::Rootfs(rootfs) => rootfs.kernel,
        _ => None,
    });
    let wanted: BTreeSet<Digest> = payloads
        .flat_map(|p| {
            let models = p.models.iter().flat_map(|m| &m.files).map(|f| f.digest);
            let disks = p.guests.iter().filter_map(|g| match &g.disk {
                GuestDisk::File(digest) => Some(*digest),
                GuestDisk::Image(_) => None,
            });
            models.chain(disks).chain(p.charts.iter().map(|c| c.package))
        })
        .chain(debs)
        .filter(|digest| !env.blobs.has(*digest))
        .collect();
    let charts = lock.charts.iter().filter(|c| !c.from.is_empty()).map(LockedChart::remote);
    for remote in lock.remotes.iter().cloned().chain(charts) {
        if !remote.files.iter().any(|f| wanted.contains(&f.digest)) {
            continue;
        }
        let start = Instant::now();
        let total = remote.size().0;
        env.observer.event(Event::Started { step: STEP, what: &remote.source });
        let done = AtomicU64::new(0);
        let progress = |bytes: u64| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            env.observer.event(Event::Progress { step: STEP, done, total });
        };
        remote::fetch(&remote, env.client, env.blobs, &progress, env.cancel)?;
        env.observer.event(Event::Finished { step: STEP, cached: false, took: start.elapsed() });
    }
    Ok(())
}

/// Fetches the container images of `plan` from their registries, as far as they are not here.
///
/// # Errors
/// [`Kind::Fetch`] and [`Kind::Verify`], naming the image.
pub fn images(plan: &Plan, env: &Env<'_>) -> anyhow::Result<()> {
    for step in plan.steps.iter().filter(|s| !env.cache.contains(&s.key)) {
        let Recipe::Payload(payload) = &step.recipe else { continue };
        for image in &payload.images {
            env.cancel.check()?;
            let all_here = std::iter::once(&image.manifest)
                .chain([&image.config])
                .chain(&image.layers)
                .all(|b| env.blobs.has(b.digest));
            if all_here {
                continue;
            }
            if env.client.is_offline() {
                return Err(error::of(
                    Kind::Fetch,
                    anyhow!(
                        "image {} is not in the cache, and --offline forbids to fetch it",
                        image.reference
                    ),
                ));
            }
            let start = Instant::now();
            env.observer.event(Event::Started { step: STEP, what: &image.reference });
            oci::fetch(image, env.blobs, false)
                .with_context(|| format!("fetching image {}", image.reference))?;
            env.observer.event(Event::Finished { step: STEP, cached: false, took: start.elapsed() });
        }
    }
    Ok(())
}

/// Takes the locked files beside the profile in `dir` into the blob cache.
///
/// # Errors
/// [`Kind::Verify`] when a file is not the one that was locked; what the file system says.
pub fn files(lock: &Lock, dir: &Path, blobs: &Blobs) -> anyhow::Result<()> {
    for file in &lock.files {
        if blobs.get(file.digest)?.is_some() {
            continue;
        }
        let path = dir.join(&file.path);
        let mut staged = blobs.stage(file.digest)?;
        let mut from = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut hashed = crate::model::digest::HashingWriter::new(&mut staged);
        std::io::copy(&mut from, &mut hashed).with_context(|| format!("reading {}", path.display()))?;
        let (_, digest, _) = hashed.finish();
        if digest != file.digest {
            return Err(error::of(
                Kind::Verify,
                anyhow!("{} is {digest}, locked as {}", path.display(), file.digest),
            ));
        }
        blobs.insert(staged, digest)?;
    }
    Ok(())
}
