//! The endpoint's directory: its keys, its database, and what the operator puts beside them.
//!
//! ```text
//! DIR/                 0700
//!   fleet.json         public: what `forge enroll bundle` puts into bundles
//!   trust/*.pub        the roots that sign bundles
//!   grant.key          signs answers and grants
//!   tls.key tls.crt    self-signed; devices know its key by its digest
//!   nonce.key          behind the nonces
//!   operator.token     for the page and its API
//!   tpm-roots/*.pem    authorities of makers whose TPMs are believed
//!   settings.json      what is let in by itself; defaults where missing
//!   grants/            files for devices, see [`crate::fleet::granting::Files`]
//!   clusters.toml      clusters that devices join, see [`crate::fleet::cluster`]
//!   fleet.db           SQLite, with its write-ahead log beside it
//!   audit.jsonl        what happened, a line each
//! ```

use crate::enroll::bootstrap::Trust;
use crate::enroll::issue::Description;
use crate::fleet::cluster::Clusters;
use crate::fleet::granting::{Files, GrantSource};
use crate::fleet::makers::Makers;
use crate::fleet::{Identity, Service, Settings, Store};
use crate::host::fs;
use crate::model::Digest;
use crate::sign::{PrivateKey, PublicKey, Signer as _};
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::PublicKeyData as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The schema of `fleet.json`.
const SCHEMA: u32 = 1;

/// An endpoint's directory.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

/// A certificate and its key, both DER.
pub struct Certificate {
    /// X.509.
    pub certificate: Vec<u8>,
    /// PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
}

impl Home {
    /// Makes keys and database in `dir`, which is made when missing, for the fleet `name`; `hosts` are names and addresses
    /// for browsers, for devices know the certificate by its key.
    ///
    /// # Errors
    /// When there is a fleet already, or the disk or the system's randomness fails.
    pub fn init(dir: &Path, name: &str, hosts: &[String]) -> anyhow::Result<Home> {
        let home = Home { dir: dir.into() };
        ensure!(!home.is_there(), "{} has a fleet already", dir.display());
        ensure!(
            !name.is_empty()
                && name.len() <= 63
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
            "`{name}` is no fleet's name: letters, digits, `-`, `.` and `_`"
        );
        fs::make_private_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        for sub in ["trust", "grants/all", "tpm-roots"] {
            fs::make_private_dir(&home.path(sub))?;
        }
        let grant_key = PrivateKey::generate()?;
        home.write("grant.key", grant_key.to_pem(None)?.as_bytes(), 0o600)?;
        home.write("nonce.key", STANDARD.encode(*random()?).as_bytes(), 0o600)?;
        home.write("operator.token", format!("{}\n", URL_SAFE_NO_PAD.encode(*random()?)).as_bytes(), 0o600)?;
        let spki = home.make_certificate(name, hosts)?;
        let settings = serde_json::to_vec_pretty(&Settings::default())?;
        home.write("settings.json", &settings, 0o600)?;
        home.store()?;
        let public = Description {
            schema: SCHEMA,
            fleet: name.into(),
            spki_sha256: vec![spki],
            ca_pem: None,
            grant_keys: vec![grant_key.public_key().clone()],
        };
        // Last: with it the fleet is there.
        home.write("fleet.json", &serde_json::to_vec_pretty(&public)?, 0o644)?;
        Ok(home)
    }

    /// The fleet in `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(dir: &Path) -> anyhow::Result<Home> {
        let home = Home { dir: dir.into() };
        ensure!(home.is_there(), "{} has no fleet", dir.display());
        Ok(home)
    }

    /// Whether there is a fleet.
    pub fn is_there(&self) -> bool {
        fs::exists(&self.path("fleet.json"))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What bundles say of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn public(&self) -> anyhow::Result<Description> {
        let public: Description = serde_json::from_slice(&self.read("fleet.json")?)
            .with_context(|| format!("reading {}", self.path("fleet.json").display()))?;
        ensure!(
            public.schema == SCHEMA,
            "fleet.json has schema {}, and this forge knows {SCHEMA}",
            public.schema
        );
        Ok(public)
    }

    /// Makes `roots` the keys that sign this fleet's bundles, in place of those before.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_roots(&self, roots: &[PublicKey]) -> anyhow::Result<()> {
        for old in self.root_files()? {
            std::fs::remove_file(&old).with_context(|| format!("removing {}", old.display()))?;
        }
        for root in roots {
            self.write(&format!("trust/{}.pub", root.key_id()), root.to_pem().as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// The keys that sign this fleet's bundles; none at first.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn roots(&self) -> anyhow::Result<Vec<PublicKey>> {
        let read = |path: &PathBuf| {
            let pem = std::fs::read_to_string(path)?;
            PublicKey::from_pem(&pem).with_context(|| format!("reading {}", path.display()))
        };
        self.root_files()?.iter().map(read).collect()
    }

    fn root_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let dir = self.path("trust");
        let entries = std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
        let mut files: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "pub"));
        files.sort();
        Ok(files)
    }

    /// What the operator set.
    ///
    /// # Errors
    /// When the file has something that is no setting.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        if !fs::exists(&self.path("settings.json")) {
            return Ok(Settings::default());
        }
        serde_json::from_slice(&self.read("settings.json")?)
            .with_context(|| format!("reading {}", self.path("settings.json").display()))
    }

    /// The database.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self) -> anyhow::Result<Store> {
        Store::open(&self.path("fleet.db"))
    }

    /// The endpoint's logic over this directory; `threshold` of its roots have to sign a bundle.
    ///
    /// # Errors
    /// When there are fewer roots, or a file cannot be read.
    pub fn service(&self, threshold: usize) -> anyhow::Result<Service> {
        let roots = self.roots()?;
        ensure!(
            (1..=roots.len()).contains(&threshold),
            "{threshold} of {} roots in {} cannot sign a bundle",
            roots.len(),
            self.path("trust").display()
        );
        let pem = Zeroizing::new(self.read("grant.key")?);
        let grant_key = PrivateKey::from_pem(std::str::from_utf8(&pem)?, || {
            anyhow::bail!("the grant key is encrypted, and nobody is there to open it")
        })?;
        let secret = Zeroizing::new(STANDARD.decode(self.read("nonce.key")?.trim_ascii())?);
        let identity = Identity {
            fleet: self.public()?.fleet,
            trust: Trust { roots, threshold },
            grant_key,
            nonce_secret: <[u8; 32]>::try_from(&secret[..]).context("reading nonce.key: not 32 bytes")?,
        };
        let files = Files { dir: self.path("grants") };
        let clusters = Clusters::load(&self.dir, &identity.nonce_secret)?;
        let source: Vec<Box<dyn GrantSource>> = vec![Box::new(files), Box::new(clusters)];
        let makers = Makers::load(&self.path("tpm-roots"))?;
        Ok(Service::new(identity, self.settings()?, Arc::new(self.store()?), Box::new(source))?
            .with_makers(makers))
    }

    /// The operator's token.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn token(&self) -> anyhow::Result<Zeroizing<String>> {
        let text = Zeroizing::new(String::from_utf8(self.read("operator.token")?)?);
        ensure!(text.trim().len() >= 32, "operator.token is too short to be one");
        Ok(Zeroizing::new(text.trim().to_string()))
    }

    /// The certificate that it shows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn certificate(&self) -> anyhow::Result<Certificate> {
        Ok(Certificate {
            certificate: unarmored(&self.read("tls.crt")?)?.to_vec(),
            key: unarmored(&self.read("tls.key")?)?,
        })
    }

    fn make_certificate(&self, name: &str, hosts: &[String]) -> anyhow::Result<Digest> {
        // P-256: what every browser and every inspecting proxy takes, which Ed25519 is not.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("forge fleet {name}"));
        // Valid to the end of RFC 5280's days: devices have no clock to hold it against, and pin its key.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = params.self_signed(&key)?;
        self.write("tls.key", key.serialize_pem().as_bytes(), 0o600)?;
        self.write("tls.crt", certificate.pem().as_bytes(), 0o644)?;
        Ok(Digest::of(key.subject_public_key_info()))
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.path(name);
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        let path = self.path(name);
        fs::write_atomic(&path, bytes, mode).with_context(|| format!("writing {}", path.display()))
    }
}

fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
    Ok(bytes)
}

/// The first block of a PEM file, without its armour.
fn unarmored(pem: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(pem)?;
    let body: String = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN "))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END "))
        .collect();
    ensure!(!body.is_empty(), "no PEM");
    Ok(Zeroizing::new(STANDARD.decode(Zeroizing::new(body).as_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_fleets_directory_is_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet");
        assert!(Home::open(&path).is_err());
        let home = Home::init(&path, "shops", &["fleet.example".into(), "192.0.2.7".into()]).unwrap();
        assert!(Home::init(&path, "shops", &[]).unwrap_err().to_string().contains("already"));
        let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(""), mode("grant.key"), mode("tls.key"), mode("operator.token")),
            (0o700, 0o600, 0o600, 0o600)
        );
        let public = home.public().unwrap();
        assert_eq!((public.fleet.as_str(), public.spki_sha256.len()), ("shops", 1));
        assert!(!home.certificate().unwrap().certificate.is_empty());
        assert!(home.service(1).is_err(), "no root yet");
        let root = PrivateKey::generate().unwrap();
        home.set_roots(&[root.public_key().clone()]).unwrap();
        assert_eq!(home.service(1).unwrap().grant_keys(), public.grant_keys);
        assert!(home.service(2).is_err());
        std::fs::write(path.join("clusters.toml"), "[[cluster]]\nname = \"farms\"\n").unwrap();
        let unread = format!("{:#}", home.service(1).err().unwrap());
        assert!(unread.contains("clusters.toml") && unread.contains("profiles"), "{unread}");
        assert!(home.token().unwrap().len() >= 43);
        for bad in ["", "a b", "a/b"] {
            assert!(Home::init(&dir.path().join("other"), bad, &[]).is_err(), "{bad:?}");
        }
    }
}
