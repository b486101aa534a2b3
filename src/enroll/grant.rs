//! A grant: what a device gets, sealed to its key, signed by the fleet, and bound to one device, generation and nonce.
//!
//! HPKE (RFC 9180) base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305; the binding is its
//! additional data. The envelope around it is DSSE, so that a disk or a stick can carry a grant as well as a socket.

use crate::enroll::DeviceId;
use crate::enroll::envelope::Nonce;
use crate::model::{Digest, Epoch};
use crate::sign::dsse::{self, Envelope};
use crate::sign::{PublicKey, Refused, Signer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// The payload type of a grant's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.forge.enroll.grant.v1+json";
/// The schema that this version writes and reads.
pub const SCHEMA: u32 = 1;
/// Separates these keys' use from any other.
const INFO: &[u8] = b"forge-grant-v1";

type Secret = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
type Encapped = <X25519HkdfSha256 as hpke::Kem>::EncappedKey;

/// The public key that grants are sealed to: 32 bytes, base64 in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealingKey([u8; 32]);

impl SealingKey {
    /// Takes the raw bytes.
    pub const fn from_raw(raw: [u8; 32]) -> SealingKey {
        SealingKey(raw)
    }
    /// The raw bytes.
    pub const fn as_raw(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", STANDARD.encode(self.0))
    }
}

impl Serialize for SealingKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SealingKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<SealingKey, D::Error> {
        let text = String::deserialize(from)?;
        let raw = STANDARD.decode(&text).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
        raw.map(SealingKey).ok_or_else(|| serde::de::Error::custom("a sealing key is 32 bytes in base64"))
    }
}

/// The private half, which opens grants.
pub struct OpeningKey(Secret);

impl OpeningKey {
    /// The key that follows from 32 random bytes, which are the whole secret.
    pub fn from_seed(seed: &[u8; 32]) -> OpeningKey {
        OpeningKey(X25519HkdfSha256::derive_keypair(seed).0)
    }

    /// The public half.
    pub fn sealing_key(&self) -> SealingKey {
        let mut raw = [0; 32];
        raw.copy_from_slice(&X25519HkdfSha256::sk_to_pk(&self.0).to_bytes());
        SealingKey(raw)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningKey({:?}, ***)", self.sealing_key())
    }
}

/// Why a grant is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadGrant {
    /// Not signed by the fleet.
    #[error("the grant is not signed by this fleet")]
    Foreign(#[source] Refused),
    /// Signed, and nothing that this version knows.
    #[error("the grant cannot be read: {0}")]
    Unreadable(String),
    /// For another device, or an answer to another question.
    #[error("the grant is for {found}, not for {expected}")]
    Misdirected {
        /// What it is for.
        found: String,
        /// What was asked.
        expected: String,
    },
    /// Older than what the device has.
    #[error("the grant's generation {found} is below {have}")]
    Stale {
        /// Its generation.
        found: u64,
        /// What the device has.
        have: u64,
    },
    /// Sealed to another key, or changed.
    #[error("the grant does not open with this device's key")]
    Sealed,
}

/// A grant as the fleet signs it. The join material is sealed inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Names it.
    pub grant_id: String,
    /// For whom.
    pub device: DeviceId,
    /// Rises with every grant that replaces one.
    pub generation: u64,
    /// The request's nonce.
    pub nonce: Nonce,
    /// The fleet's clock.
    pub issued_at: Epoch,
    /// The node's name.
    pub node_name: String,
    /// The node's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The encapsulated key, base64.
    pub enc: String,
    /// The sealed [`Material`], base64.
    pub sealed: String,
}

/// What is in a grant: things to put in place, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Material {
    /// The things.
    pub items: Vec<Item>,
}

/// A thing to put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Item {
    /// Files at places that [`is_grantable`] allows.
    Files {
        /// The files.
        files: Vec<File>,
    },
    /// The device's own key, which no fleet has: a certificate among the files is for it.
    OwnKey {
        /// What for: `edgecore`.
        r#use: String,
        /// Where it goes, as PEM.
        path: String,
        /// SHA-256 of its public half, as SubjectPublicKeyInfo: for another, the certificate would be of no use.
        spki_sha256: Digest,
        /// When the certificate is to be asked for anew, by the fleet's clock.
        renew_after: Epoch,
    },
}

/// A file of a grant.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute.
    pub path: String,
    /// Permission bits; secrets are 0600.
    pub mode: u32,
    /// Base64.
    pub content: Zeroizing<String>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({} {:o} ***)", self.path, self.mode)
    }
}

/// Places that a grant may write to: a fleet that was taken over must not become root by replacing a program or a unit.
const GRANTABLE: &[&str] = &[
    "/etc/forge/",
    "/etc/rancher/k3s/",
    "/etc/rancher/rke2/",
    "/etc/rancher/node/",
    "/etc/kubeedge/",
    "/etc/containers/auth.d/",
    "/etc/ssh/ca/",
    "/var/lib/forge/secrets/",
];

/// Whether a grant may write `path`: below one of a few directories, plain components, no way up.
pub fn is_grantable(path: &str) -> bool {
    let plain = |c: &str| !c.is_empty() && c != "." && c != ".." && !c.contains('\0');
    GRANTABLE.iter().any(|dir| path.strip_prefix(dir).is_some_and(|rest| rest.split('/').all(plain)))
}

/// What a grant is bound to, beside its contents.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// For whom.
    pub device: &'a DeviceId,
    /// Which in the row of grants.
    pub generation: u64,
    /// The request's nonce.
    pub nonce: &'a Nonce,
}

impl Binding<'_> {
    fn additional_data(&self) -> Vec<u8> {
        format!("{}|{}|{}", self.device, self.generation, self.nonce).into_bytes()
    }
}

impl Material {
    /// Seals the material to `key` for `binding`: the encapsulated key and the ciphertext, both base64.
    ///
    /// # Errors
    /// When `key` is no point that anything can be sealed to.
    pub fn seal(&self, key: &SealingKey, binding: &Binding<'_>) -> anyhow::Result<(String, String)> {
        let public =
            Public::from_bytes(key.as_raw()).map_err(|e| anyhow::anyhow!("reading a sealing key: {e}"))?;
        let plain = Zeroizing::new(serde_json::to_vec(self)?);
        let (enc, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            &plain,
            &binding.additional_data(),
        )
        .map_err(|e| anyhow::anyhow!("sealing a grant: {e}"))?;
        Ok((STANDARD.encode(enc.to_bytes()), STANDARD.encode(sealed)))
    }
}

impl Grant {
    /// What it is bound to.
    pub fn binding(&self) -> Binding<'_> {
        Binding { device: &self.device, generation: self.generation, nonce: &self.nonce }
    }

    /// Signs the grant.
    ///
    /// # Errors
    /// What the signer says.
    pub fn sign(&self, signer: &dyn Signer) -> anyhow::Result<Envelope> {
        dsse::seal(signer, PAYLOAD_TYPE, &serde_json::to_vec(self)?)
    }

    /// Reads a grant that `threshold` of the fleet's `keys` signed.
    ///
    /// # Errors
    /// [`BadGrant::Foreign`], [`BadGrant::Unreadable`].
    pub fn open(envelope: &Envelope, keys: &[PublicKey], threshold: usize) -> Result<Grant, BadGrant> {
        let payload = dsse::open_threshold(envelope, keys, threshold).map_err(BadGrant::Foreign)?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(BadGrant::Unreadable(format!("a payload of type `{}`", envelope.payload_type)));
        }
        let grant: Grant =
            serde_json::from_slice(payload.get()).map_err(|e| BadGrant::Unreadable(e.to_string()))?;
        if grant.schema != SCHEMA {
            return Err(BadGrant::Unreadable(format!(
                "schema {}, and this image knows {SCHEMA}",
                grant.schema
            )));
        }
        Ok(grant)
    }

    /// The material, when the grant is for `device`, answers `nonce`, is not older than `have`, and opens with `key`.
    ///
    /// # Errors
    /// [`BadGrant`].
    pub fn unseal(
        &self,
        device: &DeviceId,
        nonce: &Nonce,
        have: u64,
        key: &OpeningKey,
    ) -> Result<Material, BadGrant> {
        if self.device != *device {
            let (found, expected) = (self.device.to_string(), device.to_string());
            return Err(BadGrant::Misdirected { found, expected });
        }
        if self.nonce != *nonce {
            let (found, expected) = (format!("request {}", self.nonce), format!("request {nonce}"));
            return Err(BadGrant::Misdirected { found, expected });
        }
        if self.generation < have {
            return Err(BadGrant::Stale { found: self.generation, have });
        }
        let enc = STANDARD.decode(&self.enc).ok().and_then(|b| Encapped::from_bytes(&b).ok());
        let sealed = STANDARD.decode(&self.sealed).ok();
        let (Some(enc), Some(sealed)) = (enc, sealed) else {
            return Err(BadGrant::Sealed);
        };
        let plain = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key.0,
            &enc,
            INFO,
            &sealed,
            &self.binding().additional_data(),
        )
        .map_err(|_| BadGrant::Sealed)?;
        let plain = Zeroizing::new(plain);
        serde_json::from_slice(&plain).map_err(|e| BadGrant::Unreadable(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::PrivateKey;

    fn material() -> Material {
        let content = Zeroizing::new(STANDARD.encode("token"));
        Material {
            items: vec![Item::Files {
                files: vec![File { path: "/etc/forge/x".into(), mode: 0o600, content }],
            }],
        }
    }

    fn granted(
        fleet: &PrivateKey,
        to: &OpeningKey,
        device: &DeviceId,
        nonce: &Nonce,
        generation: u64,
    ) -> Envelope {
        let binding = Binding { device, generation, nonce };
        let (enc, sealed) = material().seal(&to.sealing_key(), &binding).unwrap();
        let grant = Grant {
            schema: SCHEMA,
            grant_id: "g".into(),
            device: device.clone(),
            generation,
            nonce: nonce.clone(),
            issued_at: Epoch(0),
            node_name: "store-042".into(),
            labels: BTreeMap::new(),
            enc,
            sealed,
        };
        grant.sign(fleet).unwrap()
    }

    #[test]
    fn a_grant_opens_for_its_device_its_request_and_its_generation_alone() {
        let fleet = PrivateKey::from_seed(&[1; 32]).unwrap();
        let (mine, other_key) = (OpeningKey::from_seed(&[2; 32]), OpeningKey::from_seed(&[3; 32]));
        let device = DeviceId::of(PrivateKey::from_seed(&[4; 32]).unwrap().public_key());
        let other = DeviceId::of(PrivateKey::from_seed(&[5; 32]).unwrap().public_key());
        let (nonce, another) = (Nonce::from_random([6; 16]), Nonce::from_random([7; 16]));
        let envelope = granted(&fleet, &mine, &device, &nonce, 2);
        let keys = [fleet.public_key().clone()];
        let grant = Grant::open(&envelope, &keys, 1).unwrap();
        assert_eq!(grant.unseal(&device, &nonce, 2, &mine).unwrap(), material());
        assert!(matches!(grant.unseal(&other, &nonce, 0, &mine), Err(BadGrant::Misdirected { .. })));
        assert!(matches!(grant.unseal(&device, &another, 0, &mine), Err(BadGrant::Misdirected { .. })));
        assert!(matches!(
            grant.unseal(&device, &nonce, 3, &mine),
            Err(BadGrant::Stale { found: 2, have: 3 })
        ));
        assert!(matches!(grant.unseal(&device, &nonce, 0, &other_key), Err(BadGrant::Sealed)));
        // Signed anew by the right fleet with another number on it: the seal's own binding does not hold.
        let renumbered = Grant { generation: 3, ..grant.clone() };
        assert!(matches!(renumbered.unseal(&device, &nonce, 0, &mine), Err(BadGrant::Sealed)));
        let foreign = [PrivateKey::from_seed(&[8; 32]).unwrap().public_key().clone()];
        assert!(matches!(Grant::open(&envelope, &foreign, 1), Err(BadGrant::Foreign(_))));
        assert!(matches!(Grant::open(&envelope, &keys, 2), Err(BadGrant::Foreign(_))));
    }

    #[test]
    fn nothing_outside_a_few_directories_is_granted() {
        for path in ["/etc/forge/token", "/etc/rancher/k3s/config.yaml.d/50-forge.yaml"] {
            assert!(is_grantable(path), "{path}");
        }
        for path in [
            "/etc/systemd/system/x.service",
            "/etc/forge/../shadow",
            "/etc/forge/",
            "/etc/forge",
            "etc/forge/x",
            "/etc/forge//x",
            "/etc/forge/./x",
            "/usr/bin/x",
            "",
        ] {
            assert!(!is_grantable(path), "{path}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        assert!(!format!("{:?}", material()).contains(&STANDARD.encode("token")));
    }
}
