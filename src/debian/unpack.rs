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

use super::deb::Deb;
use super::rules::Rules;
use crate::host::cancel::Cancel;
use crate::model::digest::Hasher;
use crate::model::{Digest, Epoch};
use crate::tree::tar::Entry;
use crate::tree::{Node, NodeKind, TreePath};
use anyhow::{Context as _, anyhow, bail};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// Its conffiles (deb-conffiles(5)).
    pub conffiles: BTreeSet<TreePath>,
}

/// Whether the package of the first rank `Replaces` that of the second.
pub type Replaces<'a> = &'a (dyn Fn(usize, usize) -> bool + Sync);

/// Who brought what is at a path.
struct Claim {
    rank: usize,
    is_dir: bool,
    /// In which call of [`Unpacker::unpack`]: what an earlier one left is there in every order.
    stage: usize,
}

#[derive(Default)]
struct State {
    claims: HashMap<TreePath, Claim>,
    /// Attributes that directories get at the end of the stage, with the rank that says so.
    dirs: BTreeMap<TreePath, (usize, Node)>,
    /// Files that went from the package of this rank to another.
    lost: BTreeSet<(usize, TreePath)>,
    times: BTreeMap<TreePath, i64>,
}

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

/// Where the entry goes.
enum Place {
    /// Nowhere: what is there stays.
    Keep,
    /// Nowhere, and it is not this package's: another package replaces it.
    Yield,
    /// To a file that was just made.
    File(File),
    /// It is there already, being no regular file.
    Done,
}

impl Stage<'_> {
    fn package(&self, source: &Source) -> anyhow::Result<Vec<TreePath>> {
        let hashed = Hashed::new(&source.file)?;
        let (deb, _) = Deb::open(io::BufReader::with_capacity(BUFFER, &hashed))?;
        let mut data = deb.data()?;
        let mut list = vec![];
        let mut parent: Option<(TreePath, OwnedFd)> = None;
        let mut buffer = vec![0; BUFFER];
        while let Some(entry) = data.next_entry().map_err(|source| match source {
            crate::tree::tar::TarError::Io(e) => super::deb::BadDeb::Io(e),
            source => super::deb::BadDeb::Tar { member: "data.tar", source },
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
        drop(data);
        // What is behind the end of the tar is padding, but part of what was promised.
        hashed.check(source.sha256)?;
        Ok(list)
    }

    /// Decides about an entry and makes its name, in one step that no other thread sees half done.
    fn place(
        &self,
        source: &Source,
        entry: Entry,
        parent: &mut Option<(TreePath, OwnedFd)>,
    ) -> anyhow::Result<Place> {
        let unpacker = self.unpacker;
        let Entry { path, mut node, .. } = entry;
        node.mtime = node.mtime.min(unpacker.epoch.0);
        let at = unpacker.canonical(&self.diverted(source, &path))?;
        let Some(above) = at.parent() else {
            unpacker.lock().offer(source.rank, at, node);
            return Ok(Place::Keep);
        };
        if parent.as_ref().is_none_or(|(p, _)| *p != above) {
            *parent = Some((above.clone(), unpacker.need_dir(&above)?));
        }
        let Some((_, dir)) = parent else { bail!("opening directory /{above}") };
        let is_dir = node.is_dir();
        let suffix = match &node.kind {
            NodeKind::File(_) | NodeKind::HardLink(_) if source.conffiles.contains(&path) => CONFFILE_SUFFIX,
            _ => "",
        };
        let name = format!("{}{suffix}", at.name());
        let mut state = unpacker.lock();
        let there = rustix::fs::statat(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW);
        let there = there.ok().map(|s| FileType::from_raw_mode(s.st_mode));
        if let Some(claim) = state.claims.get(&at)
            && claim.rank != source.rank
        {
            let (other, same_stage) = (claim.rank, claim.stage == unpacker.stage);
            let other_name = unpacker.names.get(&other).map(String::as_str).unwrap_or_default();
            let link = matches!(node.kind, NodeKind::Symlink(_)) || there == Some(FileType::Symlink);
            match (is_dir, claim.is_dir) {
                (true, true) => {}
                // dpkg keeps whichever of the two came first.
                (true, false) | (false, true) if link => {
                    if same_stage && !self.alone {
                        return Err(OrderMatters { path: at }.into());
                    }
                    return Ok(Place::Keep);
                }
                (true, false) | (false, true) => {
                    bail!(
                        "`/{path}` is a directory in one of {} and {other_name} and none in the other",
                        source.name
                    )
                }
                (false, false) => {
                    let (mine, theirs) =
                        ((self.replaces)(source.rank, other), (self.replaces)(other, source.rank));
                    match (mine, theirs) {
                        // Each replaces the other: the later one has it, as when dpkg unpacks them in that order.
                        (mine, true) if !mine || other > source.rank => {
                            state.lost.insert((source.rank, path));
                            return Ok(Place::Yield);
                        }
                        (true, _) => {
                            state.lost.insert((other, path.clone()));
                        }
                        (false, _) => bail!(
                            "`/{path}` is also in {other_name}, and neither {} nor {other_name} replaces the other",
                            source.name
                        ),
                    }
                }
            }
        }
        let claim = Claim { rank: source.rank, is_dir, stage: unpacker.stage };
        if is_dir {
            match there {
                None => rustix::fs::mkdirat(&*dir, &name, Mode::from_raw_mode(0o755))
                    .with_context(|| format!("making directory /{at}"))?,
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) if unpacker.open_dir(&at).is_ok() => return Ok(Place::Keep),
                Some(_) => bail!("`/{path}` is a directory in {}, but none in the tree", source.name),
            }
            state.claims.entry(at.clone()).or_insert(claim);
            // A directory that is there keeps its attributes; in the first stages nothing but this made any.
            if there.is_none() || state.dirs.contains_key(&at) || unpacker.stage <= 2 {
                state.offer(source.rank, at, node);
            }
            return Ok(Place::Done);
        }
        match there {
            None => {}
            Some(FileType::Directory) if matches!(node.kind, NodeKind::Symlink(_)) => return Ok(Place::Keep),
            Some(FileType::Directory) => {
                bail!("`/{path}` is a file in {}, but a directory in the tree", source.name)
            }
            Some(_) => rustix::fs::unlinkat(&*dir, &name, AtFlags::empty())?,
        }
        state.claims.insert(at.clone(), claim);
        state.times.insert(at.clone(), node.mtime);
        let context = || format!("making /{at}");
        match &node.kind {
            NodeKind::File(_) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&*dir, &name, flags, Mode::from_raw_mode(0o600))
                    .with_context(context)?;
                return Ok(Place::File(file.into()));
            }
            NodeKind::HardLink(target) => {
                let suffix = if source.conffiles.contains(target) { CONFFILE_SUFFIX } else { "" };
                let target = unpacker.canonical(&self.diverted(source, target))?;
                let owned = state.claims.get(&target).is_some_and(|c| c.rank == source.rank && !c.is_dir);
                let Some(above) = target.parent().filter(|_| owned) else {
                    bail!("`/{path}` is a hard link to `/{target}`, which the package has not");
                };
                let from = unpacker.open_dir(&above)?;
                let target_name = format!("{}{suffix}", target.name());
                rustix::fs::linkat(&from, &target_name, &*dir, &name, AtFlags::empty())
                    .with_context(context)?;
                let time = state.times.get(&target).copied();
                state.times.extend(time.map(|time| (at, time)));
                return Ok(Place::Done);
            }
            NodeKind::Symlink(target) => rustix::fs::symlinkat(target, &*dir, &name).with_context(context)?,
            NodeKind::Fifo => {
                rustix::fs::mknodat(&*dir, &name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .with_context(context)?;
                rustix::fs::chmodat(&*dir, &name, Mode::from_raw_mode(node.mode), AtFlags::empty())?;
            }
            NodeKind::Dir | NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } => {
                bail!("making /{at}")
            }
        }
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::chownat(&*dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .with_context(context)?;
        let time = Timespec { tv_sec: node.mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(&*dir, &name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Place::Done)
    }

    fn diverted(&self, source: &Source, path: &TreePath) -> TreePath {
        match self.rules.diversions.get(path) {
            Some((to, exempt)) if *exempt != source.name => to.clone(),
            _ => path.clone(),
        }
    }
}

impl State {
    /// Gives a directory the attributes that the package of `rank` has for it, unless one of lesser rank has others.
    fn offer(&mut self, rank: usize, path: TreePath, node: Node) {
        match self.dirs.get(&path) {
            Some((other, _)) if *other <= rank => {}
            _ => drop(self.dirs.insert(path, (rank, node))),
        }
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

/// Hashes what is read of a file; shared by the reader of the package and by who finishes the digest.
pub(super) struct Hashed<'a> {
    file: &'a File,
    hasher: RefCell<Hasher>,
}

impl<'a> Hashed<'a> {
    /// Starts at the file's beginning.
    pub(super) fn new(mut file: &'a File) -> io::Result<Hashed<'a>> {
        io::Seek::rewind(&mut file)?;
        Ok(Hashed { file, hasher: RefCell::default() })
    }

    /// Reads to the end and compares the digest of all bytes.
    pub(super) fn check(self, wanted: Digest) -> anyhow::Result<()> {
        io::copy(&mut io::BufReader::with_capacity(BUFFER, &self), &mut io::sink())?;
        let (digest, _) = self.hasher.into_inner().finish();
        if digest == wanted {
            return Ok(());
        }
        Err(crate::error::of(crate::error::Kind::Verify, anyhow!("its digest is {digest}, not {wanted}")))
    }
}

impl Read for &Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&mut &*self.file).read(buffer)?;
        self.hasher.borrow_mut().update(&buffer[..n]);
        Ok(n)
    }
}

/// Opens a package.
///
/// # Errors
/// Names the file.
pub fn open(path: &PathBuf) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::deb::tests::{deb, tar_of};
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn mine(node: Node) -> Node {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        node.owned(uid, gid)
    }

    fn package(rank: usize, name: &str, entries: &[(&str, Node)]) -> Source {
        let entries: Vec<(&str, Node)> =
            entries.iter().map(|(path, node)| (*path, mine(node.clone()))).collect();
        raw(rank, name, &tar_of(&entries))
    }

    fn raw(rank: usize, name: &str, data: &[u8]) -> Source {
        let control = ("control", Node::text(format!("Package: {name}\nVersion: 1\n"), 0o644));
        let bytes = deb(&[control], data);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let conffiles = BTreeSet::from([TreePath::parse("etc/conf").unwrap()]);
        Source { rank, name: name.into(), file, sha256: Digest::of(&bytes), conffiles }
    }

    /// Unpacks into `tree` below a directory that is otherwise empty and must stay so.
    fn unpack(
        sources: &[Source],
        rules: &Rules,
        replaces: Replaces<'_>,
    ) -> (tempfile::TempDir, anyhow::Result<Unpacked>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        let mut unpacker = Unpacker::new(File::open(&root).unwrap().into(), Epoch(1_000_000_000));
        let done = unpacker.unpack(sources, rules, replaces, 2, &Cancel::default());
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "something was written outside of the tree"
        );
        (dir, done)
    }

    fn refusal(sources: &[Source]) -> String {
        format!("{:#}", unpack(sources, &Rules::default(), &|_, _| false).1.unwrap_err())
    }

    fn entry(name: &[u8], kind: tar::EntryType, link: &[u8]) -> Vec<u8> {
        let mut h = tar::Header::new_ustar();
        h.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
        h.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
        h.set_entry_type(kind);
        h.set_mode(0o644);
        h.set_uid(u64::from(rustix::process::getuid().as_raw()));
        h.set_gid(u64::from(rustix::process::getgid().as_raw()));
        h.set_mtime(0);
        h.set_size(0);
        h.set_cksum();
        h.as_bytes().to_vec()
    }

    #[test]
    fn modes_times_links_and_conffiles() {
        let mut old = Node::text("x", 0o4750);
        old.mtime = 5;
        let entries = [
            ("usr/bin/tool", old.clone()),
            ("usr/bin/z", Node { kind: NodeKind::HardLink(TreePath::parse("usr/bin/tool").unwrap()), ..old }),
            ("etc/conf", Node::text("c", 0o600)),
            ("usr/share", Node::dir(0o2775)),
            ("link", Node::symlink("/usr")),
        ];
        let (dir, done) = unpack(&[package(0, "a", &entries)], &Rules::default(), &|_, _| false);
        assert!(done.unwrap().lists[&0].contains(&TreePath::parse("etc/conf").unwrap()));
        let stat = |s: &str| std::fs::symlink_metadata(dir.path().join("tree").join(s)).unwrap();
        let tool = stat("usr/bin/tool");
        assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o4750, 5, 2));
        assert_eq!(stat("etc/conf.dpkg-new").mode() & 0o7777, 0o600);
        assert_eq!(stat("usr/share").mode() & 0o7777, 0o2775);
        assert!(stat("link").is_symlink());
    }

    #[test]
    fn a_file_of_two_packages_needs_replaces() {
        let two = || {
            [
                package(0, "a", &[("f", Node::text("a", 0o644))]),
                package(1, "b", &[("f", Node::text("b", 0o644))]),
            ]
        };
        let said = refusal(&two());
        assert!(said.contains("`/f` is also in") && said.contains('a') && said.contains('b'), "{said}");
        for winner in [0, 1] {
            let (dir, done) = unpack(&two(), &Rules::default(), &|x, _| x == winner);
            done.unwrap();
            assert_eq!(std::fs::read(dir.path().join("tree/f")).unwrap(), [b"a", b"b"][winner]);
        }
    }

    #[test]
    fn diversions_and_statoverrides() {
        let rules = Rules::parse("/f\n/f.real\nb\n", "#0 #0 750 /d\n", "", "").unwrap();
        let mut rules = rules;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        rules.overrides.values_mut().for_each(|o| (o.0, o.1) = (uid, gid));
        let two = [
            package(0, "a", &[("f", Node::text("a", 0o644)), ("d", Node::dir(0o755))]),
            package(1, "b", &[("f", Node::text("b", 0o644))]),
        ];
        let (dir, done) = unpack(&two, &rules, &|_, _| false);
        done.unwrap();
        let read = |s: &str| std::fs::read(dir.path().join("tree").join(s)).unwrap();
        assert_eq!((read("f"), read("f.real")), (b"b".to_vec(), b"a".to_vec()));
        assert_eq!(std::fs::metadata(dir.path().join("tree/d")).unwrap().mode() & 0o7777, 0o750);
    }

    #[test]
    fn escapes_devices_and_swaps_are_refused_or_stay_inside() {
        use tar::EntryType::*;
        let disk = NodeKind::BlockDevice { major: 8, minor: 0 };
        let device = tar_of(&[
            ("dev/sda", mine(Node { kind: disk, ..Node::dir(0o660) })),
            ("dev", mine(Node::dir(0o755))),
        ]);
        for (says, data) in [
            ("`..`", entry(b"../../x", Regular, b"")),
            ("is a device", device),
            ("which the package has not", entry(b"passwd", Link, b"/etc/passwd")),
            ("`..`", entry(b"passwd", Link, b"../../etc/passwd")),
            ("checksum", vec![b'x'; 512]),
        ] {
            let said = refusal(&[raw(0, "evil", &data)]);
            assert!(said.contains(says) && said.contains("evil"), "{says}: {said}");
        }
        // A link to the outside, and a file through it: it leads to a directory of that name inside, or nowhere.
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        for link in [target, "../../../../../../../.."] {
            let swap = [entry(b"dir", Symlink, link.as_bytes()), entry(b"dir/file", Regular, b"")].concat();
            let _ = unpack(&[raw(0, "evil", &swap)], &Rules::default(), &|_, _| false);
            let later = [
                package(0, "evil", &[("dir", Node::symlink(link))]),
                raw(1, "b", &entry(b"dir/file", Regular, b"")),
            ];
            let _ = unpack(&later, &Rules::default(), &|_, _| false);
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_package_that_changed_since_it_was_locked_is_refused() {
        let mut source = package(0, "a", &[("f", Node::text("a", 0o644))]);
        source.sha256 = Digest::of("another");
        let error = unpack(&[source], &Rules::default(), &|_, _| false).1.unwrap_err();
        assert_eq!(crate::error::kind(&error), crate::error::Kind::Verify);
    }
}
