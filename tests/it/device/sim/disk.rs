//! A disk in memory that keeps apart what a program sees and what would be there after the power went: contents become
//! durable by an fsync of the file, names by an fsync of their directory, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is gone.
    Drop,
    /// The names are there; the contents are empty, zeros, or somebody else's blocks.
    Garbage,
    /// Each name and each content is there, old, or torn, as it happens.
    Reorder,
}

impl Loss {
    pub const ALL: [Loss; 3] = [Loss::Drop, Loss::Garbage, Loss::Reorder];
}

#[derive(Clone, Debug)]
enum Kind {
    File,
    Dir,
    Link(PathBuf),
}

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    seen: Vec<u8>,
    /// `None` while no content of it was ever synced.
    synced: Option<Vec<u8>>,
}

/// A change of names in one directory, in one step.
#[derive(Clone, Debug)]
struct Change {
    dir: PathBuf,
    gone: Option<PathBuf>,
    here: Option<(PathBuf, usize)>,
}

/// Randomness that a seed repeats: SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    inodes: Vec<Inode>,
    seen: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    /// Every write fails, as on a disk that is full or broken.
    pub broken: bool,
}

impl SimDisk {
    /// A disk with the directories of a fresh image.
    pub fn new() -> SimDisk {
        let mut disk = SimDisk {
            inodes: vec![],
            seen: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: vec![],
            broken: false,
        };
        for dir in ["/", "/etc", "/var", "/var/lib"] {
            disk.inodes.push(Inode { kind: Kind::Dir, seen: vec![], synced: None });
            disk.seen.insert(dir.into(), disk.inodes.len() - 1);
        }
        disk.durable = disk.seen.clone();
        disk
    }

    fn parent(path: &Path) -> PathBuf {
        path.parent().unwrap_or(Path::new("/")).to_path_buf()
    }

    fn writable(&self) -> io::Result<()> {
        if self.broken { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push(change);
    }

    fn needs_dir(&self, path: &Path) -> io::Result<()> {
        match self.seen.get(path).map(|i| &self.inodes[*i].kind) {
            Some(Kind::Dir) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn read(&self, path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
        match self.seen.get(path).map(|i| &self.inodes[*i]) {
            Some(Inode { kind: Kind::File, seen, .. }) if seen.len() > most => {
                Err(io::ErrorKind::InvalidData.into())
            }
            Some(Inode { kind: Kind::File, seen, .. }) => Ok(Some(seen.clone())),
            Some(Inode { kind: Kind::Dir, .. }) => Err(io::ErrorKind::IsADirectory.into()),
            _ => Ok(None),
        }
    }

    pub fn list(&self, dir: &Path) -> Vec<String> {
        let below = |p: &&PathBuf| p.parent() == Some(dir);
        let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        self.seen.keys().filter(below).map(name).collect()
    }

    pub fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.needs_dir(&Self::parent(path))?;
        match self.seen.get(path) {
            Some(i) => self.inodes[*i].seen = bytes.to_vec(),
            None => {
                self.inodes.push(Inode { kind: Kind::File, seen: bytes.to_vec(), synced: None });
                let here = Some((path.to_path_buf(), self.inodes.len() - 1));
                self.change(Change { dir: Self::parent(path), gone: None, here });
            }
        }
        Ok(())
    }

    pub fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        self.writable()?;
        let i = *self.seen.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.inodes[i].synced = Some(self.inodes[i].seen.clone());
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.writable()?;
        assert_eq!(from.parent(), to.parent(), "a rename over directories is not one step");
        let i = *self.seen.get(from).ok_or(io::ErrorKind::NotFound)?;
        if let Some(Kind::Dir) = self.seen.get(to).map(|i| &self.inodes[*i].kind) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let here = Some((to.to_path_buf(), i));
        self.change(Change { dir: Self::parent(to), gone: Some(from.into()), here });
        Ok(())
    }

    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.writable()?;
        self.needs_dir(dir)?;
        let (mine, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(|c| c.dir == dir);
        mine.iter().for_each(|c| apply(&mut self.durable, c));
        self.changes = others;
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.writable()?;
        let Some(i) = self.seen.get(path) else { return Ok(()) };
        if matches!(self.inodes[*i].kind, Kind::Dir) && !self.list(path).is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(Change { dir: Self::parent(path), gone: Some(path.into()), here: None });
        Ok(())
    }

    pub fn make_dir(&mut self, path: &Path) -> io::Result<()> {
        if self.seen.contains_key(path) {
            return self.needs_dir(path);
        }
        self.writable()?;
        self.needs_dir(&Self::parent(path))?;
        self.inodes.push(Inode { kind: Kind::Dir, seen: vec![], synced: None });
        let here = Some((path.to_path_buf(), self.inodes.len() - 1));
        self.change(Change { dir: Self::parent(path), gone: None, here });
        Ok(())
    }

    pub fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()> {
        self.writable()?;
        self.needs_dir(&Self::parent(path))?;
        if self.seen.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.inodes.push(Inode { kind: Kind::Link(target.into()), seen: vec![], synced: None });
        let here = Some((path.to_path_buf(), self.inodes.len() - 1));
        self.change(Change { dir: Self::parent(path), gone: None, here });
        Ok(())
    }

    pub fn read_link(&self, path: &Path) -> Option<PathBuf> {
        match self.seen.get(path).map(|i| &self.inodes[*i].kind) {
            Some(Kind::Link(target)) => Some(target.clone()),
            _ => None,
        }
    }

    /// The power went: what is there when it comes back.
    pub fn cut(&mut self, loss: Loss, dice: &mut Dice) {
        for change in std::mem::take(&mut self.changes) {
            let kept = match loss {
                Loss::Drop => false,
                Loss::Garbage => true,
                Loss::Reorder => dice.below(2) == 0,
            };
            if kept {
                apply(&mut self.durable, &change);
            }
        }
        for inode in &mut self.inodes {
            let old = inode.synced.clone().unwrap_or_default();
            if inode.synced.as_ref() == Some(&inode.seen) {
                continue;
            }
            let length = inode.seen.len();
            inode.seen = match (loss, dice.below(3)) {
                (Loss::Drop, _) => old,
                (Loss::Garbage, 0) => vec![],
                (Loss::Garbage, 1) => vec![0; length],
                (Loss::Garbage, _) => (0..length).map(|_| dice.roll() as u8).collect(),
                (Loss::Reorder, 0) => old,
                (Loss::Reorder, 1) => inode.seen.clone(),
                (Loss::Reorder, _) => inode.seen[..dice.below(length as u64 + 1) as usize].to_vec(),
            };
            inode.synced = Some(inode.seen.clone());
        }
        // A name is there only when its directory is.
        let mut dirs: BTreeSet<PathBuf> = BTreeSet::from(["/".into()]);
        let mut seen = BTreeMap::new();
        for (path, i) in &self.durable {
            if path == Path::new("/") || dirs.contains(&Self::parent(path)) {
                if matches!(self.inodes[*i].kind, Kind::Dir) {
                    dirs.insert(path.clone());
                }
                seen.insert(path.clone(), *i);
            }
        }
        self.durable = seen.clone();
        self.seen = seen;
    }

    /// All bytes of all files that are there, and of those that lie unnamed on the medium.
    pub fn every_byte(&self) -> Vec<&[u8]> {
        self.seen.values().map(|i| &self.inodes[*i].seen[..]).collect()
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.seen
            .iter()
            .filter(|(_, i)| matches!(self.inodes[**i].kind, Kind::File))
            .map(|(p, _)| p.clone())
            .collect()
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    if let Some(gone) = &change.gone {
        names.remove(gone);
    }
    if let Some((path, i)) = &change.here {
        names.insert(path.clone(), *i);
    }
}

#[test]
fn what_is_not_synced_is_lost_and_what_is_stays() {
    for loss in Loss::ALL {
        let mut disk = SimDisk::new();
        let (old, new) = (Path::new("/var/lib/a"), Path::new("/var/lib/b"));
        disk.write(old, b"durable").unwrap();
        disk.sync_file(old).unwrap();
        disk.sync_dir(Path::new("/var/lib")).unwrap();
        disk.write(new, b"fleeting").unwrap();
        disk.make_dir(Path::new("/var/lib/d")).unwrap();
        disk.write(Path::new("/var/lib/d/c"), b"x").unwrap();
        disk.sync_dir(Path::new("/var/lib/d")).unwrap();
        disk.cut(loss, &mut Dice(7));
        assert_eq!(disk.read(old, 99).unwrap().unwrap(), b"durable", "{loss:?}");
        match loss {
            Loss::Drop => {
                assert_eq!(disk.read(new, 99).unwrap(), None);
                assert_eq!(disk.read(Path::new("/var/lib/d/c"), 99).unwrap(), None, "its directory is gone");
            }
            Loss::Garbage => assert_ne!(disk.read(new, 99).unwrap().unwrap(), b"fleeting"),
            Loss::Reorder => {}
        }
    }
}
