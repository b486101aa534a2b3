//! What lies on a device's disk, and how far the device is by it (enrollment contract, C6).
//!
//! All of it is read by the program one version before this one too, after the image fell back: members are only ever
//! added, unknown ones are passed over, and what cannot be read counts as absent.

use crate::device::effects::{CarrierKind, Disk};
use crate::device::state::State;
use crate::device::store::Store;
use crate::enroll::DeviceId;
use crate::enroll::envelope::Nonce;
use crate::enroll::evidence::Facts;
use crate::model::{Digest, Epoch};
use crate::sign::PublicKey;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Everything of a device's own.
pub const ROOT: &str = "/var/lib/forge";
/// Copies of bundles; [`VERIFIED`] says which is in use.
pub const BUNDLES: &str = "/var/lib/forge/enroll/bundle";
/// Says which copy is in use, and that it is whole: a [`Verified`].
pub const VERIFIED: &str = "/var/lib/forge/enroll/bundle/VERIFIED";
/// The least serial that a new bundle may have: a [`Floor`].
pub const FLOOR: &str = "/var/lib/forge/enroll/floor";
/// Roots that took the place of the image's: a [`Rotated`].
pub const ROOTS: &str = "/var/lib/forge/enroll/roots.json";
/// What the clock is not before: an [`Epoch`].
pub const CLOCK: &str = "/var/lib/forge/enroll/clock";
/// How often the device has started: a number.
pub const BOOTS: &str = "/var/lib/forge/enroll/boots";
/// A claim was made, or is about to be: a [`ClaimNote`].
pub const CLAIM: &str = "/var/lib/forge/enroll/claim.json";
/// Events that the fleet has not heard of.
pub const EVENTS: &str = "/var/lib/forge/enroll/events.json";
/// Leads to the stage of the generation that is in place. Units wait for it to exist.
pub const APPLIED: &str = "/var/lib/forge/enroll/applied";
/// The node was ready with this generation: a number.
pub const JOINED: &str = "/var/lib/forge/enroll/joined";
/// The ticket is gone: an empty object.
pub const SCRUBBED: &str = "/var/lib/forge/enroll/scrubbed";
/// The fleet revoked the device: an empty object.
pub const REVOKED: &str = "/var/lib/forge/enroll/revoked";
/// The identity's seed, sealed.
pub const KEY: &str = "/var/lib/forge/id/key.cred";
/// The seed of the key that grants are sealed to, sealed.
pub const ENC: &str = "/var/lib/forge/id/enc.cred";
/// The key behind the certificate that a cluster signs, sealed; only where the image asks for one.
pub const CERTIFICATE_KEY: &str = "/var/lib/forge/id/certificate.cred";
/// The hardware that the identity was made in: a [`Print`].
pub const HW: &str = "/var/lib/forge/id/hw.fp";
/// A directory for each grant.
pub const GRANTS: &str = "/var/lib/forge/grant";
/// A directory for each rendered grant.
pub const STAGES: &str = "/var/lib/forge/stage";
/// A file for each grant that the fleet knows is here.
pub const ACKED: &str = "/var/lib/forge/acked";
/// Says that a stage is whole: a [`Complete`].
pub const COMPLETE: &str = "COMPLETE";

/// The copy of the bootstrap of that SHA-256.
pub fn bootstrap(sha256: Digest) -> PathBuf {
    Path::new(BUNDLES).join(format!("{}.dsse.json", sha256.hex()))
}
/// The ticket that came with it.
pub fn ticket(sha256: Digest) -> PathBuf {
    Path::new(BUNDLES).join(format!("{}.key", sha256.hex()))
}
/// The sealed grant of a generation: a DSSE envelope.
pub fn grant(generation: u64) -> PathBuf {
    Path::new(GRANTS).join(generation.to_string()).join("grant.dsse")
}
/// The rendered files of a generation.
pub fn stage(generation: u64) -> PathBuf {
    Path::new(STAGES).join(generation.to_string())
}
/// Says that the fleet knows of a generation.
pub fn acked(generation: u64) -> PathBuf {
    Path::new(ACKED).join(generation.to_string())
}

/// The copied bundle was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// SHA-256 of the bootstrap's file.
    pub sha256: Digest,
    /// Its serial.
    pub serial: u64,
    /// What carried it: a stick that somebody plugged in comes before the box's own partition.
    pub kind: CarrierWord,
}

/// A [`CarrierKind`] as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarrierWord {
    /// A credential of the firmware.
    Firmware,
    /// The box's own partition.
    Partition,
    /// A stick.
    Stick,
}

impl From<CarrierKind> for CarrierWord {
    fn from(kind: CarrierKind) -> CarrierWord {
        match kind {
            CarrierKind::Firmware => CarrierWord::Firmware,
            CarrierKind::Partition => CarrierWord::Partition,
            CarrierKind::Stick => CarrierWord::Stick,
        }
    }
}

/// The least serial of a bundle that is newly taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The serial.
    pub serial: u64,
}

/// Roots that a bundle under the old ones named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// SHA-256 over the image's own roots at that time: an image with others knows better.
    pub of: Digest,
    /// The keys.
    pub roots: Vec<PublicKey>,
    /// How many of them have to sign.
    pub threshold: usize,
    /// The roots before, which signed the bundle that names these.
    pub before: Vec<PublicKey>,
    /// How many of those had to.
    pub before_threshold: usize,
}

/// The hardware that an identity was made in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// [`Facts::fingerprint`], for people.
    pub fingerprint: Option<Digest>,
    /// What it is made of.
    pub facts: SavedFacts,
}

/// Facts as they are kept. Unlike on the wire, what a later version adds is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFacts {
    /// SMBIOS system serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SMBIOS board serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_serial: Option<String>,
    /// Permanent hardware addresses.
    #[serde(default)]
    pub macs: Vec<String>,
}

impl From<&Facts> for SavedFacts {
    fn from(facts: &Facts) -> SavedFacts {
        let facts = facts.clone().cleaned();
        SavedFacts { serial: facts.serial, board_serial: facts.board_serial, macs: facts.macs }
    }
}

/// A claim was made, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimNote {
    /// Who claims.
    pub device: DeviceId,
    /// The nonce of the grant that is asked for: the same question gets the same grant.
    pub nonce: Nonce,
    /// The generation that was in place when it was drawn; 0 for none.
    pub have: u64,
}

/// The list of a stage's files, in the order of putting them in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// The grant's name, for the acknowledgement.
    pub grant_id: String,
    /// The SHA-256 of its envelope, likewise.
    pub grant_sha256: Option<Digest>,
    /// The node's name.
    pub node: String,
    /// The files.
    pub files: Vec<StagedFile>,
    /// When a certificate among them is to be asked for anew, by the fleet's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_after: Option<Epoch>,
}

/// A file of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Its name in the stage.
    pub name: String,
    /// Where it goes.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Of its content.
    pub sha256: Digest,
}

/// What lies whole on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// A verified copy of a bundle.
    pub bundle: bool,
    /// Both keys and the hardware's fingerprint.
    pub keyed: bool,
    /// A claim was made, or was about to be.
    pub claimed: bool,
    /// The newest grant.
    pub granted: u64,
    /// The newest whole stage.
    pub staged: u64,
    /// The generation in place.
    pub applied: u64,
    /// The newest generation that the fleet knows is here.
    pub acked: u64,
    /// The newest generation with which the node was ready.
    pub joined: u64,
    /// The ticket is gone.
    pub scrubbed: bool,
    /// The fleet revoked the device.
    pub revoked: bool,
}

impl Survey {
    /// Looks at the disk. Bundle and keys are only seen to be there: whether they hold is found when they are opened.
    ///
    /// # Errors
    /// What the disk says.
    pub fn take(store: &mut Store, disk: &mut impl Disk) -> io::Result<Survey> {
        let mut has = |path: &str| -> io::Result<bool> {
            Ok(store.get(disk, Path::new(path), crate::device::store::MAX_ARTEFACT)?.is_some())
        };
        let keyed = has(KEY)? && has(ENC)? && has(HW)?;
        let bundle = has(VERIFIED)?;
        let (claimed, scrubbed, revoked) = (has(CLAIM)?, has(SCRUBBED)?, has(REVOKED)?);
        let joined = store.get_json(disk, Path::new(JOINED))?.unwrap_or(0);
        let mut newest = |dir: &str, file: &dyn Fn(u64) -> PathBuf| -> io::Result<u64> {
            for generation in generations(disk.list(Path::new(dir))?) {
                if store.get(disk, &file(generation), crate::device::store::MAX_ARTEFACT)?.is_some() {
                    return Ok(generation);
                }
            }
            Ok(0)
        };
        let granted = newest(GRANTS, &grant)?;
        let staged = newest(STAGES, &|g| stage(g).join(COMPLETE))?;
        let acked = newest(ACKED, &acked)?;
        let applied = applied(disk)?;
        Ok(Survey { bundle, keyed, claimed, granted, staged, applied, acked, joined, scrubbed, revoked })
    }

    /// How far the device is by its disk alone.
    pub fn state(&self) -> State {
        if !self.bundle {
            State::Fresh
        } else if !self.keyed {
            State::Bundle
        } else if self.applied == 0 {
            match () {
                () if self.staged > 0 => State::Staged,
                () if self.granted > 0 => State::Granted,
                () if self.claimed => State::Claimed,
                () => State::Keyed,
            }
        } else if self.acked < self.applied {
            State::Applied
        } else if self.joined < self.applied {
            State::Acked
        } else if !self.scrubbed {
            State::Joined
        } else {
            State::Scrubbed
        }
    }
}

/// The numbers among `names`, highest first.
pub fn generations(names: Vec<String>) -> Vec<u64> {
    let plain = |n: &String| n.parse::<u64>().ok().filter(|g| *g > 0 && g.to_string() == **n);
    let mut numbers: Vec<u64> = names.iter().filter_map(plain).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// The generation that is in place; 0 for none.
///
/// # Errors
/// What the disk says.
pub fn applied(disk: &mut impl Disk) -> io::Result<u64> {
    let target = disk.read_link(Path::new(APPLIED))?;
    let name = target.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    Ok(name.and_then(|n| generations(vec![n]).first().copied()).unwrap_or(0))
}

/// The clock that was saved.
///
/// # Errors
/// What the disk says.
pub fn saved_clock(store: &mut Store, disk: &mut impl Disk) -> io::Result<Epoch> {
    Ok(store.get_json(disk, Path::new(CLOCK))?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn survey() -> impl Strategy<Value = Survey> {
        (any::<[bool; 5]>(), 0..4u64, 0..4u64, 0..4u64, 0..4u64, 0..4u64).prop_map(|(b, g, s, a, k, j)| {
            Survey {
                bundle: b[0],
                keyed: b[1],
                claimed: b[2],
                granted: g,
                staged: s,
                applied: a,
                acked: k,
                joined: j,
                scrubbed: b[3],
                revoked: b[4],
            }
        })
    }

    proptest! {
        #[test]
        fn nothing_that_is_lost_makes_a_state_further(survey in survey()) {
            let state = survey.state();
            for less in [
                Survey { bundle: false, ..survey },
                Survey { keyed: false, ..survey },
                Survey { claimed: false, ..survey },
                Survey { granted: 0, ..survey },
                Survey { staged: 0, ..survey },
                Survey { acked: 0, ..survey },
                Survey { joined: 0, ..survey },
                Survey { scrubbed: false, ..survey },
            ] {
                prop_assert!(less.state() <= state, "{less:?} is {:?}, and {survey:?} only {state:?}", less.state());
            }
        }

        #[test]
        fn a_state_needs_what_it_says(survey in survey()) {
            let state = survey.state();
            prop_assert!(state < State::Bundle || survey.bundle);
            prop_assert!(state < State::Keyed || survey.keyed);
            prop_assert!(state < State::Applied || survey.applied > 0);
            prop_assert!(state < State::Acked || survey.acked >= survey.applied);
            prop_assert!(state < State::Scrubbed || survey.scrubbed && survey.joined >= survey.applied);
        }

        #[test]
        fn a_directory_is_a_generation_only_by_its_plain_number(names in prop::collection::vec(".{0,8}", 0..6)) {
            let numbers = generations(names.clone());
            prop_assert!(numbers.is_sorted_by(|a, b| a >= b));
            prop_assert!(numbers.iter().all(|n| *n > 0 && names.contains(&n.to_string())));
        }
    }

    #[test]
    fn what_a_later_version_wrote_is_read() {
        let note = r#"{"schema":2,"device":"fd-aaaaaaaaaaaaaaaaaaaaaaaaaa","nonce":"0123456789abcdef","have":3,"hint":{}}"#;
        assert_eq!(serde_json::from_str::<ClaimNote>(note).unwrap().have, 3);
        let complete = r#"{"grant_id":"g","node":"n","files":[{"name":"000","path":"/etc/forge/x","mode":384,
            "sha256":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","owner":"root"}],"units":[]}"#;
        assert_eq!(serde_json::from_str::<Complete>(complete).unwrap().files.len(), 1);
        let print = r#"{"fingerprint":null,"facts":{"serial":"S","asset_tag":"T"}}"#;
        assert_eq!(serde_json::from_str::<Print>(print).unwrap().facts.serial.as_deref(), Some("S"));
    }
}
