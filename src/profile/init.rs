//! The files of `forge init`: a profile that builds as it stands, and what it names.

use crate::template::init as files;
use std::str::FromStr;

/// The name of the profile that is written.
pub const PROFILE: &str = "site.toml";
/// The name of the JSON Schema beside it, which the profile's `#:schema` line names.
pub const SCHEMA: &str = "profile.schema.json";

/// A start for a profile, by what runs the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// Podman: everything from the archive.
    Podman,
    /// A k3s server.
    K3s,
    /// An RKE2 server.
    Rke2,
    /// A KubeEdge node.
    Kubeedge,
}

impl Template {
    /// Every template, the default first.
    pub const ALL: [Template; 4] = [Template::Podman, Template::K3s, Template::Rke2, Template::Kubeedge];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Template::Podman => "podman",
            Template::K3s => "k3s",
            Template::Rke2 => "rke2",
            Template::Kubeedge => "kubeedge",
        }
    }
}

impl FromStr for Template {
    type Err = UnknownTemplate;
    fn from_str(s: &str) -> Result<Template, UnknownTemplate> {
        Template::ALL.into_iter().find(|t| t.as_str() == s).ok_or_else(|| UnknownTemplate(s.into()))
    }
}

/// A word that names no template.
#[derive(Debug, thiserror::Error)]
#[error("unknown template `{0}`, expected `podman`, `k3s`, `rke2` or `kubeedge`")]
pub struct UnknownTemplate(pub String);

/// What `forge init` writes into the new directory: relative paths and their content, sorted.
pub fn init_files(template: Template) -> Vec<(&'static str, String)> {
    let (profile, hello) = match template {
        Template::Podman => (files::PODMAN, files::HELLO),
        Template::K3s => (files::K3S, files::HELLO),
        Template::Rke2 => (files::RKE2, files::HELLO),
        Template::Kubeedge => (files::KUBEEDGE, &[][..]),
    };
    let texts = files::SHARED.iter().chain(hello).copied().chain([(PROFILE, profile)]);
    let mut written: Vec<_> = texts.map(|(path, text)| (path, text.to_string())).collect();
    written.push((SCHEMA, super::schema_text()));
    written.sort();
    written
}
