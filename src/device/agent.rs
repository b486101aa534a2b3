//! A device as a value: its box, what it knows of its disk, and what it has learnt since it started. All of the latter may
//! be lost at any instant.

use crate::device::adopt::Held;
use crate::device::artefact::Survey;
use crate::device::effects::{Effects, Image};
use crate::device::event::Queue;
use crate::device::identity::Identity;
use crate::device::pause::{Pause, Until};
use crate::device::state::State;
use crate::device::store::Store;
use crate::device::talk::Line;
use crate::device::view::View;
use crate::enroll::claim::{self, Standing};
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::model::Epoch;
use std::sync::Arc;
use std::time::Duration;

/// A device.
pub struct Device<E> {
    pub(super) io: E,
    pub(super) store: Store,
    pub(super) now: Session,
}

/// What is known since the start.
#[derive(Default)]
pub(super) struct Session {
    /// The image, once it was asked for: the first step is done.
    pub image: Option<Arc<Image>>,
    /// What the hardware says of itself, once it was held against the fingerprint.
    pub facts: Option<Facts>,
    /// How often the device has started.
    pub boots: u64,
    /// The clock is not before.
    pub clock_saved: Epoch,
    /// The bundle in use.
    pub held: Option<Held>,
    /// The carriers were looked at, and nothing has changed since.
    pub scanned: bool,
    /// The keys, opened.
    pub identity: Option<Identity>,
    /// The disk as it was at the last step.
    pub survey: Survey,
    /// The network is as the bundle in use wants it.
    pub configured: bool,
    /// The first request's random wait is over.
    pub splayed: bool,
    /// The endpoint to begin with.
    pub first: usize,
    /// The endpoint that answers.
    pub line: Option<Line>,
    /// The last call on the line was lost.
    pub missed: bool,
    /// Where the fleet says the device stands.
    pub standing: Option<Standing>,
    /// The fleet has forgotten a device that it knew: it claims again.
    pub reclaim: bool,
    /// The services were started.
    pub active: bool,
    /// A grant was put in place that they have not read.
    pub changed: bool,
    /// What the fleet's clock said last.
    pub fleet_clock: Option<Epoch>,
    /// The certificate was asked for anew since the last long wait.
    pub renewed: bool,
    /// Since when the node has been ready, by the monotonic clock.
    pub ready_since: Option<Duration>,
    /// Events were sent, or could not be, since the last wait.
    pub told: bool,
    /// The last acknowledgement was repeated in this session.
    pub acked_again: bool,
    /// The sticks that are plugged in were looked at for a grant.
    pub looked_for_grant: bool,
    /// They have the request of a box without a network.
    pub left_request: bool,
    /// The TPM.
    pub tpm: crate::device::attest::Tpm,
    /// Events that the fleet has not heard of.
    pub events: Queue,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done: the next step follows at once.
    Went,
    /// Nothing can be done now.
    Wait(Pause),
}

impl<E: Effects> Device<E> {
    /// A device that has just started in `io`.
    pub fn new(io: E) -> Device<E> {
        Device { io, store: Store::default(), now: Session::default() }
    }

    /// The box, for the one who drives the device.
    pub fn io(&mut self) -> &mut E {
        &mut self.io
    }

    /// The box back, without what the device knew: a restart.
    pub fn into_io(self) -> E {
        self.io
    }

    /// How far it is: by its disk, and in between by what the fleet has said since the start.
    pub fn state(&self) -> State {
        let durable = self.now.survey.state();
        if !(State::Keyed..=State::Claimed).contains(&durable) {
            return durable;
        }
        match &self.now.standing {
            Some(standing) if matches!(standing.state, claim::State::Approved | claim::State::Joined) => {
                State::Approved
            }
            Some(_) => State::Claimed,
            None if self.now.line.is_some() => State::Time,
            None if self.now.configured => State::Net,
            None => State::Keyed,
        }
    }

    /// What a person at the box is told while `pause` lasts.
    pub fn view(&mut self, pause: Option<&Pause>, again_in: Option<Duration>) -> View {
        let identity = self.now.identity.as_ref();
        let bootstrap = self.now.held.as_ref().map(|held| &held.bootstrap);
        let portal = bootstrap.and_then(|b| b.policy.portal.as_deref());
        let qr = identity.zip(portal).map(|(who, portal)| {
            format!("{}/e#{}.{}", portal.trim_end_matches('/'), who.id, who.words.replace(' ', "-"))
        });
        let standing = self.now.standing.as_ref();
        View {
            state: self.state(),
            code: pause.and_then(|p| p.code),
            detail: pause.map(|p| p.detail.clone()).unwrap_or_default(),
            support: bootstrap.map(|b| b.policy.support_text.clone()).unwrap_or_default(),
            device: identity.map(|i| i.id.clone()),
            words: identity.map(|i| i.words.clone()),
            node: standing.and_then(|s| s.node_name.clone()),
            serial: self.now.facts.as_ref().and_then(|f| f.serial.clone()),
            endpoints: bootstrap
                .map(|b| b.endpoints_in_order().iter().map(|e| e.url.clone()).collect())
                .unwrap_or_default(),
            qr,
            page: None,
            again_in,
            links: self.io.links(),
            now: self.io.now(),
        }
    }

    /// Puts something that happened into the queue for the fleet.
    pub(super) fn note(&mut self, kind: &str, code: Option<Code>, detail: &str) {
        let at = self.io.now();
        self.now.events.add(&mut self.store, &mut self.io, at, kind, code, detail);
    }

    /// What the clock is not before: made, issued, and seen.
    pub(super) fn clock_floor(&self) -> Epoch {
        let image = self.now.image.as_ref().map(|i| i.built_at);
        let issued = self.now.held.as_ref().map(|h| h.bootstrap.issued_at);
        image.into_iter().chain(issued).chain([self.now.clock_saved]).max().unwrap_or_default()
    }

    /// The wait of `pause` is over: what has to be looked at again is. `changed` says that a cable, an address or a stick
    /// came or went.
    pub fn resume(&mut self, pause: &Pause, changed: bool) {
        self.now.told = false;
        if matches!(pause.until, Until::Refused | Until::Steady) {
            self.now.standing = None;
            self.now.renewed = false;
        }
        if pause.until == Until::Refused || changed {
            self.now.scanned = false;
        }
        if changed {
            self.now.facts = None;
            (self.now.looked_for_grant, self.now.left_request) = (false, false);
        }
    }

    /// Looks for another bundle without asking the fleet: for a wait that nothing else may end. Whether there is one.
    pub fn look_for_bundle(&mut self) -> bool {
        self.now.scanned = false;
        let before = self.now.held.as_ref().map(|held| held.sha256);
        // Trouble with it is met again by the next step.
        let _ = self.look();
        self.now.held.as_ref().map(|held| held.sha256) != before
    }
}
