//! Secure Boot on machines that keep Microsoft's keys alone: Debian's shim, its signed systemd-boot, a kernel image of the
//! site's, and a key that the machine's owner enrolled.

use crate::boots::{BOOT, DISK, given};
use crate::fixture::{self, FORGE, Fixture, ok};
use crate::secure::{Esp, REFUSAL, kernel};
use crate::vm::{Opts, Vm};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables with Microsoft's certificates in `KEK` and `db`, as machines are sold (Debian's ovmf).
const MICROSOFT: &str = "usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// Whoever owns a list of keys; shim looks at the keys alone.
const OWNER: &str = "605dab50-e046-4300-abb6-3dd810dd8b23";

#[test]
fn by_way_of_shim_only_what_an_enrolled_key_signed_is_started() {
    let Some((_, opts)) = given() else { return };
    let Some(shared) = fixture::shared() else { return };
    let Some(vars) = oracle("virt-fw-vars") else { return };
    let opts = Opts { secure_boot: true, ports: vec![], ..opts };
    let dir = shared.scratch();
    let (release, key) = by_shim(shared, dir.path());
    let disk = dir.path().join("device.raw");
    forge::run::disk::unpack(&release.join("amd64/disk.raw.zst"), &disk, DISK).unwrap();

    let sold = opts.tools.file(MICROSOFT).unwrap();
    let own = disk.with_extension("vars");
    let mut enrol = Command::new(vars);
    enrol.arg("--input").arg(&sold).args(["--add-mok", OWNER]).arg(key.with_extension("crt"));
    ok(enrol.arg("--output").arg(&own));
    let mut enrolled = Vm::boot(&disk, &opts);
    enrolled.wait_for("Secure boot enabled", BOOT);
    let took = enrolled.wait_for("boot complete, good", BOOT);
    println!("by way of shim, under Microsoft's keys and one of the owner's: good after {took:.0?}");
    enrolled.power_off_hard();

    let uki = kernel(&disk);
    assert!(!uki.contains('+'), "a good boot is not counted further: {uki}");
    // As an update that was changed on its way: newer, and with one try.
    let image = Esp::of(&disk).read(&uki);
    let mut changed = image.clone();
    let at = changed.windows(8).position(|w| w == b"roothash").unwrap();
    changed[at + 9] ^= 1;
    Esp::of(&disk).write("EFI/Linux/quickstart_9999.01.01+1.efi", &changed);
    let mut other = refused(&disk, &opts, "another command line");
    other.wait_for("Secure boot enabled", REFUSAL);
    println!("its try is counted, and the version before it starts");
    other.power_off_hard();

    // On a machine as it is sold, which knows neither.
    std::fs::copy(&sold, &own).unwrap();
    refused(&disk, &opts, "nobody's key enrolled");
}

/// What shim says of an image that it does not know, and that it then offers to have a key enrolled.
fn refused(disk: &Path, opts: &Opts, what: &str) -> Vm {
    let mut refused = Vm::boot(disk, opts);
    let took = refused.wait_for("Security Policy Violation", REFUSAL);
    refused.wait_for("MOK management", REFUSAL);
    assert!(!refused.has_said("Linux version"), "{what} was started: {}", refused.console.tail());
    println!("{what}: refused after {took:.0?}");
    refused
}

/// A release of the quickstart that starts by way of shim, and its key.
fn by_shim(shared: &Fixture, dir: &Path) -> (PathBuf, PathBuf) {
    let profile = shared.source_in(dir);
    let key = profile.with_file_name("secure-boot.key");
    ok(Command::new(FORGE).args(["key", "generate", "--secure-boot", "--no-passphrase"]).arg(&key));
    let keys = "sign.secure-boot={ key = \"secure-boot.key\", cert = \"secure-boot.crt\", shim = true }";
    let told = ok(fixture::forge(&shared.cache())
        .args(["--json", "build", "--artifact", "disk", "--set", keys])
        .arg(&profile)
        .arg("--out")
        .arg(dir.join("dist")));
    (fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into(), key)
}

/// A program that hack/oracles made; without it says so, which is a failure where tools are required.
fn oracle(name: &str) -> Option<PathBuf> {
    let made = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let program = made.join("bin").join(name);
    if program.is_file() {
        return Some(program);
    }
    assert!(std::env::var_os("FORGE_TEST_REQUIRE_TOOLS").is_none_or(|v| v != "1"), "no {name}");
    println!("skipped: no {name}");
    None
}
