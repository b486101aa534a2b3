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

/// Debian's own Python, which has its packages; another one in PATH has not.
const PYTHON: &str = "/usr/bin/python3";

/// Prints a section's bytes, by the reader that ukify has (pefile): binutils of one architecture know no other's images.
const SECTION: &str = "\
import pefile, sys
image = pefile.PE(sys.argv[1], fast_load=True)
found, = [s for s in image.sections if s.Name.rstrip(b'\\0').decode() == sys.argv[2]]
sys.stdout.buffer.write(found.get_data()[:found.Misc_VirtualSize])";

/// A kernel of the profile's own starts the device, and shows its own tree: Debian's, with the tree of an older Jetson, stands
/// in for one that is built for an Orin, which no archive has.
#[test]
#[ignore = "hack/e2e orin: another system configured under emulation, which takes minutes"]
fn a_jetson_orin_takes_kernel_and_device_tree_of_its_profile() {
    let Some(shared) = shared() else { return };
    let (Some(fdtget), Some(mcopy)) = (support::tool("fdtget"), support::tool("mcopy")) else {
        return;
    };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let profile = shared.source_in(dir).with_file_name("jetson-orin.toml");
    let cache = shared.cache();
    // Brings the archive's kernel, as another test needs it too.
    let donor = profile.with_file_name("raspberry-pi.toml");
    ok(forge(&cache).arg("build").arg(&donor).arg("--out").arg(dir.join("dist")));
    let lock = std::fs::read_to_string(profile.with_file_name("raspberry-pi.toml.lock")).unwrap();
    let lock = Lock::from_text(&lock).unwrap();
    let kernel = lock.packages.iter().find(|p| p.name.starts_with("linux-image-6")).unwrap();
    let deb = deb(&cache, kernel);
    std::fs::copy(&deb, profile.with_file_name("kernel.deb")).unwrap();
    let worked = std::fs::read_to_string(&profile).unwrap();
    let line = |key: &str| worked.lines().find(|l| l.starts_with(&format!("{key} = "))).unwrap();
    let tree = "nvidia/tegra210-p3450-0000.dtb";
    let own = worked.replace(line("kernel"), "kernel = \"file:kernel.deb\"");
    let build = || {
        let mut command = forge(&cache);
        command.args(["--json", "build"]).arg(&profile).arg("--out").arg(dir.join("dist"));
        command
    };

    // The tree that the worked profile names is not in Debian's kernel: the reason why the board asks for another.
    std::fs::write(&profile, &own).unwrap();
    let told = refused(&mut build(), 2);
    let release = kernel.name.trim_start_matches("linux-image-");
    let said = format!("kernel {release} has no device tree `nvidia/tegra234-p3768-0000+p3767-0005.dtb`");
    assert!(told.contains(&said) && told.contains(tree), "{told}");

    std::fs::write(&profile, own.replace(line("devicetree"), &format!("devicetree = \"{tree}\""))).unwrap();
    let told = ok(&mut build());
    let release = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
    ok(forge(&cache).args(["verify", &release, "--key"]).arg(shared.key()));
    let lock = std::fs::read_to_string(profile.with_file_name("jetson-orin.toml.lock")).unwrap();
    let lock = Lock::from_text(&lock).unwrap();
    assert!(
        !lock.packages.iter().any(|p| p.name.starts_with("linux-image")),
        "what is given is not locked too"
    );
    assert_eq!(lock.file("kernel.deb").unwrap().digest, kernel.digest);

    // The disk is every other machine's: what NVIDIA's firmware reads of it is the ESP, by its removable path.
    let raw = dir.join("disk.raw");
    forge::run::disk::unpack(&Path::new(&release).join("arm64/disk.raw.zst"), &raw, 0).unwrap();
    let disk = DiskImage::open(Content::of_file(Arc::new(File::open(&raw).unwrap())).unwrap()).unwrap();
    let first = &disk.table().partitions[0];
    assert_eq!((first.type_guid, first.offset), (PartitionType::Esp.guid(), 1 << 20));
    let volume = format!("{}@@{}", raw.display(), first.offset);
    let (loader, image) = (dir.join("loader.efi"), dir.join("forge.efi"));
    let copy = |from: &str, to: &Path| ok(Command::new(&mcopy).args(["-no", "-i", &volume, from]).arg(to));
    copy("::/EFI/BOOT/BOOTAA64.EFI", &loader);
    copy("::/EFI/Linux/*.efi", &image);
    assert_eq!(std::fs::read(&loader).unwrap()[..2], *b"MZ");

    // Each section by a foreign reader, against the package.
    let section = |name: &str| {
        let out = Command::new(PYTHON).args(["-c", SECTION]).arg(&image).arg(name).output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let found = section(".dtb");
    let given = of_package(&deb, &format!("usr/lib/{}/{tree}", kernel.name));
    let length = given.len();
    assert_eq!(found[..4], [0xd0, 0x0d, 0xfe, 0xed]);
    assert_eq!(
        found[4..8],
        u32::try_from(length * 4).unwrap().to_be_bytes(),
        "room for what firmware fills in"
    );
    assert!(found[8..length] == given[8..] && found[length..].iter().all(|byte| *byte == 0));
    let dtb = dir.join("read.dtb");
    std::fs::write(&dtb, &found[..length * 4]).unwrap();
    let model = ok(Command::new(&fdtget).arg(&dtb).args(["/", "compatible"]));
    assert!(model.contains("nvidia,p3450-0000"), "{model}");
    let linux = of_package(
        &deb,
        &format!("boot/vmlinuz-{release}", release = kernel.name.trim_start_matches("linux-image-")),
    );
    assert!(section(".linux")[..linux.len()] == linux[..]);
    let cmdline = String::from_utf8(section(".cmdline")).unwrap();
    assert!(cmdline.contains("console=ttyTCU0,115200") && cmdline.contains("roothash="), "{cmdline}");

    // A kernel for another architecture, and a package that is none.
    for (name, why) in [("linux-image-6", "is for amd64, not arm64"), ("kmod", "no kernel's")] {
        let of = if name == "kmod" {
            &lock
        } else {
            &Lock::from_text(
                &std::fs::read_to_string(format!("{}.lock", shared.profile().display())).unwrap(),
            )
            .unwrap()
        };
        let other = of.packages.iter().find(|p| p.name.starts_with(name)).unwrap();
        std::fs::copy(self::deb(&cache, other), profile.with_file_name("kernel.deb")).unwrap();
        let told = refused(&mut build(), 2);
        assert!(told.contains(why) && told.contains("make bindeb-pkg"), "{told}");
    }
}
