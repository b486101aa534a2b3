//! What stands in for programs and files of the tree while its packages are configured, and is in no result.
//!
//! Runs with the tree as root directory. Stand-ins lie in `/run`, which is a file system of the sandbox's own, or are
//! mounted over what they stand for; [`super::clean`] takes away what had to be put into the tree.

use super::database::conffiles;
use super::deb::Control;
use crate::host::sandbox;
use anyhow::Context as _;
use std::path::Path;

/// Where programs are looked for first.
pub const PROGRAMS: &str = "/run/forge";
/// What comes of depmod beforehand, by the kernel's version.
const DEPMOD: &str = "/run/forge/modules";

/// depmod(8), for scripts: the files that it would write are taken from the run that was started ahead, once; the second
/// call for a kernel, and any other, is depmod's own.
const DEPMOD_SCRIPT: &str = "#!/bin/sh
ahead=/run/forge/modules/$1
if [ $# -eq 1 ] && [ -p \"$ahead\" ] && read -r status <\"$ahead\"; then
    rm \"$ahead\"
    [ \"$status\" -ne 0 ] || exec cp \"$ahead.out/lib/modules/$1/\"* \"/lib/modules/$1/\"
fi
exec /usr/sbin/depmod \"$@\"
";
/// Says to the script above how depmod ended, as soon as it asks.
const DEPMOD_AHEAD: &str = "depmod -o \"$1.out\" \"$2\"; echo $? >\"$1\"";

/// No package starts a service here: neither through init scripts (invoke-rc.d(8)) nor directly.
pub fn services() -> anyhow::Result<()> {
    put(super::clean::POLICY, "#!/bin/sh\nexit 101\n", 0o755)?;
    for program in ["/usr/sbin/start-stop-daemon", "/sbin/start-stop-daemon"] {
        if Path::new(program).exists() && Path::new("/usr/bin/true").exists() {
            rustix::mount::mount_bind("/usr/bin/true", program)?;
            break;
        }
    }
    Ok(())
}

/// No package makes an initrd, because forge composes its own. Generators that have a kernel hook leave it at `INITRD=No`;
/// tiny-initramfs's trigger does not ask.
pub fn initrd_generators() -> anyhow::Result<()> {
    std::fs::create_dir_all(PROGRAMS)?;
    put(&format!("{PROGRAMS}/mktirfs"), "#!/bin/sh\nexit 0\n", 0o755)
}

/// Stands in for keys that a script would make, because they are slow, random, and taken away in the end.
pub fn host_keys() -> anyhow::Result<()> {
    if Path::new("/etc/ssh").is_dir() {
        for path in super::clean::HOST_KEYS {
            put(path, "", 0o600)?;
        }
    }
    Ok(())
}

/// Starts depmod(8) for each kernel whose package will call it, beside the configuring of all packages: it reads
/// thousands of compressed modules and depends on nothing that configuring changes. It writes outside of the tree; what
/// comes of it goes there when a package's script asks for it.
///
/// # Errors
/// When it cannot be started.
pub fn depmod<'a>(
    controls: impl Iterator<Item = &'a Control>,
    env: &[(String, String)],
) -> anyhow::Result<()> {
    let (mut called, mut configured) = (false, false);
    for control in controls {
        let script = control.files.get("postinst").map(|(bytes, _)| bytes.as_slice()).unwrap_or_default();
        called |= memchr::memmem::find(script, b"depmod").is_some();
        configured |= conffiles(control)?.iter().any(|path| path.as_str().starts_with("etc/depmod.d/"));
    }
    let modules = Path::new("/usr/lib/modules");
    // A conffile is put in its place only when its package is configured.
    if !called || configured || !modules.is_dir() || !Path::new("/usr/sbin/depmod").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(DEPMOD)?;
    put(&format!("{PROGRAMS}/depmod"), DEPMOD_SCRIPT, 0o755)?;
    for kernel in std::fs::read_dir(modules)? {
        let name = kernel?.file_name();
        let Some(version) = name.to_str() else { continue };
        let ahead = format!("{DEPMOD}/{version}");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &ahead, rustix::fs::FileType::Fifo, mode, 0)?;
        sandbox::background("/bin/sh", &["-c", DEPMOD_AHEAD, "sh", &ahead, version], env)?;
    }
    Ok(())
}

fn put(path: &str, text: &str, mode: u32) -> anyhow::Result<()> {
    crate::host::fs::overwrite(Path::new(path), text.as_bytes(), mode)
        .with_context(|| format!("writing {path}"))
}
