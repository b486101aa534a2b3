//! A box that no network reaches: its request goes along on a stick, and a grant comes back on one (enrollment contract, C8).

use crate::device::agent::Device;
use crate::device::artefact::{self, ClaimNote, Survey};
use crate::device::effects::Effects;
use crate::device::pause::Pause;
use crate::enroll::claim::GrantRequest;
use crate::enroll::code::Code;
use crate::enroll::offline::{OfflineRequest, request_name};
use crate::enroll::{MAX_BODY, bundle};
use crate::sign::Signer;
use crate::sign::dsse::Envelope;
use std::path::Path;

impl<E: Effects> Device<E> {
    /// Leaves the request on every stick that takes it along. Nothing waits for it.
    pub(super) fn leave_request(&mut self, survey: Survey) -> Result<(), Pause> {
        if std::mem::replace(&mut self.now.left_request, true) {
            return Ok(());
        }
        let note = self.claim_note(survey.applied)?;
        let claim = self.claim(survey)?;
        let grant = GrantRequest { nonce: note.nonce, csrs: vec![], have_generation: note.have };
        let (Some(held), Some(identity)) = (&self.now.held, &self.now.identity) else { return Ok(()) };
        let mut signers: Vec<&dyn Signer> = vec![&identity.key];
        signers.extend(held.ticket.as_ref().map(|ticket| ticket as &dyn Signer));
        let sealed = OfflineRequest { claim, grant }.seal(&signers);
        let sealed = sealed.map_err(|e| Pause::trouble(Code::TpmTrouble, format!("{e:#}")))?;
        let sticks = self.io.leave(&request_name(&identity.id), &sealed);
        if sticks > 0 {
            self.note("informational", None, "the request is on a stick");
        }
        Ok(())
    }

    /// Takes a grant from a stick, when it answers the question that this device asked. Whether there was one. One that
    /// does not is left alone: it may be another box's, or this one's of an earlier time.
    pub(super) fn take_grant_along(&mut self, have: u64) -> Result<bool, Pause> {
        let Some(identity) = &self.now.identity else { return Ok(false) };
        let device = identity.id.clone();
        let note: Option<ClaimNote> = self.store.get_json(&mut self.io, Path::new(artefact::CLAIM))?;
        let Some(note) = note.filter(|note| note.device == device && note.have == have) else {
            return Ok(false);
        };
        let name = bundle::grant_name(&device);
        for carrier in self.io.bundles(&[(name.clone(), MAX_BODY)]) {
            let Some(bytes) = carrier.files.get(&name) else { continue };
            let Ok(envelope) = serde_json::from_slice::<Envelope>(bytes) else { continue };
            if let Ok(generation) = self.opens(&envelope, &note) {
                self.write_grant(&envelope, generation)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
