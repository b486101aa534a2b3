//! A TPM's endorsement certificate → the maker that vouches for it.
//!
//! Which makers are believed is the operator's choice: the certificates in `tpm-roots/`, roots or the intermediate ones that
//! makers publish. Each is an anchor, and an endorsement certificate has to be signed by one of them: nothing is fetched
//! while a box waits. TCG EK Credential Profile 2.5, 3; RFC 5280, 4.1 and 4.2.1.
//!
//! Validity is not looked at: boxes outlive the certificates that were burnt into them, and what a key proves is that it
//! answered a challenge now.

use anyhow::Context as _;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use std::path::Path;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{self, Oid};
use x509_parser::prelude::{FromDer as _, Pem};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// No file of anchors is larger, in bytes: all makers' certificates together are less.
const MAX_ANCHORS: u64 = 4 << 20;

/// The makers whose word counts.
#[derive(Debug, Default)]
pub struct Makers {
    /// DER.
    anchors: Vec<Vec<u8>>,
}

/// Why no maker vouches for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unvouched {
    /// It is no certificate.
    #[error("the endorsement certificate cannot be read: {0}")]
    Unreadable(String),
    /// It is for something else.
    #[error("the certificate is not for an endorsement key: {0}")]
    OtherUse(&'static str),
    /// It is of another key.
    #[error("the endorsement certificate is of another key")]
    OtherKey,
    /// Nobody who is believed signed it.
    #[error("no known maker signed the endorsement certificate; its issuer is {0}")]
    UnknownMaker(String),
}

impl Makers {
    /// The certificates in the `.pem` files of `dir`; none where there is no directory.
    ///
    /// # Errors
    /// When a file has something that is no certificate of an authority: an anchor that is silently missing would be found
    /// by a box that stays outside.
    pub fn load(dir: &Path) -> anyhow::Result<Makers> {
        let mut makers = Makers::default();
        let entries = match std::fs::read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(makers),
            other => other.with_context(|| format!("reading {}", dir.display()))?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "pem") {
                let size = std::fs::metadata(&path)?.len();
                anyhow::ensure!(size <= MAX_ANCHORS, "{} has {size} bytes", path.display());
                let pem = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                makers.add(&pem).with_context(|| format!("reading {}", path.display()))?;
            }
        }
        Ok(makers)
    }

    /// Believes the authorities in `pem`.
    ///
    /// # Errors
    /// When one is none, or there is none at all.
    pub fn add(&mut self, pem: &[u8]) -> anyhow::Result<()> {
        let before = self.anchors.len();
        for block in Pem::iter_from_buffer(pem) {
            let block = block.context("reading PEM")?;
            let certificate = block.parse_x509().context("reading a certificate")?;
            anyhow::ensure!(certificate.is_ca(), "{} is no authority", certificate.subject());
            self.anchors.push(block.contents);
        }
        anyhow::ensure!(self.anchors.len() > before, "there is no certificate in it");
        Ok(())
    }

    /// The maker that signed `certificate` (DER) for the endorsement key with the RSA `modulus`.
    ///
    /// # Errors
    /// [`Unvouched`].
    pub fn vouch(&self, certificate: &[u8], modulus: &[u8; 256]) -> Result<String, Unvouched> {
        // What is behind it is the rest of the TPM's storage.
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|e| Unvouched::Unreadable(e.to_string()))?;
        // TCG EK Credential Profile, 3.2.16: tcg-kp-EKCertificate.
        const EK_CERTIFICATE: &[u64] = &[2, 23, 133, 8, 1];
        if certificate.is_ca() {
            return Err(Unvouched::OtherUse("it is an authority's"));
        }
        let unreadable = |e: x509_parser::error::X509Error| Unvouched::Unreadable(e.to_string());
        if let Some(uses) = certificate.extended_key_usage().map_err(unreadable)? {
            let wanted = Oid::from(EK_CERTIFICATE).ok();
            if !uses.value.other.iter().any(|oid| wanted.as_ref() == Some(oid)) {
                return Err(Unvouched::OtherUse("its extended key usage says so"));
            }
        }
        match certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key))
                if unsigned(key.modulus) == modulus && unsigned(key.exponent) == [1, 0, 1] => {}
            _ => return Err(Unvouched::OtherKey),
        }
        for anchor in &self.anchors {
            let Ok((_, maker)) = X509Certificate::from_der(anchor) else { continue };
            if maker.subject() == certificate.issuer() && signed(&certificate, maker.public_key()) {
                return Ok(maker.subject().to_string());
            }
        }
        Err(Unvouched::UnknownMaker(certificate.issuer().to_string()))
    }
}

/// A DER integer without its sign.
fn unsigned(integer: &[u8]) -> &[u8] {
    integer.strip_prefix(&[0]).unwrap_or(integer)
}

/// Whether `key` signed `certificate`.
fn signed(certificate: &X509Certificate<'_>, key: &SubjectPublicKeyInfo<'_>) -> bool {
    let algorithm = &certificate.signature_algorithm.algorithm;
    let Some(verification) = verification(algorithm, key) else { return false };
    UnparsedPublicKey::new(verification, &*key.subject_public_key.data)
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .is_ok()
}

/// How a signature of `algorithm` by `key` is verified; nothing for what no maker uses, SHA-1 among it.
fn verification(
    algorithm: &Oid<'_>,
    key: &SubjectPublicKeyInfo<'_>,
) -> Option<&'static dyn VerificationAlgorithm> {
    use oid_registry as oid;
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let curve = |named: &Oid<'_>| curve.as_ref() == Some(named);
    let elliptic = key.algorithm.algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY;
    let rsa = key.algorithm.algorithm == oid::OID_PKCS1_RSAENCRYPTION;
    let found: &'static dyn VerificationAlgorithm = match algorithm {
        a if rsa && *a == oid::OID_PKCS1_SHA256WITHRSA => &signature::RSA_PKCS1_2048_8192_SHA256,
        a if rsa && *a == oid::OID_PKCS1_SHA384WITHRSA => &signature::RSA_PKCS1_2048_8192_SHA384,
        a if rsa && *a == oid::OID_PKCS1_SHA512WITHRSA => &signature::RSA_PKCS1_2048_8192_SHA512,
        a if elliptic && *a == oid::OID_SIG_ECDSA_WITH_SHA256 && curve(&oid::OID_EC_P256) => {
            &signature::ECDSA_P256_SHA256_ASN1
        }
        a if elliptic && *a == oid::OID_SIG_ECDSA_WITH_SHA256 && curve(&oid::OID_NIST_EC_P384) => {
            &signature::ECDSA_P384_SHA256_ASN1
        }
        a if elliptic && *a == oid::OID_SIG_ECDSA_WITH_SHA384 && curve(&oid::OID_EC_P256) => {
            &signature::ECDSA_P256_SHA384_ASN1
        }
        a if elliptic && *a == oid::OID_SIG_ECDSA_WITH_SHA384 && curve(&oid::OID_NIST_EC_P384) => {
            &signature::ECDSA_P384_SHA384_ASN1
        }
        _ => return None,
    };
    Some(found)
}
