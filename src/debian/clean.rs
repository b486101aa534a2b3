//! What a configured tree must not keep: traces of this machine, of this moment, and of the making itself.
//!
//! Runs with the tree as root directory. As mmdebstrap does, and further where bytes would differ from run to run.

use super::bootstrap::Variant;
use anyhow::Context as _;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

/// Where `invoke-rc.d` asks whether it may start a service; there only while the tree is made.
pub const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Keys that openssh-server's script makes; each device makes its own.
pub const HOST_KEYS: [&str; 3] =
    ["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key"];

/// Files that go, each for what it holds.
const FILES: [&str; 10] = [
    POLICY,
    "/var/cache/ldconfig/aux-cache", // inode numbers and times
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
    "/etc/hostname",
    "/etc/adjtime",
    "/etc/ssl/private/ssl-cert-snakeoil.key",
];
/// Directories whose content goes, but for the empty directories that packages have there.
const CONTENTS: [&str; 4] =
    ["/var/lib/apt/lists", "/var/cache/apt/archives", "/var/cache/debconf/tmp.ci", "/var/tmp"];
/// Directories in which files of these endings go: the state of before the last change.
const OLD: [(&str, &str); 2] = [("/var/lib/dpkg", "-old"), ("/var/cache/debconf", "-old")];
/// What a container has no reader for; licences (`copyright`) stay.
const UNREAD: [&str; 6] = [
    "/usr/share/man",
    "/usr/share/info",
    "/usr/share/locale",
    "/usr/share/lintian",
    "/usr/share/doc-base",
    "/var/cache/apt",
];

/// Cleans the tree that is this process's root.
///
/// # Errors
/// What the file system says.
pub fn clean(variant: Variant) -> anyhow::Result<()> {
    for path in FILES.iter().chain(&HOST_KEYS) {
        remove(Path::new(path))?;
        if path.starts_with("/etc/ssh/") {
            remove(Path::new(&format!("{path}.pub")))?;
        }
    }
    for dir in CONTENTS {
        remove_files(Path::new(dir), |_| true)?;
    }
    for (dir, ending) in OLD {
        for path in entries(Path::new(dir))? {
            if path.to_string_lossy().ends_with(ending) {
                remove(&path)?;
            }
        }
    }
    // Of initramfs-tools' making, with inode numbers and times in it; forge composes the initrd that boots.
    for path in entries(Path::new("/boot"))? {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"initrd.img-")) {
            remove(&path)?;
        }
    }
    // Empty logs stay: their owners and modes were set with care.
    remove_files(Path::new("/var/log"), |meta| meta.is_file() && meta.len() > 0)?;
    // A regular file is of this machine; a link is systemd-resolved's.
    if Path::new("/etc/resolv.conf").symlink_metadata().is_ok_and(|m| m.is_file()) {
        remove(Path::new("/etc/resolv.conf"))?;
    }
    if Path::new("/etc/machine-id").exists() {
        let text: &[u8] = if variant == Variant::Os { b"uninitialized\n" } else { b"" };
        crate::host::fs::overwrite(Path::new("/etc/machine-id"), text, 0o444)?;
    }
    if variant == Variant::Container {
        for path in UNREAD {
            for below in entries(Path::new(path))? {
                remove(&below)?;
            }
        }
        for package in entries(Path::new("/usr/share/doc"))? {
            for below in entries(&package)? {
                if below.file_name().is_none_or(|name| name != "copyright") {
                    remove(&below)?;
                }
            }
        }
    }
    Ok(())
}

/// Takes away what is no directory and is wanted away, at any depth.
fn remove_files(dir: &Path, away: fn(&Metadata) -> bool) -> anyhow::Result<()> {
    for path in entries(dir)? {
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            remove_files(&path, away)?;
        } else if away(&meta) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// What is in a directory; nothing where there is none, or a link to one.
fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return Ok(vec![]);
    }
    let read = || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    read().with_context(|| format!("reading {}", dir.display()))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => Err(e),
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    removed.with_context(|| format!("removing {}", path.display()))
}
