//! Where things come from: the base system, upstream inputs, the release key.

use super::grammar::{alphanumeric, is_reference, is_url, lower, spelled};
use crate::profile::fragment::Node;
use crate::profile::shape::{Content, Definitions, Reader, Shape, Wrong};
use crate::profile::word::text;
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

/// Where the operating system comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A suite of Debian's archive, such as `trixie`.
    Debian(String),
    /// A suite of Ubuntu's archive, such as `noble`.
    Ubuntu(String),
    /// An OCI image by reference.
    Oci(String),
    /// A directory or tar, from the main profile's directory.
    Rootfs(String),
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Base::Debian(suite) => write!(f, "debian:{suite}"),
            Base::Ubuntu(suite) => write!(f, "ubuntu:{suite}"),
            Base::Oci(reference) => write!(f, "oci:{reference}"),
            Base::Rootfs(path) => write!(f, "rootfs:{path}"),
        }
    }
}

impl Shape for Base {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Base> {
        let text = text(node, reader, "a base", false)?;
        let help = "`debian:SUITE`, `ubuntu:SUITE`, `oci:REFERENCE` or `rootfs:PATH`";
        let suite = |s: &str| s.len() <= 64 && spelled(s, lower, |c| lower(c) || c == b'-');
        let base = match text.split_once(':') {
            Some(("debian", s)) if suite(s) => Ok(Base::Debian(s.into())),
            Some(("ubuntu", s)) if suite(s) => Ok(Base::Ubuntu(s.into())),
            Some(("oci", s)) if is_reference(s) => Ok(Base::Oci(s.into())),
            Some(("rootfs", s)) => return reader.file(node, s, Content::Locked).map(Base::Rootfs),
            Some((kind @ ("debian" | "ubuntu"), s)) => Err(Wrong::new(
                format!("`{s}` is not a suite"),
                format!(
                    "a suite in lowercase, such as `{kind}:{}`",
                    if kind == "debian" { "trixie" } else { "noble" }
                ),
            )),
            Some(("oci", s)) => Err(Wrong::new(
                format!("`{s}` is not an OCI reference"),
                "registry, `/`, path, `:tag` or `@sha256:…`",
            )),
            _ => {
                let kind = text.split(':').next().unwrap_or_default();
                let near = crate::profile::suggest::nearest(kind, &["debian", "ubuntu", "oci", "rootfs"]);
                let meant = near.map(|near| format!(", did you mean `{near}:…`?")).unwrap_or_default();
                Err(Wrong::new(format!("`{text}` is not a base{meant}"), help))
            }
        };
        base.map_err(|wrong| reader.wrong(node.place, wrong)).ok()
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^((debian|ubuntu):[a-z0-9][a-z0-9-]*|oci:.+/.+|rootfs:[^/].*)$" })
    }
}

/// Where an upstream input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Upstream's own place and checksums.
    Release,
    /// An https URL, or an http URL of this machine itself.
    Url(String),
    /// A file, from the main profile's directory.
    File(String),
    /// An OCI artifact by reference.
    Oci(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Release => f.write_str("release"),
            Origin::Url(url) => f.write_str(url),
            Origin::File(path) => write!(f, "file:{path}"),
            Origin::Oci(reference) => write!(f, "oci:{reference}"),
        }
    }
}

impl Shape for Origin {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Origin> {
        let text = text(node, reader, "a source", false)?;
        let origin = match text.split_once(':') {
            None if text == "release" => Ok(Origin::Release),
            Some(("https", _)) if is_url(&text, &["https://"]) => Ok(Origin::Url(text.clone())),
            Some(("http", rest)) if is_url(&text, &["http://"]) && is_loopback(rest) => {
                Ok(Origin::Url(text.clone()))
            }
            Some(("file", path)) => return reader.file(node, path, Content::Locked).map(Origin::File),
            Some(("oci", s)) if is_reference(s) => Ok(Origin::Oci(s.into())),
            _ => {
                let shown: String = text.chars().take(80).collect();
                Err(Wrong::new(
                    format!("`{shown}` is not a source"),
                    "`release`, `https://…`, `file:PATH` or `oci:REFERENCE`",
                ))
            }
        };
        origin.map_err(|wrong| reader.wrong(node.place, wrong)).ok()
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^(release|https://.+|http://(localhost|127\\.|\\[::1\\]).*|file:[^/].*|oci:.+/.+)$" })
    }
}

/// Whether `//host:port/…` is this machine, where nobody stands between that TLS would keep out.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

/// Where the release key is: never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file, from the main profile's directory, or absolute.
    File(String),
    /// An environment variable that holds the PEM.
    Env(String),
    /// A command that prints the key, or signs.
    Command(String),
    /// A key in a token, as a URI: `pkcs11:…`.
    Token(String),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "file:{path}"),
            KeySource::Env(name) => write!(f, "env:{name}"),
            KeySource::Command(command) => write!(f, "cmd:{command}"),
            KeySource::Token(uri) => f.write_str(uri),
        }
    }
}

impl Shape for KeySource {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<KeySource> {
        let text = text(node, reader, "where the key is", true)?;
        let variable = |s: &str| {
            s.len() <= 128
                && spelled(s, |c| c.is_ascii_alphabetic() || c == b'_', |c| alphanumeric(c) || c == b'_')
        };
        match text.split_once(':') {
            Some(("file", path)) => reader.file(node, path, Content::Key).map(KeySource::File),
            Some(("env", name)) if variable(name) => Some(KeySource::Env(name.into())),
            Some(("cmd", command)) if !command.trim().is_empty() => Some(KeySource::Command(command.into())),
            Some(("pkcs11", rest)) if rest.contains("token=") && !rest.contains("pin-value=") => {
                Some(KeySource::Token(text))
            }
            _ => {
                // The text is not repeated for machines to keep: it may be the key, typed here by mistake.
                let help = "`file:PATH`, `env:NAME`, `pkcs11:token=…;object=…` or `cmd:COMMAND`, which says where the key is; never the key itself";
                reader.wrong(node.place, Wrong::new("this does not say where the key is", help));
                None
            }
        }
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^(file|env|cmd|pkcs11):.|[$][{]" })
    }
}

/// Where a key is: as [`KeySource`], or a plain path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace(pub KeySource);

impl std::fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Shape for KeyPlace {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<KeyPlace> {
        let said = text(node, reader, "where the key is", true)?;
        if ["file:", "env:", "cmd:", "pkcs11:"].iter().any(|form| said.starts_with(form)) {
            return KeySource::read(node, reader).map(KeyPlace);
        }
        reader.file(node, &said, Content::Key).map(|path| KeyPlace(KeySource::File(path)))
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// Serializes through `Display`.
macro_rules! serialize_as_text {
    ($($name:ty),+) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+ };
}
serialize_as_text!(Base, Origin, KeySource, KeyPlace);
