//! Ed25519 keys: made, named, signing and verifying. Private keys as files are `key_file`.
//!
//! Public keys are SubjectPublicKeyInfo (RFC 8410). A key's id is the hex SHA-256 of that structure's DER.

use super::{Refused, Signature, Signer, Verified, Verifier};
use crate::model::Digest;
use anyhow::{Context as _, bail};
use ed25519_dalek::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use std::fmt;
use zeroize::Zeroizing;

/// A PEM key is a few hundred bytes; nothing larger is read.
pub(super) const MAX_PEM: usize = 16 << 10;

/// Which key: hex SHA-256 of the public key's SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct KeyId(pub Digest);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

/// The public half.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    der: Vec<u8>,
}

impl PublicKey {
    fn new(key: VerifyingKey) -> anyhow::Result<PublicKey> {
        let der = key.to_public_key_der().context("encoding a public key")?.into_vec();
        Ok(PublicKey { key, der })
    }

    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// When it is no PEM, no Ed25519 key, or a weak point.
    pub fn from_pem(pem: &str) -> anyhow::Result<PublicKey> {
        if pem.len() > MAX_PEM {
            bail!("a public key of {} bytes", pem.len());
        }
        let key =
            VerifyingKey::from_public_key_pem(pem.trim()).context("reading an ed25519 public key in PEM")?;
        if key.is_weak() {
            bail!("the public key is a weak point, for which anyone can sign");
        }
        PublicKey::new(key)
    }

    /// The PEM.
    pub fn to_pem(&self) -> String {
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.der);
        // 44 bytes of DER are 60 letters: one line of at most 64.
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// Takes the 32 raw bytes of RFC 8032.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when they are no point of the curve, or a weak one, for which anyone can sign.
    pub fn from_raw(raw: &[u8; 32]) -> Result<PublicKey, Refused> {
        let key = VerifyingKey::from_bytes(raw).map_err(|e| Refused::Malformed(e.to_string()))?;
        if key.is_weak() {
            return Err(Refused::Malformed("the public key is a weak point".into()));
        }
        PublicKey::new(key).map_err(|e| Refused::Malformed(e.to_string()))
    }

    /// The 32 raw bytes.
    pub fn as_raw(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Which key it is.
    pub fn key_id(&self) -> KeyId {
        KeyId(Digest::of(&self.der))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

/// In JSON: the raw bytes in base64, which every language's library takes.
impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&base64::Engine::encode(&base64::engine::general_purpose::STANDARD, self.as_raw()))
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<PublicKey, D::Error> {
        use serde::de::Error as _;
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text.as_ref());
        let raw: Option<[u8; 32]> = bytes.ok().and_then(|b| b.try_into().ok());
        let raw = raw.ok_or_else(|| D::Error::custom("an ed25519 key is 32 bytes in base64"))?;
        PublicKey::from_raw(&raw).map_err(D::Error::custom)
    }
}

impl Verifier for PublicKey {
    fn verify<T: AsRef<[u8]>>(&self, payload: T, signature: &Signature) -> Result<Verified<T>, Refused> {
        let raw = ed25519_dalek::Signature::from_bytes(signature.as_raw());
        match self.key.verify_strict(payload.as_ref(), &raw) {
            Ok(()) => Ok(Verified { value: payload, key_id: self.key_id() }),
            Err(_) => Err(Refused::Mismatch(self.key_id())),
        }
    }
}

/// The private half: wiped when dropped, never shown.
pub struct PrivateKey {
    pub(super) key: SigningKey,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> anyhow::Result<PrivateKey> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
        PrivateKey::new(SigningKey::from_bytes(&seed))
    }

    /// The key of a seed: 32 bytes that were drawn at random once, and are the whole secret.
    ///
    /// # Errors
    /// Never for a seed from good randomness.
    pub fn from_seed(seed: &[u8; 32]) -> anyhow::Result<PrivateKey> {
        PrivateKey::new(SigningKey::from_bytes(seed))
    }

    /// The seed: whoever has it signs as this key.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    pub(super) fn new(key: SigningKey) -> anyhow::Result<PrivateKey> {
        let public = PublicKey::new(key.verifying_key())?;
        Ok(PrivateKey { key, public })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, ***)", self.public.key_id())
    }
}

impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }
    fn sign(&self, payload: &[u8]) -> anyhow::Result<Signature> {
        Ok(Signature::from_raw(self.key.sign(payload).to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_bit_of_payload_or_signature_is_refused() {
        let key = PrivateKey::generate().unwrap();
        let signature = key.sign(b"payload").unwrap();
        assert_eq!(signature, key.sign(b"payload").unwrap(), "deterministic");
        assert_eq!(key.public_key().verify(b"payload", &signature).unwrap().key_id(), key.key_id());
        assert_eq!(key.public_key().verify(b"paylobd", &signature), Err(Refused::Mismatch(key.key_id())));
        for i in 0..64 {
            let mut raw = *signature.as_raw();
            raw[i] ^= 1;
            assert!(key.public_key().verify(b"payload", &Signature::from_raw(raw)).is_err(), "byte {i}");
        }
        assert!(PrivateKey::generate().unwrap().public_key().verify(b"payload", &signature).is_err());
    }
}
