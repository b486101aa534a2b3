//! A path → the disk or file that is to be written, open and nobody else's.
//!
//! A disk is opened exclusively: the kernel then refuses one that is mounted, swap or part of another device, whatever was
//! read of it before. A new file appears whole or not at all.

use super::Unfit;
use super::disks::{self, Disk};
use crate::disk::gpt::SECTOR;
use crate::host::fs::{Durability, Staged};
use crate::model::Bytes;
use anyhow::Context as _;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What is to be written.
pub struct Target {
    path: PathBuf,
    length: u64,
    form: Form,
}

enum Form {
    Disk(Box<Disk>, File),
    File(File),
    New(Staged),
}

impl Target {
    /// Opens what is at `path` for an image of `length` bytes, on the machine whose kernel shows itself below `root`; with
    /// `all` also a disk that is built in. A file keeps the length that it has; a missing or empty one gets the image's.
    ///
    /// # Errors
    /// [`Unfit`], or what the kernel says.
    pub fn open(root: &Path, path: &Path, length: u64, all: bool) -> anyhow::Result<Target> {
        let target = |length, form| Ok(Target { path: path.into(), length, form });
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // A typing error below /dev would fill the memory that it lies in.
                if path.starts_with("/dev") {
                    let given = path.display().to_string();
                    return Err(Unfit::NoDisk { given, why: "it is not there".into() }.into());
                }
                return target(length, Form::New(new(path, length)?));
            }
            Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
        };
        let kind = meta.file_type();
        if kind.is_block_device() {
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            let disk = disks::by_number(root, &format!("{major}:{minor}"), path)?;
            disk.fit(length, all)?;
            let file = open(path, OFlags::EXCL)?;
            return target(disk.size.0, Form::Disk(Box::new(disk), file));
        }
        if !kind.is_file() {
            let why = if kind.is_dir() { "a directory" } else { "neither a disk nor a file" };
            return Err(Unfit::NoDisk { given: path.display().to_string(), why: why.into() }.into());
        }
        if meta.len() == 0 {
            return target(length, Form::New(new(path, length)?));
        }
        let has = meta.len() / SECTOR * SECTOR;
        if has < length {
            let given = path.display().to_string();
            return Err(Unfit::Small { target: given, has: Bytes(has), needs: Bytes(length) }.into());
        }
        target(has, Form::File(open(path, OFlags::empty())?))
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The disk, where it is one.
    pub fn disk(&self) -> Option<&Disk> {
        match &self.form {
            Form::Disk(disk, _) => Some(disk),
            Form::File(_) | Form::New(_) => None,
        }
    }

    /// For people.
    pub fn title(&self) -> String {
        match &self.form {
            Form::Disk(disk, _) => disk.title(),
            Form::File(_) | Form::New(_) => self.path.display().to_string(),
        }
    }

    /// Whether something is lost by writing to it.
    pub fn holds_something(&self) -> bool {
        !matches!(self.form, Form::New(_))
    }

    /// The open file.
    ///
    /// # Errors
    /// Never for what [`Target::open`] gave; a staged file's type says it could.
    pub fn file(&self) -> io::Result<&File> {
        match &self.form {
            Form::Disk(_, file) | Form::File(file) => Ok(file),
            Form::New(staged) => staged.as_file(),
        }
    }

    /// Gives a new file its name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn commit(self) -> io::Result<()> {
        match self.form {
            Form::New(staged) => staged.commit(Durability::Synced),
            // Its last descriptor: the kernel reads the new table, and udev shows the partitions.
            Form::Disk(..) | Form::File(_) => Ok(()),
        }
    }
}

fn new(path: &Path, length: u64) -> anyhow::Result<Staged> {
    let make = || -> io::Result<Staged> {
        let staged = Staged::file(path, 0o644)?;
        staged.as_file()?.set_len(length)?;
        Ok(staged)
    };
    make().with_context(|| format!("making {}", path.display()))
}

fn open(path: &Path, flags: OFlags) -> anyhow::Result<File> {
    let flags = (flags | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    if file.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy) {
        let by = "the kernel does not give it away".into();
        return Err(Unfit::InUse { disk: path.display().to_string(), by }.into());
    }
    file.with_context(|| format!("opening {} for writing", path.display()))
}
