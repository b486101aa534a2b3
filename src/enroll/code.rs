//! Codes that a person at the box can read, say over the phone, and look up: stable for ever.
//!
//! The same list makes the large words on the screen, the events at the fleet, the page of a box, and
//! `forge explain CODE`. A code is never reused for another meaning.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! codes {
    ($($name:ident = $id:literal, $title:literal, $cause:literal, $remedy:literal;)*) => {
        /// Why a box does not go on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $id, "`: ", $title, ".")] $name,)*
        }

        impl Code {
            /// Every code, in the order of a box's way.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// `E-NET-03`.
            pub const fn id(self) -> &'static str {
                match self { $(Code::$name => $id),* }
            }
            /// A few words for the screen.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }
            /// What has happened, in a sentence or two.
            pub const fn cause(self) -> &'static str {
                match self { $(Code::$name => $cause),* }
            }
            /// What a person can do, in a sentence or two.
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$name => $remedy),* }
            }
        }
    };
}

codes! {
    InstallSource = "E-INSTALL-01", "No image to install",
        "The installer has found neither the medium that it is on nor a server that it was started from.",
        "Plug the medium in again, at another port. For a network boot, set install.url in the profile.";
    InstallImage = "E-INSTALL-02", "The image is damaged",
        "What the medium or the server holds is not the image that was signed. The disk has no system on it that could start.",
        "Write the medium again with `forge flash`, or copy the release to the server again.";
    InstallServer = "E-INSTALL-03", "The server does not send the image",
        "The image is fetched from a server, and that does not answer, or has no such file.",
        "Check the cable, and that the server has disk.raw.zst beside the folder netboot. The box tries again by itself.";
    InstallNoDisk = "E-INSTALL-04", "No disk to install on",
        "No disk of this box is one that the profile's rule asks for. Without a rule it has to be built in.",
        "Compare the disks on the screen with install.disk in the profile.";
    InstallTwoDisks = "E-INSTALL-05", "More than one disk fits",
        "Several disks of this box are such as the profile's rule asks for, and the installer never takes the first of two.",
        "Say which in install.disk of the profile: by serial, path, model or size. Or take the others out.";
    InstallUnfit = "E-INSTALL-06", "The disk does not fit the image",
        "The disk is smaller than the image, or its sectors are not of 512 bytes.",
        "Put in another disk, or switch it to sectors of 512 bytes.";
    InstallForeign = "E-INSTALL-07", "The disk holds something else",
        "There are partitions or data on the disk, and the profile does not say that they may go. Nothing was written.",
        "Erase the disk, or set install.overwrite = true in the profile.";
    InstallWrite = "E-INSTALL-08", "The disk does not take the image",
        "The disk could not be written, or does not give back what was written to it.",
        "The disk has to be replaced.";
    NoBundle = "E-BUNDLE-01", "No enrollment bundle",
        "The box has found no bundle: not on its own FORGE-ENROLL partition, on a USB stick, or from its firmware.",
        "Plug in the USB stick that came with it, or copy the folder forge-enroll to a stick named FORGE-ENROLL. The box looks again by itself.";
    BundleUnreadable = "E-BUNDLE-02", "The bundle is damaged",
        "The bundle is there, but cannot be read: cut short, too large, or not a bundle at all.",
        "Copy the bundle again, and take the stick out properly.";
    BundleRolledBack = "E-BUNDLE-03", "The bundle is an old one",
        "This box, or its fleet, has already seen a newer bundle than this one.",
        "Ask for a new bundle: `forge enroll bundle`.";
    BundleOtherImage = "E-BUNDLE-04", "The bundle is for another image",
        "The bundle was made for another fleet, profile or image than this box runs.",
        "Check that the box and the stick belong together.";
    BundleOtherDevice = "E-BUNDLE-05", "The bundle is for another box",
        "The bundle names other boxes than this one: its serial number and network addresses do not fit.",
        "Compare the serial number on the screen with the label of the stick.";
    BundleNoTicket = "E-BUNDLE-06", "The bundle's ticket is missing",
        "The bundle asks for a ticket, and the file ticket.key is missing or belongs to another bundle.",
        "Copy the whole folder forge-enroll again, or ask for a new bundle.";
    BundleForeign = "E-SIG-01", "The bundle is not from this fleet",
        "The keys that this image trusts have not signed the bundle. It may be changed, or for another fleet.",
        "Do not use this bundle. Ask for another, and tell who is responsible for security.";
    NoLink = "E-NET-01", "No network cable",
        "No network port has a link.",
        "Plug in the network cable, and check that the switch is on.";
    NoAddress = "E-NET-02", "No network address",
        "A port has a link, but nobody gave the box an address: no DHCP server answers, and the bundle has no static address for this port.",
        "Check that the port is on the right network, or put a static address into the bundle.";
    Unreachable = "E-NET-03", "The fleet cannot be reached",
        "The box has an address, but none of the fleet's endpoints answers.",
        "Check that the network lets the box out to the addresses on the screen. The box tries again by itself.";
    NameUnknown = "E-NET-04", "The fleet's name is not found",
        "The name of the endpoint cannot be looked up: the name server does not answer, or does not know it.",
        "Check the network's name server.";
    ProxyRefused = "E-NET-05", "The proxy refuses",
        "The proxy that the bundle names does not let the box through.",
        "Check the proxy's address, user and rules.";
    Portal = "E-PORTAL-01", "Something else answers",
        "What answers in the fleet's place is not the fleet: a login page, a filter, or a wrong server.",
        "The network asks for a login or blocks the fleet. Let this box through without one.";
    ForeignCertificate = "E-TLS-01", "The fleet's certificate is not right",
        "The endpoint shows a certificate that the bundle does not know.",
        "If the network inspects TLS, put its authority into the bundle as proxy_ca. Otherwise tell who is responsible for security.";
    AwaitsApproval = "E-CLAIM-01", "Waiting for approval",
        "The fleet has the box's request, and a person has to let it in.",
        "Read the six words on the screen to the operator, who compares them.";
    Denied = "E-CLAIM-02", "The fleet has said no",
        "An operator or a rule refused this box. It asks again once an hour.",
        "Ask the operator why. No step at the box is needed afterwards.";
    TicketTaken = "E-CLAIM-03", "Another box used this ticket",
        "Another box joined with this bundle's ticket first.",
        "Tell the operator at once: the bundle may have been copied.";
    TicketRevoked = "E-CLAIM-04", "The ticket is no longer valid",
        "The ticket was withdrawn, has run out, or has let in as many boxes as it may.",
        "Ask for a new bundle.";
    Quarantined = "E-CLAIM-05", "Held back for a person",
        "The fleet saw something that does not fit, such as two boxes with one identity, and holds both back.",
        "Tell the operator, who sees the reason at the fleet.";
    AgentTooOld = "E-CLAIM-06", "The image is too old",
        "The fleet no longer speaks with an image of this age.",
        "Install a newer image.";
    Revoked = "E-CLAIM-07", "This box is revoked",
        "The operator has revoked this box. It gets nothing more from the fleet.",
        "Ask the operator. A revoked box has to be replaced or released at the fleet.";
    NoMatch = "E-CLAIM-08", "The fleet does not expect this box",
        "The box is not on the bundle's list, or too little of it fits.",
        "Compare the serial number on the screen with the inventory.";
    GrantRefused = "E-GRANT-01", "The fleet's answer was refused",
        "What the fleet granted is not signed by it, is for another box, or is older than what the box has.",
        "The box asks again by itself. When it stays, tell the operator.";
    GrantUnusable = "E-GRANT-02", "The grant cannot be applied",
        "The grant asks for something that this image does not do.",
        "Install a newer image, or change what the fleet grants.";
    CertificateRefused = "E-GRANT-03", "The fleet asks for no certificate",
        "What the box wants a cluster to sign is missing, or is not for its own name alone. The fleet passes nothing of it on.",
        "Tell the operator: profile and cluster of the box do not go together, or somebody else speaks for it.";
    DiskTrouble = "E-DISK-01", "The disk does not take writes",
        "The box cannot write to its state partition: it is full, read-only or broken.",
        "Restart the box. When it stays, the disk has to be replaced.";
    Cloned = "E-DISK-02", "The disk came from another box",
        "The identity on this disk was made in other hardware. The box has thrown it away and starts afresh.",
        "If you moved the disk on purpose, ask the operator to release the name. Otherwise nothing is to be done.";
    TpmTrouble = "E-TPM-01", "The TPM does not answer",
        "The box's key is kept by its TPM, and the TPM does not open it at the moment.",
        "Switch the box off and on again. When it stays, check that the TPM is switched on in the firmware's settings.";
    NotJoined = "E-JOIN-01", "Let in, but not yet joined",
        "The fleet let the box in, and what it granted is in place, but the node is not yet ready.",
        "The box goes on by itself. When it stays, the operator sees the reason.";
}

impl Code {
    /// Whether it is about the way to the fleet, and not about the box or what the fleet thinks of it.
    pub const fn is_of_the_network(self) -> bool {
        matches!(
            self,
            Code::NoLink
                | Code::NoAddress
                | Code::Unreachable
                | Code::NameUnknown
                | Code::ProxyRefused
                | Code::Portal
                | Code::ForeignCertificate
        )
    }

    /// Whether a person has to act before it can go on; otherwise the box goes on by itself.
    pub const fn needs_a_person(self) -> bool {
        !matches!(
            self,
            Code::Unreachable | Code::NotJoined | Code::GrantRefused | Code::NameUnknown | Code::Cloned
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;
    fn from_str(s: &str) -> Result<Code, UnknownCode> {
        let found = Code::ALL.iter().find(|c| c.id().eq_ignore_ascii_case(s)).copied();
        found.ok_or_else(|| UnknownCode(s.chars().take(40).collect()))
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Code, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a code of whoever may be newer than this program: one that it does not know is none, and what stands beside it,
/// status and reason, holds all the same. For `#[serde(deserialize_with)]`.
///
/// # Errors
/// For what is no text.
pub fn known<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Code>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.and_then(|text| text.parse().ok()))
}

/// Text that is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no code; codes look like E-NET-03")]
pub struct UnknownCode(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_single_and_can_be_typed_in_any_case() {
        let mut ids: Vec<_> = Code::ALL.iter().map(|c| c.id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Code::ALL.len());
        assert_eq!("e-net-03".parse(), Ok(Code::Unreachable));
        assert!("E-NET-99".parse::<Code>().is_err());
        for code in Code::ALL {
            assert!(code.title().len() <= 40, "{code} is too long for large words");
            assert!(code.cause().ends_with('.') && code.remedy().ends_with('.'));
        }
    }
}
