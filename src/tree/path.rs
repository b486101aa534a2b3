//! Paths of a tree: relative, normalised, and unable to leave it.

use std::fmt;

/// The longest path that forge takes, in bytes: Linux's PATH_MAX less the terminator.
const MAX_PATH: usize = 4095;
/// The longest component that Linux file systems take, in bytes.
const MAX_NAME: usize = 255;

/// A path inside a tree: UTF-8, relative, without `.`, `..`, empty components or NUL. The root is the empty path.
/// Ordered bytewise.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

impl TreePath {
    /// The root.
    pub fn root() -> TreePath {
        TreePath::default()
    }

    /// Takes a path as tars and dpkg spell it: `./a/b/`, `/a/b` and `a//b` mean `a/b`.
    ///
    /// # Errors
    /// [`BadPath`] when a component is `..` or too long, or the path is too long or has a NUL.
    pub fn parse(s: &str) -> Result<TreePath, BadPath> {
        let bad = |why| Err(BadPath { path: s.chars().take(200).collect(), why });
        let mut out = String::with_capacity(s.len());
        for component in s.split('/') {
            match component {
                "" | "." => continue,
                ".." => return bad("it has a `..`"),
                c if c.contains('\0') => return bad("it has a NUL"),
                c if c.len() > MAX_NAME => return bad("a component is longer than 255 bytes"),
                c => {
                    if !out.is_empty() {
                        out.push('/');
                    }
                    out.push_str(c);
                }
            }
        }
        if out.len() > MAX_PATH { bad("it is longer than 4095 bytes") } else { Ok(TreePath(out)) }
    }

    /// Takes raw bytes, which must be UTF-8.
    ///
    /// # Errors
    /// As [`TreePath::parse`], and when the bytes are not UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Result<TreePath, BadPath> {
        match std::str::from_utf8(bytes) {
            Ok(s) => TreePath::parse(s),
            Err(_) => Err(BadPath {
                path: String::from_utf8_lossy(bytes).chars().take(200).collect(),
                why: "it is not UTF-8",
            }),
        }
    }

    /// This path and one more, possibly compound, below it.
    ///
    /// # Errors
    /// As [`TreePath::parse`].
    pub fn join(&self, below: &str) -> Result<TreePath, BadPath> {
        if self.0.is_empty() {
            TreePath::parse(below)
        } else {
            TreePath::parse(&format!("{}/{below}", self.0))
        }
    }

    /// The directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<TreePath> {
        if self.0.is_empty() {
            return None;
        }
        Some(TreePath(self.0.rsplit_once('/').map_or("", |(dir, _)| dir).to_string()))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// All directories above this path, the root first.
    pub fn ancestors(&self) -> impl Iterator<Item = TreePath> + '_ {
        let root = if self.0.is_empty() { None } else { Some(TreePath::root()) };
        root.into_iter().chain(self.0.match_indices('/').map(|(i, _)| TreePath(self.0[..i].to_string())))
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|c| !c.is_empty())
    }

    /// Whether this path lies below `dir` and is not `dir` itself.
    pub fn is_below(&self, dir: &TreePath) -> bool {
        if dir.0.is_empty() {
            !self.0.is_empty()
        } else {
            self.0.len() > dir.0.len() && self.0.starts_with(&dir.0) && self.0.as_bytes()[dir.0.len()] == b'/'
        }
    }

    /// The path without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

/// A path that no tree takes.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("path `{path}` is refused: {why}")]
pub struct BadPath {
    /// The path as it came, cut at 200 characters.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_fold_and_escapes_are_refused() {
        for s in ["./a/b/", "/a/b", "a//b", "a/./b"] {
            assert_eq!(TreePath::parse(s).unwrap().as_str(), "a/b");
        }
        for s in ["..", "a/../b", "a/b/..", "a\0b"] {
            assert!(TreePath::parse(s).is_err(), "{s:?}");
        }
        assert!(TreePath::parse(&"n".repeat(256)).is_err());
        assert!(TreePath::from_bytes(b"\xff").is_err());
    }

    #[test]
    fn ancestry() {
        let p = TreePath::parse("a/b/c").unwrap();
        assert_eq!(p.ancestors().map(|a| a.as_str().to_string()).collect::<Vec<_>>(), ["", "a", "a/b"]);
        assert_eq!(p.parent().unwrap().as_str(), "a/b");
        assert_eq!(p.name(), "c");
        assert!(p.is_below(&TreePath::root()) && p.is_below(&TreePath::parse("a").unwrap()));
        assert!(!TreePath::parse("ab").unwrap().is_below(&TreePath::parse("a").unwrap()));
    }
}
