//! Secure Boot as a firmware enforces it: a device takes its own keys in setup mode, starts what they signed, and nothing else.
//! And what rests on it: a state that its TPM opens then, and at no other time.

use crate::boots::{BOOT, DISK, given, tools};
use crate::fixture::{self, FORGE, Fixture, ok};
use crate::vm::{Opts, Vm};
use forge::boot::authenticode;
use forge::disk::DiskImage;
use forge::disk::gpt::{PartitionType, Table};
use forge::run::qemu::Medium;
use forge::sign::KeyRef;
use forge::sign::rsa::BootSigner;
use forge::tree::Content;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Firmware and boot loader say no within seconds, emulated and on a busy machine within this.
pub const REFUSAL: Duration = Duration::from_secs(180);

/// How an encrypted partition begins: magic and version.
const LUKS2: [u8; 8] = *b"LUKS\xba\xbe\0\x02";

#[test]
fn only_what_the_owners_key_signed_is_started_and_opens_its_state() {
    let Some((_, opts)) = given() else { return };
    let Some(shared) = fixture::shared() else { return };
    let Some(programs) = crate::joins::programs() else { return };
    let tpm = Some(tools(shared, forge::run::tpm::PACKAGES));
    let opts = Opts { secure_boot: true, tpm, ports: vec![], ..opts };
    let dir = shared.scratch();
    let (release, key) = signed(shared, dir.path(), &programs);
    let disk = dir.path().join("device.raw");
    forge::run::disk::unpack(&release.join("amd64/disk.raw.zst"), &disk, DISK).unwrap();

    let mut own = Vm::boot(&disk, &opts);
    let took = own.wait_for("boot complete, good", BOOT);
    println!("keys taken and first boot under Secure Boot: {took:?}");
    assert!(own.has_said("Secure boot enabled"), "{}", own.console.tail());
    own.power_off_hard();
    assert!(forge::run::disk::is_sealed(&disk).unwrap());
    assert_eq!(state(&disk), LUKS2);
    sealed(&disk, &opts);

    // The same firmware, with the keys that it took.
    let uki = kernel(&disk);
    let image = Esp::of(&disk).read(&uki);
    let mut changed = image.clone();
    let at = changed.windows(8).position(|w| w == b"roothash").unwrap();
    changed[at + 9] ^= 1;
    let other = dir.path().join("other.key");
    ok(Command::new(FORGE).args(["key", "generate", "--secure-boot", "--no-passphrase"]).arg(&other));
    for (what, image) in [
        ("another command line", changed),
        ("another's key", by(&other, &plain(&image))),
        ("no key", plain(&image)),
    ] {
        Esp::of(&disk).write(&uki, &image);
        let mut refused = Vm::boot(&disk, &opts);
        refused.wait_for("Access denied", REFUSAL);
        assert!(!refused.has_said("Linux version"), "{what} was started: {}", refused.console.tail());
        println!("{what}: refused");
    }
    Esp::of(&disk).write(&uki, &by(&key, &plain(&image)));
    let mut again = Vm::boot(&disk, &opts);
    again.wait_for("Secure boot enabled", BOOT);
    let took = again.wait_for("boot complete", BOOT);
    println!("its state opened again: {took:?}");
    assert!(!again.has_said("Creating filesystem"), "state was made again:\n{}", again.console.tail());
    again.power_off_hard();
    // The boot loader itself, by the firmware.
    let loader = "EFI/BOOT/BOOTX64.EFI";
    let mut changed = Esp::of(&disk).read(loader);
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for loader in [loader, "EFI/systemd/systemd-bootx64.efi"] {
        Esp::of(&disk).write(loader, &changed);
    }
    let mut refused = Vm::boot(&disk, &opts);
    refused.wait_for("Access Denied", REFUSAL);
    assert!(!refused.has_said("Linux version"));
    drop(refused);
    installs(&release, &disk, dir.path(), &opts);
}

/// The installer of `release` under the keys that the firmware of `device` took, and what it installs.
fn installs(release: &Path, device: &Path, dir: &Path, opts: &Opts) {
    let own = dir.join("own.raw");
    forge::run::disk::empty(&own, DISK).unwrap();
    std::fs::copy(device.with_extension("vars"), own.with_extension("vars")).unwrap();
    let stick = |iso: PathBuf| Opts { medium: Some(Medium::Stick(iso)), ..opts.clone() };
    let iso = release.join("amd64/installer.iso");

    let changed = dir.join("changed.iso");
    std::fs::copy(&iso, &changed).unwrap();
    let loader = "EFI/BOOT/BOOTX64.EFI";
    let mut kernel = Esp::of(&changed).read(loader);
    let at = kernel.windows(9).position(|w| w == b"forge.ins").unwrap();
    kernel[at] ^= 1;
    Esp::of(&changed).write(loader, &kernel);
    let mut refused = Vm::boot(&own, &stick(changed));
    refused.wait_for("Access Denied", REFUSAL);
    assert!(!refused.has_said("Linux version"));
    println!("a changed installer: refused");
    drop(refused);

    let mut box_ = Vm::boot(&own, &stick(iso));
    let took = box_.wait_for("forge: installed: quickstart", BOOT);
    println!("installed under the same firmware after {took:.0?}");
    box_.wait_for_end(BOOT);
    let mut installed = Vm::boot(&own, opts);
    installed.wait_for("Secure boot enabled", BOOT);
    let took = installed.wait_for("boot complete, good", BOOT);
    println!("what it installed starts, and seals a state of its own: {took:.0?}");
    assert_eq!(state(&own), LUKS2);
}

/// What was sealed under Secure Boot to one TPM opens neither by another nor without Secure Boot, and nothing of it is lost.
fn sealed(disk: &Path, opts: &Opts) {
    let beside = |name: &str| disk.with_extension(name);
    let refused = |what: &str, opts: &Opts| {
        let mut refused = Vm::boot(disk, opts);
        let took = refused.wait_for("forge: its state is encrypted", BOOT);
        println!("{what}: refused after {took:?}");
        assert!(!refused.has_said("boot complete"), "{}", refused.console.tail());
    };
    std::fs::rename(beside("tpm"), beside("own-tpm")).unwrap();
    refused("another TPM", opts);
    std::fs::remove_dir_all(beside("tpm")).unwrap();
    std::fs::rename(beside("own-tpm"), beside("tpm")).unwrap();
    std::fs::rename(beside("vars"), beside("own-vars")).unwrap();
    refused("a firmware without Secure Boot", &Opts { secure_boot: false, ..opts.clone() });
    std::fs::rename(beside("own-vars"), beside("vars")).unwrap();
}

/// How the state partition begins.
fn state(disk: &Path) -> [u8; 8] {
    let file = File::open(disk).unwrap();
    let table = Table::read(&Content::of_file(Arc::new(file.try_clone().unwrap())).unwrap()).unwrap();
    let state = table.partitions.iter().find(|p| p.type_guid == PartitionType::Var.guid()).unwrap();
    let mut head = [0; 8];
    file.read_exact_at(&mut head, state.offset).unwrap();
    head
}

/// A release of the quickstart whose boot is signed and whose state is sealed, as a disk and as an installer; and its key.
fn signed(shared: &Fixture, dir: &Path, programs: &Path) -> (PathBuf, PathBuf) {
    let profile = shared.source_in(dir);
    let key = profile.with_file_name("secure-boot.key");
    ok(Command::new(FORGE).args(["key", "generate", "--secure-boot", "--no-passphrase"]).arg(&key));
    let keys =
        "secure-boot = { key = \"secure-boot.key\", cert = \"secure-boot.crt\", enroll = \"if-safe\" }";
    let text = std::fs::read_to_string(&profile).unwrap();
    let (before, after) = text.split_once("[sign]\n").unwrap();
    let sealed = "[os]\nencrypt-state = \"tpm2\"\n";
    std::fs::write(&profile, format!("{before}{sealed}[sign]\n{keys}\n{after}")).unwrap();
    let told = ok(fixture::forge(&shared.cache())
        .env("FORGE_DEVICE_DIR", programs)
        .args(["--json", "build", "--artifact", "disk,iso"])
        .arg(&profile)
        .arg("--out")
        .arg(dir.join("dist")));
    (fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into(), key)
}

/// The image without its signature.
fn plain(image: &[u8]) -> Vec<u8> {
    let optional = u32::from_le_bytes(image[0x3c..0x40].try_into().unwrap()) as usize + 24;
    let entry = optional + 144;
    let at = u32::from_le_bytes(image[entry..entry + 4].try_into().unwrap()) as usize;
    let mut plain = image[..at].to_vec();
    plain[entry..entry + 8].fill(0);
    plain
}

/// The image signed by the key at `key`, whose certificate lies beside it.
fn by(key: &Path, image: &[u8]) -> Vec<u8> {
    let certificate = std::fs::read(key.with_extension("crt")).unwrap();
    let signer =
        BootSigner::open(&KeyRef::File(key.into()), &certificate, || anyhow::bail!("it is not encrypted"))
            .unwrap();
    let prepared = authenticode::prepare(image.to_vec().into(), signer.certificate()).unwrap();
    let out = tempfile::tempfile().unwrap();
    prepared.write(&signer.sign(prepared.message()).unwrap(), &out).unwrap();
    Content::of_file(Arc::new(out)).unwrap().to_vec(1 << 30).unwrap()
}

/// The path of the disk's one kernel image, which is renamed while its tries are counted.
pub fn kernel(disk: &Path) -> String {
    let listed = ok(Command::new(mtools("mdir")).args(["-b", "-i", &Esp::of(disk).0, "::EFI/Linux"]));
    let one = listed.lines().find(|line| line.ends_with(".efi")).unwrap_or_else(|| panic!("{listed}"));
    one.trim_start_matches("::/").to_string()
}

fn mtools(name: &str) -> PathBuf {
    ["/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.exists())
        .expect("mtools is there")
}

/// The ESP of a disk, as mtools name it.
pub struct Esp(String);

impl Esp {
    pub fn of(disk: &Path) -> Esp {
        let content = Content::of_file(Arc::new(File::open(disk).unwrap())).unwrap();
        let image = DiskImage::open(content).unwrap();
        let esp = image.table().partitions.iter().find(|p| p.type_guid == PartitionType::Esp.guid()).unwrap();
        Esp(format!("{}@@{}", disk.display(), esp.offset))
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        let out =
            Command::new(mtools("mcopy")).args(["-i", &self.0, &format!("::{path}"), "-"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let target = format!("::{path}");
        ok(Command::new(mtools("mcopy")).args(["-o", "-i", &self.0]).arg(file.path()).arg(target));
    }
}
