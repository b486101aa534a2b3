//! `Packages` files (Debian policy §5.3): what is told of one binary package, and the [`Index`] of all.

mod index;

pub use index::{Id, Index};

use super::relation::{BadRelation, Clause};
use crate::model::Digest;
use serde::{Deserialize, Serialize};

/// A binary package of an archive. Serialized it is what a lock needs to fetch it again, and its relations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, epoch included.
    pub version: String,
    /// `Architecture`: the wanted one or `all`.
    pub arch: String,
    /// Path under the archive's base URI: `pool/main/…`. Relative, without `..`.
    pub filename: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// SHA-256 of the .deb.
    pub sha256: Digest,
    /// Which of the sources given to the archive it comes from, counted from 0.
    pub origin: usize,
    /// `Installed-Size` in KiB, an estimate; 0 where the archive is silent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub installed_size: u64,
    /// `Source` without a version; the package's own name where there is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: String,
    /// `Section`, such as `admin`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub section: String,
    /// `Priority`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// `Essential: yes`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub essential: bool,
    /// `Protected: yes` or `Important: yes`: not needed, but not to be removed lightly.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protected: bool,
    /// `Multi-Arch`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub multi_arch: MultiArch,
    /// `Pre-Depends`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pre_depends: Vec<Clause>,
    /// `Depends`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub depends: Vec<Clause>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `Priority`, the most important first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "policy §2.5 says what each word means")]
pub enum Priority {
    Required,
    Important,
    Standard,
    #[default]
    Optional,
    Extra,
}

impl Priority {
    /// By its word; what has none is optional.
    fn of(value: &str) -> Priority {
        match value {
            "required" => Priority::Required,
            "important" => Priority::Important,
            "standard" => Priority::Standard,
            "extra" => Priority::Extra,
            _ => Priority::Optional,
        }
    }
}

/// `Multi-Arch` (deb-control(5)): whose dependencies a package of this architecture may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "deb-control(5) says what each word means")]
pub enum MultiArch {
    #[default]
    No,
    Same,
    Foreign,
    Allowed,
}

impl MultiArch {
    /// By its word.
    fn of(value: &str) -> MultiArch {
        match value {
            "same" => MultiArch::Same,
            "foreign" => MultiArch::Foreign,
            "allowed" => MultiArch::Allowed,
            _ => MultiArch::No,
        }
    }
}

/// The relations of one package that the solver looks at.
#[derive(Clone, Debug, Default)]
pub struct Relations {
    /// `Pre-Depends`, then `Depends`.
    pub depends: Vec<Clause>,
    /// `Recommends`.
    pub recommends: Vec<Clause>,
    /// `Conflicts` and `Breaks`: either forbids both in one system.
    pub conflicts: Vec<Clause>,
}

/// How much a release's packages are wanted against another's, as apt's default pins say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// `NotAutomatic: yes` (experimental, backports): only where it is asked for, or nobody else has the package.
    OnRequest,
    /// Everything else.
    Automatic,
}

/// A `Packages` file given to [`Index::add`].
#[derive(Clone, Debug)]
pub struct Listing {
    /// Which source it belongs to; [`Package::origin`].
    pub origin: usize,
    /// The suite and code name under which a request may name it (`name/suite`).
    pub suites: Vec<String>,
    /// The release's pin.
    pub pin: Pin,
}

/// Why a `Packages` file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadPackages {
    /// A field that must be there is missing or not of its form.
    #[error("package `{package}`: field {field} is missing or malformed")]
    Field {
        /// The package, or what stands in the place of its name.
        package: String,
        /// The field.
        field: &'static str,
    },
    /// A relation that cannot be read.
    #[error("package `{package}`, field {field}")]
    Relation {
        /// The package.
        package: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: BadRelation,
    },
    /// More text than the spans can count.
    #[error("packages files of more than 4 GiB")]
    TooLarge,
}
