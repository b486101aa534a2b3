//! Profiles, right and wrong: golden faults, golden resolved profiles, the JSON Schema, and texts that were mangled.

use crate::golden;
use forge::model::Arch;
use forge::profile::{self, Base, Finding, Profile, Report, Template};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const WRONG: &str = "tests/fixtures/profiles/wrong";
const RIGHT: &str = "tests/fixtures/profiles/right";

/// The profiles of a directory, sorted. Paths are relative, so that golden texts are the same on every machine.
fn profiles(dir: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "toml"));
    files.sort();
    files
}

fn load(path: &Path) -> Result<Profile, Report> {
    let env = |name: &str| (name == "FORGE_TEST_MIRROR").then(|| "https://deb.example".to_string());
    profile::load(path, &[], &env)
}

#[test]
fn each_wrong_profile_tells_its_faults_as_expected() {
    let files = profiles(WRONG);
    assert!(files.len() >= 40, "{}", files.len());
    let mut differences = vec![];
    for file in files {
        let report = load(&file).expect_err(&file.display().to_string());
        let golden = file.with_extension("txt");
        differences.extend(golden::compare(&golden, &format!("{}\n", report.render(false))).err());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// The golden texts say what is told; the comment `# wrong`, written beforehand, says in which lines it must be.
#[test]
fn each_fault_is_in_its_line_and_no_wrong_line_goes_untold() {
    let mut differences = vec![];
    for file in profiles(WRONG) {
        let findings: Vec<Finding> = load(&file).expect_err(&file.display().to_string()).findings().collect();
        let told: BTreeSet<(String, usize)> =
            findings.iter().map(|f| (f.file.clone(), f.start.line)).collect();
        let mut wrong = BTreeSet::new();
        let read: BTreeSet<&str> = findings.iter().map(|f| f.file.as_str()).chain(file.to_str()).collect();
        for name in read {
            let text = std::fs::read_to_string(name).unwrap();
            let lines = text.lines().enumerate().filter(|(_, line)| line.contains("# wrong"));
            wrong.extend(lines.map(|(n, _)| (name.to_string(), n + 1)));
        }
        if told != wrong {
            differences.push(format!("{}: told {told:?}, wrong {wrong:?}", file.display()));
        }
        for finding in findings {
            assert!(finding.start < finding.end, "nothing is underlined: {finding:?}");
            assert!(!finding.message.is_empty() && !finding.help.is_empty(), "{finding:?}");
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn right_profiles_resolve_as_expected() {
    for file in profiles(RIGHT).into_iter().chain(["profiles/quickstart.toml".into()]) {
        let profile = load(&file).unwrap_or_else(|report| panic!("{report}"));
        let resolved = format!("{:#}\n", serde_json::to_value(&profile).unwrap());
        let golden = Path::new(RIGHT).join(file.with_extension("json").file_name().unwrap());
        golden::compare(&golden, &resolved).unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn tables_of_an_architecture_change_it_alone() {
    let profile = load(&Path::new(RIGHT).join("whole.toml")).unwrap_or_else(|report| panic!("{report}"));
    let packages = |arch| -> Vec<String> {
        profile.for_arch(arch).unwrap().os.packages.iter().map(|package| package.to_string()).collect()
    };
    assert_eq!(packages(Arch::Amd64), ["ca-certificates", "openssh-server"]);
    assert_eq!(packages(Arch::Arm64), ["ca-certificates", "firmware-brcm80211", "openssh-server"]);
    assert!(profile.for_arch(Arch::Arm64).unwrap().os.modules.is_empty());
    assert_eq!(profile.for_arch(Arch::Amd64).unwrap().os.base, Base::Debian("trixie".into()));
}

#[test]
fn the_command_line_has_the_last_word() {
    let file = Path::new(RIGHT).join("least.toml");
    let set = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        profile::load(&file, &set, &|_| None)
    };
    // A shell eats quotes: `--set site.name="b"` arrives as `site.name=b`.
    let profile = set(&["site.name=b", "image.version=\"1.2\"", "os.\"packages+\"=[\"curl\"]"]).unwrap();
    assert_eq!(profile.name().as_str(), "b");
    assert_eq!(profile.version.unwrap().as_str(), "1.2");
    let report = set(&["os.bsae=debian:trixie"]).unwrap_err();
    let finding = report.findings().next().unwrap();
    assert_eq!((finding.file.as_str(), finding.start.line, finding.start.column), ("--set", 1, 4));
}

#[test]
fn the_checksum_changes_with_what_is_built_and_with_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let base = "schema = 1\nsite.name = \"a\"\n[os]\nbase = \"debian:trixie\"\n";
    let file = "[[os.file]]\npath = \"/etc/motd\"\nsource = \"motd\"\n";
    let checksum = |text: &str, motd: &str| {
        std::fs::write(dir.path().join("motd"), motd).unwrap();
        std::fs::write(dir.path().join("p.toml"), text).unwrap();
        profile::load(&dir.path().join("p.toml"), &[], &|_| None).unwrap_or_else(|r| panic!("{r}")).checksum()
    };
    let first = checksum(&format!("{base}{file}"), "a");
    let same = format!(
        "{base}mirror = \"https://deb.example/debian\"\n{file}[sign]\nkey = \"env:K\"\n[publish]\nref = \"r.example/a\"\n"
    );
    assert_eq!(checksum(&same, "a"), first);
    assert_eq!(checksum(&format!("# a comment\n{base}timezone = \"UTC\"\n{file}"), "a"), first);
    assert_ne!(checksum(&format!("{base}{file}"), "b"), first, "a file that is named");
    assert_ne!(checksum(&format!("{base}packages = [\"curl\"]\n{file}"), "a"), first);
}

#[test]
fn the_checksum_does_not_know_where_the_profile_lies() {
    let write = |dir: &Path| {
        for (path, text) in profile::init_files(Template::Podman) {
            let file = dir.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        load(&dir.join(profile::PROFILE)).unwrap_or_else(|report| panic!("{report}")).checksum()
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(write(one.path()), write(other.path()));
}

#[test]
fn each_template_of_init_is_a_right_profile() {
    for template in Template::ALL {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in profile::init_files(template) {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        load(&dir.path().join(profile::PROFILE)).unwrap_or_else(|report| panic!("{report}"));
    }
}

#[test]
fn profiles_that_are_too_long_or_no_text_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, told) in
        [("long.toml", vec![b'#'; (1 << 20) + 1], "larger than"), ("bytes.toml", vec![0xff; 9], "not UTF-8")]
    {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let report = load(&dir.path().join(name)).unwrap_err().to_string();
        assert!(report.contains(told), "{report}");
    }
    // Neither nesting nor a chain of files grows without bound.
    let deep = format!("schema = 1\na = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(profile::parse(&deep).is_err());
    for n in 0..20 {
        let text = format!("extends = [\"{}.toml\", \"{}.toml\"]\n", n + 1, n + 1);
        std::fs::write(dir.path().join(format!("{n}.toml")), text).unwrap();
    }
    let report = load(&dir.path().join("0.toml")).unwrap_err().to_string();
    assert!(report.contains("too many files"), "{report}");
    let report = load(&dir.path().join("missing.toml")).unwrap_err().to_string();
    assert!(report.contains("there is no file"), "{report}");
}

#[test]
fn the_committed_schema_is_current() {
    golden::compare(Path::new("profiles/profile.schema.json"), &profile::schema_text()).unwrap();
}

/// `python3-jsonschema` of Debian, or none.
fn validator() -> Option<&'static str> {
    let found = Command::new("python3").args(["-c", "import jsonschema"]).output();
    if found.is_ok_and(|out| out.status.success()) {
        return Some("python3");
    }
    assert_ne!(std::env::var("FORGE_TEST_REQUIRE_TOOLS").as_deref(), Ok("1"), "no python3-jsonschema");
    eprintln!("skipped: no python3-jsonschema");
    None
}

/// What the validator says of each profile: whether it holds against the schema.
fn validate(files: &[PathBuf]) -> Option<Vec<bool>> {
    const PROGRAM: &str = "\
import json, sys
from jsonschema import Draft202012Validator as V
schema, profiles = json.load(sys.stdin)
V.check_schema(schema)
print(json.dumps([V(schema).is_valid(p) for p in profiles]))";
    let schema: serde_json::Value = serde_json::from_str(&profile::schema_text()).unwrap();
    let profiles: Vec<serde_json::Value> = files
        .iter()
        .map(|file| toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap_or_default())
        .collect();
    let mut child = Command::new(validator()?)
        .args(["-c", PROGRAM])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &(schema, profiles)).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

#[test]
fn a_validator_takes_the_schema_and_by_it_every_right_profile() {
    let mut files = [profiles(RIGHT), profiles("profiles"), profiles("profiles/base")].concat();
    files.extend(
        ["podman", "k3s", "rke2", "kubeedge"].map(|t| format!("templates/init/{t}/site.toml").into()),
    );
    let Some(valid) = validate(&files) else { return };
    for (file, valid) in files.iter().zip(valid) {
        assert!(valid, "{}", file.display());
    }
}

/// What no schema can see: what spans keys or files, and what needs a list of names. Everything else it refuses.
#[test]
fn a_validator_refuses_by_the_schema_what_is_wrong_in_itself() {
    const BEYOND: &[&str] = &[
        "agent-alone",
        "base-missing",
        "board-firmware",
        "board-jetson-orin",
        "board-raspberry-pi",
        "board-without-its-architecture",
        "encrypt-state-alone",
        "encrypt-state-board",
        "encrypt-state-shim",
        "enroll-none",
        "extends-itself",
        "extends-missing",
        "extends-wrong-base",
        "file-twice",
        "gitops",
        "helm-source",
        "image-devicetree-amd64",
        "kubeedge",
        "kubernetes-config", // its dates and numbers that are none have no like in JSON
        "kubernetes-version-missing",
        "kubernetes-version-of-another",
        "missing-site", // a file without a site may be there to be extended
        "palette",      // its keys are another product's
        "podman-with-a-version",
        "secrets",
        "secure-boot-shim-elsewhere",
        "secure-boot-shim",
        "workload-chart",
        "workload-manifest-missing",
        "workload-mounts",
        "workload-nothing-runs-it",
        "workload-of-no-kind",
        "workload-of-two-kinds",
        "workload-secret",
        "workload-vm-network",
    ];
    let files = profiles(WRONG);
    let Some(valid) = validate(&files) else { return };
    let passed: Vec<String> = files
        .iter()
        .zip(valid)
        .filter(|(_, valid)| *valid)
        .map(|(file, _)| file.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(passed, BEYOND);
}

/// A profile with a piece of it taken out, doubled, or overwritten.
fn mangled() -> impl Strategy<Value = String> {
    let sources = profiles(WRONG).into_iter().chain(profiles(RIGHT));
    let texts: Vec<String> = sources.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let piece = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "[", "]]", "=", "\"", "'''", "${", "}", ".", "+", "\0", "\u{feff}", "é", "0x", "-nan"
        ])
        .prop_map(String::from),
        "[ -~\n]{0,8}",
    ];
    (prop::sample::select(texts), any::<prop::sample::Index>(), 0..40usize, piece).prop_map(
        |(text, at, len, piece)| {
            let chars: Vec<char> = text.chars().collect();
            let start = at.index(chars.len() + 1);
            let end = (start + len).min(chars.len());
            chars[..start].iter().chain(&piece.chars().collect::<Vec<_>>()).chain(&chars[end..]).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mangled_profiles_are_read_or_refused_and_every_fault_can_be_shown(text in mangled()) {
        profile::fuzz(text.as_bytes());
    }
}
