//! The proof of the box's TPM to its fleet: once for every identity, after a claim.
//!
//! Whatever becomes of it, the device goes on: a box that is let in for other reasons needs no proof, and one that is not
//! waits for a person as it would without a TPM. A TPM that does not answer is asked again after a while.

use crate::device::agent::Device;
use crate::device::effects::{Effects, TpmKeys};
use crate::device::pause::Pause;
use crate::device::talk::{self, Said};
use crate::enroll::claim::{Attest, Challenge, Standing, State};
use crate::enroll::code::Code;
use crate::enroll::evidence::Facts;
use crate::tpm;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;

/// For how long a TPM that did not answer is left alone: asking it costs the box most of a minute.
const REST: Duration = Duration::from_secs(600);

/// What is known of the TPM since the start.
#[derive(Debug, Default)]
pub(super) struct Tpm {
    /// Its keys.
    pub keys: Option<TpmKeys>,
    /// It is left alone until then, by the monotonic clock.
    pub rests_until: Duration,
    /// The identity that nothing more is to be proved for.
    pub done_for: Option<crate::enroll::DeviceId>,
}

impl<E: Effects> Device<E> {
    /// `facts` with the TPM's endorsement key, where it tells it.
    pub(super) fn endorsed(&mut self, facts: Facts) -> Facts {
        match self.tpm_keys() {
            Some(keys) => Facts { ek_sha256: Some(tpm::digest(&keys.ek_public)), ..facts },
            None => facts,
        }
    }

    /// The endorsement certificate, as a claim has it.
    pub(super) fn endorsement_certificate(&self) -> Option<String> {
        let keys = self.now.tpm.keys.as_ref()?;
        keys.ek_certificate.as_ref().map(|der| STANDARD.encode(der))
    }

    fn tpm_keys(&mut self) -> Option<TpmKeys> {
        if self.now.tpm.keys.is_none() && self.may_ask_tpm() {
            match self.io.tpm_keys() {
                Ok(keys) => self.now.tpm.keys = Some(keys),
                Err(why) => self.tpm_fails(&why),
            }
        }
        self.now.tpm.keys.clone()
    }

    fn may_ask_tpm(&mut self) -> bool {
        self.io.has_tpm() && self.io.monotonic() >= self.now.tpm.rests_until
    }

    fn tpm_fails(&mut self, why: &str) {
        self.now.tpm.rests_until = self.io.monotonic() + REST;
        self.note("bootstrap-warning", Some(Code::TpmTrouble), why);
    }

    /// Whether there is something to prove to a fleet that said `standing`.
    pub(super) fn has_to_attest(&mut self, standing: &Standing) -> bool {
        let id = self.now.identity.as_ref().map(|identity| &identity.id);
        let waits = matches!(standing.state, State::Pending | State::Approved);
        waits && self.now.tpm.done_for.as_ref() != id && self.may_ask_tpm() && self.tpm_keys().is_some()
    }

    /// Asks for a challenge and answers it.
    pub(super) fn attest(&mut self, standing: &Standing) -> Result<(), Pause> {
        if self.prove()? && standing.state == State::Pending {
            // What was proved counts from the next claim on.
            (self.now.standing, self.now.reclaim) = (None, true);
        }
        Ok(())
    }

    /// Whether the key is proved; it may have been before, when the fleet's answer was lost.
    fn prove(&mut self) -> Result<bool, Pause> {
        let Some(keys) = self.tpm_keys() else { return Ok(false) };
        let Some(challenge) = self.attest_step(&keys, None)? else { return Ok(false) };
        if challenge.proved {
            return Ok(true);
        }
        let opened = match parts(&challenge) {
            Some((blob, secret)) => self.io.activate_credential(&blob, &secret),
            None => Err("the fleet's challenge cannot be read".into()),
        };
        let secret = match opened {
            Ok(secret) => secret,
            Err(why) => {
                self.tpm_fails(&why);
                return Ok(false);
            }
        };
        let Some(answer) = self.attest_step(&keys, Some(&secret))? else { return Ok(false) };
        if answer.proved {
            self.note("informational", None, "the TPM's endorsement key is proved");
        } else {
            self.tpm_fails("the fleet has another challenge after the answer to its first");
        }
        Ok(answer.proved)
    }

    /// One call; `None` when the fleet does not want the proof.
    fn attest_step(&mut self, keys: &TpmKeys, secret: Option<&[u8]>) -> Result<Option<Challenge>, Pause> {
        let attest = Attest {
            ek_public: STANDARD.encode(&keys.ek_public),
            ak_public: STANDARD.encode(&keys.ak_public),
            secret: secret.map(|secret| STANDARD.encode(secret)),
        };
        let path = self.own_path("attest")?;
        let id = self.now.identity.as_ref().map(|identity| identity.id.clone());
        match self.post::<_, Challenge>(&path, &attest, false)? {
            Said::Yes(answer) => {
                if answer.body.proved {
                    self.now.tpm.done_for = id;
                }
                Ok(Some(answer.body))
            }
            // Too many at once: it is tried again.
            Said::No(answer) if matches!(answer.status, 429 | 503) => Err(talk::refusal(&answer)),
            Said::No(answer) => {
                self.now.tpm.done_for = id;
                self.note("bootstrap-warning", answer.body.code, &answer.body.reason);
                // It may have been thrown out by what it proved: the fleet says so to the next question.
                self.now.standing = None;
                Ok(None)
            }
        }
    }
}

/// TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
fn parts(challenge: &Challenge) -> Option<(Vec<u8>, Vec<u8>)> {
    let decode = |text: &Option<String>| STANDARD.decode(text.as_deref()?).ok();
    Some((decode(&challenge.credential_blob)?, decode(&challenge.encrypted_secret)?))
}
