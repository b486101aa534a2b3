//! `forge-device install`: the program of an installer. From its order to a disk that starts, or to words on the screen
//! that say why not.
//!
//! | part | what it turns into what | module |
//! |---|---|---|
//! | source | medium or server → the bytes of the image | [`source`], `fetch` |
//! | disks | what the kernel shows → the one disk, and what it holds | [`disks`] |
//! | carry | a bundle of the medium or a stick → FORGE-ENROLL of the new disk | `carry` |
//! | say | where it is → every screen and serial line | `say` |
//!
//! A medium is outside input: nothing on it is believed but what has the digest of the order, which lies in the signed kernel
//! image. Nothing is written before the disk is chosen, and the partition table last of all ([`crate::disk::onto`]), so a
//! power cut at any moment leaves a disk on which the next start installs again.

mod carry;
pub mod disks;
mod fetch;
mod say;
pub mod source;

use crate::device::host::service;
use crate::disk::onto::{self, OntoError, Progress};
use crate::disk::order::{After, MAX_ORDER, NoChoice, ORDER, Order};
use crate::enroll::code::Code;
use crate::host::cancel::Cancel;
use crate::host::fs;
use crate::host::tool::ToolCall;
use crate::model::Bytes;
use anyhow::Context as _;
use disks::{Disk, Holds};
use say::Screens;
use source::Source;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to find the disks and sticks that are there at the start.
const SETTLE: Duration = Duration::from_secs(30);
/// For how long no disk may have come before the only one is believed to be the only one.
const QUIET: Duration = Duration::from_secs(4);
/// After a refusal that may have its remedy at the box: how soon it is looked at again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long somebody has to read that it is done.
const READ: Duration = Duration::from_secs(10);

/// Why nothing is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code, whose words are shown.
    pub code: Code,
    /// What it is about: a disk, a file, a number.
    pub detail: String,
}

impl Refusal {
    fn new(code: Code, detail: impl Into<String>) -> Refusal {
        Refusal { code, detail: detail.into() }
    }
}

/// What an installation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The disk now holds the image.
    Installed(String),
    /// The disk holds it already.
    Already(String),
}

/// Installs by the order in the initrd, and ends by turning the box off or starting it anew.
///
/// # Errors
/// When there is no order, which is no installer then.
pub fn run() -> anyhow::Result<()> {
    let root = Path::new("/");
    let order = order(root)?;
    let screens = Screens::open(root);
    screens.show("Installer", None, std::slice::from_ref(&order.title));
    settle();
    let mut shown = None;
    let start = Instant::now();
    let outcome = loop {
        match install(root, &order, &screens) {
            Ok(outcome) => break outcome,
            Err(refusal) => {
                // A stick takes its time to be found.
                let early = refusal.code == Code::InstallSource && start.elapsed() < SETTLE;
                if early {
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
                if shown.as_ref() != Some(&refusal) {
                    screens.show("Not installed", Some(refusal.code), std::slice::from_ref(&refusal.detail));
                    shown = Some(refusal);
                }
                // A cable, a stick, a disk less: the remedy is at the box, and needs no key.
                std::thread::sleep(AGAIN);
            }
        }
    };
    let (word, text) = match &outcome {
        Outcome::Installed(disk) => ("Installed", format!("{} is on {disk}.", order.title)),
        Outcome::Already(disk) => {
            ("Already installed", format!("{} is on {disk}: nothing was written.", order.title))
        }
    };
    // A box that starts from its medium first would start it for ever.
    let reboots = order.after == After::Reboot && matches!(outcome, Outcome::Installed(_));
    let next =
        if reboots { "The box starts again." } else { "The box turns itself off. Take the medium out." };
    screens.show(word, None, &[text, next.into()]);
    std::thread::sleep(READ);
    let verb = if reboots { "reboot" } else { "poweroff" };
    // Twice: no unit of this initrd has anything to stop, and the disk is synced.
    let call = ToolCall::new("systemctl").args(["--force", "--force", verb]).within(SETTLE);
    call.output(&Cancel::default()).map(drop)
}

fn order(root: &Path) -> anyhow::Result<Order> {
    let path = root.join(ORDER);
    let mut text = String::new();
    let file = fs::open_regular(&path).with_context(|| format!("opening {}", path.display()))?;
    file.take(MAX_ORDER).read_to_string(&mut text).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Waits until udev has dealt with what the kernel found so far.
fn settle() {
    let timeout = format!("--timeout={}", SETTLE.as_secs());
    let call = ToolCall::new("udevadm").args(["settle", &timeout]).within(SETTLE * 2);
    let _ = call.output(&Cancel::default()); // what is there is looked at either way
}

/// The disks, once no other has come for a while.
fn disks_at_rest(root: &Path) -> Vec<Disk> {
    let mut before = disks::list(root);
    loop {
        std::thread::sleep(QUIET);
        settle();
        let now = disks::list(root);
        if now == before {
            return now;
        }
        before = now;
    }
}

fn install(root: &Path, order: &Order, screens: &Screens) -> Result<Outcome, Refusal> {
    let source = source::find(root, order)?;
    let disks = disks_at_rest(root);
    let disk = choose(order, &disks)?;
    let name = disk.title();
    match disks::holds(root, disk, order.disk.0)
        .map_err(|e| Refusal::new(Code::InstallWrite, format!("{name}: {e}")))?
    {
        Holds::This => return Ok(Outcome::Already(name)),
        Holds::Other(what) if !order.overwrite => {
            return Err(Refusal::new(Code::InstallForeign, format!("{name}: {what}")));
        }
        Holds::Other(_) | Holds::Nothing => {}
    }
    match &source {
        Source::Medium(medium) => {
            screens.note(&format!("checking {}", medium.name()));
            medium.check(order, &mut |done| screens.progress("Checking", done, order.size.0))?;
        }
        Source::Url(url) => {
            screens.note(&format!("fetching {url}"));
            // Only here: a medium asks nobody for an address.
            let units = ["systemd-networkd.service", "systemd-resolved.service"].map(String::from);
            service::start(&units).map_err(|e| Refusal::new(Code::InstallServer, format!("{e:#}")))?;
        }
    }
    write(root, order, disk, &source, screens)?;
    Ok(Outcome::Installed(name))
}

fn choose<'a>(order: &Order, disks: &'a [Disk]) -> Result<&'a Disk, Refusal> {
    let candidates: Vec<_> = disks.iter().map(|disk| disk.candidate.clone()).collect();
    let chosen = match order.rule.choose(&candidates) {
        Ok(chosen) => disks.iter().find(|disk| disk.candidate == *chosen),
        Err(NoChoice::None) => None,
        Err(NoChoice::Several(names)) => {
            let fitting = disks.iter().filter(|disk| names.contains(&disk.candidate.name));
            let titles: Vec<String> = fitting.map(Disk::title).collect();
            return Err(Refusal::new(Code::InstallTwoDisks, titles.join(", ")));
        }
    };
    let disk = chosen.ok_or_else(|| {
        let there: Vec<String> = disks.iter().map(Disk::title).collect();
        Refusal::new(Code::InstallNoDisk, there.join(", "))
    })?;
    let (has, needs) = (disk.candidate.size, order.length);
    if has < needs.0 {
        let detail = format!("{}, the image needs {needs}", disk.title());
        return Err(Refusal::new(Code::InstallUnfit, detail));
    }
    if disk.sector != disks::SECTOR {
        let detail = format!("{}: sectors of {} bytes", disk.title(), disk.sector);
        return Err(Refusal::new(Code::InstallUnfit, detail));
    }
    Ok(disk)
}

fn write(root: &Path, order: &Order, disk: &Disk, source: &Source, screens: &Screens) -> Result<(), Refusal> {
    let name = disk.title();
    screens.note(&format!("writing {} to {name}", order.title));
    let failed = |e: OntoError| match e {
        OntoError::Source { source, .. } => {
            let code = match source.get_ref().is_some_and(|e| e.is::<fetch::Lost>()) {
                true => Code::InstallServer,
                false => Code::InstallImage,
            };
            Refusal::new(code, source.to_string())
        }
        length @ OntoError::Length { .. } => Refusal::new(Code::InstallImage, length.to_string()),
        other => Refusal::new(Code::InstallWrite, format!("{name}: {:#}", anyhow::Error::from(other))),
    };
    let io = |e: std::io::Error| Refusal::new(Code::InstallWrite, format!("{name}: {e}"));
    let device = disks::open(root, disk, true).map_err(io)?;
    let mut image = source.image(order)?;
    let told = &mut |progress| match progress {
        Progress::Written(at) => screens.progress("Writing", at, order.length.0),
        Progress::Compared(at) => screens.progress("Comparing", at, order.length.0),
    };
    let pending =
        onto::write(&mut image, order.length.0, &device, disk.candidate.size, told).map_err(failed)?;
    // Every byte that was unpacked came out of these.
    let (digest, size) = image.finish().map_err(|e| Refusal::new(Code::InstallImage, e.to_string()))?;
    if digest != order.image {
        let detail = format!("{digest}, {} in place of {}", Bytes(size), order.image);
        return Err(Refusal::new(Code::InstallImage, detail));
    }
    if let Some(from) = carry::bundle(root, source, disk, pending.head())
        .map_err(|e| Refusal::new(Code::InstallWrite, format!("{name}: {e:#}")))?
    {
        screens.note(&format!("the enrollment bundle of {from} is on {name}"));
    }
    pending.finish(&device).map_err(failed)
}
