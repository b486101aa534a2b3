//! The bundle: a directory of a few named files, on whatever carries it.
//!
//! ```text
//! forge-enroll/
//!   bootstrap.dsse.json     the signed bootstrap
//!   ticket.key              the ticket's seed: 32 bytes in base64; absent where none is needed
//!   revocation.dsse.json    optional
//!   grants/DEVICE.dsse.json offline: a grant that was made elsewhere
//! ```
//!
//! A carrier is hostile: only these names are asked for, each with a size that it may not pass, and nothing in it runs.

use crate::enroll::bootstrap::{Bootstrap, MAX_BOOTSTRAP, Rejected, Trust};
use crate::enroll::{DeviceId, MAX_BODY};
use crate::sign::{PrivateKey, Verified};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The directory's name on its carrier.
pub const DIRECTORY: &str = "forge-enroll";
/// The label of a partition or stick that carries one.
pub const LABEL: &str = "FORGE-ENROLL";
/// The signed bootstrap.
pub const BOOTSTRAP: &str = "bootstrap.dsse.json";
/// The ticket's seed.
pub const TICKET: &str = "ticket.key";
/// What is revoked.
pub const REVOCATION: &str = "revocation.dsse.json";

/// The name of an offline grant.
pub fn grant_name(device: &DeviceId) -> String {
    format!("grants/{device}.dsse.json")
}

/// The files that are read from a carrier at first, with the most bytes that each may have.
pub const FILES: &[(&str, usize)] = &[(BOOTSTRAP, MAX_BOOTSTRAP), (TICKET, 256), (REVOCATION, MAX_BODY)];

/// A bundle whose bootstrap is signed by the fleet.
#[derive(Debug)]
pub struct Bundle {
    /// The document.
    pub bootstrap: Verified<Bootstrap>,
    /// The ticket's key, where the mode has one.
    pub ticket: Option<PrivateKey>,
}

/// Why a bundle is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadBundle {
    /// There is none.
    #[error("there is no {BOOTSTRAP}")]
    Missing,
    /// Its bootstrap was refused.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The ticket's seed is missing or another's.
    #[error("{TICKET} {0}")]
    Ticket(&'static str),
}

impl Bundle {
    /// Reads the files of a bundle by name.
    ///
    /// # Errors
    /// [`BadBundle`].
    pub fn open(files: &BTreeMap<String, Zeroizing<Vec<u8>>>, trust: &Trust) -> Result<Bundle, BadBundle> {
        let bootstrap = files.get(BOOTSTRAP).ok_or(BadBundle::Missing)?;
        let bootstrap = Bootstrap::open(bootstrap, trust)?;
        let ticket = match &bootstrap.get().ticket {
            None => None,
            Some(wanted) => {
                let text = files.get(TICKET).ok_or(BadBundle::Ticket("is missing"))?;
                let key = read_seed(text).ok_or(BadBundle::Ticket("is not 32 bytes in base64"))?;
                if crate::sign::Signer::public_key(&key) != &wanted.r#pub {
                    return Err(BadBundle::Ticket("belongs to another bundle"));
                }
                Some(key)
            }
        };
        Ok(Bundle { bootstrap, ticket })
    }
}

/// Writes a ticket's seed as [`TICKET`] has it.
pub fn write_seed(key: &PrivateKey) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(*key.to_seed()) + "\n")
}

fn read_seed(text: &[u8]) -> Option<PrivateKey> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).ok()?);
    let seed = Zeroizing::new(<[u8; 32]>::try_from(&bytes[..]).ok()?);
    PrivateKey::from_seed(&seed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::bootstrap::tests::{bootstrap, key};
    use crate::sign::Signer as _;

    fn files(ticket: Option<&str>) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        let envelope = serde_json::to_vec(&bootstrap().sign(&[&key(1)]).unwrap()).unwrap();
        let mut files = BTreeMap::from([(BOOTSTRAP.to_string(), Zeroizing::new(envelope))]);
        if let Some(ticket) = ticket {
            files.insert(TICKET.into(), Zeroizing::new(ticket.as_bytes().to_vec()));
        }
        files
    }

    #[test]
    fn a_bundle_needs_its_own_ticket() {
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        let bundle = Bundle::open(&files(Some(&write_seed(&key(3)))), &trust).unwrap();
        assert_eq!(bundle.ticket.unwrap().key_id(), key(3).key_id());
        for (ticket, says) in [
            (None, "missing"),
            (Some(""), "not 32 bytes"),
            (Some("AAAA"), "not 32 bytes"),
            (Some(write_seed(&key(4)).as_str()), "another bundle"),
        ] {
            let refused = Bundle::open(&files(ticket), &trust).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
        }
        assert!(matches!(Bundle::open(&BTreeMap::new(), &trust), Err(BadBundle::Missing)));
    }
}
