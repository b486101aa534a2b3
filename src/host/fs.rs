//! Files that are there whole or not at all.
//!
//! Everything that another process, or a later run, may read is written beside its place and renamed into it. Power can
//! go at any instant: what is small is synced before the rename; what is large says so itself ([`Durability`]).

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a rename into place waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Content and name are on the disk before the call returns.
    Synced,
    /// The kernel may write later. A crash of the machine can leave a file of zeros under the final name, so the reader
    /// must be able to tell (the build cache re-hashes what an earlier boot wrote).
    Cached,
}

/// Writes `bytes` to `path` with permission bits `mode`: temporary file in the same directory, fsync, rename, fsync of
/// the directory.
///
/// # Errors
/// What the file system says; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut staged = Staged::file(path, mode)?;
    staged.write_all(bytes)?;
    staged.commit(Durability::Synced)
}

/// A file or directory under construction beside its final place; removed when dropped before
/// [commit](Staged::commit).
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    file: Option<File>,
    done: bool,
}

impl Staged {
    /// Opens a new file that will become `target`; its directory is made when missing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn file(target: &Path, mode: u32) -> io::Result<Staged> {
        make_parent(target)?;
        let temporary = temporary_beside(target);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&temporary)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?; // the umask must not decide
        Ok(Staged { temporary, target: target.into(), file: Some(file), done: false })
    }

    /// Makes a new directory that will become `target`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn dir(target: &Path) -> io::Result<Staged> {
        make_parent(target)?;
        let temporary = temporary_beside(target);
        std::fs::DirBuilder::new().mode(0o755).create(&temporary)?;
        rustix::fs::chmod(&temporary, Mode::from_raw_mode(0o755))?;
        Ok(Staged { temporary, target: target.into(), file: None, done: false })
    }

    /// Where it is being made.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// The open file, of one made by [`Staged::file`].
    ///
    /// # Errors
    /// [`io::ErrorKind::IsADirectory`] for a directory.
    pub fn as_file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }

    /// Renames it into place, over a file of that name; a directory takes the place of a directory in one step.
    ///
    /// # Errors
    /// What the file system says; the old content is then untouched.
    pub fn commit(mut self, durability: Durability) -> io::Result<()> {
        if durability == Durability::Synced {
            match &self.file {
                Some(file) => file.sync_all()?,
                None => sync_tree(&self.temporary)?,
            }
        }
        if self.file.is_none() && self.target.is_dir() {
            // Both names change in one step; the old directory is then ours to remove.
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &self.temporary,
                rustix::fs::CWD,
                &self.target,
                rustix::fs::RenameFlags::EXCHANGE,
            )?;
            std::fs::remove_dir_all(&self.temporary)?;
        } else {
            std::fs::rename(&self.temporary, &self.target)?;
        }
        self.done = true;
        if durability == Durability::Synced { sync_parent(&self.target) } else { Ok(()) }
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_file()?.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.done {
            let removed = if self.file.is_some() {
                std::fs::remove_file(&self.temporary)
            } else {
                std::fs::remove_dir_all(&self.temporary)
            };
            // Nothing to be done about it, and nothing takes a `.tmp` name for a result.
            let _ = removed;
        }
    }
}

/// The mark of temporary names; `forge cache prune` removes what bears it and is old.
pub const TEMPORARY: &str = ".forge-tmp-";

fn temporary_beside(target: &Path) -> PathBuf {
    let mut random = [0; 8];
    // Without randomness the process id still keeps two runs apart.
    if getrandom::fill(&mut random).is_err() {
        random[..4].copy_from_slice(&std::process::id().to_le_bytes());
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{TEMPORARY}{}-{name}", crate::model::digest::hex(&random)))
}

fn make_parent(target: &Path) -> io::Result<()> {
    match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => std::fs::create_dir_all(dir),
        _ => Ok(()),
    }
}

/// Syncs the directory that holds `path`, so that a rename in it survives a power cut.
///
/// # Errors
/// What the file system says.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    let mut entries = vec![];
    list(dir, &mut entries)?;
    /// Each file's own sync costs a commit of the journal: from some hundred on, one for the whole file system is cheaper.
    const MANY: usize = 256;
    if entries.len() > MANY {
        return Ok(rustix::fs::syncfs(File::open(dir)?)?);
    }
    entries.iter().try_for_each(|path| File::open(path)?.sync_all())
}

/// Files and directories below `dir`, and it last.
fn list(dir: &Path, entries: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), entries)?;
        } else if kind.is_file() {
            entries.push(entry.path());
        }
    }
    entries.push(dir.into());
    Ok(())
}

/// An exclusive lock on a file, held until dropped, and let go by the kernel when the process dies.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Waits for the lock on `path`, which is made when missing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn acquire(path: &Path) -> io::Result<FileLock> {
        let file = FileLock::open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(FileLock(file))
    }

    /// The lock on `path`, which is made when missing; `None` while another holds it. For waits that must end on Ctrl-C.
    ///
    /// # Errors
    /// What the file system says.
    pub fn try_acquire(path: &Path) -> io::Result<Option<FileLock>> {
        let file = FileLock::open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(FileLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The locked file itself, for locks on a file that is being written; the lock lasts as long as either lives.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    fn open(path: &Path) -> io::Result<File> {
        make_parent(path)?;
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)
    }
}

/// A file without a name in `dir`, gone with its last descriptor: room for intermediate bytes.
///
/// # Errors
/// What the file system says.
#[cfg(feature = "cli")]
pub fn anonymous(dir: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    match rustix::fs::openat(
        rustix::fs::CWD,
        dir,
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    ) {
        Ok(fd) => Ok(File::from(fd)),
        // Not every file system has nameless files (overlayfs of old kernels).
        Err(_) => tempfile::tempfile_in(dir),
    }
}

/// Size, device, inode and change time of a file, as a word to compare. No user can set a change time, so whoever writes
/// to it leaves a trace; that of another boot of the machine says nothing, because bytes may have been lost.
///
/// # Errors
/// What the file system says.
pub fn identity(file: &File) -> io::Result<String> {
    let m = file.metadata()?;
    Ok(format!("{} {} {} {}.{}", m.size(), m.dev(), m.ino(), m.ctime(), m.ctime_nsec()))
}

/// Copies the file `from` to `to`, which must not be there yet, with mode 0644; its directory is made when missing. Where
/// the file system can, the bytes are shared and nothing is written. Never a hard link: a change to one file must not
/// reach the other.
///
/// # Errors
/// What the file system says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    make_parent(to)?;
    // The standard library copies from file to file in the kernel.
    io::copy(&mut File::open(from)?, &mut create_new(to)?).map(drop)
}

/// Writes what `content` gives to a new file, over a file or link of that name, in a directory of the caller's own making.
/// No symbolic link on the way is followed out of it by the last component; missing directories are made.
///
/// # Errors
/// What the file system or `content` says.
pub fn place(path: &Path, mode: u32, mut content: impl io::Read) -> io::Result<()> {
    make_parent(path)?;
    if exists(path) {
        std::fs::remove_file(path)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::copy(&mut content, &mut file).map(drop)
}

/// Makes a symbolic link, over a file or link of that name.
///
/// # Errors
/// What the file system says.
pub fn link(path: &Path, target: &str) -> io::Result<()> {
    make_parent(path)?;
    if exists(path) {
        std::fs::remove_file(path)?;
    }
    std::os::unix::fs::symlink(target, path)
}

/// Creates a file that must not be there yet, readable and writable, of mode 0644.
///
/// # Errors
/// What the file system says.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path)
}

/// Opens a regular file for reading in a directory that others may have filled: a symbolic link as the last component,
/// a device or a pipe, which would make the reader wait for ever, is refused.
///
/// # Errors
/// What the file system says; [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let not_regular = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    let file = match rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Err(not_regular()),
        other => File::from(other?),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

/// Makes `dir` and what is above it, for this user alone where it is new: it will hold what nobody else is to read, or
/// to put there.
///
/// # Errors
/// What the file system says.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes `bytes` over what is at `path`, with permission bits `mode`: for trees under construction, which nobody else
/// reads and nobody trusts after a crash.
///
/// # Errors
/// What the file system says.
pub fn overwrite(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?; // the umask must not decide
    file.write_all(bytes)
}

/// Whether something is at `path`, a dangling symbolic link included.
pub fn exists(path: &Path) -> bool {
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("sub/file");
        let mut staged = Staged::file(&target, 0o640).unwrap();
        staged.write_all(b"half").unwrap();
        drop(staged);
        assert_eq!(std::fs::read_dir(dir.path().join("sub")).unwrap().count(), 0);
        write_atomic(&target, b"whole", 0o640).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"whole");
    }

    #[test]
    fn a_pipe_or_link_in_place_of_a_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), kind, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(open_regular(&path("file")).is_ok());
        for name in ["link", "pipe", "."] {
            assert_eq!(open_regular(&path(name)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn a_directory_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for name in ["first", "second"] {
            let staged = Staged::dir(&target).unwrap();
            File::create(staged.path().join(name)).unwrap();
            staged.commit(Durability::Synced).unwrap();
        }
        let names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["second"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
