//! `forge key generate|show|export`, and how other verbs come by a key.

use super::Session;
use super::args::KeyVerb;
use crate::error::{self, Kind, Mark as _};
use crate::host::env;
use crate::profile::{KeySource, Profile};
use crate::sign::Signer;
use crate::sign::key_file::{Secret, write_pair};
use crate::sign::key_ref::{KeyRef, PASSPHRASE};
use crate::sign::{PrivateKey, PublicKey};
use anyhow::{Context as _, anyhow};
use std::io::IsTerminal as _;
use std::path::Path;

/// Runs a verb of keys.
pub fn run(session: &Session, verb: KeyVerb) -> anyhow::Result<()> {
    match verb {
        KeyVerb::Generate { path, no_passphrase } => generate(session, &path, no_passphrase),
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

/// Where a profile says that something secret is.
pub fn reference(profile: &Profile, source: &KeySource) -> anyhow::Result<KeyRef> {
    Ok(match source {
        KeySource::File(path) => KeyRef::File(profile.dir().join(path)),
        KeySource::Env(name) => KeyRef::Env(name.clone()),
        KeySource::Command(line) => format!("cmd:{line}").parse().kind(Kind::Input)?,
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
