//! A TPM's answers → what the fleet knows of its endorsement key.
//!
//! Asked for a challenge, the fleet sends a secret hidden so that only the TPM with the endorsement key and the attestation
//! key opens it ([`crate::tpm::credential`]). Who tells the secret holds the key. Nobody has to remember secrets: each is a
//! keyed hash over the device, its keys and the hour, so a lost answer costs nothing and a flood of questions no memory.
//!
//! A proof lets nobody in by itself: the device claims again, and the policy sees it. One thing is settled here: a new key
//! of hardware whose endorsement key was proved before takes its own place (enrollment contract, C7), or is held back.

use crate::enroll::DeviceId;
use crate::enroll::claim::{Attest, Challenge, State};
use crate::enroll::code::Code;
use crate::enroll::policy::Endorsement;
use crate::fleet::audit;
use crate::fleet::claim::{Hearing, refusal};
use crate::fleet::exchange::{Next, Refused, Reply, Request, Stop};
use crate::fleet::makers::Makers;
use crate::fleet::record::Device;
use crate::fleet::service::Service;
use crate::fleet::succession::{rebind, succeed};
use crate::model::{Digest, Epoch};
use crate::tpm::{self, credential};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// For how long a secret is drawn, in seconds, and for as long again it is taken. Old TPMs take a minute over their keys.
const WINDOW_S: i64 = 1800;
/// No public area is larger, in bytes: RSA-4096 has some 600.
const MAX_PUBLIC: usize = 1024;
/// One device has one TPM.
const OTHER_KEY: &str = "another endorsement key than the one that was claimed";
/// The most of a certificate that is kept, in base64: a TPM's storage has no larger one.
pub(super) const MAX_CERTIFICATE: usize = 11_000;

/// A step of the proof, well formed.
pub struct Step {
    /// TPMT_PUBLIC of the endorsement key.
    pub ek: Vec<u8>,
    /// Its modulus.
    pub modulus: [u8; 256],
    /// TPMT_PUBLIC of the attestation key.
    pub ak: Vec<u8>,
    /// What the TPM told.
    pub secret: Option<Zeroizing<Vec<u8>>>,
}

/// The secrets that TPMs have to tell.
pub(super) struct Challenges(hmac::Key);

impl Challenges {
    /// Secrets under `secret`, which outlives restarts.
    pub fn new(secret: &[u8; 32]) -> Challenges {
        Challenges(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// What is hidden at `now` for the keys of `step`.
    fn draw(&self, id: &DeviceId, step: &Step, now: Epoch) -> Zeroizing<Vec<u8>> {
        self.of(id, step, now.0.div_euclid(WINDOW_S))
    }

    /// Whether `told` was hidden for these keys not long before `now`.
    fn is_told(&self, id: &DeviceId, step: &Step, told: &[u8], now: Epoch) -> bool {
        let window = now.0.div_euclid(WINDOW_S);
        [window, window - 1].iter().any(|w| verify_slices_are_equal(told, &self.of(id, step, *w)).is_ok())
    }

    fn of(&self, id: &DeviceId, step: &Step, window: i64) -> Zeroizing<Vec<u8>> {
        // Beside nonces, which are hashes under the same key: no text is both.
        let of = format!("forge-attest-v1|{window}|{id}|{}|{}", step.digest(), Digest::of(&step.ak));
        Zeroizing::new(hmac::sign(&self.0, of.as_bytes()).as_ref().to_vec())
    }
}

impl Step {
    /// Reads what a device sent.
    ///
    /// # Errors
    /// 422 for keys that are none of a TPM's.
    pub fn of(attest: &Attest) -> Result<Step, Refused> {
        let malformed = |what: &str| Refused::without_code(422, format!("{what} cannot be read"));
        let bytes = |text: &str, what: &str| {
            let bytes = STANDARD.decode(text).map_err(|_| malformed(what))?;
            if bytes.len() > MAX_PUBLIC { Err(malformed(what)) } else { Ok(bytes) }
        };
        let ek = bytes(&attest.ek_public, "the endorsement key")?;
        let modulus = tpm::endorsement_modulus(&ek).map_err(|tpm::Short| {
            Refused::without_code(422, "the key is no endorsement key of the TCG's RSA-2048 template")
        })?;
        let ak = bytes(&attest.ak_public, "the attestation key")?;
        let secret =
            attest.secret.as_deref().map(|s| bytes(s, "the secret").map(Zeroizing::new)).transpose()?;
        Ok(Step { ek, modulus, ak, secret })
    }

    /// The endorsement key's, as [`crate::enroll::evidence::Facts::ek_sha256`] has it.
    fn digest(&self) -> Digest {
        tpm::digest(&self.ek)
    }

    /// The maker that vouches for the key, by the certificate that the claim brought; else why none does.
    pub fn maker(&self, device: &Device, makers: &Makers) -> Result<String, String> {
        let certificate = device.ek_cert.as_deref().ok_or("the TPM has no certificate of its maker")?;
        let der = STANDARD.decode(certificate).map_err(|_| "the certificate is no base64")?;
        makers.vouch(&der, &self.modulus).map_err(|e| e.to_string())
    }
}

impl Service {
    /// A step of the proof of the device `id`.
    pub(super) fn attest(&self, id: &DeviceId, request: &Request, now: Epoch) -> Result<Next, Stop> {
        let (attest, device) = self.of_device::<Attest>(id, request, now)?;
        let step = Step::of(&attest)?;
        let ek = step.digest();
        if device.ek.or(device.facts.ek_sha256).is_some_and(|named| named != ek) {
            return Err(Refused::without_code(422, OTHER_KEY).into());
        }
        if device.ek == Some(ek) {
            return Ok(proved_reply()?.into());
        }
        let Some(told) = &step.secret else {
            let secret = self.challenges.draw(id, &step, now);
            let made = credential::make(&step.ek, &step.ak, &secret)?;
            let challenge = Challenge {
                credential_blob: Some(STANDARD.encode(made.blob)),
                encrypted_secret: Some(STANDARD.encode(made.encrypted_secret)),
                proved: false,
            };
            return Ok(Reply::of(200, &challenge)?.into());
        };
        let settings = self.settings.clone();
        let id = id.clone();
        if !self.challenges.is_told(&id, &step, told, now) {
            return Ok(Next::Write(Box::new(move |connection| {
                audit::note(connection, now, "device", "unproved", Some(&id), "a wrong secret")?;
                Ok(Err(Refused::without_code(422, "that is not the secret")))
            })));
        }
        let maker = step.maker(&device, &self.makers);
        Ok(Next::Write(Box::new(move |connection| {
            match (Hearing { connection, settings: &settings, now }).attest(&id, ek, &maker)? {
                Ok(()) => Ok(Ok(proved_reply()?)),
                Err(refused) => Ok(Err(refused)),
            }
        })))
    }
}

fn proved_reply() -> anyhow::Result<Reply> {
    Reply::of(200, &Challenge { credential_blob: None, encrypted_secret: None, proved: true })
}

impl Hearing<'_> {
    /// Writes down that the device `id` has the endorsement key `ek`; `maker` as [`Step::maker`] has it.
    ///
    /// # Errors
    /// What the database says. A refusal is a result, for what it changed has to be committed.
    pub fn attest(
        &self,
        id: &DeviceId,
        ek: Digest,
        maker: &Result<String, String>,
    ) -> anyhow::Result<Result<(), Refused>> {
        // Where it stands is looked at again: an operator, or a claim, may have come in between.
        let Some(mut device) = Device::load(self.connection, id)? else {
            return Ok(Err(Refused::without_code(404, "no such device: claim first")));
        };
        if let Some(refused) = refusal(&device) {
            return Ok(Err(refused));
        }
        match device.ek.or(device.facts.ek_sha256) {
            Some(named) if named != ek => return Ok(Err(Refused::without_code(422, OTHER_KEY))),
            _ if device.ek == Some(ek) => return Ok(Ok(())),
            _ => {}
        }
        self.proved(&mut device, ek, maker)?;
        device.save(self.connection)?;
        Ok(refusal(&device).map_or(Ok(()), Err))
    }

    /// The TPM told the secret.
    fn proved(&self, device: &mut Device, ek: Digest, maker: &Result<String, String>) -> anyhow::Result<()> {
        device.ek = Some(ek);
        device.facts.ek_sha256 = Some(ek);
        device.last_seen = self.now;
        let (endorsement, why) = match maker {
            Ok(maker) => (Endorsement::Known, format!("endorsement key of {maker}")),
            Err(why) => (Endorsement::Proved, format!("endorsement key {ek}; {why}")),
        };
        device.endorsement = device.endorsement.max(endorsement);
        audit::note(self.connection, self.now, "device", "proved", Some(&device.id), &why)?;
        if self.is_barred("hardware", &ek.to_string())? {
            device.put(State::Denied, Some(Code::Revoked), "this hardware was revoked");
            return Ok(());
        }
        let of = format!("ek = ?1 AND state <> 'revoked' AND id <> '{}'", device.id);
        let Some(mut former) = Device::first(self.connection, &of, &ek.to_string())? else { return Ok(()) };
        // A device that has its own grant and name is not simply another disk of the same box.
        let stands = matches!(former.state, State::Pending | State::Approved | State::Joined);
        if !self.settings.policy.auto_reenroll || device.acked > 0 || !stands {
            let why = format!("the TPM of {}, and another key", former.id);
            return self.alarm(device, &why);
        }
        let waited = former.state == State::Pending;
        device.node = None;
        succeed(self.connection, &mut former, device, self.now, "policy")?;
        if former.ticket == device.ticket {
            rebind(self.connection, device)?;
        }
        let why = format!("the TPM of {}, whose place it takes", former.id);
        if waited {
            // A place in the queue, not a name: nobody has let the former in.
            device.node = None;
            device.put(State::Pending, Some(Code::AwaitsApproval), why);
        } else {
            device.put(State::Approved, None, why);
        }
        Ok(())
    }
}
