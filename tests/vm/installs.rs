//! An empty box and an installer: from a stick and from a server, with no key pressed. One release, a disk for each way.

use crate::boots::{BOOT, answers, given};
use crate::fixture::{self, Fixture, ok};
use crate::vm::{Opts, Vm};
use forge::run::qemu::{Medium, ROUTER};
use forge::run::serve;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Room for slot B and state.
const DISK: u64 = 8 << 30;
/// Writing and comparing take a minute on an idle machine.
const INSTALL: Duration = Duration::from_secs(600);

#[test]
fn an_empty_box_installs_from_a_stick_and_from_a_server_and_only_once() {
    let Some((_, opts)) = given() else { return };
    let Some(shared) = fixture::shared() else { return };
    let Some(programs) = crate::joins::programs() else { return };
    let Some(ipxe) = ipxe() else { return };
    let dir = shared.scratch();
    let build = |set: &[&str]| release(shared, dir.path(), &programs, set);
    let release = build(&[]);
    let iso = release.join("amd64/installer.iso");
    let empty = |name: &str| {
        let disk = dir.path().join(name);
        forge::run::disk::empty(&disk, DISK).unwrap();
        disk
    };
    let own = empty("stick.raw");
    let from = |medium| Opts { medium: Some(medium), ..opts.clone() };
    let stick = from(Medium::Stick(iso.clone()));

    // Two disks: neither is touched, and the screen says why.
    let two = Opts { second: Some(empty("second.raw")), ..stick.clone() };
    let mut box_ = Vm::boot(&own, &two);
    let took = box_.wait_for("E-INSTALL-05 More than one disk fits: vda (8.00 GiB), vdb (8.00 GiB)", BOOT);
    println!("two disks: refused after {took:.0?}");
    box_.power_off_hard();
    assert!(is_empty(&own) && is_empty(&dir.path().join("second.raw")));

    // Somebody's: that it is, and what it is, is said; whoever means it writes `overwrite`.
    let other = empty("other.raw");
    ok(Command::new("sh").args(["-euc", FOREIGN, "sh"]).arg(&other));
    let before = start_of(&other);
    let mut box_ = Vm::boot(&other, &stick);
    let took =
        box_.wait_for("E-INSTALL-07 The disk holds something else: vda (8.00 GiB): partitions (GPT)", BOOT);
    println!("another system: refused after {took:.0?}");
    box_.power_off_hard();
    assert!(start_of(&other) == before);

    // One disk, and nobody there. The power goes while it is written, and comes back.
    let mut box_ = Vm::boot(&own, &stick);
    let took = box_.wait_for("forge: writing 40 %", INSTALL);
    println!("cut while it wrote, after {took:.0?}");
    box_.power_off_hard();
    let mut box_ = Vm::boot(&own, &stick);
    let took = box_.wait_for("forge: installed: quickstart", INSTALL);
    println!("installed from a stick after {took:.0?}");
    box_.wait_for_end(INSTALL);
    let whole = release.join("amd64/disk.raw.zst");
    assert_holds(&own, &whole);

    // The medium again, now as a disc, and before the disk's first start.
    let disc = Opts { ports: vec![], ..from(Medium::Optical(iso)) };
    let mut box_ = Vm::boot_medium_first(&own, &disc);
    let took = box_.wait_for("already installed", BOOT);
    println!("a second start, from a disc: told after {took:.0?}");
    box_.wait_for_end(BOOT);
    assert_holds(&own, &whole);

    // The stick is still in it: the disk comes first.
    let mut box_ = Vm::boot(&own, &stick);
    let took = box_.wait_for("boot complete, good", BOOT);
    println!("the installed disk: good after {took:.0?}");
    answers(&box_, &stick);
    box_.power_off_hard();

    // UEFI's own HTTP boot.
    let served = serve::serve(&release.join("amd64")).unwrap();
    let url = format!("http://{ROUTER}:{}/netboot/forge.efi", served.port);
    let mut box_ = Vm::boot(&empty("server.raw"), &from(Medium::Network(url)));
    let took = box_.wait_for("fetching http://", BOOT);
    println!("booted over HTTP after {took:.0?}");
    box_.power_off_hard();

    // iPXE, as a site's boot server hands it out, on the disk of another system.
    let release = build(&["install.overwrite=true"]);
    let served = serve::serve(&release.join("amd64")).unwrap();
    let tftp = dir.path().join("tftp");
    std::fs::create_dir(&tftp).unwrap();
    std::fs::copy(ipxe, tftp.join("ipxe.efi")).unwrap();
    let chain = format!("#!ipxe\ndhcp\nchain http://{ROUTER}:{}/netboot/boot.ipxe\n", served.port);
    std::fs::write(tftp.join("autoexec.ipxe"), chain).unwrap();
    let mut box_ = Vm::boot_by_tftp(&other, "ipxe.efi", &tftp, &opts);
    let took = box_.wait_for("iPXE", BOOT);
    println!("iPXE after {took:.0?}");
    let took = box_.wait_for("fetching http://", BOOT);
    println!("booted by iPXE {took:.0?} later");
    let took = box_.wait_for("forge: installed: quickstart", INSTALL);
    println!("installed from the server {took:.0?} later");
    box_.wait_for_end(INSTALL);
    assert_holds(&other, &release.join("amd64/disk.raw.zst"));
}

/// Where `hack/oracles` put iPXE; `None`, said aloud, where it did not run.
fn ipxe() -> Option<PathBuf> {
    let made = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let found = Some(made.join("trixie/usr/lib/ipxe/ipxe.efi")).filter(|path| path.is_file());
    assert!(
        found.is_some() || std::env::var("FORGE_TEST_REQUIRE_TOOLS").is_err(),
        "hack/oracles has not run"
    );
    if found.is_none() {
        println!("skipped: no iPXE");
    }
    found
}

/// Makes the disk `$1` one with a file system in a table.
const FOREIGN: &str = r#"
echo ', , L' | sfdisk --quiet --label gpt "$1"
mkfs.ext4 -q -F -E offset=1048576 "$1" 4G
"#;

/// The fixture's release as a medium and for a network boot, with these values of the profile.
fn release(shared: &Fixture, dir: &Path, programs: &Path, set: &[&str]) -> PathBuf {
    let mut build = fixture::forge(&shared.cache());
    build.env("FORGE_DEVICE_DIR", programs);
    build.args(["--json", "build", "--locked", "--artifact", "iso,netboot"]).arg(shared.profile());
    for value in set {
        build.args(["--set", value]);
    }
    let told = ok(build.arg("--out").arg(dir.join(format!("dist{}", set.concat()))));
    fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into()
}

fn is_empty(disk: &Path) -> bool {
    start_of(disk).iter().all(|byte| *byte == 0)
}

fn start_of(disk: &Path) -> Vec<u8> {
    let mut start = vec![0; 4 << 20];
    File::open(disk).unwrap().read_exact(&mut start).unwrap();
    start
}

/// The disk begins with every byte of the image.
fn assert_holds(disk: &Path, image: &Path) {
    let mut image = zstd::Decoder::new(File::open(image).unwrap()).unwrap();
    let mut disk = File::open(disk).unwrap();
    let (mut wanted, mut found) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for chunk in 0.. {
        let mut n = 0;
        while n < wanted.len() {
            match image.read(&mut wanted[n..]).unwrap() {
                0 => break,
                more => n += more,
            }
        }
        if n == 0 {
            break;
        }
        disk.read_exact(&mut found[..n]).unwrap();
        assert!(wanted[..n] == found[..n], "MiB {chunk} of the disk is not the image's");
    }
}
