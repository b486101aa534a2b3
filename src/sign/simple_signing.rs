//! The classic payload of an image's signature: "this repository's image has this digest".
//!
//! containers/image, docs/containers-signature.5.md, as cosign's SIGNATURE_SPEC.md narrows it.

use super::{PublicKey, Refused, Signature, Verified, Verifier as _};
use crate::model::Digest;
use serde::Deserialize;
use serde_json::json;

/// cosign's mark of its payloads.
const TYPE: &str = "cosign container image signature";

/// The bytes to be signed for the image `digest`, published as `name` (`HOST/REPOSITORY`; empty where not known yet).
pub fn payload(name: &str, digest: Digest) -> Vec<u8> {
    // serde_json sorts the keys of a Value: the same image is the same payload.
    json!({
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest.to_string()},
            "type": TYPE,
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The digest that a payload names, before anything is known of its signature.
///
/// # Errors
/// [`Refused::Malformed`].
pub fn claimed(payload: &[u8]) -> Result<Digest, Refused> {
    let malformed = |e: &dyn std::fmt::Display| Refused::Malformed(e.to_string());
    let Payload { critical } = serde_json::from_slice(payload).map_err(|e| malformed(&e))?;
    critical.image.digest.parse().map_err(|e| malformed(&e))
}

/// The digest in a payload that `key` signed, when it is `expected`.
///
/// # Errors
/// [`Refused`] when the signature does not hold, the payload is none, or it is about another image.
pub fn open(
    payload: &[u8],
    signature: &Signature,
    expected: Digest,
    key: &PublicKey,
) -> Result<Verified<Digest>, Refused> {
    key.verify(payload, signature)?.try_map(|bytes| {
        let Payload { critical } =
            serde_json::from_slice(bytes).map_err(|e| Refused::Malformed(e.to_string()))?;
        if critical.r#type != TYPE {
            return Err(Refused::Malformed(format!("a payload of type `{}`", critical.r#type)));
        }
        if critical.image.digest != expected.to_string() {
            return Err(Refused::OtherSubject {
                expected: expected.to_string(),
                found: critical.image.digest,
            });
        }
        Ok(expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{PrivateKey, Signer as _};

    #[test]
    fn a_payload_of_another_image_is_refused_although_signed() {
        let key = PrivateKey::generate().unwrap();
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        let payload = payload("registry.example/edge", a);
        let signature = key.sign(&payload).unwrap();
        assert_eq!(open(&payload, &signature, a, key.public_key()).unwrap().into_inner(), a);
        assert!(matches!(open(&payload, &signature, b, key.public_key()), Err(Refused::OtherSubject { .. })));
        let signed_text = b"{}";
        let signature = key.sign(signed_text).unwrap();
        assert!(matches!(open(signed_text, &signature, a, key.public_key()), Err(Refused::Malformed(_))));
    }
}
