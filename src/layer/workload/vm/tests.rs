//! Guests: what QEMU is told, and what KubeVirt is.

use super::*;
use crate::layer::workload::manifest::yaml;

fn vm(disk: &[u8]) -> Vm {
    Vm {
        name: "old-till".into(),
        required: true,
        disk: Content::from(disk.to_vec()),
        digest: Digest::of(disk),
        memory: 2048,
        cpus: 2,
        machine: Machine::Modern,
        network: Network::Ports(vec![
            Forward { host: 8080, guest: 80, udp: false },
            Forward { host: 5353, guest: 53, udp: true },
        ]),
    }
}

fn qcow2(backing: u64) -> Vec<u8> {
    [&b"QFI\xfb\0\0\0\x03"[..], &backing.to_be_bytes(), &[0; 48]].concat()
}

fn read(tree: &Tree, path: &str) -> String {
    let content = tree.file(&TreePath::parse(path).unwrap()).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(content.to_vec(1 << 20).unwrap()).unwrap()
}

#[test]
fn a_guest_is_a_unit_over_a_disk_that_stays_as_it_is() {
    let guest = vm(&qcow2(0));
    let tree = payload_tree(std::slice::from_ref(&guest), Arch::Amd64).unwrap();
    let unit = read(&tree, "units/system/forge-vm-old-till.service");
    for told in [
        "-machine q35 ",
        "-m 2048M -smp 2",
        "hostfwd=tcp::8080-:80,hostfwd=udp::5353-:53",
        "file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        &format!("file=/var/lib/forge/vms/old-till/{}.qcow2", guest.digest.hex()),
        "\nExecStop=sh /usr/lib/forge/payload/vms/machine stop old-till\n",
        "\nRestart=always\n",
    ] {
        assert!(unit.contains(told), "{told}: {unit}");
    }
    assert!(!unit.contains('@') && !unit.contains("payload/vms/old-till/disk"), "{unit}");
    let conf = read(&tree, "vms/old-till/machine.conf");
    assert!(conf.starts_with(&format!("FORMAT=qcow2\nBASE={}\n", guest.digest.hex())), "{conf}");
    for link in [
        "multi-user.target.wants/forge-vm-old-till.service",
        "boot-complete.target.requires/forge-vm-old-till-ready.service",
    ] {
        let link = TreePath::parse(&format!("units/system/{link}")).unwrap();
        assert!(tree.resolve(&link).is_some_and(|target| tree.file(&target).is_some()), "{link}");
    }
}

#[test]
fn an_old_guest_has_old_devices_and_its_own_cable() {
    let network = Network::Bridge("br0".into());
    let guest =
        Vm { machine: Machine::Legacy, network, required: false, ..vm(b"a plain disk, of raw bytes") };
    let tree = payload_tree(&[guest], Arch::Amd64).unwrap();
    let unit = read(&tree, "units/system/forge-vm-old-till.service");
    assert!(unit.contains("-machine pc ") && unit.contains("if=ide") && unit.contains("e1000"), "{unit}");
    assert!(!unit.contains("pflash"), "{unit}");
    let conf = read(&tree, "vms/old-till/machine.conf");
    let tap = conf.lines().find_map(|l| l.strip_prefix("TAP=")).unwrap();
    assert!(
        conf.contains("FORMAT=raw\n") && conf.contains("BRIDGE=br0\n") && conf.contains("FIRMWARE=\n"),
        "{conf}"
    );
    assert!(tap.len() <= 15 && unit.contains(&format!("ifname={tap},script=no")), "{unit}");
    assert!(tree.get(&TreePath::parse("units/system/boot-complete.target.requires").unwrap()).is_none());
}

#[test]
fn a_disk_that_stands_on_another_is_refused() {
    let fault = payload_tree(&[vm(&qcow2(0x200))], Arch::Amd64).unwrap_err();
    assert!(matches!(&fault, VmError::Overlay(name) if name == "old-till"), "{fault}");
    assert!(kubevirt::disk_tree(&vm(&qcow2(0x200))).is_err());
}

#[test]
fn on_a_cluster_the_disk_is_an_image_and_the_guest_an_object() {
    let guest = vm(&qcow2(0));
    let layer = kubevirt::disk_tree(&guest).unwrap();
    let node = layer.get(&TreePath::parse("disk/disk.qcow2").unwrap()).unwrap();
    assert_eq!((node.uid, node.mode), (107, 0o440));
    let image = kubevirt::image_name(&guest);
    let text = kubevirt::object("old-till", &image, 2048, 2, Machine::Modern);
    let documents = yaml::parse(&text).unwrap();
    let spec = documents[0].at(&["spec", "template", "spec"]).unwrap();
    assert_eq!(spec.at(&["domain", "memory", "guest"]).and_then(yaml::Node::text), Some("2048Mi"));
    let volume = &spec.get("volumes").unwrap().items().unwrap()[0];
    assert_eq!(volume.at(&["containerDisk", "image"]).and_then(yaml::Node::text), Some(image.as_str()));
}
