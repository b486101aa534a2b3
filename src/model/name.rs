//! Names that end in paths, labels and references, and are therefore narrow.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at either end.
///
/// Names the site, its output folder and its OCI repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SiteName(String);

impl SiteName {
    /// Checks `s`.
    ///
    /// # Errors
    /// [`BadName`] says what a label may hold.
    pub fn parse(s: &str) -> Result<SiteName, BadName> {
        let good = (1..=63).contains(&s.len())
            && s.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        if good { Ok(SiteName(s.into())) } else { Err(BadName(s.chars().take(80).collect())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SiteName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        SiteName::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Text that is no DNS label.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a DNS label: 1 to 63 of a-z, 0-9 and `-`, not starting or ending with `-`")]
pub struct BadName(pub String);

/// The part of the profile that a layer of the OCI image comes from; layers are stacked in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerName {
    /// The distribution's packages, configured.
    Os,
    /// The Kubernetes distribution, or Podman's units.
    Kubernetes,
    /// The edge agent.
    Agent,
    /// The site: users, files, time zone, trust, forge's own units.
    Site,
    /// Container images, manifests, virtual machines, models: the payload partition.
    Workloads,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayerName::Os => "os",
            LayerName::Kubernetes => "kubernetes",
            LayerName::Agent => "agent",
            LayerName::Site => "site",
            LayerName::Workloads => "workloads",
        })
    }
}
