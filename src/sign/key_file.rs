//! Private keys as PEM files: written, encrypted, and read back.
//!
//! PKCS#8 (RFC 5958), encrypted by default with PBES2: scrypt N=2^14, r=8, p=5 and AES-256-CBC. That costs an attacker as
//! much as N=2^17, r=8, p=1, and unlike it is within what OpenSSL's tools read back. Stays out of the device's program:
//! what a device keeps is a seed of its own.

use super::Signer as _;
use super::key::{MAX_PEM, PrivateKey};
use anyhow::{Context as _, bail};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::{pbes2, scrypt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A secret text that is wiped when dropped.
pub type Secret = Zeroizing<String>;

/// scrypt's cost: base-2 logarithm of N, block size, parallelism. See the module.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

impl PrivateKey {
    /// Reads a PKCS#8 PEM; `passphrase` is asked only where it is encrypted.
    ///
    /// # Errors
    /// When it is no such PEM, `passphrase` fails, or the passphrase is wrong.
    pub fn from_pem(
        pem: &str,
        passphrase: impl FnOnce() -> anyhow::Result<Secret>,
    ) -> anyhow::Result<PrivateKey> {
        let der = private_der(pem, passphrase)?;
        PrivateKey::new(
            SigningKey::from_pkcs8_der(&der).context("reading an ed25519 private key in PKCS#8 PEM")?,
        )
    }

    /// The PEM, encrypted where a passphrase is given.
    ///
    /// # Errors
    /// When the passphrase is empty, or the system has no randomness for the salt.
    pub fn to_pem(&self, passphrase: Option<&Secret>) -> anyhow::Result<Secret> {
        let der = self.key.to_pkcs8_der().context("encoding a private key")?;
        private_pem(der.as_bytes(), passphrase)
    }
}

/// The PKCS#8 key in a PEM; `passphrase` is asked only where it is encrypted.
///
/// # Errors
/// As [`PrivateKey::from_pem`]; what kind of key it is is not looked at.
pub fn private_der(
    pem: &str,
    passphrase: impl FnOnce() -> anyhow::Result<Secret>,
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if pem.len() > MAX_PEM {
        bail!("a private key of {} bytes", pem.len());
    }
    let pem = pem.trim();
    let (label, der) = pkcs8::SecretDocument::from_pem(pem)
        .map_err(|e| anyhow::anyhow!("reading a private key in PEM: {e}"))?;
    match label {
        "PRIVATE KEY" => Ok(Zeroizing::new(der.as_bytes().to_vec())),
        "ENCRYPTED PRIVATE KEY" => {
            let info = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes())
                .context("reading an encrypted private key")?;
            let passphrase = passphrase()?;
            let opened = info
                .decrypt(passphrase.as_bytes())
                .map_err(|_| anyhow::anyhow!("the passphrase does not open the private key"))?;
            Ok(Zeroizing::new(opened.as_bytes().to_vec()))
        }
        other => bail!("this is a PEM of `{other}`, and no private key in PKCS#8"),
    }
}

/// The PEM of a PKCS#8 key, encrypted where a passphrase is given.
///
/// # Errors
/// As [`PrivateKey::to_pem`].
pub fn private_pem(der: &[u8], passphrase: Option<&Secret>) -> anyhow::Result<Secret> {
    let info = pkcs8::PrivateKeyInfoRef::try_from(der).context("encoding a private key")?;
    let Some(passphrase) = passphrase else {
        let plain = pkcs8::SecretDocument::encode_msg(&info).context("encoding a private key")?;
        return plain
            .to_pem("PRIVATE KEY", LineEnding::LF)
            .map_err(|e| anyhow::anyhow!("encoding a private key: {e}"));
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
    let sealed =
        info.encrypt_with_params(scheme, passphrase.as_bytes()).context("encrypting a private key")?;
    sealed
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .map_err(|e| anyhow::anyhow!("encoding a private key: {e}"))
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
    use crate::sign::PublicKey;

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
}
