//! The steps with the fleet: greeting, claim, waiting, grant, acknowledgement, events. Each is one call, safe to repeat.

use crate::device::adopt;
use crate::device::agent::Device;
use crate::device::artefact::{self, ClaimNote, Survey};
use crate::device::certificate;
use crate::device::effects::{Effects, NetworkSettings};
use crate::device::install;
use crate::device::pause::{Pause, Until};
use crate::device::talk::{self, Request, Said};
use crate::enroll::backoff;
use crate::enroll::claim::{
    self, Ack, Answer, Claim, Csr, ENROLL, Events, GrantRequest, MAX_WAIT_S, Refusal, Standing, State,
};
use crate::enroll::code::Code;
use crate::enroll::grant::{BadGrant, Grant};
use crate::model::{Digest, Epoch};
use crate::sign::Signer;
use crate::sign::dsse::Envelope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// The clock is saved when it is that many seconds ahead of what was saved: a write an hour wears out no flash.
const SAVE_AFTER_S: i64 = 3600;

impl<E: Effects> Device<E> {
    /// What comes next with the fleet. `ready` is what to wait for at the box itself.
    pub(super) fn with_fleet(&mut self, survey: Survey, ready: Option<Pause>) -> Result<(), Pause> {
        self.configure()?;
        if self.now.line.is_none() {
            let greeted = self.greet(survey.applied);
            if greeted.is_err() && survey.applied == 0 {
                self.leave_request(survey)?;
            }
            return greeted;
        }
        let Some(standing) = self.now.standing.clone() else {
            return self.ask_standing(survey);
        };
        if self.has_to_attest(&standing) {
            return self.attest(&standing);
        }
        match standing.state {
            State::Pending => self.wait_for_approval(),
            State::Denied => Err(Pause::refused(standing.code.unwrap_or(Code::Denied), standing.reason)),
            State::Quarantined => {
                Err(Pause::refused(standing.code.unwrap_or(Code::Quarantined), standing.reason))
            }
            State::Revoked => {
                self.stand_down()?;
                Err(Pause::refused(Code::Revoked, standing.reason))
            }
            State::Approved | State::Joined => self.let_in(survey, &standing, ready),
        }
    }

    fn let_in(&mut self, survey: Survey, standing: &Standing, ready: Option<Pause>) -> Result<(), Pause> {
        let have = survey.applied;
        if survey.revoked {
            self.store.delete(&mut self.io, Path::new(artefact::REVOKED))?;
            return Ok(());
        }
        if have == 0 || standing.generation > have {
            return self.ask_grant(have);
        }
        if !self.now.renewed && self.certificate_is_due(have)? {
            self.ask_grant(have)?;
            self.now.renewed = true; // not again before the next long wait, whatever the fleet calls due
            self.note("informational", None, "the certificate is asked for anew");
            return Ok(());
        }
        // An endpoint that was restored from an older copy has forgotten: it is told again, once.
        let forgotten = standing.state == State::Approved || standing.generation < have;
        if survey.acked < have || forgotten && !self.now.acked_again {
            return self.acknowledge(have);
        }
        self.tell();
        Err(ready.unwrap_or_else(|| Pause::plain(Until::Steady, "all is done")))
    }

    /// S3: the network as the bundle wants it, and the wait that keeps ten thousand boxes apart.
    fn configure(&mut self) -> Result<(), Pause> {
        let Some(held) = &self.now.held else { return Ok(()) };
        let bootstrap = &held.bootstrap;
        if !self.now.configured {
            let settings = NetworkSettings {
                rules: bootstrap.network.clone(),
                dns: bootstrap.dns.clone(),
                ntp: bootstrap.ntp.clone(),
            };
            let trouble = |e: anyhow::Error| Pause::trouble(Code::NoAddress, format!("{e:#}"));
            self.io.configure(&settings).map_err(trouble)?;
            self.now.configured = true;
        }
        if !self.now.splayed {
            self.now.splayed = true;
            let splay_s = bootstrap.policy.splay_s;
            let random = self.dice();
            let splay = backoff::splay(splay_s, random);
            if !splay.is_zero() {
                return Err(Pause::plain(Until::Exactly(splay), "waiting for its turn to call the fleet"));
            }
        }
        Ok(())
    }

    /// S4: finds the fleet, and sets the clock by it.
    fn greet(&mut self, have: u64) -> Result<(), Pause> {
        let floor = self.clock_floor();
        let Some(held) = &self.now.held else { return Ok(()) };
        let (line, answer) = talk::hello(&mut self.io, held, floor, self.now.first)?;
        let (serial, least) = (held.bootstrap.serial, answer.body.min_bundle_serial);
        self.now.line = Some(line);
        self.set_clock(answer.now)?;
        adopt::raise_floor(&mut self.io, &mut self.store, least)?;
        if serial < least && have == 0 {
            self.now.line = None;
            let why = format!("the fleet takes no bundle below serial {least}, and this one has {serial}");
            return Err(Pause::refused(Code::BundleRolledBack, why));
        }
        Ok(())
    }

    /// The clock is never before what the fleet signed. It is remembered, for a box without a battery.
    fn set_clock(&mut self, fleets: Epoch) -> Result<(), Pause> {
        self.now.fleet_clock = Some(fleets);
        let floor = self.clock_floor().max(fleets);
        let _ = self.io.raise(floor); // a clock that cannot be set is no reason to stay out
        if fleets.0 > self.now.clock_saved.0.saturating_add(SAVE_AFTER_S) {
            // Not the box's own clock: one that is years ahead must not become the floor.
            self.store.put_json(&mut self.io, Path::new(artefact::CLOCK), &fleets)?;
            self.now.clock_saved = fleets;
        }
        Ok(())
    }

    /// A call on the line that is open. The line is dropped when nobody, or somebody else, answers.
    fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        payload: Option<&[u8]>,
        with_ticket: bool,
    ) -> Result<Said<T>, Pause> {
        let floor = self.clock_floor();
        let now = &mut self.now;
        let (Some(held), Some(identity), Some(mut line)) = (&now.held, &now.identity, now.line.take()) else {
            return Err(Pause::trouble(Code::Unreachable, "no endpoint has answered"));
        };
        let mut signers: Vec<&dyn Signer> = vec![&identity.key];
        if with_ticket && let Some(ticket) = &held.ticket {
            signers.push(ticket);
        }
        let body = payload.map(|payload| (payload, &signers[..]));
        let request = Request { method, path, query, body };
        let said = talk::call::<T>(&mut self.io, held, &mut line, &request, floor);
        match &said {
            Ok(said) => {
                let at = match said {
                    Said::Yes(answer) => answer.now,
                    Said::No(answer) => answer.now,
                };
                now.line = Some(line);
                now.missed = false;
                self.set_clock(at)?;
            }
            // Lost once, perhaps by chance: the same call is repeated to the same endpoint, whose nonce is still good.
            Err(pause)
                if pause.code.is_some_and(may_be_chance) && !std::mem::replace(&mut now.missed, true) =>
            {
                now.line = Some(line);
            }
            // The next endpoint may do better than one that answers a greeting and nothing else.
            Err(_) => now.first = line.index + 1,
        }
        said
    }

    pub(super) fn post<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
        with_ticket: bool,
    ) -> Result<Said<T>, Pause> {
        let payload = serde_json::to_vec(body)
            .map_err(|e| Pause::trouble(Code::DiskTrouble, format!("writing a request: {e}")))?;
        self.call("POST", path, "", Some(&payload), with_ticket)
    }

    /// The path of one of this device's own calls.
    pub(super) fn own_path(&self, call: &str) -> Result<String, Pause> {
        match &self.now.identity {
            Some(identity) => Ok(claim::path(&identity.id, call)),
            None => Err(Pause::trouble(Code::TpmTrouble, "the key is not open")),
        }
    }

    /// What the fleet's no means.
    fn denied(&mut self, answer: &Answer<Refusal>) -> Pause {
        self.now.standing = None;
        if answer.status == 403
            && answer.body.code == Some(Code::Revoked)
            && let Err(trouble) = self.stand_down()
        {
            return trouble;
        }
        talk::refusal(answer)
    }

    /// S5: claims, or asks where it stands when the fleet should know it.
    fn ask_standing(&mut self, survey: Survey) -> Result<(), Pause> {
        let ticket = self
            .now
            .held
            .as_ref()
            .is_some_and(|held| held.ticket.is_some() || held.bootstrap.ticket.is_none());
        let expected = survey.acked > 0 && !self.now.reclaim;
        if expected || !ticket {
            let path = self.own_path("")?;
            return match self.call::<Standing>("GET", &path, "", None, false)? {
                Said::Yes(answer) => self.stands(answer),
                Said::No(answer) if answer.status == 404 && ticket => {
                    self.now.reclaim = true;
                    Ok(())
                }
                Said::No(answer) if answer.status == 404 => {
                    let why = "the fleet does not know this box, and its ticket is used up";
                    Err(Pause::refused(Code::BundleNoTicket, why))
                }
                Said::No(answer) => Err(self.denied(&answer)),
            };
        }
        self.claim_note(survey.applied)?;
        let claim = self.claim(survey)?;
        match self.post::<_, Standing>(ENROLL, &claim, true)? {
            Said::Yes(answer) => {
                self.now.reclaim = false;
                self.stands(answer)
            }
            Said::No(answer) => Err(self.denied(&answer)),
        }
    }

    /// The claim, as it is now.
    pub(super) fn claim(&self, survey: Survey) -> Result<Claim, Pause> {
        let (Some(held), Some(identity)) = (&self.now.held, &self.now.identity) else {
            return Err(Pause::trouble(Code::TpmTrouble, "the key is not open"));
        };
        let bootstrap: Envelope = serde_json::from_slice(&held.envelope)
            .map_err(|e| Pause::trouble(Code::BundleUnreadable, e.to_string()))?;
        Ok(Claim {
            bootstrap,
            device_pub: identity.key.public_key().clone(),
            enc_pub: identity.enc.sealing_key(),
            facts: self.now.facts.clone().unwrap_or_default(),
            ek_cert: self.endorsement_certificate(),
            boot_count: self.now.boots,
            agent: env!("CARGO_PKG_VERSION").into(),
            generation: survey.applied.max(survey.staged),
        })
    }

    /// The fleet said where the device stands.
    fn stands(&mut self, answer: Answer<Standing>) -> Result<(), Pause> {
        let id = self.now.identity.as_ref().map(|i| &i.id);
        if id != Some(&answer.body.device) {
            return Err(Pause::trouble(Code::Portal, "the fleet speaks of another device"));
        }
        self.now.acked_again = false;
        let pending = answer.body.state == State::Pending;
        let reason = answer.body.reason.clone();
        self.now.standing = Some(answer.body);
        if pending {
            return Err(awaiting(answer.retry_after_s, reason));
        }
        Ok(())
    }

    /// S6.
    fn wait_for_approval(&mut self) -> Result<(), Pause> {
        self.tell();
        if self.now.line.is_none() {
            return Ok(()); // the greeting says what is wrong
        }
        let path = self.own_path("")?;
        match self.call::<Standing>("GET", &path, &format!("wait={MAX_WAIT_S}"), None, false)? {
            Said::Yes(answer) => self.stands(answer),
            Said::No(answer) if answer.status == 404 => {
                self.now.standing = None; // an endpoint that has forgotten: claim again
                Ok(())
            }
            Said::No(answer) => Err(self.denied(&answer)),
        }
    }

    /// The note of the claim, with the nonce of the next grant: kept until that grant is in place.
    pub(super) fn claim_note(&mut self, have: u64) -> Result<ClaimNote, Pause> {
        let path = Path::new(artefact::CLAIM);
        let Some(identity) = &self.now.identity else {
            return Err(Pause::trouble(Code::TpmTrouble, "the key is not open"));
        };
        let device = identity.id.clone();
        let kept: Option<ClaimNote> = self.store.get_json(&mut self.io, path)?;
        if let Some(note) = kept.filter(|note| note.device == device && note.have == have) {
            return Ok(note);
        }
        let note = ClaimNote { device, nonce: talk::nonce(&mut self.io)?, have };
        self.store.put_json(&mut self.io, path, &note)?;
        Ok(note)
    }

    /// S6 → S7. The grant is kept as it came: sealed.
    fn ask_grant(&mut self, have: u64) -> Result<(), Pause> {
        let note = self.claim_note(have)?;
        let csrs = self.certificate_requests()?;
        let wanted = GrantRequest { nonce: note.nonce.clone(), csrs, have_generation: have };
        let path = self.own_path("grant")?;
        let envelope = match self.post::<_, Envelope>(&path, &wanted, false)? {
            Said::Yes(answer) => answer.body,
            Said::No(answer) if answer.status == 404 => {
                self.now.standing = None;
                return Ok(());
            }
            Said::No(answer) => return Err(self.denied(&answer)),
        };
        self.keep_grant(&envelope, &note)
    }

    /// What the image needs signed, for the name that the fleet gave.
    fn certificate_requests(&mut self) -> Result<Vec<Csr>, Pause> {
        let wanted = self.now.image.as_ref().is_some_and(|image| image.edgecore);
        let node = self.now.standing.as_ref().and_then(|standing| standing.node_name.clone());
        let Some(node) = node.filter(|_| wanted) else { return Ok(vec![]) };
        Ok(vec![certificate::request(&mut self.io, &mut self.store, &node)?])
    }

    /// Whether a certificate of the generation in place has lapsed, or soon will, by the clock of the fleet that would have
    /// it signed: the box's own may be years ahead.
    fn certificate_is_due(&mut self, have: u64) -> Result<bool, Pause> {
        let renew_after = install::complete(&mut self.io, &mut self.store, have)?.and_then(|c| c.renew_after);
        Ok(renew_after.zip(self.now.fleet_clock).is_some_and(|(after, now)| now >= after))
    }

    /// Writes down a grant that answers `note`, when it opens.
    fn keep_grant(&mut self, envelope: &Envelope, note: &ClaimNote) -> Result<(), Pause> {
        match self.opens(envelope, note) {
            Ok(generation) => self.write_grant(envelope, generation),
            Err(bad) => {
                // The same question would get the same answer.
                self.store.delete(&mut self.io, Path::new(artefact::CLAIM))?;
                self.now.standing = None;
                Err(Pause::trouble(Code::GrantRefused, bad.to_string()))
            }
        }
    }

    /// The generation of a grant that answers `note` and opens with the device's key.
    pub(super) fn opens(&self, envelope: &Envelope, note: &ClaimNote) -> Result<u64, BadGrant> {
        let (Some(held), Some(identity)) = (&self.now.held, &self.now.identity) else {
            return Err(BadGrant::Sealed);
        };
        let signers = &held.bootstrap.signers;
        let grant = Grant::open(envelope, &signers.grant_keys, signers.threshold)?;
        grant.unseal(&identity.id, &note.nonce, note.have.saturating_add(1), &identity.enc)?;
        Ok(grant.generation)
    }

    /// S7: the grant as it came.
    pub(super) fn write_grant(&mut self, envelope: &Envelope, generation: u64) -> Result<(), Pause> {
        let bytes = serde_json::to_vec(envelope)
            .map_err(|e| Pause::trouble(Code::GrantRefused, format!("writing the grant: {e}")))?;
        self.store.put(&mut self.io, &artefact::grant(generation), &bytes, 0o600)?;
        Ok(())
    }

    /// S9 → S10.
    fn acknowledge(&mut self, have: u64) -> Result<(), Pause> {
        let Some(complete) = install::complete(&mut self.io, &mut self.store, have)? else {
            // The list is gone with a broken disk: a new grant brings a new one.
            return self.ask_grant(have);
        };
        let sha256 = complete.grant_sha256.unwrap_or_else(|| Digest::of([]));
        let ack = Ack { grant_id: complete.grant_id, generation: have, sha256 };
        let path = self.own_path("ack")?;
        match self.post::<_, Standing>(&path, &ack, false)? {
            Said::Yes(answer) => {
                self.store.put_json(&mut self.io, &artefact::acked(have), &ack)?;
                install::prune(&mut self.io, &mut self.store, have)?;
                let stands = self.stands(answer);
                self.now.acked_again = true;
                stands
            }
            Said::No(answer) if answer.status == 404 => {
                self.now.standing = None;
                Ok(())
            }
            Said::No(answer) => Err(self.denied(&answer)),
        }
    }

    /// Sends what is queued. Whatever comes of it, the device goes on.
    fn tell(&mut self) {
        let batch = self.now.events.batch();
        if std::mem::replace(&mut self.now.told, true) || batch.is_empty() {
            return;
        }
        let Ok(path) = self.own_path("events") else { return };
        let last = batch.last().map_or(0, |event| event.seq);
        if let Ok(Said::Yes(_)) = self.post::<_, Standing>(&path, &Events { events: batch }, false) {
            self.now.events.told(&mut self.store, &mut self.io, last);
        }
    }

    /// A random number for waits; without randomness the middle, for a wait has to end.
    pub(super) fn dice(&mut self) -> u32 {
        let mut bytes = [0; 4];
        match self.io.random(&mut bytes) {
            Ok(()) => u32::from_le_bytes(bytes),
            Err(_) => u32::MAX / 2,
        }
    }
}

/// Whether a call that ended so may go through the next time to the same endpoint. What answered in its place will not.
const fn may_be_chance(code: Code) -> bool {
    !matches!(code, Code::Portal | Code::ForeignCertificate | Code::ProxyRefused)
}

fn awaiting(retry_after_s: Option<u32>, reason: String) -> Pause {
    let retry_after = retry_after_s.map(|s| Duration::from_secs(u64::from(s)));
    let pause = Pause::trouble(Code::AwaitsApproval, reason);
    Pause { until: Until::Approval, retry_after, ..pause }
}
