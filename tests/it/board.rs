//! Boards: what their own loaders read from a disk, byte by byte against the packages that it is from.

use crate::fixture::{events, forge, ok, refused, shared};
use crate::support;
use forge::disk::DiskImage;
use forge::disk::gpt::PartitionType;
use forge::lock::{Lock, LockedPackage};
use forge::tree::Content;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// The .deb of a locked package in a cache.
fn deb(cache: &Path, package: &LockedPackage) -> String {
    let hex = package.digest.hex().to_string();
    cache.join("blobs/sha256").join(&hex[..2]).join(&hex).display().to_string()
}

/// A file of a package, as dpkg unpacks it.
fn of_package(deb: &str, path: &str) -> Vec<u8> {
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -xO \"./$2\"";
    let out = Command::new("sh").args(["-c", script, "sh", deb, path]).output().unwrap();
    assert!(out.status.success() && !out.stdout.is_empty(), "{path} of {deb}");
    out.stdout
}

/// The vendor's layout: the first partition of a GPT without a hybrid MBR is an ESP of FAT32, and its root has the files that
/// the loader of a Raspberry Pi 4 and 5 looks for, as Debian's packages bring them.
#[test]
fn a_raspberry_pi_finds_its_vendors_files() {
    let Some(shared) = shared() else { return };
    let (Some(mcopy), Some(mdir), Some(fsck)) =
        (support::tool("mcopy"), support::tool("mdir"), support::tool("fsck.vfat"))
    else {
        return;
    };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let profile = shared.source_in(dir).with_file_name("raspberry-pi.toml");
    // The fixture's own cache: the boots of this architecture go on from the packages that were configured here.
    let cache = shared.cache();
    let told = ok(forge(&cache).args(["--json", "build"]).arg(&profile).arg("--out").arg(dir.join("dist")));
    let release = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
    ok(forge(&cache).args(["verify", &release, "--key"]).arg(shared.key()));

    let raw = dir.join("disk.raw");
    forge::run::disk::unpack(&Path::new(&release).join("arm64/disk.raw.zst"), &raw, 0).unwrap();
    let file = File::open(&raw).unwrap();
    let mut mbr = [0; 512];
    file.read_exact_at(&mut mbr, 0).unwrap();
    let kinds = [450, 466, 482, 498].map(|at| mbr[at]);
    assert_eq!(kinds, [0xee, 0, 0, 0], "a protective MBR and no hybrid one");
    let disk = DiskImage::open(Content::of_file(Arc::new(file)).unwrap()).unwrap();
    let first = &disk.table().partitions[0];
    assert_eq!((first.type_guid, first.offset), (PartitionType::Esp.guid(), 1 << 20));

    let volume = dir.join("esp.img");
    let out = File::create(&volume).unwrap();
    let esp = Content::of_file(Arc::new(File::open(&raw).unwrap())).unwrap();
    std::io::copy(&mut esp.slice(first.offset, first.length).unwrap().reader(), &mut &out).unwrap();
    ok(Command::new(fsck).args(["-n", "-v"]).arg(&volume));
    let listed = ok(Command::new(mdir).arg("-b").arg("-i").arg(&volume).arg("::/"));
    let read = |name: &str| {
        let to = dir.join("read");
        ok(Command::new(&mcopy).arg("-no").arg("-i").arg(&volume).arg(format!("::/{name}")).arg(&to));
        std::fs::read(to).unwrap()
    };

    let mut lock = profile.clone().into_os_string();
    lock.push(".lock");
    let lock = Lock::from_text(&std::fs::read_to_string(lock).unwrap()).unwrap();
    let package = |name: &str| lock.packages.iter().find(|p| p.name.starts_with(name)).unwrap();
    let (firmware, loader) = (package("raspi-firmware"), package("u-boot-rpi"));
    assert_eq!((&*firmware.sets, &*loader.sets), (&["board".to_string()][..], &["board".to_string()][..]));
    let kernel = package("linux-image-6");
    let mut wanted = vec![
        ("start4.elf".to_string(), firmware, "usr/lib/raspi-firmware/start4.elf".to_string()),
        ("fixup4.dat".into(), firmware, "usr/lib/raspi-firmware/fixup4.dat".into()),
        ("LICENCE.broadcom".into(), firmware, "usr/share/doc/raspi-firmware/copyright".into()),
        ("u-boot.bin".into(), loader, "usr/lib/u-boot/rpi_arm64/u-boot.bin".into()),
    ];
    for tree in ["bcm2711-rpi-4-b", "bcm2711-rpi-400", "bcm2711-rpi-cm4-io", "bcm2712-rpi-5-b"] {
        let path = format!("usr/lib/{}/broadcom/{tree}.dtb", kernel.name);
        wanted.push((format!("{tree}.dtb"), kernel, path));
    }
    for (name, package, path) in &wanted {
        assert!(listed.contains(&format!("::/{name}\n")), "{name}: {listed}");
        assert!(read(name) == of_package(&deb(&cache, package), path), "{name} is another than in {path}");
    }
    let config = String::from_utf8(read("config.txt")).unwrap();
    let lines: Vec<&str> = config.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(lines, ["arm_64bit=1", "enable_uart=1", "upstream_kernel=1", "kernel=u-boot.bin"]);
    assert!(config.is_ascii() && config.lines().all(|l| l.len() < 99), "a line of config.txt has at most 98");
    // The kernel's other boards are not the Pi's, and its firmware is not the system's.
    let trees = listed.lines().filter(|l| l.ends_with(".dtb")).count();
    assert_eq!(trees, 4, "{listed}");
    assert_eq!(read("EFI/BOOT/BOOTAA64.EFI")[..2], *b"MZ");

    // A package of the profile's own in the firmware's place, that is another one.
    std::fs::copy(deb(&cache, loader), profile.with_file_name("firmware.deb")).unwrap();
    let text = std::fs::read_to_string(&profile).unwrap();
    let board = "board = \"raspberry-pi\"\n";
    assert!(text.contains(board));
    let own = text.replace(board, &format!("{board}board-firmware = \"file:firmware.deb\"\n"));
    std::fs::write(&profile, own).unwrap();
    let out = dir.join("dist-own");
    let told = refused(forge(&cache).arg("build").arg(&profile).arg("--out").arg(&out), 4);
    assert!(told.contains("it is the package u-boot-rpi, not raspi-firmware"), "{told}");
    assert!(told.contains("has to be a .deb of the package raspi-firmware"), "{told}");
    let lock = std::fs::read_to_string(profile.with_file_name("raspberry-pi.toml.lock")).unwrap();
    assert!(
        !lock.contains("\"raspi-firmware\"") && lock.contains("\"u-boot-rpi\""),
        "what is given is not locked too"
    );
}
