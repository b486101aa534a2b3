//! Quantities with their unit in the type.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A count of bytes. Displays in binary units, to three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = if value < 9.995 {
            2
        } else if value < 99.95 {
            1
        } else {
            0
        };
        write!(f, "{value:.decimals$} {}", UNITS[unit])
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        Bytes(iter.map(|b| b.0).sum())
    }
}

/// An instant in whole seconds since 1970-01-01 UTC: the one time that a build knows (SOURCE_DATE_EPOCH).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl Epoch {
    /// RFC 3339 in UTC with whole seconds: `2026-11-22T18:00:00Z`.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_second(self.0) {
            Ok(t) => t.to_string(),
            Err(_) => format!("@{}", self.0), // beyond year 9999: still unambiguous, never a panic
        }
    }

    /// `2026.11.22`: the default version of an image.
    pub fn version(self) -> String {
        let date = self.rfc3339();
        date.split('T').next().unwrap_or(&date).replace('-', ".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        for (n, s) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 20, "10.0 MiB"),
            (1023 << 20, "1.00 GiB"),
            (316_000_000, "301 MiB"),
        ] {
            assert_eq!(Bytes(n).to_string(), s);
        }
    }

    #[test]
    fn an_epoch_names_its_day() {
        assert_eq!(Epoch(1_795_305_600).rfc3339(), "2026-11-22T00:00:00Z");
        assert_eq!(Epoch(1_795_305_600).version(), "2026.11.22");
    }
}
