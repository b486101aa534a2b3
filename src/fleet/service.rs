//! A request → its answer: all of the fleet's side of the protocol, without sockets and without a clock.
//!
//! Each request is at most one commit, and its answer is built after it. So there are two instants at which an endpoint can
//! die: before the commit, when nothing happened, and after it, when the answer is lost and the device repeats itself.
//! Cheap checks come first: the shape, the nonce, the load; then signatures; then the database.

use crate::enroll::bootstrap::{Bootstrap, Trust};
use crate::enroll::claim::{
    Ack, Answer, Claim, ENROLL, Events, GrantRequest, HELLO, Hello, MAX_EVENTS, MAX_WAIT_S, REENROLL,
    Refusal, State,
};
use crate::enroll::code::Code;
use crate::enroll::envelope::{Context, Direction, Nonce, Sealed, Signers, seal};
use crate::enroll::policy::Policy;
use crate::enroll::{DeviceId, MAX_BODY};
use crate::fleet::Store;
use crate::fleet::attest::{Challenges, MAX_CERTIFICATE};
use crate::fleet::claim::{Hearing, Judged, Known, refusal};
use crate::fleet::exchange::{Begun, Next, Refused, Reply, Request, Response, Stop};
use crate::fleet::granting::GrantSource;
use crate::fleet::limit::{self, Limiter, Rate};
use crate::fleet::makers::Makers;
use crate::fleet::nonce::Nonces;
use crate::fleet::record::{Device, MOST};
use crate::model::{Digest, Epoch};
use crate::sign::dsse::Envelope;
use crate::sign::{PrivateKey, PublicKey, Signer as _};
use rusqlite::{Connection, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bundles whose signatures were checked and are kept: a batch's thousand boxes bring the same one.
const MOST_BUNDLES: usize = 256;
/// Events of a device that are kept.
const MOST_KEPT_EVENTS: u64 = 2000;

/// What the operator set, from `settings.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who is let in without a person.
    pub policy: Policy,
    /// Whether a box whose claim is not yet acknowledged may come again with another key, when it is the same hardware.
    pub rebind_unacked: bool,
    /// Bundles below this serial are refused.
    pub min_bundle_serial: u64,
    /// The oldest `forge-device` that is spoken with, as `1.2.0`.
    pub min_agent: Option<String>,
    /// Claims a second that are taken, all tickets together.
    pub claims_per_s: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::default(),
            rebind_unacked: false,
            min_bundle_serial: 0,
            min_agent: None,
            // More than two cores take: the true bound there is the server's count of requests under way.
            claims_per_s: 10_000,
        }
    }
}

/// What makes an endpoint this fleet's.
pub struct Identity {
    /// The fleet's name, as in its bundles.
    pub fleet: String,
    /// Who signs its bundles.
    pub trust: Trust,
    /// Signs answers and grants.
    pub grant_key: PrivateKey,
    /// Behind its nonces; outlives restarts.
    pub nonce_secret: [u8; 32],
}

/// The fleet's side of the protocol.
pub struct Service {
    identity: Identity,
    pub(super) settings: Arc<Settings>,
    nonces: Nonces,
    store: Arc<Store>,
    pub(super) source: Box<dyn GrantSource>,
    limiter: Limiter,
    bundles: Mutex<HashMap<Digest, Arc<Known>>>,
    grant_key: Arc<PrivateKey>,
    pub(super) challenges: Challenges,
    pub(super) makers: Makers,
}

/// Whose standing somebody changed, of this process or another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where to look from the next time.
    pub last: i64,
    /// The devices.
    pub devices: Vec<DeviceId>,
    /// Whether it may be any: an operator opened a window.
    pub any: bool,
}

impl Service {
    /// The endpoint of `identity`, over `store`; grants have what `source` gives.
    ///
    /// # Errors
    /// Never for keys that hold.
    pub fn new(
        identity: Identity,
        settings: Settings,
        store: Arc<Store>,
        source: Box<dyn GrantSource>,
    ) -> anyhow::Result<Service> {
        let nonces = Nonces::new(&identity.nonce_secret);
        let challenges = Challenges::new(&identity.nonce_secret);
        let grant_key = Arc::new(PrivateKey::from_seed(&identity.grant_key.to_seed())?);
        Ok(Service {
            identity,
            settings: Arc::new(settings),
            nonces,
            store,
            source,
            limiter: Limiter::default(),
            bundles: Mutex::default(),
            grant_key,
            challenges,
            makers: Makers::default(),
        })
    }

    /// With the makers of TPMs whose certificates are believed; none otherwise.
    pub fn with_makers(self, makers: Makers) -> Service {
        Service { makers, ..self }
    }

    /// The database.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What changed behind the entry `since` of the audit: whoever holds an answer back sends it now.
    ///
    /// # Errors
    /// What the database says.
    pub fn changes(&self, since: i64) -> anyhow::Result<Changes> {
        self.store.read(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT seq, device, action FROM audit WHERE seq > ?1 \
                 AND action IN ('approve', 'deny', 'revoke', 'replace', 'alarm', 'window') ORDER BY seq",
            )?;
            let mut changes = Changes { last: since, ..Changes::default() };
            let mut rows = query.query([since])?;
            while let Some(row) = rows.next()? {
                changes.last = row.get(0)?;
                match row.get::<_, Option<String>>(1)? {
                    Some(device) => changes.devices.push(device.parse()?),
                    None => changes.any |= row.get::<_, String>(2)? == "window",
                }
            }
            Ok(changes)
        })
    }

    /// Answers `request` at `now`. Never panics, whatever it is.
    pub fn handle(&self, request: &Request, now: Epoch) -> Response {
        match self.begin(request, now) {
            Begun::Answered(response) => response,
            Begun::Write(work) => self.end(request, self.store.write(work), now),
        }
    }

    /// The first half of [`Service::handle`]: all that needs no writing, signatures above all.
    pub fn begin(&self, request: &Request, now: Epoch) -> Begun {
        let Some(nonce) = asked(request) else {
            // Nobody who speaks the protocol: there is nothing to sign an answer over.
            return Begun::Answered(Response {
                status: 400,
                retry_after_s: None,
                content_type: "text/plain; charset=utf-8",
                body: b"this is a forge fleet endpoint; calls carry ?nonce=\n".to_vec(),
                hold: None,
                trouble: None,
            });
        };
        match self.route(request, &nonce, now) {
            Ok(Next::Write(work)) => Begun::Write(work),
            Ok(Next::Reply(reply)) => Begun::Answered(self.sign(request, Ok(reply), now)),
            Err(stop) => Begun::Answered(self.sign(request, Err(stop), now)),
        }
    }

    /// The second half: the answer to `request`, whose work came to `outcome`, which is committed.
    pub fn end(
        &self,
        request: &Request,
        outcome: anyhow::Result<Result<Reply, Refused>>,
        now: Epoch,
    ) -> Response {
        let reply = match outcome {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(refused)) => Err(Stop::Refused(refused)),
            Err(error) => Err(Stop::Trouble(error)),
        };
        self.sign(request, reply, now)
    }

    fn sign(&self, request: &Request, reply: Result<Reply, Stop>, now: Epoch) -> Response {
        // Whoever has no nonce did not get this far.
        let nonce = asked(request).unwrap_or_else(|| self.nonces.make(now));
        let mut trouble = None;
        let reply = match reply {
            Ok(reply) => reply,
            Err(Stop::Refused(refused)) => refusal_reply(refused),
            Err(Stop::Trouble(error)) => {
                trouble = Some(format!("{error:#}"));
                let wait = spread(&nonce, 10, 60);
                refusal_reply(Refused::later(503, "the fleet cannot answer now", wait))
            }
        };
        let answer = Answer {
            status: reply.status,
            now,
            nonce: self.nonces.make(now),
            retry_after_s: reply.retry_after_s,
            body: reply.body,
        };
        let context = Context {
            direction: Direction::Answer,
            method: &request.method,
            path: &request.path,
            nonce: &nonce,
        };
        let sealed = serde_json::to_vec(&answer)
            .map_err(anyhow::Error::from)
            .and_then(|payload| seal(&[&*self.grant_key], &context, &payload));
        let (status, body) = match sealed {
            Ok(body) => (reply.status, body),
            Err(error) => {
                trouble = Some(format!("{error:#}"));
                (503, vec![])
            }
        };
        let content_type = "application/json";
        Response { status, retry_after_s: reply.retry_after_s, content_type, body, hold: reply.hold, trouble }
    }

    fn route(&self, request: &Request, nonce: &Nonce, now: Epoch) -> Result<Next, Stop> {
        if request.body.len() > MAX_BODY {
            return Err(Refused::without_code(413, "a body of more than 1 MiB").into());
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", HELLO) => {
                let fleet = self.identity.fleet.clone();
                let hello = Hello { fleet, min_bundle_serial: self.settings.min_bundle_serial };
                Ok(Reply::of(200, &hello)?.into())
            }
            ("POST", ENROLL | REENROLL) => self.claim(request, nonce, now),
            (method, path) => {
                let below = path.strip_prefix(ENROLL).and_then(|rest| rest.strip_prefix('/'));
                let (id, call) = below.map(|b| b.split_once('/').unwrap_or((b, ""))).unwrap_or_default();
                let Ok(id) = id.parse::<DeviceId>() else {
                    return Err(Refused::without_code(404, "no such call").into());
                };
                match (method, call) {
                    ("GET", "") => self.standing(&id, request, now),
                    ("POST", "attest") => self.attest(&id, request, now),
                    ("POST", "grant") => self.grant(&id, request, now),
                    ("POST", "ack") => self.ack(&id, request, now),
                    ("POST", "events") => self.events(&id, request, now),
                    _ => Err(Refused::without_code(404, "no such call").into()),
                }
            }
        }
    }

    /// The payload of a request that is fresh, with the keys that signed it.
    fn open<T: DeserializeOwned>(&self, request: &Request, now: Epoch) -> Result<(T, Signers), Stop> {
        let malformed = |why: String| Refused::without_code(422, why);
        let sealed = Sealed::parse(&request.body).map_err(|e| malformed(e.to_string()))?;
        if !self.nonces.is_fresh(sealed.nonce(), now) {
            return Err(Refused::without_code(401, "the nonce is old: sign again with this answer's").into());
        }
        let context = Context {
            direction: Direction::Request,
            method: &request.method,
            path: &request.path,
            nonce: sealed.nonce(),
        };
        let (payload, signers) = sealed.open(&context).map_err(|e| malformed(e.to_string()))?;
        let value = serde_json::from_slice(&payload).map_err(|e| malformed(e.to_string()))?;
        Ok((value, signers))
    }

    fn claim(&self, request: &Request, nonce: &Nonce, now: Epoch) -> Result<Next, Stop> {
        let per_s = f64::from(self.settings.claims_per_s.max(1));
        let all = Rate { per_s, burst: 2.0 * per_s };
        if self.limiter.take("claims", all, now).is_err() {
            return Err(Refused::later(503, "too many claims at once", spread(nonce, 5, 60)).into());
        }
        let (claim, signers) = self.open::<Claim>(request, now)?;
        let known = self.founded(&claim, &signers, nonce, now)?;
        let settings = self.settings.clone();
        Ok(Next::Write(Box::new(move |connection| {
            let judged = match (Hearing { connection, settings: &settings, now }).claim(&claim, &known)? {
                Ok(judged) => judged,
                Err(refused) => return Ok(Err(refused)),
            };
            let mut reply = Reply::of(judged.status, &judged.device.standing())?;
            reply.retry_after_s = (judged.status == 202).then_some(2); // then waiting is done with GET
            Ok(Ok(reply))
        })))
    }

    /// Judges a claim that `signers` signed and no call brought.
    pub(super) fn admit(
        &self,
        claim: Claim,
        signers: &Signers,
        nonce: &Nonce,
        now: Epoch,
    ) -> Result<Judged, Stop> {
        let known = self.founded(&claim, signers, nonce, now)?;
        let settings = self.settings.clone();
        Ok(self.store.write(move |connection| {
            Hearing { connection, settings: &settings, now }.claim(&claim, &known)
        })??)
    }

    /// The bundle of a claim that makes sense, is not too early, and that the right keys signed.
    fn founded(
        &self,
        claim: &Claim,
        signers: &Signers,
        nonce: &Nonce,
        now: Epoch,
    ) -> Result<Arc<Known>, Stop> {
        let foreign = |e: crate::sign::Refused| Refused::without_code(422, format!("the claim: {e}"));
        signers.include(&claim.device_pub).map_err(foreign)?;
        sensible(claim)?;
        if let Some(least) = &self.settings.min_agent
            && version(&claim.agent) < version(least)
        {
            return Err(
                Refused::new(426, Code::AgentTooOld, format!("forge-device {least} is needed")).into()
            );
        }
        let known = self.bundle(claim)?;
        if let Some(ticket) = &known.bootstrap.ticket {
            signers.include(&ticket.r#pub).map_err(foreign)?;
        }
        let rate = Rate::of_ticket(known.slots());
        self.limiter.take(&known.ticket_key(), rate, now).map_err(|wait| {
            Refused::later(429, "too many claims with this ticket", wait + spread(nonce, 0, 10))
        })?;
        Ok(known)
    }

    /// The bundle of a claim, when the fleet's roots signed it.
    fn bundle(&self, claim: &Claim) -> Result<Arc<Known>, Stop> {
        let bytes = serde_json::to_vec(&claim.bootstrap).map_err(anyhow::Error::from)?;
        let digest = Digest::of(&bytes);
        if let Some(known) = self.bundles.lock().unwrap_or_else(PoisonError::into_inner).get(&digest) {
            return Ok(known.clone());
        }
        let opened = Bootstrap::open(&bytes, &self.identity.trust)
            .map_err(|e| Refused::new(422, Code::BundleForeign, e.to_string()))?;
        let signer = opened.key_id();
        let bootstrap = opened.into_inner();
        if bootstrap.fleet != self.identity.fleet {
            let why = format!(
                "the bundle is for the fleet {}, and this is {}",
                bootstrap.fleet, self.identity.fleet
            );
            return Err(Refused::new(422, Code::BundleOtherImage, why).into());
        }
        if bootstrap.serial > MOST {
            return Err(Refused::new(422, Code::BundleUnreadable, "a serial beyond all counting").into());
        }
        let known = Arc::new(Known { bootstrap, signer });
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        if bundles.len() >= MOST_BUNDLES {
            bundles.clear();
        }
        bundles.insert(digest, known.clone());
        Ok(known)
    }

    fn standing(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let load = |connection: &Connection| {
            let device = Device::load(connection, id)?;
            let open: bool = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM opened WHERE until >= ?1 AND room > 0)")?
                .query_row([now.0], |row| row.get(0))?;
            Ok((device, open))
        };
        let (device, open) = self.store.read(load)?;
        let Some(device) = device else {
            return Err(Refused::without_code(404, "no such device: claim first").into());
        };
        let wait: u32 = argument(&request.query, "wait").and_then(|w| w.parse().ok()).unwrap_or(0);
        if !(open && device.state == State::Pending) {
            return Ok(standing_reply(&device, wait)??.into());
        }
        let settings = self.settings.clone();
        Ok(Next::Write(Box::new(move |connection| {
            // Read again: an operator may have said no in between.
            let mut device = Device::load(connection, &device.id)?.unwrap_or(device);
            Hearing { connection, settings: &settings, now }.through_window(&mut device)?;
            standing_reply(&device, wait)
        })))
    }

    /// A request that the device itself signed, and that its bucket has room for; and what is known of the device.
    pub(super) fn of_device<T: DeserializeOwned>(
        &self,
        id: &DeviceId,
        request: &Request,
        now: Epoch,
    ) -> Result<(T, Device), Stop> {
        let (value, signers) = self.open::<T>(request, now)?;
        let device = self.store.read(|c| Device::load(c, id))?;
        let Some(device) = device else {
            return Err(Refused::without_code(404, "no such device: claim first").into());
        };
        signers
            .include(&device.key)
            .map_err(|e| Refused::without_code(422, format!("not signed by the device: {e}")))?;
        if let Some(refused) = refusal(&device) {
            return Err(refused.into());
        }
        self.limiter
            .take(id.as_str(), limit::DEVICE, now)
            .map_err(|wait| Refused::later(429, "too many requests of this device", wait))?;
        Ok((value, device))
    }

    fn grant(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (wanted, _) = self.of_device::<GrantRequest>(id, request, now)?;
        let material = self.material(id, &wanted, now)?;
        let (settings, signer, id) = (self.settings.clone(), self.grant_key.clone(), id.clone());
        Ok(Next::Write(Box::new(move |connection| {
            let hearing = Hearing { connection, settings: &settings, now };
            match hearing.grant(&id, &wanted, &material, &signer)? {
                Ok(envelope) => Ok(Ok(Reply::of(200, &envelope)?)),
                Err(refused) => Ok(Err(refused)),
            }
        })))
    }

    /// The grant that a device asks for, which signed its request, and no call brought it.
    pub(super) fn give(&self, id: &DeviceId, wanted: GrantRequest, now: Epoch) -> Result<Envelope, Stop> {
        let material = self.material(id, &wanted, now)?;
        let (settings, signer, id) = (self.settings.clone(), self.grant_key.clone(), id.clone());
        Ok(self.store.write(move |connection| {
            Hearing { connection, settings: &settings, now }.grant(&id, &wanted, &material, &signer)
        })??)
    }

    fn ack(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (ack, _) = self.of_device::<Ack>(id, request, now)?;
        numbers(&[ack.generation])?;
        let (settings, id) = (self.settings.clone(), id.clone());
        Ok(Next::Write(Box::new(move |connection| {
            match (Hearing { connection, settings: &settings, now }).ack(&id, &ack)? {
                Ok(device) => Ok(Ok(Reply::of(200, &device.standing())?)),
                Err(refused) => Ok(Err(refused)),
            }
        })))
    }

    fn events(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (Events { events }, _) = self.of_device(id, request, now)?;
        if events.len() > MAX_EVENTS {
            return Err(Refused::without_code(422, format!("{} events at once", events.len())).into());
        }
        numbers(&events.iter().map(|e| e.seq).collect::<Vec<_>>())?;
        let id = id.clone();
        Ok(Next::Write(Box::new(move |connection| {
            for event in &events {
                connection
                    .prepare_cached(
                        "INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![
                        id.as_str(),
                        event.seq as i64,
                        event.at.0,
                        now.0,
                        line(&event.kind, 64),
                        event.code.map(Code::id),
                        line(&event.detail, 400)
                    ])?;
            }
            if let Some(last) = events.iter().map(|e| e.seq).max() {
                connection
                    .prepare_cached("DELETE FROM event WHERE device = ?1 AND seq < ?2")?
                    .execute(params![id.as_str(), last.saturating_sub(MOST_KEPT_EVENTS) as i64])?;
            }
            let Some(mut device) = Device::load(connection, &id)? else {
                return Ok(Err(Refused::without_code(404, "no such device: claim first")));
            };
            device.last_seen = now;
            device.save(connection)?;
            Ok(Ok(Reply::of(200, &device.standing())?))
        })))
    }

    /// The keys that sign this endpoint's answers.
    pub fn grant_keys(&self) -> Vec<PublicKey> {
        vec![self.identity.grant_key.public_key().clone()]
    }
}

/// Where `device` stands, for one that would wait for `wait` seconds.
fn standing_reply(device: &Device, wait: u32) -> anyhow::Result<Result<Reply, Refused>> {
    if matches!(device.state, State::Denied | State::Revoked)
        && let Some(refused) = refusal(device)
    {
        return Ok(Err(refused));
    }
    let mut reply = Reply::of(200, &device.standing())?;
    if device.state == State::Pending {
        reply.retry_after_s = Some(if wait > 0 { 1 } else { 30 });
        reply.hold = (wait > 0).then(|| (device.id.clone(), wait.min(MAX_WAIT_S)));
    }
    Ok(Ok(reply))
}

/// The nonce that the answer is to be signed over.
fn asked(request: &Request) -> Option<Nonce> {
    argument(&request.query, "nonce").and_then(|text| Nonce::parse(text).ok())
}

fn refusal_reply(refused: Refused) -> Reply {
    let body = Refusal { code: refused.code, reason: line(&refused.reason, 400) };
    // Two plain fields: this cannot be refused by serde.
    let body = serde_json::to_value(body).unwrap_or_default();
    Reply { status: refused.status, retry_after_s: refused.retry_after_s, hold: None, body }
}

/// A number of seconds between `least` and `least + width` that differs from device to device.
fn spread(nonce: &Nonce, least: u32, width: u32) -> u32 {
    let raw = *Digest::of(nonce.as_str()).as_raw();
    least + u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]) % (width + 1)
}

/// Text of a device as one line without control characters, of at most `most` characters.
fn line(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

pub(super) fn numbers(numbers: &[u64]) -> Result<(), Refused> {
    match numbers.iter().find(|n| **n > MOST) {
        Some(n) => Err(Refused::without_code(422, format!("the number {n} is beyond all counting"))),
        None => Ok(()),
    }
}

/// What types cannot say of a claim.
fn sensible(claim: &Claim) -> Result<(), Refused> {
    numbers(&[claim.boot_count, claim.generation])?;
    if claim.ek_cert.as_ref().is_some_and(|c| c.len() > MAX_CERTIFICATE) {
        return Err(Refused::without_code(422, "an endorsement certificate longer than a TPM keeps"));
    }
    if claim.agent.len() > 64 || claim.facts.macs.len() > 256 {
        return Err(Refused::without_code(422, "a claim with more in it than a box has"));
    }
    Ok(())
}

/// `1.2.0` as numbers; what is no number counts as none.
fn version(text: &str) -> Vec<u64> {
    let plain = text.split(['-', '+', ' ']).next().unwrap_or_default();
    plain.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The value of `name` in a query. Nonces and numbers need no unescaping.
fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
