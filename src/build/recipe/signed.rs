//! A kernel image and systemd-boot → both signed for UEFI Secure Boot, and the updates that enrol the certificate; by way of
//! shim the kernel image signed, and the programs before it as their vendor signed them.

use super::{Kitchen, firmware};
use crate::boot::authenticode::variable::{self, Variable};
use crate::boot::{authenticode, root, shim};
use crate::error::{Kind, Mark as _};
use crate::model::Guid;
use crate::plan::{LOADER, MOK, MOK_MANAGER, SHIM, Signed};
use crate::sign::rsa::{self, BootSigner, certificate_der};
use crate::tree::{Content, Tree};
use anyhow::{Context as _, ensure};

/// Longer than any certificate in PEM, in bytes.
const MAX_CERTIFICATE: u64 = 64 * 1024;

/// Writes `forge.efi`, `systemd-boot.efi`, `db.cer`, and an `.auth` file for each variable; by way of shim `forge.efi`, the
/// programs before it and `mok.cer`.
pub fn run(spec: &Signed, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let signer = kitchen.env.boot_signer.context("there is no key for Secure Boot")?;
    let certificate = certificate_der(&kitchen.blob(spec.certificate)?.to_vec(MAX_CERTIFICATE)?)?;
    // The step's key has the certificate's digest and not the key's: the two must belong together.
    ensure!(
        signer.certificate() == certificate,
        "the key for Secure Boot is another certificate's than the lock's"
    );
    let uki = kitchen.content(&spec.uki, "forge.efi")?;
    if !spec.shim.is_empty() {
        image_of("forge.efi", uki, signer, kitchen).context("signing forge.efi for Secure Boot")?;
        before(spec, kitchen)?;
        return put(MOK, &certificate, kitchen);
    }
    let os = kitchen.tree(&spec.os)?;
    let (_, loader) = root::loader(&os, spec.arch)?;
    for (name, image) in [("forge.efi", uki), (LOADER, loader.clone())] {
        image_of(name, image, signer, kitchen).with_context(|| format!("signing {name} for Secure Boot"))?;
    }
    let owner = Guid::derived(&spec.certificate, "owner of signature lists");
    for variable in Variable::ALL {
        let update = variable::update(variable, variable::list(&certificate, owner), kitchen.epoch);
        let signature = signer.sign(update.message())?;
        put(&auth(variable), &update.finish(&certificate, &signature)?, kitchen)?;
    }
    put("db.cer", &certificate, kitchen)
}

/// Writes the programs before the kernel image, out of their packages. What shim would refuse is refused here.
fn before(spec: &Signed, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let mut unpacked = Tree::new();
    for package in &spec.shim {
        let deb = kitchen.blob(package.digest)?;
        firmware::unpack(&package.name, deb.reader(), &shim::KEPT, &mut unpacked)
            .with_context(|| format!("unpacking {} {}", package.name, package.version))
            .kind(Kind::Verify)?;
    }
    let programs = shim::programs(&unpacked, spec.arch)?;
    let vendor = shim::vendor_certificate(&programs.shim).kind(Kind::Verify)?;
    for (name, image) in [(LOADER, &programs.loader), (MOK_MANAGER, &programs.manager)] {
        let by = || format!("looking for the signature of shim's vendor in {name}");
        let signature = authenticode::open(image).with_context(by)?;
        let signature = signature.context("there is none").with_context(by).kind(Kind::Verify)?;
        rsa::verify(&signature.certificate, &signature.message, &signature.signature)
            .and_then(|()| rsa::issued(&signature.certificate, &vendor))
            .with_context(by)
            .kind(Kind::Verify)?;
    }
    for (name, image) in [(SHIM, programs.shim), (LOADER, programs.loader), (MOK_MANAGER, programs.manager)] {
        std::io::copy(&mut image.reader(), &mut kitchen.stage.create(name)?)?;
        kitchen.stage.hash(name)?;
    }
    Ok(())
}

/// The name of a variable's update.
pub fn auth(variable: Variable) -> String {
    format!("{}.auth", variable.name())
}

fn image_of(
    name: &str,
    image: Content,
    signer: &BootSigner,
    kitchen: &mut Kitchen<'_>,
) -> anyhow::Result<()> {
    let prepared = authenticode::prepare(image, signer.certificate())?;
    let signature = signer.sign(prepared.message())?;
    prepared.write(&signature, &kitchen.stage.create(name)?)?;
    kitchen.stage.hash(name)?;
    Ok(())
}

fn put(name: &str, bytes: &[u8], kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    std::io::Write::write_all(&mut kitchen.stage.create(name)?, bytes)?;
    kitchen.stage.hash(name)?;
    Ok(())
}
