//! Who a device is: a key that it made, the id that follows from the key, and six words that people compare.

use crate::sign::PublicKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How many characters follow `fd-`: 130 bits, so that nobody makes a second key of the same id.
const LETTERS: usize = 26;

/// `fd-` and 26 characters of base32 (RFC 4648, lower case) of the SHA-256 of the key's SubjectPublicKeyInfo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DeviceId(String);

impl DeviceId {
    /// The id of the device whose identity `key` is.
    pub fn of(key: &PublicKey) -> DeviceId {
        let text = base32(key.key_id().0.as_raw());
        DeviceId(format!("fd-{}", &text[..LETTERS]))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeviceId {
    type Err = BadDeviceId;
    fn from_str(s: &str) -> Result<DeviceId, BadDeviceId> {
        let letters = s.strip_prefix("fd-").unwrap_or_default();
        if letters.len() == LETTERS && letters.bytes().all(|c| BASE32.contains(&c)) {
            return Ok(DeviceId(s.into()));
        }
        Err(BadDeviceId(s.chars().take(80).collect()))
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<DeviceId, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text that is no device id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device id, which is `fd-` and {LETTERS} of a-z and 2-7")]
pub struct BadDeviceId(pub String);

/// Six words that stand for the key on a screen: a person at the box reads them to a person at the fleet, who lets in
/// this key and no other. Proquints (Wilkerson, 2009) of the first 96 bits of the key's digest.
pub fn words(key: &PublicKey) -> String {
    let digest = key.key_id().0;
    let pairs = digest.as_raw().chunks_exact(2).take(6);
    pairs.map(|pair| proquint(u16::from_be_bytes([pair[0], pair[1]]))).collect::<Vec<_>>().join(" ")
}

/// A syllable pair that can be said over a bad line: consonants stand for four bits, vowels for two.
fn proquint(word: u16) -> String {
    const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
    const VOWELS: &[u8; 4] = b"aiou";
    let consonant = |shift: u32| CONSONANTS[usize::from(word >> shift & 15)] as char;
    let vowel = |shift: u32| VOWELS[usize::from(word >> shift & 3)] as char;
    [consonant(12), vowel(10), consonant(6), vowel(4), consonant(0)].iter().collect()
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let (mut text, mut held, mut bits) = (String::new(), 0u32, 0);
    for &byte in bytes {
        held = held << 8 | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(BASE32[(held >> bits & 31) as usize] as char);
        }
    }
    if bits > 0 {
        text.push(BASE32[(held << (5 - bits) & 31) as usize] as char);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{PrivateKey, Signer as _};

    #[test]
    fn ids_and_words_follow_from_the_key() {
        let key = PrivateKey::from_seed(&[7; 32]).unwrap();
        let id = DeviceId::of(key.public_key());
        assert_eq!(id.as_str().len(), 29);
        assert_eq!(id.as_str().parse::<DeviceId>().unwrap(), id);
        assert_eq!(words(key.public_key()).split(' ').count(), 6);
        let other = PrivateKey::from_seed(&[8; 32]).unwrap();
        assert_ne!(DeviceId::of(other.public_key()), id);
        for bad in [
            "",
            "fd-",
            "fd-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            "xx-abcdefghijklmnopqrstuvwxyz",
            "fd-abcdefghijklmnopqrstuvwxy1",
        ] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn encodings_are_those_of_their_specifications() {
        // RFC 4648, section 10, in lower case and without padding.
        for (bytes, text) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
        // The paper's first example: 127.0.0.1 is lusab-babad.
        assert_eq!((proquint(0x7f00), proquint(0x0001)), ("lusab".into(), "babad".into()));
    }
}
