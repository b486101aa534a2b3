//! `forge key generate|show|export`, and how other verbs come by a key.

use super::Session;
use super::args::KeyVerb;
use crate::error::{self, Kind, Mark as _};
use crate::host::{clock, env, fs};
use crate::profile::{KeySource, Profile};
use crate::sign::Signer;
use crate::sign::key_file::{Secret, private_pem, write_pair};
use crate::sign::key_ref::{KeyRef, PASSPHRASE};
use crate::sign::rsa::{self, BootSigner};
use crate::sign::{PrivateKey, PublicKey};
use anyhow::{Context as _, anyhow};
use std::io::IsTerminal as _;
use std::path::Path;

/// Runs a verb of keys.
pub fn run(session: &Session, verb: KeyVerb) -> anyhow::Result<()> {
    match verb {
        KeyVerb::Generate { path, no_passphrase, secure_boot: false, .. } => {
            generate(session, &path.unwrap_or_else(|| "keys/release.key".into()), no_passphrase)
        }
        KeyVerb::Generate { path, no_passphrase, name, .. } => {
            let path = path.unwrap_or_else(|| "keys/secure-boot.key".into());
            generate_boot(session, &path, name.as_deref().unwrap_or("forge Secure Boot"), no_passphrase)
        }
        KeyVerb::Show { key } => tell(session, &public(&key)?, true),
        KeyVerb::Export { key } => tell(session, &public(&key)?, false),
    }
}

fn tell(session: &Session, public: &PublicKey, id: bool) -> anyhow::Result<()> {
    let pem = public.to_pem();
    let human = if id { format!("ed25519 {}\n{pem}", public.key_id()) } else { pem.clone() };
    session.ui.result("key", &serde_json::json!({ "id": public.key_id(), "public": pem }), human);
    Ok(())
}

/// Makes a pair of keys.
pub fn generate(session: &Session, path: &Path, no_passphrase: bool) -> anyhow::Result<()> {
    let passphrase = match (no_passphrase, env::var(PASSPHRASE)) {
        (true, _) => None,
        (false, Some(given)) => Some(Secret::new(given)),
        (false, None) => Some(new_passphrase()?),
    };
    let key = PrivateKey::generate()?;
    let files = write_pair(&key, path, passphrase.as_ref()).kind(Kind::Input)?;
    let id = key.key_id();
    session.ui.result(
        "key",
        &serde_json::json!({ "id": id, "private": files.private, "public": files.public, "encrypted": passphrase.is_some() }),
        format!("{} and {}\ned25519 {id}", files.private.display(), files.public.display()),
    );
    if passphrase.is_none() {
        session.ui.note("the key is not encrypted: for development only");
    }
    Ok(())
}

/// Makes an RSA key for UEFI Secure Boot, and a certificate that signs itself.
fn generate_boot(session: &Session, path: &Path, name: &str, no_passphrase: bool) -> anyhow::Result<()> {
    let certificate = path.with_extension("crt");
    if let Some(there) = [path, &certificate].into_iter().find(|file| fs::exists(file)) {
        let error = anyhow!("{} exists, and keys are never overwritten", there.display());
        return Err(error::of(Kind::Input, error));
    }
    let passphrase = match (no_passphrase, env::var(PASSPHRASE)) {
        (true, _) => None,
        (false, Some(given)) => Some(Secret::new(given)),
        (false, None) => Some(new_passphrase()?),
    };
    let key = rsa::generate()?;
    let pem = private_pem(&key, passphrase.as_ref()).kind(Kind::Input)?;
    let signed = rsa::self_signed(&key, name, clock::now())?;
    fs::write_atomic(path, pem.as_bytes(), 0o600).with_context(|| format!("writing {}", path.display()))?;
    fs::write_atomic(&certificate, signed.as_bytes(), 0o644)
        .with_context(|| format!("writing {}", certificate.display()))?;
    session.ui.result(
        "key",
        &serde_json::json!({ "private": path, "certificate": certificate, "encrypted": passphrase.is_some() }),
        format!("{} and {}\nRSA-2048, CN={name}", path.display(), certificate.display()),
    );
    if passphrase.is_none() {
        session.ui.note("the key is not encrypted: for development only");
    }
    Ok(())
}

fn new_passphrase() -> anyhow::Result<Secret> {
    let first = prompt("Passphrase for the new key: ")?;
    if first.is_empty() {
        return Err(error::of(Kind::Input, anyhow!("the passphrase is empty")))
            .hint("a key without one is made by --no-passphrase");
    }
    if *prompt("Once more: ")? != *first {
        return Err(error::of(Kind::Input, anyhow!("the passphrases differ")));
    }
    Ok(first)
}

/// Asks at the terminal, where there is one.
fn prompt(words: &str) -> anyhow::Result<Secret> {
    if !std::io::stdin().is_terminal() {
        let error = anyhow!("a passphrase is needed, and there is no terminal to ask at");
        return Err(error::of(Kind::Input, error)).hint(format!("set {PASSPHRASE}"));
    }
    Ok(Secret::new(rpassword::prompt_password(words).context("reading the passphrase")?))
}

/// A public key, from whatever names it: a PEM of either half, or a reference to a signing key.
pub fn public(name: &str) -> anyhow::Result<PublicKey> {
    let path = name.strip_prefix("file:").unwrap_or(name);
    if let Ok(pem) = std::fs::read_to_string(path)
        && let Ok(public) = PublicKey::from_pem(&pem)
    {
        return Ok(public);
    }
    let reference: KeyRef =
        if Path::new(name).exists() { KeyRef::File(name.into()) } else { name.parse().kind(Kind::Input)? };
    Ok(reference.open(|| prompt("Passphrase: ")).kind(Kind::Input)?.public_key().clone())
}

/// The key that signs a profile's releases, ready.
pub fn signer(profile: &Profile) -> anyhow::Result<Box<dyn Signer>> {
    let Some(sign) = &profile.sign else {
        return Err(error::of(Kind::Input, anyhow!("the profile names no key in [sign]")))
            .hint("add `[sign]` with `key = \"file:keys/release.key\"`; `forge key generate` makes one");
    };
    open(&reference(profile, &sign.key)?)
}

/// The key that signs what starts a device, where the profile has one, ready.
pub fn boot_signer(profile: &Profile) -> anyhow::Result<Option<BootSigner>> {
    let Some(keys) = profile.sign.as_ref().and_then(|sign| sign.secure_boot.as_ref()) else {
        return Ok(None);
    };
    let reference = reference(profile, &keys.key.0)?;
    let path = profile.dir().join(keys.cert.as_str());
    let certificate =
        std::fs::read(&path).with_context(|| format!("reading {}", path.display())).kind(Kind::Input)?;
    let passphrase = || match env::var(PASSPHRASE) {
        Some(given) => Ok(Secret::new(given)),
        None => prompt(&format!("Passphrase of {reference}: ")),
    };
    let opened = BootSigner::open(&reference, &certificate, passphrase).kind(Kind::Input);
    Ok(Some(opened.hint("`forge key generate --secure-boot` makes a key and its certificate")?))
}

/// Where a profile says that something secret is.
pub fn reference(profile: &Profile, source: &KeySource) -> anyhow::Result<KeyRef> {
    Ok(match source {
        KeySource::File(path) => KeyRef::File(profile.dir().join(path)),
        KeySource::Env(name) => KeyRef::Env(name.clone()),
        KeySource::Command(line) => format!("cmd:{line}").parse().kind(Kind::Input)?,
        KeySource::Token(uri) => uri.parse().kind(Kind::Input)?,
    })
}

/// The key that an argument names, ready: a path, or a reference.
pub fn named(argument: &str) -> anyhow::Result<Box<dyn Signer>> {
    if Path::new(argument).exists() {
        return open(&KeyRef::File(argument.into()));
    }
    open(&argument.parse().kind(Kind::Input)?)
}

/// The key at `reference`, ready; its passphrase is asked for at the terminal.
pub fn open(reference: &KeyRef) -> anyhow::Result<Box<dyn Signer>> {
    let opened = reference.open(|| prompt(&format!("Passphrase of {reference}: "))).kind(Kind::Input);
    match reference {
        KeyRef::File(path) if !path.exists() => {
            opened.hint(format!("run `forge key generate {}`", path.display()))
        }
        _ => opened,
    }
}
