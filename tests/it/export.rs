//! `forge enroll export`: one profile and inventory in the words of other systems, held against those systems' own checkers.

use crate::fixture::ok;
use crate::support;
use serde_json::Value as Json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROFILE: &str = r#"
schema = 1
[site]
name = "shop"
labels = { region = "eu" }
[os]
base = "debian:trixie"
timezone = "Europe/Berlin"
ntp = ["ntp.example"]
[[os.user]]
name = "ops"
ssh-keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1BF4MjGNy0vTAnkpiVgNAxCqPPCDbgFQ0SKcyzUOZw ops"]
[sign]
key = "file:release.key"
[export]
inventory = "devices.csv"
proxy = "http://proxy.example:3128"
authorities = ["site-ca.pem"]
[export.flightctl]
server = "https://agent-api.example:7443"
ca = "site-ca.pem"
certificate = "client.crt"
key = "file:client.key"
[export.elemental]
url = "env:ELEMENTAL_URL"
"#;

const DEVICES: &str = "name,macs,labels,address,gateway,dns,vlan,port\n\
    till-1,02:00:00:00:00:01,tier=retail,192.0.2.7/24,192.0.2.1,192.0.2.53,,eth0\n\
    till-2,02:00:00:00:00:02,,2001:db8::7/64,2001:db8::1,,7,\n\
    till-3,,,,,,,\n";

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        let site = Site(tempfile::tempdir().unwrap());
        site.write("site.toml", PROFILE);
        site.write("devices.csv", DEVICES);
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        site.write("site-ca.pem", &authority);
        site.write("client.crt", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n");
        site.write("client.key", "the client's private key\n");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn export(&self, format: &str, more: &[&str]) -> Output {
        let mut forge = Command::new(env!("CARGO_BIN_EXE_forge"));
        forge
            .current_dir(self.0.path())
            .env("ELEMENTAL_URL", "https://rancher.example/elemental/registration/t0ken");
        forge.env("PALETTE_TOKEN", "p4lette-t0ken");
        forge.args(["enroll", "export", "site.toml", "--format", format, "--out", format]).args(more);
        forge.output().unwrap()
    }

    fn exported(&self, format: &str, more: &[&str]) -> Output {
        let output = self.export(format, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

/// The YAML at `path`, by the reader that the other systems have, too.
fn yaml(path: &Path) -> Json {
    let code = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = ok(Command::new(support::tool("python3").unwrap()).args(["-c", code]).arg(path));
    serde_json::from_str(&output).unwrap()
}

/// What a JSON Schema of cloud-init's says to the YAML at `path`: nothing where it holds.
fn schema_faults(schema: &str, path: &Path) -> String {
    let oracles = std::env::var("FORGE_ORACLES")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oracles"), PathBuf::from);
    let schema = oracles.join("trixie/usr/lib/python3/dist-packages/cloudinit/config/schemas").join(schema);
    let code = "import json, sys, yaml, jsonschema\n\
        schema, data = json.load(open(sys.argv[1])), yaml.safe_load(open(sys.argv[2]))\n\
        faults = jsonschema.Draft4Validator(schema).iter_errors(data)\n\
        print('\\n'.join(str(list(f.path)) + ' ' + f.message[:200] for f in faults), end='')";
    ok(Command::new(support::tool("python3").unwrap()).args(["-c", code]).args([&schema, path]))
}

#[test]
fn cloud_init_takes_the_seeds() {
    let Some(_) = support::tool("ignition-validate") else { return };
    let site = Site::new();
    site.exported("nocloud", &[]);
    for name in ["till-1", "till-2", "till-3"] {
        let dir = site.path("nocloud").join(name);
        let user_data = dir.join("user-data");
        assert!(std::fs::read_to_string(&user_data).unwrap().starts_with("#cloud-config\n"));
        assert_eq!(schema_faults("schema-cloud-config-v1.json", &user_data), "");
        let mode = std::fs::metadata(&user_data).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let meta = yaml(&dir.join("meta-data"));
        assert_eq!((&meta["local-hostname"], &meta["labels"]["region"]), (&name.into(), &"eu".into()));
        let network = dir.join("network-config");
        assert_eq!(network.exists(), name != "till-3", "DHCP is the system's own default");
        if network.exists() {
            assert_eq!(schema_faults("schema-network-config-v2.json", &network), "");
        }
    }
    // The oracle sees what is wrong.
    site.write("wrong.yaml", "users: 7\nntp: {servers: ntp.example}\n");
    assert_ne!(schema_faults("schema-cloud-config-v1.json", &site.path("wrong.yaml")), "");
}

#[test]
fn a_seed_volume_is_found_by_its_label() {
    let Some(mcopy) = support::tool("mcopy") else { return };
    let site = Site::new();
    for (format, label, file) in [
        ("nocloud", "CIDATA", "user-data"),
        ("ignition", "IGNITION", "ignition/config.ign"),
        ("combustion", "COMBUSTION", "combustion/script"),
        ("flightctl", "FLIGHTCTL", "etc/flightctl/config.yaml"),
    ] {
        site.exported(format, &["--image"]);
        let volume = site.path(format).join("till-1.img");
        let found = ok(Command::new(support::tool("blkid").unwrap())
            .args(["-o", "value", "-s", "LABEL"])
            .arg(&volume));
        assert_eq!(found.trim(), label);
        let text = ok(Command::new(&mcopy).arg("-i").arg(&volume).arg(format!("::{file}")).arg("-"));
        assert!(text.len() > 100, "{format}");
    }
}

#[test]
fn ignition_takes_the_seeds() {
    let Some(validate) = support::tool("ignition-validate") else { return };
    let site = Site::new();
    let output = site.exported("ignition", &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("labels: not told"), "what is left out is said");
    for name in ["till-1", "till-2", "till-3"] {
        let config = site.path("ignition").join(name).join("ignition/config.ign");
        ok(Command::new(&validate).arg(&config));
        let text = std::fs::read_to_string(&config).unwrap();
        site.write("wrong.ign", &text.replace("\"/etc/hostname\"", "\"etc/hostname\""));
        let refused = Command::new(&validate).arg(site.path("wrong.ign")).output().unwrap();
        assert!(!refused.status.success(), "the oracle sees what is wrong");
    }
}

#[test]
fn combustions_script_is_a_shells() {
    let Some(bash) = support::tool("bash") else { return };
    let site = Site::new();
    site.exported("combustion", &[]);
    for name in ["till-1", "till-2", "till-3"] {
        let script = site.path("combustion").join(name).join("combustion/script");
        ok(Command::new(&bash).arg("-n").arg(&script));
        assert_eq!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn agents_of_other_fleets_get_their_own_words() {
    let Some(_) = support::tool("python3") else { return };
    let site = Site::new();
    for format in ["flightctl", "elemental"] {
        let output = site.exported(format, &["--json"]);
        for spoken in [&output.stdout, &output.stderr] {
            let spoken = String::from_utf8_lossy(spoken);
            assert!(!spoken.contains("t0ken") && !spoken.contains("private key"), "{spoken}");
        }
    }
    let config = yaml(&site.path("flightctl/till-1/etc/flightctl/config.yaml"));
    assert_eq!(config["enrollment-service"]["service"]["server"], "https://agent-api.example:7443");
    assert_eq!(config["default-labels"]["tier"], "retail");
    let config = yaml(&site.path("elemental/till-1/livecd-cloud-config.yaml"));
    let registration = &config["elemental"]["registration"];
    assert_eq!(registration["url"], "https://rancher.example/elemental/registration/t0ken");
    assert!(registration.get("emulate-tpm").is_none());
}

#[test]
fn palettes_user_data_comes_from_the_same_profile() {
    let Some(_) = support::tool("python3") else { return };
    let site = Site::new();
    let agent = r#"
[agent]
kind = "palette"
config.site.paletteEndpoint = "api.example"
config.site.projectName = "shops"
config.managementMode = "central"
[export.palette]
token = "env:PALETTE_TOKEN"
"#;
    site.write("site.toml", &(PROFILE.to_string() + agent));
    // A tagged network is one that Palette's user-data has no key for: said, not left out.
    let refused = site.export("nocloud", &[]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("Palette cannot tell till-2") && !site.path("nocloud").exists(), "{told}");
    site.write(
        "devices.csv",
        &DEVICES.lines().filter(|l| !l.starts_with("till-2")).collect::<Vec<_>>().join("\n"),
    );
    site.exported("nocloud", &[]);
    let data = yaml(&site.path("nocloud/till-1/user-data"));
    let stylus = &data["stylus"]["site"];
    assert_eq!((&stylus["name"], &stylus["edgeHostToken"]), (&"till-1".into(), &"p4lette-t0ken".into()));
    assert_eq!(stylus["network"]["interfaces"]["eth0"]["mask"], "255.255.255.0");
    assert_eq!(stylus["projectName"], "shops");
    assert!(!site.path("nocloud/till-1/network-config").exists());
}

#[test]
fn a_seed_that_cannot_be_made_is_refused_with_nothing_written() {
    let site = Site::new();
    site.write("broken.csv", "name,port\ntill-1,a port/with\n");
    for (format, arguments, says) in [
        ("nocloud", &["--inventory", "broken.csv"][..], "line 2: port:"),
        ("nocloud", &["--inventory", "missing.csv"], "missing.csv"),
        ("flightctl", &["--set", "export.flightctl.key=\"env:NOT_THERE\""], "no NOT_THERE"),
        ("elemental", &["--set", "export.elemental.url=\"file:client.key\""], "no https URL"),
        ("flightctl", &["--set", "export.flightctl.server=\"agent-api.example\""], "is not an endpoint"),
    ] {
        let output = site.export(format, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(says), "{arguments:?}: {told}");
        assert!(!site.path(format).exists(), "{arguments:?}: nothing is written");
    }
}
