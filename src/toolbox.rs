//! Debian packages → a directory of programs: forge's own pinned tools, fetched and checked like any input, unpacked in the
//! cache, installed nowhere.
//!
//! `tools/HOST.lock` pins what the packages are; it stays until it is removed. A box is the packages' data archives, side
//! by side, under the digest of their digests. It is synced before it is used: nothing looks at it again later.

use crate::build::observe::{Event, Observer};
use crate::debian::deb::Deb;
use crate::error::{Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::host::clock;
use crate::host::fs::{self, Durability, FileLock, Staged};
use crate::host::http::{Client, Expect};
use crate::lock::{self, Demand, Lock, PackageSet, SetVariant, resolve};
use crate::model::{Arch, Digest};
use crate::run::tools::ToolRoot;
use crate::source::blobs::Blobs;
use crate::source::release::Places;
use crate::tree::{NodeKind, TreePath};
use anyhow::{Context as _, anyhow};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// Where tools come from: the release that they were tried with.
const BASE: &str = "debian:trixie";
/// The name of the set in the tools' lock.
const SET: &str = "tools";

/// What opening a box works with.
pub struct Env<'a> {
    /// The directory of boxes.
    pub root: &'a Path,
    /// Fetches.
    pub client: &'a Client,
    /// Keeps what was fetched.
    pub blobs: &'a Blobs,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Hears of it.
    pub observer: &'a dyn Observer,
}

/// The programs of `packages`, and of what these need, for this machine.
///
/// # Errors
/// When this machine's architecture has none, and as [`lock::resolve()`] and fetching.
pub fn open(packages: &[&str], env: &Env<'_>) -> anyhow::Result<ToolRoot> {
    let arch = Arch::host()
        .ok_or_else(|| anyhow!("there are no tools for this machine's architecture"))
        .kind(Kind::Input)?;
    // One opener at a time: the second finds everything made.
    let _guard = FileLock::acquire(&env.root.join("lock"))?;
    let lock = locked(packages, arch, env)?;
    let parts: Vec<String> = lock.packages_of(SET, arch).map(|p| p.digest.hex()).collect();
    let root = env.root.join(Digest::of(parts.join("\n")).hex());
    if !fs::exists(&root) {
        make(&lock, arch, &root, env).context("unpacking tools")?;
    }
    Ok(ToolRoot::new(root, arch))
}

fn locked(packages: &[&str], arch: Arch, env: &Env<'_>) -> anyhow::Result<Lock> {
    let mut request: Vec<String> = packages.iter().map(|p| p.to_string()).collect();
    request.sort();
    let path = env.root.join(format!("{}.lock", request.join("+")));
    let set = PackageSet {
        name: SET.into(),
        arch,
        base: BASE.into(),
        variant: SetVariant::Custom,
        request,
        components: vec![],
    };
    let demand = Demand { sets: vec![set], ..Demand::default() };
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(lock) = Lock::from_text(&text)
        && lock.check(&demand) == lock::Freshness::Fresh
    {
        return Ok(lock);
    }
    let resolving = resolve::Env {
        client: env.client,
        blobs: env.blobs,
        mirrors: &BTreeMap::new(),
        places: &Places::default(),
        before: None,
        now: clock::now(),
        work: env.root,
        cancel: env.cancel,
    };
    let lock = lock::resolve(&demand, lock::Moves::All, &resolving).context("choosing tools")?;
    fs::write_atomic(&path, lock.to_text().as_bytes(), 0o644)?;
    Ok(lock)
}

fn make(lock: &Lock, arch: Arch, root: &Path, env: &Env<'_>) -> anyhow::Result<()> {
    let start = Instant::now();
    env.observer.event(Event::Started { step: SET, what: "fetching and unpacking tools" });
    let sources = if env.client.is_offline() { vec![] } else { resolve::sources(BASE, &BTreeMap::new())? };
    let packages: Vec<_> = lock.packages_of(SET, arch).collect();
    let staged = Staged::dir(root)?;
    env.client.each(&packages, env.cancel, |package| {
        let urls: Vec<String> = sources.iter().map(|s| format!("{}/{}", s.uri, package.path)).collect();
        let expect = Expect { digest: package.digest, size: Some(package.size.0) };
        env.blobs
            .fetch(env.client, &urls, expect, &|_| {}, env.cancel)
            .with_context(|| format!("fetching tool {}", package.name))
            .map(drop)
    })?;
    for package in packages {
        env.cancel.check()?;
        let path = env
            .blobs
            .get(package.digest)?
            .with_context(|| format!("{} is gone from the cache", package.name))?;
        unpack(&path, staged.path()).with_context(|| format!("unpacking tool {}", package.name))?;
    }
    staged.commit(Durability::Synced)?;
    env.observer.event(Event::Finished { step: SET, cached: false, took: start.elapsed() });
    Ok(())
}

/// Files, directories and relative links of a package below `root`; owners and special files are left out, since what
/// runs here runs as the user. Files land under merged `usr` as on every Debian of today.
fn unpack(package: &Path, root: &Path) -> anyhow::Result<()> {
    let (deb, _) = Deb::open(File::open(package)?)?;
    let mut data = deb.data()?;
    while let Some(entry) = data.next_entry()? {
        let path = merged(&entry.path)?;
        let target = root.join(path.as_str());
        match entry.node.kind {
            NodeKind::Dir => std::fs::create_dir_all(&target)?,
            NodeKind::File(_) => {
                fs::place(&target, entry.node.mode & 0o755 | 0o600, &mut data)?;
            }
            NodeKind::Symlink(link) => {
                let up = "../".repeat(path.components().count().saturating_sub(1));
                // An absolute link means the package's own root, not this machine's.
                let inside = link.strip_prefix('/').map_or(link.clone(), |rest| format!("{up}{rest}"));
                fs::link(&target, &inside)?;
            }
            NodeKind::HardLink(other) => {
                let from = File::open(root.join(merged(&other)?.as_str()))?;
                fs::place(&target, entry.node.mode & 0o755 | 0o600, from)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn merged(path: &TreePath) -> anyhow::Result<TreePath> {
    let first = path.components().next().unwrap_or_default();
    let moved = ["bin", "sbin", "lib", "lib64"].contains(&first);
    Ok(if moved { TreePath::parse(&format!("usr/{path}"))? } else { path.clone() })
}
