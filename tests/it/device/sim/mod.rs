//! Simulated boxes before the real endpoint: time that passes only in waits, a network that does what it is told to, and a
//! power cord that can be pulled at any operation.

pub mod disk;
pub mod fleet;

use disk::{Dice, Loss, SimDisk};
use fleet::SimFleet;
use forge::device::effects::*;
use forge::device::view::View;
use forge::device::{Device, Pacer, Step, turn};
use forge::enroll::bundle;
use forge::enroll::evidence::Facts;
use forge::model::{Digest, Epoch};
use forge::tpm::Tpm;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The power went.
struct PowerCut;

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It goes through.
    Through,
    /// The request is lost.
    RequestLost,
    /// The fleet acts on it, and the answer is lost.
    AnswerLost,
    /// There is no way.
    Fails(NetError),
    /// Somebody else answers.
    Answered(u16, Vec<u8>),
    /// The answer's byte at that place (of its length) is changed.
    Tampered(usize),
}

/// What the network does with the call of that number (from 0) to that endpoint and target.
pub type Weather = Box<dyn FnMut(u64, &Call<'_>) -> Fate>;

/// Answers of the fleet, each with the path of its call.
pub type Heard = Rc<RefCell<Vec<(String, Vec<u8>)>>>;

/// A simulated box.
pub struct SimBox {
    pub disk: SimDisk,
    pub facts: Facts,
    /// The TPM's own secret; without one, secrets lie as they are.
    pub tpm: Option<u8>,
    /// The chip that proves itself, and its maker's certificate; without one, a TPM tells no keys.
    pub chip: Option<Tpm<UnixStream>>,
    pub certificate: Option<Vec<u8>>,
    /// The TPM does not answer.
    pub silent: bool,
    pub image: Image,
    pub carriers: Vec<Carrier>,
    pub links: Vec<Link>,
    pub weather: Weather,
    /// Whether the node gets ready once activated.
    pub node: bool,
    /// What the clock says after a start, and whether a battery keeps it going.
    pub boot_clock: i64,
    /// The true time since the simulation began.
    pub time: Duration,
    booted: Duration,
    clock_ahead: i64,
    dice: Dice,
    fleet: Rc<SimFleet>,
    pub ops: u64,
    /// The operation before which the power goes.
    pub cut_at: Option<u64>,
    pub calls: u64,
    pub active: bool,
    pub activations: u32,
    /// Of these, with a grant that the services had not read.
    pub rereads: u32,
    pub forgotten: u32,
    pub configured: u32,
    pub left: BTreeMap<String, Vec<u8>>,
    /// Everything that a person, a log or the wire has seen.
    pub outputs: Vec<String>,
    /// Secrets that were drawn: 32 bytes each.
    pub drawn: Vec<Vec<u8>>,
    pub last_view: Option<View>,
    /// Waits, in order.
    pub waits: Vec<Duration>,
    /// What the fleet answered, by path.
    pub heard: Heard,
    /// A person plugs in a stick when the time has come.
    pub plug: Option<(Duration, Carrier)>,
    /// When its calls reached the fleet, where somebody counts them.
    pub arrivals: Option<Rc<RefCell<Vec<Duration>>>>,
}

impl SimBox {
    /// A box with `serial` and one port, with `bundle` on its partition, in front of `fleet`.
    pub fn new(
        fleet: &Rc<SimFleet>,
        serial: &str,
        bundle: Option<BTreeMap<String, Zeroizing<Vec<u8>>>>,
    ) -> SimBox {
        let n = Digest::of(serial).as_raw()[0..3].to_vec();
        let mac = format!("02:00:00:{:02x}:{:02x}:{:02x}", n[0], n[1], n[2]);
        let facts = Facts { serial: Some(serial.into()), macs: vec![mac.clone()], ..Facts::default() };
        let carrier =
            bundle.map(|files| Carrier { kind: CarrierKind::Partition, place: "sda3".into(), files });
        let address = "192.0.2.50".parse().unwrap();
        let link = Link { name: "enp1s0".into(), mac: Some(mac), carrier: true, addresses: vec![address] };
        SimBox {
            disk: SimDisk::new(),
            facts,
            tpm: None,
            chip: None,
            certificate: None,
            silent: false,
            image: fleet.image(),
            carriers: carrier.into_iter().collect(),
            links: vec![link],
            weather: Box::new(|_, _| Fate::Through),
            node: true,
            boot_clock: 0,
            time: Duration::ZERO,
            booted: Duration::ZERO,
            clock_ahead: 0,
            dice: Dice(u64::from_le_bytes(Digest::of(serial).as_raw()[..8].try_into().unwrap())),
            fleet: fleet.clone(),
            ops: 0,
            cut_at: None,
            calls: 0,
            active: false,
            activations: 0,
            rereads: 0,
            forgotten: 0,
            configured: 0,
            left: BTreeMap::new(),
            outputs: vec![],
            drawn: vec![],
            last_view: None,
            waits: vec![],
            heard: Rc::default(),
            plug: None,
            arrivals: None,
        }
    }

    /// An operation that a power cut can fall before.
    fn tick(&mut self) {
        if self.cut_at == Some(self.ops) {
            // Without the panic hook: this is no failure.
            resume_unwind(Box::new(PowerCut));
        }
        self.ops += 1;
    }

    /// The box after its power came back.
    pub fn reboot(&mut self, loss: Loss, seed: u64) {
        self.disk.cut(loss, &mut Dice(seed));
        self.restart();
        self.time += Duration::from_secs(20);
    }

    /// The box after its program was killed, or its system restarted cleanly: nothing is lost.
    pub fn restart(&mut self) {
        self.booted = self.time;
        self.clock_ahead = 0;
        self.active = false;
    }

    fn change_unless(&mut self, until: Duration) -> bool {
        if let Some((at, _)) = &self.plug
            && *at <= until
            && let Some((at, carrier)) = self.plug.take()
        {
            self.time = self.time.max(at);
            self.carriers.push(carrier);
            return true;
        }
        false
    }
}

impl Disk for SimBox {
    fn read(&mut self, path: &Path, most: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        Ok(self.disk.read(path, most)?.map(Zeroizing::new))
    }
    fn list(&mut self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.disk.list(path))
    }
    fn write(&mut self, path: &Path, bytes: &[u8], _: u32) -> io::Result<()> {
        self.tick();
        self.disk.write(path, bytes)
    }
    fn overwrite(&mut self, path: &Path) -> io::Result<()> {
        self.tick();
        match self.disk.read(path, usize::MAX)? {
            Some(bytes) => self.disk.write(path, &vec![0; bytes.len()]),
            None => Ok(()),
        }
    }
    fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        self.tick();
        self.disk.sync_file(path)
    }
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.tick();
        self.disk.rename(from, to)
    }
    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.tick();
        self.disk.sync_dir(path)
    }
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.tick();
        self.disk.remove(path)
    }
    fn make_dir(&mut self, path: &Path, _: u32) -> io::Result<()> {
        self.tick();
        self.disk.make_dir(path)
    }
    fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()> {
        self.tick();
        self.disk.symlink(target, path)
    }
    fn read_link(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        Ok(self.disk.read_link(path))
    }
}

impl Net for SimBox {
    fn links(&mut self) -> Vec<Link> {
        self.links.clone()
    }
    fn configure(&mut self, _: &NetworkSettings) -> anyhow::Result<()> {
        self.tick();
        self.configured += 1;
        Ok(())
    }
    fn exchange(&mut self, call: &Call<'_>) -> Result<Reply, NetError> {
        self.tick();
        self.outputs.push(format!("{} {}", call.method, call.target));
        if let Some(body) = call.body {
            self.outputs.push(fleet::unwrapped(body));
        }
        let fate = (self.weather)(self.calls, call);
        self.calls += 1;
        self.time += Duration::from_millis(40);
        let lost = |why: &str| Err(NetError::TimedOut(why.into()));
        let reply = match fate {
            Fate::RequestLost => {
                self.time += call.patience;
                return lost("the request is lost");
            }
            Fate::Fails(error) => return Err(error),
            Fate::Answered(status, body) => return Ok(Reply { status, body }),
            Fate::Through | Fate::AnswerLost | Fate::Tampered(_) => {
                if let Some(arrivals) = &self.arrivals {
                    arrivals.borrow_mut().push(self.time);
                }
                let (reply, spent) = self.fleet.handle(call, self.time);
                self.time += spent;
                let path = call.target.split('?').next().unwrap().to_string();
                self.heard.borrow_mut().push((path, reply.body.clone()));
                reply
            }
        };
        self.tick(); // the fleet has acted, and the box has not heard
        match fate {
            Fate::AnswerLost => {
                self.time += call.patience;
                lost("the answer is lost")
            }
            Fate::Tampered(at) => {
                let mut reply = reply;
                let at = at % reply.body.len();
                reply.body[at] ^= 1;
                Ok(reply)
            }
            _ => Ok(reply),
        }
    }
}

impl Clock for SimBox {
    fn now(&mut self) -> Epoch {
        Epoch(self.boot_clock + self.clock_ahead + (self.time - self.booted).as_secs() as i64)
    }
    fn raise(&mut self, at: Epoch) -> anyhow::Result<()> {
        self.tick();
        let now = self.now();
        self.clock_ahead += (at.0 - now.0).max(0);
        Ok(())
    }
    fn monotonic(&mut self) -> Duration {
        self.time - self.booted
    }
    fn wait(&mut self, at_most: Duration) -> Woken {
        if self.change_unless(self.time + at_most) {
            return Woken::Changed;
        }
        self.waits.push(at_most);
        self.time += at_most;
        Woken::Elapsed
    }
}

impl Entropy for SimBox {
    fn random(&mut self, bytes: &mut [u8]) -> anyhow::Result<()> {
        bytes.iter_mut().for_each(|b| *b = self.dice.roll() as u8);
        if bytes.len() == 32 {
            self.drawn.push(bytes.to_vec());
        }
        Ok(())
    }
}

impl Vault for SimBox {
    fn seal(&mut self, name: &str, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
        let tag = Digest::of(format!("{name}{:?}", self.tpm));
        let mask = tag.as_raw().iter().cycle();
        let sealed = secret.iter().zip(mask).map(|(s, m)| s ^ m);
        Ok(tag.as_raw().iter().copied().chain(sealed).collect())
    }
    fn unseal(&mut self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        if self.silent {
            return Err(VaultError::NotNow("busy".into()));
        }
        let tag = Digest::of(format!("{name}{:?}", self.tpm));
        let secret = sealed.strip_prefix(&tag.as_raw()[..]);
        let secret = secret.ok_or_else(|| VaultError::Never("sealed by another TPM".into()))?;
        Ok(Zeroizing::new(secret.iter().zip(tag.as_raw().iter().cycle()).map(|(s, m)| s ^ m).collect()))
    }
}

impl Attestor for SimBox {
    fn tpm_keys(&mut self) -> Result<TpmKeys, String> {
        self.tick();
        let Some(chip) = self.chip.as_mut().filter(|_| !self.silent) else {
            self.time += Duration::from_secs(50);
            return Err("the TPM has not answered for 50 s".into());
        };
        let (ek, ak) = (chip.endorsement_key().unwrap(), chip.attestation_key().unwrap());
        let keys = TpmKeys {
            ek_public: ek.public().to_vec(),
            ek_certificate: self.certificate.clone(),
            ak_public: ak.public().to_vec(),
        };
        chip.flush(ek).unwrap();
        chip.flush(ak).unwrap();
        Ok(keys)
    }
    fn activate_credential(&mut self, blob: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        self.tick();
        let chip = self.chip.as_mut().filter(|_| !self.silent).ok_or("the TPM has not answered for 50 s")?;
        let (ek, ak) = (chip.endorsement_key().unwrap(), chip.attestation_key().unwrap());
        let opened = chip.activate(&ek, &ak, blob, secret).map(Zeroizing::new);
        chip.flush(ek).unwrap();
        chip.flush(ak).unwrap();
        opened.map_err(|e| e.to_string())
    }
}

impl Hardware for SimBox {
    fn facts(&mut self) -> Facts {
        self.facts.clone()
    }
    fn has_tpm(&mut self) -> bool {
        self.tpm.is_some()
    }
    fn image(&mut self) -> anyhow::Result<Image> {
        Ok(self.image.clone())
    }
}

impl Carriers for SimBox {
    fn bundles(&mut self, names: &[(String, usize)]) -> Vec<Carrier> {
        let mut found = self.carriers.clone();
        for carrier in &mut found {
            carrier
                .files
                .retain(|name, bytes| names.iter().any(|(n, most)| n == name && bytes.len() <= *most));
        }
        found.sort_by_key(|c| c.kind);
        found
    }
    fn scrub(&mut self, sha256: Digest) -> anyhow::Result<()> {
        self.tick();
        for carrier in &mut self.carriers {
            if carrier.files.get(bundle::TICKET).is_some_and(|t| Digest::of(&**t) == sha256) {
                carrier.files.remove(bundle::TICKET);
            }
        }
        Ok(())
    }
    fn leave(&mut self, name: &str, bytes: &[u8]) -> usize {
        self.tick();
        self.outputs.push(fleet::unwrapped(bytes));
        self.left.insert(name.into(), bytes.to_vec());
        1
    }
}

impl Screen for SimBox {
    fn show(&mut self, view: &View) {
        let text = format!("{} {view:?}", view.word());
        if self.last_view.as_ref() != Some(view) {
            self.outputs.push(text);
        }
        self.last_view = Some(view.clone());
    }
}

impl Services for SimBox {
    fn activate(&mut self, changed: bool) -> anyhow::Result<()> {
        self.tick();
        assert!(
            self.disk.read_link(Path::new("/var/lib/forge/enroll/applied")).is_some(),
            "started too early"
        );
        self.active = true;
        self.activations += 1;
        self.rereads += u32::from(changed);
        Ok(())
    }
    fn deactivate(&mut self) -> anyhow::Result<()> {
        self.tick();
        self.active = false;
        Ok(())
    }
    fn forget_host(&mut self) -> anyhow::Result<()> {
        self.tick();
        self.forgotten += 1;
        Ok(())
    }
    fn readiness(&mut self) -> Readiness {
        if self.active && self.node { Readiness::Ready } else { Readiness::NotYet("starting".into()) }
    }
    fn beat(&mut self, status: &str) {
        self.outputs.push(status.into());
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What was waited for is so.
    Reached,
    /// The power went.
    Cut,
    /// It is not so after all that time.
    TooLate,
}

/// Starts the program in `sim` and runs it until `reached`, or for `at_most` of simulated time. Gives the box back.
pub fn run(
    sim: SimBox,
    at_most: Duration,
    mut reached: impl FnMut(&mut SimBox, &Step) -> bool,
) -> (SimBox, End) {
    let limit = sim.time + at_most;
    let mut device = Device::new(sim);
    let mut pacer = Pacer::default();
    loop {
        let turned = catch_unwind(AssertUnwindSafe(|| turn(&mut device, &mut pacer)));
        let step = match turned {
            Ok(step) => step,
            Err(cut) if cut.is::<PowerCut>() => return (device.into_io(), End::Cut),
            Err(panic) => resume_unwind(panic),
        };
        if reached(device.io(), &step) {
            return (device.into_io(), End::Reached);
        }
        if device.io().time > limit {
            return (device.into_io(), End::TooLate);
        }
    }
}
