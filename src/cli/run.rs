//! `forge run`: boots a disk image in QEMU from forge's own pinned tools.

use super::Session;
use super::args::RunOptions;
use super::compose::Workshop;
use crate::error::{self, Kind, Mark as _};
use crate::host::fs;
use crate::model::{Arch, Digest};
use crate::release::{MANIFEST, Manifest};
use crate::run::qemu::{self, Forward, RunSpec, Serial};
use crate::run::{self, bundle, disk, tpm};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};

/// Boots what is at `path`.
pub fn run(session: &Session, path: &Path, options: &RunOptions) -> anyhow::Result<()> {
    let (artifact, arch) = artifact(path, options.arch)?;
    let shop = Workshop::open(session, false)?;
    let tools = shop.tools(session, run::packages(arch))?;
    let work = session.cache_dir.join("run");
    let size = options.disk << 30;
    let disk = match &options.persist {
        Some(kept) => kept.clone(),
        // By what it is a copy of: running the same artifact again unpacks nothing.
        None => {
            let (digest, _) = Digest::of_reader(std::fs::File::open(&artifact)?)?;
            work.join(format!("{}-{}.raw", digest.hex(), options.disk))
        }
    };
    if !fs::exists(&disk) {
        session.ui.note(format!("unpacking {} for a disk of {} GiB", artifact.display(), options.disk));
        disk::unpack(&artifact, &disk, size).kind(Kind::Input)?;
    }
    // A ticket is a secret of one box: in a copy of its own, which goes with this run.
    let mut own = None;
    let disk = match &options.bundle {
        None => disk,
        Some(dir) => {
            let files = bundle::read(dir).kind(Kind::Input)?;
            if options.persist.is_some() {
                bundle::place(&files, &disk)?;
                disk
            } else {
                let copy =
                    tempfile::Builder::new().prefix(fs::TEMPORARY).suffix(".raw").tempfile_in(&work)?;
                disk::copy_sparse(&disk, copy.as_file())?;
                bundle::place(&files, copy.path())?;
                own.insert(copy).path().to_path_buf()
            }
        }
    };
    let (code, empty) = qemu::firmware(arch, options.secure_boot);
    let variables = tempfile::Builder::new().prefix(fs::TEMPORARY).suffix("-vars.fd").tempfile_in(&work)?;
    std::io::copy(&mut std::fs::File::open(tools.file(empty)?)?, &mut variables.as_file())?;
    let mut fresh = None;
    let tpm = if options.tpm {
        let dir = match &options.persist {
            Some(kept) => kept.with_added_extension("tpm"),
            None => {
                let dir = tempfile::Builder::new().prefix(fs::TEMPORARY).tempdir_in(&work)?;
                fresh.insert(dir).path().to_path_buf()
            }
        };
        Some(tpm::Swtpm::start(&shop.tools(session, tpm::PACKAGES)?, &dir)?)
    } else {
        None
    };
    let acceleration = run::acceleration(&tools, arch, variables.path(), &work, &session.cancel)?;
    session.ui.detail(format!("running under {acceleration:?}"));
    let default = vec![Forward { host: 8080, guest: 8080 }];
    let spec = RunSpec {
        arch,
        disk,
        persist: options.persist.is_some(),
        memory: options.memory,
        cpus: 2,
        forwards: if options.ports.is_empty() { default } else { options.ports.clone() },
        headless: options.headless,
        serial: Serial::Terminal,
        firmware: tools.file(code)?,
        variables: variables.path().into(),
        data: tools.path().join("usr/share/qemu"),
        stick: None,
        clock: None,
        monitor: None,
        wire: None,
        tpm: tpm.as_ref().map(|tpm| tpm.socket().to_path_buf()),
        secure_boot: options.secure_boot,
        acceleration,
    };
    for Forward { host, guest } in &spec.forwards {
        session.ui.note(format!("http://127.0.0.1:{host} leads to the device's port {guest}"));
    }
    run::run(&tools, &spec, &session.cancel)
}

/// The disk image of a release, or the image itself.
fn artifact(path: &Path, wanted: Option<Arch>) -> anyhow::Result<(PathBuf, Arch)> {
    if !path.is_dir() {
        let arch = wanted.or(Arch::host()).ok_or_else(|| anyhow!("--arch says what the image is for"));
        return Ok((path.into(), arch.kind(Kind::Input)?));
    }
    let dir = newest(path);
    only_disk(&dir, &manifest(&dir)?, wanted)
}

/// What the release in `dir` says of itself.
pub fn manifest(dir: &Path) -> anyhow::Result<Manifest> {
    let read = || -> anyhow::Result<Manifest> { Manifest::from_bytes(&std::fs::read(dir.join(MANIFEST))?) };
    read().with_context(|| format!("reading the release {}", dir.display())).kind(Kind::Input)
}

/// The release's disk image, of the architecture that is wanted where it has several.
pub fn only_disk(dir: &Path, manifest: &Manifest, wanted: Option<Arch>) -> anyhow::Result<(PathBuf, Arch)> {
    let disks = manifest.artifacts.iter().filter(|a| a.path.contains("/disk.raw"));
    let mut disks = disks.filter(|a| wanted.is_none_or(|w| w == a.arch));
    match (disks.next(), disks.next()) {
        (Some(one), None) => Ok((dir.join(&one.path), one.arch)),
        (Some(one), Some(other)) if one.arch == other.arch => Ok((dir.join(&one.path), one.arch)),
        (Some(_), Some(_)) => {
            Err(error::of(Kind::Input, anyhow!("{} has several architectures", dir.display())))
                .hint("say which with --arch")
        }
        (None, _) => Err(error::of(Kind::Input, anyhow!("{} has no disk image to run", dir.display())))
            .hint("what runs is a disk of the format `raw.zst` or `raw`: name one in `image.disk-formats`"),
    }
}

/// `dist/SITE` means its newest version.
pub fn newest(path: &Path) -> PathBuf {
    if path.join(MANIFEST).exists() {
        return path.into();
    }
    let versions = std::fs::read_dir(path).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    versions.filter(|p| p.join(MANIFEST).exists()).max().unwrap_or_else(|| path.into())
}
