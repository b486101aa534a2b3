//! A signing key in a PKCS #11 token — a smart card, an HSM, SoftHSM —, which it never leaves.
//!
//! Where it is says a URI (RFC 7512): `pkcs11:token=NAME;object=LABEL?module-path=FILE`. Without a module p11-kit's proxy is
//! asked, which knows those that the machine is set to. The PIN is asked for as a passphrase is; `pin-source=env:NAME` and
//! `pin-source=file:PATH` name another place. A PIN in the URI itself is refused: profiles are shared.
//! PKCS #11 v3.0, "PKCS #1 RSA PKCS #1 v1.5 signature with SHA-256" and "EdDSA".

use super::key::PublicKey;
use super::key_file::Secret;
use super::{Signature, Signer, Verifier as _};
use anyhow::{Context as _, bail, ensure};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The module that stands for all that the machine is set to.
const PROXY: &str = "p11-kit-proxy.so";
/// A DER octet string of the 32 bytes of an Ed25519 public key, which is how `CKA_EC_POINT` has them.
const OCTETS: [u8; 2] = [0x04, 32];

/// Where a key of a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUri {
    text: String,
    token: String,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module: PathBuf,
    pin: Option<Box<super::KeyRef>>,
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text that is no such URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected `pkcs11:token=NAME;object=LABEL?module-path=FILE`")]
pub struct BadTokenUri(String);

impl FromStr for TokenUri {
    type Err = BadTokenUri;
    fn from_str(text: &str) -> Result<TokenUri, BadTokenUri> {
        let bad = |why: String| Err(BadTokenUri(why));
        let Some(rest) = text.strip_prefix("pkcs11:") else { return bad("it is no PKCS #11 URI".into()) };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut words: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for word in path.split(';').chain(query.split('&')).filter(|word| !word.is_empty()) {
            let Some((name, value)) = word.split_once('=') else {
                return bad(format!("`{word}` has no value"));
            };
            let Some(value) = decoded(value) else { return bad(format!("`{name}` has a broken `%`")) };
            if words.insert(name, value).is_some() {
                return bad(format!("`{name}` is there twice"));
            }
        }
        let mut id = None;
        let mut texts: BTreeMap<&str, String> = BTreeMap::new();
        for (name, value) in words {
            match name {
                "id" => id = Some(value),
                "token" | "serial" | "object" | "module-path" | "pin-source" => {
                    match String::from_utf8(value) {
                        Ok(value) => drop(texts.insert(name, value)),
                        Err(_) => return bad(format!("`{name}` is not UTF-8")),
                    }
                }
                "type" if value == b"private" => {}
                "pin-value" => return bad("a PIN does not belong into it: name its `pin-source`".into()),
                _ => return bad(format!("`{name}` says nothing that forge knows")),
            }
        }
        let pin = match texts.remove("pin-source").map(|place| place.parse()) {
            None => None,
            Some(Ok(place @ (super::KeyRef::File(_) | super::KeyRef::Env(_)))) => Some(Box::new(place)),
            Some(_) => return bad("`pin-source` is `env:NAME` or `file:PATH`".into()),
        };
        let Some(token) = texts.remove("token") else { return bad("it names no `token`".into()) };
        let object = texts.remove("object");
        if object.is_none() && id.is_none() {
            return bad("it names neither `object` nor `id`".into());
        }
        Ok(TokenUri {
            text: text.into(),
            token,
            serial: texts.remove("serial"),
            object,
            id,
            module: texts.remove("module-path").unwrap_or_else(|| PROXY.into()).into(),
            pin,
        })
    }
}

/// RFC 3986, 2.1.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = vec![];
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

impl TokenUri {
    /// The key, ready; `pin` is asked where the URI names no source of it.
    ///
    /// # Errors
    /// When there is no such module, token or key, more than one, or the PIN is wrong. A wrong PIN is tried once: tokens
    /// lock themselves.
    pub fn open(&self, pin: impl FnOnce() -> anyhow::Result<Secret>) -> anyhow::Result<TokenKey> {
        let library = library(&self.module)?;
        let mut found = vec![];
        for slot in library.get_slots_with_token()? {
            let info = library.get_token_info(slot)?;
            if info.label() == self.token
                && self.serial.as_ref().is_none_or(|serial| info.serial_number() == serial)
            {
                found.push(slot);
            }
        }
        let [slot] = found[..] else {
            bail!("there are {} tokens `{}` at {}", found.len(), self.token, self.module.display())
        };
        let session = library.open_ro_session(slot)?;
        let secret = match &self.pin {
            Some(place) => place.secret().with_context(|| format!("reading the PIN at {place}"))?,
            None => pin()?,
        };
        match session.login(UserType::User, Some(&AuthPin::from(secret.trim_end().to_string()))) {
            // A login is the process's, not the session's.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(fault) => {
                return Err(fault).with_context(|| format!("giving token `{}` its PIN", self.token));
            }
        }
        let [key] = self.objects(&session, ObjectClass::PRIVATE_KEY)?[..] else {
            bail!("token `{}` has not one private key by that name", self.token)
        };
        let kind = session.get_attributes(key, &[AttributeType::KeyType])?;
        let kind = match kind[..] {
            [Attribute::KeyType(KeyType::RSA)] => KeyKind::Rsa,
            [Attribute::KeyType(KeyType::EC_EDWARDS)] => KeyKind::Ed25519,
            _ => bail!("it is neither an RSA nor an Ed25519 key"),
        };
        Ok(TokenKey { uri: self.clone(), session: Mutex::new(session), key, kind })
    }

    fn objects(&self, session: &Session, class: ObjectClass) -> anyhow::Result<Vec<ObjectHandle>> {
        let mut template = vec![Attribute::Class(class)];
        template.extend(self.object.iter().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(self.id.iter().map(|id| Attribute::Id(id.clone())));
        Ok(session.find_objects(&template)?)
    }
}

/// The module at `path`, loaded and initialised once: it is the process's, and two keys may be in one.
fn library(path: &Path) -> anyhow::Result<Pkcs11> {
    static LOADED: LazyLock<Mutex<BTreeMap<PathBuf, Pkcs11>>> = LazyLock::new(Mutex::default);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = loaded.get(path) {
        return Ok(library.clone());
    }
    let library = Pkcs11::new(path).with_context(|| format!("loading the module {}", path.display()))?;
    library
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .with_context(|| format!("starting the module {}", path.display()))?;
    loaded.insert(path.into(), library.clone());
    Ok(library)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    Ed25519,
}

/// A private key in a token.
pub struct TokenKey {
    uri: TokenUri,
    session: Mutex<Session>,
    key: ObjectHandle,
    kind: KeyKind,
}

impl TokenKey {
    /// The signature of `message`: PKCS #1 v1.5 over SHA-256 of an RSA key, Ed25519's of an Ed25519 key.
    ///
    /// # Errors
    /// When the token says no.
    pub fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mechanism = match self.kind {
            KeyKind::Rsa => Mechanism::Sha256RsaPkcs,
            KeyKind::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
        };
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.sign(&mechanism, self.key, message).with_context(|| format!("signing with {}", self.uri))
    }

    /// As what signs releases.
    ///
    /// # Errors
    /// When it is no Ed25519 key, or its public half is not in the token.
    pub fn signer(self) -> anyhow::Result<TokenSigner> {
        ensure!(self.kind == KeyKind::Ed25519, "it is an RSA key: releases are signed with Ed25519");
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let [public] = self.uri.objects(&session, ObjectClass::PUBLIC_KEY)?[..] else {
            bail!("the token has not one public key by that name")
        };
        let point = session.get_attributes(public, &[AttributeType::EcPoint])?;
        let [Attribute::EcPoint(point)] = &point[..] else { bail!("the public key has no point") };
        // Some tokens give the bytes alone, as PKCS #11 v2.40 was read by them.
        let raw = point.strip_prefix(&OCTETS).unwrap_or(point);
        let public = PublicKey::from_raw(raw.try_into().context("the public key has not 32 bytes")?)?;
        drop(session);
        Ok(TokenSigner { key: self, public })
    }
}

/// An Ed25519 key in a token.
pub struct TokenSigner {
    key: TokenKey,
    public: PublicKey,
}

impl Signer for TokenSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }
    fn sign(&self, payload: &[u8]) -> anyhow::Result<Signature> {
        let bytes = self.key.sign(payload)?;
        let signature = Signature(bytes[..].try_into().context("reading a signature of 64 bytes")?);
        self.public
            .verify(payload, &signature)
            .with_context(|| format!("checking the signature of {}", self.key.uri))?;
        Ok(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_as_rfc_7512_has_them() {
        let text = "pkcs11:token=The%20house;serial=7;id=%01%FF;type=private?module-path=/usr/lib/m.so&pin-source=env:PIN";
        let uri: TokenUri = text.parse().unwrap();
        assert_eq!((uri.token.as_str(), uri.id.as_deref()), ("The house", Some(&[1, 0xff][..])));
        assert_eq!(uri.module, Path::new("/usr/lib/m.so"));
        assert_eq!(uri.to_string(), text);
        let least: TokenUri = "pkcs11:token=a;object=b".parse().unwrap();
        assert_eq!((least.object.as_deref(), least.module.to_str()), (Some("b"), Some(PROXY)));
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        for (text, why) in [
            ("pkcs11:object=b", "no `token`"),
            ("pkcs11:token=a", "neither `object` nor `id`"),
            ("pkcs11:token=a;token=b;object=c", "twice"),
            ("pkcs11:token=%4;object=c", "broken"),
            ("pkcs11:token=a;object=b?pin-value=1234", "does not belong"),
            ("pkcs11:token=a;object=b?pin-source=cmd:x", "`pin-source` is"),
            ("pkcs11:token=a;object=b;colour=red", "`colour`"),
            ("pkcs11:token=a;object=b;type=public", "`type`"),
        ] {
            let said = text.parse::<TokenUri>().unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
