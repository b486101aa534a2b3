//! Simulated boxes: real keys, real signatures, real bodies; whoever runs them decides how a request travels.

use forge::enroll::DeviceId;
use forge::enroll::bootstrap::{
    Bootstrap, DevicePolicy, DeviceRow, Endpoint, GrantSigners, ImageRule, Mode, SCHEMA, Ticket, Trust,
};
use forge::enroll::claim::{Ack, Answer, Claim, GrantRequest, Standing, State, path};
use forge::enroll::envelope::{Context, Direction, Nonce, Sealed, seal};
use forge::enroll::evidence::Facts;
use forge::enroll::grant::{Grant, Material, OpeningKey};
use forge::fleet::{Request, Response};
use forge::model::{Digest, Epoch};
use forge::sign::dsse::Envelope;
use forge::sign::{PrivateKey, PublicKey, Signer};
use std::collections::BTreeMap;

/// The instant at which tests begin.
pub const START: Epoch = Epoch(1_795_305_600);

/// Who signs a fleet's bundles and answers.
pub struct Fleet {
    pub root: PrivateKey,
    pub grant_key: PrivateKey,
    pub serial: u64,
}

/// A bundle as a box finds it.
#[derive(Clone)]
pub struct Bundle {
    pub envelope: Envelope,
    pub ticket_seed: Option<[u8; 32]>,
}

impl Fleet {
    pub fn of_seed(seed: u8) -> Fleet {
        let key = |n: u8| PrivateKey::from_seed(&[seed.wrapping_add(n); 32]).unwrap();
        Fleet { root: key(1), grant_key: key(2), serial: 7 }
    }

    pub fn trust(&self) -> Trust {
        Trust::any(vec![self.root.public_key().clone()])
    }

    /// A signed bundle; `change` has the last word on its document.
    pub fn bundle(&self, name: &str, mode: Mode, boxes: u32, change: impl FnOnce(&mut Bootstrap)) -> Bundle {
        let seed = *Digest::of(format!("ticket {name}")).as_raw();
        let ticket = PrivateKey::from_seed(&seed).unwrap();
        let ticket = (mode != Mode::IdentityOnly).then(|| Ticket {
            id: format!("t-{name}"),
            r#pub: ticket.public_key().clone(),
            max_claims: boxes,
            not_before: Epoch(START.0 - 86_400),
            not_after: Epoch(START.0 + 86_400 * 90),
            note: String::new(),
        });
        let mut document = Bootstrap {
            schema: SCHEMA,
            bundle_id: format!("b-{name}"),
            serial: self.serial,
            fleet: "shops".into(),
            batch: (mode == Mode::Batch).then(|| name.into()),
            mode,
            issued_at: START,
            image: ImageRule { profile: "store".into(), root_hashes: vec![] },
            endpoints: vec![Endpoint {
                url: "https://fleet.example:8443".into(),
                spki_sha256: vec![Digest::of("key")],
                ca_pem: None,
                priority: 0,
            }],
            signers: GrantSigners { grant_keys: vec![self.grant_key.public_key().clone()], threshold: 1 },
            devices: vec![],
            ticket,
            network: vec![],
            proxy: None,
            proxy_ca: None,
            ntp: vec![],
            dns: vec![],
            policy: DevicePolicy::default(),
            trust_next: None,
        };
        change(&mut document);
        Bundle {
            envelope: document.sign(&[&self.root]).unwrap(),
            ticket_seed: document.ticket.as_ref().map(|_| seed),
        }
    }

    /// The key that images of the fleet believe.
    pub fn root_key(&self) -> PublicKey {
        self.root.public_key().clone()
    }

    /// A bundle with a ticket for the box of serial number `serial`, which is to be called `name`.
    pub fn own_bundle(&self, name: &str, serial: &str) -> Bundle {
        self.own_bundle_with(name, serial, |_| {})
    }

    /// The same, with something changed in its document.
    pub fn own_bundle_with(&self, name: &str, serial: &str, change: impl FnOnce(&mut Bootstrap)) -> Bundle {
        self.bundle(name, Mode::Device, 1, |document| {
            document.devices = vec![row(name, serial)];
            change(document);
        })
    }
}

/// A row of an inventory.
pub fn row(name: &str, serial: &str) -> DeviceRow {
    let mut row =
        DeviceRow { r#ref: name.into(), r#match: Default::default(), min_score: 40, labels: BTreeMap::new() };
    row.r#match.serial = Some(serial.into());
    row.labels.insert("site".into(), name.into());
    row
}

/// Hardware that says it has the serial number.
pub fn hardware(serial: &str) -> Facts {
    Facts { serial: Some(serial.into()), ..Facts::default() }
}

/// How a request travels.
pub type Send<'a> = &'a mut dyn FnMut(&Request) -> Response;

/// A box with its keys and its bundle.
pub struct Box {
    pub key: PrivateKey,
    pub opening: OpeningKey,
    pub facts: Facts,
    pub bundle: Bundle,
    pub generation: u64,
    pub agent: String,
    pub grant_nonce: Nonce,
    pub fleet_keys: Vec<PublicKey>,
    fleet_nonce: Option<Nonce>,
    count: u64,
    seed: [u8; 32],
}

impl Box {
    /// A box whose keys follow from `name`.
    pub fn new(name: &str, fleet: &Fleet, bundle: &Bundle, facts: Facts) -> Box {
        let seed = *Digest::of(format!("box {name}")).as_raw();
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&seed[..16]);
        Box {
            key: PrivateKey::from_seed(&seed).unwrap(),
            opening: OpeningKey::from_seed(Digest::of(seed).as_raw()),
            facts,
            bundle: bundle.clone(),
            generation: 0,
            agent: "0.1.0".into(),
            grant_nonce: Nonce::from_random(nonce),
            fleet_keys: vec![fleet.grant_key.public_key().clone()],
            fleet_nonce: None,
            count: 0,
            seed,
        }
    }

    pub fn id(&self) -> DeviceId {
        DeviceId::of(self.key.public_key())
    }

    fn draw(&mut self) -> Nonce {
        self.count += 1;
        let digest = Digest::of([&self.seed[..], &self.count.to_le_bytes()].concat());
        let mut raw = [0; 16];
        raw.copy_from_slice(&digest.as_raw()[..16]);
        Nonce::from_random(raw)
    }

    /// One call, and its answer when the fleet signed it. Says hello first where it has no nonce of the fleet's.
    pub fn call(
        &mut self,
        send: Send<'_>,
        method: &str,
        path: &str,
        payload: Option<Vec<u8>>,
    ) -> Answer<serde_json::Value> {
        if payload.is_some() && self.fleet_nonce.is_none() {
            self.call(send, "GET", "/v1/hello", None);
        }
        for _ in 0..2 {
            let nonce = self.draw();
            let body = payload.as_ref().map(|p| self.signed(method, path, p)).unwrap_or_default();
            let request =
                Request { method: method.into(), path: path.into(), query: format!("nonce={nonce}"), body };
            let response = send(&request);
            assert_eq!(response.trouble, None);
            let answer = self.read(method, path, &nonce, &response);
            self.fleet_nonce = Some(answer.nonce.clone());
            if answer.status != 401 {
                return answer;
            }
        }
        panic!("the nonce of an answer is stale at once");
    }

    /// The body of a request.
    pub fn signed(&self, method: &str, path: &str, payload: &[u8]) -> Vec<u8> {
        let nonce = self.fleet_nonce.clone().unwrap_or(Nonce::from_random([0; 16]));
        let context = Context { direction: Direction::Request, method, path, nonce: &nonce };
        let ticket = self.bundle.ticket_seed.map(|seed| PrivateKey::from_seed(&seed).unwrap());
        let mut signers: Vec<&dyn Signer> = vec![&self.key];
        if let Some(ticket) = &ticket
            && path.ends_with("enroll")
        {
            signers.push(ticket);
        }
        seal(&signers, &context, payload).unwrap()
    }

    fn read(
        &self,
        method: &str,
        path: &str,
        nonce: &Nonce,
        response: &Response,
    ) -> Answer<serde_json::Value> {
        let context = Context { direction: Direction::Answer, method, path, nonce };
        let sealed = Sealed::parse(&response.body).unwrap();
        let answer: Answer<serde_json::Value> =
            serde_json::from_slice(sealed.open_by(&context, &self.fleet_keys).unwrap().get()).unwrap();
        assert_eq!(answer.status, response.status);
        answer
    }

    pub fn claim_payload(&self) -> Vec<u8> {
        let claim = Claim {
            bootstrap: self.bundle.envelope.clone(),
            device_pub: self.key.public_key().clone(),
            enc_pub: self.opening.sealing_key(),
            facts: self.facts.clone(),
            ek_cert: None,
            boot_count: 1,
            agent: self.agent.clone(),
            generation: self.generation,
        };
        serde_json::to_vec(&claim).unwrap()
    }

    /// Claims: the status, and where it stands if it is told.
    pub fn claim(&mut self, send: Send<'_>) -> (u16, Option<Standing>) {
        let payload = self.claim_payload();
        let answer = self.call(send, "POST", "/v1/enroll", Some(payload));
        (answer.status, serde_json::from_value(answer.body).ok())
    }

    /// Asks where it stands: the status, and its state.
    pub fn ask(&mut self, send: Send<'_>) -> (u16, Option<State>) {
        let answer = self.call(send, "GET", &path(&self.id(), ""), None);
        (answer.status, serde_json::from_value::<Standing>(answer.body).ok().map(|s| s.state))
    }

    /// Asks for a grant: the envelope's bytes.
    pub fn grant(&mut self, send: Send<'_>) -> Result<Vec<u8>, u16> {
        let request =
            GrantRequest { nonce: self.grant_nonce.clone(), csrs: vec![], have_generation: self.generation };
        let payload = serde_json::to_vec(&request).unwrap();
        let answer = self.call(send, "POST", &path(&self.id(), "grant"), Some(payload));
        if answer.status != 200 {
            return Err(answer.status);
        }
        let envelope: Envelope = serde_json::from_value(answer.body).unwrap();
        Ok(serde_json::to_vec(&envelope).unwrap())
    }

    /// Opens a grant.
    pub fn open(&self, envelope: &[u8]) -> (Grant, Material) {
        let envelope: Envelope = serde_json::from_slice(envelope).unwrap();
        let grant = Grant::open(&envelope, &self.fleet_keys, 1).unwrap();
        let material = grant.unseal(&self.id(), &self.grant_nonce, self.generation, &self.opening).unwrap();
        (grant, material)
    }

    /// Acknowledges a grant.
    pub fn ack(&mut self, send: Send<'_>, envelope: &[u8]) -> u16 {
        let (grant, _) = self.open(envelope);
        let ack =
            Ack { grant_id: grant.grant_id, generation: grant.generation, sha256: Digest::of(envelope) };
        // It is on the disk before the fleet is told.
        self.generation = grant.generation;
        let payload = serde_json::to_vec(&ack).unwrap();
        self.call(send, "POST", &path(&self.id(), "ack"), Some(payload)).status
    }

    /// From claim to joined, where nobody stands in the way; the node's name.
    pub fn join(&mut self, send: Send<'_>) -> Result<String, u16> {
        let (status, standing) = self.claim(send);
        let standing = standing.ok_or(status)?;
        if !matches!(standing.state, State::Approved | State::Joined) {
            return Err(status);
        }
        let envelope = self.grant(send)?;
        match self.ack(send, &envelope) {
            200 => Ok(self.open_name(&envelope)),
            other => Err(other),
        }
    }

    fn open_name(&self, envelope: &[u8]) -> String {
        let envelope: Envelope = serde_json::from_slice(envelope).unwrap();
        Grant::open(&envelope, &self.fleet_keys, 1).unwrap().node_name
    }
}
