//! apt's configuration (sources.list(5)) → where a distribution's archive is, as this machine already reaches it.
//!
//! A profile says `debian:trixie`; the machine's own apt says from which mirror, and whether it also takes security and
//! update suites. Both formats are read, one-line and deb822. Nothing is run, and no mirror is known here by name.

use super::deb822;
use crate::error::{Kind, Mark as _};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A suite of an archive: what `deb URI SUITE COMPONENTS…` says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SuiteSource {
    /// The archive's base URI, without a slash at its end: `dists/` and `pool/` are under it.
    pub uri: String,
    /// The suite or code name.
    pub suite: String,
    /// Components, such as `main`.
    pub components: Vec<String>,
}

/// A distribution that forge builds from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
}

/// Suites and code names of Debian since its archive has had security suites named as now, and what they are called for
/// a time. A newer one is found by the archive's path.
const DEBIAN: [&str; 12] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "experimental",
];
/// Code names of Ubuntu's releases with long-term support, and of those since.
const UBUNTU: [&str; 12] = [
    "xenial", "bionic", "focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute", "devel",
    "trusty", "mantic",
];
/// What follows a suite's name in that of its sister suites.
const SISTERS: [&str; 4] = ["-security", "-updates", "-backports", "-proposed"];

impl Distribution {
    /// The word in `debian:SUITE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Distribution::Debian => "debian",
            Distribution::Ubuntu => "ubuntu",
        }
    }

    /// How surely a source is of this distribution, `None` when it is not: 1 by the suite's name alone, which other
    /// people's repositories bear too; 0, better, by the last part of its path. All have a component `main`.
    fn owns(self, source: &SuiteSource) -> Option<u8> {
        let base = SISTERS.iter().find_map(|s| source.suite.strip_suffix(s)).unwrap_or(&source.suite);
        let (own, other) = match self {
            Distribution::Debian => (&DEBIAN, &UBUNTU),
            Distribution::Ubuntu => (&UBUNTU, &DEBIAN),
        };
        let last = source.uri.rsplit('/').next().unwrap_or_default();
        let by_path = last == self.as_str() || last.strip_suffix("-security") == Some(self.as_str());
        if !source.components.iter().any(|c| c == "main") || other.contains(&base) {
            None
        } else if by_path {
            Some(0)
        } else {
            own.contains(&base).then_some(1)
        }
    }

    /// Whether the suite has sisters for security and updates; those that change every day do not.
    fn has_sisters(self, suite: &str) -> bool {
        !["sid", "unstable", "experimental", "devel"].contains(&suite) && !is_sister(suite)
    }
}

fn is_sister(suite: &str) -> bool {
    SISTERS.iter().any(|s| suite.ends_with(s))
}

/// The suites that make up `suite` of `distribution`, found among the machine's `configured` ones: the suite itself, and
/// its `-updates` and `-security` where the machine takes those of some suite.
///
/// # Errors
/// [`Kind::Input`] with a hint, where the machine's apt names no archive of the distribution.
pub fn derive(
    configured: &[SuiteSource],
    distribution: Distribution,
    suite: &str,
) -> anyhow::Result<Vec<SuiteSource>> {
    let mut ours: Vec<_> = configured.iter().filter(|s| distribution.owns(s).is_some()).collect();
    ours.sort_by_key(|s| distribution.owns(s)); // stable: apt's order among equals
    // The entry of that very suite, where there is one: its archive surely has it.
    let base = ours
        .iter()
        .find(|s| s.suite == suite)
        .or_else(|| ours.iter().find(|s| !is_sister(&s.suite)))
        .ok_or_else(|| anyhow::anyhow!("this machine's apt names no {} archive", distribution.as_str()))
        .kind(Kind::Input)
        .hint("name one: `mirror` in the profile's [os], or `[sources]` in the user's configuration")?;
    let at = |source: &SuiteSource, suite: String| SuiteSource {
        uri: source.uri.clone(),
        suite,
        components: base.components.clone(),
    };
    let mut sources = vec![at(base, suite.to_string())];
    if distribution.has_sisters(suite) {
        for sister in ["-updates", "-security"] {
            if let Some(source) = ours.iter().find(|s| s.suite.ends_with(sister)) {
                sources.push(at(source, format!("{suite}{sister}")));
            }
        }
    }
    Ok(sources)
}

/// What a mirror named by a person stands for: the suite itself and its updates. Ubuntu's security suites are in the same
/// archive; those of Debian are in one of their own, which has to be named too.
pub fn named(uri: &str, distribution: Distribution, suite: &str, components: &[&str]) -> Vec<SuiteSource> {
    let source = |suite: String| SuiteSource {
        uri: uri.trim_end_matches('/').into(),
        suite,
        components: components.iter().map(|c| (*c).into()).collect(),
    };
    let mut sources = vec![source(suite.into())];
    if distribution.has_sisters(suite) {
        sources.push(source(format!("{suite}-updates")));
        if distribution == Distribution::Ubuntu {
            sources.push(source(format!("{suite}-security")));
        }
    }
    sources
}

/// The enabled binary sources of the apt configuration in `etc_apt` (`/etc/apt`), in apt's order. Files that cannot be
/// read are as if they were not there: a machine without apt has none.
pub fn configured(etc_apt: &Path) -> Vec<SuiteSource> {
    let mut sources = vec![];
    let mut read = |path: &Path| {
        let Ok(text) = std::fs::read_to_string(path) else { return };
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(parse_list(&text)),
            Some("sources") => sources.extend(parse_sources(&text)),
            _ => {}
        }
    };
    read(&etc_apt.join("sources.list"));
    let parts = std::fs::read_dir(etc_apt.join("sources.list.d"));
    let mut parts: Vec<_> = parts.into_iter().flatten().flatten().map(|e| e.path()).collect();
    parts.sort();
    parts.iter().for_each(|p| read(p));
    sources
}

/// One-line format: `deb [option=value …] URI SUITE COMPONENT…`. What is no such line, and flat repositories (a suite that
/// ends in `/`), are left out.
pub fn parse_list(text: &str) -> Vec<SuiteSource> {
    let line = |line: &str| -> Option<SuiteSource> {
        let line = line.split('#').next()?.trim();
        let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            rest = options.split_once(']')?.1;
        }
        let mut words = rest.split_whitespace();
        source(words.next()?, words.next()?, words.map(String::from).collect())
    };
    text.lines().filter_map(line).collect()
}

/// deb822 format: `Types`, `URIs`, `Suites`, `Components`, `Enabled`.
pub fn parse_sources(text: &str) -> Vec<SuiteSource> {
    // A remark may stand between the lines of a field; taken out here it ends none.
    let text: String = text.split_inclusive('\n').filter(|l| !l.starts_with('#')).collect();
    let mut sources = vec![];
    for paragraph in deb822::paragraphs(&text) {
        let words = |name| paragraph.get(name).unwrap_or_default().split_whitespace();
        if !words("Types").any(|t| t == "deb") || words("Enabled").any(|e| ["no", "false"].contains(&e)) {
            continue;
        }
        for uri in words("URIs") {
            for suite in words("Suites") {
                sources.extend(source(uri, suite, words("Components").map(String::from).collect()));
            }
        }
    }
    sources
}

/// A source that can be used: by HTTP or from a directory, with components.
fn source(uri: &str, suite: &str, components: Vec<String>) -> Option<SuiteSource> {
    let known = ["http://", "https://", "file:/"].iter().any(|scheme| uri.starts_with(scheme));
    let usable = known && !components.is_empty() && !suite.ends_with('/');
    usable.then(|| SuiteSource { uri: uri.trim_end_matches('/').into(), suite: suite.into(), components })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(sources: &[SuiteSource]) -> Vec<String> {
        sources.iter().map(|s| format!("{} {} {}", s.uri, s.suite, s.components.join(" "))).collect()
    }

    #[test]
    fn both_formats_say_the_same() {
        let list = "# deb http://no.example/debian trixie main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ trixie main contrib # mine\n\
                    deb-src http://mirror.example/debian trixie main\n\
                    deb\thttp://mirror.example/debian trixie-updates main contrib\n\
                    deb http://flat.example/ ./\ndeb cdrom:[x]/ trixie main\n";
        let sources = "Types: deb deb-src\n# remark\nURIs: http://mirror.example/debian/\nSuites: trixie\n# inside\n  \
                       trixie-updates\nComponents: main contrib\n\nTypes: deb\nURIs: http://off.example/debian\n\
                       Suites: sid\nComponents: main\nEnabled: no\n";
        let want = [
            "http://mirror.example/debian trixie main contrib",
            "http://mirror.example/debian trixie-updates main contrib",
        ];
        assert_eq!(spelled(&parse_list(list)), want);
        assert_eq!(spelled(&parse_sources(sources)), want);
    }

    #[test]
    fn security_and_updates_follow_the_machine() {
        let machine = parse_list(
            "deb http://tools.example/apt bookworm main\n\
             deb http://engine.example/linux/debian bookworm stable\n\
             deb http://mirror.example/debian bookworm main\n\
             deb http://mirror.example/debian-security bookworm-security main\n\
             deb http://ubuntu.example/ubuntu noble main universe\n\
             deb http://ubuntu.example/ubuntu noble-updates main\n",
        );
        let debian = derive(&machine, Distribution::Debian, "trixie").unwrap();
        assert_eq!(
            spelled(&debian),
            [
                "http://mirror.example/debian trixie main",
                "http://mirror.example/debian-security trixie-security main"
            ]
        );
        let sid = derive(&machine, Distribution::Debian, "sid").unwrap();
        assert_eq!(spelled(&sid), ["http://mirror.example/debian sid main"]);
        let ubuntu = derive(&machine, Distribution::Ubuntu, "jammy").unwrap();
        assert_eq!(
            spelled(&ubuntu),
            [
                "http://ubuntu.example/ubuntu jammy main universe",
                "http://ubuntu.example/ubuntu jammy-updates main universe"
            ]
        );
        let error = derive(&machine[..4], Distribution::Ubuntu, "jammy").unwrap_err();
        assert_eq!(crate::error::kind(&error), Kind::Input);
        assert_eq!(crate::error::hints(&error).len(), 1);
    }
}
