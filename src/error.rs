//! What kind of failure a failure is, and what the person before it can do.
//!
//! Errors travel as [`anyhow::Error`]; a context is a lowercase gerund with its object ("reading profile x.toml").
//! A kind and a hint are attached where they are known and found again by the command line, which alone turns a kind
//! into an exit code and prints hints on lines of their own.

use std::{fmt, io};

/// The classes of failure that callers branch on, each with the exit code of the product contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A bug, or a machine in trouble: disk full, no permission.
    Unexpected,
    /// Wrong usage, or a profile or inventory that is wrong.
    Input,
    /// An input could not be fetched.
    Fetch,
    /// A digest, signature, attestation or policy did not hold.
    Verify,
    /// The lock is missing or out of date under `--locked`.
    Lock,
    /// Ctrl-C or a termination signal.
    Interrupted,
}

impl Kind {
    /// The process exit code: a promise to scripts, never renumbered.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Unexpected => 1,
            Kind::Input => 2,
            Kind::Fetch => 3,
            Kind::Verify => 4,
            Kind::Lock => 5,
            Kind::Interrupted => 130,
        }
    }
}

/// An error with its kind or a hint attached; reads exactly like the error it wraps.
struct Marked {
    kind: Option<Kind>,
    hint: Option<String>,
    inner: anyhow::Error,
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl fmt::Debug for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

impl std::error::Error for Marked {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.inner.as_ref())
    }
}

/// Attaches a kind or a hint to a failing result.
pub trait Mark<T> {
    /// Says of which kind a failure is; the innermost kind wins.
    ///
    /// # Errors
    /// Passes the failure on.
    fn kind(self, kind: Kind) -> anyhow::Result<T>;
    /// Says what a person can do, in one sentence that may name a command.
    ///
    /// # Errors
    /// Passes the failure on.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Mark<T> for Result<T, E> {
    fn kind(self, kind: Kind) -> anyhow::Result<T> {
        self.map_err(|e| anyhow::Error::new(Marked { kind: Some(kind), hint: None, inner: e.into() }))
    }
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|e| anyhow::Error::new(Marked { kind: None, hint: Some(hint.into()), inner: e.into() }))
    }
}

/// A new error of `kind`; use with `format!`-like text through [`anyhow::anyhow`].
pub fn of(kind: Kind, error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(Marked { kind: Some(kind), hint: None, inner: error })
}

/// The kind of `error`: the innermost mark, else [`Kind::Unexpected`].
pub fn kind(error: &anyhow::Error) -> Kind {
    marks(error).filter_map(|m| m.kind).last().unwrap_or(Kind::Unexpected)
}

/// Hints of `error`, outermost first.
pub fn hints(error: &anyhow::Error) -> Vec<&str> {
    let full = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    marks(error).filter_map(|m| m.hint.as_deref()).chain(full.then_some(FULL)).collect()
}

/// It can befall every file that is written, so it is said here and not at each.
const FULL: &str = "a file system is full: `forge doctor` says how much is free where the cache is, `forge cache prune` \
                    gives back what builds have not used of late, `--cache-dir` and `--out` go elsewhere";

/// The lines of the chain, outermost first, each said once.
pub fn chain(error: &anyhow::Error) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for cause in error.chain() {
        let line = cause.to_string();
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    lines
}

fn marks(error: &anyhow::Error) -> impl Iterator<Item = &Marked> {
    error.chain().filter_map(|cause| cause.downcast_ref::<Marked>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn kinds_and_hints_survive_contexts_and_say_nothing_twice() {
        let error = Err::<(), _>(anyhow::anyhow!("digest is X"))
            .kind(Kind::Verify)
            .context("reading blob b")
            .hint("run `forge cache prune`")
            .context("building layer os")
            .kind(Kind::Fetch)
            .unwrap_err();
        assert_eq!(kind(&error), Kind::Verify);
        assert_eq!(hints(&error), ["run `forge cache prune`"]);
        assert_eq!(chain(&error), ["building layer os", "reading blob b", "digest is X"]);
    }
}
