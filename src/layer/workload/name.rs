//! Names of container images: as a person writes them → as Podman stores and looks them up.
//!
//! Grammar and defaults are those of distribution/reference: a first component with a dot, a colon or the word
//! `localhost` is a registry; without one, `docker.io` is meant, and `library/` for a single component.

use crate::model::Digest;
use std::fmt;
use std::str::FromStr;

/// The longest name without tag and digest, in bytes (distribution/reference, `NameTotalLengthMax`).
const MAX_NAME: usize = 255;
/// The longest tag, in bytes (the grammar's `[\w][\w.-]{0,127}`).
const MAX_TAG: usize = 128;

/// A container image's name, complete: registry, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    short: bool,
}

/// Text that names no container image.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{name}` is no container image name: {why}")]
pub struct BadImageName {
    /// The first 200 characters of the text.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl ImageName {
    /// Whether no registry was written, so that an image of the same profile may be meant.
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Host and perhaps port of the registry: `docker.io`, `localhost`, `registry.example:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path below the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one is written or meant; `None` beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the name pins, of an image manifest or an index.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The name of an image that was built here: Podman gives such images the registry `localhost`. A name with a
    /// registry stays as it is.
    #[must_use]
    pub fn local(&self) -> ImageName {
        if !self.short {
            return self.clone();
        }
        let repository = self.repository.strip_prefix("library/").unwrap_or(&self.repository);
        ImageName {
            registry: "localhost".into(),
            repository: repository.into(),
            short: false,
            ..self.clone()
        }
    }
}

impl FromStr for ImageName {
    type Err = BadImageName;

    fn from_str(s: &str) -> Result<ImageName, BadImageName> {
        let bad = |why| BadImageName { name: s.chars().take(200).collect(), why };
        let (rest, digest) = match s.split_once('@') {
            None => (s, None),
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(|_| bad("its digest is no sha256:<64 hex digits>"))?),
            ),
        };
        // A colon after the last slash starts a tag; one before it belongs to the registry's port.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !(is_tag(tag))
        {
            return Err(bad("its tag is not 1 to 128 of A-Z a-z 0-9 _ . -"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
            _ => (None, path),
        };
        if registry.is_some_and(|r| !is_registry(r)) {
            return Err(bad("its registry is no host name with an optional port"));
        }
        if !repository.split('/').all(is_component) {
            return Err(bad("its parts are not lowercase letters and digits, separated by . _ - or /"));
        }
        if path.len() > MAX_NAME {
            return Err(bad("it is longer than 255 bytes"));
        }
        let short = registry.is_none();
        let registry = match registry {
            None | Some("index.docker.io") => "docker.io",
            Some(registry) => registry,
        };
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_string()
        };
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_string()),
            (tag, _) => tag.map(String::from),
        };
        Ok(ImageName { registry: registry.into(), repository, tag, digest, short })
    }
}

fn is_tag(s: &str) -> bool {
    (1..=MAX_TAG).contains(&s.len())
        && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
        && !s.starts_with(['.', '-'])
}

fn is_registry(s: &str) -> bool {
    let (host, port) = s.split_once(':').map_or((s, None), |(h, p)| (h, Some(p)));
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(s: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    s.starts_with(alphanumeric)
        && s.ends_with(alphanumeric)
        && s.split(alphanumeric)
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|c| c == b'-'))
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_podman_does() {
        let digest = Digest::of("x");
        for (written, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/loki:3", "docker.io/grafana/loki:3"),
            ("index.docker.io/redis:7", "docker.io/library/redis:7"),
            ("localhost/till-web:1", "localhost/till-web:1"),
            ("registry.example:5000/a/b_c__d--e.f", "registry.example:5000/a/b_c__d--e.f:latest"),
            (&format!("quay.example/x@{digest}"), &format!("quay.example/x@{digest}")),
            (&format!("quay.example/x:2@{digest}"), &format!("quay.example/x:2@{digest}")),
        ] {
            assert_eq!(written.parse::<ImageName>().unwrap().to_string(), full, "{written}");
        }
        assert_eq!("till-web:1".parse::<ImageName>().unwrap().local().to_string(), "localhost/till-web:1");
        assert_eq!("a.example/x:1".parse::<ImageName>().unwrap().local().to_string(), "a.example/x:1");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "/",
            "a//b",
            "../x",
            "a/../b",
            "Nginx",
            "a b",
            "x:",
            "x:-1",
            "x@sha256:12",
            "registry.example:0/x",
            "registry.example:http/x",
            "-.example/x",
            "x\n:1",
            &"a".repeat(256),
            &format!("x:{}", "t".repeat(129)),
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
