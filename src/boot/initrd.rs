//! The initrd: files of the same configured packages as the root, chosen by name, with everything that they load.
//!
//! systemd is its init (bootup(7), "Bootup in the initrd"): veritysetup's generator opens the root by `roothash=`,
//! repart makes what the disk lacks, fstab's generator mounts state. forge adds settings (`templates/initrd`), no code.
//! What depends on one build, sizes and hashes, travels in a second archive ([`super::slot`]), so that this one is the
//! same as long as the packages are.

use super::{elf, modules, sealed};
use crate::model::Arch;
use crate::template;
use crate::tree::{Node, NodeKind, Tree, TreePath};
use anyhow::{Context as _, bail};
use std::collections::BTreeSet;

/// What an initrd is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitrdSpec {
    /// The device's architecture.
    pub arch: Arch,
    /// The kernel's release, as [`super::root::kernel_release`] finds it.
    pub kernel: String,
    /// Modules to carry besides [`modules::ESSENTIAL`]: each must exist.
    pub modules: Vec<String>,
    /// Whether it opens a state that is encrypted.
    pub sealed: bool,
}

/// Files without which no device starts, each with the package that has it in Debian.
const PROGRAMS: &[(&str, &str)] = &[
    ("usr/lib/systemd/systemd", "systemd"),
    ("usr/lib/systemd/systemd-executor", "systemd"),
    ("usr/lib/systemd/systemd-fsck", "systemd"),
    ("usr/lib/systemd/systemd-journald", "systemd"),
    ("usr/lib/systemd/systemd-modules-load", "systemd"),
    ("usr/lib/systemd/systemd-shutdown", "systemd"),
    ("usr/lib/systemd/systemd-sysctl", "systemd"),
    ("usr/lib/systemd/systemd-sysroot-fstab-check", "systemd"),
    ("usr/lib/systemd/systemd-udevd", "udev"),
    ("usr/lib/systemd/systemd-veritysetup", "systemd-cryptsetup"),
    ("usr/lib/systemd/system-generators/systemd-fstab-generator", "systemd"),
    ("usr/lib/systemd/system-generators/systemd-veritysetup-generator", "systemd-cryptsetup"),
    ("usr/bin/journalctl", "systemd"),
    ("usr/bin/systemctl", "systemd"),
    ("usr/bin/systemd-repart", "systemd-repart"),
    ("usr/bin/systemd-tmpfiles", "systemd"),
    ("usr/bin/udevadm", "udev"),
    ("usr/bin/kmod", "kmod"),
    ("usr/sbin/modprobe", "kmod"),
    ("usr/bin/mount", "mount"),
    ("usr/bin/umount", "mount"),
    // What the emergency unit says before it restarts the device.
    ("usr/bin/echo", "coreutils"),
    ("usr/bin/sleep", "coreutils"),
    // State is made at first boot and checked after a power cut.
    ("etc/mke2fs.conf", "e2fsprogs"),
    ("usr/sbin/e2fsck", "e2fsprogs"),
    ("usr/sbin/fsck", "util-linux"),
    ("usr/sbin/fsck.ext4", "e2fsprogs"),
    ("usr/sbin/mke2fs", "e2fsprogs"),
    ("usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("usr/lib/udev/rules.d/50-udev-default.rules", "udev"),
    ("usr/lib/udev/rules.d/55-dm.rules", "dmsetup"),
    ("usr/lib/udev/rules.d/60-block.rules", "udev"),
    ("usr/lib/udev/rules.d/60-persistent-storage-dm.rules", "dmsetup"),
    ("usr/lib/udev/rules.d/60-persistent-storage.rules", "udev"),
    ("usr/lib/udev/rules.d/80-drivers.rules", "udev"),
    ("usr/lib/udev/rules.d/95-dm-notify.rules", "dmsetup"),
    ("usr/lib/udev/rules.d/99-systemd.rules", "udev"),
    ("usr/sbin/dmsetup", "dmsetup"),
];

/// Files and directories taken where they are.
const OPTIONAL: &[&str] = &[
    "usr/lib/modprobe.d",
    "usr/lib/tmpfiles.d/static-nodes-permissions.conf",
    "usr/lib/tmpfiles.d/systemd.conf",
    "usr/lib/udev/ata_id",
    "usr/lib/udev/rules.d/64-ext4.rules",
    "usr/lib/udev/scsi_id",
];

/// systemd's units of the initrd (below `usr/lib/systemd/system`).
const UNITS: &[&str] = &[
    "basic.target",
    "emergency.service",
    "emergency.target",
    "final.target",
    "initrd-cleanup.service",
    "initrd-fs.target",
    "initrd-parse-etc.service",
    "initrd-root-device.target",
    "initrd-root-fs.target",
    "initrd-switch-root.service",
    "initrd-switch-root.target",
    "initrd-udevadm-cleanup-db.service",
    "initrd-usr-fs.target",
    "initrd.target",
    "kmod-static-nodes.service",
    "local-fs-pre.target",
    "local-fs.target",
    "modprobe@.service",
    "paths.target",
    "reboot.target",
    "rescue.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "systemd-fsck@.service",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-modules-load.service",
    "systemd-reboot.service",
    "systemd-repart.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "timers.target",
    "umount.target",
    "veritysetup.target",
];

/// Units that not every systemd has.
const OPTIONAL_UNITS: &[&str] = &[
    "system-systemd\\x2dveritysetup.slice",
    "systemd-tmpfiles-setup-dev-early.service",
    "veritysetup-pre.target",
];

/// Target → units that it pulls in.
const WANTS: &[(&str, &[&str])] = &[
    ("initrd-root-fs.target", &["systemd-repart.service"]),
    (
        "sockets.target",
        &[
            "systemd-journald-dev-log.socket",
            "systemd-journald.socket",
            "systemd-udevd-control.socket",
            "systemd-udevd-kernel.socket",
        ],
    ),
    (
        "sysinit.target",
        &[
            "kmod-static-nodes.service",
            "systemd-journald.service",
            "systemd-modules-load.service",
            "systemd-sysctl.service",
            "systemd-tmpfiles-setup-dev-early.service",
            "systemd-tmpfiles-setup-dev.service",
            "systemd-tmpfiles-setup.service",
            "systemd-udev-trigger.service",
            "systemd-udevd.service",
            "veritysetup.target",
        ],
    ),
];

/// Libraries that systemd opens only when it uses them and the initrd does use: dm-verity's.
const FEATURES: &[&str] = &["cryptsetup"];

/// Where systemd's units of packages are.
const UNIT_DIR: &str = "usr/lib/systemd/system";
/// The first user and group id that is a person's (Debian Policy §9.2.2): those have no business in the initrd.
const FIRST_PERSON: u32 = 1000;

/// Composes the initrd's tree from the configured packages `os`.
///
/// # Errors
/// When a program, unit or library is missing, with the package that would bring it, or a module is unknown.
pub fn compose(os: &Tree, spec: &InitrdSpec) -> anyhow::Result<Tree> {
    let mut chosen = Choice { os, arch: spec.arch, out: Tree::new(), done: BTreeSet::new() };
    for dir in ["bin", "sbin", "lib", "lib64"] {
        chosen.link(&path(dir)?)?;
    }
    let own = PROGRAMS.iter().map(|(file, package)| (file.to_string(), *package));
    for (file, package) in own.chain(sealed::programs(spec.arch).filter(|_| spec.sealed)) {
        if !chosen.take(&path(&file)?)? {
            bail!("the initrd needs `/{file}`, which package {package} has and the root has not");
        }
    }
    for file in OPTIONAL {
        chosen.take(&path(file)?)?;
    }
    for unit in UNITS {
        if !chosen.take(&path(&format!("{UNIT_DIR}/{unit}"))?)? {
            bail!("the initrd needs the unit {unit}, which this systemd has not");
        }
    }
    for unit in OPTIONAL_UNITS.iter().chain(sealed::UNITS.iter().filter(|_| spec.sealed)) {
        chosen.take(&path(&format!("{UNIT_DIR}/{unit}"))?)?;
    }
    let kernel = modules::Modules::read(os, &spec.kernel)?;
    let cipher = sealed::MODULES.iter().filter(|_| spec.sealed);
    let essential = modules::ESSENTIAL.iter().chain(cipher).copied().filter(|name| kernel.has(name));
    for file in kernel.closure(essential.chain(spec.modules.iter().map(String::as_str)))? {
        chosen.take(&file)?;
    }
    let mut out = chosen.out;
    settings(os, &mut out)?;
    out.check()?;
    Ok(out)
}

/// The files `wanted` of `os` with the links on the way to them and all that they load, for an archive beside the initrd.
///
/// # Errors
/// When a link or what a file loads leads nowhere.
pub fn with_what_they_load(os: &Tree, arch: Arch, wanted: &[TreePath]) -> anyhow::Result<Tree> {
    let mut chosen = Choice { os, arch, out: Tree::new(), done: BTreeSet::new() };
    for file in wanted {
        chosen.take(file)?;
    }
    Ok(chosen.out)
}

/// What no package has: directories to mount on, names, enabled units, forge's own settings.
fn settings(os: &Tree, out: &mut Tree) -> anyhow::Result<()> {
    for (dir, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("run", 0o755),
        ("sys", 0o555),
        ("sysroot", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        out.insert(path(dir)?, Node::dir(mode))?;
    }
    let release = text(os, "usr/lib/os-release")?;
    out.insert(path("etc/initrd-release")?, Node::text(release, 0o644))?;
    out.insert(path("etc/os-release")?, Node::symlink("initrd-release"))?;
    out.insert(path("init")?, Node::symlink("usr/lib/systemd/systemd"))?;
    for file in ["passwd", "group"] {
        let all = text(os, &format!("etc/{file}"))?;
        let system = all.lines().filter(|line| {
            line.split(':').nth(2).and_then(|id| id.parse::<u32>().ok()).is_some_and(|id| id < FIRST_PERSON)
        });
        let lines: String = system.flat_map(|line| [line, "\n"]).collect();
        out.insert(path(&format!("etc/{file}"))?, Node::text(lines, 0o644))?;
    }
    out.insert(path("etc/nsswitch.conf")?, Node::text("passwd: files\ngroup: files\n", 0o644))?;
    out.insert(path(&format!("{UNIT_DIR}/default.target"))?, Node::symlink("initrd.target"))?;
    for (target, units) in WANTS {
        for unit in *units {
            if out.get(&path(&format!("{UNIT_DIR}/{unit}"))?).is_some() {
                let link = path(&format!("{UNIT_DIR}/{target}.wants/{unit}"))?;
                out.insert(link, Node::symlink(format!("../{unit}")))?;
            }
        }
    }
    for (file, text) in template::INITRD {
        out.insert(path(file)?, Node::text(*text, 0o644))?;
    }
    Ok(())
}

/// A tree that grows by files of another, each with all it loads.
struct Choice<'a> {
    os: &'a Tree,
    arch: Arch,
    out: Tree,
    done: BTreeSet<TreePath>,
}

impl Choice<'_> {
    /// Takes what is at `wanted`, the symbolic links on the way to it, a directory with all below it, and all that an
    /// ELF file loads; false where nothing is there.
    fn take(&mut self, wanted: &TreePath) -> anyhow::Result<bool> {
        let mut todo = vec![wanted.clone()];
        while let Some(next) = todo.pop() {
            let Some(real) = self.links(&next)? else {
                if next == *wanted {
                    return Ok(false);
                }
                bail!("{next} leads nowhere in the tree");
            };
            if !self.done.insert(real.clone()) {
                continue;
            }
            let node = self.os.get(&real).with_context(|| format!("{real} is gone"))?.clone();
            if node.is_dir() {
                todo.extend(self.os.below(&real).map(|(p, _)| p.clone()));
            } else {
                todo.extend(elf::loads(self.os, self.arch, &real, FEATURES)?);
            }
            let node = match (&node.kind, self.os.file(&real)) {
                (NodeKind::HardLink(_), Some(content)) => {
                    Node { kind: NodeKind::File(content.clone()), ..node }
                }
                _ => node,
            };
            self.out.insert(real, node)?;
        }
        Ok(true)
    }

    /// Follows `wanted` to the end as the kernel would, taking each symbolic link on the way.
    fn links(&mut self, wanted: &TreePath) -> anyhow::Result<Option<TreePath>> {
        let Some(real) = self.os.resolve(wanted) else { return Ok(None) };
        // It ends somewhere, so there is no loop; what is walked here is what was walked there.
        let mut rest: Vec<String> = wanted.components().rev().map(String::from).collect();
        let mut at = TreePath::root();
        while let Some(name) = rest.pop() {
            if name == ".." {
                at = at.parent().unwrap_or_default();
                continue;
            }
            let next = at.join(&name)?;
            let Some(NodeKind::Symlink(target)) = self.os.get(&next).map(|n| &n.kind) else {
                at = next;
                continue;
            };
            self.link(&next)?;
            if target.starts_with('/') {
                at = TreePath::root();
            }
            rest.extend(target.split('/').rev().filter(|c| !matches!(*c, "" | ".")).map(String::from));
        }
        Ok(Some(real))
    }

    /// Takes the symbolic link at `at`, where one is.
    fn link(&mut self, at: &TreePath) -> anyhow::Result<()> {
        if let Some(node) = self.os.get(at)
            && matches!(node.kind, NodeKind::Symlink(_))
        {
            self.out.insert(at.clone(), node.clone())?;
        }
        Ok(())
    }
}

fn path(s: &str) -> anyhow::Result<TreePath> {
    Ok(TreePath::parse(s)?)
}

/// The text of a file of the tree, symbolic links followed.
fn text(os: &Tree, file: &str) -> anyhow::Result<String> {
    let real = os.resolve(&path(file)?).with_context(|| format!("the tree has no /{file}"))?;
    let content = os.file(&real).with_context(|| format!("/{file} is no file"))?;
    String::from_utf8(content.to_vec(1 << 20)?).with_context(|| format!("reading /{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with every file that is asked for, as text: nothing of it loads anything.
    fn root() -> Tree {
        let mut tree = Tree::new();
        let mut put = |file: &str, node: Node| tree.insert(path(file).unwrap(), node).unwrap();
        for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
            put(link, Node::symlink(target));
        }
        for (file, _) in PROGRAMS {
            put(file, Node::text("x", 0o755));
        }
        for unit in UNITS {
            put(&format!("{UNIT_DIR}/{unit}"), Node::text("[Unit]\n", 0o644));
        }
        put("usr/sbin/mkfs.ext4", Node::symlink("/sbin/../../etc/alternatives/mkfs"));
        put("etc/alternatives/mkfs", Node::symlink("../../sbin/mke2fs"));
        put("usr/lib/os-release", Node::text("ID=debian\n", 0o644));
        put(
            "etc/passwd",
            Node::text("root:x:0:0::/root:/bin/sh\nops:x:1000:1000::/home/ops:/bin/sh\n", 0o644),
        );
        put("etc/group", Node::text("root:x:0:\ndisk:x:6:\nops:x:1000:\n", 0o644));
        for index in modules::INDICES {
            put(&format!("usr/lib/modules/6.1/{index}"), Node::text("", 0o644));
        }
        put("usr/lib/modules/6.1/modules.dep", Node::text("kernel/erofs.ko:\n", 0o644));
        put("usr/lib/modules/6.1/kernel/erofs.ko", Node::text("x", 0o644));
        tree
    }

    fn spec() -> InitrdSpec {
        InitrdSpec { arch: Arch::Amd64, kernel: "6.1".into(), modules: vec![], sealed: false }
    }

    #[test]
    fn links_come_with_what_they_lead_to() {
        let initrd = compose(&root(), &spec()).unwrap();
        for link in ["bin", "sbin", "usr/sbin/mkfs.ext4", "etc/alternatives/mkfs", "init"] {
            let node = initrd.get(&path(link).unwrap());
            assert!(matches!(node.map(|n| &n.kind), Some(NodeKind::Symlink(_))), "{link}: {node:?}");
            assert!(initrd.resolve(&path(link).unwrap()).is_some(), "{link} leads nowhere");
        }
        assert!(initrd.get(&path("usr/lib/modules/6.1/kernel/erofs.ko").unwrap()).is_some());
    }

    #[test]
    fn only_units_that_are_there_are_enabled_and_no_person_is() {
        let initrd = compose(&root(), &spec()).unwrap();
        let wants = |unit: &str| {
            initrd.get(&path(&format!("{UNIT_DIR}/sysinit.target.wants/{unit}")).unwrap()).is_some()
        };
        assert!(wants("systemd-udevd.service"));
        assert!(!wants("systemd-tmpfiles-setup-dev-early.service"));
        assert_eq!(text(&initrd, "etc/passwd").unwrap(), "root:x:0:0::/root:/bin/sh\n");
        assert_eq!(text(&initrd, "etc/group").unwrap(), "root:x:0:\ndisk:x:6:\n");
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let mut without = root();
        without.remove(&path("usr/bin/systemd-repart").unwrap());
        let error = compose(&without, &spec()).unwrap_err().to_string();
        assert!(
            error.contains("/usr/bin/systemd-repart") && error.contains("package systemd-repart"),
            "{error}"
        );
        let sealed = InitrdSpec { sealed: true, ..spec() };
        let error = compose(&root(), &sealed).unwrap_err().to_string();
        assert!(
            error.contains("/systemd-cryptsetup`") && error.contains("package systemd-cryptsetup"),
            "{error}"
        );
        let unknown = InitrdSpec { modules: vec!["floppy".into()], ..spec() };
        assert_eq!(compose(&root(), &unknown).unwrap_err().to_string(), "kernel 6.1 has no module `floppy`");
    }
}
