//! `forge enroll bundle`: from a profile, a fleet and an inventory to what a box believes.

use crate::fixture::ok;
use crate::support;
use forge::enroll::bundle::{BOOTSTRAP, TICKET};
use forge::enroll::{Bundle, Trust};
use forge::sign::{PrivateKey, PublicKey, Signer as _};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use zeroize::Zeroizing;

const PROFILE: &str = r#"
schema = 1
[site]
name = "store-042"
[os]
base = "debian:trixie"
[sign]
key = "file:keys/release.key"
[enroll]
mode = "fleet"
endpoints = ["https://fleet.example:8443", "https://192.0.2.7:8443"]
trust = ["keys/fleet-root.pub"]
ticket = "device"
fleet = "fleet.json"
inventory = "devices.csv"
splay = "30s"
"#;

/// A directory with a profile, a fleet root, a fleet's description and two boxes.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let site = Site(dir);
        site.write("site.toml", PROFILE);
        ok(&mut site.forge(&["key", "generate", "keys/fleet-root.key", "--no-passphrase"]));
        let grant_key = PrivateKey::generate().unwrap();
        let fleet = serde_json::json!({
            "schema": 1, "fleet": "shops", "spki_sha256": [forge::model::Digest::of("certificate")],
            "grant_keys": [grant_key.public_key()],
        });
        site.write("fleet.json", &fleet.to_string());
        site.write("devices.csv", "name,serial,macs\ntill-1,PF-1,\ntill-2,,02:00:00:00:00:02\n");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn forge(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forge"));
        command.args(arguments).current_dir(self.0.path());
        command
    }

    fn bundle(&self, arguments: &[&str]) -> Output {
        self.forge(&["enroll", "bundle", "site.toml"]).args(arguments).output().unwrap()
    }

    fn trust(&self) -> Trust {
        let pem = std::fs::read_to_string(self.path("keys/fleet-root.pub")).unwrap();
        Trust::any(vec![PublicKey::from_pem(&pem).unwrap()])
    }
}

fn read(dir: &Path) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
    let names = [BOOTSTRAP, TICKET].into_iter().filter(|name| dir.join(name).exists());
    names.map(|name| (name.to_string(), Zeroizing::new(std::fs::read(dir.join(name)).unwrap()))).collect()
}

#[test]
fn each_box_of_the_inventory_gets_its_own_bundle() {
    let site = Site::new();
    let output = site.bundle(&["--out", "bundles", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["names"], serde_json::json!(["till-1", "till-2"]));
    for name in ["till-1", "till-2"] {
        let dir = site.path(&format!("bundles/{name}/forge-enroll"));
        let bundle = Bundle::open(&read(&dir), &site.trust()).unwrap();
        let document = bundle.bootstrap.get();
        assert_eq!((document.fleet.as_str(), document.image.profile.as_str()), ("shops", "store-042"));
        assert_eq!(document.devices[0].r#ref, name);
        assert_eq!(document.policy.splay_s, 30);
        let ticket = dir.join(TICKET);
        assert_eq!(std::fs::metadata(&ticket).unwrap().permissions().mode() & 0o777, 0o600);
        // The seed is told nowhere.
        let seed = std::fs::read_to_string(&ticket).unwrap();
        for spoken in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(spoken).contains(seed.trim()));
        }
    }
    let again = site.bundle(&["--out", "bundles"]);
    assert_eq!(again.status.code(), Some(2), "bundles are never written over others");
}

#[test]
fn a_bundle_that_no_box_would_take_is_not_made() {
    let site = Site::new();
    ok(&mut site.forge(&["key", "generate", "keys/other.key", "--no-passphrase"]));
    site.write("broken.csv", "name,serial\ntill-1,Default string\n");
    for (arguments, says) in [
        (&["--key", "keys/other.key"][..], "does not trust"),
        (&["--inventory", "broken.csv"], "line 2: serial `Default string`"),
        (&["--inventory", "missing.csv"], "missing.csv"),
        (&["--fleet", "devices.csv"], "fleet's description"),
        (&["--set", "enroll.mode=\"none\""], "no effect with mode `none`"),
        (&["--set", "enroll.endpoints=[\"https://fleet.example/path\"]"], "https://HOST:PORT"),
    ] {
        let output = site.bundle(&[arguments, &["--out", "bundles"]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(says), "{arguments:?}: {told}");
        assert!(!site.path("bundles").exists(), "{arguments:?}: nothing is written");
    }
}

#[test]
fn what_lapses_on_the_shelf_is_refused() {
    let site = Site::new();
    let Some(openssl) = support::tool("openssl") else { return };
    for (days, code) in [("10", 2), ("400", 0)] {
        ok(Command::new(&openssl)
            .current_dir(site.0.path())
            .args(["req", "-x509", "-newkey", "ed25519", "-nodes"])
            .args([
                "-keyout",
                "proxy.key",
                "-out",
                "proxy.pem",
                "-subj",
                "/CN=proxy.example",
                "-days",
                days,
            ]));
        let output =
            site.bundle(&["--set", "enroll.proxy-ca=\"proxy.pem\"", "--out", &format!("bundles-{days}")]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(code == 0 || told.contains("lapses on"), "{told}");
    }
}

#[test]
fn a_sticks_image_is_read_by_mtools() {
    let site = Site::new();
    let Some(mcopy) = support::tool("mcopy") else { return };
    for (carrier, image, label) in
        [("image", "till-1.img", "FORGEENROLL"), ("cidata", "till-1.cidata.img", "CIDATA")]
    {
        let output = site.bundle(&["--carrier", carrier, "--out", carrier]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let image = site.path(carrier).join(image);
        let out = site.path(&format!("{carrier}-out"));
        std::fs::create_dir(&out).unwrap();
        ok(Command::new(&mcopy).arg("-s").arg("-i").arg(&image).arg("::").arg(&out));
        Bundle::open(&read(&out.join("forge-enroll")), &site.trust()).unwrap();
        assert_eq!(out.join("user-data").exists(), carrier == "cidata");
        let volume = std::fs::read(&image).unwrap();
        assert!(volume[..512].windows(label.len()).any(|w| w == label.as_bytes()), "{label}");
    }
}

#[test]
fn every_code_is_explained() {
    let site = Site::new();
    let output = site.forge(&["explain", "e-portal-01"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("What to do:"));
    let all = site.forge(&["explain"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&all.stdout).lines().count(), forge::enroll::Code::ALL.len());
    assert_eq!(site.forge(&["explain", "E-NO-1"]).output().unwrap().status.code(), Some(2));
}

/// A box without a network: its request comes by stick, and the grant goes back the same way, once a person let it in.
#[test]
fn a_request_by_stick_is_answered_after_approval_and_opens_for_that_box_alone() {
    use forge::enroll::claim::{Claim, GrantRequest};
    use forge::enroll::envelope::Nonce;
    use forge::enroll::grant::{Grant, OpeningKey};
    use forge::enroll::offline::OfflineRequest;
    use forge::enroll::{DeviceId, bundle::grant_name};

    let site = Site::new();
    let home = forge::fleet::Home::init(&site.path("fleet"), "shops", &["localhost".into()]).unwrap();
    home.set_roots(&site.trust().roots).unwrap();
    let described =
        ["--fleet", "fleet/fleet.json", "--set", "enroll.ticket=\"batch\"", "--inventory", "devices.csv"];
    let output = site.bundle(&[&described[..], &["--out", "bundles"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = read(&site.path("bundles/store-042/forge-enroll"));
    let bundle = Bundle::open(&files, &site.trust()).unwrap();

    let (device, opening) = (PrivateKey::generate().unwrap(), OpeningKey::from_seed(&[7; 32]));
    let id = DeviceId::of(device.public_key());
    let nonce = Nonce::from_random([9; 16]);
    let claim = Claim {
        bootstrap: serde_json::from_slice(&files[BOOTSTRAP]).unwrap(),
        device_pub: device.public_key().clone(),
        enc_pub: opening.sealing_key(),
        facts: forge::enroll::evidence::Facts { serial: Some("PF-1".into()), ..Default::default() },
        ek_cert: None,
        boot_count: 1,
        agent: "0.1.0".into(),
        generation: 0,
    };
    let wanted = GrantRequest { nonce: nonce.clone(), csrs: vec![], have_generation: 0 };
    let sealed = OfflineRequest { claim, grant: wanted };
    let sealed = sealed.seal(&[&device, bundle.ticket.as_ref().unwrap()]).unwrap();
    std::fs::write(site.path("box.req"), &sealed).unwrap();

    let answer =
        || site.forge(&["enroll", "answer", "box.req", "--out", "stick", "--json"]).output().unwrap();
    let waiting = answer();
    assert!(String::from_utf8_lossy(&waiting.stdout).contains("pending"), "{waiting:?}");
    let grant = site.path("stick").join(grant_name(&id));
    assert!(!grant.exists());
    ok(&mut site.forge(&["fleet", "approve", id.as_str(), "--dir", "fleet"]));
    let granted = answer();
    assert!(granted.status.success(), "{}", String::from_utf8_lossy(&granted.stderr));
    let bytes = std::fs::read(&grant).unwrap();
    let keys = &bundle.bootstrap.get().signers.grant_keys;
    let opened = Grant::open(&serde_json::from_slice(&bytes).unwrap(), keys, 1).unwrap();
    opened.unseal(&id, &nonce, 0, &opening).unwrap();
    assert!(opened.unseal(&id, &nonce, 0, &OpeningKey::from_seed(&[8; 32])).is_err());
    answer();
    assert_eq!(std::fs::read(&grant).unwrap(), bytes, "asked again, the same grant");

    let mut changed = sealed.clone();
    let at = changed.len() / 2;
    changed[at] ^= 1;
    std::fs::write(site.path("box.req"), &changed).unwrap();
    assert_eq!(answer().status.code(), Some(4), "a changed request");
}
