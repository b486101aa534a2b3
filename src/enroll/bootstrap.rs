//! The bootstrap document: what a device is told before it can ask anyone, and believes because the fleet's roots signed it.
//!
//! DSSE envelope → signatures counted against the keys that are baked into the image → and only then the payload's JSON.
//! Nothing is looked at before its signatures hold. An unknown field is an error, for it may be a restriction that this
//! version does not know; a name that starts with `x-` is a remark.
//!
//! Semantics follow RFC 8366 (vouchers): freshness by nonces and a serial that never falls, not by a clock the device lacks.

mod document;

pub use document::*;

use crate::enroll::evidence::{Facts, Score};
use crate::model::Digest;
use crate::sign::dsse::{self, Envelope};
use crate::sign::{PublicKey, Refused, Signer, Verified};

/// The payload type of a bootstrap's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.forge.enroll.bootstrap.v1+json";
/// The schema that this version writes and reads.
pub const SCHEMA: u32 = 1;
/// The largest bootstrap that is read, in bytes: room for a batch's few thousand rows.
pub const MAX_BOOTSTRAP: usize = 1 << 20;

/// What an image believes: keys under `/usr/lib/forge/trust.d`, and how many have to agree.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The roots.
    pub roots: Vec<PublicKey>,
    /// How many of them have to sign; at least one.
    pub threshold: usize,
}

impl Trust {
    /// Any one of `roots`.
    pub fn any(roots: Vec<PublicKey>) -> Trust {
        Trust { roots, threshold: 1 }
    }
}

/// Why a bootstrap is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// Not signed by enough of the roots.
    #[error("the bundle is not signed by this fleet")]
    Foreign(#[source] Refused),
    /// Signed, and not a bootstrap that this version knows.
    #[error("the bundle cannot be read: {0}")]
    Unreadable(String),
    /// An older one than was seen.
    #[error("the bundle's serial {serial} is below {floor}, which was seen already")]
    RolledBack {
        /// Its serial.
        serial: u64,
        /// What was seen.
        floor: u64,
    },
    /// For another profile or image.
    #[error("the bundle is for {wanted}, and this image is {found}")]
    OtherImage {
        /// What it is for.
        wanted: String,
        /// What runs.
        found: String,
    },
    /// For other boxes.
    #[error("none of the bundle's {rows} boxes is this one")]
    OtherDevice {
        /// How many it names.
        rows: usize,
    },
}

impl Bootstrap {
    /// Signs the document.
    ///
    /// # Errors
    /// What a signer says.
    pub fn sign(&self, signers: &[&dyn Signer]) -> anyhow::Result<Envelope> {
        let payload = serde_json::to_vec(self)?;
        let mut envelope =
            Envelope { payload: String::new(), payload_type: PAYLOAD_TYPE.into(), signatures: vec![] };
        for signer in signers {
            let signed = dsse::seal(*signer, PAYLOAD_TYPE, &payload)?;
            envelope.payload = signed.payload;
            envelope.signatures.extend(signed.signatures);
        }
        Ok(envelope)
    }

    /// Reads an envelope's bytes: signatures first, then the payload.
    ///
    /// # Errors
    /// [`Rejected::Foreign`] when too few of the roots signed, [`Rejected::Unreadable`] for all that is no such document.
    pub fn open(bytes: &[u8], trust: &Trust) -> Result<Verified<Bootstrap>, Rejected> {
        let unreadable = |why: String| Rejected::Unreadable(why);
        if bytes.len() > MAX_BOOTSTRAP {
            return Err(unreadable(format!("{} bytes, more than {MAX_BOOTSTRAP}", bytes.len())));
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
        let payload =
            dsse::open_threshold(&envelope, &trust.roots, trust.threshold).map_err(Rejected::Foreign)?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(unreadable(format!("a payload of type `{}`", envelope.payload_type)));
        }
        payload.try_map(|payload| Bootstrap::read(&payload))
    }

    /// Reads a payload whose signatures held, and what it says about itself.
    fn read(payload: &[u8]) -> Result<Bootstrap, Rejected> {
        let mut value: serde_json::Value =
            serde_json::from_slice(payload).map_err(|e| Rejected::Unreadable(e.to_string()))?;
        without_remarks(&mut value);
        let read: Bootstrap =
            serde_json::from_value(value).map_err(|e| Rejected::Unreadable(e.to_string()))?;
        read.sound().map_err(Rejected::Unreadable)?;
        Ok(read)
    }

    /// What types cannot say.
    fn sound(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("schema {}, and this image knows {SCHEMA}", self.schema));
        }
        if self.endpoints.is_empty() || self.endpoints.len() > 16 {
            return Err(format!("{} endpoints, not 1 to 16", self.endpoints.len()));
        }
        for endpoint in &self.endpoints {
            let host = endpoint.url.strip_prefix("https://").unwrap_or_default();
            if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
                return Err(format!("endpoint `{}` is not https://HOST:PORT", endpoint.url));
            }
            if endpoint.spki_sha256.is_empty() && endpoint.ca_pem.is_none() {
                return Err(format!("endpoint `{}` has neither a key nor an authority", endpoint.url));
            }
        }
        let signers = &self.signers;
        if signers.threshold == 0
            || signers.threshold > signers.grant_keys.len()
            || signers.grant_keys.len() > 8
        {
            return Err(format!("{} of {} grant keys", signers.threshold, signers.grant_keys.len()));
        }
        if (self.mode == Mode::IdentityOnly) != self.ticket.is_none() {
            return Err("a ticket where there is none to be, or none where there is one to be".into());
        }
        if let Some(next) = &self.trust_next
            && (next.threshold == 0 || next.threshold > next.roots.len() || next.roots.len() > 8)
        {
            return Err(format!("{} of {} next roots", next.threshold, next.roots.len()));
        }
        Ok(())
    }

    /// The endpoints in the order of trying.
    pub fn endpoints_in_order(&self) -> Vec<&Endpoint> {
        let mut endpoints: Vec<_> = self.endpoints.iter().collect();
        endpoints.sort_by_key(|e| e.priority);
        endpoints
    }

    /// Says that the bundle is not older than one that was seen.
    ///
    /// # Errors
    /// [`Rejected::RolledBack`].
    pub fn check_serial(&self, floor: u64) -> Result<(), Rejected> {
        if self.serial < floor { Err(Rejected::RolledBack { serial: self.serial, floor }) } else { Ok(()) }
    }

    /// Says that the bundle is for the image that runs: its site's name and its root hash.
    ///
    /// # Errors
    /// [`Rejected::OtherImage`].
    pub fn check_image(&self, profile: &str, root_hash: Option<Digest>) -> Result<(), Rejected> {
        if self.image.profile != profile {
            return Err(Rejected::OtherImage { wanted: self.image.profile.clone(), found: profile.into() });
        }
        let pinned = &self.image.root_hashes;
        if !pinned.is_empty() && !root_hash.is_some_and(|hash| pinned.contains(&hash)) {
            let found = root_hash.map_or("an image without one".into(), |hash| hash.to_string());
            return Err(Rejected::OtherImage { wanted: "images with other root hashes".into(), found });
        }
        Ok(())
    }

    /// The row that fits `facts` best, with what fits; `None` where the bundle is for any box. A row may fit only once the
    /// endorsement key is proved: [`Score::points`] are then fewer than the row's `min_score`.
    ///
    /// # Errors
    /// [`Rejected::OtherDevice`] when rows are given and none fits.
    pub fn row_of(&self, facts: &Facts) -> Result<Option<(&DeviceRow, Score)>, Rejected> {
        if self.devices.is_empty() {
            return Ok(None);
        }
        let scored = self.devices.iter().map(|row| (row, row.r#match.score(facts)));
        let fitting = scored
            .filter(|(row, score)| score.contradicted.is_empty() && score.attainable() >= row.min_score);
        match fitting.max_by_key(|(_, score)| score.attainable()) {
            Some(best) => Ok(Some(best)),
            None => Err(Rejected::OtherDevice { rows: self.devices.len() }),
        }
    }
}

/// Takes away every member whose name starts with `x-`, at every depth.
fn without_remarks(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|name, _| !name.starts_with("x-"));
            members.values_mut().for_each(without_remarks);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(without_remarks),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::enroll::evidence::Match;
    use crate::model::Epoch;
    use crate::sign::PrivateKey;
    use std::collections::BTreeMap;

    pub(crate) fn key(n: u8) -> PrivateKey {
        PrivateKey::from_seed(&[n; 32]).unwrap()
    }

    pub(crate) fn bootstrap() -> Bootstrap {
        Bootstrap {
            schema: SCHEMA,
            bundle_id: "b-1".into(),
            serial: 7,
            fleet: "shops".into(),
            batch: None,
            mode: Mode::Device,
            issued_at: Epoch(1_795_305_600),
            image: ImageRule { profile: "store-042".into(), root_hashes: vec![] },
            endpoints: vec![
                Endpoint {
                    url: "https://192.0.2.7:8443".into(),
                    spki_sha256: vec![Digest::of("b")],
                    ca_pem: None,
                    priority: 1,
                },
                Endpoint {
                    url: "https://fleet.example:8443".into(),
                    spki_sha256: vec![Digest::of("a")],
                    ca_pem: None,
                    priority: 0,
                },
            ],
            signers: GrantSigners { grant_keys: vec![key(9).public_key().clone()], threshold: 1 },
            devices: vec![],
            ticket: Some(Ticket {
                id: "t-1".into(),
                r#pub: key(3).public_key().clone(),
                max_claims: 1,
                not_before: Epoch(1_795_305_600),
                not_after: Epoch(1_810_857_600),
                note: String::new(),
            }),
            network: vec![],
            proxy: None,
            proxy_ca: None,
            ntp: vec![],
            dns: vec![],
            policy: DevicePolicy::default(),
            trust_next: None,
        }
    }

    fn signed(document: &serde_json::Value) -> Vec<u8> {
        let payload = serde_json::to_vec(document).unwrap();
        serde_json::to_vec(&dsse::seal(&key(1), PAYLOAD_TYPE, &payload).unwrap()).unwrap()
    }

    #[test]
    fn a_flip_of_any_bit_fails_closed() {
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        let bytes = serde_json::to_vec(&bootstrap().sign(&[&key(1)]).unwrap()).unwrap();
        assert_eq!(Bootstrap::open(&bytes, &trust).unwrap().get(), &bootstrap());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The envelope's key id is a hint that nothing rests on.
            if let Ok(opened) = Bootstrap::open(&changed, &trust) {
                assert_eq!(opened.get(), &bootstrap(), "bit {bit}");
            }
        }
        for length in 0..bytes.len() {
            assert!(Bootstrap::open(&bytes[..length], &trust).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_foreign_or_half_signed_bundle_is_refused() {
        let bytes = serde_json::to_vec(&bootstrap().sign(&[&key(2)]).unwrap()).unwrap();
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        assert!(matches!(Bootstrap::open(&bytes, &trust), Err(Rejected::Foreign(_))));
        let both =
            Trust { roots: vec![key(1).public_key().clone(), key(2).public_key().clone()], threshold: 2 };
        assert!(matches!(Bootstrap::open(&bytes, &both), Err(Rejected::Foreign(_))));
        let bytes = serde_json::to_vec(&bootstrap().sign(&[&key(2), &key(1)]).unwrap()).unwrap();
        assert!(Bootstrap::open(&bytes, &both).is_ok());
    }

    #[test]
    fn an_unknown_field_is_refused_and_a_remark_is_not() {
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        let mut document = serde_json::to_value(bootstrap()).unwrap();
        document["x-note"] = "for people".into();
        document["policy"]["x-note"] = "for people".into();
        assert!(Bootstrap::open(&signed(&document), &trust).is_ok());
        document["policy"]["require_badge"] = true.into();
        let refused = Bootstrap::open(&signed(&document), &trust).unwrap_err();
        assert!(refused.to_string().contains("require_badge"), "{refused}");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let trust = Trust::any(vec![key(1).public_key().clone()]);
        for (field, value, says) in [
            ("schema", serde_json::json!(2), "schema 2"),
            ("endpoints", serde_json::json!([]), "0 endpoints"),
            (
                "endpoints",
                serde_json::json!([{ "url": "http://fleet.example", "ca_pem": "x" }]),
                "https://HOST",
            ),
            ("endpoints", serde_json::json!([{ "url": "https://fleet.example" }]), "neither a key"),
            ("signers", serde_json::json!({ "grant_keys": [] }), "grant keys"),
            ("mode", serde_json::json!("identity-only"), "ticket"),
            ("serial", serde_json::json!(-1), "-1"),
        ] {
            let mut document = serde_json::to_value(bootstrap()).unwrap();
            document[field] = value;
            let refused = Bootstrap::open(&signed(&document), &trust).unwrap_err();
            assert!(refused.to_string().contains(says), "{field}: {refused}");
        }
    }

    #[test]
    fn a_bundle_of_another_time_image_or_box_is_refused() {
        let mut document = bootstrap();
        assert!(document.check_serial(7).is_ok());
        assert!(matches!(document.check_serial(8), Err(Rejected::RolledBack { serial: 7, floor: 8 })));
        assert!(document.check_image("store-042", None).is_ok());
        assert!(matches!(document.check_image("store-043", None), Err(Rejected::OtherImage { .. })));
        document.image.root_hashes = vec![Digest::of("root")];
        assert!(document.check_image("store-042", Some(Digest::of("root"))).is_ok());
        assert!(document.check_image("store-042", Some(Digest::of("other"))).is_err());
        assert!(document.check_image("store-042", None).is_err());

        let row = |serial: &str| DeviceRow {
            r#ref: serial.to_lowercase(),
            r#match: Match { serial: Some(serial.into()), ..Match::default() },
            min_score: 40,
            labels: BTreeMap::new(),
        };
        let facts = Facts { serial: Some("SN2".into()), ..Facts::default() };
        assert_eq!(document.row_of(&facts), Ok(None));
        document.devices = vec![row("SN1"), row("SN2")];
        assert_eq!(document.row_of(&facts).unwrap().unwrap().0.r#ref, "sn2");
        let other = Facts { serial: Some("SN3".into()), ..Facts::default() };
        assert_eq!(document.row_of(&other), Err(Rejected::OtherDevice { rows: 2 }));
        assert_eq!(document.endpoints_in_order()[0].url, "https://fleet.example:8443");
    }
}
