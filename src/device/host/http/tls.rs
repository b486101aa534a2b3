//! Whom a connection believes: a pinned key, or an authority of the bundle's; and by which clock.
//!
//! A pin is the SHA-256 of a SubjectPublicKeyInfo (RFC 7469's `pin-sha256`, in hex). It takes the place of the chain, the
//! name and the dates, which a box with a clock at 1970 could not check, and never of the handshake's own signature. The
//! provider is named here, because a program may be built with two and then has no default.

use crate::host::clock;
use crate::model::{Digest, Epoch};
use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    time_provider::TimeProvider,
};
use std::sync::Arc;
use std::time::Duration;

/// Whom to believe. Something has to be given.
#[derive(Clone, Debug)]
pub struct Trust {
    /// SHA-256 of the keys that the endpoint may have.
    pub pins: Vec<Digest>,
    /// Authorities in PEM, of the endpoint and of a proxy that inspects TLS.
    pub authorities: Vec<String>,
    /// What the clock is taken for where it says less.
    pub floor: Epoch,
}

/// The configuration of connections that believe `trust`.
///
/// # Errors
/// When an authority is no certificate.
pub fn configuration(trust: &Trust) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for pem in &trust.authorities {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.context("reading an authority of the bundle")?;
            roots.add(certificate).context("reading an authority of the bundle")?;
            found += 1;
        }
        anyhow::ensure!(found > 0, "an authority of the bundle is no certificate in PEM");
    }
    let chain = if roots.is_empty() {
        None
    } else {
        Some(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?)
    };
    let verifier = Pinned { provider: provider.clone(), pins: trust.pins.clone(), chain };
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Floor(trust.floor)))
        .with_safe_default_protocol_versions()?
        .dangerous() // a verifier of our own: below, with tests
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each connection is verified anew, by what the bundle says then.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The clock, or the floor where that is later.
#[derive(Debug)]
struct Floor(Epoch);

impl TimeProvider for Floor {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(clock::now().max(self.0).0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[derive(Debug)]
struct Pinned {
    provider: Arc<CryptoProvider>,
    pins: Vec<Digest>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        if self.pins.contains(&Digest::of(key.as_ref())) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chain {
            Some(chain) => chain.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
