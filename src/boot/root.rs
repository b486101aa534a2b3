//! The root of a device: the merged layers, less what the UKI carries instead; and what of them goes into the UKI.

use crate::model::Arch;
use crate::tree::{Content, Node, Tree, TreePath};
use anyhow::{Context as _, bail};

/// The release of the one kernel in `os`.
///
/// # Errors
/// When there is none, or more than one: a UKI starts exactly one.
pub fn kernel_release(os: &Tree) -> anyhow::Result<String> {
    let dir = TreePath::parse("usr/lib/modules")?;
    let releases: Vec<&str> = os
        .below(&dir)
        .filter(|(p, n)| n.is_dir() && p.parent().as_ref() == Some(&dir))
        .filter(|(p, _)| p.join("modules.dep").is_ok_and(|dep| os.get(&dep).is_some()))
        .map(|(p, _)| p.name())
        .collect();
    match releases.as_slice() {
        [one] => Ok(one.to_string()),
        [] => bail!("the packages bring no kernel: /usr/lib/modules holds none"),
        many => bail!("the packages bring {} kernels ({}), a device starts one", many.len(), many.join(", ")),
    }
}

/// The kernel `release` of `os`.
///
/// # Errors
/// When it is not where Debian's packages put it.
pub fn kernel<'a>(os: &'a Tree, release: &str) -> anyhow::Result<&'a Content> {
    let path = TreePath::parse(&format!("boot/vmlinuz-{release}"))?;
    os.file(&path).with_context(|| format!("the packages bring no /{path}"))
}

/// systemd's stub of the UKI, and systemd-boot: `(stub, boot loader)`.
///
/// # Errors
/// When package systemd-boot-efi is not in `tree`.
pub fn loader(tree: &Tree, arch: Arch) -> anyhow::Result<(&Content, &Content)> {
    let find = |file: String| {
        let path = TreePath::parse(&format!("usr/lib/systemd/boot/efi/{file}"))?;
        tree.file(&path)
            .with_context(|| format!("the tree has no /{path}: package systemd-boot-efi brings it"))
    };
    Ok((find(format!("linux{}.efi.stub", arch.efi()))?, find(format!("systemd-boot{}.efi", arch.efi()))?))
}

/// The merged layers as they lie on the device: without kernel, initrd and links to them, which the signed UKI carries.
/// `/boot` is left as an empty directory, on which systemd mounts the ESP.
///
/// # Errors
/// As [`Tree::insert`].
pub fn compose(mut layers: Tree) -> anyhow::Result<Tree> {
    let boot = TreePath::parse("boot")?;
    layers.remove(&boot);
    layers.insert(boot, Node::dir(0o755))?;
    for link in ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"] {
        layers.remove(&TreePath::parse(link)?);
    }
    layers.check()?;
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            tree.insert(TreePath::parse(path).unwrap(), Node::text("x", 0o644)).unwrap();
        }
        tree
    }

    #[test]
    fn one_kernel_and_only_one() {
        let one = "usr/lib/modules/6.12/modules.dep";
        assert_eq!(kernel_release(&tree(&[one, "usr/lib/modules/old/x"])).unwrap(), "6.12");
        assert!(kernel_release(&tree(&[])).unwrap_err().to_string().contains("no kernel"));
        let two = kernel_release(&tree(&[one, "usr/lib/modules/6.13/modules.dep"])).unwrap_err().to_string();
        assert!(two.contains("2 kernels (6.12, 6.13)"), "{two}");
    }

    #[test]
    fn the_kernel_stays_in_the_uki() {
        let root = compose(tree(&["boot/vmlinuz-6.12", "vmlinuz", "etc/x"])).unwrap();
        let left: Vec<&str> = root.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(left, ["", "boot", "etc", "etc/x"]);
    }
}
