//! Index and request → the set of packages that apt would install into an empty system, or a chain that says why not.
//!
//! The rules are apt's: the newest version by pin, the first alternative that can be had, real packages before virtual
//! ones, what was asked for before what it needs, and each dependency followed to its end before the next. Where that walk
//! ends in a conflict, apt gives up and this one goes back to the choice that led there. The same input gives the same
//! answer. Only sets are found here: dpkg knows in which order they are configured.

mod search;

use super::packages::{BadPackages, Index, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A package that somebody asks for: `name`, `name=version` or `name/suite`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// Its name.
    pub name: String,
    /// This version and no other.
    pub version: Option<String>,
    /// The version of this suite, where the archive's suites have several.
    pub suite: Option<String>,
}

impl FromStr for Demand {
    type Err = super::relation::BadRelation;

    fn from_str(text: &str) -> Result<Demand, Self::Err> {
        let bad = || super::relation::BadRelation(text.chars().take(120).collect());
        let (name, version, suite) = if let Some((name, version)) = text.split_once('=') {
            (name, Some(version), None)
        } else if let Some((name, suite)) = text.split_once('/') {
            (name, None, Some(suite))
        } else {
            (text, None, None)
        };
        let word =
            |s: &str| !s.is_empty() && !s.contains(|c: char| c.is_whitespace() || "/=|,()".contains(c));
        let good = word(name) && suite.is_none_or(word) && version.is_none_or(super::version::is_valid);
        let demand =
            Demand { name: name.into(), version: version.map(Into::into), suite: suite.map(Into::into) };
        if good { Ok(demand) } else { Err(bad()) }
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (&self.version, &self.suite) {
            (Some(version), _) => write!(f, "={version}"),
            (None, Some(suite)) => write!(f, "/{suite}"),
            (None, None) => Ok(()),
        }
    }
}

/// What a system has before anything is asked for, by the names of mmdebstrap's variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// Nothing: the answer is what the packages need.
    #[default]
    Nothing,
    /// Every `Essential: yes` package, and apt.
    Apt,
    /// Those, and every package of priority `required`, such as passwd and mount.
    Minbase,
}

/// What to install.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What is asked for by name.
    pub packages: Vec<Demand>,
    /// What it stands on.
    pub base: Base,
    /// What is recommended too, where it can be had.
    pub recommends: bool,
    /// Names that must not be installed.
    pub exclude: BTreeSet<String>,
}

impl Request {
    /// A minimal system and `packages`.
    ///
    /// # Errors
    /// When a word is no package name.
    pub fn minimal_with<'a>(
        packages: impl IntoIterator<Item = &'a str>,
    ) -> Result<Request, super::relation::BadRelation> {
        let packages = packages.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        Ok(Request { packages, base: Base::Minbase, ..Request::default() })
    }
}

/// A set of packages that belong together.
#[derive(Clone, Debug)]
pub struct Solution {
    /// By name.
    pub packages: Vec<Package>,
    /// For each name the way from what was asked for to it, in words.
    pub because: BTreeMap<String, Chain>,
}

/// From what was asked for, over what that needs, to a package: `nginx (you asked) → nginx-common (= 1.26)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain(pub Vec<String>);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" → "))
    }
}

/// Why there is no such set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A name that the archive does not have.
    #[error("no package `{name}` in the archive{}", mean(.similar))]
    Unknown {
        /// The name asked for.
        name: String,
        /// Names like it.
        similar: Vec<String>,
    },
    /// A version or suite that the archive does not have.
    #[error("no version of {demand} in the archive; it has {}", .known.join(", "))]
    NoVersion {
        /// What was asked for.
        demand: Demand,
        /// The versions that there are, each with its suite.
        known: Vec<String>,
    },
    /// A virtual package that several provide.
    #[error("`{name}` is a virtual package; ask for one that provides it: {}", .providers.join(", "))]
    Virtual {
        /// The name asked for.
        name: String,
        /// Who provides it.
        providers: Vec<String>,
    },
    /// A dependency that nothing in the archive answers.
    #[error("{chain} → nothing provides {wanted}{}{}", but_there_is(.nearest), mean(.similar))]
    Nothing {
        /// The way to the package that depends.
        chain: Chain,
        /// What it depends on.
        wanted: String,
        /// Packages of the name in other versions.
        nearest: Vec<String>,
        /// Names like it, where there is none of the name.
        similar: Vec<String>,
    },
    /// Two packages that are both needed and do not go together.
    #[error("{chain} cannot be installed with {other}: {reason}")]
    Conflict {
        /// The way to the one.
        chain: Chain,
        /// The way to the other.
        other: Chain,
        /// Which of them says so, and how.
        reason: String,
    },
    /// A package that is needed, and excluded by the request.
    #[error("{chain} → {wanted}, which is excluded")]
    Excluded {
        /// The way to the package that depends.
        chain: Chain,
        /// What it depends on.
        wanted: String,
    },
    /// No answer within the bounds of the search.
    #[error("found no set of packages without conflicts in {0} tries; ask for fewer alternatives")]
    TooHard(usize),
    /// A package's own data.
    #[error("reading the archive's package list")]
    Packages(#[from] BadPackages),
}

fn mean(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!("; did you mean {}?", similar.join(", ")) }
}

fn but_there_is(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; nearest: {}", nearest.join(", ")) }
}

/// Finds the packages that answer `request`.
///
/// # Errors
/// [`SolveError`] with the chain from what was asked for to what does not hold.
pub fn solve(index: &Index, request: &Request) -> Result<Solution, SolveError> {
    match search::run(index, request) {
        // What is only recommended never makes a request fail, so the reason is told better without.
        Err(e) if request.recommends => {
            let strict = Request { recommends: false, ..request.clone() };
            search::run(index, &strict).and(Err(e))
        }
        result => result,
    }
}

#[cfg(test)]
mod tests;
