//! Seeds: what one box of the inventory is told at its first boot, in the words of systems that are not forge's.
//!
//! One typed model, [`Seed`], and a file a format. A seed says who the box is and how it reaches the network; the fleet that
//! it joins is the format's own ([`Joins`]). Nothing here touches a disk: [`emit`] gives files, a [`crate::carrier`] writes
//! them.
//!
//! | format | read by | files | volume |
//! |---|---|---|---|
//! | NoCloud | cloud-init; with Palette's settings its edge agent | `user-data`, `meta-data`, `network-config` | `CIDATA` |
//! | Ignition | Ignition 3.3 | `ignition/config.ign` | `IGNITION` |
//! | Combustion | SUSE's Combustion | `combustion/script` | `COMBUSTION` |
//! | Flight Control | flightctl's agent | `etc/flightctl/config.yaml` | `FLIGHTCTL` |
//! | Elemental | elemental-register | `livecd-cloud-config.yaml` | `ELEMENTAL` |

mod combustion;
mod elemental;
mod files;
mod flightctl;
mod ignition;
mod nocloud;
mod palette;
mod yaml;

use crate::enroll::bootstrap::NetworkRule;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// What every format can tell a box of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// The node's name, a DNS label; also its host name.
    pub name: String,
    /// The site's labels and the box's own, which win.
    pub labels: BTreeMap<String, String>,
    /// People who may log in, by name, with their public keys.
    pub users: BTreeMap<String, Vec<String>>,
    /// A time zone of the tz database, `Europe/Berlin`.
    pub timezone: String,
    /// Time servers; the system's own where empty.
    pub ntp: Vec<String>,
    /// A static network; DHCP where there is none.
    pub network: Option<NetworkRule>,
    /// What the kernel calls the port of that network: for systems that know ports by nothing else.
    pub port: Option<String>,
    /// An HTTP proxy for everything that goes out, `http://HOST:PORT`.
    pub proxy: Option<String>,
    /// Authorities (PEM) to trust beside the system's.
    pub authorities: Vec<String>,
}

/// The format, and what the fleet behind it needs beside the seed.
#[derive(Debug)]
pub enum Joins {
    /// NoCloud for cloud-init, which joins nothing by itself.
    Nocloud,
    /// NoCloud with Palette's settings.
    Palette(Palette),
    /// Ignition.
    Ignition,
    /// Combustion.
    Combustion,
    /// Flight Control's agent.
    Flightctl(Flightctl),
    /// Elemental's registration.
    Elemental(Elemental),
}

impl Joins {
    /// Who reads the seed, for a sentence.
    pub fn reader(&self) -> &'static str {
        match self {
            Joins::Nocloud => "cloud-init",
            Joins::Palette(_) => "Palette's agent",
            Joins::Ignition => "Ignition",
            Joins::Combustion => "Combustion",
            Joins::Flightctl(_) => "Flight Control's agent",
            Joins::Elemental(_) => "Elemental's registration",
        }
    }
}

impl Seed {
    /// What the format leaves to other means, of what this seed has to say. An [`Unable`] box would come up wrong; such a one
    /// comes up without.
    pub fn unsaid(&self, joins: &Joins) -> Vec<&'static str> {
        let system = [
            (!self.users.is_empty(), "people"),
            (!self.ntp.is_empty(), "time servers"),
            (self.network.is_some(), "static networks"),
            (self.proxy.is_some(), "proxy"),
            (!self.authorities.is_empty(), "authorities"),
        ];
        let labels = [(!self.labels.is_empty(), "labels")];
        let left_out: Vec<(bool, &'static str)> = match joins {
            Joins::Nocloud | Joins::Palette(_) => vec![],
            Joins::Ignition | Joins::Combustion => labels.to_vec(),
            Joins::Flightctl(_) => system.to_vec(),
            Joins::Elemental(_) => [&labels[..], &system].concat(),
        };
        left_out.into_iter().filter(|(there, _)| *there).map(|(_, what)| what).collect()
    }
}

/// Settings of Palette's edge agent.
#[derive(Debug)]
pub struct Palette {
    /// The profile's keys below `stylus`, all of them documented ones.
    pub stylus: serde_json::Map<String, Json>,
    /// The tenant's registration token (`stylus.site.edgeHostToken`).
    pub token: Option<Zeroizing<String>>,
}

/// Settings of Flight Control's agent. Its certificate only secures the connection: a person or a policy approves the box.
#[derive(Debug)]
pub struct Flightctl {
    /// The agents' endpoint, `https://HOST:7443`.
    pub server: String,
    /// Who signed the endpoint's certificate (PEM).
    pub authority: Option<String>,
    /// Where a person approves boxes.
    pub ui: Option<String>,
    /// The enrollment certificate (PEM).
    pub certificate: String,
    /// Its private key (PEM).
    pub key: Zeroizing<String>,
}

/// Settings of Elemental's registration.
#[derive(Debug)]
pub struct Elemental {
    /// The registration's URL, whose last part is the token.
    pub url: Zeroizing<String>,
    /// Who signed the server's certificate (PEM).
    pub authority: Option<String>,
    /// How the box shows who it is: `tpm`, `mac` or `sys-uuid`.
    pub auth: String,
}

/// A file of a seed. Most hold something that is not for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedFile {
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
    /// Permission bits where the carrier keeps them.
    pub mode: u32,
}

/// A seed in one format: its files by path, and the label of a volume that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Files by path below the volume's root.
    pub files: BTreeMap<String, SeedFile>,
    /// The label of the volume.
    pub label: &'static str,
}

/// What a format has no words for: better said than left out, because the box would come up without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{format} cannot tell {name} {what}")]
pub struct Unable {
    /// The format.
    pub format: &'static str,
    /// The box.
    pub name: String,
    /// What is left over, and what would be right.
    pub what: &'static str,
}

/// The seed's files in a format.
///
/// # Errors
/// [`Unable`].
pub fn emit(seed: &Seed, joins: &Joins) -> Result<Emitted, Unable> {
    let (files, label) = match joins {
        Joins::Nocloud => (nocloud::files(seed), "CIDATA"),
        Joins::Palette(palette) => (palette::files(seed, palette)?, "CIDATA"),
        Joins::Ignition => (ignition::files(seed), "IGNITION"),
        Joins::Combustion => (combustion::files(seed), "COMBUSTION"),
        Joins::Flightctl(agent) => (flightctl::files(seed, agent), "FLIGHTCTL"),
        Joins::Elemental(registration) => (elemental::files(registration), "ELEMENTAL"),
    };
    let files = files.into_iter().map(|(path, text)| {
        let mode = if path.ends_with("/script") { 0o700 } else { 0o600 };
        (path.to_string(), SeedFile { content: Zeroizing::new(text.into_bytes()), mode })
    });
    Ok(Emitted { files: files.collect(), label })
}

/// Texts by path.
type Files = Vec<(&'static str, String)>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::bootstrap::PortMatch;

    /// A box with everything that a seed can say.
    pub(super) fn seed() -> Seed {
        Seed {
            name: "till-1".into(),
            labels: BTreeMap::from([("region".into(), "eu".into()), ("tier".into(), "retail".into())]),
            users: BTreeMap::from([("ops".into(), vec!["ssh-ed25519 AAAA ops@site's".into()])]),
            timezone: "Europe/Berlin".into(),
            ntp: vec!["ntp.example".into()],
            network: Some(NetworkRule {
                r#match: PortMatch { mac: Some("02:00:00:00:00:01".into()), ..PortMatch::default() },
                addresses: vec!["192.0.2.7/24".into()],
                gateways: vec!["192.0.2.1".parse().unwrap()],
                dns: vec!["192.0.2.53".parse().unwrap()],
                vlan: None,
            }),
            port: Some("eth0".into()),
            proxy: Some("http://proxy.example:3128".into()),
            authorities: vec!["-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n".into()],
        }
    }

    pub(super) fn text(files: &Files, path: &str) -> String {
        files.iter().find(|(name, _)| *name == path).unwrap().1.clone()
    }

    #[test]
    fn every_format_keeps_its_files_from_others() {
        for joins in [Joins::Nocloud, Joins::Ignition, Joins::Combustion] {
            let emitted = emit(&seed(), &joins).unwrap();
            assert!(emitted.files.values().all(|file| file.mode & 0o077 == 0), "{joins:?}");
            assert!(emitted.label.len() <= 11, "a FAT volume's label has eleven characters");
        }
    }
}
