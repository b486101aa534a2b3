//! One step of a device: looks at its disk, and does what comes next (enrollment contract, C6).
//!
//! What can be done without the network comes first: a grant that is on the disk is applied on a site whose link died
//! since, and services start at every boot whoever answers. Then the steps with the fleet, in [`super::fleet`].

use crate::device::adopt::{self, Held};
use crate::device::agent::{Device, Step};
use crate::device::artefact::{self, Survey};
use crate::device::effects::{Effects, Image, Readiness};
use crate::device::identity::{self, Opened};
use crate::device::pause::{Pause, Until};
use crate::device::store::MAX_ARTEFACT;
use crate::device::{certificate, event, install};
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::enroll::grant::{BadGrant, Grant};
use crate::model::Digest;
use crate::sign::dsse::Envelope;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// For how long the node has to be ready until it counts as joined (S11).
const READY_FOR: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const READY_EVERY: Duration = Duration::from_secs(5);

/// Does one step of `device`, and says what to wait for where none can be done.
pub fn advance<E: Effects>(device: &mut Device<E>) -> Step {
    let result = device.step();
    // The step changed the disk; the screen shows what is there now.
    if let Ok(survey) = Survey::take(&mut device.store, &mut device.io) {
        device.now.survey = survey;
    }
    match result {
        Ok(()) => Step::Went,
        Err(pause) => {
            if let Some(code) = pause.code {
                device.note(kind_of(code), Some(code), &pause.detail);
            }
            Step::Wait(pause)
        }
    }
}

/// RFC 8572's word for a trouble.
fn kind_of(code: Code) -> &'static str {
    match code.id().split('-').nth(1) {
        Some("BUNDLE" | "SIG") => "parsing-error",
        Some("GRANT") => "config-error",
        Some("CLAIM") => "informational",
        _ => "bootstrap-warning",
    }
}

impl<E: Effects> Device<E> {
    fn step(&mut self) -> Result<(), Pause> {
        self.hardware()?;
        if !self.now.active && self.activate()? {
            return Ok(());
        }
        self.begin()?;
        self.look()?;
        let survey = Survey::take(&mut self.store, &mut self.io)?;
        self.now.survey = survey;
        if !survey.keyed {
            identity::make(&mut self.io, &mut self.store)?;
            return Ok(());
        }
        if self.now.identity.is_none() {
            return self.open_identity();
        }
        if !self.now.looked_for_grant && survey.claimed && survey.granted <= survey.applied {
            self.now.looked_for_grant = true;
            if self.take_grant_along(survey.applied)? {
                return Ok(());
            }
        }
        let have = survey.applied;
        let mut ready = None;
        if survey.revoked {
            if have > 0 {
                return self.stand_down(); // a cut came between the note and the deed
            }
        } else if survey.staged > have {
            return self.apply(survey.staged, have);
        } else if survey.granted > have {
            return self.render(survey.granted, have);
        } else if have > 0 && survey.acked >= have {
            if survey.joined < have {
                ready = self.watch_node(have)?;
                if ready.is_none() {
                    return Ok(());
                }
            } else if !survey.scrubbed {
                return self.scrub();
            }
        }
        self.with_fleet(survey, ready)
    }

    /// What is done once at a start.
    fn begin(&mut self) -> Result<(), Pause> {
        if self.now.image.is_some() {
            return Ok(());
        }
        let unsaid = |e: anyhow::Error| Pause::trouble(Code::BundleOtherImage, format!("{e:#}"));
        let image = self.io.image().map_err(unsaid)?;
        if image.trust.roots.is_empty() {
            return Err(Pause::refused(Code::BundleForeign, "the image trusts no key"));
        }
        self.now.clock_saved = artefact::saved_clock(&mut self.store, &mut self.io)?;
        self.now.events = event::Queue::load(&mut self.store, &mut self.io)?;
        let floor = image.built_at.max(self.now.clock_saved);
        // A clock that cannot be set is no reason to stay out: freshness rests on nonces.
        let _ = self.io.raise(floor);
        let boots = Path::new(artefact::BOOTS);
        let before: u64 = self.store.get_json(&mut self.io, boots)?.unwrap_or(0);
        self.now.boots = before.saturating_add(1);
        let _ = self.store.put_json(&mut self.io, boots, &self.now.boots); // a number for people
        self.now.image = Some(Arc::new(image));
        Ok(())
    }

    /// Looks at the hardware and at the carriers, where something may have changed.
    pub(super) fn look(&mut self) -> Result<(), Pause> {
        let Some(image) = self.now.image.clone() else { return Ok(()) };
        let mut facts = self.hardware()?;
        if facts.ek_sha256.is_none() {
            facts = self.endorsed(facts);
            self.now.facts = Some(facts.clone());
        }
        if self.now.held.is_none() {
            self.now.held = adopt::held(&mut self.io, &mut self.store, &image)?;
        }
        if self.now.held.is_some() && self.now.scanned {
            return Ok(());
        }
        let current = self.now.held.as_ref();
        let found = adopt::adopt(&mut self.io, &mut self.store, &image, &facts, current)?;
        self.now.scanned = true;
        if let Some(found) = found {
            self.take(found, &image)?;
        }
        Ok(())
    }

    /// Goes by another bundle from now on.
    fn take(&mut self, found: Held, image: &Image) -> Result<(), Pause> {
        let serial = found.bootstrap.serial;
        // Read back, as it will be after the next start; it may name the roots that come.
        self.now.held = adopt::held(&mut self.io, &mut self.store, image)?;
        if self.now.held.is_none() {
            return Err(Pause::trouble(Code::DiskTrouble, "the bundle that was written does not read back"));
        }
        let now = &mut self.now;
        (now.line, now.standing, now.configured, now.first) = (None, None, false, 0);
        let floor = self.clock_floor();
        let _ = self.io.raise(floor); // as in `begin`
        self.note("parsing-complete", None, &format!("bundle serial {serial}"));
        Ok(())
    }

    /// Holds the hardware against the fingerprint, where that was not done or a card may have come since.
    fn hardware(&mut self) -> Result<Facts, Pause> {
        if let Some(facts) = &self.now.facts {
            return Ok(facts.clone());
        }
        let facts = self.io.facts().cleaned();
        if identity::is_foreign(&mut self.io, &mut self.store, &facts)? {
            return Err(self.forget("the hardware is another than the one that the identity was made in")?);
        }
        self.now.facts = Some(facts.clone());
        Ok(facts)
    }

    /// Starts afresh as another device; what to show meanwhile.
    fn forget(&mut self, why: &str) -> Result<Pause, Pause> {
        self.note("clone-detected", Some(Code::Cloned), why);
        identity::wipe(&mut self.io, &mut self.store)?;
        let now = &mut self.now;
        (now.identity, now.standing, now.active) = (None, None, false);
        Ok(Pause::trouble(Code::Cloned, why))
    }

    fn open_identity(&mut self) -> Result<(), Pause> {
        match identity::open(&mut self.io, &mut self.store)? {
            Opened::Here(identity) => {
                self.now.identity = Some(*identity);
                self.note("bootstrap-initiated", None, "");
                Ok(())
            }
            Opened::Lost(why) => Err(self.forget(&format!("the key cannot be opened in this box: {why}"))?),
        }
    }

    /// S7 → S8.
    fn render(&mut self, generation: u64, have: u64) -> Result<(), Pause> {
        let (Some(identity), Some(held)) = (&self.now.identity, &self.now.held) else { return Ok(()) };
        let path = artefact::grant(generation);
        let Some(bytes) = self.store.get(&mut self.io, &path, crate::enroll::MAX_BODY)? else {
            return Ok(());
        };
        let signers = &held.bootstrap.signers;
        let opened = serde_json::from_slice::<Envelope>(&bytes)
            .map_err(|e| BadGrant::Unreadable(e.to_string()))
            .and_then(|envelope| Grant::open(&envelope, &signers.grant_keys, signers.threshold))
            .and_then(|grant| {
                let nonce = grant.nonce.clone(); // held against the question when it came
                let material = grant.unseal(&identity.id, &nonce, have, &identity.enc)?;
                Ok((grant, material))
            });
        let staged = match opened {
            Ok((grant, material)) => {
                let own = certificate::open(&mut self.io, &mut self.store)?;
                let sha256 = Digest::of(&*bytes);
                install::stage(&mut self.io, &mut self.store, &grant, sha256, &material, own.as_ref())
            }
            Err(bad @ BadGrant::Unreadable(_)) => Err(Pause::refused(Code::GrantUnusable, bad.to_string())),
            Err(bad) => Err(Pause::trouble(Code::GrantRefused, bad.to_string())),
        };
        match staged {
            Err(pause) if pause.code != Some(Code::DiskTrouble) => {
                // This one never will: the next question is another, and gets another answer.
                self.store.delete(&mut self.io, Path::new(artefact::CLAIM))?;
                self.store.delete(&mut self.io, &path)?;
                self.now.standing = None;
                Err(pause)
            }
            result => result,
        }
    }

    /// S8 → S9.
    fn apply(&mut self, generation: u64, have: u64) -> Result<(), Pause> {
        self.note("config-initiated", None, &format!("generation {generation}"));
        if !install::install(&mut self.io, &mut self.store, generation)? {
            return self.spoilt(generation);
        }
        install::switch(&mut self.io, &mut self.store, generation, have)?;
        (self.now.active, self.now.changed) = (false, true);
        self.now.ready_since = None;
        self.note("config-complete", None, &format!("generation {generation}"));
        Ok(())
    }

    /// The stage is not what its list says: it is rendered anew.
    fn spoilt(&mut self, generation: u64) -> Result<(), Pause> {
        self.store.delete_dir(&mut self.io, &artefact::stage(generation))?;
        Ok(())
    }

    /// Once at every start, before anything that can fail: what was granted is repaired where it is not in place, and its
    /// services start. Neither a disk that takes no writes, nor a silent TPM, nor a lost bundle keeps a site closed. Whether
    /// there was something to start.
    fn activate(&mut self) -> Result<bool, Pause> {
        let have = artefact::applied(&mut self.io)?;
        let revoked = self.io.read(Path::new(artefact::REVOKED), MAX_ARTEFACT)?.is_some();
        if have == 0 || revoked {
            return Ok(false);
        }
        // Without its stage there is nothing to repair from, and what is in place may well be whole.
        let repaired = install::install(&mut self.io, &mut self.store, have);
        let trouble = |e: anyhow::Error| Pause::trouble(Code::NotJoined, format!("{e:#}"));
        self.io.activate(self.now.changed).map_err(trouble)?;
        (self.now.active, self.now.changed) = (true, false);
        repaired.map(|_| true)
    }

    /// S10 → S11: `None` when it is joined, else what to wait for, beside the fleet.
    fn watch_node(&mut self, have: u64) -> Result<Option<Pause>, Pause> {
        let now = self.io.monotonic();
        match self.io.readiness() {
            Readiness::Ready => {
                let since = *self.now.ready_since.get_or_insert(now);
                let left = READY_FOR.saturating_sub(now.saturating_sub(since));
                if left.is_zero() {
                    self.store.put_json(&mut self.io, Path::new(artefact::JOINED), &have)?;
                    self.note("bootstrap-complete", None, &format!("generation {have}"));
                    return Ok(None);
                }
                let until = Until::Exactly(left.min(READY_EVERY));
                Ok(Some(Pause::plain(until, "the node is ready")))
            }
            Readiness::NotYet(why) => {
                self.now.ready_since = None;
                let pause = Pause::trouble(Code::NotJoined, why);
                Ok(Some(Pause { until: Until::Exactly(READY_EVERY), ..pause }))
            }
        }
    }

    /// S11 → S12.
    fn scrub(&mut self) -> Result<(), Pause> {
        if let Some(held) = &mut self.now.held {
            let path = artefact::ticket(held.sha256);
            if let Some(seed) = self.store.get(&mut self.io, &path, 256)? {
                let trouble = |e: anyhow::Error| Pause::trouble(Code::DiskTrouble, format!("{e:#}"));
                self.io.scrub(Digest::of(&*seed)).map_err(trouble)?;
            }
            adopt::shred(&mut self.io, &mut self.store, &path)?;
            held.ticket = None;
        }
        self.store.put_json(&mut self.io, Path::new(artefact::SCRUBBED), &serde_json::json!({}))?;
        Ok(())
    }

    /// The fleet revoked the device: nothing that came from it runs any more.
    pub(super) fn stand_down(&mut self) -> Result<(), Pause> {
        let trouble = |e: anyhow::Error| Pause::trouble(Code::DiskTrouble, format!("{e:#}"));
        self.store.put_json(&mut self.io, Path::new(artefact::REVOKED), &serde_json::json!({}))?;
        self.store.delete(&mut self.io, Path::new(artefact::APPLIED))?;
        self.io.deactivate().map_err(trouble)?;
        self.now.active = false;
        Ok(())
    }
}
