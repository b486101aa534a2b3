//! Debian's shim: the way onto machines whose firmware has Microsoft's keys and no others.
//!
//! | by | starts | because |
//! |---|---|---|
//! | firmware | shim, `EFI/BOOT/BOOT*.EFI` | Microsoft signed it |
//! | shim | systemd-boot, beside it as `grub*.efi` | Debian signed it, and shim holds Debian's certificate |
//! | systemd-boot, which asks shim | the kernel image | the site signed it, and its certificate is in `MokList` or `db` |
//! | shim, when the last was refused | MokManager, beside it as `mm*.efi` | Debian signed it too |
//!
//! shim's names are compiled in (rhboot/shim, `DEFAULT_LOADER`, `MOK_MANAGER`). Its third program, the fallback, is left out:
//! it would write boot entries into the firmware and restart. Files come from the packages unpacked, nothing is installed.
//! Which suites have both packages: trixie and later; bookworm has the same shim and no signed systemd-boot.
//!
//! Knows no keys: whether a signature holds, and who issued its certificate, is for who asks.

use super::pe::Pe;
use crate::model::Arch;
use crate::tree::{Content, Tree, TreePath};
use anyhow::{Context as _, ensure};

/// The directory of the removable medium's boot programs (UEFI 2.10, 3.5.1.1), which shim looks for the others in.
pub const DIR: &str = "EFI/BOOT";
/// Directories of the packages that the programs lie in.
pub const KEPT: [&str; 2] = ["usr/lib/shim", "usr/lib/systemd/boot/efi"];
/// The longest table of certificates that is taken, in bytes: shim's has 6 KB, most of it revoked ones.
const MAX_TABLE: u64 = 256 * 1024;

/// The packages that bring shim, MokManager and systemd-boot, each signed.
pub fn packages(arch: Arch) -> [String; 3] {
    ["shim-signed".into(), format!("shim-helpers-{arch}-signed"), format!("systemd-boot-efi-{arch}-signed")]
}

/// The programs before the kernel image.
#[derive(Clone, Debug)]
pub struct Programs {
    /// shim.
    pub shim: Content,
    /// MokManager.
    pub manager: Content,
    /// systemd-boot.
    pub loader: Content,
}

/// The programs, out of what the packages unpack to.
///
/// # Errors
/// When a file is not where Debian's packages have it.
pub fn programs(unpacked: &Tree, arch: Arch) -> anyhow::Result<Programs> {
    let efi = arch.efi();
    let find = |path: String| {
        let content = unpacked.file(&TreePath::parse(&path)?);
        content.cloned().with_context(|| format!("the packages bring no /{path}"))
    };
    Ok(Programs {
        shim: find(format!("usr/lib/shim/shim{efi}.efi.signed"))?,
        manager: find(format!("usr/lib/shim/mm{efi}.efi.signed"))?,
        loader: find(format!("usr/lib/systemd/boot/efi/systemd-boot{efi}.efi.signed"))?,
    })
}

/// Names on the ESP of MokManager and of what shim starts: `(MokManager, second stage)`.
pub fn names(arch: Arch) -> (String, String) {
    let efi = arch.efi();
    (format!("{DIR}/mm{efi}.efi"), format!("{DIR}/grub{efi}.efi"))
}

/// The certificate, DER, whose signatures `shim` takes beside those of the machine's owner: in its section `.vendor_cert`,
/// behind lengths and offsets of what is believed and what is revoked (rhboot/shim, `cert.S`).
///
/// # Errors
/// When there is none.
pub fn vendor_certificate(shim: &Content) -> anyhow::Result<Vec<u8>> {
    let pe = Pe::open(shim.clone())?;
    let section = pe.sections().iter().find(|s| s.name == ".vendor_cert");
    let section = section.context("shim has no section `.vendor_cert`")?;
    let table = section.content.to_vec(MAX_TABLE)?;
    let number = |at: usize| -> Option<usize> {
        let bytes = table.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let place = number(0).zip(number(8)).context("shim's table of certificates is cut off")?;
    let (length, start) = place;
    let end = start.checked_add(length).context("shim's table of certificates contradicts itself")?;
    let certificate = table.get(start..end).context("shim's certificate lies outside of its table")?;
    ensure!(!certificate.is_empty(), "shim holds no vendor's certificate");
    Ok(certificate.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    #[test]
    fn programs_are_where_the_packages_have_them_and_what_is_missing_is_named() {
        let mut tree = Tree::new();
        let loader = "usr/lib/systemd/boot/efi/systemd-bootaa64.efi.signed";
        let paths = ["usr/lib/shim/shimaa64.efi.signed", "usr/lib/shim/mmaa64.efi.signed", loader];
        for path in paths {
            tree.insert(TreePath::parse(path).unwrap(), Node::text(path, 0o644)).unwrap();
        }
        let found = programs(&tree, Arch::Arm64).unwrap();
        assert_eq!(found.loader.to_vec(99).unwrap(), loader.as_bytes());
        assert_eq!(names(Arch::Arm64), ("EFI/BOOT/mmaa64.efi".into(), "EFI/BOOT/grubaa64.efi".into()));
        let fault = programs(&tree, Arch::Amd64).unwrap_err().to_string();
        assert!(fault.contains("/usr/lib/shim/shimx64.efi.signed"), "{fault}");
    }

    #[test]
    fn what_is_no_shim_has_no_vendor() {
        let image = crate::boot::pe::tests::minimal();
        assert!(vendor_certificate(&image.into()).unwrap_err().to_string().contains(".vendor_cert"));
    }
}
