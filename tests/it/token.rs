//! Keys that never leave a PKCS #11 token: SoftHSM holds them, forge signs a release and what boots it with them.

use crate::fixture::{self, events, forge, ok, refused};
use crate::support::tool;
use forge::disk::DiskImage;
use forge::disk::gpt::PartitionType;
use forge::tree::Content;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const PIN: &str = "274186";

/// A token with an Ed25519 key that was made in it, and an RSA key with a certificate.
struct Hsm {
    config: PathBuf,
    module: PathBuf,
    certificate: PathBuf,
}

impl Hsm {
    fn new(dir: &Path) -> Option<Hsm> {
        let (util, pkcs11) = (tool("softhsm2-util")?, tool("pkcs11-tool")?);
        let openssl = tool("openssl")?;
        let hsm = Hsm {
            config: dir.join("softhsm2.conf"),
            module: ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"]
                .map(PathBuf::from)
                .into_iter()
                .find(|path| path.is_file())
                .unwrap(),
            certificate: dir.join("boot.crt"),
        };
        std::fs::create_dir(dir.join("tokens")).unwrap();
        let text = format!("directories.tokendir = {}\n", dir.join("tokens").display());
        std::fs::write(&hsm.config, text).unwrap();
        let run = |program: &Path, words: &[&str]| {
            ok(Command::new(program).args(words).env("SOFTHSM2_CONF", &hsm.config).current_dir(dir))
        };
        run(&util, &["--init-token", "--free", "--label", "the house", "--so-pin", "918273", "--pin", PIN]);
        let module = hsm.module.to_str().unwrap();
        run(
            &pkcs11,
            &[
                "--module",
                module,
                "--login",
                "--pin",
                PIN,
                "--token-label",
                "the house",
                "--keypairgen",
                "--key-type",
                "EC:edwards25519",
                "--label",
                "release",
                "--id",
                "02",
            ],
        );
        run(
            &openssl,
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=boot", "-days", "3650",
                "-keyout", "boot.pem", "-out", "boot.crt",
            ],
        );
        run(
            &util,
            &["--import", "boot.pem", "--token", "the house", "--label", "boot", "--id", "01", "--pin", PIN],
        );
        std::fs::remove_file(dir.join("boot.pem")).unwrap();
        Some(hsm)
    }

    fn uri(&self, object: &str) -> String {
        format!("pkcs11:token=the%20house;object={object}?module-path={}", self.module.display())
    }

    fn forge(&self, cache: &Path) -> Command {
        let mut command = forge(cache);
        command.env("SOFTHSM2_CONF", &self.config).env("HOUSE_PIN", PIN).env("FORGE_KEY_PASSWORD", PIN);
        command
    }
}

#[test]
fn a_release_and_what_boots_it_are_signed_by_a_token() {
    let Some(shared) = fixture::shared() else { return };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let Some(hsm) = Hsm::new(dir) else { return };
    let (Some(sbverify), Some(mcopy)) = (tool("sbverify"), tool("mcopy")) else { return };
    let cache = shared.warm_cache_in(dir);
    let profile = shared.source_in(dir);
    let boot = format!("{}&pin-source=env:HOUSE_PIN", hsm.uri("boot"));
    std::fs::copy(&hsm.certificate, profile.with_file_name("boot.crt")).unwrap();

    let public = ok(hsm.forge(&cache).args(["key", "export", &hsm.uri("release")]));
    std::fs::write(dir.join("release.pub"), public).unwrap();
    let mut build = hsm.forge(&cache);
    build.args(["--json", "build", "--offline"]).arg(&profile).arg("--out").arg(dir.join("dist"));
    build.args(["--set", &format!("sign.key={:?}", hsm.uri("release"))]);
    build.args(["--set", &format!("sign.secure-boot={{ key = {boot:?}, cert = \"boot.crt\" }}")]);
    let told = ok(&mut build);
    let release = PathBuf::from(events(&told, "release")[0]["dir"].as_str().unwrap());
    let said = ok(hsm.forge(&cache).arg("verify").arg(&release).arg("--key").arg(dir.join("release.pub")));
    assert!(said.contains("CN=boot"), "{said}");

    let raw = dir.join("disk.raw");
    forge::run::disk::unpack(&release.join("amd64/disk.raw.zst"), &raw, 0).unwrap();
    let disk = DiskImage::open(Content::of_file(Arc::new(File::open(&raw).unwrap())).unwrap()).unwrap();
    let esp = disk.table().partitions.iter().find(|p| p.type_guid == PartitionType::Esp.guid()).unwrap();
    let loader = dir.join("loader.efi");
    let at = format!("{}@@{}", raw.display(), esp.offset);
    ok(Command::new(mcopy).args(["-i", &at, "::EFI/BOOT/BOOTX64.EFI"]).arg(&loader));
    ok(Command::new(sbverify).arg("--cert").arg(&hsm.certificate).arg(&loader));

    // What is not as it should be is said before anything is built.
    let mut wrong = hsm.forge(&cache);
    wrong.args(["key", "export", &hsm.uri("release")]).env("FORGE_KEY_PASSWORD", "000000");
    let said = refused(&mut wrong, 2);
    assert!(said.contains("giving token `the house` its PIN"), "{said}");
    for (uri, why) in [
        (hsm.uri("nobody"), "has not one private key by that name"),
        (hsm.uri("boot"), "releases are signed with Ed25519"),
        (hsm.uri("release").replace("house", "street"), "there are 0 tokens `the street`"),
        (hsm.uri("release").replace("libsofthsm2", "none"), "loading the module"),
    ] {
        let said = refused(hsm.forge(&cache).args(["key", "export", &uri]), 2);
        assert!(said.contains(why), "{uri}: {said}");
    }
}
