//! Requests for certificates (PKCS#10, RFC 2986): a device's P-256 key and a node's name → a request that says nothing else,
//! and back.
//!
//! Whoever signs certificates reads a request with a parser of his own, and KubeEdge's CloudCore believes every word of one,
//! without holding the signature against the key. So the fleet takes but one request for each key and name, byte for byte: the
//! subject of a node (`O=system:nodes`, `CN=system:node:NAME`), the key, no attribute and with them no other name, and the
//! key's own signature over just that. What is passed on leaves nothing to be read in another way.

use crate::model::Digest;
use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use std::fmt;
use zeroize::Zeroizing;

/// What a request for EdgeCore's certificate is marked with.
pub const EDGECORE: &str = "edgecore";
/// The longest request, in bytes: of a name of 63 letters it has some 350.
pub const MAX_REQUEST: usize = 1024;

/// SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480 §2).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point.
const POINT: usize = 65;
/// AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758 §3.2).
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// organizationName and commonName (X.520), as object identifiers.
const ORGANIZATION: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x0a];
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// Version 1, which is spelled 0.
const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
/// No attributes.
const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0x00];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;

/// A device's key for a certificate that somebody else signs.
pub struct CertificateKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl CertificateKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> anyhow::Result<CertificateKey> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| anyhow!("making a key"))?;
        CertificateKey::from_pkcs8(pkcs8.as_ref())
    }

    /// The key that [`CertificateKey::as_pkcs8`] gave.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pkcs8(der: &[u8]) -> anyhow::Result<CertificateKey> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new())
            .map_err(|e| anyhow!("reading a key: {e}"))?;
        Ok(CertificateKey { pair, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    /// The key as PKCS#8, DER.
    pub fn as_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key as PKCS#8, PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        to_pem("PRIVATE KEY", &self.pkcs8)
    }

    /// SHA-256 of the public half as SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> Digest {
        Digest::of([&SPKI[..], self.pair.public_key().as_ref()].concat())
    }

    /// The request for a certificate of `node`, DER.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn request(&self, node: &str) -> anyhow::Result<Vec<u8>> {
        let info = info(node, self.pair.public_key().as_ref());
        let signature =
            self.pair.sign(&SystemRandom::new(), &info).map_err(|_| anyhow!("signing a request"))?;
        let bits = tlv(BIT_STRING, &[&[0], signature.as_ref()].concat());
        Ok(tlv(SEQUENCE, &[&info[..], &ECDSA_WITH_SHA256, &bits].concat()))
    }
}

impl fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateKey({}, ***)", self.spki_sha256())
    }
}

/// Why a request is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// Not what RFC 2986 and DER say.
    #[error("it is no request for a certificate")]
    Unreadable,
    /// Of another kind than P-256.
    #[error("its key is none of P-256")]
    Key,
    /// For somebody else, or with more in it than a node's name.
    #[error("it is not for system:node:{0}")]
    Subject(String),
    /// Other names, uses, anything that would become the certificate's.
    #[error("it asks for more than a subject: other names or uses")]
    Attributes,
    /// Whoever made it does not have the key.
    #[error("it is not signed by its own key")]
    Signature,
}

/// A request that is for the right node, and whose maker has its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRequest {
    /// The request, DER, which has nothing in it but the name and the key.
    pub der: Vec<u8>,
    /// The public key as SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

impl VerifiedRequest {
    /// SHA-256 of the public key.
    pub fn spki_sha256(&self) -> Digest {
        Digest::of(&self.spki)
    }
}

/// Reads a request for a certificate of `node`.
///
/// # Errors
/// [`BadRequest`] for any that [`CertificateKey::request`] would not have made for `node`.
pub fn verify(der: &[u8], node: &str) -> Result<VerifiedRequest, BadRequest> {
    if der.len() > MAX_REQUEST {
        return Err(BadRequest::Unreadable);
    }
    let (request, rest) = element(der, SEQUENCE)?;
    let (info, after) = split(request.content, SEQUENCE)?;
    let (algorithm, after) = split(after, SEQUENCE)?;
    let (bits, end) = element(after, BIT_STRING)?;
    if !rest.is_empty() || !end.is_empty() {
        return Err(BadRequest::Unreadable);
    }
    let (inside, _) = element(info, SEQUENCE)?;
    let after = inside.content.strip_prefix(&VERSION).ok_or(BadRequest::Unreadable)?;
    let (subject, after) = split(after, SEQUENCE)?;
    let (spki, attributes) = split(after, SEQUENCE)?;
    let point = spki.strip_prefix(&SPKI).filter(|point| point.len() == POINT && point[0] == 4);
    let point = point.ok_or(BadRequest::Key)?;
    if subject != name(node) {
        return Err(BadRequest::Subject(node.into()));
    }
    if attributes != NO_ATTRIBUTES {
        return Err(BadRequest::Attributes);
    }
    let signature = bits.content.strip_prefix(&[0]).filter(|_| algorithm == ECDSA_WITH_SHA256);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    key.verify(info, signature.ok_or(BadRequest::Signature)?).map_err(|_| BadRequest::Signature)?;
    Ok(VerifiedRequest { der: der.to_vec(), spki: spki.to_vec() })
}

/// `der` in the armour of RFC 7468.
pub fn to_pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // With all of its room at once: what grows leaves copies behind.
    let mut pem = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    *pem += &format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    *pem += &format!("-----END {label}-----\n");
    pem
}

/// CertificationRequestInfo: what is signed.
fn info(node: &str, point: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&VERSION[..], &name(node), &SPKI, point, &NO_ATTRIBUTES].concat())
}

/// The name under which Kubernetes' node authorizer knows `node`.
fn name(node: &str) -> Vec<u8> {
    let part = |kind: &[u8], text: &str| {
        let value = tlv(UTF8_STRING, text.as_bytes());
        tlv(SET, &tlv(SEQUENCE, &[kind, &value].concat()))
    };
    let common = format!("system:node:{node}");
    tlv(SEQUENCE, &[part(&ORGANIZATION, "system:nodes"), part(&COMMON_NAME, &common)].concat())
}

/// An element of DER: tag, length in its shortest form, content (X.690 §10.1).
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut all = vec![tag];
    match content.len() {
        short @ 0..=0x7f => all.push(short as u8),
        one @ 0x80..=0xff => all.extend([0x81, one as u8]),
        two => all.extend([0x82, (two >> 8) as u8, two as u8]), // nothing here has 64 KiB
    }
    all.extend(content);
    all
}

struct Element<'a> {
    content: &'a [u8],
    /// Tag and length too.
    length: usize,
}

/// The element that `bytes` begins with, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Result<(Element<'_>, &[u8]), BadRequest> {
    let unreadable = BadRequest::Unreadable;
    let (head, length) = match *bytes {
        [t, n @ 0..=0x7f, ..] if t == tag => (2, usize::from(n)),
        [t, 0x81, n @ 0x80..=0xff, ..] if t == tag => (3, usize::from(n)),
        [t, 0x82, high @ 1..=0xff, low, ..] if t == tag => (4, usize::from(high) << 8 | usize::from(low)),
        _ => return Err(unreadable),
    };
    let content = bytes.get(head..head + length).ok_or(unreadable)?;
    Ok((Element { content, length: head + length }, &bytes[head + length..]))
}

/// The same with the element as it stands.
fn split(bytes: &[u8], tag: u8) -> Result<(&[u8], &[u8]), BadRequest> {
    let (element, _) = element(bytes, tag)?;
    Ok(bytes.split_at(element.length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    /// A request that another program made, with what it likes in it.
    fn foreign(node: &str, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let text = |s: &str| DnValue::Utf8String(s.into());
        params.distinguished_name.push(DnType::OrganizationName, text("system:nodes"));
        params.distinguished_name.push(DnType::CommonName, text(&format!("system:node:{node}")));
        change(&mut params);
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_is_for_its_node_and_nothing_else() {
        let key = CertificateKey::generate().unwrap();
        for node in ["barn-7", &"a".repeat(63)] {
            let der = key.request(node).unwrap();
            let verified = verify(&der, node).unwrap();
            assert_eq!(verified.spki_sha256(), key.spki_sha256());
            assert_eq!(verified.der, der);
            assert_eq!(verify(&der, "barn-8").unwrap_err(), BadRequest::Subject("barn-8".into()));
        }
        let again = CertificateKey::from_pkcs8(key.as_pkcs8()).unwrap();
        assert_eq!(again.spki_sha256(), key.spki_sha256());
        assert!(!format!("{key:?}").contains(&key.to_pem()[30..80]));
    }

    #[test]
    fn what_others_make_is_judged_by_what_is_in_it() {
        let good = foreign("barn-7", |_| {});
        assert!(verify(&good, "barn-7").is_ok(), "the one encoding, whoever made it");
        let with_san = foreign("barn-7", |params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName("cloudcore.example".try_into().unwrap())];
        });
        assert_eq!(verify(&with_san, "barn-7").unwrap_err(), BadRequest::Attributes);
        let serving = foreign("barn-7", |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        });
        assert_eq!(verify(&serving, "barn-7").unwrap_err(), BadRequest::Attributes);
        let second_name = foreign("barn-7", |params| {
            params.distinguished_name.push(DnType::CountryName, DnValue::Utf8String("system:masters".into()));
        });
        assert_eq!(verify(&second_name, "barn-7").unwrap_err(), BadRequest::Subject("barn-7".into()));
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other_key = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        assert_eq!(verify(&other_key, "barn-7").unwrap_err(), BadRequest::Key);
    }

    #[test]
    fn whoever_does_not_have_the_key_gets_nothing() {
        let (key, thief) = (CertificateKey::generate().unwrap(), CertificateKey::generate().unwrap());
        let (mine, theirs) = (key.request("barn-7").unwrap(), thief.request("barn-7").unwrap());
        // The key of one and the signature of the other.
        let (info, _) = split(element(&mine, SEQUENCE).unwrap().0.content, SEQUENCE).unwrap();
        let (their_info, rest) = split(element(&theirs, SEQUENCE).unwrap().0.content, SEQUENCE).unwrap();
        assert_eq!(info.len(), their_info.len());
        let stolen = tlv(SEQUENCE, &[info, rest].concat());
        assert_eq!(verify(&stolen, "barn-7").unwrap_err(), BadRequest::Signature);
        // Asked for one name, changed to another of the same length.
        let place = mine.windows(6).position(|w| w == b"barn-7").unwrap();
        let mut renamed = mine.clone();
        renamed[place..place + 6].copy_from_slice(b"barn-8");
        assert_eq!(verify(&renamed, "barn-8").unwrap_err(), BadRequest::Signature);
    }

    proptest! {
        #[test]
        fn no_byte_can_be_changed(at in 0usize..400, bit in 0u8..8) {
            let der = CertificateKey::generate().unwrap().request("barn-7").unwrap();
            let mut changed = der.clone();
            let at = at % der.len();
            changed[at] ^= 1 << bit;
            prop_assert!(verify(&changed, "barn-7").is_err());
            prop_assert!(verify(&der[..at], "barn-7").is_err());
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = verify(&bytes, "barn-7");
        }
    }
}
