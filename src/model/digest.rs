//! SHA-256 digests: of bytes, of readers, and of what passes through a writer.
//!
//! Spelled `sha256:<64 lowercase hex digits>`, the grammar of OCI image-spec v1.1, descriptor.md §Digests. Other
//! algorithms are refused at parsing: nothing that forge locks is weaker, and nothing it meets is stronger.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Digest {
        Digest(sha2::Sha256::digest(bytes.as_ref()).into())
    }

    /// The digest and the length in bytes of all that `reader` gives.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Digest, u64)> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    /// Takes the 32 raw bytes.
    pub const fn from_raw(raw: [u8; 32]) -> Digest {
        Digest(raw)
    }

    /// The 32 raw bytes.
    pub const fn as_raw(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lowercase hex digits, without the algorithm: a blob's file name in an OCI layout.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Parses 64 hex digits without an algorithm, as `SHA256SUMS` and Debian's indices spell them.
    ///
    /// # Errors
    /// [`BadDigest`] when `s` is not 64 lowercase hex digits.
    pub fn from_hex(s: &str) -> Result<Digest, BadDigest> {
        let bad = || BadDigest(s.chars().take(80).collect());
        let s_bytes = s.as_bytes();
        if s_bytes.len() != 64 {
            return Err(bad());
        }
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut raw = [0; 32];
        for (byte, pair) in raw.iter_mut().zip(s_bytes.chunks_exact(2)) {
            *byte = nibble(pair[0]).ok_or_else(bad)? << 4 | nibble(pair[1]).ok_or_else(bad)?;
        }
        Ok(Digest(raw))
    }
}

/// Lowercase hex of any bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}"); // writing to a String cannot fail
        s
    })
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = BadDigest;
    fn from_str(s: &str) -> Result<Self, BadDigest> {
        let hex = s.strip_prefix("sha256:").ok_or_else(|| BadDigest(s.chars().take(80).collect()))?;
        Digest::from_hex(hex).map_err(|_| BadDigest(s.chars().take(80).collect()))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text that is no SHA-256 digest; carries its first 80 characters.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest (sha256: and 64 lowercase hex digits)")]
pub struct BadDigest(pub String);

/// Hashes and counts bytes as they pass.
#[derive(Clone, Default)]
pub struct Hasher {
    state: sha2::Sha256,
    length: u64,
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The digest and the count of bytes so far.
    pub fn finish(self) -> (Digest, u64) {
        (Digest(self.state.finalize().into()), self.length)
    }
}

/// A writer that hashes and counts what it passes on.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        HashingWriter { inner, hasher: Hasher::default() }
    }

    /// The wrapped writer, the digest of what it was given, and how many bytes that was.
    pub fn finish(self) -> (W, Digest, u64) {
        let (digest, length) = self.hasher.finish();
        (self.inner, digest, length)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_spelling() {
        let digest = Digest::of("forge");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(Digest::of_reader(&b"forge"[..]).unwrap(), (digest, 5));
    }

    #[test]
    fn other_algorithms_cases_and_lengths_are_refused() {
        let hex = Digest::of("").hex();
        for bad in [
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            "sha256:é".repeat(8),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
