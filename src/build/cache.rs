//! The step cache: what a step made, by the key of all that decides it.
//!
//! `steps/<key>/` holds a step's outputs and `record.json`, which says each output's size and digest. An entry appears
//! by one rename. Outputs are gigabytes, so they are neither synced nor read at each use: an output is trusted while this
//! boot of the machine has seen it whole and its size, inode and change time are those of then. Everything else is hashed
//! again, once, so that a power cut, a copied cache, a bad disk or somebody's editor is found; what differs is thrown away.

use crate::host::{clock, fs};
use crate::model::{Bytes, Digest, Epoch};
use crate::plan::Step;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const RECORD: &str = "record.json";

/// A cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    boot_id: Option<String>,
}

/// What a step left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The step's name in its plan, for people.
    pub step: String,
    /// Files by name, relative to the entry.
    pub outputs: BTreeMap<String, Output>,
    /// What later steps need to know and is no file: a root hash, a kernel's version.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// The boot of the machine that wrote or last checked the entry.
    boot_id: Option<String>,
    /// The [`fs::identity`] of each output when it was last seen whole, by name.
    #[serde(default)]
    marks: BTreeMap<String, String>,
}

impl Record {
    /// The first output in `dir` that is not what was recorded, or `None`. Notes what had to be hashed and was good;
    /// the flag tells whether anything had to be.
    fn check(&mut self, dir: &Path, boot_id: Option<&str>) -> (Option<String>, bool) {
        let same_boot = boot_id.is_some() && self.boot_id.as_deref() == boot_id;
        let mut hashed = !same_boot;
        for (name, output) in &self.outputs {
            // One name and no path, and no link: an entry says nothing of files elsewhere.
            let inside = Path::new(name).file_name() == Some(name.as_ref());
            let path = dir.join(name);
            let Some(mut file) = (if inside { fs::open_regular(&path).ok() } else { None }) else {
                return (Some(name.clone()), hashed);
            };
            // Before the bytes are read: what is written while they are, leaves another mark.
            let mark = fs::identity(&file).ok();
            if same_boot && mark.is_some() && self.marks.get(name) == mark.as_ref() {
                continue;
            }
            let found = Digest::of_reader(&mut file).ok();
            if found != Some((output.digest, output.size.0)) {
                return (Some(name.clone()), hashed);
            }
            hashed = true;
            self.marks.extend(mark.map(|mark| (name.clone(), mark)));
        }
        self.boot_id = boot_id.map(String::from);
        (None, hashed)
    }
}

/// One output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Length.
    pub size: Bytes,
    /// Digest of its content.
    pub digest: Digest,
}

/// A step's outputs in the cache.
#[derive(Clone, Debug)]
pub struct Entry {
    dir: PathBuf,
    /// What is there.
    pub record: Record,
}

impl Entry {
    /// The path of the output `name`.
    ///
    /// # Errors
    /// When the step made no such output: the plan and the recipe disagree.
    pub fn path(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.output(name)?;
        Ok(self.dir.join(name))
    }

    /// Size and digest of the output `name`.
    ///
    /// # Errors
    /// As [`Entry::path`].
    pub fn output(&self, name: &str) -> anyhow::Result<Output> {
        self.record
            .outputs
            .get(name)
            .copied()
            .with_context(|| format!("step {} has no output {name}", self.record.step))
    }

    /// The output `name`, opened for reading.
    ///
    /// # Errors
    /// As [`Entry::path`], and what the file system says.
    pub fn open(&self, name: &str) -> anyhow::Result<File> {
        let path = self.path(name)?;
        File::open(&path).with_context(|| format!("opening {name} of step {}", self.record.step))
    }

    /// The fact `name`.
    ///
    /// # Errors
    /// When the step recorded no such fact.
    pub fn fact(&self, name: &str) -> anyhow::Result<&str> {
        self.record
            .facts
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("step {} says nothing of {name}", self.record.step))
    }
}

/// A step's outputs while they are made. Dropped without [commit](Cache::commit), all of it is removed.
#[derive(Debug)]
pub struct Stage {
    staged: fs::Staged,
    record: Record,
}

impl Stage {
    /// Creates the output `name`; its digest is told to [`Stage::record`] when it is complete.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(&self, name: &str) -> io::Result<File> {
        fs::create_new(&self.staged.path().join(name))
    }

    /// Says what the finished output `name` is.
    pub fn record(&mut self, name: &str, digest: Digest, length: u64) {
        self.record.outputs.insert(name.into(), Output { size: Bytes(length), digest });
    }

    /// Hashes the finished output `name` and records it: for outputs that were not written in order.
    ///
    /// # Errors
    /// What the file system says.
    pub fn hash(&mut self, name: &str) -> io::Result<Output> {
        let (digest, length) = Digest::of_reader(File::open(self.staged.path().join(name))?)?;
        self.record(name, digest, length);
        Ok(Output { size: Bytes(length), digest })
    }

    /// Notes a fact for later steps.
    pub fn fact(&mut self, name: &str, value: impl ToString) {
        self.record.facts.insert(name.into(), value.to_string());
    }

    /// The directory, for tools that write several files into it.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }
}

/// What the cache says of a key.
#[derive(Debug)]
#[must_use]
pub enum Lookup {
    /// The outputs are there and can be trusted.
    Hit(Box<Entry>),
    /// They are not.
    Miss,
    /// They were, but their bytes are not what was recorded; the entry is gone now.
    Damaged {
        /// The output that differed.
        output: String,
    },
}

impl Cache {
    /// The cache at `root`, made when missing.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(root: &Path) -> io::Result<Cache> {
        // Layers hold what a site keeps to itself, and what is built is believed when it is found here.
        fs::make_private_dir(root)?;
        std::fs::create_dir_all(root.join("steps"))?;
        Ok(Cache { root: root.into(), boot_id: clock::boot_id() })
    }

    /// Where the cache is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory for intermediate bytes, on the cache's file system.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    fn dir(&self, key: &Digest) -> PathBuf {
        self.root.join("steps").join(key.hex())
    }

    /// Serialises makers of one key, in this process and in others: whoever waits finds the entry made.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lock(&self, key: &Digest) -> io::Result<fs::FileLock> {
        fs::FileLock::acquire(&self.root.join("locks").join(key.hex()))
    }

    /// Whether there is an entry, without checking its bytes: what `forge plan` shows.
    pub fn contains(&self, key: &Digest) -> bool {
        self.dir(key).join(RECORD).exists()
    }

    /// Looks `key` up; an entry of an earlier boot, and whatever was touched since it was made, is hashed first.
    ///
    /// # Errors
    /// What the file system says, a missing entry excepted.
    pub fn lookup(&self, key: &Digest) -> anyhow::Result<Lookup> {
        let dir = self.dir(key);
        let text = match std::fs::read(dir.join(RECORD)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Miss),
            Err(e) => return Err(e).context("reading the cache"),
        };
        let Ok(mut record) = serde_json::from_slice::<Record>(&text) else {
            return self.damaged(&dir, RECORD);
        };
        let (damaged, hashed) = record.check(&dir, self.boot_id.as_deref());
        if let Some(name) = damaged {
            return self.damaged(&dir, &name);
        }
        if hashed {
            fs::write_atomic(&dir.join(RECORD), &serde_json::to_vec(&record)?, 0o644)?;
        } else if let Ok(file) = File::options().append(true).open(dir.join(RECORD)) {
            // The time of last use, for pruning; a read-only cache still serves.
            let _ = file.set_modified(
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(clock::now().0.max(0) as u64),
            );
        }
        Ok(Lookup::Hit(Box::new(Entry { dir, record })))
    }

    fn damaged(&self, dir: &Path, output: &str) -> anyhow::Result<Lookup> {
        std::fs::remove_dir_all(dir)
            .with_context(|| format!("removing the damaged cache entry {}", dir.display()))?;
        Ok(Lookup::Damaged { output: output.into() })
    }

    /// Why `step` would have to be made; `None` when it is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn reason(&self, step: &Step) -> anyhow::Result<Option<String>> {
        if self.contains(&step.key) {
            return Ok(None);
        }
        let Ok(last) = std::fs::read(self.last(step.id.as_str())) else {
            return Ok(Some("never made here".into()));
        };
        let Ok(last) = serde_json::from_slice::<serde_json::Value>(&last) else {
            return Ok(Some("never made here".into()));
        };
        let now = serde_json::to_value(&step.recipe)?;
        let (Some(before), Some(after)) = (last.as_object(), now.as_object()) else {
            return Ok(Some("changed".into()));
        };
        let changed: Vec<&str> =
            after.iter().filter(|(k, v)| before.get(*k) != Some(v)).map(|(k, _)| k.as_str()).collect();
        Ok(Some(if changed.is_empty() {
            "an input changed".into()
        } else {
            format!("changed: {}", changed.join(", "))
        }))
    }

    /// Remembers what `step` was made from, for [`Cache::reason`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn remember(&self, step: &Step) -> anyhow::Result<()> {
        Ok(fs::write_atomic(&self.last(step.id.as_str()), &serde_json::to_vec(&step.recipe)?, 0o644)?)
    }

    fn last(&self, step: &str) -> PathBuf {
        self.root.join("last").join(Digest::of(step).hex())
    }

    /// Begins an entry for `key`, made by `step`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn stage(&self, key: &Digest, step: &str) -> io::Result<Stage> {
        let staged = fs::Staged::dir(&self.dir(key))?;
        Ok(Stage {
            staged,
            record: Record {
                step: step.into(),
                outputs: BTreeMap::new(),
                facts: BTreeMap::new(),
                boot_id: self.boot_id.clone(),
                marks: BTreeMap::new(),
            },
        })
    }

    /// Puts a finished entry into place.
    ///
    /// # Errors
    /// What the file system says; the entry is then not there.
    pub fn commit(&self, key: &Digest, stage: Stage) -> anyhow::Result<Entry> {
        let Stage { staged, mut record } = stage;
        for name in record.outputs.keys() {
            let mark = File::open(staged.path().join(name)).and_then(|file| fs::identity(&file));
            record.marks.insert(name.clone(), mark.with_context(|| format!("looking at output {name}"))?);
        }
        fs::write_atomic(&staged.path().join(RECORD), &serde_json::to_vec(&record)?, 0o644)?;
        staged.commit(fs::Durability::Cached)?;
        Ok(Entry { dir: self.dir(key), record })
    }

    /// All entries with their size and time of last use, least recently used first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn entries(&self) -> io::Result<Vec<Listed>> {
        let mut listed = vec![];
        for entry in std::fs::read_dir(self.root.join("steps"))? {
            let path = entry?.path();
            let Ok(record_file) = File::open(path.join(RECORD)) else { continue };
            let used = record_file
                .metadata()?
                .modified()?
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let Ok(record) = serde_json::from_reader::<_, Record>(io::BufReader::new(record_file)) else {
                continue;
            };
            listed.push(Listed {
                path,
                size: record.outputs.values().map(|o| o.size).sum(),
                used: Epoch(used.as_secs() as i64),
                step: record.step,
            });
        }
        listed.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        Ok(listed)
    }

    /// Removes an entry of [`Cache::entries`]. A build that holds it open keeps its bytes.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, listed: &Listed) -> io::Result<()> {
        // Out of sight first: nobody may find half an entry.
        let doomed = listed.path.with_file_name(format!(
            "{}{}",
            fs::TEMPORARY,
            listed.path.file_name().unwrap_or_default().to_string_lossy()
        ));
        std::fs::rename(&listed.path, &doomed)?;
        std::fs::remove_dir_all(doomed)
    }
}

/// An entry as `forge cache info` lists it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    #[serde(skip)]
    path: PathBuf,
    /// The step that made it.
    pub step: String,
    /// Sum of its outputs.
    pub size: Bytes,
    /// Last use.
    pub used: Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn filled(root: &Path) -> (Cache, Digest) {
        let (cache, key) = (Cache::open(root).unwrap(), Digest::of("key"));
        let mut stage = cache.stage(&key, "amd64/os").unwrap();
        stage.create("rootfs.tar").unwrap().write_all(b"bytes").unwrap();
        stage.hash("rootfs.tar").unwrap();
        stage.fact("kernel", "6.12");
        cache.commit(&key, stage).unwrap();
        (cache, key)
    }

    #[test]
    fn what_was_committed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, key) = filled(dir.path());
        let Lookup::Hit(entry) = cache.lookup(&key).unwrap() else { panic!() };
        assert_eq!(std::fs::read(entry.path("rootfs.tar").unwrap()).unwrap(), b"bytes");
        assert_eq!(entry.fact("kernel").unwrap(), "6.12");
        assert!(entry.path("other").is_err());
        assert!(matches!(cache.lookup(&Digest::of("other")).unwrap(), Lookup::Miss));
        assert_eq!(cache.entries().unwrap().len(), 1);
        cache.remove(&cache.entries().unwrap()[0]).unwrap();
        assert!(matches!(cache.lookup(&key).unwrap(), Lookup::Miss));
    }

    #[test]
    fn a_stage_that_is_dropped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let stage = cache.stage(&Digest::of("k"), "s").unwrap();
        stage.create("half").unwrap().write_all(b"half").unwrap();
        drop(stage);
        assert_eq!(std::fs::read_dir(dir.path().join("steps")).unwrap().count(), 0);
    }

    #[test]
    fn bytes_that_a_power_cut_took_are_noticed_after_the_next_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cache, key) = filled(dir.path());
        std::fs::write(cache.dir(&key).join("rootfs.tar"), b"\0\0\0\0\0").unwrap();
        cache.boot_id = Some("another boot".into());
        assert!(matches!(cache.lookup(&key).unwrap(), Lookup::Damaged { output } if output == "rootfs.tar"));
        assert!(matches!(cache.lookup(&key).unwrap(), Lookup::Miss));
    }

    #[test]
    fn a_record_that_names_files_elsewhere_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../../outside", "/etc/hostname", ".."] {
            let (cache, key) = filled(dir.path());
            std::fs::write(dir.path().join("outside"), b"bytes").unwrap();
            let record = cache.dir(&key).join(RECORD);
            let text = std::fs::read_to_string(&record).unwrap().replace("rootfs.tar", name);
            std::fs::write(record, text).unwrap();
            let found = cache.lookup(&key).unwrap();
            assert!(matches!(found, Lookup::Damaged { output } if output == name), "{name}");
        }
    }

    #[test]
    fn a_byte_changed_in_the_same_boot_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, key) = filled(dir.path());
        let path = cache.dir(&key).join("rootfs.tar");
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(b"bytez").unwrap();
        file.set_modified(before).unwrap();
        assert!(matches!(cache.lookup(&key).unwrap(), Lookup::Damaged { output } if output == "rootfs.tar"));
    }

    #[test]
    fn what_was_touched_and_is_whole_is_hashed_once() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, key) = filled(dir.path());
        let path = cache.dir(&key).join("rootfs.tar");
        std::fs::copy(&path, dir.path().join("copy")).unwrap();
        std::fs::rename(dir.path().join("copy"), &path).unwrap();
        for hashes in [true, false] {
            let text = std::fs::read(cache.dir(&key).join(RECORD)).unwrap();
            let mut record: Record = serde_json::from_slice(&text).unwrap();
            assert_eq!(record.check(&cache.dir(&key), cache.boot_id.as_deref()), (None, hashes));
            assert!(matches!(cache.lookup(&key).unwrap(), Lookup::Hit(_)));
        }
    }

    #[test]
    fn a_new_cache_is_its_users_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("above/cache");
        Cache::open(&root).unwrap();
        assert_eq!(std::fs::metadata(root).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_good_entry_of_an_earlier_boot_is_checked_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cache, key) = filled(dir.path());
        cache.boot_id = Some("another boot".into());
        let Lookup::Hit(entry) = cache.lookup(&key).unwrap() else { panic!() };
        assert_eq!(entry.record.boot_id, cache.boot_id);
    }
}
