//! What tests of several stages need.

#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a test program")]

use std::path::{Path, PathBuf};

/// The package set *boot* of the benchmarks.
pub const BOOT: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-boot",
    "systemd-resolved",
    "systemd-timesyncd",
    "systemd-repart",
    "udev",
    "dbus",
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "ca-certificates",
    "iproute2",
    "nftables",
    "openssh-server",
    "curl",
    "jq",
    "cryptsetup-bin",
    "e2fsprogs",
    "erofs-utils",
    "kmod",
    "dosfstools",
];

/// A foreign program, found in PATH or below `FORGE_ORACLES` (what hack/oracles made). Where it is missing, says so and gives `None`; with `FORGE_TEST_REQUIRE_TOOLS=1`
/// that is a failure.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let made = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin"), made.join("bin")];
    let found = std::env::split_paths(&path).chain(more);
    let found = found.map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("FORGE_TEST_REQUIRE_TOOLS").is_none_or(|v| v != "1"), "no {name}");
        eprintln!("skipped: no {name}");
    }
    found
}

/// Whether this is root. Where it is not, says so: what needs root is skipped even where tools are required.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    root
}
