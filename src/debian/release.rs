//! A suite's signed `Release` text → dates, names and the digests of its indices (the Debian repository format).
//!
//! Parsing is pure; [`Release::check`] holds the result against what was asked for and against the clock.

use super::deb822::Paragraph;
use super::packages::Pin;
use crate::model::{Arch, Digest, Epoch};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// How far `Date` may lie ahead of this machine's clock, in seconds: mirrors and machines drift.
const CLOCK_SKEW: i64 = 24 * 3600;

/// What a Release file says.
#[derive(Clone, Debug)]
pub struct Release {
    /// `Origin`, such as `Debian`.
    pub origin: String,
    /// `Suite`, such as `stable`.
    pub suite: String,
    /// `Codename`, such as `trixie`.
    pub codename: String,
    /// `Date`: when it was made.
    pub date: Epoch,
    /// `Valid-Until`: when it must no longer be believed.
    pub valid_until: Option<Epoch>,
    /// `Architectures`.
    pub architectures: Vec<String>,
    /// `Components`.
    pub components: Vec<String>,
    /// `Acquire-By-Hash: yes`: indices can be had under their digest, whole even while the mirror is being updated.
    pub by_hash: bool,
    /// Whether packages for `all` are in the lists of each architecture, or in one of their own.
    pub all_is_separate: bool,
    /// `NotAutomatic`.
    pub pin: Pin,
    /// `SHA256`: path under the suite's directory → digest and size in bytes.
    pub indices: BTreeMap<String, (Digest, u64)>,
}

/// Why a Release file was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadRelease {
    /// A field that must be there is missing or not of its form.
    #[error("field {0} is missing or malformed")]
    Field(&'static str),
    /// A line under `SHA256` that is not digest, size and path.
    #[error("`{0}` is not a line of checksums")]
    Checksum(String),
    /// It is another suite's.
    #[error("it is of `{suite}` ({codename}), not of `{wanted}`")]
    OtherSuite {
        /// What was asked for.
        wanted: String,
        /// Its suite.
        suite: String,
        /// Its code name.
        codename: String,
    },
    /// `Valid-Until` has passed.
    #[error("it was to be believed until {}, and now is {}", .until.rfc3339(), .now.rfc3339())]
    Expired {
        /// Its end.
        until: Epoch,
        /// The clock.
        now: Epoch,
    },
    /// It was made in the future.
    #[error("it was made at {}, and now is {}", .date.rfc3339(), .now.rfc3339())]
    NotYet {
        /// Its date.
        date: Epoch,
        /// The clock.
        now: Epoch,
    },
    /// It has nothing for the architecture.
    #[error("it has no packages for {0}")]
    NoArch(Arch),
    /// It does not have the component.
    #[error("it has no component `{component}`, only {}", .known.join(", "))]
    NoComponent {
        /// What was asked for.
        component: String,
        /// What there is.
        known: Vec<String>,
    },
    /// It lists no digest of an index that must be there.
    #[error("it lists no SHA-256 of `{0}`")]
    NoIndex(String),
}

impl Release {
    /// Reads the text of a Release file, which must have been [verified](super::openpgp::Keyring::verify_cleartext).
    ///
    /// # Errors
    /// [`BadRelease::Field`], [`BadRelease::Checksum`].
    pub fn parse(text: &str) -> Result<Release, BadRelease> {
        let paragraph = Paragraph::new(text);
        let get = |name| paragraph.get(name).unwrap_or_default();
        let words = |name| get(name).split_whitespace().map(String::from).collect::<Vec<_>>();
        let mut indices = BTreeMap::new();
        for line in get("SHA256").lines().filter(|l| !l.trim().is_empty()) {
            let mut parts = line.split_whitespace();
            let entry = (|| {
                let digest = Digest::from_hex(parts.next()?).ok()?;
                let size = parts.next()?.parse().ok()?;
                let path = parts.next()?.to_string();
                parts.next().is_none().then_some((path, (digest, size)))
            })();
            let (path, value) =
                entry.ok_or_else(|| BadRelease::Checksum(line.trim().chars().take(120).collect()))?;
            indices.insert(path, value);
        }
        if indices.is_empty() {
            return Err(BadRelease::Field("SHA256"));
        }
        let no_all = get("No-Support-for-Architecture-all").split_whitespace().any(|w| w == "Packages");
        let architectures = words("Architectures");
        Ok(Release {
            origin: get("Origin").into(),
            suite: get("Suite").into(),
            codename: get("Codename").into(),
            date: date(get("Date")).ok_or(BadRelease::Field("Date"))?,
            valid_until: match paragraph.get("Valid-Until") {
                Some(text) => Some(date(text).ok_or(BadRelease::Field("Valid-Until"))?),
                None => None,
            },
            all_is_separate: !no_all && architectures.iter().any(|a| a == "all"),
            architectures,
            components: words("Components"),
            by_hash: get("Acquire-By-Hash") == "yes",
            pin: if get("NotAutomatic") == "yes" { Pin::OnRequest } else { Pin::Automatic },
            indices,
        })
    }

    /// Holds it against the suite asked for, and its times against `now`.
    ///
    /// # Errors
    /// [`BadRelease::OtherSuite`], [`BadRelease::Expired`], [`BadRelease::NotYet`].
    pub fn check(&self, wanted: &str, now: Epoch) -> Result<(), BadRelease> {
        // A mirror, or who sits before it, may give another suite's Release, which is as well signed.
        if self.suite != wanted && self.codename != wanted {
            return Err(BadRelease::OtherSuite {
                wanted: wanted.into(),
                suite: self.suite.clone(),
                codename: self.codename.clone(),
            });
        }
        if let Some(until) = self.valid_until.filter(|until| *until < now) {
            return Err(BadRelease::Expired { until, now });
        }
        if self.date.0 > now.0.saturating_add(CLOCK_SKEW) {
            return Err(BadRelease::NotYet { date: self.date, now });
        }
        Ok(())
    }

    /// The paths of the `Packages` lists of a component, without their compression suffix.
    ///
    /// # Errors
    /// [`BadRelease::NoArch`], [`BadRelease::NoComponent`].
    pub fn lists(&self, component: &str, arch: Arch) -> Result<Vec<String>, BadRelease> {
        if !self.architectures.iter().any(|a| a == arch.oci()) {
            return Err(BadRelease::NoArch(arch));
        }
        // Security suites call theirs `updates/main`, and lay it out as `main`.
        let known = |c: &String| c == component || c.rsplit('/').next() == Some(component);
        if !self.components.iter().any(known) {
            return Err(BadRelease::NoComponent {
                component: component.into(),
                known: self.components.clone(),
            });
        }
        let all = self.all_is_separate.then_some("all");
        Ok(std::iter::once(arch.oci())
            .chain(all)
            .map(|arch| format!("{component}/binary-{arch}/Packages"))
            .collect())
    }

    /// Digest and size of an index.
    ///
    /// # Errors
    /// [`BadRelease::NoIndex`].
    pub fn index(&self, path: &str) -> Result<(Digest, u64), BadRelease> {
        self.indices.get(path).copied().ok_or_else(|| BadRelease::NoIndex(path.into()))
    }
}

/// `Sat, 12 Sep 2026 07:55:41 UTC`: RFC 5322 with the zone as a word, always UTC (`GMT`, `Z` and `+0000` were seen).
fn date(text: &str) -> Option<Epoch> {
    let (stamp, zone) = text.trim().rsplit_once(' ')?;
    if !["UTC", "GMT", "Z", "+0000"].contains(&zone) {
        return None;
    }
    let stamp = stamp.split_once(", ").map_or(stamp, |(_, rest)| rest);
    let civil = DateTime::strptime("%d %b %Y %H:%M:%S", stamp.trim()).ok()?;
    Some(Epoch(TimeZone::UTC.to_timestamp(civil).ok()?.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        format!(
            "Origin: Example\nSuite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n\
             Valid-Until: Sat, 19 Sep 2026  7:55:41 UTC\nArchitectures: all amd64\nComponents: main contrib\n\
             Acquire-By-Hash: yes\nSHA256:\n {0} 12 main/binary-amd64/Packages.xz\n {0} 0 x\n",
            Digest::of("").hex()
        )
    }

    #[test]
    fn reads_what_archives_write() {
        let release = Release::parse(&text()).unwrap();
        assert_eq!(release.date.rfc3339(), "2026-09-12T07:55:41Z");
        assert_eq!(release.index("main/binary-amd64/Packages.xz").unwrap().1, 12);
        assert_eq!(
            release.lists("main", Arch::Amd64).unwrap(),
            ["main/binary-amd64/Packages", "main/binary-all/Packages"]
        );
        assert_eq!(release.lists("main", Arch::Arm64).unwrap_err(), BadRelease::NoArch(Arch::Arm64));
        assert!(matches!(release.lists("nix", Arch::Amd64), Err(BadRelease::NoComponent { .. })));
        assert_eq!(release.index("y").unwrap_err(), BadRelease::NoIndex("y".into()));
    }

    #[test]
    fn another_suites_release_is_refused() {
        let release = Release::parse(&text()).unwrap();
        release.check("stable", release.date).unwrap();
        release.check("trixie", release.date).unwrap();
        assert!(matches!(release.check("sid", release.date), Err(BadRelease::OtherSuite { .. })));
    }

    #[test]
    fn a_stale_or_future_release_is_refused() {
        let release = Release::parse(&text()).unwrap();
        let at = |days: i64| release.check("trixie", Epoch(release.date.0 + days * 24 * 3600));
        at(6).unwrap();
        assert!(matches!(at(8), Err(BadRelease::Expired { .. })));
        assert!(matches!(at(-2), Err(BadRelease::NotYet { .. })));
    }

    #[test]
    fn malformed_releases_are_refused_by_field() {
        for (from, to, field) in [
            ("Date: Sat", "Date: Sat, 45", "Date"),
            ("07:55:41 UTC", "07:55:41 CEST", "Date"),
            ("Valid-Until: Sat, 19", "Valid-Until: whenever 19", "Valid-Until"),
            ("SHA256:", "MD5Sum:", "SHA256"),
        ] {
            let result = Release::parse(&text().replacen(from, to, 1));
            assert_eq!(result.unwrap_err(), BadRelease::Field(field), "{from} {to}");
        }
        for line in [" 12 main/x", " zz 12 x", " 1 2 3 4"] {
            assert!(matches!(
                Release::parse(&(text() + line + "\n")),
                Err(BadRelease::Checksum(l)) if l == line.trim()
            ));
        }
    }
}
