//! `forge run`: boots what ships, in QEMU, with forge's own pinned tools.
//!
//! [`tools`] starts programs of unpacked Debian packages without installing them; [`qemu`] turns what is to be run into an
//! argument vector; [`disk`] makes a disk that the device may grow into and write on, without touching the artifact, and [`bundle`] puts an
//! enrollment bundle on it; [`tpm`] is its TPM, [`wire`] a network that gives it nothing.

pub mod bundle;
pub mod disk;
pub mod qemu;
pub mod tools;
pub mod tpm;
pub mod wire;

use crate::host::cancel::Cancel;
use crate::host::{clock, fs};
use crate::model::Arch;
use anyhow::Context as _;
use qemu::{Acceleration, RunSpec};
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tools::ToolRoot;

/// Debian packages that running a device of `arch` takes, on a host of any architecture; their dependencies come along.
pub fn packages(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &["qemu-system-x86", "ovmf"],
        Arch::Arm64 => &["qemu-system-arm", "qemu-efi-aarch64"],
    }
}

/// How long the firmware may take to say a word under KVM: it takes a second where KVM works.
const PROBE: Duration = Duration::from_secs(10);

/// Finds out whether KVM can run the firmware, by letting it: a device node that opens is no proof, as nested and
/// restricted hypervisors show. Anything but a sign of life means TCG. `variables` is a copy that may be written. The
/// answer is kept in the directory `notes` and believed until this machine is restarted or the tools are others: finding
/// out that KVM does not work takes all of its ten seconds.
///
/// # Errors
/// When the tools lack the emulator or firmware; cancellation.
pub fn acceleration(
    tools: &ToolRoot,
    arch: Arch,
    variables: &Path,
    notes: &Path,
    cancel: &Cancel,
) -> anyhow::Result<Acceleration> {
    let accessible =
        rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok();
    if Arch::host() != Some(arch) || !accessible {
        return Ok(Acceleration::Tcg);
    }
    let note = notes.join(format!("acceleration-{arch}"));
    let asked = clock::boot_id().map(|boot| format!("{boot} {}\n", tools.path().display()));
    let noted = std::fs::read_to_string(&note).unwrap_or_default();
    for (word, found) in [("kvm", Acceleration::Kvm), ("tcg", Acceleration::Tcg)] {
        if asked.as_ref().is_some_and(|asked| noted == format!("{word} {asked}")) {
            return Ok(found);
        }
    }
    let found = probe(tools, arch, variables, cancel)?;
    if let Some(asked) = asked {
        let word = if found == Acceleration::Kvm { "kvm" } else { "tcg" };
        fs::write_atomic(&note, format!("{word} {asked}").as_bytes(), 0o644)?;
    }
    Ok(found)
}

/// Starts the firmware under KVM and waits for its first word.
fn probe(tools: &ToolRoot, arch: Arch, variables: &Path, cancel: &Cancel) -> anyhow::Result<Acceleration> {
    let drive = |unit: u8, file: &Path, rest: &str| {
        format!("if=pflash,format=raw,unit={unit}{rest},file={}", file.display())
    };
    let code = tools.file(qemu::firmware(arch, false).0)?;
    let machine = if arch == Arch::Amd64 { "q35" } else { "virt" };
    let call = tools
        .command(qemu::program(arch))?
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-machine",
            machine,
            "-accel",
            "kvm",
            "-cpu",
            "host",
        ])
        .args(["-m", "256", "-display", "none", "-L"])
        .arg(tools.path().join("usr/share/qemu"))
        .args(["-drive", &drive(0, &code, ",readonly=on"), "-drive", &drive(1, variables, ",snapshot=on")])
        .args(["-serial", "stdio"]);
    let mut child =
        call.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut said = child.stdout.take().context("the emulator has no output")?;
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut byte = [0; 1];
        let _ = tell.send(matches!(said.read(&mut byte), Ok(1))); // nobody listens after the deadline
    });
    let deadline = Instant::now() + PROBE;
    let alive = loop {
        match told.recv_timeout(Duration::from_millis(50)) {
            Ok(alive) => break alive,
            Err(_) if Instant::now() > deadline || cancel.is_cancelled() => break false,
            Err(_) => {}
        }
    };
    let _ = child.kill(); // it may have ended by itself
    child.wait()?;
    let _ = reader.join(); // it only reads, and the pipe is closed
    cancel.check()?;
    Ok(if alive { Acceleration::Kvm } else { Acceleration::Tcg })
}

/// Runs a device until it is turned off, with this terminal as its console where the spec says so. On cancellation the
/// emulator is killed, as by pulling the plug.
///
/// # Errors
/// When the emulator is missing, does not start, or ends with an error; cancellation.
pub fn run(tools: &ToolRoot, spec: &RunSpec, cancel: &Cancel) -> anyhow::Result<()> {
    let program = qemu::program(spec.arch);
    let call = tools.command(program)?.args(qemu::argv(spec));
    let mut child = call.command().spawn().with_context(|| format!("starting {program}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if cancel.is_cancelled() {
            let _ = child.kill(); // Ctrl-C reaches it too, so it may have ended
            child.wait()?;
            cancel.check()?;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    anyhow::ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}
