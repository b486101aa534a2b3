//! The kernel's command line, which the UKI's signature covers: root hashes and what must hold on every device.
//!
//! kernel-command-line(7), veritysetup-generator(8).

use super::sealed;
use super::verity::RootHash;
use crate::model::Digest;

/// The longest line that x86 takes, its terminating NUL not counted (COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h).
const MAX_LENGTH: usize = 2047;

/// Words that every device is started with.
const ALWAYS: &[&str] = &[
    // A block that is not what was signed ends the boot at once; the try is counted already, so the other slot follows.
    "systemd.verity_root_options=restart-on-corruption",
    "rootfstype=erofs",
    "ro",
    // A device has nobody who reads an oops and turns it off and on.
    "panic=10",
    // Caches below /etc and /var were made when the image was built; no boot makes them anew.
    "systemd.condition_needs_update=0",
];

/// Keys that decide what is trusted or how the boot fails over: a profile may not say them.
const RESERVED: &[&str] = &[
    "roothash",
    "usrhash",
    "root",
    "rootfstype",
    "rootflags",
    "usr",
    "init",
    "rdinit",
    "initrd",
    "forge.payloadhash",
    "forge.image",
    "forge.install",
    "forge.source",
    "forge.state",
    "luks",
    "rd.luks",
    "luks.crypttab",
    "rd.luks.crypttab",
    "systemd.verity",
    "rd.systemd.verity",
    "systemd.verity_root_options",
    "systemd.verity_root_data",
    "systemd.verity_root_hash",
    "systemd.verity_usr_options",
    "fstab",
    "rd.fstab",
    "systemd.mask",
    "rd.systemd.mask",
    "systemd.unit",
    "rd.systemd.unit",
    "rd.systemd.debug_shell",
    "systemd.debug_shell",
    "systemd.debug-shell",
    "rd.systemd.debug-shell",
];

/// What a command line is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLineSpec {
    /// The root's hash.
    pub root: RootHash,
    /// The payload's hash, where there is a payload. Nothing reads it at boot (the initrd's veritytab does the work): it
    /// stands here so that whoever has the UKI can tell which payload belongs to it.
    pub payload: Option<RootHash>,
    /// `NAME_VERSION`: what runs, for whoever reads /proc/cmdline on the device.
    pub image: String,
    /// Whether its state is encrypted ([`sealed`]): whoever starts it must know what it takes.
    pub sealed: bool,
    /// Words of the profile (`console=ttyS0`), in its order.
    pub extra: Vec<String>,
}

/// A word that a profile may not put on the command line, or too many of them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandLineError {
    /// The word would change what is trusted.
    #[error("kernel argument `{0}` is forge's own to set")]
    Reserved(String),
    /// The word is none.
    #[error(
        "kernel argument `{0}` is empty, or has white space, quotes or a character that is not printable ASCII"
    )]
    NotAWord(String),
    /// The kernel would cut the line.
    #[error("the kernel command line has {0} bytes, more than the 2047 that the kernel takes")]
    TooLong(usize),
}

/// Checks one word of a profile.
///
/// # Errors
/// [`CommandLineError::Reserved`], [`CommandLineError::NotAWord`].
pub fn check_argument(word: &str) -> Result<(), CommandLineError> {
    if word.is_empty() || !word.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\'') {
        return Err(CommandLineError::NotAWord(word.into()));
    }
    let key = word.split('=').next().unwrap_or_default();
    // The kernel takes `-` and `_` for the same in a key.
    if RESERVED.iter().any(|r| r.replace('-', "_") == key.replace('-', "_")) {
        return Err(CommandLineError::Reserved(word.into()));
    }
    Ok(())
}

/// The line, without a final newline.
///
/// # Errors
/// [`CommandLineError`].
pub fn compose(spec: &CommandLineSpec) -> Result<String, CommandLineError> {
    let mut words = vec![format!("roothash={}", spec.root)];
    words.extend(spec.payload.iter().map(|hash| format!("forge.payloadhash={hash}")));
    words.push(format!("forge.image={}", spec.image));
    words.extend(spec.sealed.then(|| sealed::ARGUMENT.to_string()));
    words.extend(ALWAYS.iter().map(|w| w.to_string()));
    joined(words, &spec.extra)
}

/// The line of an installer of `image` (`NAME_VERSION`), whose disk image has the digest `installs`: it mounts no root.
///
/// # Errors
/// [`CommandLineError`].
pub fn compose_installer(
    image: &str,
    installs: (&str, &Digest),
    extra: &[String],
) -> Result<String, CommandLineError> {
    let (key, digest) = installs;
    let words =
        [format!("forge.image={image}"), format!("{key}={digest}"), "panic=10".into(), "quiet".into()];
    joined(words.into(), extra)
}

fn joined(mut words: Vec<String>, extra: &[String]) -> Result<String, CommandLineError> {
    for word in extra {
        check_argument(word)?;
        words.push(word.clone());
    }
    let line = words.join(" ");
    if line.len() > MAX_LENGTH { Err(CommandLineError::TooLong(line.len())) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(extra: &[&str]) -> CommandLineSpec {
        CommandLineSpec {
            root: "ab".repeat(32).parse().unwrap(),
            payload: None,
            image: "store_1".into(),
            sealed: false,
            extra: extra.iter().map(|s| s.to_string()).collect(),
        }
    }

    #[test]
    fn hashes_come_first() {
        let with =
            CommandLineSpec { payload: Some("cd".repeat(32).parse().unwrap()), ..spec(&["console=ttyS0"]) };
        let line = compose(&with).unwrap();
        assert!(line.starts_with(&format!(
            "roothash={} forge.payloadhash={} forge.image=store_1 ",
            "ab".repeat(32),
            "cd".repeat(32)
        )));
        assert!(line.contains(" panic=10 ") && line.ends_with(" console=ttyS0"), "{line}");
    }

    #[test]
    fn a_profile_cannot_change_what_is_trusted() {
        for word in [
            "roothash=0",
            "init=/bin/sh",
            "systemd.debug_shell",
            "systemd.debug-shell=1",
            "forge.state=tpm2",
            "rd.luks=0",
            "rd.systemd.unit=rescue.target",
        ] {
            assert_eq!(compose(&spec(&[word])), Err(CommandLineError::Reserved(word.into())));
        }
        for word in ["", "a b", "a\nb", "quiet\0", "\"x"] {
            assert_eq!(compose(&spec(&[word])), Err(CommandLineError::NotAWord(word.into())));
        }
        assert!(matches!(compose(&spec(&["x".repeat(2000).as_str()])), Err(CommandLineError::TooLong(_))));
    }
}
