//! Names of images in registries: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.
//!
//! Stricter than Docker: the registry is always named, so that a typing error never asks another company's server.
//! distribution-spec v1.1, §Pulling manifests.

use crate::model::Digest;
use std::fmt;
use std::str::FromStr;

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// `HOST[:PORT]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one is named; it wins over the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `HOST[:PORT]/REPOSITORY`: what a classic signature says it is for.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository under `tag`.
    ///
    /// # Errors
    /// [`BadReference`] when `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, BadReference> {
        if !is_tag(tag) {
            return Err(BadReference { reference: tag.chars().take(200).collect(), why: "the tag is none" });
        }
        Ok(Reference { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// The same repository at `digest`.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// Whether the registry is this machine itself, which may be spoken to without TLS.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => self.registry.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = BadReference;
    fn from_str(s: &str) -> Result<Reference, BadReference> {
        let bad = |why| BadReference { reference: s.chars().take(200).collect(), why };
        if s.len() > 1024 {
            return Err(bad("it is longer than 1024 bytes"));
        }
        let (rest, digest) = match s.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| bad("its digest is no sha256 digest"))?))
            }
            None => (s, None),
        };
        let (registry, path) =
            rest.split_once('/').ok_or_else(|| bad("it has no `/` after the registry's name"))?;
        if !is_registry(registry) {
            return Err(bad(
                "it does not start with a registry's name (a host with a dot or a port, or localhost)",
            ));
        }
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_repository(repository) {
            return Err(bad("its repository is not lower-case words joined by `/`, `.`, `_` or `-`"));
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad("its tag is not 1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`"));
        }
        Ok(Reference {
            registry: registry.into(),
            repository: repository.into(),
            tag: tag.map(String::from),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn is_registry(s: &str) -> bool {
    let (host, port) = match s.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((ip, port)) if ip.parse::<std::net::Ipv6Addr>().is_ok() => (ip, port.strip_prefix(':')),
            _ => return false,
        },
        None => match s.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (s, None),
        },
    };
    let named = s.starts_with('[')
        || host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
                && !label.starts_with('-')
        });
    let clear = s.starts_with('[') || host.contains('.') || port.is_some() || host == "localhost";
    named && clear && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_repository(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 255
        && s.split('/').all(|part| {
            let alphanumeric =
                |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            alphanumeric(part.chars().next())
                && alphanumeric(part.chars().last())
                && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c))
                && !part.contains("..")
        })
}

fn is_tag(s: &str) -> bool {
    (1..=128).contains(&s.len())
        && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
        && !s.starts_with(['.', '-'])
}

/// Text that is no reference, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{reference}` is no image reference: {why}")]
pub struct BadReference {
    /// Its first 200 characters.
    pub reference: String,
    /// What is wrong with it.
    pub why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_their_spelling() {
        let digest = Digest::of("x");
        for good in [
            "registry.example/edge/store-042".to_string(),
            "registry.example:5000/a:Tag_1.2-3".to_string(),
            "localhost/a__b".to_string(),
            "127.0.0.1:5000/a/b/c@".to_string() + &digest.to_string(),
            "[::1]:5000/a:v1@".to_string() + &digest.to_string(),
        ] {
            assert_eq!(good.parse::<Reference>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn ambiguous_and_hostile_references_are_refused() {
        for bad in [
            "nginx",
            "library/nginx:1",
            "registry.example",
            "registry.example/",
            "registry.example/UP",
            "registry.example/a/../b",
            "registry.example/a//b",
            "registry.example/a:",
            "registry.example/a:-x",
            "registry.example/a@sha512:00",
            "registry.example:99999/a",
            "user@registry.example/a",
            "re gistry.example/a",
            "registry.example/a?x",
            "https://registry.example/a",
            "-x.example/a",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (s, is) in [
            ("localhost:5000/a", true),
            ("127.0.0.1:5000/a", true),
            ("[::1]:5000/a", true),
            ("registry.example/a", false),
            ("127.0.0.1.example:80/a", false),
            ("192.0.2.1:5000/a", false),
        ] {
            assert_eq!(s.parse::<Reference>().unwrap().is_loopback(), is, "{s}");
        }
    }
}
