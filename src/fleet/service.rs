//! A request → its answer: all of the fleet's side of the protocol, without sockets and without a clock.
//!
//! Each request is at most one commit, and its answer is built after it. So there are two instants at which an endpoint can
//! die: before the commit, when nothing happened, and after it, when the answer is lost and the device repeats itself.
//! Cheap checks come first: the shape, the nonce, the load; then signatures; then the database.

mod member;
mod newcomer;

use crate::enroll::bootstrap::Trust;
use crate::enroll::claim::{Answer, ENROLL, HELLO, Hello, REENROLL, Refusal};
use crate::enroll::envelope::{Context, Direction, Nonce, Sealed, Signers, seal};
use crate::enroll::policy::Policy;
use crate::enroll::{DeviceId, MAX_BODY};
use crate::fleet::Store;
use crate::fleet::attest::Challenges;
use crate::fleet::claim::Known;
use crate::fleet::exchange::{Begun, Next, Refused, Reply, Request, Response, Stop};
use crate::fleet::granting::GrantSource;
use crate::fleet::limit::Limiter;
use crate::fleet::makers::Makers;
use crate::fleet::nonce::Nonces;
use crate::fleet::record::MOST;
use crate::model::{Digest, Epoch};
use crate::sign::{PrivateKey, PublicKey, Signer as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

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

    /// The keys that sign this endpoint's answers.
    pub fn grant_keys(&self) -> Vec<PublicKey> {
        vec![self.identity.grant_key.public_key().clone()]
    }
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

/// The value of `name` in a query. Nonces and numbers need no unescaping.
fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
