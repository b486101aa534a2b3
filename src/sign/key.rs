//! Ed25519 keys as PEM files: made, encrypted, read back, and named.
//!
//! Private keys are PKCS#8 (RFC 5958), encrypted by default with PBES2: scrypt N=2^14, r=8, p=5 and AES-256-CBC. That
//! costs an attacker as much as N=2^17, r=8, p=1, and unlike it is within what OpenSSL's tools read back. Public keys are
//! SubjectPublicKeyInfo (RFC 8410). A key's id is the hex SHA-256 of that structure's DER.

use super::{Refused, Signature, Signer, Verified, Verifier};
use crate::model::Digest;
use anyhow::{Context as _, bail};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::{pbes2, scrypt};
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A secret text that is wiped when dropped.
pub type Secret = Zeroizing<String>;

/// scrypt's cost: base-2 logarithm of N, block size, parallelism. See the module.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// A PEM key is a few hundred bytes; nothing larger is read.
pub(super) const MAX_PEM: usize = 16 << 10;

/// Which key: hex SHA-256 of the public key's SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct KeyId(pub Digest);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

/// The public half.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    der: Vec<u8>,
}

impl PublicKey {
    fn new(key: VerifyingKey) -> anyhow::Result<PublicKey> {
        let der = key.to_public_key_der().context("encoding a public key")?.into_vec();
        Ok(PublicKey { key, der })
    }

    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// When it is no PEM, no Ed25519 key, or a weak point.
    pub fn from_pem(pem: &str) -> anyhow::Result<PublicKey> {
        if pem.len() > MAX_PEM {
            bail!("a public key of {} bytes", pem.len());
        }
        let key =
            VerifyingKey::from_public_key_pem(pem.trim()).context("reading an ed25519 public key in PEM")?;
        if key.is_weak() {
            bail!("the public key is a weak point, for which anyone can sign");
        }
        PublicKey::new(key)
    }

    /// The PEM.
    pub fn to_pem(&self) -> String {
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.der);
        // 44 bytes of DER are 60 letters: one line of at most 64.
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// Takes the 32 raw bytes of RFC 8032.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when they are no point of the curve, or a weak one, for which anyone can sign.
    pub fn from_raw(raw: &[u8; 32]) -> Result<PublicKey, Refused> {
        let key = VerifyingKey::from_bytes(raw).map_err(|e| Refused::Malformed(e.to_string()))?;
        if key.is_weak() {
            return Err(Refused::Malformed("the public key is a weak point".into()));
        }
        PublicKey::new(key).map_err(|e| Refused::Malformed(e.to_string()))
    }

    /// The 32 raw bytes.
    pub fn as_raw(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Which key it is.
    pub fn key_id(&self) -> KeyId {
        KeyId(Digest::of(&self.der))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

/// In JSON: the raw bytes in base64, which every language's library takes.
impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&base64::Engine::encode(&base64::engine::general_purpose::STANDARD, self.as_raw()))
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<PublicKey, D::Error> {
        use serde::de::Error as _;
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text.as_ref());
        let raw: Option<[u8; 32]> = bytes.ok().and_then(|b| b.try_into().ok());
        let raw = raw.ok_or_else(|| D::Error::custom("an ed25519 key is 32 bytes in base64"))?;
        PublicKey::from_raw(&raw).map_err(D::Error::custom)
    }
}

impl Verifier for PublicKey {
    fn verify<T: AsRef<[u8]>>(&self, payload: T, signature: &Signature) -> Result<Verified<T>, Refused> {
        let raw = ed25519_dalek::Signature::from_bytes(signature.as_raw());
        match self.key.verify_strict(payload.as_ref(), &raw) {
            Ok(()) => Ok(Verified { value: payload, key_id: self.key_id() }),
            Err(_) => Err(Refused::Mismatch(self.key_id())),
        }
    }
}

/// The private half: wiped when dropped, never shown.
pub struct PrivateKey {
    key: SigningKey,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> anyhow::Result<PrivateKey> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
        PrivateKey::new(SigningKey::from_bytes(&seed))
    }

    /// The key of a seed: 32 bytes that were drawn at random once, and are the whole secret.
    ///
    /// # Errors
    /// Never for a seed from good randomness.
    pub fn from_seed(seed: &[u8; 32]) -> anyhow::Result<PrivateKey> {
        PrivateKey::new(SigningKey::from_bytes(seed))
    }

    /// The seed: whoever has it signs as this key.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    fn new(key: SigningKey) -> anyhow::Result<PrivateKey> {
        let public = PublicKey::new(key.verifying_key())?;
        Ok(PrivateKey { key, public })
    }

    /// Reads a PKCS#8 PEM; `passphrase` is asked only where it is encrypted.
    ///
    /// # Errors
    /// When it is no such PEM, `passphrase` fails, or the passphrase is wrong.
    pub fn from_pem(
        pem: &str,
        passphrase: impl FnOnce() -> anyhow::Result<Secret>,
    ) -> anyhow::Result<PrivateKey> {
        if pem.len() > MAX_PEM {
            bail!("a private key of {} bytes", pem.len());
        }
        let pem = pem.trim();
        if pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            let (_, der) = pkcs8::SecretDocument::from_pem(pem)
                .map_err(|e| anyhow::anyhow!("reading an encrypted private key: {e}"))?;
            let info = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes())
                .context("reading an encrypted private key")?;
            let passphrase = passphrase()?;
            let opened = info
                .decrypt(passphrase.as_bytes())
                .map_err(|_| anyhow::anyhow!("the passphrase does not open the private key"))?;
            let key =
                SigningKey::from_pkcs8_der(opened.as_bytes()).context("reading an ed25519 private key")?;
            return PrivateKey::new(key);
        }
        PrivateKey::new(
            SigningKey::from_pkcs8_pem(pem).context("reading an ed25519 private key in PKCS#8 PEM")?,
        )
    }

    /// The PEM, encrypted where a passphrase is given.
    ///
    /// # Errors
    /// When the passphrase is empty, or the system has no randomness for the salt.
    pub fn to_pem(&self, passphrase: Option<&Secret>) -> anyhow::Result<Secret> {
        let Some(passphrase) = passphrase else {
            return self.key.to_pkcs8_pem(LineEnding::LF).context("encoding a private key");
        };
        if passphrase.is_empty() {
            bail!("the passphrase is empty");
        }
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        for random in [&mut salt, &mut iv] {
            getrandom::fill(random).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
        }
        let (log_n, r, p) = SCRYPT;
        let cost = scrypt::Params::new(log_n, r, p).context("choosing scrypt's cost")?;
        let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)
            .map_err(|e| anyhow::anyhow!("choosing an encryption: {e}"))?;
        let plain = self.key.to_pkcs8_der().context("encoding a private key")?;
        let info = pkcs8::PrivateKeyInfoRef::try_from(plain.as_bytes()).context("encoding a private key")?;
        let sealed =
            info.encrypt_with_params(scheme, passphrase.as_bytes()).context("encrypting a private key")?;
        sealed
            .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
            .map_err(|e| anyhow::anyhow!("encoding a private key: {e}"))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, ***)", self.public.key_id())
    }
}

impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }
    fn sign(&self, payload: &[u8]) -> anyhow::Result<Signature> {
        Ok(Signature::from_raw(self.key.sign(payload).to_bytes()))
    }
}

/// Where [`write_pair`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// The private key, mode 0600.
    pub private: PathBuf,
    /// The public key beside it, mode 0644: the same name with `.pub` for an extension.
    pub public: PathBuf,
}

/// Writes `key` to `path` and its public half beside it; encrypted where a passphrase is given.
///
/// # Errors
/// When either file exists already (nothing is written then), or cannot be written.
pub fn write_pair(key: &PrivateKey, path: &Path, passphrase: Option<&Secret>) -> anyhow::Result<KeyFiles> {
    let files = KeyFiles { private: path.into(), public: path.with_extension("pub") };
    if files.private == files.public {
        bail!("{} would hold both halves of the key", path.display());
    }
    for file in [&files.private, &files.public] {
        if crate::host::fs::exists(file) {
            bail!("{} exists, and keys are never overwritten", file.display());
        }
    }
    let pem = key.to_pem(passphrase)?;
    crate::host::fs::write_atomic(&files.private, pem.as_bytes(), 0o600)
        .with_context(|| format!("writing {}", files.private.display()))?;
    crate::host::fs::write_atomic(&files.public, key.public_key().to_pem().as_bytes(), 0o644)
        .with_context(|| format!("writing {}", files.public.display()))?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(s: &str) -> Secret {
        Zeroizing::new(s.into())
    }
    fn none() -> anyhow::Result<Secret> {
        bail!("asked for a passphrase")
    }

    #[test]
    fn keys_survive_their_pem_with_and_without_a_passphrase() {
        let key = PrivateKey::generate().unwrap();
        let plain = key.to_pem(None).unwrap();
        let sealed = key.to_pem(Some(&secret("horse"))).unwrap();
        assert!(sealed.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        assert_eq!(PrivateKey::from_pem(&plain, none).unwrap().key_id(), key.key_id());
        assert_eq!(PrivateKey::from_pem(&sealed, || Ok(secret("horse"))).unwrap().key_id(), key.key_id());
        let error = PrivateKey::from_pem(&sealed, || Ok(secret("hors"))).unwrap_err();
        assert!(error.to_string().contains("passphrase"), "{error:#}");
        assert!(PrivateKey::from_pem(&sealed, none).is_err());
        assert!(key.to_pem(Some(&secret(""))).is_err());
        let public = PublicKey::from_pem(&key.public_key().to_pem()).unwrap();
        assert_eq!(&public, key.public_key());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let key = PrivateKey::from_pem(&PrivateKey::generate().unwrap().to_pem(None).unwrap(), none).unwrap();
        assert_eq!(format!("{key:?}"), format!("PrivateKey({}, ***)", key.key_id()));
    }

    #[test]
    fn files_are_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        let files = write_pair(&key, &dir.path().join("release.key"), None).unwrap();
        assert_eq!(std::fs::metadata(&files.private).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(files.public, dir.path().join("release.pub"));
        let before = std::fs::read(&files.private).unwrap();
        let error = write_pair(&PrivateKey::generate().unwrap(), &files.private, None).unwrap_err();
        assert!(error.to_string().contains("never overwritten"));
        assert_eq!(std::fs::read(&files.private).unwrap(), before);
    }

    #[test]
    fn one_changed_bit_of_payload_or_signature_is_refused() {
        let key = PrivateKey::generate().unwrap();
        let signature = key.sign(b"payload").unwrap();
        assert_eq!(signature, key.sign(b"payload").unwrap(), "deterministic");
        assert_eq!(key.public_key().verify(b"payload", &signature).unwrap().key_id(), key.key_id());
        assert_eq!(key.public_key().verify(b"paylobd", &signature), Err(Refused::Mismatch(key.key_id())));
        for i in 0..64 {
            let mut raw = *signature.as_raw();
            raw[i] ^= 1;
            assert!(key.public_key().verify(b"payload", &Signature::from_raw(raw)).is_err(), "byte {i}");
        }
        assert!(PrivateKey::generate().unwrap().public_key().verify(b"payload", &signature).is_err());
    }
}
