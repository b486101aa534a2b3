//! The document's shape, as it is written and read: JSON, a struct a table.

use crate::enroll::evidence::Match;
use crate::model::{Digest, Epoch};
use crate::sign::PublicKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Always [`super::SCHEMA`].
    pub schema: u32,
    /// Names the bundle, for revoking it.
    pub bundle_id: String,
    /// Never falls within a fleet: a device and its fleet refuse an older bundle than they have seen.
    pub serial: u64,
    /// The fleet.
    pub fleet: String,
    /// The batch, where the bundle is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// What admits the device.
    pub mode: Mode,
    /// When it was made: a device's clock is never before this.
    pub issued_at: Epoch,
    /// Which images may use it.
    pub image: ImageRule,
    /// Where the fleet answers, in the order of trying: by `priority`, then as listed.
    pub endpoints: Vec<Endpoint>,
    /// Keys that the roots let speak for the fleet every day.
    pub signers: GrantSigners,
    /// The boxes that it is for; any box where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRow>,
    /// The ticket, unless the mode has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// Network settings by port; DHCP on every port that none fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NetworkRule>,
    /// An HTTP proxy, `http://[USER:PASSWORD@]HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The authority of a proxy that inspects TLS, in PEM: trusted by the enrollment alone, never by the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_ca: Option<String>,
    /// Time servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<std::net::IpAddr>,
    /// What the fleet wants of a device.
    #[serde(default)]
    pub policy: DevicePolicy,
    /// The next roots, which the present ones sign by signing this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_next: Option<TrustNext>,
}

/// What admits a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No secret: the box's hardware is known to the fleet.
    IdentityOnly,
    /// A ticket for one box.
    Device,
    /// A ticket for a number of boxes.
    Batch,
}

/// Which images may use a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRule {
    /// The site of the profile that the image was made from.
    pub profile: String,
    /// Root hashes of the images, where they are pinned; without one last month's bundle works on this month's image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub root_hashes: Vec<Digest>,
}

/// A place where the fleet answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `https://HOST:PORT`, no path.
    pub url: String,
    /// SHA-256 of the SubjectPublicKeyInfo that the endpoint's certificate has; any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spki_sha256: Vec<Digest>,
    /// An authority in PEM that its certificate may chain to instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Lower is tried first.
    #[serde(default)]
    pub priority: u8,
}

/// Keys that answer and grant for the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantSigners {
    /// The keys.
    pub grant_keys: Vec<PublicKey>,
    /// How many have to sign a grant. An answer needs one.
    #[serde(default = "one")]
    pub threshold: usize,
}

fn one() -> usize {
    1
}

/// A box that a bundle is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRow {
    /// The row's name in the inventory; the node's name unless the fleet says otherwise.
    pub r#ref: String,
    /// What the box's hardware has to fit.
    #[serde(default)]
    pub r#match: Match,
    /// How much of it, in points of [`crate::enroll::evidence`].
    #[serde(default)]
    pub min_score: u32,
    /// Labels of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The public half of a bundle's credential, and its bounds. The server holds them, never the device's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Names it, for revoking it.
    pub id: String,
    /// Its public key; the seed is `ticket.key`.
    pub r#pub: PublicKey,
    /// How many boxes it lets ask.
    pub max_claims: u32,
    /// First instant of its use.
    pub not_before: Epoch,
    /// Last instant of a *first* use: a box that has claimed goes on.
    pub not_after: Epoch,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Settings for the ports that fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRule {
    /// Which ports: by what does not change when a card is added, so never `eth0`.
    pub r#match: PortMatch,
    /// Addresses with prefix lengths, `192.0.2.7/24`; DHCP and router advertisements where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Default routers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<std::net::IpAddr>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<std::net::IpAddr>,
    /// A tagged network on top of the port, which has the addresses then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// What names a port. All that is given has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMatch {
    /// The permanent hardware address, `02:00:00:00:00:01`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// udev's path, with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The kernel's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

/// What the fleet wants of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePolicy {
    /// Whether a box without a TPM may not join.
    #[serde(default)]
    pub require_tpm: bool,
    /// The first request comes at a random instant of that many seconds, so that a thousand boxes do not come at once.
    #[serde(default)]
    pub splay_s: u32,
    /// Shown on the screen when a person is needed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub support_text: String,
    /// Where the QR code leads: `PORTAL/e#DEVICE.WORDS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<String>,
}

/// The next roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustNext {
    /// The keys.
    pub roots: Vec<PublicKey>,
    /// How many of them have to sign.
    pub threshold: usize,
}
