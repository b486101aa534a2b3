//! Programs of another architecture run here: the kernel is told, for one sandbox alone, to start them through an emulator
//! (binfmt_misc). The machine's own table is neither needed nor changed.
//!
//! Since Linux 6.7 each user namespace can have a table of its own. Where the kernel has no such thing, the machine's table
//! will do if somebody registered an emulator in it that is opened ahead (flag `F`).

use super::fs;
use crate::error::{Kind, Mark as _};
use crate::model::Arch;
use anyhow::{Context as _, anyhow};
use rustix::mount::MountFlags;
use std::fs::File;
use std::io;
use std::path::Path;

/// Debian's package of the emulators, which are linked statically: an emulator finds no library in a foreign tree.
pub const PACKAGE: &str = "qemu-user";
/// Where the emulator and the table are inside, on a file system that goes with the sandbox.
const EMULATOR: &str = "/run/forge-emulator";
const TABLE: &str = "/run/forge-emulator.d";
/// The machine's table.
const MACHINES_TABLE: &str = "/proc/sys/fs/binfmt_misc";

/// The emulator's name for programs of `arch`.
pub const fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "qemu-x86_64",
        Arch::Arm64 => "qemu-aarch64",
    }
}

/// The entry of the table: 64-bit little-endian ELF executables of the architecture, whatever their ABI's name. `F`: opened
/// now, so that it is found from any root directory. `P`: told by which name a program was called.
fn entry(arch: Arch) -> String {
    let machine = match arch {
        Arch::Amd64 => r"\x3e\x00",
        Arch::Arm64 => r"\xb7\x00",
    };
    let (zeros, ones) = (r"\x00".repeat(8), r"\xff".repeat(8));
    format!(
        r":{}:M::\x7fELF\x02\x01\x01\x00{zeros}\x02\x00{machine}:\xff\xff\xff\xff\xff\xff\xff\x00{ones}\xfe\xff\xff\xff:{EMULATOR}:PF",
        program(arch)
    )
}

/// Has programs of `arch` started through `emulator`, in this process's user namespace. Only inside a sandbox with users of
/// its own, and after [`super::sandbox::enter`].
///
/// # Errors
/// [`Kind::Input`] with what to do, where neither the kernel nor the machine's table lets that be.
pub fn register(arch: Arch, mut emulator: &File) -> anyhow::Result<()> {
    let mut own = || -> anyhow::Result<()> {
        fs::place(Path::new(EMULATOR), 0o755, &mut emulator)?;
        std::fs::create_dir(TABLE)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("binfmt_misc", TABLE, "binfmt_misc", flags, None)
            .context("mounting binfmt_misc")?;
        let table = Path::new(TABLE).join("register");
        let mut file = File::options().write(true).open(&table)?;
        io::Write::write_all(&mut file, entry(arch).as_bytes()).context("registering the emulator")
    };
    own().or_else(|e| if machine_runs(arch) { Ok(()) } else { Err(e) })
        .with_context(|| format!("running programs of {arch} on this machine"))
        .kind(Kind::Input)
        .hint(format!(
            "forge does it by itself on Linux 6.7 or later with binfmt_misc (`modprobe binfmt_misc` as root); on another \
             kernel install qemu-user-binfmt, or build {arch} on a machine of that architecture"
        ))
}

/// Whether the machine's table has an emulator for `arch` that was opened ahead.
fn machine_runs(arch: Arch) -> bool {
    let text = std::fs::read_to_string(Path::new(MACHINES_TABLE).join(program(arch))).unwrap_or_default();
    is_usable(&text)
}

fn is_usable(text: &str) -> bool {
    let flags = text.lines().find_map(|line| line.strip_prefix("flags: ")).unwrap_or_default();
    text.lines().next() == Some("enabled") && flags.contains('F')
}

/// The emulator's file, opened to be handed to [`register`].
///
/// # Errors
/// When it is not there.
pub fn open(path: &Path) -> anyhow::Result<File> {
    fs::open_regular(path).map_err(|e| anyhow!("opening the emulator {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_what_the_kernel_reads() {
        let text = entry(Arch::Arm64);
        let fields: Vec<&str> = text.split(':').collect();
        assert_eq!((fields[1], fields[2], fields[6], fields[7]), ("qemu-aarch64", "M", EMULATOR, "PF"));
        // Of an ELF header: identification, type and machine.
        let bytes = |field: &str| field.replace("ELF", r"\x45\x4c\x46").matches(r"\x").count();
        assert_eq!((bytes(fields[4]), bytes(fields[5])), (20, 20));
        assert!(text.len() < 1920, "the kernel takes no more");
    }

    #[test]
    fn an_emulator_that_is_looked_up_in_the_tree_is_none() {
        let text =
            |flags: &str| format!("enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: {flags}\noffset 0\n");
        assert!(is_usable(&text("POF")) && !is_usable(&text("PO")));
        assert!(!is_usable("") && !is_usable(&text("F").replace("enabled", "disabled")));
    }
}
