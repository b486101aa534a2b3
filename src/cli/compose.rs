//! From a profile to its plan: `forge check`, `forge lock`, `forge plan`, and what `forge build` shares with them.

use super::args::{ProfileArgs, Selection};
use super::beside::Directory;
use super::{Session, device};
use crate::build::cache::Cache;
use crate::build::{fetch, observe::Observer as _};
use crate::error::{self, Kind, Mark as _};
use crate::host::http::Client;
use crate::host::{clock, emulation, env, fs};
use crate::lock::{self, Freshness, Lock, Moves};
use crate::model::{Arch, Bytes, Epoch};
use crate::plan::{self, Plan, Recipe};
use crate::profile::{self, ArchProfile, Artifact, EnrollMode, Origin, Profile};
use crate::run::tools::ToolRoot;
use crate::sign::rsa::BootSigner;
use crate::source::blobs::Blobs;
use crate::source::release::{Place, Places};
use crate::toolbox;
use anyhow::{Context as _, anyhow};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Checks profiles: everything that can be told without a network.
pub fn check(session: &Session, profiles: &[PathBuf], set: &[String]) -> anyhow::Result<()> {
    let mut faults = 0;
    for path in profiles {
        match profile::load(path, set, &env::var) {
            Err(report) => {
                faults += report.count();
                tell(session, &report);
            }
            Ok(profile) => {
                plan::demand(&profile, &Directory(profile.dir()))
                    .kind(Kind::Input)
                    .with_context(|| path.display().to_string())?;
                let words = format!(
                    "{}: {} for {}",
                    path.display(),
                    profile.name(),
                    profile.arch.keys().map(Arch::to_string).collect::<Vec<_>>().join(", ")
                );
                session.ui.result(
                    "profile",
                    &serde_json::json!({ "path": path, "profile": profile, "checksum": profile.checksum() }),
                    words,
                );
            }
        }
    }
    if faults > 0 { Err(wrong(faults)) } else { Ok(()) }
}

fn wrong(faults: usize) -> anyhow::Error {
    error::of(
        Kind::Input,
        anyhow!("{faults} {} in the profile", if faults == 1 { "fault" } else { "faults" }),
    )
}

fn tell(session: &Session, report: &profile::Report) {
    if session.ui.is_json() {
        for finding in report.findings() {
            session.ui.result("fault", &finding, "");
        }
    } else {
        session.ui.note(report.render(session.ui.color()));
    }
}

/// Loads a profile, narrowed to the architectures and artifacts that were asked for.
pub fn load(
    session: &Session,
    path: &Path,
    set: &[String],
    selection: &Selection,
) -> anyhow::Result<Profile> {
    let mut profile = profile::load(path, set, &env::var).map_err(|report| {
        tell(session, &report);
        wrong(report.count())
    })?;
    if let Some(wanted) = selection.arch.iter().find(|a| !profile.arch.contains_key(a)) {
        let has = profile.arch.keys().map(Arch::to_string).collect::<Vec<_>>().join(", ");
        return Err(error::of(
            Kind::Input,
            anyhow!("{} is not built for {wanted}, only for {has}", path.display()),
        ));
    }
    if !selection.arch.is_empty() {
        profile.arch.retain(|arch, _| selection.arch.contains(arch));
    }
    for wanted in profile.arch.values_mut().filter(|_| !selection.artifact.is_empty()) {
        wanted.artifacts = selection.artifact.clone();
    }
    Ok(profile)
}

/// Where a profile's lock is: beside it, with `.lock` behind its name.
pub fn lock_path(profile: &Path) -> PathBuf {
    let mut name = profile.file_name().unwrap_or_default().to_os_string();
    name.push(".lock");
    profile.with_file_name(name)
}

/// What locking and building work with.
pub struct Workshop {
    /// Made steps.
    pub cache: Cache,
    /// Fetched inputs.
    pub blobs: Blobs,
    /// The way out, or none.
    pub client: Client,
}

impl Workshop {
    /// Opens the session's.
    pub fn open(session: &Session, offline: bool) -> anyhow::Result<Workshop> {
        Ok(Workshop {
            cache: session.cache()?,
            blobs: Blobs::open(&session.cache_dir.join("blobs"))?,
            client: if offline { Client::offline() } else { Client::new()? },
        })
    }

    /// The programs of Debian's `packages`, from the session's cache or fetched into it.
    pub fn tools(&self, session: &Session, packages: &[&str]) -> anyhow::Result<ToolRoot> {
        let env = toolbox::Env {
            root: &session.cache_dir.join("tools"),
            client: &self.client,
            blobs: &self.blobs,
            cancel: &session.cancel,
            observer: &session.ui,
        };
        toolbox::open(packages, &env)
    }
}

/// How the lock is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode<'a> {
    /// Made or mended as the profile asks, keeping what is locked.
    Mend,
    /// Taken as it is, or not at all (`--locked`).
    Locked,
    /// Resolved anew: these packages, or all where none is named.
    Update(&'a [String]),
}

/// The lock of a profile, as `mode` has it; written where it changed.
pub fn locked(
    session: &Session,
    path: &Path,
    profile: &Profile,
    shop: &Workshop,
    mode: LockMode<'_>,
) -> anyhow::Result<Lock> {
    let lock_path = lock_path(path);
    let demand = plan::demand(profile, &Directory(profile.dir())).kind(Kind::Input)?;
    for package in demand.charts.iter().filter_map(|c| c.package.as_ref()) {
        shop.blobs.insert_bytes(package)?;
    }
    let old = match std::fs::read_to_string(&lock_path) {
        Ok(text) => Some(Lock::from_text(&text).with_context(|| format!("reading {}", lock_path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e).with_context(|| format!("reading {}", lock_path.display())),
    };
    let hint = format!("run `forge lock {}`", path.display());
    let old = match (old, mode) {
        (Some(Err(_)), LockMode::Update([])) => None,
        (Some(lock), _) => Some(lock.hint(format!("{hint} --update"))?),
        (None, LockMode::Locked) => {
            return Err(error::of(Kind::Lock, anyhow!("there is no {}", lock_path.display()))).hint(hint);
        }
        (None, _) => None,
    };
    if let (Some(lock), LockMode::Mend | LockMode::Locked) = (&old, mode) {
        match lock.check(&demand) {
            Freshness::Fresh => return Ok(lock.clone()),
            Freshness::Stale { reasons, .. } if mode == LockMode::Locked => {
                return Err(error::of(
                    Kind::Lock,
                    anyhow!("{} is out of date: {}", lock_path.display(), reasons.join("; ")),
                ))
                .hint(hint);
            }
            Freshness::Stale { files_only: true, .. } => {
                let mended = Lock { files: demand.files.clone(), ..lock.clone() };
                return write(&lock_path, mended);
            }
            Freshness::Stale { reasons, .. } => session.ui.note(format!("locking: {}", reasons.join("; "))),
        }
    }
    let env = lock::resolve::Env {
        client: &shop.client,
        blobs: &shop.blobs,
        mirrors: &mirrors(profile),
        places: &places(profile)?,
        before: old.as_ref(),
        now: clock::now(),
        work: &shop.cache.work(),
        cancel: &session.cancel,
    };
    let moves = match (mode, old.as_ref()) {
        (LockMode::Update([]), _) | (_, None) => Moves::All,
        (LockMode::Update(names), Some(lock)) => Moves::Only(lock, names),
        (_, Some(lock)) => Moves::Nothing(lock),
    };
    write(&lock_path, lock::resolve(&demand, moves, &env)?)
}

fn write(path: &Path, mut lock: Lock) -> anyhow::Result<Lock> {
    lock.normalise()?;
    fs::write_atomic(path, lock.to_text().as_bytes(), 0o644)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(lock)
}

/// Mirrors that the profile names, by base.
pub fn mirrors(profile: &Profile) -> BTreeMap<String, String> {
    profile
        .arch
        .values()
        .filter_map(|a| Some((a.os.base.to_string(), a.os.mirror.as_ref()?.as_str().to_string())))
        .collect()
}

/// Where the profile takes its Kubernetes distribution, its agent and its Helm from, if not from upstream's own places.
fn places(profile: &Profile) -> anyhow::Result<Places> {
    let mut places = Places::default();
    for (&arch, wanted) in &profile.arch {
        // Of the two it has one.
        let source = match &wanted.kubernetes.source {
            Origin::Release => &wanted.agent.source,
            other => other,
        };
        places.by_arch.extend(place(profile, source)?.map(|place| (arch, place)));
        places.helm = place(profile, &wanted.helm.source)?.or(places.helm);
    }
    Ok(places)
}

fn place(profile: &Profile, source: &Origin) -> anyhow::Result<Option<Place>> {
    Ok(match source {
        Origin::Url(url) => Some(Place::Url(url.clone())),
        Origin::Oci(reference) => Some(Place::Artifact(reference.parse()?)),
        Origin::File(path) => {
            let dir = profile.dir().join(path);
            let dir = std::path::absolute(&dir).with_context(|| format!("finding {}", dir.display()))?;
            let url = reqwest::Url::from_directory_path(&dir)
                .map_err(|()| anyhow!("{} cannot be written as a URL", dir.display()))?;
            Some(Place::Url(url.to_string()))
        }
        Origin::Release => None,
    })
}

/// `forge lock`.
pub fn lock(session: &Session, path: &Path, set: &[String], update: Option<&[String]>) -> anyhow::Result<()> {
    let profile = load(session, path, set, &Selection::default())?;
    let shop = Workshop::open(session, false)?;
    let before = std::fs::read_to_string(lock_path(path)).ok().and_then(|text| Lock::from_text(&text).ok());
    let lock = locked(session, path, &profile, &shop, update.map_or(LockMode::Mend, LockMode::Update))?;
    let changes = before.as_ref().map(|old| changes(old, &lock)).unwrap_or_default();
    let size: Bytes = lock.packages.iter().map(|p| p.size).sum();
    let mut human = format!("{}: {} packages, {size}\n", lock_path(path).display(), lock.packages.len());
    for line in &changes {
        let _ = writeln!(human, "  {line}");
    }
    for chart in &lock.charts {
        let by = match &chart.images_from[..] {
            _ if !chart.rendered.is_empty() => {
                format!("rendered, {} images from registries", chart.images.len())
            }
            [] => "no images found: name them in `images`, or name a Helm by `helm.version`".into(),
            from => format!("images by its {}, not rendered", from.join(" and ")),
        };
        let _ = writeln!(human, "  chart {} {} for {}: {by}", chart.source, chart.version, chart.arch);
    }
    session.ui.result("lock", &serde_json::json!({ "path": lock_path(path), "packages": lock.packages.len(), "size": size, "digest": lock.digest(), "changes": changes }), human);
    Ok(())
}

/// What moved between two locks, a line each: `nginx 1.26.3-1 → 1.26.3-2`, `+ curl 8.1`, `- wget 1.2`.
pub fn changes(old: &Lock, new: &Lock) -> Vec<String> {
    let versions = |lock: &Lock| -> BTreeMap<(Arch, String), String> {
        let packages = lock.packages.iter().map(|p| ((p.arch, p.name.clone()), p.version.clone()));
        let releases = lock.releases.iter().map(|r| ((r.arch, r.file.clone()), r.version.clone()));
        let charts = lock.charts.iter().map(|c| ((c.arch, c.source.clone()), c.version.clone()));
        packages.chain(releases).chain(charts).collect()
    };
    let (old, new) = (versions(old), versions(new));
    let mut lines = vec![];
    for (key, version) in &new {
        match old.get(key) {
            None => lines.push(format!("+ {} {version}", key.1)),
            Some(before) if before != version => lines.push(format!("  {} {before} → {version}", key.1)),
            Some(_) => {}
        }
    }
    lines.extend(
        old.iter()
            .filter(|(key, _)| !new.contains_key(*key))
            .map(|(key, version)| format!("- {} {version}", key.1)),
    );
    lines
}

/// SOURCE_DATE_EPOCH, where it is set.
///
/// # Errors
/// [`Kind::Input`] when it is no number.
pub fn source_date_epoch() -> anyhow::Result<Option<Epoch>> {
    let Some(text) = env::var("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text
        .parse()
        .map_err(|_| anyhow!("SOURCE_DATE_EPOCH is `{text}`, not a count of seconds"))
        .kind(Kind::Input)?;
    Ok(Some(Epoch(seconds)))
}

/// The plan of a locked profile.
pub fn planned(profile: &Profile, lock: &Lock, shop: &Workshop) -> anyhow::Result<Plan> {
    let enrols = profile.enroll.mode != EnrollMode::None;
    let installs = |wanted: &ArchProfile| {
        wanted.artifacts.iter().any(|artifact| matches!(artifact, Artifact::Iso | Artifact::Netboot))
    };
    let archs = profile.arch.iter().filter(|(_, wanted)| enrols || installs(wanted)).map(|(arch, _)| *arch);
    let programs = device::programs(archs, &shop.blobs)?;
    let planned = plan::compose(profile, lock, source_date_epoch()?, &programs);
    let seeded = matches!(planned, Err(plan::PlanError::Palette));
    let planned = planned.map_err(|e| {
        let kind = if matches!(e, plan::PlanError::NotLocked(_)) { Kind::Lock } else { Kind::Input };
        error::of(kind, e.into())
    });
    if seeded {
        planned.hint("`forge enroll export --format nocloud` writes the seed that it reads")
    } else {
        planned
    }
}

/// `forge plan`.
pub fn plan(session: &Session, args: &ProfileArgs, selection: &Selection) -> anyhow::Result<()> {
    let shop = Workshop::open(session, false)?;
    for path in &args.profiles {
        let profile = load(session, path, &args.set, selection)?;
        let lock = locked(session, path, &profile, &shop, LockMode::Mend)?;
        let plan = planned(&profile, &lock, &shop)?;
        let missing = fetch::missing(&plan, &lock, &shop.cache, &shop.blobs);
        let download: Bytes = missing.iter().map(|p| p.size).sum();
        let mut human = format!("{} {} ({})\n", plan.name, plan.version, plan.epoch.rfc3339());
        let _ = writeln!(human, "to fetch: {} packages, {download}", missing.len());
        let released = fetch::missing_releases(&plan, &lock, &shop.cache, &shop.blobs);
        for file in &released {
            let _ = writeln!(human, "to fetch: {file}, {}", file.size);
        }
        let mut partitions = BTreeMap::new();
        for (arch, wanted) in &profile.arch {
            let least = plan::fit::partitions(wanted, &lock, *arch);
            let plan::fit::Partitions { esp, root, payload, enroll } = least;
            let (whole, board) = (least.whole(), wanted.board.as_str());
            let _ = writeln!(
                human,
                "on a disk, {arch}, board {board}: at least {whole} (esp {esp}, two slots of root {root} and payload {payload}, bundle {enroll}), then state"
            );
            partitions.insert(arch, least);
        }
        let mut rows = vec![];
        for step in &plan.steps {
            let why = shop.cache.reason(step)?;
            let _ = writeln!(
                human,
                "{} {:28} {}",
                if why.is_none() { "kept" } else { "make" },
                step.id.as_str(),
                why.clone().unwrap_or_default()
            );
            rows.push(serde_json::json!({ "step": step.id, "key": step.key, "cached": why.is_none(), "why": why, "recipe": step.recipe }));
        }
        session.ui.result("plan", &serde_json::json!({ "name": plan.name, "version": plan.version, "epoch": plan.epoch, "digest": plan.digest(), "fetch": { "packages": missing.len(), "size": download, "releases": released }, "partitions": partitions, "steps": rows }), human);
    }
    Ok(())
}

/// Emulators for the programs of other architectures that the plan's steps run, of those that are not in the cache.
fn emulators(session: &Session, plan: &Plan, shop: &Workshop) -> anyhow::Result<BTreeMap<Arch, PathBuf>> {
    let mut emulators = BTreeMap::new();
    for step in &plan.steps {
        let Recipe::Rootfs(rootfs) = &step.recipe else { continue };
        let arch = rootfs.arch;
        if Some(arch) == Arch::host() || emulators.contains_key(&arch) || shop.cache.reason(step)?.is_none() {
            continue;
        }
        let tools = shop.tools(session, &[emulation::PACKAGE]).context("getting an emulator")?;
        emulators.insert(arch, tools.file(&format!("usr/bin/{}", emulation::program(arch)))?);
    }
    Ok(emulators)
}

/// Fetches and makes everything of a plan.
pub fn made(
    session: &Session,
    profile: &Profile,
    lock: &Lock,
    plan: &Plan,
    shop: &Workshop,
    boot_signer: Option<&BootSigner>,
    jobs: usize,
) -> anyhow::Result<crate::build::Built> {
    let (mirrors, places) = (mirrors(profile), places(profile)?);
    let env = fetch::Env {
        client: &shop.client,
        blobs: &shop.blobs,
        cache: &shop.cache,
        mirrors: &mirrors,
        places: &places,
        cancel: &session.cancel,
        observer: &session.ui,
    };
    fetch::files(lock, profile.dir(), &shop.blobs)?;
    fetch::packages(plan, lock, &env)?;
    fetch::releases(plan, lock, &env)?;
    fetch::remotes(plan, lock, &env)?;
    fetch::images(plan, &env)?;
    session.ui.event(crate::build::observe::Event::Note(&format!("{} {}", plan.name, plan.version)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let emulators = &emulators(session, plan, shop)?;
    let env = crate::build::Env {
        emulators,
        boot_signer,
        cache: &shop.cache,
        blobs: &shop.blobs,
        cancel: &session.cancel,
        observer: &session.ui,
        jobs: if jobs == 0 { threads } else { jobs },
        threads,
    };
    crate::build::run(plan, &env)
}
