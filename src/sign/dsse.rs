//! DSSE envelopes around in-toto statements: what is signed is the type and the payload together.
//!
//! Dead Simple Signing Envelope v1.0 (protocol.md, envelope.md); in-toto attestation framework v1, Statement.

use super::{PublicKey, Refused, Signature, Signer, Verified, Verifier as _};
use crate::model::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The payload type of in-toto statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The type of a statement, version 1.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// A signed payload with its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The payload in base64.
    pub payload: String,
    /// What the payload is.
    pub payload_type: String,
    /// Its signatures; forge writes one.
    pub signatures: Vec<EnvelopeSignature>,
}

/// A signature of an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    /// In base64.
    pub sig: String,
    /// A hint at the key; empty, as cosign writes it.
    #[serde(default)]
    pub keyid: String,
}

/// The bytes that are signed: `DSSEv1 LEN TYPE LEN PAYLOAD` (pre-authentication encoding).
pub fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend(payload);
    bytes
}

/// Signs `payload` of `payload_type`.
///
/// # Errors
/// What the signer says.
pub fn seal(signer: &dyn Signer, payload_type: &str, payload: &[u8]) -> anyhow::Result<Envelope> {
    let signature = signer.sign(&pre_authentication(payload_type, payload))?;
    Ok(Envelope {
        payload: STANDARD.encode(payload),
        payload_type: payload_type.into(),
        signatures: vec![EnvelopeSignature { sig: signature.to_base64(), keyid: String::new() }],
    })
}

/// The payload of an envelope that `key` signed.
///
/// # Errors
/// [`Refused`] when none of its signatures holds, or it has more than 8.
pub fn open(envelope: &Envelope, key: &PublicKey) -> Result<Verified<Vec<u8>>, Refused> {
    let payload = STANDARD.decode(&envelope.payload).map_err(|e| Refused::Malformed(e.to_string()))?;
    if envelope.signatures.is_empty() || envelope.signatures.len() > 8 {
        return Err(Refused::Malformed(format!("an envelope with {} signatures", envelope.signatures.len())));
    }
    let signed = pre_authentication(&envelope.payload_type, &payload);
    let mut refused = Refused::Mismatch(key.key_id());
    for signature in &envelope.signatures {
        match Signature::from_base64(&signature.sig).and_then(|s| key.verify(&signed, &s)) {
            Ok(verified) => return verified.try_map(|_| Ok(payload)),
            Err(e) => refused = e,
        }
    }
    Err(refused)
}

/// The payload of an envelope that at least `threshold` of `keys` signed, each counted once.
///
/// # Errors
/// [`Refused::Malformed`] for more than 8 signatures or a threshold of none, [`Refused::TooFew`] else.
pub fn open_threshold(
    envelope: &Envelope,
    keys: &[PublicKey],
    threshold: usize,
) -> Result<Verified<Vec<u8>>, Refused> {
    if threshold == 0 {
        return Err(Refused::Malformed("a threshold of no signature".into()));
    }
    let mut counted: Vec<Verified<Vec<u8>>> = vec![];
    for (n, key) in keys.iter().enumerate() {
        if keys[..n].contains(key) {
            continue;
        }
        match open(envelope, key) {
            Ok(verified) => counted.push(verified),
            Err(Refused::Mismatch(_)) => {}
            Err(malformed) => return Err(malformed),
        }
    }
    let found = counted.len();
    match counted.into_iter().next() {
        Some(verified) if found >= threshold => Ok(verified),
        _ => Err(Refused::TooFew { found, threshold }),
    }
}

/// An in-toto statement: what is said (`predicate`) about what (`subject`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// Always [Statement v1](https://in-toto.io/Statement/v1).
    #[serde(rename = "_type")]
    pub kind: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// The type of the predicate.
    pub predicate_type: String,
    /// What is said.
    #[serde(default)]
    pub predicate: serde_json::Value,
}

/// A subject of a [`Statement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A name, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Hex digests by algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Statement {
    /// A statement about the bytes of `digest`, which may have a `name`.
    pub fn about(
        digest: Digest,
        name: &str,
        predicate_type: &str,
        predicate: serde_json::Value,
    ) -> Statement {
        let subject = Subject { name: name.into(), digest: [("sha256".to_string(), digest.hex())].into() };
        Statement {
            kind: STATEMENT.into(),
            subject: vec![subject],
            predicate_type: predicate_type.into(),
            predicate,
        }
    }

    /// Whether `digest` is one of its subjects.
    pub fn is_about(&self, digest: Digest) -> bool {
        self.subject.iter().any(|s| s.digest.get("sha256").is_some_and(|hex| *hex == digest.hex()))
    }
}

/// The statement in an envelope that `key` signed, when it is about `subject`.
///
/// # Errors
/// [`Refused`] when the signature does not hold, the payload is no statement, or it is about something else.
pub fn open_statement(
    envelope: &Envelope,
    subject: Digest,
    key: &PublicKey,
) -> Result<Verified<Statement>, Refused> {
    open(envelope, key)?.try_map(|payload| {
        if envelope.payload_type != IN_TOTO {
            return Err(Refused::Malformed(format!("a payload of type `{}`", envelope.payload_type)));
        }
        let statement: Statement =
            serde_json::from_slice(&payload).map_err(|e| Refused::Malformed(e.to_string()))?;
        if statement.kind != STATEMENT || !statement.is_about(subject) {
            let found = statement
                .subject
                .iter()
                .flat_map(|s| s.digest.values())
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Refused::OtherSubject { expected: subject.hex(), found });
        }
        Ok(statement)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::PrivateKey;

    #[test]
    fn the_specifications_example_is_encoded_as_it_says() {
        assert_eq!(
            pre_authentication("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn a_threshold_counts_keys_not_signatures() {
        let (one, two, foreign) = (
            PrivateKey::generate().unwrap(),
            PrivateKey::generate().unwrap(),
            PrivateKey::generate().unwrap(),
        );
        let trusted = [one.public_key().clone(), one.public_key().clone(), two.public_key().clone()];
        let mut envelope = seal(&one, "text/plain", b"payload").unwrap();
        envelope.signatures.push(envelope.signatures[0].clone());
        assert_eq!(open_threshold(&envelope, &trusted, 1).unwrap().get(), b"payload");
        let too_few = Err(Refused::TooFew { found: 1, threshold: 2 });
        assert_eq!(open_threshold(&envelope, &trusted, 2), too_few);
        envelope.signatures.extend(seal(&foreign, "text/plain", b"payload").unwrap().signatures);
        assert_eq!(open_threshold(&envelope, &trusted, 2), too_few);
        envelope.signatures.extend(seal(&two, "text/plain", b"payload").unwrap().signatures);
        assert!(open_threshold(&envelope, &trusted, 2).is_ok());
        assert!(open_threshold(&envelope, &trusted, 0).is_err());
        assert!(open_threshold(&envelope, &[], 1).is_err());
    }

    #[test]
    fn a_changed_payload_type_or_subject_is_refused() {
        let key = PrivateKey::generate().unwrap();
        let digest = Digest::of("image");
        let statement = Statement::about(digest, "", "https://example.com/p", serde_json::json!({}));
        let envelope = seal(&key, IN_TOTO, &serde_json::to_vec(&statement).unwrap()).unwrap();
        let public = key.public_key();
        assert_eq!(open_statement(&envelope, digest, public).unwrap().get(), &statement);
        assert!(matches!(
            open_statement(&envelope, Digest::of("another"), public),
            Err(Refused::OtherSubject { .. })
        ));
        let other_type = Envelope { payload_type: "text/plain".into(), ..envelope.clone() };
        assert_eq!(open(&other_type, public), Err(Refused::Mismatch(key.key_id())));
        let swapped = Envelope { payload: STANDARD.encode(b"{}"), ..envelope.clone() };
        assert_eq!(open(&swapped, public), Err(Refused::Mismatch(key.key_id())));
        let unsigned = Envelope { signatures: vec![], ..envelope };
        assert!(matches!(open(&unsigned, public), Err(Refused::Malformed(_))));
    }
}
