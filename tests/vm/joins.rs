//! A box from its carton joins a fleet: `forge test`, on a release of the quickstart that enrols, for both architectures out
//! of one build. The foreign one is configured and booted under emulation.

use crate::boots::given;
use crate::fixture::{self, FORGE, Fixture, ok};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the quickstart says of enrolling, and what this release says instead.
const ALONE: &str = "[enroll]\nmode = \"none\"";
const ENROLS: &str = "[enroll]\nmode = \"fleet\"\nendpoints = [\"https://fleet.example:8443\"]\n\
                      trust = [\"fleet-root.pub\"]\nticket = \"batch\"";
const ONE: &str = "arch = [\"amd64\"]";
const BOTH: &str = "arch = [\"amd64\", \"arm64\"]";

#[test]
fn boxes_of_both_architectures_join_with_nobody_there() {
    if given().is_none() {
        return;
    }
    let Some(shared) = fixture::shared() else { return };
    let Some(programs) = programs() else { return };
    // What differs between architectures is the boot; the conditions of a site are tried on one. Meanwhile the other one's
    // packages are configured, which is one emulated program after the other.
    std::thread::scope(|scope| {
        let cases = "joins,installs,late-network,clock-1970,no-dhcp,tpm";
        scope.spawn(|| join(shared, &programs, (ONE, "oci,disk,iso"), "amd64", cases));
        join(shared, &programs, (BOTH, "oci,disk"), "arm64", "joins");
    });
}

/// Builds a release that enrols, for architectures with artifacts, and tries `cases` on the disk of `arch`.
fn join(shared: &Fixture, programs: &Path, what: (&str, &str), arch: &str, cases: &str) {
    let dir = shared.scratch();
    let (release, root) = enrolling(shared, dir.path(), programs, what);
    let key = dir.path().join("source/keys/release");
    let told = ok(fixture::forge(&shared.cache())
        .args(["--json", "test", "--arch", arch, "--case", cases])
        .arg(&release)
        .arg("--root")
        .arg(&root)
        .arg("--sign")
        .arg(key.with_extension("key")));
    for case in fixture::events(&told, "case") {
        println!("{arch} {}: {} s", case["case"], case["seconds"]);
        assert_eq!(case["passed"], true);
    }
    let proof = fixture::events(&told, "proof")[0]["path"].as_str().unwrap().to_string();
    assert_proves(&proof, &release.join(arch).join("disk.raw.zst"), &key.with_extension("pub"));
}

/// The signed proof at `proof` says that `disk` passed.
fn assert_proves(proof: &str, disk: &Path, key: &Path) {
    let envelope = serde_json::from_slice(&std::fs::read(proof).unwrap()).unwrap();
    let key = forge::sign::PublicKey::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    let (digest, _) = forge::model::Digest::of_reader(std::fs::File::open(disk).unwrap()).unwrap();
    let statement = forge::sign::dsse::open_statement(&envelope, digest, &key).unwrap();
    assert_eq!(statement.get().predicate["result"], "PASSED");
}

/// Where `hack/device` put the programs for boxes; `None`, said aloud, where it did not run.
pub fn programs() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/device");
    if dir.join("amd64/forge-device").exists() {
        return Some(dir);
    }
    assert!(std::env::var("FORGE_TEST_REQUIRE_TOOLS").is_err(), "hack/device has not run");
    println!("skipped: no target/device/amd64/forge-device");
    None
}

/// A release of the quickstart that enrols, for architectures with artifacts, and the root of its fleet.
fn enrolling(
    shared: &Fixture,
    dir: &Path,
    programs: &Path,
    (arches, artifacts): (&str, &str),
) -> (PathBuf, PathBuf) {
    let profile = shared.source_in(dir);
    let text = std::fs::read_to_string(&profile).unwrap();
    assert!(text.contains(ALONE));
    let enrols = text.replace(ALONE, ENROLS).replace(ONE, arches);
    assert!(enrols.contains(arches));
    std::fs::write(&profile, enrols).unwrap();
    let root = profile.with_file_name("fleet-root.key");
    ok(Command::new(FORGE).args(["key", "generate", "--no-passphrase"]).arg(&root));
    let mut build = fixture::forge(&shared.cache());
    build.env("FORGE_DEVICE_DIR", programs).args(["--json", "build", "--artifact", artifacts]).arg(&profile);
    let told = ok(build.arg("--out").arg(dir.join("dist")));
    (fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into(), root)
}
