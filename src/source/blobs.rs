//! The cache of fetched inputs: digest → file, whole and verified, or nothing.
//!
//! ```text
//! blobs/sha256/ab/abcd…          a blob under its digest, read-only
//! blobs/sha256/ab/abcd….part     the beginning of one, locked by whoever fetches it; a later run goes on from it
//! blobs/seen/BOOT-ID/abcd…       which file was found good since this start of the machine
//! ```
//!
//! Nothing is synced: an fsync a package costs more than fetching it. Instead a blob is believed only when this boot has
//! seen it whole, and its size, inode and change time are still those of then. Everything else is hashed again at its first
//! use, so that a power cut, a bad disk or somebody's editor is found, at the speed of reading. Two processes may use one
//! cache at once. A process that is killed leaves `.part` files and temporary names, which nobody takes for a blob.

use crate::error::Mark as _;
use crate::host::cancel::Cancel;
use crate::host::clock;
use crate::host::fs::{Durability, FileLock, Staged, identity};
use crate::host::http::{Client, Expect};
use crate::model::Digest;
use crate::source::oci::BlobStore;
use anyhow::Context as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A cache of blobs under one directory.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    /// `seen/BOOT-ID`; `None` where the kernel does not name its boot: then every first use hashes.
    seen: Option<PathBuf>,
}

impl Blobs {
    /// The cache in `root`, which is made when missing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(root: &Path) -> anyhow::Result<Blobs> {
        let seen = root.join("seen");
        let boot = clock::boot_id().filter(|id| !id.is_empty() && !id.contains(['/', '.']));
        let creating = || format!("creating the cache {}", root.display());
        std::fs::create_dir_all(root.join("sha256")).with_context(creating)?;
        std::fs::create_dir_all(&seen).with_context(creating)?;
        if let Some(boot) = &boot {
            std::fs::create_dir_all(seen.join(boot)).with_context(creating)?;
            // What earlier boots have seen is worth nothing now. That of another machine, which may share the
            // directory, it has to see again.
            for other in std::fs::read_dir(&seen).with_context(creating)?.flatten() {
                if other.file_name() != boot.as_str() {
                    let _ = std::fs::remove_dir_all(other.path()); // another process may be at it too
                }
            }
        }
        Ok(Blobs { root: root.into(), seen: boot.map(|boot| seen.join(boot)) })
    }

    /// Where the blob of that digest is or would be.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("sha256").join(&hex[..2]).join(hex)
    }

    /// The file of a blob; `None` when it is not here. A file whose content is another is removed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn get(&self, digest: Digest) -> anyhow::Result<Option<PathBuf>> {
        let path = self.path(digest);
        let Ok(mut file) = File::open(&path) else { return Ok(None) };
        if self.is_seen(digest, &file) {
            return Ok(Some(path));
        }
        let (found, _) =
            Digest::of_reader(&mut file).with_context(|| format!("reading {}", path.display()))?;
        if found == digest {
            self.mark_seen(digest, &file);
            return Ok(Some(path));
        }
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        Ok(None)
    }

    /// A new file to be filled and given to [`Blobs::insert`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn stage(&self, digest: Digest) -> anyhow::Result<Staged> {
        Staged::file(&self.path(digest), 0o444).context("creating a file in the cache")
    }

    /// Takes a file made by [`Blobs::stage`], whose content the caller has found to be `digest`, under its name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn insert(&self, staged: Staged, digest: Digest) -> anyhow::Result<PathBuf> {
        let file = staged.as_file()?.try_clone()?;
        staged.commit(Durability::Cached).context("renaming a file into the cache")?;
        self.mark_seen(digest, &file);
        Ok(self.path(digest))
    }

    /// Keeps `bytes`; their digest.
    ///
    /// # Errors
    /// What the file system says.
    pub fn insert_bytes(&self, bytes: &[u8]) -> anyhow::Result<Digest> {
        let digest = Digest::of(bytes);
        if self.get(digest)?.is_none() {
            let mut staged = self.stage(digest)?;
            staged.write_all(bytes).context("writing to the cache")?;
            self.insert(staged, digest)?;
        }
        Ok(digest)
    }

    /// The blob, fetched from the first of `urls` that gives it when it is not here. What an interrupted run left is
    /// gone on from. Where another process is fetching the same blob, this one waits for it.
    ///
    /// # Errors
    /// Those of [`Client::download`] for the last URL, and of the file system.
    pub fn fetch(
        &self,
        client: &Client,
        urls: &[String],
        expect: Expect,
        progress: &(dyn Fn(u64) + Sync),
        cancel: &Cancel,
    ) -> anyhow::Result<PathBuf> {
        if let Some(path) = self.get(expect.digest)? {
            return Ok(path);
        }
        let path = self.path(expect.digest);
        let part = path.with_extension("part");
        let (lock, mut file) = self.lock_part(&part, cancel)?;
        if let Some(path) = self.get(expect.digest)? {
            let _ = std::fs::remove_file(&part); // ours, made after the other process had renamed its own
            return Ok(path);
        }
        let mut result = Err(anyhow::anyhow!("no URL to fetch {} from", expect.digest))
            .kind(crate::error::Kind::Unexpected);
        for url in urls {
            result = client.download(url, &mut file, expect, progress, cancel);
            if result.is_ok() || cancel.is_cancelled() {
                break;
            }
        }
        if result.is_err() && file.metadata().is_ok_and(|m| m.len() == 0) {
            let _ = std::fs::remove_file(&part); // nothing in it to go on from
        }
        result?;
        // In this order: a read-only `.part` could not be opened again by the run after a kill.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        std::fs::rename(&part, &path)
            .and_then(|()| file.set_permissions(mode))
            .with_context(|| format!("renaming {} into the cache", part.display()))?;
        self.mark_seen(expect.digest, &file);
        drop(lock);
        Ok(path)
    }

    /// Fetches `url`, whose digest nobody has said yet, and keeps what comes under the digest that it turns out to have:
    /// digest and length.
    ///
    /// # Errors
    /// Those of [`Client::discover`], and of the file system.
    pub fn discover(
        &self,
        client: &Client,
        url: &str,
        limit: u64,
        cancel: &Cancel,
    ) -> anyhow::Result<(Digest, u64)> {
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("sha256"))
            .context("creating a file in the cache")?;
        let (digest, length) = client.discover(url, file.as_file_mut(), limit, &|_| {}, cancel)?;
        if self.get(digest)?.is_some() {
            return Ok((digest, length));
        }
        let path = self.path(digest);
        let renaming = || format!("renaming {} into the cache", path.display());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(renaming)?;
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        file.as_file().set_permissions(mode).with_context(renaming)?;
        let file = file.persist(&path).with_context(renaming)?;
        self.mark_seen(digest, &file);
        Ok((digest, length))
    }

    /// Opens `part` and locks it. The name may go to another file while we wait, so that is looked at afterwards.
    fn lock_part(&self, part: &Path, cancel: &Cancel) -> anyhow::Result<(FileLock, File)> {
        let opening = || format!("opening {}", part.display());
        loop {
            cancel.check()?;
            let Some(lock) = FileLock::try_acquire(part).with_context(opening)? else {
                std::thread::sleep(std::time::Duration::from_millis(50));
                continue;
            };
            let file = lock.file().with_context(opening)?;
            let ours = file.metadata().with_context(opening)?;
            match std::fs::metadata(part) {
                Ok(named) if (named.ino(), named.dev()) == (ours.ino(), ours.dev()) => {
                    return Ok((lock, file));
                }
                _ => {} // renamed to its final name, or removed, by whom we waited for
            }
        }
    }

    fn mark(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.seen.as_ref()?.join(digest.hex()))
    }

    fn is_seen(&self, digest: Digest, file: &File) -> bool {
        let known = self.mark(digest).and_then(|mark| std::fs::read_to_string(mark).ok());
        known.is_some() && known == identity(file).ok()
    }

    /// Only saves time later, so nothing is said when it cannot be written.
    fn mark_seen(&self, digest: Digest, file: &File) {
        if let (Some(mark), Ok(identity)) = (self.mark(digest), identity(file))
            && let Ok(mut staged) = Staged::file(&mark, 0o644)
            && staged.write_all(identity.as_bytes()).is_ok()
        {
            let _ = staged.commit(Durability::Cached);
        }
    }
}

impl BlobStore for Blobs {
    fn has(&self, digest: Digest) -> bool {
        matches!(self.get(digest), Ok(Some(_)))
    }

    fn put(
        &self,
        digest: Digest,
        fill: &mut dyn FnMut(&mut File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let staged = self.stage(digest)?;
        fill(&mut staged.as_file()?.try_clone()?)?;
        self.insert(staged, digest).map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "damage is done plainly")]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::host::http::tests::{Server, assert_fails, body, expect, impatient, reply, serve};
    use std::sync::atomic::{AtomicU64, Ordering};

    fn only_file(dir: &Path) -> PathBuf {
        std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn what_is_inserted_is_found_also_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = blobs.insert_bytes(b"one").unwrap();
        assert_eq!(blobs.insert_bytes(b"one").unwrap(), digest);
        let path = Blobs::open(dir.path()).unwrap().get(digest).unwrap().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"one");
        assert!(blobs.get(Digest::of("two")).unwrap().is_none());
    }

    #[test]
    fn a_changed_byte_is_found_in_the_same_boot() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = blobs.insert_bytes(b"good").unwrap();
        let path = blobs.path(digest);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(b"evil").unwrap();
        assert!(blobs.get(digest).unwrap().is_none());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_zeros_after_a_power_cut_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Blobs::open(dir.path()).unwrap().insert_bytes(b"good").unwrap();
        let other = Blobs::open(dir.path()).unwrap().insert_bytes(b"fine").unwrap();
        // The machine went down before the content was written, and starts anew under another boot id.
        let boot = only_file(&dir.path().join("seen"));
        let blobs = Blobs::open(dir.path()).unwrap();
        std::fs::rename(&boot, dir.path().join("seen/an-earlier-boot")).unwrap();
        std::fs::remove_file(blobs.path(digest)).unwrap();
        std::fs::write(blobs.path(digest), [0; 4]).unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        assert!(blobs.get(digest).unwrap().is_none());
        assert!(blobs.get(other).unwrap().is_some());
        assert_eq!(std::fs::read_dir(dir.path().join("seen")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_staged_and_not_inserted_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = Digest::of("never");
        drop(blobs.stage(digest).unwrap());
        assert!(blobs.get(digest).unwrap().is_none());
        assert_eq!(std::fs::read_dir(blobs.path(digest).parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_is_resumed_across_runs_and_fetched_once_for_many() {
        let all = body();
        let served = all.clone();
        let server = Server::new(move |stream, seen, number| match number {
            0..3 => reply(stream, "200 OK", "", served.len(), &served[..60_000]),
            _ => serve(stream, seen, &served),
        });
        let dir = tempfile::tempdir().unwrap();
        let urls = [server.url()];
        let cancel = Cancel::default();
        // The first run gets three cut answers, each ignoring the range, and gives up.
        let first = Blobs::open(dir.path()).unwrap();
        let result = first.fetch(&impatient(), &urls, expect(&all), &|_| {}, &cancel);
        assert_fails(result.map(drop), Kind::Fetch, &[&server.url()]);
        assert!(first.get(Digest::of(&all)).unwrap().is_none());
        // Many at once, in the next: one of them fetches the rest, the others wait for it.
        let (blobs, client) = (Blobs::open(dir.path()).unwrap(), impatient());
        let told = AtomicU64::new(0);
        let progress = |n| {
            told.fetch_add(n, Ordering::Relaxed);
        };
        let paths = client
            .each(&[(); 6], &cancel, |()| blobs.fetch(&client, &urls, expect(&all), &progress, &cancel))
            .unwrap();
        assert!(paths.iter().all(|p| std::fs::read(p).unwrap() == all));
        assert_eq!(server.seen().last().unwrap().from, Some(60_000));
        assert_eq!(server.seen().len(), 4);
        assert_eq!(told.into_inner(), all.len() as u64);
        let left = std::fs::read_dir(paths[0].parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no .part remains");
    }
}
