//! RSA for UEFI, which knows nothing newer: keys as PEM, signatures as PKCS #1 v1.5 over SHA-256 (RFC 8017, 8.2), which
//! has no chance in it, so that the same image under the same key is the same bytes.
//!
//! A key may be a program's own (`cmd:`, see [`super::key_ref`]): it prints its public key as PEM for `key`, and the
//! signature of its standard input in base64 for `sign`. Or it is in a PKCS #11 token ([`super::token`]).

use super::key::MAX_PEM;
use super::key_file::Secret;
use super::key_ref::KeyRef;
use super::token::TokenKey;
use crate::model::Epoch;
use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine as _;
use std::time::Duration;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate for boot images, and its key.
pub struct BootSigner {
    certificate: Vec<u8>,
    key: Key,
}

enum Key {
    Own(RsaKeyPair),
    Program(KeyRef),
    Token(TokenKey),
}

impl BootSigner {
    /// The signer with the key at `key` and `certificate` in PEM or DER. `passphrase` is asked only where the key is encrypted.
    ///
    /// # Errors
    /// When there is no RSA key of 2048 to 4096 bits there, or it is not the certificate's.
    pub fn open(
        key: &KeyRef,
        certificate: &[u8],
        passphrase: impl FnOnce() -> anyhow::Result<Secret>,
    ) -> anyhow::Result<BootSigner> {
        let certificate = certificate_der(certificate)?;
        if let KeyRef::Token(uri) = key {
            let opened = uri.open(passphrase).with_context(|| format!("opening key {key}"))?;
            return BootSigner { certificate, key: Key::Token(opened) }.tried(key);
        }
        let pem = key.secret().with_context(|| format!("reading key {key}"))?;
        let signer = if pem.trim_start().starts_with("-----BEGIN PUBLIC KEY-----") {
            ensure!(matches!(key, KeyRef::Command(_)), "{key} is a public key, which signs nothing");
            BootSigner { certificate, key: Key::Program(key.clone()) }
        } else {
            let der = super::key_file::private_der(&pem, passphrase)
                .with_context(|| format!("reading key {key}"))?;
            let pair = RsaKeyPair::from_pkcs8(&der)
                .map_err(|e| anyhow::anyhow!("{key} is no RSA key in PKCS #8 of 2048 to 4096 bits: {e}"))?;
            BootSigner { certificate, key: Key::Own(pair) }
        };
        signer.tried(key)
    }

    /// It, if its key is the certificate's: another's would make images that no machine starts.
    fn tried(self, key: &KeyRef) -> anyhow::Result<BootSigner> {
        self.sign(b"forge").with_context(|| format!("trying key {key}"))?;
        Ok(self)
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The signature of `message`, checked under the certificate.
    ///
    /// # Errors
    /// When the program says no, or the key is another than the certificate's.
    pub fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let signature = match &self.key {
            Key::Own(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| anyhow::anyhow!("signing with RSA"))?;
                signature
            }
            Key::Token(key) => key.sign(message)?,
            Key::Program(program) => {
                let text = program.signature(message)?;
                base64::engine::general_purpose::STANDARD
                    .decode(text.trim())
                    .context("reading a signature in base64")?
            }
        };
        verify(&self.certificate, message, &signature).context("the key is not the certificate's")?;
        Ok(signature)
    }
}

/// A certificate as DER, out of PEM or DER.
///
/// # Errors
/// When it is no X.509 certificate with an RSA key.
pub fn certificate_der(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(bytes.len() <= MAX_PEM, "a certificate of {} bytes", bytes.len());
    let der = match x509_parser::pem::Pem::iter_from_buffer(bytes).next() {
        Some(Ok(block)) if block.label == "CERTIFICATE" => block.contents,
        _ => bytes.to_vec(),
    };
    match X509Certificate::from_der(&der) {
        Ok(([], _)) => Ok(der),
        _ => bail!("this is no X.509 certificate, in PEM or DER"),
    }
}

/// What a certificate says of its owner: `CN=…`.
pub fn subject(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject().to_string())
}

/// Checks that the key of `certificate` (DER) signed `message`.
///
/// # Errors
/// When it did not.
pub fn verify(certificate: &[u8], message: &[u8], signature: &[u8]) -> anyhow::Result<()> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| anyhow::anyhow!("no certificate"))?;
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.as_ref())
        .verify(message, signature)
        .map_err(|_| anyhow::anyhow!("an RSA signature does not hold"))
}

/// Checks that the key of `authority` signed `certificate`, both DER, with RSA PKCS #1 v1.5 over SHA-256. Dates are not looked
/// at: what starts a machine looks at none.
///
/// # Errors
/// When it did not, or either is no certificate.
pub fn issued(certificate: &[u8], authority: &[u8]) -> anyhow::Result<()> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| anyhow::anyhow!("no certificate"))?;
    verify(authority, parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
}

/// A new RSA key of 2048 bits, which every firmware takes: PKCS #8 in DER.
///
/// # Errors
/// When the machine has no randomness.
pub fn generate() -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow::anyhow!("making an RSA key"))?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| anyhow::anyhow!("writing an RSA key"))?;
    Ok(zeroize::Zeroizing::new(der.as_ref().to_vec()))
}

/// A certificate for `key` (PKCS #8 in DER), which signs itself, in PEM: good for boot images, for 30 years from `now`, because
/// firmware that has it is never visited again. Firmware itself looks at no date.
///
/// # Errors
/// When `key` is no RSA key, or `name` no name.
pub fn self_signed(key: &[u8], name: &str, now: Epoch) -> anyhow::Result<String> {
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key.into(), &rcgen::PKCS_RSA_SHA256)
        .context("reading an RSA key")?;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1)
            .checked_add(Duration::from_secs(seconds.unsigned_abs()).try_into().ok()?)
    };
    let day = 86_400;
    let start = now.0 - now.0.rem_euclid(day);
    let limits = at(start).zip(at(start + 30 * 365 * day));
    (parameters.not_before, parameters.not_after) = limits.context("the clock is out of all time")?;
    Ok(parameters.self_signed(&key).context("signing a certificate")?.pem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_signs_under_its_own_certificate_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("boot.key");
        let key = generate().unwrap();
        std::fs::write(&at, super::super::key_file::private_pem(&key, None).unwrap().as_bytes()).unwrap();
        let certificate = self_signed(&key, "shop", Epoch(1_763_769_600)).unwrap();
        let none = || bail!("asked for a passphrase");
        let signer = BootSigner::open(&KeyRef::File(at.clone()), certificate.as_bytes(), none).unwrap();
        assert_eq!(signer.sign(b"image").unwrap(), signer.sign(b"image").unwrap(), "no chance is in it");
        assert_eq!(subject(signer.certificate()).as_deref(), Some("CN=shop"));
        let signature = signer.sign(b"image").unwrap();
        assert!(verify(signer.certificate(), b"image", &signature).is_ok());
        assert!(verify(signer.certificate(), b"imagf", &signature).is_err());
        let other = self_signed(&generate().unwrap(), "other", Epoch(0)).unwrap();
        let (own, others) = (signer.certificate(), certificate_der(other.as_bytes()).unwrap());
        assert!(issued(own, own).is_ok() && issued(own, &others).is_err() && issued(b"none", own).is_err());
        let refused = BootSigner::open(&KeyRef::File(at), other.as_bytes(), none).err().unwrap();
        assert!(format!("{refused:#}").contains("not the certificate's"), "{refused:#}");
    }
}
