//! Signed bodies: what travels in every request and answer.
//!
//! What is signed is the payload together with its context: which way it goes, the method, the path, and a nonce of the
//! other side. So a body is worth nothing for another call, in the other direction, or a second time later. The encoding
//! of both is DSSE's pre-authentication encoding with the context in the type's place.
//!
//! A device never looks into an answer that no key of its bootstrap signed: a captive portal can answer anything.

use crate::enroll::MAX_BODY;
use crate::sign::{PublicKey, Refused, Signature, Signer, Verified, Verifier as _, dsse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Names the protocol in every signature.
const PROTOCOL: &str = "forge-enroll-v1";
/// More signatures than any message has: the device's and its ticket's.
const MAX_SIGNATURES: usize = 4;

/// 16 to 64 characters of `0-9a-zA-Z_-` that were never used before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Nonce(String);

impl Nonce {
    /// The nonce of 16 bytes of fresh randomness.
    pub fn from_random(bytes: [u8; 16]) -> Nonce {
        Nonce(crate::model::digest::hex(&bytes))
    }

    /// Takes text of another machine.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it is too short, too long, or has other characters.
    pub fn parse(text: &str) -> Result<Nonce, Refused> {
        let known = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if (16..=64).contains(&text.len()) && text.bytes().all(known) {
            return Ok(Nonce(text.into()));
        }
        Err(Refused::Malformed("a nonce is 16 to 64 of 0-9, a-z, A-Z, `_` and `-`".into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Nonce, D::Error> {
        Nonce::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the device.
    Request,
    /// From the fleet.
    Answer,
}

/// What a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'a> {
    /// Which way it goes.
    pub direction: Direction,
    /// The method of the call.
    pub method: &'a str,
    /// The path of the call, without its query.
    pub path: &'a str,
    /// The server's nonce in a request, the device's in an answer.
    pub nonce: &'a Nonce,
}

impl fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Request => "request",
            Direction::Answer => "answer",
        };
        write!(f, "{PROTOCOL}|{direction}|{}|{}|{}", self.method, self.path, self.nonce)
    }
}

/// A body as it travels: JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    /// Base64.
    payload: String,
    /// The nonce that the signer answers, for the side that has many under way.
    nonce: Nonce,
    signatures: Vec<By>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct By {
    key: PublicKey,
    sig: String,
}

/// Signs `payload` for `context` with every one of `signers`: the bytes of the body.
///
/// # Errors
/// What a signer says.
pub fn seal(signers: &[&dyn Signer], context: &Context<'_>, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let bytes = dsse::pre_authentication(&context.to_string(), payload);
    let mut signatures = vec![];
    for signer in signers {
        signatures.push(By { key: signer.public_key().clone(), sig: signer.sign(&bytes)?.to_base64() });
    }
    let body = Signed { payload: STANDARD.encode(payload), nonce: context.nonce.clone(), signatures };
    Ok(serde_json::to_vec(&body)?)
}

/// A body that was read, and of which nothing is known yet.
#[derive(Clone, Debug)]
pub struct Sealed(Signed);

impl Sealed {
    /// Reads a body's JSON.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it is too long, is no such JSON, or has no signature or too many.
    pub fn parse(body: &[u8]) -> Result<Sealed, Refused> {
        if body.len() > MAX_BODY {
            return Err(Refused::Malformed(format!("a body of {} bytes", body.len())));
        }
        let signed: Signed = serde_json::from_slice(body).map_err(|e| Refused::Malformed(e.to_string()))?;
        if signed.signatures.is_empty() || signed.signatures.len() > MAX_SIGNATURES {
            return Err(Refused::Malformed(format!("a body with {} signatures", signed.signatures.len())));
        }
        Ok(Sealed(signed))
    }

    /// The nonce that the signer says it answers. Opening holds it against the one that is expected.
    pub fn nonce(&self) -> &Nonce {
        &self.0.nonce
    }

    /// The payload, when every signature holds for `context`; with the keys, of which the caller still has to know
    /// whose they are.
    ///
    /// # Errors
    /// [`Refused`] when any signature does not hold.
    pub fn open(&self, context: &Context<'_>) -> Result<(Vec<u8>, Signers), Refused> {
        let payload = STANDARD.decode(&self.0.payload).map_err(|e| Refused::Malformed(e.to_string()))?;
        let bytes = dsse::pre_authentication(&context.to_string(), &payload);
        let mut keys = vec![];
        for by in &self.0.signatures {
            by.key.verify(&bytes, &Signature::from_base64(&by.sig)?)?;
            keys.push(by.key.clone());
        }
        Ok((payload, Signers(keys)))
    }

    /// The payload, when one of the `trusted` keys signed it for `context`.
    ///
    /// # Errors
    /// [`Refused`] when none did.
    pub fn open_by(
        &self,
        context: &Context<'_>,
        trusted: &[PublicKey],
    ) -> Result<Verified<Vec<u8>>, Refused> {
        let payload = STANDARD.decode(&self.0.payload).map_err(|e| Refused::Malformed(e.to_string()))?;
        let bytes = dsse::pre_authentication(&context.to_string(), &payload);
        let by = self.0.signatures.iter().find(|by| trusted.contains(&by.key));
        let by = by.ok_or(Refused::TooFew { found: 0, threshold: 1 })?;
        by.key.verify(&bytes, &Signature::from_base64(&by.sig)?)?.try_map(|_| Ok(payload))
    }
}

/// The keys whose signatures were found to hold.
#[derive(Clone, Debug)]
pub struct Signers(Vec<PublicKey>);

impl Signers {
    /// Says that `key` is one of them.
    ///
    /// # Errors
    /// [`Refused::Mismatch`] when it is not.
    pub fn include(&self, key: &PublicKey) -> Result<(), Refused> {
        if self.0.contains(key) { Ok(()) } else { Err(Refused::Mismatch(key.key_id())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::PrivateKey;

    fn key(n: u8) -> PrivateKey {
        PrivateKey::from_seed(&[n; 32]).unwrap()
    }

    #[test]
    fn a_body_is_worth_nothing_in_any_other_place() {
        let (device, ticket) = (key(1), key(2));
        let nonce = Nonce::from_random([3; 16]);
        let other = Nonce::from_random([4; 16]);
        let context =
            Context { direction: Direction::Request, method: "POST", path: "/v1/enroll", nonce: &nonce };
        let body = seal(&[&device, &ticket], &context, b"{}").unwrap();
        let sealed = Sealed::parse(&body).unwrap();
        let (payload, signers) = sealed.open(&context).unwrap();
        assert_eq!(payload, b"{}");
        signers.include(device.public_key()).unwrap();
        signers.include(ticket.public_key()).unwrap();
        assert!(signers.include(key(5).public_key()).is_err());
        for wrong in [
            Context { direction: Direction::Answer, ..context },
            Context { method: "PUT", ..context },
            Context { path: "/v1/enroll/x", ..context },
            Context { nonce: &other, ..context },
        ] {
            assert!(sealed.open(&wrong).is_err(), "{wrong}");
            assert!(sealed.open_by(&wrong, &[device.public_key().clone()]).is_err(), "{wrong}");
        }
        assert!(sealed.open_by(&context, &[key(5).public_key().clone()]).is_err());
        assert_eq!(sealed.open_by(&context, &[ticket.public_key().clone()]).unwrap().get(), b"{}");
    }

    #[test]
    fn one_changed_byte_anywhere_is_refused() {
        let device = key(1);
        let nonce = Nonce::from_random([3; 16]);
        let context =
            Context { direction: Direction::Answer, method: "GET", path: "/v1/hello", nonce: &nonce };
        let body = seal(&[&device], &context, b"{\"now\":1}").unwrap();
        let trusted = [device.public_key().clone()];
        let mut held = 0;
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            if let Ok(sealed) = Sealed::parse(&changed) {
                // The nonce that is told beside the signature is a hint alone.
                if let Ok(payload) = sealed.open_by(&context, &trusted) {
                    assert_eq!(payload.get(), b"{\"now\":1}");
                    held += 1;
                }
            }
        }
        assert!(held <= nonce.as_str().len(), "{held} changes were not seen");
    }
}
