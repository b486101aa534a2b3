//! Bytes in, signature out; and back: bytes and a signature in, the verified bytes out.
//!
//! Ed25519 (RFC 8032), and RSA where firmware asks for it (`rsa`): both are deterministic, so that the same bytes under the same key are the same signed release.
//! Verification gives a [`Verified`] value or an error, never a bool, and nothing else can make a `Verified`. Imports no
//! format: what the bytes are is the business of who asks. The envelopes around signatures are [`dsse`], `bundle` and
//! `simple_signing`; the keys are [`key`], `key_file` and `key_ref`. `certificate` reads dates alone. A device has
//! [`dsse`] and [`key`].

#[cfg(feature = "cli")]
pub mod bundle;
#[cfg(feature = "cli")]
pub mod certificate;
pub mod dsse;
pub mod key;
#[cfg(feature = "cli")]
pub mod key_file;
#[cfg(feature = "cli")]
pub mod key_ref;
#[cfg(feature = "cli")]
pub mod rsa;
#[cfg(feature = "cli")]
pub mod simple_signing;
#[cfg(feature = "cli")]
pub mod token;

pub use key::{KeyId, PrivateKey, PublicKey};
#[cfg(feature = "cli")]
pub use key_ref::KeyRef;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// An Ed25519 signature: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// The signature in standard base64, as cosign writes it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads base64 with or without a newline at its end.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it is not 64 bytes of base64.
    pub fn from_base64(text: &str) -> Result<Signature, Refused> {
        let bytes = STANDARD.decode(text.trim_end()).map_err(|e| Refused::Malformed(e.to_string()))?;
        let raw = <[u8; 64]>::try_from(&bytes[..]);
        raw.map(Signature).map_err(|_| Refused::Malformed(format!("{} bytes, not 64", bytes.len())))
    }

    /// Takes the 64 raw bytes.
    pub const fn from_raw(raw: [u8; 64]) -> Signature {
        Signature(raw)
    }

    /// The 64 raw bytes.
    pub const fn as_raw(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

/// Who can sign.
pub trait Signer {
    /// The public half of the key.
    fn public_key(&self) -> &PublicKey;

    /// Signs `payload`.
    ///
    /// # Errors
    /// When the key is elsewhere and does not answer.
    fn sign(&self, payload: &[u8]) -> anyhow::Result<Signature>;

    /// Which key signs.
    fn key_id(&self) -> KeyId {
        self.public_key().key_id()
    }
}

/// Who can tell whether a signature holds.
pub trait Verifier {
    /// Gives `payload` back as verified when `signature` is one of it.
    ///
    /// # Errors
    /// [`Refused`], always saying why.
    fn verify<T: AsRef<[u8]>>(&self, payload: T, signature: &Signature) -> Result<Verified<T>, Refused>;
}

/// A value that a signature was found to hold for, and the key that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    key_id: KeyId,
}

impl<T> Verified<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The value, for who keeps it no longer as verified.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The key that signed.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// What follows from the verified value alone.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Verified<U>, E> {
        Ok(Verified { value: f(self.value)?, key_id: self.key_id })
    }
}

/// Why a signature was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The bytes are no signature, or the envelope around it is none.
    #[error("the signature is malformed: {0}")]
    Malformed(String),
    /// It is a signature, but not by this key over these bytes.
    #[error("the signature does not hold under key {0}")]
    Mismatch(KeyId),
    /// Fewer of the trusted keys signed than have to.
    #[error("{found} of the trusted keys signed, and {threshold} have to")]
    TooFew {
        /// How many signed.
        found: usize,
        /// How many have to.
        threshold: usize,
    },
    /// It holds, for something else than was asked about.
    #[error("the signature is for {found}, not for {expected}")]
    OtherSubject {
        /// What was asked about.
        expected: String,
        /// What was signed.
        found: String,
    },
}
