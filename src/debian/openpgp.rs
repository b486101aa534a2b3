//! Clear-signed text and a keyring → the text that a trusted key signed (RFC 9580, as far as archives use it).
//!
//! Version 4 keys and signatures; RSA from 2048 bits, Ed25519 in its old (algorithm 22) and new (27) form; SHA-256, -384
//! and -512. Everything else is passed over as if it were not there, so that an archive may sign with newer keys besides.
//! A keyring is trusted as a whole: who put a key there trusts it, and user IDs and third-party certifications play no part.
//! Only text inside of the one signed block is ever given out.

mod cleartext;
mod packet;

use crate::model::Epoch;
use aws_lc_rs::digest as hash;
use aws_lc_rs::signature as verify;
use packet::{Packet, Reader, Signature};
use std::fmt;

/// How far a signature's date may lie ahead of this machine's clock, in seconds.
const CLOCK_SKEW: i64 = 24 * 3600;

/// A version 4 fingerprint: SHA-1 over the key. Displays as 40 uppercase hex digits, like `gpg` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 20]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02X}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why nothing was verified.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The text has no signature, or not the form of a clear-signed message.
    #[error("not a clear-signed message: {0}")]
    NotSigned(&'static str),
    /// Base64, packets or subpackets that end early or overlap.
    #[error("malformed OpenPGP data")]
    Malformed,
    /// No signature is by a key of the keyring.
    #[error("signed by none of the trusted keys, but by {}", list(.signers))]
    UnknownKeys {
        /// Who says to have signed.
        signers: Vec<String>,
    },
    /// A trusted key's signature does not fit the text.
    #[error("the signature by {key} does not match the text")]
    BadSignature {
        /// The key.
        key: Fingerprint,
    },
    /// A trusted key signed, but is past its time, revoked, or signed at a time that cannot be.
    #[error("the key {key} {why}")]
    Unusable {
        /// The key.
        key: Fingerprint,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A keyring without a key that could verify anything.
    #[error("the keyring holds no usable key")]
    EmptyKeyring,
}

fn list(signers: &[String]) -> String {
    if signers.is_empty() { "no key that is named".into() } else { signers.join(", ") }
}

/// Text that was signed, and by whom.
#[derive(Debug)]
pub struct Verified {
    /// The signed text, lines ended by `\n`, without the blanks at line ends that a clear signature does not cover.
    pub text: String,
    /// The keys of the keyring whose signatures hold; at least one.
    pub signers: Vec<Signer>,
}

/// A key of the keyring that made a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key that signed: a subkey, or the primary key.
    pub key: Fingerprint,
    /// The primary key, which is what people know.
    pub primary: Fingerprint,
    /// When it says to have signed.
    pub signed: Epoch,
}

/// Public keys that may sign an archive.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    fingerprint: Fingerprint,
    primary: Fingerprint,
    created: i64,
    expires: Option<i64>,
    revoked: bool,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ed25519([u8; 32]),
}

impl Keyring {
    /// Reads OpenPGP certificates, binary or ASCII-armored, one or many in a row. Keys that cannot sign, or whose binding
    /// to their primary key is not shown by valid signatures in both directions (RFC 9580 §10.1.5), are left out.
    ///
    /// # Errors
    /// [`Refused::Malformed`], or [`Refused::EmptyKeyring`] when nothing usable remains.
    pub fn parse(bytes: &[u8]) -> Result<Keyring, Refused> {
        let dearmored;
        let mut rest = bytes;
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") {
            let text = std::str::from_utf8(bytes).map_err(|_| Refused::Malformed)?;
            dearmored = cleartext::dearmor_keys(text)?;
            rest = &dearmored;
        }
        let mut keyring = Keyring::default();
        let mut certificate: Vec<Packet<'_>> = vec![];
        while let Some(packet) = packet::next(&mut rest)? {
            if packet.tag == packet::PUBLIC_KEY && !certificate.is_empty() {
                keyring.add(&certificate);
                certificate.clear();
            }
            certificate.push(packet);
        }
        keyring.add(&certificate);
        if keyring.keys.is_empty() { Err(Refused::EmptyKeyring) } else { Ok(keyring) }
    }

    /// Joins the keys of `other` to these.
    pub fn extend(&mut self, other: Keyring) {
        self.keys.extend(other.keys);
    }

    /// The fingerprints of the primary keys, sorted.
    pub fn primaries(&self) -> Vec<Fingerprint> {
        let mut all: Vec<_> = self.keys.iter().map(|k| k.primary).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Adds the keys of one certificate: a primary key, then signatures about it, user IDs and subkeys, each followed by
    /// the signatures about them (RFC 9580 §10.1).
    fn add(&mut self, certificate: &[Packet<'_>]) {
        let Some((first, rest)) = certificate.split_first() else { return };
        let Some(mut primary) = Key::parse(first.body).filter(|_| first.tag == packet::PUBLIC_KEY) else {
            return;
        };
        let mut primary_signs = true;
        let mut newest_self = i64::MIN;
        let mut subkeys: Vec<Key> = vec![];
        let mut i = 0;
        let mut subject = &Packet { tag: packet::PUBLIC_KEY, body: first.body };
        let mut binding: Option<(i64, Key)> = None;
        let mut subkey_revoked = false;
        while i < rest.len() {
            let packet = &rest[i];
            i += 1;
            if packet.tag == packet::TRUST {
                continue; // gpg's own notes, in keyrings that it wrote
            }
            if packet.tag != packet::SIGNATURE {
                finish(&mut subkeys, binding.take(), std::mem::take(&mut subkey_revoked));
                subject = packet;
                continue;
            }
            let Some(signature) = Signature::parse(packet.body) else { continue };
            let hashed_primary = packet::key_for_hash(first.body);
            match (subject.tag, signature.kind) {
                // A certification of a user ID, or a signature on the key itself, by the key itself: its expiry, its uses.
                (packet::USER_ID, 0x10..=0x13) | (packet::PUBLIC_KEY, 0x1f) => {
                    let id = packet::user_id_for_hash(subject);
                    if signature.created >= newest_self && primary.signed(&signature, &[&hashed_primary, &id])
                    {
                        newest_self = signature.created;
                        primary.expires = signature.key_lifetime.map(|s| primary.created.saturating_add(s));
                        primary_signs = signature.may_sign.unwrap_or(true);
                    }
                }
                (_, 0x20) if primary.signed(&signature, &[&hashed_primary]) => primary.revoked = true,
                (packet::PUBLIC_SUBKEY, 0x18 | 0x28) => {
                    let hashed = packet::key_for_hash(subject.body);
                    let message: [&[u8]; 2] = [&hashed_primary, &hashed];
                    if !primary.signed(&signature, &message) {
                        continue;
                    }
                    if signature.kind == 0x28 {
                        subkey_revoked = true;
                        continue;
                    }
                    let Some(mut key) = Key::parse(subject.body) else { continue };
                    key.primary = primary.fingerprint;
                    key.expires = signature.key_lifetime.map(|s| key.created.saturating_add(s));
                    // Without the subkey's own signature anyone could claim another's subkey as theirs.
                    let back = signature.embedded.and_then(Signature::parse);
                    let bound = signature.may_sign == Some(true)
                        && back.is_some_and(|back| back.kind == 0x19 && key.signed(&back, &message));
                    // The newest binding says what holds, also when it says that the key no longer signs.
                    if binding.as_ref().is_none_or(|(created, _)| signature.created >= *created) {
                        key.revoked = !bound;
                        binding = Some((signature.created, key));
                    }
                }
                _ => {}
            }
        }
        finish(&mut subkeys, binding.take(), subkey_revoked);
        for key in &mut subkeys {
            key.revoked |= primary.revoked;
            key.expires = match (key.expires, primary.expires) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        // A primary key that no self-signature speaks for may still be one that somebody put here to trust; but nothing
        // says until when, so it is not.
        if primary_signs && newest_self > i64::MIN {
            self.keys.push(primary);
        }
        if newest_self > i64::MIN {
            self.keys.extend(subkeys);
        }

        fn finish(subkeys: &mut Vec<Key>, binding: Option<(i64, Key)>, revoked: bool) {
            if let Some((_, mut key)) = binding {
                key.revoked |= revoked;
                subkeys.push(key);
            }
        }
    }

    fn find(&self, signature: &Signature<'_>) -> impl Iterator<Item = &Key> {
        let (fingerprint, key_id) = (signature.issuer, signature.issuer_id);
        self.keys.iter().filter(move |k| match (fingerprint, key_id) {
            (Some(fingerprint), _) => k.fingerprint.0 == fingerprint,
            (None, Some(id)) => k.fingerprint.0[12..] == id,
            (None, None) => false,
        })
    }

    /// Verifies a clear-signed message at the time `now`: at least one signature must be by a usable key of this keyring,
    /// and no signature by one of its keys may be wrong.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn verify_cleartext(&self, message: &[u8], now: Epoch) -> Result<Verified, Refused> {
        let message = cleartext::parse(message)?;
        let mut packets = message.signature.as_slice();
        let (mut signers, mut unknown, mut unusable) = (vec![], vec![], None);
        while let Some(packet) = packet::next(&mut packets)? {
            if packet.tag != packet::SIGNATURE {
                return Err(Refused::Malformed);
            }
            let Some(signature) = Signature::parse(packet.body) else { continue };
            let key = self.find(&signature).next();
            let Some(key) = key.filter(|_| matches!(signature.kind, 0x00 | 0x01)) else {
                unknown.push(signature.issuer_name());
                continue;
            };
            // Kind 0 signs the bytes as they stand, kind 1 lines ended by CR LF; clear-signed is always the latter.
            if signature.kind != 0x01 || !key.signed(&signature, &[message.canonical.as_bytes()]) {
                return Err(Refused::BadSignature { key: key.fingerprint });
            }
            match key.unusable(&signature, now) {
                Some(why) => unusable = Some(Refused::Unusable { key: key.fingerprint, why }),
                None => signers.push(Signer {
                    key: key.fingerprint,
                    primary: key.primary,
                    signed: Epoch(signature.created),
                }),
            }
        }
        match unusable {
            _ if !signers.is_empty() => Ok(Verified { text: message.text(), signers }),
            Some(refused) => Err(refused),
            None => Err(Refused::UnknownKeys { signers: unknown }),
        }
    }
}

impl Key {
    /// A public key packet's body (RFC 9580 §5.5.2), of version 4 and an algorithm that verifies.
    fn parse(body: &[u8]) -> Option<Key> {
        let mut reader = Reader(body);
        if reader.byte()? != 4 {
            return None;
        }
        let created = i64::from(reader.u32()?);
        let material = match reader.byte()? {
            1 | 3 => Material::Rsa { modulus: reader.mpi()?.to_vec(), exponent: reader.mpi()?.to_vec() },
            22 => {
                const ED25519: [u8; 9] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
                let length = usize::from(reader.byte()?);
                if reader.take(length)? != ED25519 {
                    return None;
                }
                // 0x40 says that the point is in its native form (RFC 9580 §11.2).
                Material::Ed25519(reader.mpi()?.strip_prefix(&[0x40])?.try_into().ok()?)
            }
            27 => Material::Ed25519(reader.take(32)?.try_into().ok()?),
            _ => return None,
        };
        if !reader.0.is_empty() {
            return None;
        }
        // SHA-1 names the key and proves nothing: what is trusted is the key that the keyring holds.
        let mut context = hash::Context::new(&hash::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(&packet::key_for_hash(body));
        let fingerprint = Fingerprint(context.finish().as_ref().try_into().ok()?);
        Some(Key { fingerprint, primary: fingerprint, created, expires: None, revoked: false, material })
    }

    /// Whether `signature` over the parts of `message` is this key's. Says nothing of times.
    fn signed(&self, signature: &Signature<'_>, message: &[&[u8]]) -> bool {
        let (algorithm, rsa) = match signature.hash {
            8 => (&hash::SHA256, &verify::RSA_PKCS1_2048_8192_SHA256),
            9 => (&hash::SHA384, &verify::RSA_PKCS1_2048_8192_SHA384),
            10 => (&hash::SHA512, &verify::RSA_PKCS1_2048_8192_SHA512),
            _ => return false,
        };
        // RFC 9580 §5.2.4: the message, the signature's hashed part, and a trailer that says how long that is.
        let mut context = hash::Context::new(algorithm);
        let mut whole = vec![];
        let trailer = [&[4, 0xff], &(signature.hashed.len() as u32).to_be_bytes()[..]].concat();
        for part in message.iter().copied().chain([signature.hashed, &trailer]) {
            context.update(part);
            whole.extend_from_slice(part);
        }
        let digest = context.finish();
        if digest.as_ref().get(..2) != Some(&signature.left) {
            return false;
        }
        let mut reader = Reader(signature.value);
        match (&self.material, signature.algorithm) {
            (Material::Rsa { modulus, exponent }, 1 | 3) => {
                let Some(value) = reader.mpi().and_then(|v| padded(v, modulus.len())) else { return false };
                let key = verify::RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(rsa, &whole, &value).is_ok()
            }
            (Material::Ed25519(key), 22 | 27) => {
                let value = if signature.algorithm == 27 {
                    reader.take(64).map(<[u8]>::to_vec)
                } else {
                    let r = reader.mpi().and_then(|r| padded(r, 32));
                    let s = reader.mpi().and_then(|s| padded(s, 32));
                    r.zip(s).map(|(r, s)| [r, s].concat())
                };
                let key = verify::UnparsedPublicKey::new(&verify::ED25519, key);
                value.is_some_and(|value| key.verify(digest.as_ref(), &value).is_ok())
            }
            _ => false,
        }
    }

    /// Why this key's `signature` does not count at `now`, though it fits.
    fn unusable(&self, signature: &Signature<'_>, now: Epoch) -> Option<&'static str> {
        let signature_ends = signature.lifetime.map(|s| signature.created.saturating_add(s));
        if self.revoked {
            Some("is revoked, or not bound to its primary key for signing")
        } else if self.expires.is_some_and(|end| end <= now.0) {
            Some("has expired")
        } else if signature_ends.is_some_and(|end| end <= now.0) {
            Some("made a signature that has expired")
        } else if signature.created > now.0.saturating_add(CLOCK_SKEW) {
            Some("signed in the future, by this machine's clock")
        } else if signature.created < self.created {
            Some("signed before it was made")
        } else {
            None
        }
    }
}

/// A number without leading zeros, made `length` bytes long.
fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut all = vec![0; length.checked_sub(number.len())?];
    all.extend_from_slice(number);
    Some(all)
}

#[cfg(test)]
pub(crate) mod tests;
