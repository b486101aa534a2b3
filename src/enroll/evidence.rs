//! Hardware facts as evidence: what a box says of itself, and how much of it fits what was expected.
//!
//! Facts identify nobody by themselves: SMBIOS UUIDs repeat, serials are left at the factory's filling, MAC addresses can be
//! set. So they are points, junk is none, and only a TPM's endorsement key that answered a challenge is proof.

use crate::model::Digest;
use serde::{Deserialize, Serialize};

/// Points by what fits.
pub mod points {
    /// An endorsement key that answered make-credential.
    pub const EK: u32 = 100;
    /// The system's serial number.
    pub const SERIAL: u32 = 40;
    /// The board's serial number.
    pub const BOARD: u32 = 20;
    /// Each permanent hardware address.
    pub const MAC: u32 = 20;
    /// The SMBIOS UUID: it repeats too often to be worth more.
    pub const UUID: u32 = 10;
}

/// What a box says of itself. Never a reason to let it in alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// SMBIOS system serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SMBIOS board serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_serial: Option<String>,
    /// SMBIOS UUID, lower case with dashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smbios_uuid: Option<String>,
    /// Maker and model, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Permanent hardware addresses, lower case with colons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<String>,
    /// SHA-256 of the endorsement key's public area, where there is a TPM. Proved only by a challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_sha256: Option<Digest>,
}

impl Facts {
    /// The facts without what factories leave in a field, in one spelling.
    pub fn cleaned(mut self) -> Facts {
        self.serial = self.serial.and_then(|s| real(&s));
        self.board_serial = self.board_serial.and_then(|s| real(&s));
        self.smbios_uuid = self.smbios_uuid.and_then(|s| real_uuid(&s));
        self.macs = self.macs.iter().filter_map(|mac| real_mac(mac)).take(64).collect();
        self.macs.sort();
        self.macs.dedup();
        self.model = self.model.chars().filter(|c| !c.is_control()).take(120).collect();
        self
    }

    /// What tells this hardware from other: SHA-256 over the sorted permanent addresses and the serials. `None` where
    /// there is nothing that could tell.
    pub fn fingerprint(&self) -> Option<Digest> {
        let facts = self.clone().cleaned();
        let mut words: Vec<String> = facts.macs.iter().map(|mac| format!("mac {mac}")).collect();
        words.extend(facts.serial.iter().map(|s| format!("serial {s}")));
        words.extend(facts.board_serial.iter().map(|s| format!("board {s}")));
        if words.is_empty() { None } else { Some(Digest::of(words.join("\n"))) }
    }
}

/// What a box is expected to be. What is not given is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// SMBIOS system serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SMBIOS UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smbios_uuid: Option<String>,
    /// Permanent hardware addresses: each that is there counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<String>,
    /// SHA-256 of the endorsement key's public area.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_sha256: Option<Digest>,
}

/// How much fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// The sum of [`points`].
    pub points: u32,
    /// What fits, in words.
    pub fits: Vec<String>,
    /// What is another than expected, in words: one is enough to be another box.
    pub contradicted: Vec<String>,
    /// Whether the box says that it has the expected endorsement key: [`points::EK`] more once it is proved.
    pub endorsed: bool,
}

impl Match {
    /// Holds the expectation against `facts`. The endorsement key counts only through [`Score::prove`].
    pub fn score(&self, facts: &Facts) -> Score {
        let facts = facts.clone().cleaned();
        let mut score = Score::default();
        if let Some(wanted) = self.serial.as_deref().and_then(real) {
            match &facts.serial {
                Some(found) if *found == wanted => score.fit(points::SERIAL, "serial"),
                Some(found) => score.contradict(format!("serial {found}, not {wanted}")),
                None => {}
            }
            if facts.board_serial.as_ref() == Some(&wanted) {
                score.fit(points::BOARD, "board serial");
            }
        }
        if let Some(wanted) = self.smbios_uuid.as_deref().and_then(real_uuid)
            && facts.smbios_uuid.as_ref() == Some(&wanted)
        {
            score.fit(points::UUID, "smbios uuid");
        }
        let wanted: Vec<String> = self.macs.iter().filter_map(|mac| real_mac(mac)).collect();
        for mac in wanted.iter().filter(|mac| facts.macs.contains(mac)) {
            score.fit(points::MAC, format!("mac {mac}"));
        }
        if let (Some(wanted), Some(found)) = (self.ek_sha256, facts.ek_sha256) {
            if wanted == found {
                score.endorsed = true;
            } else {
                score.contradict("another endorsement key".into());
            }
        }
        score
    }

    /// Whether nothing is expected.
    pub fn is_empty(&self) -> bool {
        *self == Match::default()
    }
}

impl Score {
    fn fit(&mut self, points: u32, what: impl Into<String>) {
        self.points += points;
        self.fits.push(what.into());
    }

    fn contradict(&mut self, what: String) {
        self.contradicted.push(what);
    }

    /// The points once the endorsement key that the box named has answered its challenge.
    pub fn attainable(&self) -> u32 {
        self.points + if self.endorsed { points::EK } else { 0 }
    }

    /// Counts an endorsement key that answered its challenge.
    pub fn prove(&mut self) {
        self.fit(points::EK, "endorsement key, proved");
    }
}

/// What boards say when nobody filled the field in, in lower case; compared whole.
const JUNK: &[&str] = &[
    "",
    "none",
    "n/a",
    "na",
    "unknown",
    "default string",
    "default",
    "to be filled by o.e.m.",
    "to be filled by oem",
    "to be filled",
    "system serial number",
    "chassis serial number",
    "base board serial number",
    "not specified",
    "not applicable",
    "not available",
    "invalid",
    "oem",
    "empty",
    "serial",
    "sn",
    "0123456789",
    "1234567890",
    "123456789",
    "12345678",
    "xxxxxxxx",
    "type1productconfigid",
    "system product name",
    "system version",
];

fn real(text: &str) -> Option<String> {
    let text = text.trim();
    let lower = text.to_lowercase();
    let mut letters = lower.bytes().filter(u8::is_ascii_alphanumeric);
    let first = letters.next()?;
    let one_letter = letters.all(|c| c == first); // 00000000, FFFFFFFF, XXXX
    let printable = text.len() <= 128 && text.chars().all(|c| !c.is_control());
    (!JUNK.contains(&lower.as_str()) && !one_letter && printable).then(|| text.to_string())
}

fn real_uuid(text: &str) -> Option<String> {
    let lower = text.trim().to_lowercase();
    let hex: String = lower.chars().filter(|c| *c != '-').collect();
    let is_uuid = hex.len() == 32 && hex.bytes().all(|c| c.is_ascii_hexdigit());
    // A board's placeholder that is seen on thousands of machines.
    let known = hex == "03000200040005000006000700080009";
    (is_uuid && !known && real(&hex).is_some()).then_some(lower)
}

fn real_mac(text: &str) -> Option<String> {
    let lower = text.trim().to_lowercase().replace('-', ":");
    let parts: Vec<Option<u8>> =
        lower.split(':').map(|p| (p.len() == 2).then(|| u8::from_str_radix(p, 16).ok()).flatten()).collect();
    let bytes: Vec<u8> = parts.into_iter().collect::<Option<_>>()?;
    let group = bytes.first().is_some_and(|b| b & 1 == 1); // group addresses are no card's, ff:… among them
    (bytes.len() == 6 && !group && bytes.iter().any(|b| *b != 0)).then_some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factorys_filling_is_no_fact() {
        for junk in [
            "",
            " ",
            "To Be Filled By O.E.M.",
            "Default string",
            "00000000",
            "FFFFFFFF",
            "None",
            "a\u{7}b1",
            "----",
        ] {
            assert_eq!(real(junk), None, "{junk:?}");
        }
        assert_eq!(real(" PF-12345 "), Some("PF-12345".into()));
        for junk in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "x",
        ] {
            assert_eq!(real_uuid(junk), None, "{junk}");
        }
        for junk in
            ["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01", "02:00:00:00:00", "2:0:0:0:0:1"]
        {
            assert_eq!(real_mac(junk), None, "{junk}");
        }
        assert_eq!(real_mac("02-00-00-00-00-0A"), Some("02:00:00:00:00:0a".into()));
    }

    #[test]
    fn junk_neither_fits_nor_contradicts() {
        let expected = Match { serial: Some("Default string".into()), ..Match::default() };
        let facts = Facts { serial: Some("Default string".into()), ..Facts::default() };
        assert_eq!(expected.score(&facts), Score::default());
        let expected = Match { serial: Some("PF-1".into()), ..Match::default() };
        assert_eq!(expected.score(&facts), Score::default());
    }

    #[test]
    fn what_fits_adds_up_and_another_serial_contradicts() {
        let expected = Match {
            serial: Some("PF-1".into()),
            macs: vec!["02:00:00:00:00:01".into(), "02:00:00:00:00:02".into()],
            ..Match::default()
        };
        let facts =
            Facts { serial: Some("PF-1".into()), macs: vec!["02:00:00:00:00:01".into()], ..Facts::default() };
        let mut score = expected.score(&facts);
        assert_eq!((score.points, score.contradicted.len()), (60, 0));
        score.prove();
        assert_eq!(score.points, 160);
        let other = Facts { serial: Some("PF-2".into()), ..facts };
        assert_eq!(expected.score(&other).contradicted.len(), 1);
    }

    #[test]
    fn a_fingerprint_is_the_hardwares_and_not_the_orders() {
        let one =
            Facts { macs: vec!["02:00:00:00:00:01".into(), "02:00:00:00:00:02".into()], ..Facts::default() };
        let turned =
            Facts { macs: vec!["02:00:00:00:00:02".into(), "02-00-00-00-00-01".into()], ..Facts::default() };
        let other = Facts { macs: vec!["02:00:00:00:00:03".into()], ..Facts::default() };
        assert_eq!(one.fingerprint(), turned.fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(Facts { serial: Some("none".into()), ..Facts::default() }.fingerprint(), None);
    }
}
