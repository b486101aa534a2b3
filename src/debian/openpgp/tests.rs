//! Certificates and signatures made here, with keys that live as long as a test; and the keyrings that are embedded.

use super::*;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;

const MADE: u32 = 1_700_000_000;
const NOW: Epoch = Epoch(1_700_100_000);
const TEXT: &str = "Suite: trixie\n- dashed\n\nlast: line\n";

/// A key that signs.
pub(crate) struct TestKey {
    pair: Ed25519KeyPair,
    algorithm: u8,
    created: u32,
}

impl TestKey {
    pub(crate) fn new(algorithm: u8) -> TestKey {
        TestKey { pair: Ed25519KeyPair::generate().unwrap(), algorithm, created: MADE }
    }

    fn body(&self) -> Vec<u8> {
        let point = self.pair.public_key().as_ref();
        let mut body = [&[4], &self.created.to_be_bytes()[..], &[self.algorithm]].concat();
        if self.algorithm == 22 {
            body.extend([9, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01, 0x01, 0x07, 0x40]);
        }
        body.extend(point);
        body
    }

    fn fingerprint(&self) -> [u8; 20] {
        Key::parse(&self.body()).unwrap().fingerprint.0
    }

    /// A signature packet over `message` with more hashed subpackets than the two that there must be.
    fn sign(&self, kind: u8, message: &[&[u8]], subpackets: &[(u8, Vec<u8>)], created: u32) -> Vec<u8> {
        let mut area = vec![];
        let issuer = [&[4], &self.fingerprint()[..]].concat();
        for (tag, data) in [(2, created.to_be_bytes().to_vec()), (33, issuer)].iter().chain(subpackets) {
            area.push(u8::try_from(data.len() + 1).unwrap());
            area.push(*tag);
            area.extend(data);
        }
        let length = u16::try_from(area.len()).unwrap();
        let hashed = [&[4, kind, self.algorithm, 8][..], &length.to_be_bytes(), &area].concat();
        let trailer = [&[4, 0xff], &u32::try_from(hashed.len()).unwrap().to_be_bytes()[..]].concat();
        let digest = hash::digest(&hash::SHA256, &[&message.concat(), &hashed, &trailer[..]].concat());
        let value = self.pair.sign(digest.as_ref());
        let mut body = [&hashed[..], &[0, 0], &digest.as_ref()[..2]].concat();
        if self.algorithm == 27 {
            body.extend(value.as_ref());
        } else {
            for half in value.as_ref().chunks(32) {
                let half = &half[half.iter().position(|b| *b != 0).unwrap_or(32)..];
                let bits = half.len() as u32 * 8 - half.first().map_or(0, |b| b.leading_zeros());
                body.extend(u16::try_from(bits).unwrap().to_be_bytes());
                body.extend(half);
            }
        }
        body
    }

    /// A certificate: the key, a user ID, a self-signature.
    pub(crate) fn certificate(&self, subpackets: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let id = Packet { tag: packet::USER_ID, body: b"Archive" };
        let message = [packet::key_for_hash(&self.body()), packet::user_id_for_hash(&id)];
        let flags = (27, vec![0x03]);
        let all: Vec<_> = std::iter::once(flags).chain(subpackets.iter().cloned()).collect();
        let signature = self.sign(0x13, &[&message[0], &message[1]], &all, MADE);
        [packet_of(6, &self.body()), packet_of(13, id.body), packet_of(2, &signature)].concat()
    }

    /// `text`, clear-signed at `created`.
    pub(crate) fn clear_sign(&self, text: &str, created: u32) -> String {
        let signature = self.sign(1, &[canonical(text).as_bytes()], &[], created);
        clear_signed(text, &packet_of(2, &signature))
    }
}

fn packet_of(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[0xc0 | tag, 255], &u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn canonical(text: &str) -> String {
    text.trim_end_matches('\n').split('\n').map(str::trim_end).collect::<Vec<_>>().join("\r\n")
}

fn clear_signed(text: &str, packets: &[u8]) -> String {
    let escaped: String = text
        .split_inclusive('\n')
        .map(|l| if l.starts_with('-') { format!("- {l}") } else { l.into() })
        .collect();
    let armor = base64::engine::general_purpose::STANDARD.encode(packets);
    format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{escaped}-----BEGIN PGP SIGNATURE-----\n\n{armor}\n\
         -----END PGP SIGNATURE-----\n"
    )
}

fn verify(key: &TestKey, message: &str) -> Result<Verified, Refused> {
    Keyring::parse(&key.certificate(&[])).unwrap().verify_cleartext(message.as_bytes(), NOW)
}

#[test]
fn what_a_trusted_key_signed_is_given_out() {
    for algorithm in [22, 27] {
        let key = TestKey::new(algorithm);
        let verified = verify(&key, &key.clear_sign(TEXT, MADE + 10)).unwrap();
        assert_eq!(verified.text, TEXT);
        assert_eq!(verified.signers[0].primary.0, key.fingerprint());
    }
}

#[test]
fn any_flipped_byte_is_refused_or_was_never_signed() {
    let key = TestKey::new(27);
    let good = key.clear_sign(TEXT, MADE + 10);
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] ^= 1;
        let keyring = Keyring::parse(&key.certificate(&[])).unwrap();
        if let Ok(verified) = keyring.verify_cleartext(&bytes, NOW) {
            // The value of the `Hash:` header, or bits of base64 that mean nothing.
            assert_eq!(verified.text, TEXT, "byte {at}");
        }
    }
}

#[test]
fn a_stripped_signature_is_refused() {
    let key = TestKey::new(27);
    assert!(matches!(verify(&key, TEXT), Err(Refused::NotSigned(_))));
    let good = key.clear_sign(TEXT, MADE + 10);
    let cut = good.split("-----BEGIN PGP SIGNATURE").next().unwrap();
    assert!(matches!(verify(&key, cut), Err(Refused::NotSigned(_))));
    assert!(matches!(verify(&key, &clear_signed(TEXT, &[])), Err(Refused::UnknownKeys { .. })));
}

#[test]
fn text_outside_of_the_signed_block_is_refused() {
    let key = TestKey::new(27);
    let good = key.clear_sign(TEXT, MADE + 10);
    for bad in [
        format!("Suite: evil\n\n{good}"),
        format!("\n{good}"),
        format!("{good}Suite: evil\n"),
        format!("{good}{good}"),
        good.replace("Hash: SHA256\n", "Hash: SHA256\nSuite: evil\n"),
        good.replace("Hash: SHA256\n\n", "Hash: SHA256\n\t\n"),
        good.replace("- - dashed", "- dashed").replace("\n- dashed", "\n-dashed"),
        good.replace("\n- - dashed", "\n-----BEGIN PGP SIGNATURE----- \n- - dashed"),
        good.replace('\n', "\r\n"),
    ] {
        assert!(matches!(verify(&key, &bad), Err(Refused::NotSigned(_))), "{bad}");
    }
}

#[test]
fn a_key_that_is_not_in_the_keyring_is_refused() {
    let (key, other) = (TestKey::new(27), TestKey::new(27));
    let error = verify(&key, &other.clear_sign(TEXT, MADE + 10)).unwrap_err();
    let Refused::UnknownKeys { signers } = &error else { panic!("{error}") };
    assert_eq!(*signers, [Fingerprint(other.fingerprint()).to_string()]);
}

#[test]
fn another_keys_signature_under_a_trusted_name_is_refused() {
    let (key, other) = (TestKey::new(27), TestKey::new(27));
    let mut signature = other.sign(1, &[canonical(TEXT).as_bytes()], &[], MADE);
    let at = signature.windows(20).position(|w| w == other.fingerprint()).unwrap();
    signature[at..at + 20].copy_from_slice(&key.fingerprint());
    let error = verify(&key, &clear_signed(TEXT, &packet_of(2, &signature))).unwrap_err();
    assert_eq!(error, Refused::BadSignature { key: Fingerprint(key.fingerprint()) });
}

#[test]
fn one_wrong_signature_spoils_a_right_one() {
    let key = TestKey::new(27);
    let right = packet_of(2, &key.sign(1, &[canonical(TEXT).as_bytes()], &[], MADE));
    let wrong = packet_of(2, &key.sign(1, &[b"other text"], &[], MADE));
    let error = verify(&key, &clear_signed(TEXT, &[right, wrong].concat())).unwrap_err();
    assert!(matches!(error, Refused::BadSignature { .. }));
}

#[test]
fn expired_revoked_and_future_signatures_are_refused() {
    let key = TestKey::new(27);
    let unusable = |certificate: &[u8], message: &str| {
        let error =
            Keyring::parse(certificate).unwrap().verify_cleartext(message.as_bytes(), NOW).unwrap_err();
        let Refused::Unusable { why, .. } = error else { panic!("{error}") };
        why
    };
    let good = key.clear_sign(TEXT, MADE + 10);
    let short_lived = key.certificate(&[(9, 3600u32.to_be_bytes().to_vec())]);
    assert_eq!(unusable(&short_lived, &good), "has expired");
    let revocation = key.sign(0x20, &[&packet::key_for_hash(&key.body())], &[], MADE);
    let first = packet_of(6, &key.body()).len();
    let mut revoked = key.certificate(&[]);
    revoked.splice(first..first, packet_of(2, &revocation));
    assert!(unusable(&revoked, &good).starts_with("is revoked"));
    let certificate = key.certificate(&[]);
    let future = key.clear_sign(TEXT, MADE + 1_000_000);
    assert_eq!(unusable(&certificate, &future), "signed in the future, by this machine's clock");
    assert_eq!(unusable(&certificate, &key.clear_sign(TEXT, MADE - 1)), "signed before it was made");
    let lifetime = (3, 60u32.to_be_bytes().to_vec());
    let fleeting = key.sign(1, &[canonical(TEXT).as_bytes()], &[lifetime], MADE);
    let message = clear_signed(TEXT, &packet_of(2, &fleeting));
    assert_eq!(unusable(&certificate, &message), "made a signature that has expired");
}

#[test]
fn a_subkey_counts_only_with_both_signatures() {
    let (primary, subkey) = (TestKey::new(27), TestKey::new(22));
    let message = [packet::key_for_hash(&primary.body()), packet::key_for_hash(&subkey.body())];
    let message: [&[u8]; 2] = [&message[0], &message[1]];
    let back = subkey.sign(0x19, &message, &[], MADE);
    let sign_flag = (27, vec![0x02]);
    let text = subkey.clear_sign(TEXT, MADE + 10);
    let with = |binding: Vec<u8>, after: Vec<u8>| {
        let parts = [primary.certificate(&[]), packet_of(14, &subkey.body()), packet_of(2, &binding), after];
        Keyring::parse(&parts.concat()).unwrap().verify_cleartext(text.as_bytes(), NOW)
    };
    let bound = || primary.sign(0x18, &message, &[sign_flag.clone(), (32, back.clone())], MADE);
    let verified = with(bound(), vec![]).unwrap();
    assert_eq!(verified.signers[0].primary.0, primary.fingerprint());
    assert_eq!(verified.signers[0].key.0, subkey.fingerprint());
    let without_back = primary.sign(0x18, &message, std::slice::from_ref(&sign_flag), MADE);
    assert!(matches!(with(without_back, vec![]), Err(Refused::Unusable { .. })));
    let not_for_signing = primary.sign(0x18, &message, &[(27, vec![0x0c]), (32, back.clone())], MADE);
    assert!(matches!(with(not_for_signing, vec![]), Err(Refused::Unusable { .. })));
    let by_another = TestKey::new(27).sign(0x18, &message, &[sign_flag.clone(), (32, back.clone())], MADE);
    assert!(matches!(with(by_another, vec![]), Err(Refused::UnknownKeys { .. })));
    let revocation = packet_of(2, &primary.sign(0x28, &message, &[], MADE + 5));
    assert!(matches!(with(bound(), revocation), Err(Refused::Unusable { .. })));
}

#[test]
fn cut_keyrings_and_messages_end_in_an_error_and_never_in_a_panic() {
    let key = TestKey::new(22);
    let certificate = key.certificate(&[]);
    let good = key.clear_sign(TEXT, MADE + 10);
    for at in 0..certificate.len() {
        assert!(Keyring::parse(&certificate[..at]).is_err(), "{at}");
    }
    for at in 0..good.len() - 1 {
        let keyring = Keyring::parse(&certificate).unwrap();
        assert!(keyring.verify_cleartext(&good.as_bytes()[..at], NOW).is_err(), "{at}");
    }
}

#[test]
fn the_embedded_keyrings_are_those_that_the_readme_names() {
    let readme = include_str!("../../../templates/keyrings/README.md");
    let mut count = 0;
    for (name, bytes) in crate::template::KEYRINGS {
        assert!(readme.contains(&crate::model::Digest::of(bytes).hex()), "{name}");
        for fingerprint in Keyring::parse(bytes).unwrap().primaries() {
            assert!(readme.contains(&fingerprint.to_string()), "{name} {fingerprint}");
            count += 1;
        }
    }
    assert_eq!(count, readme.lines().filter(|l| l.starts_with("- `") && !l.contains("not used")).count());
}
