//! The conditions that a site may have, each with what the box's bundle says and what stands between it and its fleet.

use super::HOST;
use super::between::{Between, Inspector, Portal, Proxy};
use crate::enroll::Code;
use crate::enroll::inventory::{self, Row};
use crate::model::{Digest, Epoch};
use crate::run::{qemu, wire};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

macro_rules! cases {
    ($($name:ident = $word:literal, $doc:literal;)*) => {
        /// A condition.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Case { $(#[doc = $doc] $name,)* }

        impl Case {
            /// Every case.
            pub const ALL: &[Case] = &[$(Case::$name),*];
            /// The word on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Case::$name => $word),* }
            }
            /// What it is, in a sentence.
            pub const fn about(self) -> &'static str {
                match self { $(Case::$name => $doc),* }
            }
        }
    };
}

cases! {
    Joins = "joins", "Power, a network, nobody there.";
    Installs = "installs", "An installer's stick with the bundle, and an empty disk: what is installed joins.";
    LateNetwork = "late-network", "The link comes after the boot is good: workloads wait for no network.";
    Clock1970 = "clock-1970", "The clock starts at 1970, as without a battery.";
    Clock2038 = "clock-2038", "The clock is years ahead.";
    EndpointDown = "endpoint-down", "The first endpoint refuses connections, the second answers.";
    NoNames = "no-names", "The first endpoint's name is not found, the second is an address.";
    Proxy = "proxy", "The fleet can be reached through an HTTP proxy alone.";
    NoDhcp = "no-dhcp", "Nobody gives the box an address: the bundle has it, for the port with its hardware address.";
    Inspection = "tls-inspection", "A firewall ends TLS, under an authority that the bundle names.";
    Portal = "portal", "A captive portal answers every request at first.";
    Tpm = "tpm", "A TPM, which the box proves; then another one in its place.";
    Stick = "stick", "No network: the request goes to the fleet on a stick, and the grant comes back on it.";
    PowerCuts = "power-cuts", "The power goes at random moments of the first boot.";
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Case {
    type Err = UnknownCase;
    fn from_str(s: &str) -> Result<Case, UnknownCase> {
        Case::ALL.iter().find(|c| c.as_str() == s).copied().ok_or_else(|| UnknownCase { word: s.into() })
    }
}

impl Case {
    /// Whether the box has a TPM in it.
    pub const fn needs_tpm(self) -> bool {
        matches!(self, Case::Tpm)
    }

    /// Whether the box begins with an empty disk and an installer.
    pub const fn needs_installer(self) -> bool {
        matches!(self, Case::Installs)
    }

    /// Whether the box is on a network that gives it nothing.
    pub const fn needs_wire(self) -> bool {
        matches!(self, Case::NoDhcp)
    }
}

/// A word that is no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no case `{word}`; there are {}", Case::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", "))]
pub struct UnknownCase {
    /// The word.
    pub word: String,
}

/// What became of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// How long it took.
    pub seconds: u64,
    /// Why it did not pass.
    pub failure: Option<String>,
    /// All that the box said on its console in its last boot.
    pub console: String,
}

/// What a case is made of.
pub(super) struct Setting {
    /// The bundle's endpoints.
    pub endpoints: Vec<String>,
    /// The bundle's proxy.
    pub proxy: Option<String>,
    /// The authority of what inspects TLS on the way, in PEM.
    pub proxy_ca: Option<String>,
    /// The box's row of an inventory, where it has one.
    pub rows: Vec<Row>,
    /// Where the box's clock starts.
    pub clock: Option<Epoch>,
    between: Option<Between>,
    case: Case,
}

impl Setting {
    /// How often the power goes before the box is left alone.
    pub fn cuts(&self, wanted: u32) -> u32 {
        if self.case == Case::PowerCuts { wanted } else { 0 }
    }

    /// Says that what stood between was met, and not walked around.
    ///
    /// # Errors
    /// When it was not.
    pub fn check(&self) -> anyhow::Result<()> {
        match &self.between {
            Some(between) => between.check(),
            None => Ok(()),
        }
    }

    /// What the box has to have told the person before it.
    pub fn wanted(&self) -> Option<&'static str> {
        (self.case == Case::Portal).then_some(Code::Portal.id())
    }
}

/// The setting of `case` for a fleet that listens on `fleet` with a key of the digests `pins`.
pub(super) fn setting(case: Case, fleet: SocketAddr, pins: &[Digest]) -> anyhow::Result<Setting> {
    let at = |port: u16| format!("https://{HOST}:{port}");
    let direct = at(fleet.port());
    let plain = |endpoints| Setting {
        endpoints,
        proxy: None,
        proxy_ca: None,
        rows: vec![],
        clock: None,
        between: None,
        case,
    };
    Ok(match case {
        Case::Joins | Case::Installs | Case::LateNetwork | Case::Stick | Case::Tpm | Case::PowerCuts => {
            plain(vec![direct])
        }
        Case::Clock1970 => Setting { clock: Some(Epoch(0)), ..plain(vec![direct]) },
        // After the last second that 32 bits can count.
        Case::Clock2038 => Setting { clock: Some(Epoch(2_150_000_000)), ..plain(vec![direct]) },
        Case::EndpointDown => {
            // A port that was free, and on which nothing listens once this is dropped.
            let dead = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            plain(vec![at(dead.port()), direct])
        }
        Case::NoNames => plain(vec![format!("https://fleet.invalid:{}", fleet.port()), direct]),
        Case::Proxy => {
            let proxy = Proxy::start(fleet)?;
            let url = Some(format!("http://{HOST}:{}", proxy.port()));
            // A name that only the proxy knows: whoever goes around it finds nobody.
            let endpoints = vec!["https://fleet.invalid:8443".into()];
            Setting { proxy: url, between: Some(Between::Proxy(proxy)), ..plain(endpoints) }
        }
        Case::NoDhcp => {
            let network = format!(
                "name,macs,address,gateway\nbox,{},{}/{},{}\n",
                qemu::MAC,
                wire::ADDRESS,
                wire::PREFIX,
                wire::ROUTER
            );
            let rows =
                inventory::parse(network.as_bytes()).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
            Setting { rows, ..plain(vec![format!("https://{}:{}", wire::ROUTER, fleet.port())]) }
        }
        Case::Inspection => {
            let inspector = Inspector::start(fleet, pins.to_vec(), HOST)?;
            let (endpoints, proxy_ca) = (vec![at(inspector.port())], Some(inspector.authority().into()));
            Setting { proxy_ca, between: Some(Between::Inspector(inspector)), ..plain(endpoints) }
        }
        Case::Portal => {
            let portal = Portal::start(fleet)?;
            let endpoints = vec![at(portal.port())];
            Setting { between: Some(Between::Portal(portal)), ..plain(endpoints) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_single_words() {
        for case in Case::ALL {
            assert_eq!(case.as_str().parse(), Ok(*case));
        }
        assert!("joined".parse::<Case>().unwrap_err().to_string().contains("joins, installs, late-network"));
    }
}
