//! Issuing bundles: a fleet's public description and an inventory in, signed bundles out.
//!
//! Pure but for the randomness of the tickets: where the bundles go is the caller's business. A bundle is a secret only
//! for its ticket; whoever has the fleet's root key can issue more at any time, and the endpoint need not be told, because
//! a claim brings its bootstrap along.

use crate::enroll::bootstrap::{
    Bootstrap, DevicePolicy, Endpoint, GrantSigners, ImageRule, Mode, NetworkRule, SCHEMA, Ticket,
};
use crate::enroll::bundle::{self, BOOTSTRAP, TICKET};
use crate::enroll::inventory::Row;
use crate::model::{Digest, Epoch};
use crate::sign::{PrivateKey, PublicKey, Signer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// What anyone may know of a fleet, and bundles have to say of it: `fleet.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Always 1.
    pub schema: u32,
    /// The fleet's name.
    pub fleet: String,
    /// SHA-256 of the keys (SubjectPublicKeyInfo) of its endpoints' certificates.
    #[serde(default)]
    pub spki_sha256: Vec<Digest>,
    /// An authority (PEM) that its endpoints' certificates chain to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Keys that answer and grant for it.
    pub grant_keys: Vec<PublicKey>,
}

/// What is ordered.
#[derive(Clone, Debug)]
pub struct Order {
    /// The fleet.
    pub fleet: Description,
    /// Where it answers, in the order of trying.
    pub endpoints: Vec<String>,
    /// The site of the profile that the images are made from.
    pub profile: String,
    /// What admits a device.
    pub mode: Mode,
    /// The batch's name, for a ticket that a batch shares.
    pub batch: Option<String>,
    /// How many boxes a batch's ticket lets in.
    pub max_claims: u32,
    /// Not lower than that of any bundle before.
    pub serial: u64,
    /// The issuer's clock.
    pub issued_at: Epoch,
    /// How long a box may lie before it is plugged in, in days.
    pub shelf_life_days: u32,
    /// The boxes.
    pub rows: Vec<Row>,
    /// An HTTP proxy.
    pub proxy: Option<String>,
    /// The authority of a proxy that inspects TLS, PEM.
    pub proxy_ca: Option<String>,
    /// Time servers.
    pub ntp: Vec<String>,
    /// What the fleet wants of a device.
    pub policy: DevicePolicy,
}

/// A bundle's files.
#[derive(Debug)]
pub struct Issued {
    /// The box's name, or the batch's.
    pub name: String,
    /// Content by name, relative to [`bundle::DIRECTORY`]. The ticket is secret.
    pub files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// Why nothing is issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadOrder {
    /// Boxes that admit themselves have to be listed.
    #[error("{0} needs an inventory")]
    NoRows(&'static str),
    /// The document would not be read by a device.
    #[error("the bundle would be refused: {0}")]
    Refused(String),
    /// The key does not sign, or there is no randomness.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Makes the bundles: one a box where each has a ticket of its own, else one for all. `root` signs.
///
/// # Errors
/// [`BadOrder`]; nothing is issued then.
pub fn issue(order: &Order, root: &dyn Signer) -> Result<Vec<Issued>, BadOrder> {
    let trust = crate::enroll::Trust::any(vec![root.public_key().clone()]);
    let name = order.batch.clone().unwrap_or_else(|| order.profile.clone());
    match order.mode {
        Mode::Device if order.rows.is_empty() => Err(BadOrder::NoRows("a ticket for each device")),
        Mode::IdentityOnly if order.rows.is_empty() => Err(BadOrder::NoRows("a fleet without tickets")),
        Mode::Device => order
            .rows
            .iter()
            .map(|row| bundle_for(order, std::slice::from_ref(row), &row.device.r#ref, 1, root, &trust))
            .collect(),
        Mode::Batch | Mode::IdentityOnly => {
            Ok(vec![bundle_for(order, &order.rows, &name, order.max_claims, root, &trust)?])
        }
    }
}

fn bundle_for(
    order: &Order,
    rows: &[Row],
    name: &str,
    max_claims: u32,
    root: &dyn Signer,
    trust: &crate::enroll::Trust,
) -> Result<Issued, BadOrder> {
    let key = match order.mode {
        Mode::IdentityOnly => None,
        Mode::Device | Mode::Batch => Some(PrivateKey::generate()?),
    };
    let shelf_life = i64::from(order.shelf_life_days) * 86_400;
    let ticket = key.as_ref().map(|key| Ticket {
        id: format!("t-{}", &key.key_id().0.hex()[..16]),
        r#pub: key.public_key().clone(),
        max_claims,
        not_before: order.issued_at,
        not_after: Epoch(order.issued_at.0.saturating_add(shelf_life)),
        note: name.into(),
    });
    let endpoint = |(n, url): (usize, &String)| Endpoint {
        url: url.trim_end_matches('/').into(),
        spki_sha256: order.fleet.spki_sha256.clone(),
        ca_pem: order.fleet.ca_pem.clone(),
        priority: u8::try_from(n).unwrap_or(u8::MAX),
    };
    let network: Vec<NetworkRule> = rows.iter().filter_map(|row| row.network.clone()).collect();
    let document = Bootstrap {
        schema: SCHEMA,
        bundle_id: format!("b-{}-{}", order.serial, random_word()?),
        serial: order.serial,
        fleet: order.fleet.fleet.clone(),
        batch: order.batch.clone(),
        mode: order.mode,
        issued_at: order.issued_at,
        image: ImageRule { profile: order.profile.clone(), root_hashes: vec![] },
        endpoints: order.endpoints.iter().enumerate().map(endpoint).collect(),
        signers: GrantSigners { grant_keys: order.fleet.grant_keys.clone(), threshold: 1 },
        devices: rows.iter().map(|row| row.device.clone()).collect(),
        ticket,
        network,
        proxy: order.proxy.clone(),
        proxy_ca: order.proxy_ca.clone(),
        ntp: order.ntp.clone(),
        dns: vec![],
        policy: order.policy.clone(),
        trust_next: None,
    };
    let envelope = serde_json::to_vec(&document.sign(&[root])?).map_err(anyhow::Error::from)?;
    // As a device will read it: what is refused there must not be shipped.
    Bootstrap::open(&envelope, trust).map_err(|e| BadOrder::Refused(e.to_string()))?;
    let mut files = BTreeMap::from([(BOOTSTRAP.to_string(), Zeroizing::new(envelope))]);
    if let Some(key) = key {
        files.insert(TICKET.into(), Zeroizing::new(bundle::write_seed(&key).as_bytes().to_vec()));
    }
    Ok(Issued { name: name.into(), files })
}

/// 64 random bits in hex.
fn random_word() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
    Ok(crate::model::digest::hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::bootstrap::tests::key;
    use crate::enroll::{Bundle, Trust, inventory};

    fn order(mode: Mode, table: &str) -> Order {
        Order {
            fleet: Description {
                schema: 1,
                fleet: "shops".into(),
                spki_sha256: vec![Digest::of("certificate")],
                ca_pem: None,
                grant_keys: vec![key(9).public_key().clone()],
            },
            endpoints: vec!["https://fleet.example:8443/".into(), "https://192.0.2.7:8443".into()],
            profile: "store-042".into(),
            mode,
            batch: None,
            max_claims: 20,
            serial: 1_795_305_600,
            issued_at: Epoch(1_795_305_600),
            shelf_life_days: 180,
            rows: if table.is_empty() { vec![] } else { inventory::parse(table.as_bytes()).unwrap() },
            proxy: None,
            proxy_ca: None,
            ntp: vec![],
            policy: DevicePolicy::default(),
        }
    }

    #[test]
    fn each_box_gets_a_ticket_of_its_own_and_its_own_row() {
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        let issued = issue(&order(Mode::Device, "name,serial\na,PF-1\nb,PF-2\n"), &key(1)).unwrap();
        assert_eq!(issued.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let opened: Vec<Bundle> = issued.iter().map(|i| Bundle::open(&i.files, &trust).unwrap()).collect();
        let [a, b] = &opened[..] else { panic!() };
        assert_ne!(a.ticket.as_ref().unwrap().key_id(), b.ticket.as_ref().unwrap().key_id());
        let document = a.bootstrap.get();
        assert_eq!(document.devices.len(), 1);
        assert_eq!(document.endpoints[0].url, "https://fleet.example:8443");
        assert_eq!(document.ticket.as_ref().unwrap().not_after, Epoch(1_795_305_600 + 180 * 86_400));
        assert_ne!(document.bundle_id, b.bootstrap.get().bundle_id);
    }

    #[test]
    fn a_batch_shares_one_and_a_fleet_without_tickets_has_a_list() {
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        let batch = issue(&order(Mode::Batch, ""), &key(1)).unwrap();
        let bundle = Bundle::open(&batch[0].files, &trust).unwrap();
        assert_eq!(bundle.bootstrap.get().ticket.as_ref().unwrap().max_claims, 20);
        let listed = issue(&order(Mode::IdentityOnly, "name,serial\na,PF-1\nb,PF-2\n"), &key(1)).unwrap();
        assert_eq!(listed.len(), 1);
        assert!(!listed[0].files.contains_key(TICKET));
        assert!(matches!(issue(&order(Mode::IdentityOnly, ""), &key(1)), Err(BadOrder::NoRows(_))));
        assert!(matches!(issue(&order(Mode::Device, ""), &key(1)), Err(BadOrder::NoRows(_))));
    }

    #[test]
    fn what_a_device_would_refuse_is_not_issued() {
        let mut order = order(Mode::Batch, "");
        order.endpoints = vec!["http://fleet.example".into()];
        assert!(matches!(issue(&order, &key(1)), Err(BadOrder::Refused(_))));
    }
}
