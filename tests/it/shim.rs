//! Shim's way onto a machine: the programs of a disk as Debian signed them, the kernel image as the site did, and what cannot
//! go that way.

use crate::fixture::{events, forge, ok, refused, shared};
use crate::support;
use forge::boot::{authenticode, shim};
use forge::disk::DiskImage;
use forge::disk::gpt::PartitionType;
use forge::sign::rsa;
use forge::tree::Content;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

#[test]
fn sbverify_takes_every_link_from_shim_to_the_kernel_image() {
    let Some(shared) = shared() else { return };
    let (Some(sbverify), Some(mcopy), Some(openssl)) =
        (support::tool("sbverify"), support::tool("mcopy"), support::tool("openssl"))
    else {
        return;
    };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let profile = shared.source_in(dir);
    let cache = shared.cache();
    let key = profile.with_file_name("sb.key");
    ok(forge(&cache).args(["key", "generate", "--secure-boot", "--no-passphrase"]).arg(&key));
    let with = |more: &[&str]| {
        let mut build = forge(&cache);
        build
            .args(["--json", "build"])
            .args(more)
            .args(["--set", "sign.secure-boot={ key = \"sb.key\", cert = \"sb.crt\", shim = true }"]);
        build.arg(&profile).arg("--out").arg(dir.join("dist"));
        build
    };
    let said = refused(&mut with(&["--artifact", "iso"]), 2);
    assert!(said.contains("by way of shim"), "{said}");
    let told = ok(&mut with(&["--artifact", "disk"]));
    let release = events(&told, "release")[0]["dir"].as_str().unwrap().to_string();
    let held = ok(forge(&cache).args(["verify", &release, "--key"]).arg(shared.key()));
    for by in [
        "EFI/BOOT/BOOTX64.EFI  signed for Secure Boot by C=US, ST=Washington, L=Redmond, O=Microsoft",
        "EFI/BOOT/grubx64.efi  signed for Secure Boot by CN=Debian Secure Boot Signer",
        "EFI/BOOT/mmx64.efi  signed for Secure Boot by CN=Debian Secure Boot Signer",
        ".efi  signed for Secure Boot by CN=forge Secure Boot",
    ] {
        assert!(held.contains(by), "{by}:\n{held}");
    }

    let raw = dir.join("disk.raw");
    forge::run::disk::unpack(&Path::new(&release).join("amd64/disk.raw.zst"), &raw, 0).unwrap();
    let disk = DiskImage::open(Content::of_file(Arc::new(File::open(&raw).unwrap())).unwrap()).unwrap();
    let esp = disk.table().partitions.iter().find(|p| p.type_guid == PartitionType::Esp.guid()).unwrap();
    let esp = format!("{}@@{}", raw.display(), esp.offset);
    let read = |path: &str, to: &str| {
        let to = dir.join(to);
        ok(Command::new(&mcopy).args(["-n", "-i", &esp, &format!("::{path}")]).arg(&to));
        to
    };
    let (first, loader) = (read("EFI/BOOT/BOOTX64.EFI", "shim"), read("EFI/BOOT/grubx64.efi", "loader"));
    let (manager, mok) = (read("EFI/BOOT/mmx64.efi", "manager"), read("mok.cer", "mok.cer"));
    let kernel = read("EFI/Linux/*.efi", "kernel");
    assert_eq!(
        std::fs::read(&mok).unwrap(),
        std::fs::read(Path::new(&release).join("amd64/secure-boot/mok.cer")).unwrap()
    );

    let content = |path: &Path| Content::of_file(Arc::new(File::open(path).unwrap())).unwrap();
    let pem = |der: &Path, to: &str| {
        let to = dir.join(to);
        ok(Command::new(&openssl).args(["x509", "-inform", "der", "-in"]).arg(der).arg("-out").arg(&to));
        to
    };
    let vendor = dir.join("vendor.cer");
    std::fs::write(&vendor, shim::vendor_certificate(&content(&first)).unwrap()).unwrap();
    let (vendor, site) = (pem(&vendor, "vendor.pem"), pem(&mok, "mok.pem"));
    let holds = |certificate: &Path, image: &Path| {
        Command::new(&sbverify).arg("--cert").arg(certificate).arg(image).output().unwrap().status.success()
    };
    assert!(holds(&vendor, &loader) && holds(&vendor, &manager) && holds(&site, &kernel));
    assert!(!holds(&site, &loader) && !holds(&vendor, &kernel));
    let listed = ok(Command::new(&sbverify).arg("--list").arg(&first));
    assert!(listed.contains("CN=Microsoft Corporation UEFI CA 2011"), "{listed}");
    // As many as sbverify sees, and each holds.
    let signatures = authenticode::signatures(&content(&first)).unwrap();
    assert_eq!(signatures.len(), listed.matches("image signature issuers").count());
    for signature in &signatures {
        rsa::verify(&signature.certificate, &signature.message, &signature.signature).unwrap();
    }
    let mut changed = std::fs::read(&first).unwrap();
    changed[0x30000] ^= 1;
    assert!(authenticode::signatures(&changed.into()).is_err());
}
