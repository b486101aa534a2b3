//! Packages' contents → files below a directory, several packages at once, in one pass: decompress, hash, write.
//!
//! What dpkg's order would decide is decided by rules that do not depend on which thread is first: a directory's
//! attributes are those of the package of least rank, a file that two packages have goes to the one that `Replaces` the
//! other, and where only the order can tell (a symbolic link against a directory) [`Unpacker::unpack`] says
//! [`OrderMatters`] and the caller starts again with one thread.
//!
//! Paths are resolved by the kernel inside the root (openat2(2), `RESOLVE_IN_ROOT`), so that a symbolic link planted by
//! a package leads nowhere else. Diversions and statoverrides are honoured as dpkg has them (dpkg-divert(1),
//! dpkg-statoverride(1)); conffiles are put beside their place, where `dpkg --configure` finds them.

use super::deb::{BadDeb, Control, Deb};
use super::rules::Rules;
use crate::host::cancel::Cancel;
use crate::model::{Digest, Epoch};
use crate::tree::tar::{Reader, Source as TarSource, Stream, TarError};
use crate::tree::{Node, NodeKind, TreePath};
use anyhow::{Context as _, anyhow, bail};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod ahead;
mod hashed;
mod place;

pub use ahead::Ahead;
pub(super) use hashed::Hashed;
use place::{Place, State};

/// A piece of a file on its way, in bytes.
const BUFFER: usize = 256 * 1024;
/// More entries than any real package has; firmware-nonfree's largest has 4,000.
const MAX_ENTRIES: usize = 1_000_000;
/// What dpkg calls a conffile until its package is configured.
const CONFFILE_SUFFIX: &str = ".dpkg-new";

/// The outcome depends on the order of unpacking: to be done again with one thread.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` is a directory in one package and a symbolic link in another")]
pub struct OrderMatters {
    path: TreePath,
}

/// A package to unpack.
#[derive(Debug)]
pub struct Source {
    /// Its place in the order of all packages; also its index for [`Replaces`].
    pub rank: usize,
    /// Its name.
    pub name: String,
    /// The open package.
    pub file: File,
    /// The digest that the bytes must have.
    pub sha256: Digest,
    /// Its control information, as it was read before the digest was known to be right.
    pub control: Arc<Control>,
    /// Its contents, where they were decompressed ahead.
    pub data: Option<File>,
    /// Its conffiles (deb-conffiles(5)).
    pub conffiles: BTreeSet<TreePath>,
}

impl Source {
    /// What was read first, to plan by, against what the digest vouches for.
    fn same(&self, control: &Control) -> anyhow::Result<()> {
        if *self.control == *control { Ok(()) } else { bail!("the package changed while it was read") }
    }
}

/// Whether the package of the first rank `Replaces` that of the second.
pub type Replaces<'a> = &'a (dyn Fn(usize, usize) -> bool + Sync);

/// Ranks and what their archives list.
type Lists = Vec<(usize, Vec<TreePath>)>;

/// Unpacks packages below a directory, stage by stage.
pub struct Unpacker {
    root: OwnedFd,
    epoch: Epoch,
    stage: usize,
    names: HashMap<usize, String>,
    aliases: BTreeMap<String, TreePath>,
    state: Mutex<State>,
}

/// What one stage did.
#[derive(Debug)]
pub struct Unpacked {
    /// The paths of each package, in its archive's order and as it spells them: what dpkg keeps in `info/*.list`.
    pub lists: BTreeMap<usize, Vec<TreePath>>,
}

impl Unpacker {
    /// Starts with the open directory `root`, whose content may be unfinished but not hostile.
    pub fn new(root: OwnedFd, epoch: Epoch) -> Unpacker {
        Unpacker {
            root,
            epoch,
            stage: 0,
            names: HashMap::new(),
            aliases: BTreeMap::new(),
            state: Mutex::default(),
        }
    }

    /// The root directory.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Modification times that packages gave their files, clamped to the epoch: what else is in the tree is of today.
    pub fn times(&self) -> BTreeMap<TreePath, i64> {
        self.lock().times.clone()
    }

    /// Files of the package of this rank that another package has taken over.
    pub fn lost(&self) -> BTreeSet<(usize, TreePath)> {
        self.lock().lost.clone()
    }

    /// Unpacks `sources`, at most `jobs` at once, the largest first.
    ///
    /// # Errors
    /// [`OrderMatters`]; a package that is damaged, has another digest, or has a file of another package's, named both.
    pub fn unpack(
        &mut self,
        sources: &[Source],
        rules: &Rules,
        replaces: Replaces<'_>,
        jobs: usize,
        cancel: &Cancel,
    ) -> anyhow::Result<Unpacked> {
        self.stage += 1;
        self.names.extend(sources.iter().map(|s| (s.rank, s.name.clone())));
        self.read_aliases()?;
        let mut order: Vec<(&Source, u64)> =
            sources.iter().map(|s| Ok((s, s.file.metadata()?.len()))).collect::<io::Result<_>>()?;
        order.sort_by_key(|(source, length)| (std::cmp::Reverse(*length), source.rank));
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let stage = Stage { unpacker: self, rules, replaces, alone: jobs <= 1, stop: &stop, cancel };
        let work = || {
            let mut done = vec![];
            while let Some((source, _)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let list = stage.package(source).with_context(|| format!("unpacking {}", source.name));
                if list.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                done.push((source.rank, list?));
            }
            Ok(done)
        };
        let results: Vec<anyhow::Result<Lists>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let theirs =
                threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))));
            std::iter::once(mine).chain(theirs).collect()
        });
        let mut lists = BTreeMap::new();
        let mut errors = vec![];
        for result in results {
            match result {
                Ok(done) => lists.extend(done),
                Err(e) => errors.push(e),
            }
        }
        // A thread that was told to stop says so; the reason is another's.
        errors.sort_by_key(|e| e.root_cause().is::<Stopped>());
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        self.finish_dirs(rules)?;
        Ok(Unpacked { lists })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // a panic elsewhere fails the stage anyway
    }

    /// The links of a merged /usr (`bin` → `usr/bin`): the same file may come under two names.
    fn read_aliases(&mut self) -> anyhow::Result<()> {
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"] {
            if let Ok(target) = rustix::fs::readlinkat(&self.root, name, vec![]) {
                self.aliases.insert(name.into(), TreePath::from_bytes(target.as_bytes())?);
            }
        }
        Ok(())
    }

    fn canonical(&self, path: &TreePath) -> anyhow::Result<TreePath> {
        Ok(match path.as_str().split_once('/') {
            Some((first, rest)) => match self.aliases.get(first) {
                Some(target) => target.join(rest)?,
                None => path.clone(),
            },
            None => path.clone(),
        })
    }

    fn open_dir(&self, path: &TreePath) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_str().is_empty() { "." } else { path.as_str() };
        rustix::fs::openat2(
            &self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens a directory, making it and what is above it where a package forgot to list them.
    fn need_dir(&self, path: &TreePath) -> anyhow::Result<OwnedFd> {
        match self.open_dir(path) {
            Err(Errno::NOENT) => {
                let Some(parent) = path.parent() else { bail!("the root directory is gone") };
                let above = self.need_dir(&parent)?;
                match rustix::fs::mkdirat(&above, path.name(), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e).with_context(|| format!("making directory /{path}")),
                }
                self.open_dir(path).with_context(|| format!("opening directory /{path}"))
            }
            other => other.with_context(|| format!("opening directory /{path}")),
        }
    }

    fn finish_dirs(&self, rules: &Rules) -> anyhow::Result<()> {
        for (path, (_, node)) in std::mem::take(&mut self.lock().dirs) {
            let dir = self.open_dir(&path).with_context(|| format!("opening directory /{path}"))?;
            attributes(&dir, &path, &node, rules)?;
        }
        Ok(())
    }
}

/// A thread was stopped because another has failed.
#[derive(Debug, thiserror::Error)]
#[error("stopped, because another package could not be unpacked")]
struct Stopped;

/// One call of [`Unpacker::unpack`], shared by its threads.
struct Stage<'a> {
    unpacker: &'a Unpacker,
    rules: &'a Rules,
    replaces: Replaces<'a>,
    alone: bool,
    stop: &'a AtomicBool,
    cancel: &'a Cancel,
}

impl Stage<'_> {
    fn package(&self, source: &Source) -> anyhow::Result<Vec<TreePath>> {
        if let Some(data) = &source.data {
            let mut data = data.try_clone()?;
            io::Seek::rewind(&mut data)?;
            return self.contents(source, Reader::new(Stream(io::BufReader::with_capacity(BUFFER, data))));
        }
        let hashed = Hashed::new(&source.file)?;
        let (deb, control) = Deb::open(io::BufReader::with_capacity(BUFFER, &hashed))?;
        let list = self.contents(source, deb.data()?)?;
        // What is behind the end of the tar is padding, but part of what was promised.
        hashed.check(source.sha256)?;
        source.same(&control)?;
        Ok(list)
    }

    fn contents<S: TarSource>(&self, source: &Source, mut data: Reader<S>) -> anyhow::Result<Vec<TreePath>> {
        let mut list = vec![];
        let mut parent: Option<(TreePath, OwnedFd)> = None;
        let mut buffer = vec![0; BUFFER];
        while let Some(entry) = data.next_entry().map_err(|source| match source {
            TarError::Io(e) => BadDeb::Io(e),
            source => BadDeb::Tar { member: "data.tar", source },
        })? {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped.into());
            }
            self.cancel.check()?;
            if list.len() >= MAX_ENTRIES {
                bail!("the package has more than {MAX_ENTRIES} entries");
            }
            let (path, size) = (entry.path.clone(), entry.size);
            if let NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } = entry.node.kind {
                bail!("`/{path}` is a device, which no package may bring");
            }
            let mut node = entry.node.clone();
            node.mtime = node.mtime.min(self.unpacker.epoch.0);
            let place = self.place(source, entry, &mut parent)?;
            match place {
                Place::Yield => continue,
                Place::Keep | Place::Done => {}
                Place::File(mut file) => {
                    let mut left = size;
                    while left > 0 {
                        let n = data.read(&mut buffer[..left.min(BUFFER as u64) as usize])?;
                        if n == 0 {
                            bail!("`/{path}` is cut short");
                        }
                        file.write_all(&buffer[..n]).with_context(|| format!("writing /{path}"))?;
                        left -= n as u64;
                    }
                    attributes(&file, &path, &node, self.rules)?;
                    let time = Timespec { tv_sec: node.mtime, tv_nsec: 0 };
                    rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
                }
            }
            list.push(path);
        }
        Ok(list)
    }
}

/// Sets owner, mode and extended attributes, in this order: a change of owner takes set-id bits and capabilities away.
fn attributes(file: &impl AsFd, path: &TreePath, node: &Node, rules: &Rules) -> anyhow::Result<()> {
    let (uid, gid, mode) = rules.overrides.get(path).copied().unwrap_or((node.uid, node.gid, node.mode));
    let context = || format!("setting attributes of /{path}");
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).with_context(context)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).with_context(context)?;
    for (name, value) in &node.xattrs {
        rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()).with_context(context)?;
    }
    Ok(())
}

/// Opens a package.
///
/// # Errors
/// Names the file.
pub fn open(path: &PathBuf) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests;
