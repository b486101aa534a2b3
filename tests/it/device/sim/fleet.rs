//! The real endpoint behind simulated calls: no socket, and the simulation's clock.

use crate::fleet::boxes::{self, START};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge::device::effects::{Call, Image, Reply};
use forge::enroll::MAX_BODY;
use forge::enroll::bootstrap::Trust;
use forge::enroll::bundle;
use forge::enroll::claim::Csr;
use forge::enroll::grant::{File, Item, Material};
use forge::fleet::makers::Makers;
use forge::fleet::{Device, GrantSource, Identity, Request, Service, Settings, Store, audit, operator};
use forge::model::Epoch;
use forge::sign::PrivateKey;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What every grant has, so that it can be searched for.
pub const TOKEN: &str = "K10cafe::bootstrap-token-of-";

/// What an operator does at an instant.
type Deed = Box<dyn FnOnce(&SimFleet)>;

/// An endpoint and its operator.
pub struct SimFleet {
    pub keys: boxes::Fleet,
    pub service: Service,
    time: Cell<Duration>,
    deeds: RefCell<Vec<(Duration, Deed)>>,
}

/// Join material as k3s wants it.
pub struct Tokens;

impl GrantSource for Tokens {
    fn material(&self, device: &Device, _: &[Csr], _: Epoch) -> anyhow::Result<Material> {
        let file = |path: &str, text: String| File {
            path: path.into(),
            mode: 0o600,
            content: Zeroizing::new(STANDARD.encode(text)),
        };
        let files = vec![
            file("/etc/rancher/k3s/config.yaml.d/50-forge.yaml", format!("token: {TOKEN}{}\n", device.id)),
            file("/etc/rancher/node/password", format!("{TOKEN}password\n")),
            file("/etc/kubeedge/certs/server.key", format!("{TOKEN}key\n")),
            file("/etc/kubeedge/certs/server.crt", "certificate\n".into()),
        ];
        Ok(Material { items: vec![Item::Files { files }] })
    }
}

impl SimFleet {
    pub fn new(settings: Settings) -> Rc<SimFleet> {
        SimFleet::with(settings, Arc::new(Store::in_memory().unwrap()), Box::new(Tokens))
    }

    pub fn with(settings: Settings, store: Arc<Store>, source: Box<dyn GrantSource>) -> Rc<SimFleet> {
        SimFleet::believing(settings, store, source, Makers::default())
    }

    /// A fleet that believes `makers` of TPMs.
    pub fn believing(
        settings: Settings,
        store: Arc<Store>,
        source: Box<dyn GrantSource>,
        makers: Makers,
    ) -> Rc<SimFleet> {
        let keys = boxes::Fleet::of_seed(10);
        let identity = Identity {
            fleet: "shops".into(),
            trust: keys.trust(),
            grant_key: PrivateKey::from_seed(&keys.grant_key.to_seed()).unwrap(),
            nonce_secret: [9; 32],
        };
        let service = Service::new(identity, settings, store, source).unwrap().with_makers(makers);
        Rc::new(SimFleet { keys, service, time: Cell::default(), deeds: RefCell::default() })
    }

    /// The image that its boxes run.
    pub fn image(&self) -> Image {
        let trust: Trust = self.keys.trust();
        Image {
            profile: "store".into(),
            root_hash: None,
            built_at: Epoch(START.0 - 86_400),
            trust,
            edgecore: false,
        }
    }

    /// At `at`, an operator does that.
    pub fn at(&self, at: Duration, deed: impl FnOnce(&SimFleet) + 'static) {
        self.deeds.borrow_mut().push((at, Box::new(deed)));
        self.deeds.borrow_mut().sort_by_key(|(at, _)| *at);
    }

    pub fn now(&self) -> Epoch {
        Epoch(START.0 + self.time.get().as_secs() as i64)
    }

    pub fn order(&self, order: operator::Order) {
        operator::carry_out(self.service.store(), order, "operator", self.now()).unwrap();
    }

    fn pass(&self, to: Duration) {
        self.time.set(self.time.get().max(to));
        loop {
            let due = {
                let mut deeds = self.deeds.borrow_mut();
                if deeds.first().is_some_and(|(at, _)| *at <= to) { Some(deeds.remove(0).1) } else { None }
            };
            match due {
                Some(deed) => deed(self),
                None => return,
            }
        }
    }

    /// Answers `call` at `time`; and how long the answer was held back.
    pub fn handle(&self, call: &Call<'_>, time: Duration) -> (Reply, Duration) {
        self.pass(time);
        let (path, query) = call.target.split_once('?').unwrap_or((call.target, ""));
        let request = Request {
            method: call.method.into(),
            path: path.into(),
            query: query.into(),
            body: call.body.unwrap_or_default().to_vec(),
        };
        assert!(request.body.len() <= MAX_BODY);
        let mut spent = Duration::ZERO;
        let mut response = self.service.handle(&request, self.now());
        assert_eq!(response.trouble, None);
        if let Some((_, seconds)) = &response.hold {
            let end = Duration::from_secs(u64::from(*seconds));
            let next = self.deeds.borrow().first().map(|(at, _)| at.saturating_sub(time));
            spent = next.map_or(end, |next| next.min(end));
            self.pass(time + spent);
            response = self.service.handle(&request, self.now());
        }
        (Reply { status: response.status, body: response.body }, spent)
    }

    pub fn devices(&self) -> Vec<Device> {
        self.service.store().read(|c| Device::select(c, "ORDER BY id", [])).unwrap()
    }

    pub fn only(&self) -> Device {
        let devices = self.devices();
        assert_eq!(devices.len(), 1, "one box is one row");
        devices.into_iter().next().unwrap()
    }

    /// A number that a query gives.
    pub fn count(&self, sql: &str) -> i64 {
        self.service.store().read(|c| Ok(c.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }

    /// Everything that an operator or a log of the endpoint shows.
    pub fn outputs(&self) -> Vec<String> {
        let entries = self.service.store().read(|c| audit::newest(c, None, 100_000)).unwrap();
        let mut outputs: Vec<String> = entries.iter().map(|e| format!("{e:?}")).collect();
        for device in self.devices() {
            let shown = operator::show(self.service.store(), device.id.as_str()).unwrap();
            outputs.push(serde_json::to_string(&shown).unwrap());
        }
        outputs
    }
}

/// A bundle as it lies on a carrier.
pub fn files(of: &boxes::Bundle) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
    let envelope = serde_json::to_vec(&of.envelope).unwrap();
    let mut files = BTreeMap::from([(bundle::BOOTSTRAP.to_string(), Zeroizing::new(envelope))]);
    if let Some(seed) = of.ticket_seed {
        let text = bundle::write_seed(&PrivateKey::from_seed(&seed).unwrap());
        files.insert(bundle::TICKET.into(), Zeroizing::new(text.as_bytes().to_vec()));
    }
    files
}

/// A signed body with its payload readable, to be searched.
pub fn unwrapped(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).into_owned();
    let payload = serde_json::from_slice::<serde_json::Value>(body).ok();
    let payload = payload.and_then(|v| STANDARD.decode(v["payload"].as_str()?).ok()).unwrap_or_default();
    format!("{text} {}", String::from_utf8_lossy(&payload))
}
