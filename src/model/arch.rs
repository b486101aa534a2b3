//! A machine architecture and the spellings that each standard gives it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An architecture that forge builds for. Displays and parses in OCI's and Debian's spelling (`amd64`, `arm64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// Every architecture, in the order in which outputs are listed.
    pub const ALL: [Arch; 2] = [Arch::Amd64, Arch::Arm64];

    /// The architecture that this program was compiled for, or `None` where forge could not build for itself.
    pub fn host() -> Option<Arch> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Arch::Amd64),
            "aarch64" => Some(Arch::Arm64),
            _ => None,
        }
    }

    /// `amd64`: OCI image-spec (Go's GOARCH) and Debian.
    pub fn oci(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// `x86_64`: `uname -m`, QEMU's system emulators.
    pub fn kernel(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64",
            Arch::Arm64 => "aarch64",
        }
    }

    /// `x64`: the suffix of UEFI's removable-media file and of systemd-boot's files.
    pub fn efi(self) -> &'static str {
        match self {
            Arch::Amd64 => "x64",
            Arch::Arm64 => "aa64",
        }
    }

    /// `x86-64`: systemd's word, in partition type names (UAPI.2).
    pub fn systemd(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86-64",
            Arch::Arm64 => "arm64",
        }
    }

    /// `x86_64-linux-gnu`: Debian's multiarch directory under `usr/lib`.
    pub fn multiarch(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64-linux-gnu",
            Arch::Arm64 => "aarch64-linux-gnu",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oci())
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;
    fn from_str(s: &str) -> Result<Self, UnknownArch> {
        Arch::ALL.into_iter().find(|a| a.oci() == s).ok_or_else(|| UnknownArch(s.into()))
    }
}

/// A word that names no architecture forge builds for.
#[derive(Debug, thiserror::Error)]
#[error("unknown architecture `{0}`, expected `amd64` or `arm64`")]
pub struct UnknownArch(pub String);
