//! UUIDs of partitions and file systems, derived and never drawn: equal inputs give equal disks.

use super::Digest;
use std::fmt;
use std::str::FromStr;

/// A UUID in the byte order of its text (RFC 9562). GPT stores the first three fields swapped: [`Guid::to_gpt`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// All zeros: "unused" in a GPT entry.
    pub const NIL: Guid = Guid([0; 16]);

    /// Takes the 16 bytes in the order of the text.
    pub const fn from_bytes(bytes: [u8; 16]) -> Guid {
        Guid(bytes)
    }

    /// Takes the UUID whose text, without dashes, is the hex number `value`.
    pub const fn from_u128(value: u128) -> Guid {
        Guid(value.to_be_bytes())
    }

    /// A version 8 UUID (RFC 9562 §5.8) from a digest and a label that says what it is for.
    pub fn derived(from: &Digest, label: &str) -> Guid {
        let mut input = from.as_raw().to_vec();
        input.extend(label.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Digest::of(input).as_raw()[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80; // version 8: made by a rule of its maker's
        bytes[8] = bytes[8] & 0x3f | 0x80; // variant of RFC 9562
        Guid(bytes)
    }

    /// The 16 bytes in the order of the text.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The bytes as GPT and EFI store them: first three fields little-endian (UEFI 2.10, appendix A).
    pub fn to_gpt(self) -> [u8; 16] {
        let mut b = self.0;
        b[..4].reverse();
        b[4..6].reverse();
        b[6..8].reverse();
        b
    }

    /// The inverse of [`Guid::to_gpt`].
    pub fn from_gpt(stored: [u8; 16]) -> Guid {
        Guid(Guid(stored).to_gpt())
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Guid {
    type Err = BadGuid;
    fn from_str(s: &str) -> Result<Guid, BadGuid> {
        let bad = || BadGuid(s.chars().take(80).collect());
        let dashes = s.len() == 36 && [8, 13, 18, 23].iter().all(|i| s.as_bytes()[*i] == b'-');
        let digits: String = s.chars().filter(|c| *c != '-').collect();
        // from_str_radix takes a sign, which no UUID has.
        if !dashes || digits.len() != 32 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u128::from_str_radix(&digits, 16).map(Guid::from_u128).map_err(|_| bad())
    }
}

/// Text that is no UUID; carries its first 80 characters.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a UUID")]
pub struct BadGuid(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_stored_form() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let esp: Guid = text.parse().unwrap();
        assert_eq!(esp.to_string(), text);
        assert_eq!(esp.to_gpt()[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(Guid::from_gpt(esp.to_gpt()), esp);
        for bad in ["", "c12a7328f81f11d2ba4b00a0c93ec93b", "+12a7328-f81f-11d2-ba4b-00a0c93ec93b"] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_ones_differ_by_label_and_bear_their_version() {
        let of = |label| Guid::derived(&Digest::of("build"), label).to_string();
        assert_ne!(of("disk"), of("esp"));
        assert_eq!(&of("disk")[14..15], "8");
    }
}
