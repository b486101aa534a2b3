//! What a device does about its next boot, and tables that systemd's kind of tools write.

use crate::support;
use forge::disk::gpt::{Partition, PartitionType, Table};
use forge::model::{Arch, Guid};
use forge::tree::Content;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Runs the verb `rearm` of the device's program for a running `store_2`, with boot images of these names on the ESP;
/// their names afterwards.
fn rearm(esp: &Path, images: &[&str]) -> Vec<String> {
    let dir = esp.join("efi/EFI/Linux");
    std::fs::create_dir_all(&dir).unwrap();
    for image in images {
        std::fs::write(dir.join(image), image).unwrap();
    }
    let cmdline = esp.join("cmdline");
    std::fs::write(&cmdline, "roothash=ab forge.payloadhash=cd forge.image=store_2 rootfstype=erofs ro\n")
        .unwrap();
    let program = include_str!("../../templates/os/usr/lib/forge/boot");
    for place in ["/proc/cmdline", "/efi /boot"] {
        assert!(program.contains(place));
    }
    let program = program
        .replace("/proc/cmdline", cmdline.to_str().unwrap())
        .replace("/efi /boot", &format!("{0}/efi {0}/boot", esp.display()));
    let status =
        Command::new("sh").args(["-c", &program, "boot", "rearm"]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{images:?}: {status}");
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_good_boot_gets_its_tries_back_where_the_other_slot_can_take_over() {
    for (before, after) in [
        // Alone: there is nothing to turn to.
        (&["store_2.efi"][..], &["store_2.efi"][..]),
        (&["store_1.efi", "store_2.efi"], &["store_1.efi", "store_2+3.efi"]),
        (&["store_1+3.efi", "store_2.efi"], &["store_1+3.efi", "store_2+3.efi"]),
        (&["store_2.1.efi", "store_2.efi"], &["store_2+3.efi", "store_2.1.efi"]),
        // The other one failed: three power cuts must not make it the loader's choice.
        (&["store_2.efi", "store_3+0-3.efi"], &["store_2.efi", "store_3+0-3.efi"]),
        (&["store_2.efi", "store_3+0.efi"], &["store_2.efi", "store_3+0.efi"]),
        // Not blessed.
        (&["store_1.efi", "store_2+2-1.efi"], &["store_1.efi", "store_2+2-1.efi"]),
        // Two names of one file, after a power cut: neither may go.
        (&["store_1.efi", "store_2+3.efi", "store_2.efi"], &["store_1.efi", "store_2+3.efi", "store_2.efi"]),
    ] {
        let esp = tempfile::tempdir().unwrap();
        assert_eq!(rearm(esp.path(), before), after, "{before:?}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    assert!(rearm(nowhere.path(), &[]).is_empty());
}

/// sfdisk(8) grows a disk that forge wrote, as a device's first boot does: a table with entries freed and added.
#[test]
fn a_table_that_sfdisk_wrote_is_read() {
    let Some(sfdisk) = support::tool("sfdisk") else { return };
    let partition = |i: u128, offset: u64| Partition {
        type_guid: PartitionType::Root(Arch::Amd64).guid(),
        guid: Guid::from_u128(i),
        name: format!("p{i}"),
        flags: 0,
        offset: offset << 20,
        length: 1 << 20,
    };
    let partitions = vec![partition(1, 1), partition(2, 2), partition(3, 3)];
    let image = Table { disk: Guid::from_u128(9), length: 8 << 20, partitions };
    let (head, tail) = image.encode().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.write_all_at(&tail, image.length - tail.len() as u64).unwrap();
    file.set_len(64 << 20).unwrap();
    for (arguments, script) in [
        (&["--relocate", "gpt-bak-std"][..], ""),
        (&["--delete"], "2"),
        (&["--append"], "start=10240, size=8, type=linux, name=small\n"),
        (&["--append"], "size=+, type=linux, name=rest\n"),
    ] {
        let mut command = Command::new(&sfdisk);
        command.arg("--quiet").args(arguments).arg(&path).stdin(Stdio::piped()).stdout(Stdio::null());
        if arguments == ["--delete"] {
            command.arg(script);
        }
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "sfdisk {arguments:?}");
    }
    let table = Table::read(&Content::of_file(Arc::new(file)).unwrap()).unwrap();
    let names: Vec<&str> = table.partitions.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(table.length, 64 << 20);
    assert_eq!(&names[..2], ["p1", "p3"]);
    assert!(names.contains(&"small") && names.contains(&"rest"), "{names:?}");
}
