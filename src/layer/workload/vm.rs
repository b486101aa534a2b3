//! Virtual machines → a unit that runs QEMU where there is Podman, or an object of KubeVirt's where there is a cluster.
//!
//! ```text
//! vms/machine                              what units call: the overlay, the power button, whether it runs
//! vms/NAME/disk                            the guest's disk as the profile names it, read-only
//! vms/NAME/machine.conf                    its format and digest, firmware, bridge
//! units/system/forge-vm-NAME.service       QEMU; forge-vm-NAME-ready.service, of a required one
//! ```
//!
//! QEMU's disk is an overlay on the state partition (`templates/vm/machine`). KubeVirt's is an image made of the disk
//! ([`kubevirt`]). Knows nothing of where disks come from.

pub mod kubevirt;

use super::model::{SYSTEM_UNITS, switch_on};
use crate::model::{Arch, Digest};
use crate::template::vm as template;
use crate::tree::{BadPath, Content, Node, Tree, TreeError, TreePath};
use std::io;

/// Directory of guests, below the payload's root.
const VMS: &str = "vms";

/// A guest.
#[derive(Clone, Debug)]
pub struct Vm {
    /// The workload's name.
    pub name: String,
    /// Whether a boot is good only when it runs.
    pub required: bool,
    /// Its disk.
    pub disk: Content,
    /// The disk's digest.
    pub digest: Digest,
    /// MiB of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// What it is built like.
    pub machine: Machine,
    /// How it reaches the network.
    pub network: Network,
}

/// What a machine is built like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Machine {
    /// UEFI and virtio: what any system of the last ten years runs on.
    Modern,
    /// BIOS, IDE and an Intel network card: what older systems have drivers for. On amd64 alone.
    Legacy,
}

/// How a guest reaches the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Through the host, which gives it these of its ports.
    Ports(Vec<Forward>),
    /// As a machine of its own on a bridge of the host's.
    Bridge(String),
}

/// A port of the host that leads to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Forward {
    /// The host's.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
    /// Whether it is UDP.
    pub udp: bool,
}

/// A guest that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The disk stands on another file, which is not carried.
    #[error(
        "the disk of virtual machine `{0}` is an overlay of another file: merge them with `qemu-img convert`"
    )]
    Overlay(String),
    /// The disk cannot be read.
    #[error("reading the disk of virtual machine `{name}`: {fault}")]
    Io {
        /// The guest.
        name: String,
        /// What the file system says.
        fault: io::Error,
    },
    /// Never for names that are DNS labels.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Two guests of one name.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Debian packages that running guests needs, without their recommendations.
pub fn implied_packages(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &["qemu-system-x86", "qemu-utils", "seabios", "ovmf", "iproute2"],
        Arch::Arm64 => &["qemu-system-arm", "qemu-utils", "qemu-efi-aarch64", "iproute2"],
    }
}

/// The payload's part for guests of QEMU.
///
/// # Errors
/// [`VmError`], naming the guest.
pub fn payload_tree(vms: &[Vm], arch: Arch) -> Result<Tree, VmError> {
    let mut tree = Tree::new();
    if vms.is_empty() {
        return Ok(tree);
    }
    tree.insert(TreePath::parse(&format!("{VMS}/machine"))?, Node::text(template::PROGRAM, 0o644))?;
    for vm in vms {
        let format = Format::of(&vm.disk).map_err(|fault| VmError::Io { name: vm.name.clone(), fault })?;
        let Some(format) = format else { return Err(VmError::Overlay(vm.name.clone())) };
        let unit = format!("forge-vm-{}.service", vm.name);
        let service = filled(template::SERVICE, vm).replace("@COMMAND@", &command(vm, arch).join(" "));
        for (path, node) in [
            (format!("{VMS}/{}/disk", vm.name), Node::file(vm.disk.clone(), 0o644)),
            (format!("{VMS}/{}/machine.conf", vm.name), Node::text(conf(vm, format, arch), 0o644)),
            (format!("{SYSTEM_UNITS}/{unit}"), Node::text(service, 0o644)),
        ] {
            tree.insert(TreePath::parse(&path)?, node)?;
        }
        switch_on(&mut tree, "multi-user.target.wants", &unit)?;
        if vm.required {
            let ready = format!("forge-vm-{}-ready.service", vm.name);
            let path = TreePath::parse(&format!("{SYSTEM_UNITS}/{ready}"))?;
            tree.insert(path, Node::text(filled(template::READY, vm), 0o644))?;
            switch_on(&mut tree, "boot-complete.target.requires", &ready)?;
        }
    }
    Ok(tree)
}

fn filled(text: &str, vm: &Vm) -> String {
    text.replace("@NAME@", &vm.name)
}

/// What `vms/machine` reads: shell, of words that forge has checked.
fn conf(vm: &Vm, format: Format, arch: Arch) -> String {
    let bridge = match &vm.network {
        Network::Bridge(bridge) => bridge.as_str(),
        Network::Ports(_) => "",
    };
    let firmware = if vm.machine == Machine::Modern { firmware(arch).1 } else { "" };
    format!(
        "FORMAT={}\nBASE={}\nFIRMWARE={firmware}\nBRIDGE={bridge}\nTAP={}\n",
        format.as_str(),
        vm.digest.hex(),
        tap(vm)
    )
}

/// The host's end of the guest's cable: names of interfaces have at most 15 bytes.
fn tap(vm: &Vm) -> String {
    format!("vm-{}", &Digest::of(&vm.name).hex()[..10]) // 40 bits tell the guests of one box apart
}

/// UEFI's code, and the variables that a machine begins with: where Debian's `ovmf` and `qemu-efi-aarch64` have them.
fn firmware(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::Amd64 => ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        Arch::Arm64 => ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    }
}

/// QEMU's command line: no devices but those named, the console into the journal, QMP through pipes.
fn command(vm: &Vm, arch: Arch) -> Vec<String> {
    let name = &vm.name;
    let state = format!("/var/lib/forge/vms/{name}");
    let legacy = vm.machine == Machine::Legacy;
    let (program, machine) = match (arch, legacy) {
        (Arch::Amd64, true) => ("qemu-system-x86_64", "pc"),
        (Arch::Amd64, false) => ("qemu-system-x86_64", "q35"),
        (Arch::Arm64, _) => ("qemu-system-aarch64", "virt"),
    };
    let mut words = vec![
        format!("/usr/bin/{program}"),
        format!("-name {name} -nodefaults -no-user-config -display none -sandbox on"),
        // Without virtualisation in the processor, slowly.
        format!("-machine {machine} -accel kvm -accel tcg,thread=multi -cpu max"),
        format!("-m {}M -smp {}", vm.memory, vm.cpus),
        "-chardev stdio,id=console,signal=off -serial chardev:console".into(),
        format!("-chardev pipe,id=qmp,path=/run/forge-vms/{name}/qmp -mon chardev=qmp,mode=control"),
    ];
    if !legacy {
        let (code, _) = firmware(arch);
        words.push(format!("-drive if=pflash,format=raw,readonly=on,file={code}"));
        words.push(format!("-drive if=pflash,format=raw,file={state}/firmware"));
        words.push("-device virtio-rng-pci".into());
    } else {
        words.push("-vga std".into());
    }
    let (bus, card) = if legacy { ("ide", "e1000") } else { ("virtio", "virtio-net-pci") };
    words.push(format!("-drive if={bus},format=qcow2,discard=unmap,file={state}/{}.qcow2", vm.digest.hex()));
    let net = match &vm.network {
        Network::Bridge(_) => format!("tap,id=net,ifname={},script=no,downscript=no", tap(vm)),
        Network::Ports(ports) => {
            let forward = |p: &Forward| {
                let protocol = if p.udp { "udp" } else { "tcp" };
                format!(",hostfwd={protocol}::{}-:{}", p.host, p.guest)
            };
            format!("user,id=net{}", ports.iter().map(forward).collect::<String>())
        }
    };
    // Without a boot ROM: what it boots is its disk.
    words.push(format!("-netdev {net} -device {card},netdev=net,romfile="));
    words
}

/// Formats of disks that QEMU takes, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
}

impl Format {
    /// The format; `None` for a qcow2 file that stands on another (QEMU, `docs/interop/qcow2.rst`: bytes 8 to 15).
    fn of(disk: &Content) -> io::Result<Option<Format>> {
        let mut start = [0; 16];
        if disk.len() < 16 {
            return Ok(Some(Format::Raw));
        }
        disk.read_exact_at(&mut start, 0)?;
        Ok(match &start[..4] {
            b"QFI\xfb" if start[8..] != [0; 8] => None,
            b"QFI\xfb" => Some(Format::Qcow2),
            b"KDMV" => Some(Format::Vmdk),
            b"vhdx" => Some(Format::Vhdx),
            _ => Some(Format::Raw),
        })
    }

    /// QEMU's word.
    fn as_str(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhdx => "vhdx",
        }
    }
}

#[cfg(test)]
mod tests;
