//! `forge flash`: which image, whether it is what was signed, which disk, whether it is meant; and then the work.

use super::args::FlashArgs;
use super::run::{manifest, newest, only_disk};
use super::{Session, key};
use crate::build::observe::{Event, Observer as _};
use crate::disk::onto::Progress;
use crate::error::{self, Kind, Mark as _};
use crate::flash::disks::{self, Disk};
use crate::flash::image::Image;
use crate::flash::label::Label;
use crate::flash::stamp::{self, Stamp};
use crate::flash::target::Target;
use crate::flash::{self, Unfit};
use crate::host::{clock, fs};
use crate::model::{Bytes, Digest};
use crate::release;
use crate::seal;
use anyhow::{Context as _, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How often a person at the prompt is looked away from, to see whether Ctrl-C was pressed.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Lists disks, or writes one.
pub fn run(session: &Session, args: &FlashArgs) -> anyhow::Result<()> {
    let Some(device) = &args.device else { return list(session, args.all) };
    let chosen = Chosen::find(args)?;
    let work = session.cache_dir.join("work");
    session.ui.note(format!("checking {}", chosen.path.display()));
    let image =
        Image::survey(&chosen.path, args.bundle.is_some(), &work, &session.cancel).kind(Kind::Verify)?;
    let signed = chosen.check(session, args, image.digest())?;
    let stamp = args.bundle.as_ref().map(|dir| {
        Stamp::open(dir, image.disk())
            .with_context(|| format!("reading the bundle {}", dir.display()))
            .kind(Kind::Input)
    });
    let stamp = stamp.transpose()?;
    let volume = stamp.as_ref().map(|stamp| -> anyhow::Result<_> {
        let place = stamp::place(image.disk()).kind(Kind::Input)?;
        Ok((place.offset, stamp.volume(place, clock::now(), &work)?))
    });
    let volume = volume.transpose()?;
    let target = open(device, image.length(), args.all)?;
    if target.holds_something() && !args.yes {
        confirm(session, &target, &chosen.title)?;
    }

    let (start, step) = (Instant::now(), device.display().to_string());
    let doing = |what| session.ui.event(Event::Doing { step: &step, what });
    session.ui.note(format!("writing {} to {}", chosen.title, target.title()));
    session.ui.event(Event::Started { step: &step, what: "writing" });
    let total = image.length();
    let mut comparing = false;
    flash::write(&image, volume, &target, &session.cancel, &mut |progress| {
        let done = match progress {
            Progress::Written(done) => done,
            Progress::Compared(done) => {
                if !std::mem::replace(&mut comparing, true) {
                    doing("reading back");
                }
                done
            }
        };
        session.ui.event(Event::Progress { step: &step, done, total });
    })?;
    let disk = target.disk().cloned();
    target.commit().with_context(|| format!("writing {step}"))?;
    let took = start.elapsed();
    session.ui.event(Event::Finished { step: &step, cached: false, took });

    let label = Label::new(chosen.title.clone(), image.digest(), stamp.as_ref().map(Stamp::bootstrap));
    let value = serde_json::json!({ "device": device, "disk": disk, "image": chosen.path, "digest": image.digest(),
        "size": Bytes(total), "signed": signed, "bundle": args.bundle, "label": label, "seconds": took.as_secs_f64() });
    let human = format!("PASS  {} is on {step}, read back and compared, {}", chosen.title, Bytes(total));
    session.ui.result("flashed", &value, human);
    match &args.label {
        // With --json the label is in the result.
        Some(file) if file == Path::new("-") && session.ui.is_json() => Ok(()),
        Some(file) if file == Path::new("-") => {
            session.ui.stdout(label.text().as_bytes());
            Ok(())
        }
        Some(file) => {
            let svg = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg"));
            let text = if svg { label.svg() } else { label.text() };
            fs::write_atomic(file, text.as_bytes(), 0o644)
                .with_context(|| format!("writing {}", file.display()))
        }
        None => Ok(()),
    }
}

/// The image that is to be written.
struct Chosen {
    path: PathBuf,
    /// `SITE VERSION ARCH`, or the file's name.
    title: String,
    /// Of a release: its directory, and the image's path in it.
    release: Option<(PathBuf, String)>,
}

impl Chosen {
    fn find(args: &FlashArgs) -> anyhow::Result<Chosen> {
        if !args.path.is_dir() {
            let name = args.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !["raw", "img", "zst"].iter().any(|e| args.path.extension().is_some_and(|x| x == *e)) {
                let error = anyhow!(
                    "{} is neither a raw disk (.raw, .img) nor a compressed one (.raw.zst)",
                    args.path.display()
                );
                return Err(error::of(Kind::Input, error));
            }
            return Ok(Chosen { path: args.path.clone(), title: name, release: None });
        }
        let dir = newest(&args.path);
        let manifest = manifest(&dir)?;
        let (path, arch) = only_disk(&dir, &manifest, args.arch)?;
        let name = path.strip_prefix(&dir).unwrap_or(&path).to_string_lossy().into_owned();
        let title = format!("{} {} {arch}", manifest.site, manifest.version);
        Ok(Chosen { path, title, release: Some((dir, name)) })
    }

    /// Holds the image against what was signed, and says where nothing was; whether something was.
    fn check(&self, session: &Session, args: &FlashArgs, digest: Digest) -> anyhow::Result<bool> {
        let public = args.key.as_ref().map(|path| {
            key::public(&path.to_string_lossy())
                .with_context(|| format!("reading the public key {}", path.display()))
        });
        let public = public.transpose()?;
        let expected = match (&self.release, &public) {
            (Some((dir, name)), Some(public)) => Some(release::verify::artifact(dir, name, public)?),
            (Some((dir, name)), None) => {
                let manifest = manifest(dir)?;
                manifest
                    .artifacts
                    .iter()
                    .find(|artifact| artifact.path == *name)
                    .map(|artifact| artifact.digest)
            }
            (None, Some(public)) => {
                let beside = self.path.with_added_extension(seal::BUNDLE_EXTENSION.trim_start_matches('.'));
                let bundle = std::fs::read(&beside)
                    .with_context(|| format!("reading {}", beside.display()))
                    .kind(Kind::Verify)?;
                seal::verify::file(&self.title, digest, &bundle, public).kind(Kind::Verify)?;
                None
            }
            (None, None) => None,
        };
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let error = anyhow!("{} has digest {digest}, the release says {expected}", self.path.display());
            return Err(error::of(Kind::Verify, error));
        }
        if public.is_none() {
            session.ui.note("nobody's signature was checked: name the release's key with --key");
        }
        Ok(public.is_some())
    }
}

fn list(session: &Session, all: bool) -> anyhow::Result<()> {
    let disks = disks::list(Path::new("/"));
    let (shown, hidden): (Vec<Disk>, Vec<Disk>) = disks.into_iter().partition(|disk| disk.removable || all);
    for disk in &shown {
        let used = disk.in_use.iter().map(|by| format!("  {by}\n")).collect::<String>();
        session.ui.result("disk", disk, format!("{}, {}\n{used}", disk.title(), disk.holds()));
    }
    if shown.is_empty() {
        session.ui.note("no removable disk is there");
    }
    if !hidden.is_empty() {
        session.ui.note(format!("{} built in, shown with --all", hidden.len()));
    }
    Ok(())
}

fn open(device: &Path, length: u64, all: bool) -> anyhow::Result<Target> {
    Target::open(Path::new("/"), device, length, all).map_err(|error| {
        let hint = match error.downcast_ref::<Unfit>() {
            Some(Unfit::BuiltIn { .. }) => Some("`--all` takes it all the same; what is on it is lost then"),
            Some(Unfit::InUse { .. }) => Some("unmount what is on it first"),
            Some(_) => None,
            None => return error,
        };
        let error = error::of(Kind::Input, error);
        match hint {
            Some(hint) => Err::<(), _>(error).hint(hint).err().unwrap_or_else(|| anyhow!(hint)),
            None => error,
        }
    })
}

/// Has the person say that this is the disk.
fn confirm(session: &Session, target: &Target, title: &str) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let error =
            anyhow!("what is on {} would be lost, and there is no terminal to ask at", target.title());
        return Err(error::of(Kind::Input, error)).hint("`--yes` goes on without asking");
    }
    let holds = target.disk().map(|disk| format!(", {}", disk.holds())).unwrap_or_default();
    session
        .ui
        .question(format!("{}{holds}\nAll of it is replaced with {title}. Go on? [y/N] ", target.title()));
    loop {
        session.cancel.check()?;
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&GLANCE)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(e) => return Err(e).context("waiting for an answer"),
        }
    }
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("reading the answer")?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(error::of(Kind::Input, anyhow!("not confirmed: nothing was written")))
}
