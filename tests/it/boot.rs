//! What a device does about its next boot, and tables that systemd's kind of tools write.

use crate::support;
use forge::boot::slot::{self, SlotPart, SlotSpec};
use forge::disk::gpt::{Partition, PartitionType, Table};
use forge::model::{Arch, Guid};
use forge::tree::{Content, TreePath};
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
/// A file that nobody synced, and an index of it that was, as containerd writes them; then the power goes: the file system
/// is told to forget what is not on the disk yet (EXT4_IOC_SHUTDOWN with NOLOGFLUSH, as xfstests do).
const CUT: &str = r#"
truncate -s 64M image && mkfs.ext4 -q -F image && mkdir state
mount -o "loop,$1" image state
head -c 300000 /dev/urandom >state/unpacked
python3 - <<'END'
import fcntl, os, struct
index = os.open("state/index", os.O_CREAT | os.O_WRONLY)
os.write(index, b"unpacked")
os.fsync(index)
fcntl.ioctl(os.open("state", os.O_RDONLY), 0x8004587d, struct.pack("I", 2))
END
umount state
mount -o loop image state
stat -c '%n %s' state/index state/unpacked
umount state
"#;

#[test]
fn what_state_has_an_index_of_is_there_after_a_power_cut() {
    if !support::is_root() {
        return;
    }
    let part = SlotPart { root_hash: "ab".repeat(32).parse().unwrap(), data: 8 << 20, hashes: 1 << 20 };
    let spec = SlotSpec {
        root: part,
        payload: None,
        payload_types: (Guid::from_u128(1), Guid::from_u128(2)),
        state: Guid::from_u128(3),
        sealed: false,
    };
    let slot = slot::compose(&spec).unwrap();
    let fstab = slot.file(&TreePath::parse("etc/fstab").unwrap()).unwrap().to_vec(1 << 16).unwrap();
    let fstab = String::from_utf8(fstab).unwrap();
    let line = fstab.lines().find(|line| line.contains(" ext4 ")).unwrap();
    let options = line.split_whitespace().nth(3).unwrap();
    let after = |options: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut cut = Command::new("unshare");
        cut.args(["--mount", "sh", "-euc", CUT, "sh", options]).current_dir(dir.path());
        let out = cut.stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(after(options), "state/index 8\nstate/unpacked 300000\n");
    // What ext4 does by itself: the test would see it.
    assert_eq!(after("delalloc"), "state/index 8\nstate/unpacked 0\n");
}

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

/// Programs that other people sign with take forge's signature on a real boot loader, and see a changed byte.
#[test]
fn sbverify_takes_a_signed_boot_loader_and_no_changed_one() {
    let Some(shared) = crate::fixture::shared() else { return };
    let (Some(sbverify), Some(mcopy)) = (support::tool("sbverify"), support::tool("mcopy")) else { return };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let raw = dir.join("disk.raw");
    forge::run::disk::unpack(&shared.disk(), &raw, 0).unwrap();
    let disk =
        forge::disk::DiskImage::open(Content::of_file(Arc::new(File::open(&raw).unwrap())).unwrap()).unwrap();
    let esp = disk.table().partitions.iter().find(|p| p.type_guid == PartitionType::Esp.guid()).unwrap();
    let esp = format!("{}@@{}", raw.display(), esp.offset);
    let loader = dir.join("loader.efi");
    crate::fixture::ok(Command::new(mcopy).args(["-i", &esp, "::EFI/BOOT/BOOTX64.EFI"]).arg(&loader));
    let key = dir.join("boot.key");
    let mut generate = crate::fixture::forge(&dir.join("cache"));
    crate::fixture::ok(generate.args(["key", "generate", "--secure-boot", "--no-passphrase"]).arg(&key));

    let certificate = key.with_extension("crt");
    let none = || -> anyhow::Result<forge::sign::key_file::Secret> { anyhow::bail!("it is not encrypted") };
    let signer = forge::sign::rsa::BootSigner::open(
        &forge::sign::KeyRef::File(key.clone()),
        &std::fs::read(&certificate).unwrap(),
        none,
    )
    .unwrap();
    let image = Content::of_file(Arc::new(File::open(&loader).unwrap())).unwrap();
    let prepared = forge::boot::authenticode::prepare(image, signer.certificate()).unwrap();
    let signed = dir.join("signed.efi");
    let out = File::options().read(true).write(true).create_new(true).open(&signed).unwrap();
    prepared.write(&signer.sign(prepared.message()).unwrap(), &out).unwrap();
    let verify = |image: &Path| {
        let mut verify = Command::new(&sbverify);
        verify.arg("--cert").arg(&certificate).arg(image).output().unwrap()
    };
    assert!(verify(&signed).status.success(), "{}", String::from_utf8_lossy(&verify(&signed).stderr));
    // Our own reading of it, and of what sbsign makes of the same image.
    let open = |path: &Path| {
        forge::boot::authenticode::open(&Content::of_file(Arc::new(File::open(path).unwrap())).unwrap())
    };
    let found = open(&signed).unwrap().unwrap();
    forge::sign::rsa::verify(&found.certificate, &found.message, &found.signature).unwrap();
    if let Some(sbsign) = support::tool("sbsign") {
        let theirs = dir.join("theirs.efi");
        let mut sign = Command::new(sbsign);
        sign.arg("--key").arg(&key).arg("--cert").arg(&certificate).arg("--output").arg(&theirs).arg(&loader);
        crate::fixture::ok(&mut sign);
        let theirs = open(&theirs).unwrap().unwrap();
        assert_eq!(theirs.certificate, found.certificate);
        forge::sign::rsa::verify(&theirs.certificate, &theirs.message, &theirs.signature).unwrap();
    }
    out.write_all_at(&[0xff], 0x2000).unwrap();
    assert!(!verify(&signed).status.success());
    assert!(open(&signed).is_err());
}
