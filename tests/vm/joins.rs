//! A box from its carton joins a fleet: `forge test`, on a release of the quickstart that enrols.

use crate::boots::given;
use crate::fixture::{self, FORGE, Fixture, ok};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the quickstart says of enrolling, and what this release says instead.
const ALONE: &str = "[enroll]\nmode = \"none\"";
const ENROLS: &str = "[enroll]\nmode = \"fleet\"\nendpoints = [\"https://fleet.example:8443\"]\n\
                      trust = [\"fleet-root.pub\"]\nticket = \"batch\"";

#[test]
fn a_box_joins_with_nobody_there_late_network_and_a_dead_clock() {
    if given().is_none() {
        return;
    }
    let Some(shared) = fixture::shared() else { return };
    let Some(programs) = programs() else { return };
    let dir = shared.scratch();
    let (release, root) = enrolling(shared, dir.path(), &programs);
    let signed = dir.path().join("source/keys/release");
    let told = ok(fixture::forge(&shared.cache())
        .args(["--json", "test", "--case", "joins,late-network,clock-1970"])
        .arg(&release)
        .arg("--root")
        .arg(root)
        .arg("--sign")
        .arg(signed.with_extension("key")));
    for case in fixture::events(&told, "case") {
        println!("{}: {} s", case["case"], case["seconds"]);
        assert_eq!(case["passed"], true);
    }
    let proof = fixture::events(&told, "proof")[0]["path"].as_str().unwrap().to_string();
    let envelope = serde_json::from_slice(&std::fs::read(proof).unwrap()).unwrap();
    let pem = std::fs::read_to_string(signed.with_extension("pub")).unwrap();
    let key = forge::sign::PublicKey::from_pem(&pem).unwrap();
    let disk = std::fs::File::open(release.join("amd64/disk.raw.zst")).unwrap();
    let (digest, _) = forge::model::Digest::of_reader(disk).unwrap();
    let statement = forge::sign::dsse::open_statement(&envelope, digest, &key).unwrap();
    assert_eq!(statement.get().predicate["result"], "PASSED");
}

/// Where `hack/device` put the programs for boxes; `None`, said aloud, where it did not run.
fn programs() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/device");
    if dir.join("amd64/forge-device").exists() {
        return Some(dir);
    }
    assert!(std::env::var("FORGE_TEST_REQUIRE_TOOLS").is_err(), "hack/device has not run");
    println!("skipped: no target/device/amd64/forge-device");
    None
}

/// A release of the quickstart that enrols, and the root of its fleet.
fn enrolling(shared: &Fixture, dir: &Path, programs: &Path) -> (PathBuf, PathBuf) {
    let profile = shared.source_in(dir);
    let text = std::fs::read_to_string(&profile).unwrap();
    assert!(text.contains(ALONE));
    std::fs::write(&profile, text.replace(ALONE, ENROLS)).unwrap();
    let root = profile.with_file_name("fleet-root.key");
    ok(Command::new(FORGE).args(["key", "generate", "--no-passphrase"]).arg(&root));
    let mut build = fixture::forge(&shared.cache());
    build.env("FORGE_DEVICE_DIR", programs).args(["--json", "build"]).arg(&profile);
    let told = ok(build.arg("--out").arg(dir.join("dist")));
    (fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into(), root)
}
