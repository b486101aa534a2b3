//! The key behind the certificate that others know the node by: made here, once, and never granted.
//!
//! A cluster's authority signs for its public half, through the fleet. The key stays for the device's life, so that a request
//! whose answer was lost is the same request; a disk that wakes up in other hardware throws it away with the identity.

use crate::device::artefact;
use crate::device::effects::{Effects, VaultError};
use crate::device::pause::Pause;
use crate::device::store::{MAX_ARTEFACT, Store};
use crate::enroll::claim::Csr;
use crate::enroll::code::Code;
use crate::enroll::csr::{CertificateKey, EDGECORE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;
use zeroize::Zeroizing;

/// Names the secret to the vault.
const NAME: &str = "forge-device-certificate";

/// The key, where there is one that opens in this box.
pub fn open(io: &mut impl Effects, store: &mut Store) -> Result<Option<CertificateKey>, Pause> {
    let Some(sealed) = store.get(io, Path::new(artefact::CERTIFICATE_KEY), MAX_ARTEFACT)? else {
        return Ok(None);
    };
    match io.unseal(NAME, &sealed) {
        Ok(pkcs8) => Ok(CertificateKey::from_pkcs8(&pkcs8).ok()),
        Err(VaultError::NotNow(why)) => Err(Pause::trouble(Code::TpmTrouble, why)),
        Err(VaultError::Never(_)) => Ok(None),
    }
}

/// The request for EdgeCore's certificate as `node`. Its key is durable before the request is there to be sent.
pub fn request(io: &mut impl Effects, store: &mut Store, node: &str) -> Result<Csr, Pause> {
    let unmade = |e: anyhow::Error| Pause::trouble(Code::TpmTrouble, format!("{e:#}"));
    let key = match open(io, store)? {
        Some(key) => key,
        None => {
            let key = CertificateKey::generate().map_err(unmade)?;
            let sealed = Zeroizing::new(io.seal(NAME, key.as_pkcs8()).map_err(unmade)?);
            store.put(io, Path::new(artefact::CERTIFICATE_KEY), &sealed, 0o600)?;
            key
        }
    };
    let der = STANDARD.encode(key.request(node).map_err(unmade)?);
    Ok(Csr { r#use: EDGECORE.into(), der })
}
