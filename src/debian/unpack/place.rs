//! One entry of a package against what is in the tree: its name is made, or it is some other package's, or an error.
//!
//! Where two packages have the same path, the answer does not depend on which came first, or says that it would.

use super::{CONFFILE_SUFFIX, OrderMatters, Source, Stage};
use crate::tree::tar::Entry;
use crate::tree::{Node, NodeKind, TreePath};
use anyhow::{Context as _, bail};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;

/// Who brought what is at a path.
pub(super) struct Claim {
    rank: usize,
    is_dir: bool,
    /// In which call of `Unpacker::unpack`: what an earlier one left is there in every order.
    stage: usize,
}

/// What the threads of a stage know together.
#[derive(Default)]
pub(super) struct State {
    pub(super) claims: HashMap<TreePath, Claim>,
    /// Attributes that directories get at the end of the stage, with the rank that says so.
    pub(super) dirs: BTreeMap<TreePath, (usize, Node)>,
    /// Files that went from the package of this rank to another.
    pub(super) lost: BTreeSet<(usize, TreePath)>,
    pub(super) times: BTreeMap<TreePath, i64>,
}

/// Where the entry goes.
pub(super) enum Place {
    /// Nowhere: what is there stays.
    Keep,
    /// Nowhere, and it is not this package's: another package replaces it.
    Yield,
    /// To a file that was just made.
    File(File),
    /// It is there already, being no regular file.
    Done,
}

/// The name that an entry asks for.
struct Name<'a> {
    /// As the package has it.
    path: TreePath,
    /// Where that is in the tree: diverted, and below the directories that the system's links lead to.
    at: TreePath,
    /// The directory above it.
    dir: &'a OwnedFd,
    /// What it is called there, until its package is configured.
    file: String,
    /// What is there.
    there: Option<FileType>,
}

impl Stage<'_> {
    /// Decides about an entry and makes its name, in one step that no other thread sees half done.
    ///
    /// `parent` is the directory that was opened last: most entries of a package are beside the one before.
    pub(super) fn place(
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
        let suffix = match &node.kind {
            NodeKind::File(_) | NodeKind::HardLink(_) if source.conffiles.contains(&path) => CONFFILE_SUFFIX,
            _ => "",
        };
        let file = format!("{}{suffix}", at.name());
        let mut state = unpacker.lock();
        let there = rustix::fs::statat(&*dir, &file, AtFlags::SYMLINK_NOFOLLOW);
        let there = there.ok().map(|s| FileType::from_raw_mode(s.st_mode));
        let name = Name { path, at, dir, file, there };
        if let Some(decided) = self.contested(source, &name, &node, &mut state)? {
            return Ok(decided);
        }
        if node.is_dir() {
            self.directory(source, name, node, &mut state)
        } else {
            self.make(source, name, &node, &mut state)
        }
    }

    /// What becomes of a name that another package has, where this one does not simply get it.
    fn contested(
        &self,
        source: &Source,
        name: &Name<'_>,
        node: &Node,
        state: &mut State,
    ) -> anyhow::Result<Option<Place>> {
        let Some(claim) = state.claims.get(&name.at).filter(|claim| claim.rank != source.rank) else {
            return Ok(None);
        };
        let unpacker = self.unpacker;
        let (other, same_stage) = (claim.rank, claim.stage == unpacker.stage);
        let other_name = unpacker.names.get(&other).map(String::as_str).unwrap_or_default();
        let link = matches!(node.kind, NodeKind::Symlink(_)) || name.there == Some(FileType::Symlink);
        match (node.is_dir(), claim.is_dir) {
            (true, true) => Ok(None),
            // dpkg keeps whichever of the two came first.
            (true, false) | (false, true) if link => {
                if same_stage && !self.alone {
                    return Err(OrderMatters { path: name.at.clone() }.into());
                }
                Ok(Some(Place::Keep))
            }
            (true, false) | (false, true) => {
                bail!(
                    "`/{}` is a directory in one of {} and {other_name} and none in the other",
                    name.path,
                    source.name
                )
            }
            (false, false) => {
                let (mine, theirs) =
                    ((self.replaces)(source.rank, other), (self.replaces)(other, source.rank));
                match (mine, theirs) {
                    // Each replaces the other: the later one has it, as when dpkg unpacks them in that order.
                    (mine, true) if !mine || other > source.rank => {
                        state.lost.insert((source.rank, name.path.clone()));
                        Ok(Some(Place::Yield))
                    }
                    (true, _) => {
                        state.lost.insert((other, name.path.clone()));
                        Ok(None)
                    }
                    (false, _) => bail!(
                        "`/{}` is also in {other_name}, and neither {} nor {other_name} replaces the other",
                        name.path,
                        source.name
                    ),
                }
            }
        }
    }

    fn claim(&self, source: &Source, is_dir: bool) -> Claim {
        Claim { rank: source.rank, is_dir, stage: self.unpacker.stage }
    }

    fn directory(
        &self,
        source: &Source,
        name: Name<'_>,
        node: Node,
        state: &mut State,
    ) -> anyhow::Result<Place> {
        let Name { path, at, dir, file, there } = name;
        match there {
            None => rustix::fs::mkdirat(dir, &file, Mode::from_raw_mode(0o755))
                .with_context(|| format!("making directory /{at}"))?,
            Some(FileType::Directory) => {}
            Some(FileType::Symlink) if self.unpacker.open_dir(&at).is_ok() => return Ok(Place::Keep),
            Some(_) => bail!("`/{path}` is a directory in {}, but none in the tree", source.name),
        }
        state.claims.entry(at.clone()).or_insert(self.claim(source, true));
        // A directory that is there keeps its attributes; in the first stages nothing but this made any.
        if there.is_none() || state.dirs.contains_key(&at) || self.unpacker.stage <= 2 {
            state.offer(source.rank, at, node);
        }
        Ok(Place::Done)
    }

    /// Makes what is no directory, in the place of what is there.
    fn make(&self, source: &Source, name: Name<'_>, node: &Node, state: &mut State) -> anyhow::Result<Place> {
        let Name { path, at, dir, file, there } = name;
        match there {
            None => {}
            Some(FileType::Directory) if matches!(node.kind, NodeKind::Symlink(_)) => return Ok(Place::Keep),
            Some(FileType::Directory) => {
                bail!("`/{path}` is a file in {}, but a directory in the tree", source.name)
            }
            Some(_) => rustix::fs::unlinkat(dir, &file, AtFlags::empty())?,
        }
        state.claims.insert(at.clone(), self.claim(source, false));
        state.times.insert(at.clone(), node.mtime);
        let context = || format!("making /{at}");
        match &node.kind {
            NodeKind::File(_) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(dir, &file, flags, Mode::from_raw_mode(0o600))
                    .with_context(context)?;
                return Ok(Place::File(made.into()));
            }
            NodeKind::HardLink(target) => {
                let suffix = if source.conffiles.contains(target) { CONFFILE_SUFFIX } else { "" };
                let target = self.unpacker.canonical(&self.diverted(source, target))?;
                let owned = state.claims.get(&target).is_some_and(|c| c.rank == source.rank && !c.is_dir);
                let Some(above) = target.parent().filter(|_| owned) else {
                    bail!("`/{path}` is a hard link to `/{target}`, which the package has not");
                };
                let from = self.unpacker.open_dir(&above)?;
                let target_name = format!("{}{suffix}", target.name());
                rustix::fs::linkat(&from, &target_name, dir, &file, AtFlags::empty())
                    .with_context(context)?;
                let time = state.times.get(&target).copied();
                state.times.extend(time.map(|time| (at, time)));
                return Ok(Place::Done);
            }
            NodeKind::Symlink(target) => rustix::fs::symlinkat(target, dir, &file).with_context(context)?,
            NodeKind::Fifo => {
                rustix::fs::mknodat(dir, &file, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .with_context(context)?;
                rustix::fs::chmodat(dir, &file, Mode::from_raw_mode(node.mode), AtFlags::empty())?;
            }
            NodeKind::Dir | NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } => {
                bail!("making /{at}")
            }
        }
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::chownat(dir, &file, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .with_context(context)?;
        let time = Timespec { tv_sec: node.mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(dir, &file, &times, AtFlags::SYMLINK_NOFOLLOW)?;
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
