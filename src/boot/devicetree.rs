//! Device trees that a kernel brings: the one that a profile names, as the kernel image carries it.
//!
//! systemd-stub installs section `.dtb` as UEFI's configuration table in the place of the firmware's own tree
//! (systemd-stub(7)). Firmware that fills in what it alone knows does so in that very memory: NVIDIA's at each
//! `InstallConfigurationTable` (edk2-nvidia, `DxeDtPlatformDtbKernelLoaderLib.c`, `UpdateFdt`), and what finds no room it
//! leaves out. Its own loader makes room first, four times the tree (`L4TLauncher.c`); the stub does not, so the room is
//! made here. Layout: Devicetree Specification 0.4, chapter 5.

use crate::tree::{Content, NodeKind, Tree, TreePath};
use anyhow::{Context as _, anyhow, bail, ensure};

/// Where a kernel's trees are: as Debian's and the kernel's own `bindeb-pkg` have it, and as Ubuntu's.
const DIRS: [(&str, &str); 2] = [("usr/lib/linux-image-", ""), ("usr/lib/firmware/", "/device-tree")];
/// The first four bytes.
const MAGIC: u32 = 0xd00d_feed;
/// Bytes of the header of version 17.
const HEADER: usize = 40;
/// The largest tree that is taken, in bytes: an Orin's has half a megabyte, and the room is a multiple of it.
const MAX_TREE: u64 = 4 << 20;
/// How many times its size the tree has with the room for firmware: as NVIDIA's own loader makes it.
const ROOM: usize = 4;
/// How many names a message has.
const SHOWN: usize = 12;

/// The tree `name` of kernel `release` in `os`, such as `nvidia/tegra234-p3768-0000+p3767-0005.dtb`.
///
/// # Errors
/// When the kernel has no such tree, telling those beside it; when it is none.
pub fn find<'a>(os: &'a Tree, release: &str, name: &str) -> anyhow::Result<&'a Content> {
    let mut beside: Vec<String> = vec![];
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut count = 0;
    for (before, behind) in DIRS {
        let dir = TreePath::parse(&format!("{before}{release}{behind}"))?;
        if let Some(tree) = os.file(&dir.join(name)?) {
            return Ok(tree);
        }
        for (path, node) in os.below(&dir) {
            let relative =
                path.as_str().strip_prefix(dir.as_str()).unwrap_or_default().trim_start_matches('/');
            if !matches!(node.kind, NodeKind::File(_)) || !relative.ends_with(".dtb") {
                continue;
            }
            count += 1;
            if relative.rsplit_once('/').map_or("", |(folder, _)| folder) == folder {
                beside.push(relative.into());
            }
        }
    }
    let has = match (count, beside.len()) {
        (0, _) => "it brings none".to_string(),
        (_, 0) => format!("none of its {count} is in `{folder}`"),
        (_, many) => {
            let more = if many > SHOWN { format!(" and {} more", many - SHOWN) } else { String::new() };
            beside.truncate(SHOWN);
            format!("in `{folder}` it has {}{more}", beside.join(", "))
        }
    };
    Err(anyhow!("kernel {release} has no device tree `{name}`: {has}"))
}

/// `tree` with room behind it: the header says the larger size, every other byte stays where it is.
///
/// # Errors
/// When it is no flattened device tree of version 17 whose blocks lie in their order.
pub fn with_room(tree: &Content) -> anyhow::Result<Content> {
    let mut bytes = tree.to_vec(MAX_TREE).context("reading the device tree")?;
    let word = |index: usize| -> anyhow::Result<usize> {
        let at = bytes.get(index * 4..index * 4 + 4).context("it ends in its header")?;
        Ok(u32::from_be_bytes([at[0], at[1], at[2], at[3]]) as usize)
    };
    ensure!(word(0)? == MAGIC as usize, "it does not start as a flattened device tree does");
    let [total, structure, strings, reserved, version, compatible] =
        [word(1)?, word(2)?, word(3)?, word(4)?, word(5)?, word(6)?];
    if version < 17 || compatible > 17 {
        bail!("it is of version {version}, not 17");
    }
    let ([strings_size, structure_size], size) = ([word(8)?, word(9)?], bytes.len());
    ensure!(total == size, "it says that it has {total} bytes and has {size}");
    // libfdt grows a tree in place where its blocks are in this order; else it would have to move them.
    let in_order = HEADER <= reserved
        && reserved <= structure
        && structure.checked_add(structure_size).is_some_and(|end| end <= strings)
        && strings.checked_add(strings_size).is_some_and(|end| end <= total);
    ensure!(in_order, "its blocks overlap or are not in their order");
    let grown = size * ROOM;
    bytes[4..8].copy_from_slice(&u32::try_from(grown)?.to_be_bytes());
    bytes.resize(grown, 0);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    /// The empty tree, as `echo '/dts-v1/; / { };' | dtc` writes it.
    fn empty() -> Vec<u8> {
        let header = [MAGIC, 0x48, 0x38, 0x48, 0x28, 17, 16, 0, 0, 0x10];
        let blocks = [0, 0, 0, 0, 1, 0, 2, 9];
        header.iter().chain(&blocks).flat_map(|word: &u32| word.to_be_bytes()).collect()
    }

    fn os(trees: &[&str]) -> Tree {
        let mut os = Tree::new();
        for tree in trees {
            os.insert(TreePath::parse(tree).unwrap(), Node::text(*tree, 0o644)).unwrap();
        }
        os
    }

    #[test]
    fn the_tree_of_that_kernel_is_found_or_its_neighbours_are_told() {
        let os = os(&[
            "usr/lib/linux-image-6.12/nvidia/tegra234-a.dtb",
            "usr/lib/linux-image-6.12/nvidia/tegra234-b.dtb",
            "usr/lib/linux-image-6.12/qcom/x.dtb",
            "usr/lib/firmware/6.8/device-tree/nvidia/tegra234-a.dtb",
        ]);
        let found = find(&os, "6.12", "nvidia/tegra234-b.dtb").unwrap();
        assert_eq!(found.to_vec(99).unwrap(), b"usr/lib/linux-image-6.12/nvidia/tegra234-b.dtb");
        assert!(find(&os, "6.8", "nvidia/tegra234-a.dtb").is_ok());
        let told = |release, name| find(&os, release, name).unwrap_err().to_string();
        assert_eq!(
            told("6.12", "nvidia/tegra234-c.dtb"),
            "kernel 6.12 has no device tree `nvidia/tegra234-c.dtb`: in `nvidia` it has nvidia/tegra234-a.dtb, \
             nvidia/tegra234-b.dtb"
        );
        assert!(told("6.12", "arm/x.dtb").ends_with("none of its 3 is in `arm`"));
        assert!(told("6.1", "arm/x.dtb").ends_with("it brings none"));
    }

    #[test]
    fn a_tree_gets_room_and_keeps_its_bytes() {
        let tree = with_room(&empty().into()).unwrap().to_vec(1 << 20).unwrap();
        assert_eq!(tree.len(), 0x48 * 4);
        assert_eq!(tree[4..8], (0x48u32 * 4).to_be_bytes());
        assert_eq!((&tree[..4], &tree[8..0x48]), (&empty()[..4], &empty()[8..]));
        assert!(tree[0x48..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let refused = |at: usize, word: u32| {
            let mut bytes = empty();
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            with_room(&bytes.into()).unwrap_err().to_string()
        };
        assert!(refused(0, 0x7f45_4c46).contains("does not start"));
        assert!(refused(4, 0x49).contains("73 bytes and has 72"));
        assert!(refused(20, 16).contains("version 16"));
        assert!(refused(36, u32::MAX).contains("order"));
        assert!(with_room(&vec![0xd0].into()).is_err());
    }
}
