//! What device and fleet say to each other: the calls, their bodies, and what they answer.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /v1/hello?nonce=` | none | [`Hello`] |
//! | `POST /v1/enroll` | [`Claim`], signed by device and ticket | [`Standing`] |
//! | `POST /v1/enroll/ID/attest` | [`Attest`] | [`Challenge`] |
//! | `GET /v1/enroll/ID?nonce=&wait=` | none | [`Standing`] |
//! | `POST /v1/enroll/ID/grant` | [`GrantRequest`] | a DSSE envelope around [`crate::enroll::grant::Grant`] |
//! | `POST /v1/enroll/ID/ack` | [`Ack`] | [`Standing`] |
//! | `POST /v1/enroll/ID/events` | [`Events`] | [`Standing`] |
//! | `POST /v1/reenroll` | [`Claim`], as for `enroll` | [`Standing`] |
//!
//! Every call, `POST` too, says a nonce of the device's in its query (`?nonce=`), and the answer is signed over it. The body
//! of a `POST` is signed over the fleet's nonce, which every answer brings for the next call. Both are
//! [`crate::enroll::envelope`]s. Repeating a call is always safe: one-time means *bound to one key*, so a lost answer
//! costs nothing.
//!
//! | status | says | the device |
//! |---|---|---|
//! | 200, 201 | [`Standing`]: known, or new and let in | goes on as `state` says |
//! | 202 | [`Standing`]: a person has still to say | waits with `GET`, which is held open |
//! | 401 | the fleet's nonce was stale or foreign | signs again with the nonce of this answer |
//! | 403 | denied, revoked, or not on the bundle's list | asks again once an hour |
//! | 404 | the device is unknown: the fleet lost it, or never knew | claims again |
//! | 409 | another box has the ticket, or something does not fit: quarantined | asks again once an hour |
//! | 410 | ticket or bundle withdrawn, or used up | asks again once an hour |
//! | 422 | the request makes no sense | asks again once an hour |
//! | 426 | the agent is too old | asks again once an hour |
//! | 429, 503 | too many at once | waits as long as it says |

use crate::enroll::DeviceId;
use crate::enroll::code::{Code, known};
use crate::enroll::envelope::Nonce;
use crate::enroll::evidence::Facts;
use crate::model::{Digest, Epoch};
use crate::sign::PublicKey;
use crate::sign::dsse::Envelope;
use serde::{Deserialize, Serialize};

/// The path of the first call.
pub const HELLO: &str = "/v1/hello";
/// The path of a claim.
pub const ENROLL: &str = "/v1/enroll";
/// The path of a claim that means to take the place of another device of the same box.
pub const REENROLL: &str = "/v1/reenroll";
/// Below an enrolled device's path, the calls that it makes.
pub fn path(device: &DeviceId, call: &str) -> String {
    if call.is_empty() { format!("{ENROLL}/{device}") } else { format!("{ENROLL}/{device}/{call}") }
}
/// The longest that the fleet holds a waiting call open, in seconds.
pub const MAX_WAIT_S: u32 = 50;
/// More events than one call brings; a device that was off for weeks sends several.
pub const MAX_EVENTS: usize = 256;

/// An answer: signed as a whole, its status too, because a proxy can set the one of HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// The HTTP status that the fleet gave.
    pub status: u16,
    /// The fleet's clock.
    pub now: Epoch,
    /// Signs the next request.
    pub nonce: Nonce,
    /// How long to wait before the next call, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// What was asked for, or why not.
    pub body: T,
}

/// The fleet is there: its name, and the serial below which bundles are too old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The fleet.
    pub fleet: String,
    /// Bundles with a lower serial are refused.
    pub min_bundle_serial: u64,
}

/// A device asks to be let in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The bundle's signed bootstrap: whoever issued it need not have told the endpoint before.
    pub bootstrap: Envelope,
    /// The device's identity; signs this claim.
    pub device_pub: PublicKey,
    /// The X25519 key that grants are sealed to, 32 bytes in base64.
    pub enc_pub: crate::enroll::grant::SealingKey,
    /// What the device says of its hardware.
    pub facts: Facts,
    /// A TPM's endorsement certificate, DER in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_cert: Option<String>,
    /// How often the device has booted.
    pub boot_count: u64,
    /// The version of `forge-device`.
    pub agent: String,
    /// The generation of the grant that the device holds; 0 for none. Lower than the fleet's is an old disk come back.
    pub generation: u64,
}

/// Where a device stands with its fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The device.
    pub device: DeviceId,
    /// Whether it is let in.
    pub state: State,
    /// Why, for the screen.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The node's name, which the fleet alone gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The generation of the grant that the fleet has for it; 0 for none.
    #[serde(default)]
    pub generation: u64,
}

/// Whether a device is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A person or a rule has still to say.
    Pending,
    /// Let in: a grant can be asked for.
    Approved,
    /// Let in, and the grant is on its disk.
    Joined,
    /// Not let in.
    Denied,
    /// Held back: something does not fit.
    Quarantined,
    /// Thrown out for good.
    Revoked,
}

impl State {
    /// The word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Approved => "approved",
            State::Joined => "joined",
            State::Denied => "denied",
            State::Quarantined => "quarantined",
            State::Revoked => "revoked",
        }
    }

    /// All of them.
    pub const ALL: [State; 6] =
        [State::Pending, State::Approved, State::Joined, State::Denied, State::Quarantined, State::Revoked];
}

/// What a refusal says: every answer with a status of 400 or more has it for a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For the screen; absent where the device goes on by itself: a stale nonce, too many at once.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    pub reason: String,
}

/// A step of proving a TPM's endorsement key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attest {
    /// TPMT_PUBLIC of the endorsement key, base64: what [`Facts::ek_sha256`] is the digest of.
    pub ek_public: String,
    /// TPMT_PUBLIC of the attestation key, base64.
    pub ak_public: String,
    /// What the TPM recovered from the last challenge, base64; asks for a challenge where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A credential that only the TPM with the endorsement key can open (TPM2_ActivateCredential), or that it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// TPM2B_ID_OBJECT, base64; absent when the proof is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_blob: Option<String>,
    /// TPM2B_ENCRYPTED_SECRET, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_secret: Option<String>,
    /// Whether the key is proved.
    pub proved: bool,
}

/// A device asks for its grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Drawn once for a generation and kept: the same nonce gets the same grant, byte for byte.
    pub nonce: Nonce,
    /// Certificates that it wants signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub csrs: Vec<Csr>,
    /// The generation that it has; 0 for none.
    pub have_generation: u64,
}

/// A request for a certificate (PKCS#10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Csr {
    /// What for: `edgecore`, `mgmt`.
    pub r#use: String,
    /// DER in base64.
    pub der: String,
}

/// A grant is on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Which.
    pub grant_id: String,
    /// Its generation.
    pub generation: u64,
    /// SHA-256 of the envelope as it was received.
    pub sha256: Digest,
}

/// Progress, in the order of happening.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// At most [`MAX_EVENTS`].
    pub events: Vec<Event>,
}

/// Something that happened on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Counts the device's events, so that none is taken twice.
    pub seq: u64,
    /// The device's clock, which may be wrong.
    pub at: Epoch,
    /// RFC 8572's names (`bootstrap-initiated`, `parsing-complete`, `config-error`, `bootstrap-complete`, …) or forge's.
    pub kind: String,
    /// The code on the screen.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// A sentence without secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}
