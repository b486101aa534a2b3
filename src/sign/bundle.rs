//! Sigstore bundles v0.3: one JSON file with a signature and a hint at its key, for images and for plain files.
//!
//! Made with a key alone: no transparency log, no timestamp, so that the same bytes are the same bundle, and checking
//! needs no network. The content is always a DSSE statement over a SHA-256 digest: plain Ed25519 over a file itself would
//! need the whole file in memory on both sides. sigstore/protobuf-specs, sigstore_bundle.proto.

use super::dsse::{self, Envelope, Statement};
use super::{KeyId, PublicKey, Refused, Signer, Verified};
use crate::model::Digest;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

/// The media type in and of a bundle.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// cosign's predicate of a statement that says no more than "signed".
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// A bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    media_type: String,
    verification_material: VerificationMaterial,
    dsse_envelope: Envelope,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerificationMaterial {
    public_key: KeyHint,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyHint {
    hint: String,
}

impl Bundle {
    /// Signs `statement`.
    ///
    /// # Errors
    /// What the signer says.
    pub fn seal(signer: &dyn Signer, statement: &Statement) -> anyhow::Result<Bundle> {
        let payload = serde_json::to_vec(&serde_json::to_value(statement)?)?;
        // cosign names a key by the base64 SHA-256 of its SubjectPublicKeyInfo.
        let hint = base64::engine::general_purpose::STANDARD.encode(signer.key_id().0.as_raw());
        Ok(Bundle {
            media_type: MEDIA_TYPE.into(),
            verification_material: VerificationMaterial { public_key: KeyHint { hint } },
            dsse_envelope: dsse::seal(signer, dsse::IN_TOTO, &payload)?,
        })
    }

    /// The signed statement alone.
    pub fn envelope(&self) -> &Envelope {
        &self.dsse_envelope
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// Never for what [`Bundle::seal`] made; the JSON writer's type says it could.
    pub fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(serde_json::to_vec(&serde_json::to_value(self)?)?)
    }

    /// Reads a bundle. Its signature is not looked at.
    ///
    /// # Errors
    /// [`Refused::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Bundle, Refused> {
        let bundle: Bundle = serde_json::from_slice(bytes).map_err(|e| Refused::Malformed(e.to_string()))?;
        if bundle.media_type != MEDIA_TYPE {
            return Err(Refused::Malformed(format!("a bundle of type `{}`", bundle.media_type)));
        }
        Ok(bundle)
    }

    /// The key that it says signed it: a hint, which nothing vouches for; `None` where the hint is no key's id of ours.
    pub fn key_id(&self) -> Option<KeyId> {
        let hint = &self.verification_material.public_key.hint;
        let raw = base64::engine::general_purpose::STANDARD.decode(hint).ok()?;
        Some(KeyId(Digest::from_raw(raw.try_into().ok()?)))
    }

    /// The statement, when `key` signed it and it is about `subject`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(&self, subject: Digest, key: &PublicKey) -> Result<Verified<Statement>, Refused> {
        dsse::open_statement(&self.dsse_envelope, subject, key)
    }
}
