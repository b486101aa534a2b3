//! `forge test`: boots what ships, against a fleet of its own, under conditions that a site may have.
//!
//! Each [`Case`] gets a copy of the disk as it would come from the carton with a bundle in its FORGE-ENROLL partition, a real
//! endpoint on this machine ([`crate::fleet`]), and an emulated box ([`machine`]) between which something may stand
//! ([`between`]). It passes when the fleet has exactly one box, and that has joined. The outcomes become an attestation
//! ([`proof`]): in-toto's test result, signed with the release's key.

pub mod between;
mod case;
pub mod machine;
pub mod proof;
mod stick;

pub use case::{Case, Outcome, UnknownCase};

use crate::disk::ENROLL_SIZE;
use crate::disk::gpt::{PartitionType, Table};
use crate::enroll::bootstrap::{DevicePolicy, Mode};
use crate::enroll::claim::State;
use crate::enroll::issue::{Description, Order};
use crate::enroll::policy::Endorsement;
use crate::enroll::{self, Code, bundle};
use crate::fleet::operator::{self, Wanted};
use crate::fleet::server::Server;
use crate::fleet::{Device, Home, Store};
use crate::host::cancel::Cancel;
use crate::host::{clock, fs};
use crate::model::{Arch, Epoch};
use crate::run::qemu::{Acceleration, Medium};
use crate::run::tools::ToolRoot;
use crate::run::{bundle as partition, disk};
use crate::sign::Signer;
use crate::tree::{Content, Node, Tree, TreePath};
use anyhow::{Context as _, ensure};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Where the emulator's own network has this machine (slirp's gateway).
const HOST: &str = "10.0.2.2";

/// The length of a box's disk, in bytes: room for slot B and state.
pub const DISK: u64 = 8 << 30;
/// What a box says whose state does not open (`templates/sealed`).
const SEALED: &str = "forge: its state is encrypted";

/// What is tried, and with what.
pub struct Trial<'a> {
    /// The disk image, raw.
    pub disk: &'a Path,
    /// Whether its boxes encrypt their state ([`disk::is_sealed`]): they get Secure Boot, in setup mode, and a TPM.
    pub sealed: bool,
    /// The installer of the same release, for [`Case::Installs`].
    pub installer: Option<&'a Path>,
    /// Its architecture.
    pub arch: Arch,
    /// The site of its profile.
    pub site: &'a str,
    /// The root that the image trusts: signs the bundle of each case.
    pub root: &'a dyn Signer,
    /// Emulator and firmware.
    pub tools: &'a ToolRoot,
    /// The program behind a TPM, for [`Case::Tpm`] and [`Trial::sealed`].
    pub tpm_tools: Option<&'a ToolRoot>,
    /// The program behind a network, for [`Case::NoDhcp`].
    pub wire_tools: Option<&'a ToolRoot>,
    /// How the processor is made.
    pub acceleration: Acceleration,
    /// How long a box may take to join, from power on.
    pub patience: Duration,
    /// How often the power goes in [`Case::PowerCuts`].
    pub cuts: u32,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Is told what happens.
    pub say: &'a dyn Fn(&str),
}

/// A fleet on this machine for one case, gone when dropped.
struct Fleet {
    home: Home,
    description: Description,
    store: Store,
    address: SocketAddr,
    stop: Cancel,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Fleet {
    fn start(dir: &Path, trial: &Trial<'_>) -> anyhow::Result<Fleet> {
        let home = Home::init(dir, "trial", &[HOST.to_string()])?;
        home.set_roots(&[trial.root.public_key().clone()])?;
        // The trial is about the box: whoever comes with its ticket is let in.
        let all = operator::Order::Window { minutes: 720, boxes: 1, batch: None };
        operator::carry_out(&home.store()?, all, "forge test", clock::now())?;
        let server = Server::bind(&home, 1, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Box::new(|_| {}))?;
        let address = server.address()?;
        let stop = Cancel::default();
        let (description, store, cancel) = (home.public()?, home.store()?, stop.clone());
        let thread = std::thread::spawn(move || server.run(&cancel));
        Ok(Fleet { home, description, store, address, stop, thread: Some(thread) })
    }

    /// Its boxes.
    fn devices(&self) -> anyhow::Result<Vec<Device>> {
        let listing = operator::list(&self.store, &Wanted::default(), clock::now())?;
        Ok(listing.devices.into_iter().map(|row| row.device).collect())
    }

    /// The states of its boxes.
    fn states(&self) -> anyhow::Result<Vec<State>> {
        Ok(self.devices()?.iter().map(|device| device.state).collect())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // what it says of its end changes no outcome
        }
    }
}

impl Trial<'_> {
    /// Tries `case` in the directory `work`, which is the case's own.
    ///
    /// # Errors
    /// When the trial itself cannot be made. A box that does not join is an [`Outcome`].
    pub fn run(&self, case: Case, work: &Path) -> anyhow::Result<Outcome> {
        let fleet = Fleet::start(&work.join("fleet"), self)?;
        let setting = case::setting(case, fleet.address, &fleet.description.spki_sha256)?;
        let box_disk = work.join("box.raw");
        let (carried, ticket) = self.bundle(&fleet, &setting)?;
        let mut medium = None;
        if case.needs_installer() {
            disk::empty(&box_disk, DISK)?;
            let stick = work.join("installer.iso");
            fs::copy(self.installer.context("the release has no installer")?, &stick)?;
            partition::place(&carried, &stick)?;
            medium = Some(Medium::Stick(stick));
        } else {
            disk::copy_sparse(self.disk, &File::create_new(&box_disk)?)?;
            partition::place(&carried, &box_disk)?;
        }
        let started = Instant::now();
        let verdict = self.watch(case, &setting, &fleet, &box_disk, medium.as_ref(), &ticket);
        let seconds = started.elapsed().as_secs();
        let console = std::fs::read_to_string(box_disk.with_extension("console")).unwrap_or_default();
        self.cancel.check()?;
        Ok(Outcome { case, seconds, failure: verdict.err().map(|e| format!("{e:#}")), console })
    }

    /// Boots the box, does to it what the case is about, and waits until it has joined.
    fn watch(
        &self,
        case: Case,
        setting: &case::Setting,
        fleet: &Fleet,
        disk: &Path,
        medium: Option<&Medium>,
        ticket: &[u8],
    ) -> anyhow::Result<()> {
        let power = machine::Power {
            trial: self,
            disk,
            clock: setting.clock,
            tpm: case.needs_tpm(),
            alone: case.needs_wire(),
            stick: None,
            medium: None,
        };
        if medium.is_some() {
            let start = Instant::now();
            let mut running = machine::Power { medium, ..power }.on()?;
            running.wait_for("forge: installed:", self.patience, self.cancel)?;
            (self.say)(&format!("{case}: installed after {} s", start.elapsed().as_secs()));
            ensure!(!running.has_said(&String::from_utf8_lossy(ticket)), "the ticket is on its console");
            running.wait_for_end(self.cancel)?; // and the stick is taken out
        }
        if case == Case::Stick {
            return self.carried(case, fleet, power, disk);
        }
        for n in 0..setting.cuts(self.cuts) {
            let mut running = power.on()?;
            // Spread over the whole of a first boot, by a number that nothing depends on.
            let after = Duration::from_millis(u64::from(random()? % 60_000));
            running.stay(after, self.cancel)?;
            drop(running); // pulls the plug
            (self.say)(&format!("{case}: power cut {} after {:.1} s", n + 1, after.as_secs_f64()));
        }
        let mut running = power.on()?;
        if case == Case::LateNetwork {
            running.link(false)?;
            running.wait_for("boot complete, good", self.patience, self.cancel)?;
            (self.say)(&format!("{case}: the boot is good and its workloads run, with no link"));
            ensure!(fleet.states()?.is_empty(), "a box without a link reached the fleet");
            running.link(true)?;
        }
        let start = Instant::now();
        loop {
            match fleet.states()?[..] {
                [] | [State::Pending | State::Approved] => {}
                [State::Joined] => break,
                ref states => anyhow::bail!("the fleet has {states:?}, not one box that joins"),
            }
            ensure!(
                start.elapsed() < self.patience,
                "it has not joined after {:?}: {}",
                self.patience,
                running.last()
            );
            running.stay(Duration::from_millis(200), self.cancel)?;
        }
        (self.say)(&format!("{case}: joined after {} s", start.elapsed().as_secs()));
        setting.check()?;
        ensure!(!running.has_said(&String::from_utf8_lossy(ticket)), "the ticket is on its console");
        if case.needs_tpm() {
            return self.proved(case, fleet, power, running, disk);
        }
        if case == Case::Joins {
            // Only a node that stays ready has joined for good; then the ticket goes from the disk.
            while contains(disk, ticket)? {
                ensure!(
                    start.elapsed() < self.patience,
                    "the ticket is still on its disk: {}",
                    running.last()
                );
                running.stay(Duration::from_secs(2), self.cancel)?;
            }
            (self.say)(&format!(
                "{case}: the ticket is gone from the disk after {} s",
                start.elapsed().as_secs()
            ));
        }
        if let Some(wanted) = setting.wanted() {
            ensure!(running.has_said(wanted), "it joined, and never said {wanted} on its console");
        }
        Ok(())
    }

    /// A box that no network reaches: a person takes its request to the fleet on a stick, and brings the grant back. In the
    /// end there is a cable, and the fleet hears of it.
    fn carried(
        &self,
        case: Case,
        fleet: &Fleet,
        power: machine::Power<'_>,
        disk: &Path,
    ) -> anyhow::Result<()> {
        let place = disk.with_extension("stick");
        let power = machine::Power { stick: Some(&place), ..power };
        stick::format(&place, None, clock::now())?;
        let start = Instant::now();
        let mut running = power.on()?;
        running.link(false)?;
        let (device, request) = loop {
            if let Some(device) = running.device()
                && let Some(request) = stick::request(&place, &device)?
            {
                break (device, request);
            }
            ensure!(start.elapsed() < self.patience, "no request is on the stick: {}", running.last());
            running.stay(Duration::from_secs(1), self.cancel)?;
        };
        (self.say)(&format!(
            "{case}: the request of {device} is on the stick after {} s",
            start.elapsed().as_secs()
        ));
        drop(running); // a person pulls the plug to get at the stick
        let answered = fleet.home.service(1)?.answer_offline(&request, clock::now())?;
        let grant = answered.grant.context("the fleet gives the request no grant")?;
        stick::format(&place, Some((&device, serde_json::to_vec(&grant)?)), clock::now())?;
        let start = Instant::now();
        let mut running = power.on()?;
        running.link(false)?;
        running.wait_for("working offline", self.patience, self.cancel)?;
        (self.say)(&format!(
            "{case}: it works with its grant after {} s, with no link",
            start.elapsed().as_secs()
        ));
        running.link(true)?;
        while fleet.states()?[..] != [State::Joined] {
            let states = fleet.states()?;
            ensure!(
                start.elapsed() < self.patience,
                "with a link, the fleet has {states:?}: {}",
                running.last()
            );
            running.stay(Duration::from_millis(200), self.cancel)?;
        }
        (self.say)(&format!(
            "{case}: with a link, the fleet has heard after {} s",
            start.elapsed().as_secs()
        ));
        Ok(())
    }

    /// The box that has joined proved its TPM, and keeps its secrets by it: with another TPM they cannot be opened, and the
    /// box begins anew as another device, for which the ticket has no second place.
    fn proved(
        &self,
        case: Case,
        fleet: &Fleet,
        power: machine::Power<'_>,
        mut running: machine::Machine,
        disk: &Path,
    ) -> anyhow::Result<()> {
        let devices = fleet.devices()?;
        let [device] = &devices[..] else { anyhow::bail!("the fleet has {} boxes", devices.len()) };
        ensure!(
            device.endorsement == Endorsement::Proved && device.ek.is_some(),
            "it joined and has not proved its TPM: {:?}",
            device.endorsement
        );
        (self.say)(&format!("{case}: its endorsement key is proved"));
        // Long enough for the last writes to be on the disk: the power goes next.
        running.stay(Duration::from_secs(20), self.cancel)?;
        drop(running);
        let state = machine::tpm_state(disk);
        std::fs::remove_dir_all(&state).with_context(|| format!("removing {}", state.display()))?;
        let mut running = power.on()?;
        if self.sealed {
            running.wait_for(SEALED, self.patience, self.cancel)?;
            (self.say)(&format!("{case}: another TPM cannot open its state"));
            return Ok(());
        }
        running.wait_for(Code::Cloned.id(), self.patience, self.cancel)?;
        (self.say)(&format!("{case}: another TPM cannot open its key, and it begins anew"));
        // The next words are of the new identity, whose ticket is another device's: it is told so, and held back.
        running.wait_for(Code::TicketTaken.id(), self.patience, self.cancel)?;
        let states: Vec<(bool, State)> =
            fleet.devices()?.iter().map(|other| (other.id == device.id, other.state)).collect();
        ensure!(
            states.len() == 2
                && states.contains(&(true, State::Joined))
                && states.contains(&(false, State::Quarantined)),
            "the first has to stay and the second to be held back: {states:?}"
        );
        (self.say)(&format!("{case}: the first device has kept its place, the second is held back"));
        Ok(())
    }

    /// The carrier's files, and the secret among them as it is written.
    fn bundle(&self, fleet: &Fleet, setting: &case::Setting) -> anyhow::Result<(Tree, Zeroizing<Vec<u8>>)> {
        let now = clock::now();
        let order = Order {
            fleet: fleet.description.clone(),
            endpoints: setting.endpoints.clone(),
            profile: self.site.into(),
            mode: Mode::Batch,
            batch: Some("trial".into()),
            max_claims: 1,
            serial: u64::try_from(now.0).unwrap_or(1),
            // An image that was made a second ago has a clock no later than this.
            issued_at: Epoch(now.0 - 60),
            shelf_life_days: 1,
            rows: setting.rows.clone(),
            proxy: setting.proxy.clone(),
            proxy_ca: setting.proxy_ca.clone(),
            ntp: vec![],
            policy: DevicePolicy { support_text: "forge test".into(), ..DevicePolicy::default() },
        };
        let issued = enroll::issue(&order, self.root)?;
        let mut tree = Tree::new();
        tree.insert(TreePath::parse(bundle::DIRECTORY)?, Node::dir(0o700))?;
        let mut ticket = Zeroizing::default();
        for (name, content) in issued.iter().flat_map(|i| &i.files) {
            if name == bundle::TICKET {
                ticket = Zeroizing::new(content.trim_ascii().to_vec());
            }
            let path = TreePath::parse(&format!("{}/{name}", bundle::DIRECTORY))?;
            tree.insert(path, Node::file(content.to_vec(), 0o600))?;
        }
        Ok((tree, ticket))
    }
}

/// Whether `secret` is anywhere in the FORGE-ENROLL partition of the disk, in a file or in what is left of one.
fn contains(disk: &Path, secret: &[u8]) -> anyhow::Result<bool> {
    let content = Content::of_file(Arc::new(File::open(disk)?))?;
    // As the device left it, which has added partitions.
    let table = Table::read(&content)?;
    let place = table.partitions.iter().find(|p| p.type_guid == PartitionType::Enroll.guid());
    let place = place.context("the disk has no FORGE-ENROLL partition")?;
    let bytes = content.slice(place.offset, ENROLL_SIZE)?.to_vec(ENROLL_SIZE)?;
    Ok(memchr::memmem::find(&bytes, secret).is_some())
}

fn random() -> anyhow::Result<u32> {
    getrandom::u32().map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))
}
