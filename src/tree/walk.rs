//! A directory on disk → a [`Tree`]: names, types, attributes; contents stay where they are.
//!
//! What a file system adds by itself is left out: access times, inode numbers, labels of the machine's security module.
//! Modification times are the caller's to decide, because those of a tree just made tell the time of day.

use super::{Content, Node, NodeKind, Tree, TreeError, TreePath};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The largest extended attribute that Linux takes, in bytes (`XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 65_536;

/// What is wrong with a directory on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// It cannot be read.
    #[error("reading `{path}`: {source}")]
    Io {
        /// What was read.
        path: TreePath,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name is no path of a tree.
    #[error(transparent)]
    Path(#[from] super::BadPath),
    /// A contradiction, which a file system that changes meanwhile can show.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Reads the directory `root`; `mtime` gives each entry its modification time. Sockets are left out, as every archiver
/// does: they mean nothing without the process that made them.
///
/// # Errors
/// [`WalkError`], naming the path.
pub fn read(root: OwnedFd, mtime: impl Fn(&TreePath, &Stat) -> i64) -> Result<Tree, WalkError> {
    let root = Arc::new(root);
    let mut found = BTreeMap::new();
    let at = |path: &TreePath| {
        let path = path.clone();
        move |e: rustix::io::Errno| WalkError::Io { path, source: e.into() }
    };
    let start = TreePath::root();
    found.insert(start.clone(), rustix::fs::fstat(&root).map_err(at(&start))?);
    let mut todo = vec![start];
    while let Some(path) = todo.pop() {
        let dir = open_as(&root, &path, OFlags::DIRECTORY).map_err(at(&path))?;
        for entry in Dir::read_from(&dir).map_err(at(&path))? {
            let entry = entry.map_err(at(&path))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let below = path.join(TreePath::from_bytes(name)?.as_str())?;
            let stat =
                rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(at(&below))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(below.clone());
            }
            found.insert(below, stat);
        }
    }
    let mut tree = Tree::new();
    let mut linked: HashMap<(u64, u64), TreePath> = HashMap::new();
    for (path, stat) in found {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let inode = (stat.st_dev, stat.st_ino);
        let node = Node {
            kind: match kind {
                FileType::Directory => NodeKind::Dir,
                FileType::RegularFile => match linked.get(&inode).filter(|_| stat.st_nlink > 1) {
                    Some(first) => NodeKind::HardLink(first.clone()),
                    None => {
                        linked.insert(inode, path.clone());
                        let length = stat.st_size as u64;
                        NodeKind::File(Content::InDir { root: root.clone(), path: path.clone(), length })
                    }
                },
                FileType::Symlink => {
                    let target = readlink(&root, &path).map_err(at(&path))?;
                    NodeKind::Symlink(target)
                }
                FileType::CharacterDevice | FileType::BlockDevice => {
                    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                    match kind {
                        FileType::CharacterDevice => NodeKind::CharDevice { major, minor },
                        _ => NodeKind::BlockDevice { major, minor },
                    }
                }
                FileType::Fifo => NodeKind::Fifo,
                _ => continue,
            },
            mode: if kind == FileType::Symlink { 0o777 } else { stat.st_mode & 0o7777 },
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: mtime(&path, &stat),
            xattrs: match kind {
                FileType::Directory | FileType::RegularFile => xattrs(&root, &path).map_err(at(&path))?,
                _ => BTreeMap::new(),
            },
        };
        tree.insert(path, node)?;
    }
    Ok(tree)
}

/// Opens the file at `path` below `root`, following no symbolic link.
pub(super) fn open(root: &OwnedFd, path: &TreePath) -> io::Result<File> {
    Ok(File::from(open_as(root, path, OFlags::empty())?))
}

fn open_as(root: &OwnedFd, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_str().is_empty() { "." } else { path.as_str() };
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

fn readlink(root: &OwnedFd, path: &TreePath) -> rustix::io::Result<String> {
    let dir = open_as(root, &path.parent().unwrap_or_default(), OFlags::DIRECTORY)?;
    let target = rustix::fs::readlinkat(&dir, path.name(), vec![])?;
    target.into_string().map_err(|_| rustix::io::Errno::ILSEQ)
}

/// Attributes that are the tree's: capabilities, access lists, and users' own.
fn xattrs(root: &OwnedFd, path: &TreePath) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    let file = open_as(root, path, OFlags::empty())?;
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(&file, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e),
    };
    let mut out = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let ours = name == "security.capability"
            || name.starts_with("user.")
            || name.starts_with("system.posix_acl_");
        if ours {
            let mut value = vec![0; MAX_XATTR];
            let length = rustix::fs::fgetxattr(&file, name, &mut value[..])?;
            value.truncate(length);
            out.insert(name.to_string(), value);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_becomes_a_tree_and_its_times_are_the_callers() {
        let dir = tempfile::tempdir().unwrap();
        let path = |s: &str| dir.path().join(s);
        std::fs::create_dir(path("d")).unwrap();
        crate::host::fs::write_atomic(&path("d/z"), b"content", 0o640).unwrap();
        std::fs::hard_link(path("d/z"), path("d/a")).unwrap();
        symlink("../outside", path("d/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let tree = read(File::open(dir.path()).unwrap().into(), |_, _| 7).unwrap();
        let p = |s: &str| TreePath::parse(s).unwrap();
        assert_eq!(tree.file(&p("d/z")).unwrap().to_vec(100).unwrap(), b"content");
        assert_eq!(tree.get(&p("d/z")).unwrap().kind, NodeKind::HardLink(p("d/a")));
        assert_eq!(tree.get(&p("d/link")).unwrap().kind, NodeKind::Symlink("../outside".into()));
        let file = tree.get(&p("d/a")).unwrap();
        assert_eq!((file.mode, file.mtime), (0o640, 7));
        assert_eq!(tree.len(), 5);
    }
}
