//! `forge run`: boots a disk image in QEMU from forge's own pinned tools.

use super::Session;
use super::args::RunOptions;
use super::compose::Workshop;
use crate::error::{self, Kind, Mark as _};
use crate::host::fs;
use crate::model::{Arch, Digest};
use crate::release::{MANIFEST, Manifest};
use crate::run::qemu::{self, Forward, Medium, RunSpec, Serial};
use crate::run::{self, bundle, disk, serve, tpm};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// Boots what is at `path`.
pub fn run(session: &Session, path: &Path, options: &RunOptions) -> anyhow::Result<()> {
    let medium = medium(path, options)?;
    let (artifact, arch) = match &medium {
        Some((_, arch)) => (None, *arch),
        None => artifact(path, options.arch).map(|(artifact, arch)| (Some(artifact), arch))?,
    };
    let shop = Workshop::open(session, false)?;
    let tools = shop.tools(session, run::packages(arch))?;
    let work = session.cache_dir.join("run");
    let box_disk = BoxDisk::prepare(session, artifact.as_deref(), options, &work)?;
    let sealed = medium.is_none() && disk::is_sealed(&box_disk.path).kind(Kind::Input)?;
    if sealed {
        session.ui.note("its state is encrypted: the box has a TPM and Secure Boot");
    }
    let secure_boot = options.secure_boot || sealed;
    let (code, empty) = qemu::firmware(arch, secure_boot);
    let variables = tempfile::Builder::new().prefix(fs::TEMPORARY).suffix("-vars.fd").tempfile_in(&work)?;
    std::io::copy(&mut std::fs::File::open(tools.file(empty)?)?, &mut variables.as_file())?;
    let tpm = if options.tpm || sealed { Some(Tpm::start(session, &shop, options, &work)?) } else { None };
    let acceleration = run::acceleration(&tools, arch, variables.path(), &work, &session.cancel)?;
    session.ui.detail(format!("running under {acceleration:?}"));
    let default = vec![Forward { host: 8080, guest: 8080 }];
    let spec = RunSpec {
        arch,
        disk: box_disk.path.clone(),
        // An installer's disk is of no use when nothing stays on it.
        persist: options.persist.is_some() || medium.is_some(),
        memory: options.memory,
        cpus: acceleration.processors(),
        forwards: if options.ports.is_empty() { default } else { options.ports.clone() },
        headless: options.headless,
        serial: Serial::Terminal,
        firmware: tools.file(code)?,
        variables: variables.path().into(),
        data: tools.path().join("usr/share/qemu"),
        medium: medium.map(|(medium, _)| medium),
        second: None,
        stick: None,
        clock: None,
        monitor: None,
        wire: None,
        tpm: tpm.as_ref().map(|tpm| tpm.running.socket().to_path_buf()),
        secure_boot,
        acceleration,
    };
    for Forward { host, guest } in &spec.forwards {
        session.ui.note(format!("http://127.0.0.1:{host} leads to the device's port {guest}"));
    }
    run::run(&tools, &spec, &session.cancel)
}

/// What the box has for a disk.
struct BoxDisk {
    path: PathBuf,
    /// It goes with this run, then.
    _own: Option<NamedTempFile>,
}

impl BoxDisk {
    /// The kept disk, made of `artifact` where it is new; a copy of `artifact` that is kept in `work` for the next run of
    /// the same; or an empty one.
    fn prepare(
        session: &Session,
        artifact: Option<&Path>,
        options: &RunOptions,
        work: &Path,
    ) -> anyhow::Result<BoxDisk> {
        let mut own = None;
        let path = match (&options.persist, artifact) {
            (Some(kept), _) => kept.clone(),
            // By what it is a copy of: running the same artifact again unpacks nothing.
            (None, Some(artifact)) => {
                let (digest, _) = Digest::of_reader(std::fs::File::open(artifact)?)?;
                work.join(format!("{}-{}.raw", digest.hex(), options.disk))
            }
            (None, None) => own.insert(temporary(work)?).path().to_path_buf(),
        };
        let size = options.disk << 30;
        match artifact {
            Some(artifact) if !fs::exists(&path) => {
                session.ui.note(format!(
                    "unpacking {} for a disk of {} GiB",
                    artifact.display(),
                    options.disk
                ));
                disk::unpack(artifact, &path, size).kind(Kind::Input)?;
            }
            Some(_) => {}
            None => disk::empty(&path, size).with_context(|| format!("making {}", path.display()))?,
        }
        let Some(dir) = &options.bundle else { return Ok(BoxDisk { path, _own: own }) };
        let files = bundle::read(dir).kind(Kind::Input)?;
        if options.persist.is_some() {
            bundle::place(&files, &path)?;
            return Ok(BoxDisk { path, _own: own });
        }
        // A ticket is a secret of one box: in a copy of its own, which goes with this run.
        let copy = temporary(work)?;
        disk::copy_sparse(&path, copy.as_file())?;
        bundle::place(&files, copy.path())?;
        Ok(BoxDisk { path: copy.path().into(), _own: Some(copy) })
    }
}

/// A TPM that runs beside the box.
struct Tpm {
    running: tpm::Swtpm,
    /// The state of one that goes with this run.
    _fresh: Option<TempDir>,
}

impl Tpm {
    /// That of the kept disk, or a new one.
    fn start(session: &Session, shop: &Workshop, options: &RunOptions, work: &Path) -> anyhow::Result<Tpm> {
        let mut fresh = None;
        let dir = match &options.persist {
            Some(kept) => kept.with_added_extension("tpm"),
            None => {
                let dir = tempfile::Builder::new().prefix(fs::TEMPORARY).tempdir_in(work)?;
                fresh.insert(dir).path().to_path_buf()
            }
        };
        let running = tpm::Swtpm::start(&shop.tools(session, tpm::PACKAGES)?, &dir)?;
        Ok(Tpm { running, _fresh: fresh })
    }
}

fn temporary(work: &Path) -> std::io::Result<NamedTempFile> {
    std::fs::create_dir_all(work)?;
    tempfile::Builder::new().prefix(fs::TEMPORARY).suffix(".raw").tempfile_in(work)
}

/// What an empty box is started from, where it is an installer.
fn medium(path: &Path, options: &RunOptions) -> anyhow::Result<Option<(Medium, Arch)>> {
    let is_iso = path.extension().is_some_and(|extension| extension == "iso");
    if is_iso && !path.is_dir() {
        let arch = options.arch.or(Arch::host()).ok_or_else(|| anyhow!("--arch says what the medium is for"));
        return Ok(Some((Medium::Stick(path.into()), arch.kind(Kind::Input)?)));
    }
    if !options.installer && !options.netboot {
        return Ok(None);
    }
    let dir = newest(path);
    let manifest = manifest(&dir)?;
    if options.installer {
        let (iso, arch) = only(&dir, &manifest, options.arch, "/installer.iso", "iso")?;
        return Ok(Some((Medium::Stick(iso), arch)));
    }
    let (_, arch) = only(&dir, &manifest, options.arch, "/netboot/forge.efi", "netboot")?;
    let served = serve::serve(&dir.join(arch.to_string())).context("serving the release")?;
    // The emulator shows this machine's loopback to the box as its router.
    Ok(Some((Medium::Network(format!("http://{}:{}/netboot/forge.efi", qemu::ROUTER, served.port)), arch)))
}

/// The one artifact of a release whose path has this ending.
fn only(
    dir: &Path,
    manifest: &Manifest,
    wanted: Option<Arch>,
    ending: &str,
    artifact: &str,
) -> anyhow::Result<(PathBuf, Arch)> {
    let of = manifest.artifacts.iter().filter(|a| a.path.ends_with(ending));
    let mut of = of.filter(|a| wanted.is_none_or(|w| w == a.arch));
    match (of.next(), of.next()) {
        (Some(one), None) => Ok((dir.join(&one.path), one.arch)),
        (Some(_), Some(_)) => {
            Err(error::of(Kind::Input, anyhow!("{} has several architectures", dir.display())))
                .hint("say which with --arch")
        }
        (None, _) => Err(error::of(Kind::Input, anyhow!("{} has no {}", dir.display(), &ending[1..])))
            .hint(format!("name `{artifact}` in `image.artifacts`, or build with --artifact {artifact}")),
    }
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
