//! The real box: every trait of [`crate::device::effects`] over the modules beside this one.

use super::page::Page;
use super::{carrier, hardware, http, link, network, screen, service, time, tpm, vault, wake};
use crate::device::effects::{
    Attestor, Call, Carrier, Carriers, Clock, Disk, Entropy, Hardware, Image, Link, Net, NetError,
    NetworkSettings, Readiness, Reply, Screen, Services, TpmKeys, Vault, VaultError, Woken,
};
use crate::device::view::View;
use crate::enroll::bootstrap::Trust;
use crate::enroll::evidence::Facts;
use crate::host::fs;
use crate::model::{Digest, Epoch};
use crate::sign::PublicKey;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// For name, connection, proxy and handshake of one call: less than what is left for an answer, and enough for a satellite.
const CONNECT: Duration = Duration::from_secs(30);
/// The longest that a service manager waits for a sign of life, where it does not say.
const BEAT: Duration = Duration::from_secs(10);
/// How long after the start no missing cable or address is told: a box that has just been switched on has neither yet.
const SETTLING: Duration = Duration::from_secs(45);
/// How often a page is shown again of which only the clock is another. Each time, a serial line's recorder gets a page.
const REFRESH: Duration = Duration::from_secs(600);
/// The largest of the image's own files that are read.
const MAX_OWN: u64 = 4 << 20;

/// The box that this program runs on.
pub struct Machine {
    root: PathBuf,
    started: Instant,
    notify: service::Notify,
    beat: Duration,
    wake: Option<wake::Wake>,
    tpm: tpm::Patient,
    said: String,
    shown: Option<(View, Instant)>,
    page: Page,
}

impl Machine {
    /// This box. Tells the service manager that the program is up.
    pub fn this() -> Machine {
        let notify = service::Notify::from_env();
        notify.ready();
        Machine {
            root: "/".into(),
            started: Instant::now(),
            notify,
            // Three signs of life fall into each interval.
            beat: service::watchdog_interval().map_or(BEAT, |interval| (interval / 3).min(BEAT)),
            wake: wake::Wake::listen().ok(), // without it, sticks and cables are noticed a little later
            tpm: tpm::Patient::default(),
            said: String::new(),
            shown: None,
            page: Page::default(),
        }
    }

    fn own(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.root.join(path);
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![];
            fs::open_regular(&path)?.take(MAX_OWN).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().with_context(|| format!("reading {}", path.display()))
    }
}

impl Disk for Machine {
    fn read(&mut self, path: &Path, most: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let file = match fs::open_regular(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Zeroizing::new(vec![]);
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {most} bytes")));
        }
        Ok(Some(bytes))
    }

    fn list(&mut self, path: &Path) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn write(&mut self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        // The mode holds from the first instant: what another user opened earlier would stay open.
        if fs::exists(path) {
            std::fs::remove_file(path)?;
        }
        fs::place(path, mode, bytes)
    }

    fn overwrite(&mut self, path: &Path) -> io::Result<()> {
        let mut file = match File::options().write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let length = file.metadata()?.len();
        io::copy(&mut io::repeat(0).take(length), &mut file).map(drop)
    }

    fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let removed = match std::fs::symlink_metadata(path) {
            Err(e) => Err(e),
            Ok(meta) if meta.is_dir() => std::fs::remove_dir(path),
            Ok(_) => std::fs::remove_file(path),
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn make_dir(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(mode)) {
            Err(rustix::io::Errno::EXIST) if path.is_dir() => Ok(()),
            other => Ok(other?),
        }
    }

    fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, path)
    }

    fn read_link(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        match std::fs::read_link(path) {
            // What is there is no link.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Net for Machine {
    fn links(&mut self) -> Vec<Link> {
        link::all().unwrap_or_default()
    }

    fn configure(&mut self, settings: &NetworkSettings) -> anyhow::Result<()> {
        let files = network::render(settings)?;
        network::apply(&self.root.join("run/systemd"), &files, true).map(drop)
    }

    fn exchange(&mut self, call: &Call<'_>) -> Result<Reply, NetError> {
        let settled = self.started.elapsed() > SETTLING;
        exchange(call).map_err(|failure| {
            // What the kernel says of a box without a cable is "network unreachable", and a person needs to know more.
            let unplugged =
                settled && matches!(failure, http::Failure::Connect { .. } | http::Failure::Name(_));
            let links = if unplugged { link::all().unwrap_or_default() } else { vec![] };
            let text = failure.to_string();
            match failure {
                _ if unplugged && !links.is_empty() && links.iter().all(|l| !l.carrier) => NetError::NoLink,
                _ if unplugged && !links.is_empty() && links.iter().all(|l| l.addresses.is_empty()) => {
                    NetError::NoAddress
                }
                http::Failure::Name(_) if !settled => NetError::Unreachable(text),
                http::Failure::Name(_) => NetError::NameUnknown(text),
                http::Failure::Connect { .. } | http::Failure::Broken { .. } => NetError::Unreachable(text),
                http::Failure::Proxy { .. } => NetError::Proxy(text),
                http::Failure::Certificate { .. } => NetError::ForeignCertificate(text),
                http::Failure::Portal { .. } => NetError::Portal(text),
                http::Failure::Slow { .. } => NetError::TimedOut(text),
            }
        })
    }
}

/// One call. What the bundle says that cannot be used counts as an endpoint that cannot be reached: another may be there.
fn exchange(call: &Call<'_>) -> Result<Reply, http::Failure> {
    let endpoint = call.endpoint;
    let unusable =
        |why: String| http::Failure::Connect { to: endpoint.url.clone(), why: io::Error::other(why) };
    let origin = http::Origin::parse(&endpoint.url).ok_or_else(|| unusable("it is no address".into()))?;
    let proxy = match call.proxy {
        Some(url) => Some(http::Proxy::parse(url).ok_or_else(|| unusable("the proxy is no address".into()))?),
        None => None,
    };
    let trust = http::Trust {
        pins: endpoint.spki_sha256.clone(),
        authorities: endpoint
            .ca_pem
            .iter()
            .map(String::as_str)
            .chain(call.proxy_ca)
            .map(String::from)
            .collect(),
        floor: call.clock_floor,
    };
    let patience = http::Patience { connect: CONNECT, total: call.patience };
    let client =
        http::Client::new(origin, &trust, proxy, patience).map_err(|e| unusable(format!("{e:#}")))?;
    let answer = client.call(&http::Request { method: call.method, target: call.target, body: call.body })?;
    Ok(Reply { status: answer.status, body: answer.body })
}

impl Clock for Machine {
    fn now(&mut self) -> Epoch {
        time::now()
    }

    fn raise(&mut self, at: Epoch) -> anyhow::Result<()> {
        time::raise(at).map(drop)
    }

    fn monotonic(&mut self) -> Duration {
        self.started.elapsed()
    }

    fn wait(&mut self, at_most: Duration) -> Woken {
        let end = Instant::now() + at_most;
        loop {
            self.notify.alive();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Elapsed;
            }
            let step = left.min(self.beat);
            let Some(wake) = &mut self.wake else {
                std::thread::sleep(step);
                continue;
            };
            if wake.wait(step) {
                return Woken::Changed;
            }
        }
    }
}

impl Entropy for Machine {
    fn random(&mut self, bytes: &mut [u8]) -> anyhow::Result<()> {
        getrandom::fill(bytes).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))
    }
}

impl Vault for Machine {
    fn seal(&mut self, name: &str, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
        vault::seal(tpm::is_there(&self.root), name, secret)
    }

    fn unseal(&mut self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        vault::unseal(tpm::is_there(&self.root), name, sealed)
    }
}

impl Attestor for Machine {
    fn tpm_keys(&mut self) -> Result<TpmKeys, String> {
        self.tpm.keys(&self.root)
    }

    fn activate_credential(&mut self, blob: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        self.tpm.activate(&self.root, blob, secret)
    }
}

impl Hardware for Machine {
    fn facts(&mut self) -> Facts {
        hardware::facts(&self.root, &link::all().unwrap_or_default())
    }

    fn has_tpm(&mut self) -> bool {
        tpm::is_there(&self.root)
    }

    fn image(&mut self) -> anyhow::Result<Image> {
        image(&self.root, &self.own("usr/lib/forge/profile.json")?)
    }
}

/// What the image below `root` says of itself, with the profile that it was made from.
fn image(root: &Path, profile: &[u8]) -> anyhow::Result<Image> {
    let profile_json: serde_json::Value =
        serde_json::from_slice(profile).context("reading the image's profile")?;
    let site = profile_json["site"]["name"].as_str().context("the image's profile names no site")?;
    // Every file of the image bears the time of its build.
    let built = std::fs::metadata(root.join("usr/lib/forge/profile.json"))?.mtime();
    let command_line = std::fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default();
    let root_hash = command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix("roothash="));
    let mut roots = vec![];
    for entry in std::fs::read_dir(root.join("usr/lib/forge/trust.d")).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "pub") {
            let pem = std::fs::read_to_string(&path)?;
            roots.push(
                PublicKey::from_pem(&pem).with_context(|| format!("reading the root {}", path.display()))?,
            );
        }
    }
    anyhow::ensure!(
        !roots.is_empty(),
        "the image trusts no fleet: there is no key in /usr/lib/forge/trust.d"
    );
    Ok(Image {
        profile: site.into(),
        root_hash: root_hash.and_then(|hash| format!("sha256:{hash}").parse::<Digest>().ok()),
        built_at: Epoch(built),
        trust: Trust::any(roots),
        edgecore: profile_json["agent"]["kind"] == "kubeedge",
    })
}

impl Carriers for Machine {
    fn bundles(&mut self, names: &[(String, usize)]) -> Vec<Carrier> {
        carrier::bundles(&self.root, names)
    }

    fn scrub(&mut self, sha256: Digest) -> anyhow::Result<()> {
        carrier::scrub(&self.root, sha256)
    }

    fn leave(&mut self, name: &str, bytes: &[u8]) -> usize {
        carrier::leave(&self.root, name, bytes)
    }
}

impl Screen for Machine {
    fn show(&mut self, view: &View) {
        let line = screen::line(view);
        if line != self.said {
            screen::say(&line);
            self.notify.status(&line);
            self.said = line;
        }
        let page = self.page.show(&self.root, view);
        let view = &View { page, ..view.clone() };
        let lasting = View { now: Epoch::default(), again_in: None, ..view.clone() };
        if self.shown.as_ref().is_some_and(|(last, at)| *last == lasting && at.elapsed() < REFRESH) {
            return;
        }
        self.shown = Some((lasting, Instant::now()));
        // A screen that cannot be written stops nobody from joining.
        let _ = screen::show(&self.root.join("run"), &screen::render(view));
    }
}

impl Services for Machine {
    fn activate(&mut self, changed: bool) -> anyhow::Result<()> {
        service::reload()?;
        let units = [service::TARGET.into()];
        // What is part of the target is restarted with it, and nothing is that was not started.
        if changed && service::state(service::TARGET)? == "active" {
            return service::restart(&units);
        }
        service::start(&units)
    }

    fn deactivate(&mut self) -> anyhow::Result<()> {
        service::stop(&[service::TARGET.into()])
    }

    fn forget_host(&mut self) -> anyhow::Result<()> {
        let mut id = [0; 16];
        self.random(&mut id)?;
        let id = format!("{}\n", crate::model::digest::hex(&id));
        fs::write_atomic(&self.root.join("etc/machine-id"), id.as_bytes(), 0o444)
            .context("writing a new machine id")?;
        let ssh = self.root.join("etc/ssh");
        for name in self.list(&ssh)? {
            if name.starts_with("ssh_host_") {
                self.remove(&ssh.join(name)).context("removing the SSH host keys")?;
            }
        }
        service::restart(&["sshd-keygen.service".into(), "systemd-networkd.service".into()])
    }

    fn readiness(&mut self) -> Readiness {
        let mut waiting = BTreeMap::new();
        for unit in service::of_target(&self.root) {
            match service::state(&unit) {
                Ok(state) if state == "active" => {}
                Ok(state) => drop(waiting.insert(unit, state)),
                Err(e) => drop(waiting.insert(unit, e.to_string())),
            }
        }
        match waiting.into_iter().next() {
            None => Readiness::Ready,
            Some((unit, state)) => Readiness::NotYet(format!("{unit} is {state}")),
        }
    }

    fn beat(&mut self, status: &str) {
        self.notify.alive();
        self.notify.status(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{PrivateKey, Signer as _};

    #[test]
    fn an_image_says_what_it_is_and_trusts_somebody() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            fs::write_atomic(&root.path().join(path), text.as_bytes(), 0o644).unwrap();
        };
        let profile = r#"{"site":{"name":"store-042"},"agent":{"kind":"kubeedge"}}"#;
        put("usr/lib/forge/profile.json", profile);
        let hash = Digest::of("root");
        put("proc/cmdline", &format!("root=x roothash={} quiet\n", hash.hex()));
        let untrusting = image(root.path(), profile.as_bytes()).unwrap_err();
        assert!(untrusting.to_string().contains("trusts no fleet"));
        let key = PrivateKey::from_seed(&[1; 32]).unwrap();
        put("usr/lib/forge/trust.d/fleet.pub", &key.public_key().to_pem());
        put("usr/lib/forge/trust.d/README", "not a key");
        let image = image(root.path(), profile.as_bytes()).unwrap();
        assert_eq!((&*image.profile, image.root_hash), ("store-042", Some(hash)));
        assert_eq!(image.trust.roots, [key.public_key().clone()]);
        assert!(image.edgecore);
    }

    #[test]
    fn files_are_what_the_state_machine_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::this();
        let (file, link) = (dir.path().join("f"), dir.path().join("l"));
        assert!(machine.read(&file, 9).unwrap().is_none());
        machine.write(&file, b"secret", 0o600).unwrap();
        machine.sync_file(&file).unwrap();
        machine.sync_dir(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(machine.read(&file, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let inode = std::fs::metadata(&file).unwrap().ino();
        machine.overwrite(&file).unwrap();
        machine.overwrite(&dir.path().join("none")).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), [0; 6]);
        assert_eq!(std::fs::metadata(&file).unwrap().ino(), inode, "in its own blocks");
        machine.symlink(Path::new("f"), &link).unwrap();
        assert_eq!(machine.read_link(&link).unwrap(), Some("f".into()));
        assert_eq!(machine.read_link(&file).unwrap(), None);
        assert!(machine.read(&link, 9).is_err(), "links are not followed");
        machine.make_dir(&dir.path().join("d"), 0o700).unwrap();
        machine.make_dir(&dir.path().join("d"), 0o700).unwrap();
        assert_eq!(machine.list(dir.path()).unwrap().len(), 3);
        for name in ["f", "l", "d", "none"] {
            machine.remove(&dir.path().join(name)).unwrap();
        }
        assert!(machine.list(&dir.path().join("none")).unwrap().is_empty());
    }
}
