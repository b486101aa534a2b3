//! Where a signing key is: `file:PATH`, `env:NAME`; `pkcs11:URI` or `cmd:PROGRAM ARGS…` for a key that forge never sees.
//!
//! The contract of `cmd:` — the words after the colon are split at spaces, no shell is asked:
//! - `PROGRAM ARGS… key` prints a PEM. A private key is used as if it were in a file. A *public* key says that the program
//!   signs itself:
//! - `PROGRAM ARGS… sign` reads the payload from standard input and prints its Ed25519 signature in base64.
//!
//! Every signature of a program is checked against the public key it named before it is used.

use super::key::{MAX_PEM, PrivateKey, PublicKey};
use super::key_file::Secret;
use super::token::{BadTokenUri, TokenKey, TokenUri};
use super::{Signature, Signer, Verifier as _};
use crate::host::tool::ToolCall;
use anyhow::{Context as _, bail};
use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use zeroize::Zeroizing;

/// The environment variable that holds the passphrase of encrypted keys.
pub const PASSPHRASE: &str = "FORGE_KEY_PASSWORD";

/// A place of a signing key, as profiles and the command line name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRef {
    /// A PEM file.
    File(PathBuf),
    /// A PEM in an environment variable of that name.
    Env(String),
    /// A program and its first arguments.
    Command(Vec<String>),
    /// A token.
    Token(TokenUri),
}

impl FromStr for KeyRef {
    type Err = BadKeyRef;
    fn from_str(s: &str) -> Result<KeyRef, BadKeyRef> {
        let bad = || BadKeyRef::Place(s.chars().take(80).collect());
        match s.split_once(':') {
            Some((_, "")) => Err(bad()),
            Some(("file", path)) => Ok(KeyRef::File(path.into())),
            Some(("env", name)) if name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') => {
                Ok(KeyRef::Env(name.into()))
            }
            Some(("cmd", line)) => {
                let words: Vec<String> = line.split_ascii_whitespace().map(String::from).collect();
                if words.is_empty() { Err(bad()) } else { Ok(KeyRef::Command(words)) }
            }
            Some(("pkcs11", _)) => s.parse().map(KeyRef::Token).map_err(BadKeyRef::Token),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRef::File(path) => write!(f, "file:{}", path.display()),
            KeyRef::Env(name) => write!(f, "env:{name}"),
            KeyRef::Command(words) => write!(f, "cmd:{}", words.join(" ")),
            KeyRef::Token(uri) => write!(f, "{uri}"),
        }
    }
}

/// Text that names no place of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKeyRef {
    /// No word of a place.
    #[error("`{0}` is no key, expected `file:PATH`, `env:NAME`, `pkcs11:URI` or `cmd:PROGRAM ARGS…`")]
    Place(String),
    /// No place in a token.
    #[error(transparent)]
    Token(BadTokenUri),
}

impl KeyRef {
    /// Gets the key ready to sign. `passphrase` is asked only where the PEM is encrypted and [`PASSPHRASE`] is not set:
    /// whoever owns the terminal prompts.
    ///
    /// # Errors
    /// When there is no key there, it is no Ed25519 key, or its passphrase is wrong.
    pub fn open(
        &self,
        passphrase: impl FnOnce() -> anyhow::Result<Secret>,
    ) -> anyhow::Result<Box<dyn Signer>> {
        let passphrase = || match crate::host::env::var(PASSPHRASE) {
            Some(value) => Ok(Zeroizing::new(value)),
            None => passphrase(),
        };
        if let KeyRef::Token(uri) = self {
            let opened = uri.open(passphrase).and_then(TokenKey::signer);
            return Ok(Box::new(opened.with_context(|| format!("opening key {self}"))?));
        }
        let pem = self.secret().with_context(|| format!("reading key {self}"))?;
        if let KeyRef::Command(words) = self
            && pem.trim_start().starts_with("-----BEGIN PUBLIC KEY-----")
        {
            return Ok(Box::new(CommandSigner { words: words.clone(), public: PublicKey::from_pem(&pem)? }));
        }
        let key = PrivateKey::from_pem(&pem, passphrase).with_context(|| format!("reading key {self}"))?;
        Ok(Box::new(key))
    }

    /// What a program that signs prints for `message`.
    ///
    /// # Errors
    /// When it is no program, or the program fails.
    pub fn signature(&self, message: &[u8]) -> anyhow::Result<String> {
        match self {
            KeyRef::Command(words) => run(words, "sign", message),
            other => bail!("{other} is no program that signs"),
        }
    }

    /// The text that is there, a PEM or another secret; at most as much of it as a PEM may have.
    ///
    /// # Errors
    /// When there is none.
    pub fn secret(&self) -> anyhow::Result<Secret> {
        let mut pem = Zeroizing::new(String::new());
        match self {
            KeyRef::File(path) => {
                // Room from the start: a growing String would leave copies of the key behind.
                pem.reserve(MAX_PEM + 1);
                std::fs::File::open(path)?.take(MAX_PEM as u64 + 1).read_to_string(&mut pem)?;
            }
            KeyRef::Env(name) => match crate::host::env::var(name) {
                Some(value) => *pem = value,
                None => bail!("the environment has no {name}"),
            },
            KeyRef::Command(words) => *pem = run(words, "key", b"")?,
            KeyRef::Token(_) => bail!("a token gives no secret away"),
        }
        Ok(pem)
    }
}

/// A program that signs.
struct CommandSigner {
    words: Vec<String>,
    public: PublicKey,
}

impl Signer for CommandSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }
    fn sign(&self, payload: &[u8]) -> anyhow::Result<Signature> {
        let signature = Signature::from_base64(&run(&self.words, "sign", payload)?)?;
        self.public
            .verify(payload, &signature)
            .with_context(|| format!("checking the signature of {}", self.words[0]))?;
        Ok(signature)
    }
}

/// Runs the program with `verb`; what it prints, at most [`MAX_PEM`] bytes.
fn run(words: &[String], verb: &str, input: &[u8]) -> anyhow::Result<String> {
    let call = ToolCall::new(&words[0]).args(&words[1..]).arg(verb);
    let mut command = call.command();
    // A key program may need the user's agent socket or token, so it alone sees the whole environment.
    command.envs(crate::host::env::all());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("starting {}", call.name()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut output = String::new();
    std::thread::scope(|scope| {
        // A program that does not read its input closes it early: its status tells, not the broken pipe.
        scope.spawn(|| stdin.map(|mut pipe| pipe.write_all(input)));
        stdout.map(|pipe| pipe.take(MAX_PEM as u64 + 1).read_to_string(&mut output)).transpose()
    })
    .with_context(|| format!("reading from {}", call.name()))?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{} {verb} ended with {status}", call.name());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> anyhow::Result<Secret> {
        bail!("asked for a passphrase")
    }

    #[test]
    fn places_survive_their_spelling() {
        for good in [
            "file:keys/release.key",
            "env:FORGE_RELEASE_KEY",
            "cmd:signer --slot 2",
            "pkcs11:token=a;object=b",
        ] {
            assert_eq!(good.parse::<KeyRef>().unwrap().to_string(), good);
        }
        for bad in ["", "release.key", "file:", "env:A-B", "cmd: ", "vault:x", "pkcs11:token=a"] {
            assert!(bad.parse::<KeyRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_gives_its_key_or_signs_and_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        let script = |name: &str, pem: &str, signature: &str| {
            let path = dir.path().join(name);
            let text = format!(
                "#!/bin/sh\ncat >/dev/null\ncase $1 in key) echo '{pem}';; sign) echo {signature};; esac\n"
            );
            crate::host::fs::write_atomic(&path, text.as_bytes(), 0o755).unwrap();
            KeyRef::Command(vec!["/bin/sh".into(), path.display().to_string()])
        };
        let gives = script("gives", &key.to_pem(None).unwrap(), "");
        assert_eq!(gives.open(none).unwrap().key_id(), key.key_id());
        let right = key.sign(b"payload").unwrap();
        let signs = script("signs", &key.public_key().to_pem(), &right.to_base64()).open(none).unwrap();
        assert_eq!(signs.sign(b"payload").unwrap(), right);
        let error = signs.sign(b"another payload").unwrap_err();
        assert!(format!("{error:#}").contains("does not hold"), "{error:#}");
    }

    #[test]
    fn a_file_is_opened_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        let path = dir.path().join("k.key");
        super::super::key_file::write_pair(&key, &path, Some(&Zeroizing::new("word".into()))).unwrap();
        let opened = KeyRef::File(path.clone()).open(|| Ok(Zeroizing::new("word".into()))).unwrap();
        assert_eq!(opened.key_id(), key.key_id());
        let error = KeyRef::File(dir.path().join("none")).open(none).err().unwrap();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
    }
}
