//! What tests of several stages need.

#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a test program")]

use std::path::PathBuf;

/// A foreign program, found in PATH. Where it is missing, says so and gives `None`; with `FORGE_TEST_REQUIRE_TOOLS=1`
/// that is a failure.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let found = found.map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("FORGE_TEST_REQUIRE_TOOLS").is_none_or(|v| v != "1"), "no {name}");
        eprintln!("skipped: no {name}");
    }
    found
}
