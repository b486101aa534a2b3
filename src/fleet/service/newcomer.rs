//! Claims: whether somebody who says that it is a box of this fleet's brings what the fleet's roots signed. What becomes of
//! it then is [`Hearing`]'s to judge.

use super::{MOST_BUNDLES, Service, numbers, spread};
use crate::enroll::bootstrap::Bootstrap;
use crate::enroll::claim::Claim;
use crate::enroll::code::Code;
use crate::enroll::envelope::{Nonce, Signers};
use crate::fleet::attest::MAX_CERTIFICATE;
use crate::fleet::claim::{Hearing, Judged, Known};
use crate::fleet::exchange::{Next, Refused, Reply, Request, Stop};
use crate::fleet::limit::Rate;
use crate::fleet::record::MOST;
use crate::model::{Digest, Epoch};
use std::sync::{Arc, PoisonError};

impl Service {
    pub(super) fn claim(&self, request: &Request, nonce: &Nonce, now: Epoch) -> Result<Next, Stop> {
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
    pub(in crate::fleet) fn admit(
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
