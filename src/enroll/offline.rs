//! A request that a stick carries from a box without a network, and back as a grant (`forge enroll answer`).
//!
//! It is claim and request for a grant in one, signed by device and ticket over the grant's nonce: whoever answers needs
//! nothing else. The nonce makes the answer fresh: a grant is taken only for the nonce that the device keeps.

use crate::enroll::claim::{Claim, GrantRequest};
use crate::enroll::envelope::{Context, Direction, Sealed, seal};
use crate::enroll::{DeviceId, MAX_BODY};
use crate::sign::{Refused, Signer};
use serde::{Deserialize, Serialize};

/// The label of a stick that takes requests along.
pub const LABEL: &str = "FORGE-ENROLL-RW";
/// Stands in the signature for the call that it is not.
const PATH: &str = "offline";

/// What a box without a network asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfflineRequest {
    /// Who asks, and by what right.
    pub claim: Claim,
    /// What for.
    pub grant: GrantRequest,
}

/// The name of a device's request on a stick. Its answer is [`crate::enroll::bundle::grant_name`].
pub fn request_name(device: &DeviceId) -> String {
    format!("requests/{device}.req")
}

impl OfflineRequest {
    /// The bytes of the file, signed by device and ticket.
    ///
    /// # Errors
    /// What a signer says.
    pub fn seal(&self, signers: &[&dyn Signer]) -> anyhow::Result<Vec<u8>> {
        seal(signers, &self.context(), &serde_json::to_vec(self)?)
    }

    fn context(&self) -> Context<'_> {
        Context { direction: Direction::Request, method: "STICK", path: PATH, nonce: &self.grant.nonce }
    }

    /// Reads a file whose signatures hold, the device's among them; and the ticket's, where the claim's bootstrap has
    /// one. The bootstrap's own signature is for the caller to check, who knows the fleet's roots.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(bytes: &[u8]) -> Result<(OfflineRequest, crate::enroll::envelope::Signers), Refused> {
        if bytes.len() > MAX_BODY {
            return Err(Refused::Malformed(format!("a request of {} bytes", bytes.len())));
        }
        let sealed = Sealed::parse(bytes)?;
        let nonce = sealed.nonce().clone();
        let context = Context { direction: Direction::Request, method: "STICK", path: PATH, nonce: &nonce };
        let (payload, signers) = sealed.open(&context)?;
        let request: OfflineRequest =
            serde_json::from_slice(&payload).map_err(|e| Refused::Malformed(e.to_string()))?;
        if request.grant.nonce != nonce {
            return Err(Refused::Malformed("a request that is signed for another nonce".into()));
        }
        signers.include(&request.claim.device_pub)?;
        Ok((request, signers))
    }
}
