//! A demand → a lock: suites read and packages solved, each set for itself.

use super::chart;
use super::{Demand, Lock, LockedArchive, LockedPackage, PackageSet, SCHEMA, SetVariant};
use crate::debian::archive::{self, Archive, ListInfo, ReleaseInfo};
use crate::debian::packages::Package;
use crate::debian::solve::{self, Base, Request};
use crate::debian::sources::{self, Distribution, SuiteSource};
use crate::error::{self, Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::http::Client;
use crate::model::{Arch, Bytes, Epoch};
use crate::source::blobs::Blobs;
use crate::source::oci;
use crate::source::release::{self, PinnedFile, Places, Wanted};
use crate::source::remote;
use anyhow::{Context as _, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where this machine's apt keeps its settings.
const ETC_APT: &str = "/etc/apt";

/// What resolving works with.
pub struct Env<'a> {
    /// Fetches.
    pub client: &'a Client,
    /// Keeps what was fetched.
    pub blobs: &'a Blobs,
    /// Mirrors by base (`debian:trixie`), where the profile or the user names one; else this machine's apt is asked.
    pub mirrors: &'a BTreeMap<String, String>,
    /// Where releases are.
    pub places: &'a Places,
    /// The lock that is replaced, where there is one: no archive may be older than it recorded.
    pub before: Option<&'a Lock>,
    /// The time that signatures have to hold at.
    pub now: Epoch,
    /// For what is rendered: a directory that it may make others in.
    pub work: &'a Path,
    /// Stops it.
    pub cancel: &'a Cancel,
}

/// What may move when a lock is made.
#[derive(Clone, Copy, Debug)]
pub enum Moves<'a> {
    /// Everything: archives are read anew.
    All,
    /// As little as can be: archives stay at the state that this lock recorded, as far as it is in the cache, so that a
    /// new package does not move all others. Bases that it does not know are read anew.
    Nothing(&'a Lock),
    /// These packages and what they need, to what the archives hold now; all others stay as this lock has them.
    Only(&'a Lock, &'a [String]),
}

/// Resolves `demand`.
///
/// # Errors
/// [`Kind::Fetch`] and [`Kind::Verify`] from the archive, the latter also when it is older than what was locked; [`Kind::Input`] for packages that cannot be had, telling the
/// chain that asked for them.
pub fn resolve(demand: &Demand, moves: Moves<'_>, env: &Env<'_>) -> anyhow::Result<Lock> {
    let keep = match moves {
        Moves::All => None,
        Moves::Nothing(lock) | Moves::Only(lock, _) => Some(lock),
    };
    let mut lock = Lock {
        schema: SCHEMA,
        epoch: Epoch(0),
        archives: vec![],
        sets: demand.sets.clone(),
        packages: vec![],
        images: vec![],
        releases: vec![],
        remotes: vec![],
        charts: vec![],
        files: demand.files.clone(),
    };
    let mut by_base: BTreeMap<(&str, Arch), Vec<&PackageSet>> = BTreeMap::new();
    for set in &demand.sets {
        by_base.entry((&set.base, set.arch)).or_default().push(set);
    }
    for ((base, arch), sets) in by_base {
        let components: BTreeSet<&str> =
            sets.iter().flat_map(|s| &s.components).map(String::as_str).collect();
        let archive = open(base, arch, &components, moves, env)
            .with_context(|| format!("reading the archive of {base} for {arch}"))?;
        for set in sets {
            env.cancel.check()?;
            let solved = solve(&archive, set, moves)
                .with_context(|| format!("choosing the packages of {} for {arch}", set.name))?;
            lock.packages.extend(solved.into_iter().map(|p| locked(p, set, base, &archive.releases)));
        }
        lock.archives.extend(archive.releases.into_iter().map(|r| LockedArchive::of(base, r)));
    }
    for wanted in &demand.releases {
        env.cancel.check()?;
        lock.releases.extend(released(wanted, keep, env)?);
    }
    for wanted in &demand.charts {
        env.cancel.check()?;
        lock.charts.push(chart::resolve(wanted, keep, &lock.releases, env)?);
    }
    for (reference, arch) in &lock.images_of(demand) {
        env.cancel.check()?;
        let kept =
            keep.and_then(|lock| lock.images.iter().find(|i| i.reference == *reference && i.arch == *arch));
        let pinned = match kept {
            Some(image) => image.clone(),
            None if env.client.is_offline() => {
                return Err(error::of(
                    Kind::Fetch,
                    anyhow!("image {reference} is not locked, and --offline forbids to ask its registry"),
                ));
            }
            None => oci::pin(&reference.parse()?, *arch, false)
                .with_context(|| format!("pinning image {reference} for {arch}"))?,
        };
        lock.images.push(pinned);
    }
    for source in &demand.remotes {
        env.cancel.check()?;
        let kept = keep.and_then(|lock| lock.remote(source)).cloned();
        let pin = || {
            remote::pin(source, env.client, env.blobs, env.cancel)
                .with_context(|| format!("pinning {source}"))
        };
        lock.remotes.push(kept.map_or_else(pin, Ok)?);
    }
    lock.archives.sort_by(|a, b| (&a.suite, &a.inrelease).cmp(&(&b.suite, &b.inrelease)));
    lock.archives = merge(lock.archives);
    lock.epoch = lock.archives.iter().map(|a| a.date).max().unwrap_or(Epoch(0));
    lock.normalise()?;
    Ok(lock)
}

/// A release is pinned once: its version names it for ever, so one that came to hold other bytes is not taken.
fn released(wanted: &Wanted, keep: Option<&Lock>, env: &Env<'_>) -> anyhow::Result<Vec<PinnedFile>> {
    let Wanted { product, version, arch, files } = wanted;
    let of = |lock: &Lock| -> Vec<PinnedFile> {
        let answer = |file| lock.releases.iter().find(|r| r.answers(wanted, file)).cloned();
        files.iter().filter_map(|file| answer(file)).collect()
    };
    if let Some(kept) = keep.map(of).filter(|kept| kept.len() == files.len()) {
        return Ok(kept);
    }
    let place = env.places.of(*product, *arch);
    let pinned = release::pin(wanted, &place, env.client, env.blobs, env.cancel)
        .with_context(|| format!("pinning {product} {version} for {arch}"))?;
    let known = env.before.map(of).unwrap_or_default();
    let changed =
        pinned.iter().find(|now| known.iter().any(|old| old.file == now.file && old.digest != now.digest));
    match changed {
        Some(file) => Err(anyhow!("{file} for {arch} is another than the one that is locked"))
            .kind(Kind::Verify)
            .hint("a version's files do not change; if this was meant, remove the lock and make it anew"),
        None => Ok(pinned),
    }
}

/// Several architectures read one suite: their lists belong to one signed file.
fn merge(archives: Vec<LockedArchive>) -> Vec<LockedArchive> {
    let mut merged: Vec<LockedArchive> = vec![];
    for archive in archives {
        match merged.last_mut() {
            Some(last) if last.suite == archive.suite && last.inrelease == archive.inrelease => {
                last.lists.extend(archive.lists);
                last.lists.sort_by(|a, b| a.path.cmp(&b.path));
                last.lists.dedup();
            }
            _ => merged.push(archive),
        }
    }
    merged
}

fn open(
    base: &str,
    arch: Arch,
    components: &BTreeSet<&str>,
    moves: Moves<'_>,
    env: &Env<'_>,
) -> anyhow::Result<Archive> {
    let (distribution, _) = split(base)?;
    let keyring = archive::keyring(distribution)?;
    let recorded = |lock: &Lock| -> Vec<ReleaseInfo> {
        let releases: Vec<_> =
            lock.archives.iter().filter(|a| a.is_of(base)).map(|a| a.release(arch)).collect();
        let known = |r: &ReleaseInfo, component: &str| {
            r.lists.iter().any(|list| list.path.split('/').next() == Some(component))
        };
        let whole = |r: &ReleaseInfo| !r.lists.is_empty() && components.iter().all(|c| known(r, c));
        if releases.iter().all(whole) { releases } else { vec![] }
    };
    let reopen = |releases: &[ReleaseInfo]| Archive::reopen(env.blobs, releases, arch, &keyring, env.cancel);
    if let Moves::Nothing(lock) = moves {
        let releases = recorded(lock);
        if !releases.is_empty()
            && let Ok(archive) = reopen(&releases)
        {
            return Ok(archive);
        }
    }
    let mut sources = sources(base, env.mirrors)?;
    for source in &mut sources {
        let more = components.iter().filter(|c| !source.components.iter().any(|known| known == *c));
        let more: Vec<String> = more.map(|c| c.to_string()).collect();
        source.components.extend(more);
    }
    let now = Archive::open(env.client, env.blobs, &sources, arch, &keyring, env.now, env.cancel)?;
    for release in &now.releases {
        not_older(release, &LockedArchive::name(base, &release.suite), env.before)?;
    }
    match moves {
        // What stays may be gone from the archive of today, so both states are chosen from.
        Moves::Only(lock, _) => {
            let older = recorded(lock).into_iter().filter(|r| !now.releases.contains(r));
            let both: Vec<ReleaseInfo> = now.releases.iter().cloned().chain(older).collect();
            reopen(&both)
        }
        _ => Ok(now),
    }
}

/// Whoever answers for a mirror may show an old state, which is signed as well, to keep a repaired fault in images
/// (rollback: "A Look In the Mirror", Cappos et al. 2008). What was locked is the newest that is known here.
fn not_older(release: &ReleaseInfo, suite: &str, before: Option<&Lock>) -> anyhow::Result<()> {
    let known = before.into_iter().flat_map(|lock| &lock.archives).filter(|a| a.suite == suite);
    match known.map(|a| a.date).max() {
        Some(date) if release.date < date => Err(anyhow!(
            "InRelease of {suite} is of {}, older than the one that is locked, of {}",
            release.date.rfc3339(),
            date.rfc3339()
        ))
        .kind(Kind::Verify)
        .hint("the mirror is behind or shows an old state: wait or name another; to go back to it, remove the lock"),
        _ => Ok(()),
    }
}

/// The suites that `base` stands for, at the mirror that is to be used.
///
/// # Errors
/// [`Kind::Input`] when neither profile, nor user, nor this machine's apt names a mirror.
pub fn sources(base: &str, mirrors: &BTreeMap<String, String>) -> anyhow::Result<Vec<SuiteSource>> {
    let (distribution, suite) = split(base)?;
    match mirrors.get(base) {
        Some(uri) => Ok(sources::named(uri, distribution, suite, &["main"])),
        None => sources::derive(&sources::configured(Path::new(ETC_APT)), distribution, suite),
    }
}

fn split(base: &str) -> anyhow::Result<(Distribution, &str)> {
    match base.split_once(':') {
        Some(("debian", suite)) => Ok((Distribution::Debian, suite)),
        Some(("ubuntu", suite)) => Ok((Distribution::Ubuntu, suite)),
        _ => Err(error::of(Kind::Input, anyhow!("`{base}` is no archive"))),
    }
}

fn solve(archive: &Archive, set: &PackageSet, moves: Moves<'_>) -> anyhow::Result<Vec<Package>> {
    let base = match set.variant {
        SetVariant::Custom => Base::Nothing,
        SetVariant::Apt => Base::Apt,
        SetVariant::Minbase => Base::Minbase,
    };
    let asked =
        set.request.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>().kind(Kind::Input)?;
    let answer = |packages: Vec<solve::Demand>| {
        let request = Request { packages, base, ..Request::default() };
        Ok::<_, anyhow::Error>(solve::solve(&archive.index, &request).kind(Kind::Input)?.packages)
    };
    let Moves::Only(lock, names) = moves else { return answer(asked) };
    // What the named packages need may have to move with them; everything else is asked for as it is.
    let free = answer(names.iter().map(|n| n.parse()).collect::<Result<_, _>>().kind(Kind::Input)?)?;
    let mut pinned = asked;
    for package in lock.packages_of(&set.name, set.arch) {
        let moving = names.contains(&package.name)
            || free.iter().any(|p| p.name == package.name && p.version != package.version);
        if !moving {
            pinned.retain(|d| d.name != package.name);
            pinned.push(solve::Demand {
                name: package.name.clone(),
                version: Some(package.version.clone()),
                suite: None,
            });
        }
    }
    answer(pinned)
}

fn locked(package: Package, set: &PackageSet, base: &str, releases: &[ReleaseInfo]) -> LockedPackage {
    let suite = releases
        .get(package.origin)
        .map_or_else(|| base.to_string(), |r| LockedArchive::name(base, &r.suite));
    LockedPackage {
        arch: set.arch,
        name: package.name,
        version: package.version,
        suite,
        path: package.filename,
        size: Bytes(package.size),
        digest: package.sha256,
        sets: vec![set.name.clone()],
    }
}

impl LockedArchive {
    fn of(base: &str, release: ReleaseInfo) -> LockedArchive {
        LockedArchive {
            suite: LockedArchive::name(base, &release.suite),
            origin: release.origin,
            codename: release.codename,
            date: release.date,
            inrelease: release.inrelease,
            lists: release.lists,
        }
    }

    /// `debian:trixie-updates`, for the suite `trixie-updates` that belongs to `debian:trixie`.
    fn name(base: &str, suite: &str) -> String {
        format!("{}:{suite}", base.split(':').next().unwrap_or_default())
    }

    fn is_of(&self, base: &str) -> bool {
        self.suite == base
            || self.suite.strip_prefix(base).is_some_and(|rest| ["-updates", "-security"].contains(&rest))
    }

    /// As the archive's room takes it, with the lists of one architecture.
    fn release(&self, arch: Arch) -> ReleaseInfo {
        let lists = self.lists.iter().filter(|l| is_for(l, arch)).cloned().collect();
        let suite = self.suite.split_once(':').map_or("", |(_, s)| s).to_string();
        ReleaseInfo {
            origin: self.origin.clone(),
            suite,
            codename: self.codename.clone(),
            date: self.date,
            inrelease: self.inrelease,
            lists,
        }
    }
}

/// `main/binary-amd64/Packages.xz` and `main/binary-all/Packages.xz` are for amd64.
fn is_for(list: &ListInfo, arch: Arch) -> bool {
    list.path.split('/').any(|part| part == format!("binary-{arch}") || part == "binary-all")
}
