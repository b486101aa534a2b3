//! A kernel image and systemd-boot → both signed for UEFI Secure Boot, and the updates that enrol the certificate.

use super::Kitchen;
use crate::boot::authenticode::variable::{self, Variable};
use crate::boot::{authenticode, root};
use crate::model::Guid;
use crate::plan::{LOADER, Signed};
use crate::sign::rsa::{BootSigner, certificate_der};
use crate::tree::Content;
use anyhow::{Context as _, ensure};

/// Longer than any certificate in PEM, in bytes.
const MAX_CERTIFICATE: u64 = 64 * 1024;

/// Writes `forge.efi`, `systemd-boot.efi`, `db.cer`, and an `.auth` file for each variable.
pub fn run(spec: &Signed, kitchen: &mut Kitchen<'_>) -> anyhow::Result<()> {
    let signer = kitchen.env.boot_signer.context("there is no key for Secure Boot")?;
    let certificate = certificate_der(&kitchen.blob(spec.certificate)?.to_vec(MAX_CERTIFICATE)?)?;
    // The step's key has the certificate's digest and not the key's: the two must belong together.
    ensure!(
        signer.certificate() == certificate,
        "the key for Secure Boot is another certificate's than the lock's"
    );
    let os = kitchen.tree(&spec.os)?;
    let (_, loader) = root::loader(&os, spec.arch)?;
    let uki = kitchen.content(&spec.uki, "forge.efi")?;
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
