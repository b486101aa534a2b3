//! A path → what is there, as data: a release, an OCI layout, a disk image, a kernel image or a lock.
//!
//! [`open`] recognises the form and reads it; [`text`] shows it as a tree, [`diff`] compares two. Everything may be
//! anybody's bytes: what is read is bounded and checked against its own digests, and no signature is checked here —
//! signatures are listed as claims, `forge verify` is what judges them.

pub mod diff;
mod disk;
mod layout;
pub mod page;
mod release;
pub mod secrets;
pub mod text;

use crate::contents::{ContainerImage, Contents, Detail, Package};
use crate::disk::compressed;
use crate::disk::format::Format;
use crate::error::{Kind, Mark as _};
use crate::host::cancel::Cancel;
use crate::lock::Lock;
use crate::model::{Bytes, Digest};
use anyhow::Context as _;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The largest lock or manifest that is read, in bytes; their parsers' own bound.
const MAX_TEXT: u64 = 16 << 20;
/// The largest disk image that is unpacked to be looked at, in bytes.
const MAX_DISK: u64 = 1 << 40;

/// What something was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A release directory.
    Release,
    /// An OCI image layout.
    Layout,
    /// A disk image, plain or as zstd.
    Disk,
    /// A unified kernel image.
    KernelImage,
    /// The lock of a profile.
    Lock,
}

/// Packages by set, name.
pub type PackageSets = BTreeMap<String, BTreeMap<String, Package>>;

/// What was found. Lists are empty where the form has nothing of the kind.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspected {
    /// As what it was recognised.
    pub form: Form,
    /// As the user named it.
    pub name: String,
    /// Single facts, such as site and version.
    pub facts: BTreeMap<String, String>,
    /// OCI images, one an architecture.
    pub images: Vec<Image>,
    /// Files of a release.
    pub files: Vec<ReleaseFile>,
    /// Disk images.
    pub disks: Vec<Disk>,
    /// Kernel images.
    pub kernels: Vec<Kernel>,
    /// Packages by architecture, then by set: `os`, `container/NAME`.
    pub packages: BTreeMap<String, PackageSets>,
    /// Container images that are carried along, by architecture.
    pub containers: BTreeMap<String, Vec<ContainerImage>>,
    /// Signatures that are there, as they describe themselves; not checked.
    pub signatures: Vec<Signature>,
}

/// An OCI image of one architecture.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// Its name in the layout, where it has one.
    pub tag: Option<String>,
    /// Architecture, as its config or index says; empty where neither does.
    pub arch: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Sum of its blobs.
    pub size: Bytes,
    /// Layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of an OCI image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// forge's name of it, else its number.
    pub name: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob.
    pub size: Bytes,
    /// Its media type.
    pub media_type: String,
    /// What is in it; absent where it was [skipped](Env::skip) or is no tar.
    pub contents: Option<Contents>,
}

/// A file of a release.
#[derive(Clone, Debug, Serialize)]
pub struct ReleaseFile {
    /// Path in the release.
    pub path: String,
    /// Length, as the manifest says.
    pub size: Bytes,
    /// Digest, as the manifest says.
    pub digest: Digest,
}

/// A disk image.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// Its file.
    pub name: String,
    /// Length of the disk.
    pub size: Bytes,
    /// Its UUID.
    pub guid: String,
    /// Partitions in the order of the table.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Partition {
    /// Its label.
    pub name: String,
    /// What it is for, or its type's GUID.
    pub kind: String,
    /// Its UUID.
    pub guid: String,
    /// First byte.
    pub offset: u64,
    /// Length.
    pub size: Bytes,
    /// The root hash that a kernel image on the disk names for it; not checked.
    pub root_hash: Option<String>,
    /// Files of a FAT volume, with their sizes.
    pub files: BTreeMap<String, Bytes>,
}

/// A unified kernel image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kernel {
    /// Where it is.
    pub name: String,
    /// The kernel's release.
    pub uname: String,
    /// The command line.
    pub cmdline: String,
    /// `PRETTY_NAME`, `IMAGE_ID` and `IMAGE_VERSION` of its os-release, as far as they are there.
    pub system: BTreeMap<String, String>,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// A section of a kernel image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Length.
    pub size: Bytes,
    /// Digest.
    pub digest: Digest,
}

/// A signature as it describes itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Signature {
    /// What it says it is about.
    pub about: String,
    /// Its form.
    pub form: &'static str,
    /// The key that it names, where it names one.
    pub key: Option<String>,
}

/// What looking needs.
pub struct Env<'a> {
    /// A directory for unpacked disk images, which have no name there and go with the process.
    pub work: &'a Path,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// How closely layers are looked at.
    pub detail: Detail,
    /// Digests of layers and files that need not be looked into.
    pub skip: &'a BTreeSet<Digest>,
}

/// Recognises what is at `path` and reads it; it is called `name`.
///
/// # Errors
/// [`Kind::Input`] when there is nothing of a form that forge knows; [`Kind::Verify`] when what is there is damaged.
pub fn open(path: &Path, name: &str, env: &Env<'_>) -> anyhow::Result<Inspected> {
    if path.is_dir() {
        if path.join(crate::release::MANIFEST).is_file() {
            return release::open(path, name, env).kind(Kind::Verify);
        }
        anyhow::ensure!(path.join("oci-layout").exists(), not_known(path));
        return layout::open(path, name, env).kind(Kind::Verify);
    }
    let mut start = [0; 4];
    let mut file =
        File::open(path).with_context(|| format!("opening {}", path.display())).kind(Kind::Input)?;
    let filled = file.read(&mut start).with_context(|| format!("reading {}", path.display()))?;
    if let Some(format) = Format::of(&start[..filled]) {
        let what = anyhow::anyhow!("{name} is a disk as {}, which is not looked into", format.extension());
        return Err(crate::error::of(Kind::Input, what))
            .hint("inspect the raw or raw.zst image of the same release: it is the same disk");
    }
    match &start[..filled] {
        [b'M', b'Z', ..] => disk::kernel_file(path, name).kind(Kind::Verify),
        [b'#', ..] | [b's', b'c', b'h', ..] => lock(path, name),
        _ => disk::open(path, name, env).kind(Kind::Verify),
    }
}

/// Digests of the layers and files that the release or layout at `path` lists, with nothing looked into; none for other
/// forms.
///
/// # Errors
/// When a document is damaged.
pub fn digests(path: &Path) -> anyhow::Result<BTreeSet<Digest>> {
    let mut found = BTreeSet::new();
    if path.join(crate::release::MANIFEST).is_file() {
        found.extend(release::manifest(path)?.artifacts.iter().map(|a| a.digest));
    }
    for dir in [path.to_path_buf(), path.join(crate::release::LAYOUT)] {
        if dir.join("oci-layout").is_file() {
            found.extend(layout::digests(&dir).kind(Kind::Verify)?);
        }
    }
    Ok(found)
}

fn not_known(path: &Path) -> anyhow::Error {
    let what = anyhow::anyhow!("{} is neither a release nor an OCI layout", path.display());
    crate::error::of(Kind::Input, what)
}

impl Inspected {
    fn new(form: Form, name: &str) -> Inspected {
        Inspected {
            form,
            name: name.into(),
            facts: BTreeMap::new(),
            images: vec![],
            files: vec![],
            disks: vec![],
            kernels: vec![],
            packages: BTreeMap::new(),
            containers: BTreeMap::new(),
            signatures: vec![],
        }
    }

    fn fact(&mut self, key: &str, value: impl ToString) {
        self.facts.insert(key.into(), value.to_string());
    }

    /// Adds what trees of `arch` hold to packages and container images.
    fn gather(&mut self, arch: &str, contents: &Contents) {
        for (set, packages) in &contents.packages {
            self.packages
                .entry(arch.into())
                .or_default()
                .entry(set.clone())
                .or_insert_with(|| packages.clone());
        }
        if !contents.containers.is_empty() {
            let containers = self.containers.entry(arch.into()).or_default();
            containers.extend(contents.containers.iter().cloned());
            containers.sort();
            containers.dedup();
        }
    }
}

fn lock(path: &Path, name: &str) -> anyhow::Result<Inspected> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_TEXT + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {name}"))?;
    let lock = Lock::from_text(&text).with_context(|| format!("reading {name}"))?;
    let mut found = Inspected::new(Form::Lock, name);
    found.fact("digest", lock.digest());
    found.fact("time", lock.epoch.rfc3339());
    for archive in &lock.archives {
        found.fact(&archive.suite, format!("{} of {}", archive.origin, archive.date.rfc3339()));
    }
    for package in &lock.packages {
        for set in &package.sets {
            let sets = found.packages.entry(package.arch.to_string()).or_default();
            // A lock knows what is fetched, not what is installed.
            let locked = Package { version: package.version.clone(), size: package.size };
            sets.entry(set.clone()).or_default().insert(package.name.clone(), locked);
        }
    }
    for image in &lock.images {
        found.containers.entry(image.arch.to_string()).or_default().push(ContainerImage {
            names: vec![image.reference.clone()],
            digest: image.manifest.digest,
            size: image.layers.iter().map(|l| Bytes(l.size)).sum(),
        });
    }
    for file in &lock.releases {
        let path = format!("{}/{}/{}", file.product, file.version, file.file);
        found.files.push(ReleaseFile { path, size: file.size, digest: file.digest });
    }
    for remote in &lock.remotes {
        for file in &remote.files {
            let path = format!("{}/{}", remote.source, file.path);
            found.files.push(ReleaseFile { path, size: file.size, digest: file.digest });
        }
    }
    for chart in &lock.charts {
        found.fact(&chart.source, format!("{}, images by {}", chart.version, chart.images_from.join(", ")));
        let path = format!("{}/{}", chart.source, chart.version);
        found.files.push(ReleaseFile { path, size: chart.size, digest: chart.digest });
    }
    for file in &lock.files {
        let (path, size, digest) = (file.path.clone(), file.size, file.digest);
        found.files.push(ReleaseFile { path, size, digest });
    }
    Ok(found)
}

/// The bytes of a disk image: the file itself, or its unpacked stream in a file without a name.
fn disk_bytes(path: &Path, env: &Env<'_>) -> anyhow::Result<File> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    let zstd = file.read_exact(&mut magic).is_ok() && magic == 0xfd2f_b528u32.to_le_bytes(); // RFC 8878 §3.1.1
    if !zstd {
        return Ok(file);
    }
    let unpacked = crate::host::fs::anonymous(env.work)?;
    let stop = || env.cancel.is_cancelled();
    let read = compressed::read(File::open(path)?, &unpacked, MAX_DISK, &stop);
    env.cancel.check()?;
    read.with_context(|| format!("unpacking {}", path.display()))?;
    Ok(unpacked)
}
