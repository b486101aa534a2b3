//! TPM2_MakeCredential in software: the fleet's half of proving an endorsement key.
//!
//! TCG TPM 2.0 Library, Part 1, "Credential Protection": a seed encrypted to the endorsement key by RSA-OAEP; from it, by
//! KDFa, an AES key that hides the secret and an HMAC key that binds it to the name of the attestation key.

use super::{Short, Writer, endorsement_modulus, name};
use anyhow::{Context as _, anyhow};
use aws_lc_rs::cipher::{AES_128, EncryptionContext, StreamingEncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use zeroize::Zeroizing;

/// What a TPM opens with its two keys. Both are TPM2Bs, lengths included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// Hides `secret` (at most 32 bytes) so that only the TPM with both keys gives it back. The keys are TPMT_PUBLICs.
///
/// # Errors
/// When `ek_public` is no endorsement key of the TCG's template, or the secret is too long.
pub fn make(ek_public: &[u8], ak_public: &[u8], secret: &[u8]) -> anyhow::Result<Credential> {
    let modulus = endorsement_modulus(ek_public)
        .map_err(|Short| anyhow!("the key is no endorsement key of the TCG's RSA-2048 template"))?;
    if secret.len() > 32 {
        return Err(anyhow!("a credential's secret has at most 32 bytes"));
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|e| anyhow!("asking the system for randomness: {e}"))?;
    let ak_name = name(ak_public);

    let aes = kdfa(&*seed, b"STORAGE", &ak_name, 128);
    let hidden = hide(&aes, &Zeroizing::new(Writer::new().sized(secret).finish()))?;
    let integrity = kdfa(&*seed, b"INTEGRITY", &[], 256);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &integrity), &[&hidden[..], &ak_name].concat());
    let object = Writer::new().sized(tag.as_ref()).raw(&hidden).finish();

    let key = PublicEncryptingKey::from_der(&spki(&modulus))
        .map_err(|e| anyhow!("reading the endorsement key: {e}"))?;
    let key = OaepPublicEncryptingKey::new(key).context("using the endorsement key")?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    let encrypted = key
        .encrypt(&OAEP_SHA256_MGF1SHA256, &*seed, &mut encrypted, Some(b"IDENTITY\0"))
        .context("encrypting to the endorsement key")?;
    Ok(Credential {
        blob: Writer::new().sized(&object).finish(),
        encrypted_secret: Writer::new().sized(encrypted).finish(),
    })
}

/// AES-128-CFB with an IV of zeros, as the specification has it: the key is used once.
fn hide(key: &[u8], plain: &[u8]) -> anyhow::Result<Vec<u8>> {
    let key = UnboundCipherKey::new(&AES_128, key).context("making a storage key")?;
    let context = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    let mut cipher =
        StreamingEncryptingKey::less_safe_cfb128(key, context).context("making a storage key")?;
    let mut hidden = vec![0; plain.len() + 16];
    let mut update = cipher.update(plain, &mut hidden).context("hiding a secret")?;
    let mut length = update.written().len();
    let (_, last) = cipher.finish(update.remainder_mut()).context("hiding a secret")?;
    length += last.written().len();
    hidden.truncate(length);
    Ok(hidden)
}

/// KDFa (Part 1, "KDFa()") with HMAC-SHA256, for up to 256 bits: one block of SP 800-108's counter mode.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
    let input = Writer::new().u32(1).raw(label).u8(0).raw(context).u32(bits).finish();
    let block = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &input);
    Zeroizing::new(block.as_ref()[..bits as usize / 8].to_vec())
}

/// SubjectPublicKeyInfo (RFC 8017, A.1) of a 2048-bit modulus with the exponent 65537: all but the modulus is constant.
fn spki(modulus: &[u8; 256]) -> Vec<u8> {
    const HEAD: &[u8] = &[
        0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
        0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00,
    ];
    [HEAD, modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_for_an_endorsement_key_alone() {
        let error = make(&[0; 300], &[], b"secret").unwrap_err();
        assert!(error.to_string().contains("template"), "{error:#}");
        let ek = super::super::ek_template(&[0xb7; 256]);
        assert!(make(&ek, &[], &[0; 33]).is_err());
        let one = make(&ek, b"key", &[1; 32]).unwrap();
        let two = make(&ek, b"key", &[1; 32]).unwrap();
        assert_ne!(one, two, "a new seed for each");
        assert_eq!(one.encrypted_secret.len(), 2 + 256);
        assert_eq!(one.blob.len(), 2 + 2 + 32 + 2 + 32);
    }
}
