//! When certificates lapse: PEM in, the earliest last instant out. Nothing is verified here.
//!
//! RFC 5280 `Validity`. What a bundle carries must not lapse while the box lies in a warehouse.

use super::Refused;
use super::key::MAX_PEM;
use crate::model::Epoch;

/// The last instant at which every certificate in `pem` is valid.
///
/// # Errors
/// [`Refused::Malformed`] when there is none, or one that cannot be read.
pub fn valid_until(pem: &str) -> Result<Epoch, Refused> {
    // A chain is a few certificates.
    if pem.len() > 8 * MAX_PEM {
        return Err(Refused::Malformed(format!("{} bytes of certificates", pem.len())));
    }
    let mut earliest: Option<Epoch> = None;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|e| Refused::Malformed(e.to_string()))?;
        let certificate = block.parse_x509().map_err(|e| Refused::Malformed(e.to_string()))?;
        let last = Epoch(certificate.validity().not_after.timestamp());
        earliest = Some(earliest.map_or(last, |e| e.min(last)));
    }
    earliest.ok_or_else(|| Refused::Malformed("no certificate in PEM".into()))
}
