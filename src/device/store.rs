//! Artefacts: small files that are there whole and durable, or not at all, however the power goes.
//!
//! Write beside → fsync → rename → fsync of the directory, and a line with the SHA-256 of all before it at the end: a file
//! system that keeps the name and loses the content (zero length, blocks of something else) leaves an artefact that is not
//! one, which reads as absent.
//!
//! What a process finds on the disk need not be durable yet: the one before it may have been killed between rename and
//! fsync, with the power still on. So an artefact is synced once before this process believes it. What an fsync failed
//! for is not believed before it was written again, for the kernel may have forgotten the pages that it could not write.

use crate::device::effects::Disk;
use crate::model::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Between content and digest.
const MARK: &[u8] = b"\nsha256:";
/// The mark, 64 hex digits and a newline.
const TRAILER: usize = MARK.len() + 64 + 1;
/// The longest artefact that is no part of a bundle, in bytes.
pub const MAX_ARTEFACT: usize = 2 << 20;

/// What this process knows of the disk.
#[derive(Debug, Default)]
pub struct Store {
    /// Artefacts that are known to be durable.
    settled: BTreeSet<PathBuf>,
    /// Artefacts whose writing failed half way: absent, whatever the disk shows.
    suspect: BTreeSet<PathBuf>,
    /// Directories that are known to be there, durably.
    dirs: BTreeSet<PathBuf>,
}

impl Store {
    /// Writes `content` as the artefact at `path`, with the permission bits `mode`. Durable when this returns.
    ///
    /// # Errors
    /// What the disk says; the artefact then reads as absent, or as it was, after a power cut.
    pub fn put(&mut self, disk: &mut impl Disk, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(content.len() + TRAILER));
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(Digest::of(content).hex().as_bytes());
        bytes.push(b'\n');
        self.settled.remove(path);
        self.suspect.insert(path.into());
        self.replace(disk, path, &bytes, mode)?;
        self.suspect.remove(path);
        self.settled.insert(path.into());
        Ok(())
    }

    /// The content of the artefact at `path`; `None` where there is none, or what is there is not whole.
    ///
    /// # Errors
    /// What the disk says.
    pub fn get(
        &mut self,
        disk: &mut impl Disk,
        path: &Path,
        most: usize,
    ) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        if self.suspect.contains(path) {
            return Ok(None);
        }
        let bytes = match disk.read(path, most + TRAILER) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
            Err(e) => return Err(e),
        };
        let Some(mut bytes) = bytes else { return Ok(None) };
        let Some(length) = whole(&bytes) else { return Ok(None) };
        if !self.settled.contains(path) {
            disk.sync_file(path)?;
            disk.sync_dir(parent(path))?;
            self.settled.insert(path.into());
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_json<T: Serialize>(&mut self, disk: &mut impl Disk, path: &Path, value: &T) -> io::Result<()> {
        let json = Zeroizing::new(serde_json::to_vec(value)?);
        self.put(disk, path, &json, 0o600)
    }

    /// Reads JSON; what is no such value is absent, and written anew by whoever needs it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn get_json<T: DeserializeOwned>(
        &mut self,
        disk: &mut impl Disk,
        path: &Path,
    ) -> io::Result<Option<T>> {
        let bytes = self.get(disk, path, MAX_ARTEFACT)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// As [`Store::get_json`], of what need not be durable to be gone by: on a disk that takes no writes any more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn peek_json<T: DeserializeOwned>(&self, disk: &mut impl Disk, path: &Path) -> io::Result<Option<T>> {
        let bytes = match disk.read(path, MAX_ARTEFACT + TRAILER) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
            result => result?,
        };
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes[..whole(&bytes)?]).ok()))
    }

    /// Removes the file at `path`, durably.
    ///
    /// # Errors
    /// What the disk says.
    pub fn delete(&mut self, disk: &mut impl Disk, path: &Path) -> io::Result<()> {
        self.settled.remove(path);
        disk.remove(path)?;
        // Also where nothing was to remove: whoever removed it may have been killed before this.
        match disk.sync_dir(parent(path)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        self.suspect.remove(path);
        Ok(())
    }

    /// Puts a file with exactly `bytes` at `path`, in place of what is there. Durable when this returns; before that,
    /// the old content or the new.
    ///
    /// # Errors
    /// What the disk says.
    pub fn replace(&mut self, disk: &mut impl Disk, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.make_dirs(disk, parent(path))?;
        let beside = beside(path);
        disk.write(&beside, bytes, mode)?;
        disk.sync_file(&beside)?;
        disk.rename(&beside, path)?;
        disk.sync_dir(parent(path))
    }

    /// Points the symbolic link at `path` to `target`, in one step and durably.
    ///
    /// # Errors
    /// What the disk says.
    pub fn point(&mut self, disk: &mut impl Disk, path: &Path, target: &Path) -> io::Result<()> {
        self.make_dirs(disk, parent(path))?;
        let beside = beside(path);
        disk.remove(&beside)?; // of an earlier try
        disk.symlink(target, &beside)?;
        disk.rename(&beside, path)?;
        disk.sync_dir(parent(path))
    }

    /// Makes `dir` and what is missing above it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn make_dirs(&mut self, disk: &mut impl Disk, dir: &Path) -> io::Result<()> {
        if self.dirs.contains(dir) || dir.parent().is_none() {
            return Ok(());
        }
        let above = parent(dir);
        self.make_dirs(disk, above)?;
        disk.make_dir(dir, 0o755)?;
        // `/` is a read-only image, which has all its directories from the start.
        if above.parent().is_some() {
            disk.sync_dir(above)?;
        }
        self.dirs.insert(dir.into());
        Ok(())
    }

    /// Removes the directory at `dir` with the files in it, which are its last level.
    ///
    /// # Errors
    /// What the disk says.
    pub fn delete_dir(&mut self, disk: &mut impl Disk, dir: &Path) -> io::Result<()> {
        for name in disk.list(dir)? {
            self.settled.remove(&dir.join(&name));
            disk.remove(&dir.join(name))?;
        }
        self.dirs.remove(dir);
        disk.remove(dir)?;
        match disk.sync_dir(parent(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// How many bytes of `bytes` are content, where the rest is their digest.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = bytes.len().checked_sub(TRAILER)?;
    let (content, trailer) = bytes.split_at(length);
    let hex = trailer.strip_prefix(MARK)?.strip_suffix(b"\n")?;
    (hex == Digest::of(content).hex().as_bytes()).then_some(length)
}

/// Where the new content of `path` is written first: the same directory, so that a rename is one step.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parent(path).join(format!(".{name}.new"))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_nothing() {
        let content = b"{\"a\":1}";
        let bytes = [&content[..], MARK, Digest::of(content).hex().as_bytes(), b"\n"].concat();
        assert_eq!(whole(&bytes), Some(content.len()));
        for cut in 0..bytes.len() {
            assert_eq!(whole(&bytes[..cut]), None, "cut to {cut}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            assert_eq!(whole(&changed), None, "changed at {at}");
        }
        assert_eq!(whole(&vec![0; bytes.len()]), None);
    }
}
