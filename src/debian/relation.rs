//! Relations between packages (Debian policy §7, deb-control(5)): `Depends: a (>= 1) | b:any [amd64], c`.
//!
//! Says what a relation is and whether a name and version answer it; which package is chosen is the solver's business.

use super::version;
use crate::model::Arch;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// How a version must stand to the one in the relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`, and the obsolete `<`
    EarlierEqual,
    /// `=`
    Equal,
    /// `>=`, and the obsolete `>`
    LaterEqual,
    /// `>>`
    Later,
}

impl Operator {
    /// Whether `have` stands so to `wanted`.
    pub fn holds(self, have: &str, wanted: &str) -> bool {
        let order = version::compare(have, wanted);
        match self {
            Operator::Earlier => order == Ordering::Less,
            Operator::EarlierEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::LaterEqual => order != Ordering::Less,
            Operator::Later => order == Ordering::Greater,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Operator::Earlier => "<<",
            Operator::EarlierEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterEqual => ">=",
            Operator::Later => ">>",
        }
    }
}

/// One package that would do: `name[:qualifier] [(operator version)]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relation {
    /// The name, of a real or a virtual package.
    pub name: String,
    /// What follows `name:`, such as `any` or an architecture.
    pub qualifier: Option<String>,
    /// The version restriction.
    pub version: Option<(Operator, String)>,
}

impl Relation {
    /// Whether `version` answers the restriction; without a restriction every version does.
    pub fn admits(&self, version: &str) -> bool {
        self.version.as_ref().is_none_or(|(operator, wanted)| operator.holds(version, wanted))
    }

    /// Whether a virtual package answers: `provided` is the version in `Provides: name (= version)`. Without one it
    /// answers only a relation without a version (policy §7.5).
    pub fn admits_provided(&self, provided: Option<&str>) -> bool {
        match (&self.version, provided) {
            (None, _) => true,
            (Some((operator, wanted)), Some(have)) => operator.holds(have, wanted),
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(qualifier) = &self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        match &self.version {
            Some((operator, version)) => write!(f, " ({} {version})", operator.as_str()),
            None => Ok(()),
        }
    }
}

/// Alternatives in order of preference: `a (>= 1) | b`. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Clause(Vec<Relation>);

impl Clause {
    /// The alternatives, the preferred one first.
    pub fn alternatives(&self) -> &[Relation] {
        &self.0
    }
}

impl From<Relation> for Clause {
    fn from(relation: Relation) -> Clause {
        Clause(vec![relation])
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, relation) in self.0.iter().enumerate() {
            write!(f, "{}{relation}", if i == 0 { "" } else { " | " })?;
        }
        Ok(())
    }
}

impl From<Clause> for String {
    fn from(clause: Clause) -> String {
        clause.to_string()
    }
}

impl TryFrom<String> for Clause {
    type Error = BadRelation;
    fn try_from(text: String) -> Result<Clause, BadRelation> {
        text.parse()
    }
}

impl FromStr for Clause {
    type Err = BadRelation;
    fn from_str(text: &str) -> Result<Clause, BadRelation> {
        let alternatives = text.split('|').map(|t| alternative(t).map(|(relation, _)| relation));
        Ok(Clause(alternatives.collect::<Result<_, _>>()?))
    }
}

/// Text that is no relation; carries its first 120 characters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a package relation")]
pub struct BadRelation(pub String);

/// Parses a relation field. Alternatives restricted to other architectures (`[arm64]`) or to a build profile (`<stage1>`)
/// are left out, and so are clauses of which nothing remains.
///
/// # Errors
/// [`BadRelation`] names the part that cannot be read.
pub fn parse(field: &str, arch: Arch) -> Result<Vec<Clause>, BadRelation> {
    let mut clauses = vec![];
    for part in field.split(',').filter(|p| !p.trim().is_empty()) {
        let mut alternatives = vec![];
        for text in part.split('|') {
            let (relation, restrictions) = alternative(text)?;
            if applies(restrictions, arch) {
                alternatives.push(relation);
            }
        }
        if !alternatives.is_empty() {
            clauses.push(Clause(alternatives));
        }
    }
    Ok(clauses)
}

/// One alternative, and its text after the version: `[…]` and `<…>` groups.
fn alternative(text: &str) -> Result<(Relation, &str), BadRelation> {
    let bad = || BadRelation(text.trim().chars().take(120).collect());
    let text_ = text.trim();
    let end = text_.find(|c: char| c.is_whitespace() || "([<".contains(c)).unwrap_or(text_.len());
    let (name, rest) = text_.split_at(end);
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let word =
        |s: &str| s.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._".contains(&c)) && !s.is_empty();
    if !word(name) || !qualifier.is_none_or(word) {
        return Err(bad());
    }
    let rest = rest.trim_start();
    let (version, rest) = match rest.strip_prefix('(') {
        None => (None, rest),
        Some(inside) => {
            let (inside, rest) = inside.split_once(')').ok_or_else(bad)?;
            let inside = inside.trim();
            let digits = inside.find(|c| !"<>=".contains(c)).ok_or_else(bad)?;
            let operator = match &inside[..digits] {
                "<<" => Operator::Earlier,
                "<=" | "<" => Operator::EarlierEqual,
                "=" => Operator::Equal,
                ">=" | ">" => Operator::LaterEqual,
                ">>" => Operator::Later,
                _ => return Err(bad()),
            };
            let version = inside[digits..].trim();
            if version.is_empty() || version.contains(char::is_whitespace) {
                return Err(bad());
            }
            (Some((operator, version.to_string())), rest.trim_start())
        }
    };
    if !(rest.is_empty() || rest.starts_with(['[', '<'])) {
        return Err(bad());
    }
    Ok((Relation { name: name.into(), qualifier: qualifier.map(Into::into), version }, rest))
}

/// Whether `[…]` admits `arch` and `<…>` holds with no build profile active.
fn applies(mut restrictions: &str, arch: Arch) -> bool {
    let mut profiles: Option<bool> = None;
    loop {
        restrictions = restrictions.trim_start();
        if let Some((list, rest)) = restrictions.strip_prefix('[').and_then(|r| r.split_once(']')) {
            let means = |word: &str| {
                ["any", "linux-any", arch.oci()].contains(&word) || word == format!("any-{arch}")
            };
            let negated = list.split_whitespace().any(|w| w.starts_with('!'));
            let named = list.split_whitespace().any(|w| means(w.trim_start_matches('!')));
            if named == negated {
                return false;
            }
            restrictions = rest;
        } else if let Some((list, rest)) = restrictions.strip_prefix('<').and_then(|r| r.split_once('>')) {
            let holds = list.split_whitespace().all(|w| w.starts_with('!'));
            profiles = Some(profiles.unwrap_or(false) || holds); // groups are alternatives, words in one are joined
            restrictions = rest;
        } else {
            return profiles.unwrap_or(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_archives_write() {
        let field = "libc6 (>= 2.36), python3:any | python3 (>>3.9~), a:amd64(= 1:2-3) , x [!amd64] | y [linux-any], z <!nocheck>,
 gone [arm64], test <nocheck>";
        let clauses: Vec<String> = parse(field, Arch::Amd64).unwrap().iter().map(Clause::to_string).collect();
        assert_eq!(
            clauses,
            ["libc6 (>= 2.36)", "python3:any | python3 (>> 3.9~)", "a:amd64 (= 1:2-3)", "y", "z"]
        );
        for clause in clauses {
            assert_eq!(clause.parse::<Clause>().unwrap().to_string(), clause);
        }
    }

    #[test]
    fn refuses_nonsense_by_name() {
        for bad in [
            "a (1)",
            "a (>=)",
            "a (>= 1",
            "(>= 1)",
            "a b",
            "a:",
            "ä",
            "a | ",
            "a (=> 1)",
            "${shlibs:Depends}",
        ] {
            assert_eq!(parse(bad, Arch::Amd64).unwrap_err().to_string().matches('`').count(), 2, "{bad}");
        }
    }

    #[test]
    fn versions_and_provides() {
        let admits = |relation: &str, version: &str| {
            relation.parse::<Clause>().unwrap().alternatives()[0].admits(version)
        };
        assert!(admits("a (<< 2)", "1") && !admits("a (<< 2)", "2"));
        assert!(admits("a (<= 2)", "2") && !admits("a (<= 2)", "2.1"));
        assert!(admits("a (= 2)", "2-0") && !admits("a (= 2)", "2-1"));
        assert!(admits("a (>= 2)", "2") && !admits("a (>= 2)", "2~rc1"));
        assert!(admits("a (>> 2)", "2.1") && !admits("a (>> 2)", "2"));
        let relation = &"a (>= 2)".parse::<Clause>().unwrap().0[0];
        assert!(relation.admits_provided(Some("2")) && !relation.admits_provided(None));
    }
}
