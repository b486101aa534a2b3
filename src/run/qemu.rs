//! What is to be run → QEMU's argument vector, as data: no file is opened and nothing is started.
//!
//! qemu-system(1). The machine is the plainest that UEFI, virtio and a serial console make: what a device meets in a small
//! data centre, and the same for both architectures.

use crate::disk::order::{IMAGE_FILE, SOURCE_ARGUMENT};
use crate::model::{Arch, Epoch};
use std::ffi::OsString;
use std::path::PathBuf;

/// A TCP port of this machine that leads to one of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Port on 127.0.0.1 of this machine.
    pub host: u16,
    /// Port of the device.
    pub guest: u16,
}

impl std::str::FromStr for Forward {
    type Err = BadForward;
    fn from_str(s: &str) -> Result<Forward, BadForward> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        s.split_once(':')
            .and_then(|(host, guest)| Some(Forward { host: port(host)?, guest: port(guest)? }))
            .ok_or_else(|| BadForward(s.into()))
    }
}

/// Text that is no pair of ports.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not HOST:GUEST, two TCP ports from 1 to 65535")]
pub struct BadForward(pub String);

/// How the processor is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// The kernel's: as fast as the machine.
    Kvm,
    /// Translated: everywhere, and some ten times slower.
    Tcg,
}

impl Acceleration {
    /// How many processors a box gets. An emulator may lose the timer of a second one as it starts, and Linux hangs; and
    /// several boxes at a time leave each no more than one.
    pub const fn processors(self) -> u32 {
        match self {
            Acceleration::Kvm => 2,
            Acceleration::Tcg => 1,
        }
    }
}

/// What a box is started from when its disk starts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A stick, which it cannot write to.
    Stick(PathBuf),
    /// A disc in an optical drive.
    Optical(PathBuf),
    /// The network: the address of a kernel image, which the emulator's DHCP gives to UEFI's HTTP boot.
    Network(String),
}

/// Where the console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// On this terminal, with QEMU's monitor behind Ctrl-A c; Ctrl-A x ends it, and so does Ctrl-C.
    Terminal,
    /// Into a file, with nothing to type.
    File(PathBuf),
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpec {
    /// The device's architecture.
    pub arch: Arch,
    /// The disk, raw.
    pub disk: PathBuf,
    /// Whether the device's writes are kept in `disk`; else they go when it is turned off.
    pub persist: bool,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// Ports led into the device.
    pub forwards: Vec<Forward>,
    /// No window, as where [`ToolRoot::has_window`](super::tools::ToolRoot::has_window) says that none can be.
    pub headless: bool,
    /// The console.
    pub serial: Serial,
    /// Firmware, read-only.
    pub firmware: PathBuf,
    /// The firmware's variables: a copy of this run's own, or of this disk's where it is kept.
    pub variables: PathBuf,
    /// QEMU's directory of data files.
    pub data: PathBuf,
    /// What it is started from when its disk starts nothing.
    pub medium: Option<Medium>,
    /// Another built-in disk: raw, read and written.
    pub second: Option<PathBuf>,
    /// A second disk, such as a stick with a bundle: raw, read and written.
    pub stick: Option<PathBuf>,
    /// Where its clock starts; this machine's time otherwise.
    pub clock: Option<Epoch>,
    /// A socket that is made for QEMU's machine protocol.
    pub monitor: Option<PathBuf>,
    /// The socket of a network that runs ([`super::wire::Wire`]); the emulator's own otherwise, with the forwarded ports.
    pub wire: Option<PathBuf>,
    /// The control socket of a TPM that runs ([`super::tpm::Swtpm`]); none otherwise.
    pub tpm: Option<PathBuf>,
    /// Whether the firmware refuses what no key of its variables signed, and keeps those from the system.
    pub secure_boot: bool,
    /// How the processor is made.
    pub acceleration: Acceleration,
}

/// The hardware address of the device's port.
pub const MAC: &str = "52:54:00:12:34:56";

/// This machine's loopback, as a box on the emulator's own network sees it.
pub const ROUTER: &str = "10.0.2.2";

/// The emulator's name.
pub fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "qemu-system-x86_64",
        Arch::Arm64 => "qemu-system-aarch64",
    }
}

/// Firmware and its empty variables below a root of tools: `(code, variables)`. With empty variables a firmware that knows
/// Secure Boot is in setup mode: it takes the first keys that it is given.
pub fn firmware(arch: Arch, secure_boot: bool) -> (&'static str, &'static str) {
    match (arch, secure_boot) {
        (Arch::Amd64, false) => ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
        (Arch::Amd64, true) => ("usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
        (Arch::Arm64, false) => ("usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
        (Arch::Arm64, true) => ("usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
    }
}

/// The arguments, the program's name not among them.
pub fn argv(spec: &RunSpec) -> Vec<OsString> {
    let mut argv: Vec<OsString> = vec![];
    let mut push = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
    push(&["-nodefaults", "-no-user-config"]);
    let (machine, processor) = match (spec.arch, spec.acceleration) {
        (Arch::Amd64, Acceleration::Kvm) => ("q35", "host"),
        (Arch::Amd64, Acceleration::Tcg) => ("q35", "max"),
        (Arch::Arm64, Acceleration::Kvm) => ("virt", "host"),
        (Arch::Arm64, Acceleration::Tcg) => ("virt", "max"),
    };
    // The variables are written from system management mode alone, where the operating system does not get.
    let protected = spec.secure_boot && spec.arch == Arch::Amd64;
    push(&["-machine", if protected { "q35,smm=on" } else { machine }, "-cpu", processor]);
    if protected {
        push(&[
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
            "-global",
            "ICH9-LPC.disable_s3=1",
        ]);
    }
    push(&["-accel", if spec.acceleration == Acceleration::Kvm { "kvm" } else { "tcg,thread=multi" }]);
    push(&["-m", &spec.memory.to_string(), "-smp", &spec.cpus.to_string()]);
    argv.extend(["-L".into(), spec.data.clone().into_os_string()]);
    for (unit, file, rest) in [(0, &spec.firmware, ",readonly=on"), (1, &spec.variables, "")] {
        argv.push("-drive".into());
        argv.push(option(&format!("if=pflash,format=raw,unit={unit}{rest}"), "file", file));
    }
    let snapshot = if spec.persist { "" } else { ",snapshot=on" };
    argv.push("-drive".into());
    argv.push(option(&format!("if=none,id=disk,format=raw,discard=unmap{snapshot}"), "file", &spec.disk));
    let mut push = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
    push(&["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    let forwards: String =
        spec.forwards.iter().map(|f| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", f.host, f.guest)).collect();
    let bootfile = match &spec.medium {
        Some(Medium::Network(url)) => format!(",bootfile={url}"),
        _ => String::new(),
    };
    match &spec.wire {
        None => push(&["-netdev", &format!("user,id=net{forwards}{bootfile}")]),
        Some(wire) => {
            argv.push("-netdev".into());
            argv.push(option("stream,id=net,server=off,addr.type=unix", "addr.path", wire));
        }
    }
    let mut push = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
    // No option ROM: UEFI's own driver boots from the network where that is asked for, and one more package less.
    let order = if bootfile.is_empty() { "" } else { ",bootindex=1" };
    push(&["-device", &format!("virtio-net-pci,id=nic,netdev=net,mac={MAC},romfile={order}")]);
    push(&["-device", "virtio-rng-pci"]);
    if spec.arch == Arch::Amd64 {
        push(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    }
    if let Some(Medium::Network(url)) = &spec.medium {
        // What a boot server's iPXE script says: systemd's stub takes it from there (systemd-stub(7)).
        let folder = url.rsplitn(3, '/').nth(2).unwrap_or(url);
        let words = format!("{SOURCE_ARGUMENT}={folder}/{IMAGE_FILE}");
        push(&["-smbios", &format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={words}")]);
        // PXE is tried before HTTP, for a minute each, and nobody answers.
        for family in ["IPv4", "IPv6"] {
            push(&["-fw_cfg", &format!("name=opt/org.tianocore/{family}PXESupport,string=no")]);
        }
    }
    if let Some(second) = &spec.second {
        argv.push("-drive".into());
        argv.push(option("if=none,id=second,format=raw,discard=unmap", "file", second));
        argv.extend(["-device", "virtio-blk-pci,drive=second"].map(OsString::from));
    }
    let medium = match &spec.medium {
        Some(Medium::Stick(file)) => Some((
            file,
            &["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,removable=on,bootindex=1"],
        )),
        Some(Medium::Optical(file)) => {
            Some((file, &["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=medium,bootindex=1"]))
        }
        Some(Medium::Network(_)) | None => None,
    };
    if let Some((file, devices)) = medium {
        argv.push("-drive".into());
        argv.push(option("if=none,id=medium,format=raw,readonly=on", "file", file));
        argv.extend(devices.map(OsString::from));
    }
    if let Some(stick) = &spec.stick {
        argv.push("-drive".into());
        argv.push(option("if=none,id=stick,format=raw", "file", stick));
        let mut push = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
        push(&["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,removable=on"]);
    }
    if let Some(clock) = spec.clock {
        let start = clock.rfc3339();
        argv.extend(["-rtc".into(), format!("base={},clock=vm", start.trim_end_matches('Z')).into()]);
    }
    if let Some(monitor) = &spec.monitor {
        argv.push("-chardev".into());
        argv.push(option("socket,id=monitor,server=on,wait=off", "path", monitor));
        argv.extend(["-mon".into(), "chardev=monitor,mode=control".into()]);
    }
    if let Some(tpm) = &spec.tpm {
        argv.push("-chardev".into());
        argv.push(option("socket,id=tpm", "path", tpm));
        argv.extend(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device"].map(OsString::from));
        argv.push(
            if spec.arch == Arch::Amd64 { "tpm-crb,tpmdev=tpm0" } else { "tpm-tis-device,tpmdev=tpm0" }
                .into(),
        );
    }
    let mut push = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
    match (spec.headless, spec.arch) {
        (true, _) => push(&["-display", "none"]),
        (false, Arch::Amd64) => push(&["-display", "gtk", "-device", "VGA"]),
        (false, Arch::Arm64) => push(&["-display", "gtk", "-device", "virtio-gpu-pci"]),
    }
    match &spec.serial {
        Serial::Terminal => push(&["-chardev", "stdio,id=console,mux=on,signal=on", "-mon", "console"]),
        Serial::File(file) => {
            argv.push("-chardev".into());
            argv.push(option("file,id=console", "path", file));
        }
    }
    argv.extend(["-serial".into(), "chardev:console".into()]);
    argv
}

/// `PREFIX,KEY=FILE` with QEMU's commas doubled.
fn option(prefix: &str, key: &str, file: &std::path::Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut text = format!("{prefix},{key}=").into_bytes();
    for byte in file.as_os_str().as_bytes() {
        if *byte == b',' {
            text.push(b',');
        }
        text.push(*byte);
    }
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RunSpec {
        RunSpec {
            arch: Arch::Amd64,
            disk: "d,1.raw".into(),
            persist: false,
            memory: 2048,
            cpus: 2,
            forwards: vec![Forward { host: 8080, guest: 80 }],
            headless: true,
            serial: Serial::File("console.log".into()),
            firmware: "CODE.fd".into(),
            variables: "VARS.fd".into(),
            data: "data".into(),
            medium: None,
            second: None,
            stick: None,
            clock: None,
            monitor: None,
            wire: None,
            tpm: None,
            secure_boot: false,
            acceleration: Acceleration::Tcg,
        }
    }

    fn line(spec: &RunSpec) -> String {
        argv(spec).iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_headless_run() {
        assert_eq!(
            line(&spec()),
            "-nodefaults -no-user-config -machine q35 -cpu max -accel tcg,thread=multi -m 2048 -smp 2 -L data \
             -drive if=pflash,format=raw,unit=0,readonly=on,file=CODE.fd \
             -drive if=pflash,format=raw,unit=1,file=VARS.fd \
             -drive if=none,id=disk,format=raw,discard=unmap,snapshot=on,file=d,,1.raw \
             -device virtio-blk-pci,drive=disk,bootindex=0 \
             -netdev user,id=net,hostfwd=tcp:127.0.0.1:8080-:80 -device virtio-net-pci,id=nic,netdev=net,mac=52:54:00:12:34:56,romfile= \
             -device virtio-rng-pci -device i6300esb -action watchdog=reset -display none \
             -chardev file,id=console,path=console.log -serial chardev:console"
        );
    }

    #[test]
    fn a_kept_disk_on_the_terminal() {
        let kept =
            RunSpec { persist: true, serial: Serial::Terminal, acceleration: Acceleration::Kvm, ..spec() };
        let line = line(&kept);
        assert!(
            !line.contains("snapshot") && line.contains("-accel kvm") && line.contains("-cpu host"),
            "{line}"
        );
        assert!(line.contains("-chardev stdio,id=console,mux=on,signal=on -mon console"), "{line}");
    }

    #[test]
    fn a_network_of_its_own_takes_the_place_of_the_emulators() {
        let line = line(&RunSpec { wire: Some("wire".into()), ..spec() });
        assert!(
            line.contains(
                "-netdev stream,id=net,server=off,addr.type=unix,addr.path=wire -device virtio-net"
            )
        );
        assert!(!line.contains("user,"), "{line}");
    }

    #[test]
    fn a_medium_is_tried_after_the_disk() {
        let with = |medium| line(&RunSpec { medium: Some(medium), second: Some("e.raw".into()), ..spec() });
        let stick = with(Medium::Stick("a.iso".into()));
        let drive = "-drive if=none,id=medium,format=raw,readonly=on,file=a.iso -device ";
        assert!(stick.contains(&format!(
            "{drive}qemu-xhci -device usb-storage,drive=medium,removable=on,bootindex=1"
        )));
        assert!(stick.contains("discard=unmap,file=e.raw -device virtio-blk-pci,drive=second "), "{stick}");
        let optical = with(Medium::Optical("a.iso".into()));
        assert!(
            optical.contains(&format!("{drive}virtio-scsi-pci -device scsi-cd,drive=medium,bootindex=1"))
        );
        let network = with(Medium::Network("http://10.0.2.2:80/netboot/forge.efi".into()));
        assert!(network.contains(":80,bootfile=http://10.0.2.2:80/netboot/forge.efi -device"), "{network}");
        assert!(
            network.contains("cmdline-extra=forge.source=http://10.0.2.2:80/disk.raw.zst -fw_cfg"),
            "{network}"
        );
        assert!(network.contains("romfile=,bootindex=1") && !network.contains("drive=medium"), "{network}");
    }

    #[test]
    fn a_tpm_is_what_the_architecture_has() {
        let spec = RunSpec { tpm: Some("tpm,0/sock".into()), ..spec() };
        let wired = "-chardev socket,id=tpm,path=tpm,,0/sock -tpmdev emulator,id=tpm0,chardev=tpm -device ";
        assert!(line(&spec).contains(&format!("{wired}tpm-crb,tpmdev=tpm0")));
        let arm = RunSpec { arch: Arch::Arm64, ..spec };
        assert!(line(&arm).contains(&format!("{wired}tpm-tis-device,tpmdev=tpm0")));
    }

    #[test]
    fn forwards_are_two_ports() {
        assert_eq!("8080:80".parse(), Ok(Forward { host: 8080, guest: 80 }));
        for text in ["80", "0:80", "80:", "x:1", "70000:1"] {
            assert_eq!(text.parse::<Forward>(), Err(BadForward(text.into())));
        }
    }
}
