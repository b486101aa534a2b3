//! The operating system layer: configured packages in, the same as a device carries them out.
//!
//! Takes away what must not be shared between devices (host keys, machine id, random seeds), and adds what every device
//! has: forge's units and settings (`templates/os`), writable directories over a read-only root, the tmpfiles that rebuild
//! `/var` on an empty state partition. Knows no site.

use crate::template;
use crate::tree::{Node, NodeKind, Tree, TreePath};
use std::fmt::Write as _;

/// What configuring packages leaves behind that belongs to one machine, or to the machine that built.
const PER_DEVICE: &[&str] = &[
    "etc/machine-id",
    "etc/resolv.conf",
    "etc/hostname",
    "etc/hosts",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
];

/// Units that a read-only root has no use for: they would change packages, or ask somebody at the console.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily.service",
    "apt-daily-upgrade.timer",
    "apt-daily-upgrade.service",
    "dpkg-db-backup.timer",
    "dpkg-db-backup.service",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "man-db.timer",
    "man-db.service",
    "systemd-firstboot.service",
    "systemd-sysusers.service",
    "systemd-repart.service",
    "systemd-boot-update.service",
    "ldconfig.service",
    "systemd-hwdb-update.service",
];

/// Units switched on, each with the directory of links that pulls it in.
const ENABLED: &[(&str, &str)] = &[
    ("local-fs.target.wants", "home.mount"),
    ("local-fs.target.wants", "opt.mount"),
    ("local-fs.target.wants", "root.mount"),
    ("local-fs.target.wants", "srv.mount"),
    ("multi-user.target.wants", "boot-complete.target"),
    ("multi-user.target.wants", "forge-boot-rearm.service"),
    ("multi-user.target.wants", "forge-boot-report.service"),
    ("multi-user.target.wants", "forge-issue.service"),
    ("multi-user.target.wants", "systemd-networkd.service"),
    ("network-online.target.wants", "systemd-networkd-wait-online.service"),
    ("sockets.target.wants", "systemd-networkd.socket"),
    ("sysinit.target.wants", "systemd-resolved.service"),
    ("sysinit.target.wants", "systemd-timesyncd.service"),
];

/// Directories that mounts need on a root where none can be made.
const MOUNT_POINTS: &[&str] =
    &[crate::boot::slot::PAYLOAD, crate::boot::slot::FACTORY_VAR, "efi", "home", "opt", "root", "srv", "mnt"];

/// Where the payload's parts are looked for (boot.md, "Where things live").
const LINKS: &[(&str, &str)] = &[
    ("usr/lib/forge/images", "payload/images"),
    ("usr/lib/forge/workloads", "payload/workloads"),
    ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
];

/// Below `/var`: the packages' database describes the root, so it comes from there and follows every update.
const FROM_ROOT: &[&str] = &["var/lib/dpkg"];

/// Where links that enable units are.
pub(super) const ETC_UNITS: &str = "etc/systemd/system";
/// Where units of packages and forge's are.
pub(super) const UNITS: &str = "usr/lib/systemd/system";

/// Where systemd looks for programs that make units; it calls those that can be executed.
const GENERATORS: &str = "usr/lib/systemd/system-generators/";

/// Turns the tree of configured packages into the layer.
///
/// # Errors
/// When a path is taken by something of another type.
pub fn finish(configured: Tree) -> anyhow::Result<Tree> {
    let mut tree = configured;
    for file in PER_DEVICE {
        tree.remove(&TreePath::parse(file)?);
    }
    let ssh = TreePath::parse("etc/ssh")?;
    let keys: Vec<TreePath> =
        tree.below(&ssh).map(|(p, _)| p).filter(|p| p.name().starts_with("ssh_host_")).cloned().collect();
    for key in keys {
        tree.remove(&key); // a private key in an image would be every device's
    }
    // Empty, not missing: the device draws its id and keeps it, but does not take each boot for its first (machine-id(5)).
    tree.insert(TreePath::parse("etc/machine-id")?, Node::text("", 0o444))?;
    for dir in MOUNT_POINTS {
        let path = TreePath::parse(dir)?;
        if tree.get(&path).is_none() {
            tree.insert(path, Node::dir(0o755))?;
        }
    }
    for (link, target) in LINKS {
        tree.insert(TreePath::parse(link)?, Node::symlink(*target))?;
    }
    for (file, text) in template::OS {
        let mode = if file.starts_with(GENERATORS) { 0o755 } else { 0o644 };
        tree.insert(TreePath::parse(file)?, Node::text(*text, mode))?;
    }
    for unit in MASKED {
        mask(&mut tree, unit)?;
    }
    for (dir, unit) in ENABLED {
        enable(&mut tree, dir, unit)?;
    }
    let tmpfiles = var_from_factory(&tree);
    tree.insert(TreePath::parse("usr/lib/tmpfiles.d/forge-var.conf")?, Node::text(tmpfiles, 0o644))?;
    tree.check()?;
    Ok(tree)
}

/// Switches `unit` off for good (systemd.unit(5), "masked").
pub(super) fn mask(tree: &mut Tree, unit: &str) -> anyhow::Result<()> {
    tree.insert(TreePath::parse(&format!("{ETC_UNITS}/{unit}"))?, Node::symlink("/dev/null"))?;
    Ok(())
}

/// Pulls `unit` in through the directory of links `dir` (`multi-user.target.wants`).
pub(super) fn enable(tree: &mut Tree, dir: &str, unit: &str) -> anyhow::Result<()> {
    let link = TreePath::parse(&format!("{ETC_UNITS}/{dir}/{unit}"))?;
    tree.insert(link, Node::symlink(format!("/{UNITS}/{unit}")))?;
    Ok(())
}

/// tmpfiles.d(5) lines that make on an empty `/var` what `tree` has below its own. Directories get their owners and modes;
/// files are copied once, from the root's `/var` as it is seen under `/usr/share/factory`, and are the device's then.
pub fn var_from_factory(tree: &Tree) -> String {
    let mut lines =
        String::from("# What the image's own /var holds, on a state partition that may be new.\n");
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(lines, "{text}"); // writing to a String cannot fail
    };
    let from_root: Vec<TreePath> = FROM_ROOT.iter().filter_map(|p| TreePath::parse(p).ok()).collect();
    let var = TreePath::parse("var").unwrap_or_default();
    for (path, node) in tree.below(&var) {
        if from_root.iter().any(|from| path.is_below(from)) {
            continue;
        }
        let name = escaped(path.as_str());
        let owner = format!("{:04o} {} {}", node.mode, node.uid, node.gid);
        match &node.kind {
            NodeKind::Dir if from_root.contains(path) => {
                line(format_args!("L+ /{name} - - - - /usr/share/factory/{name}"));
            }
            NodeKind::Dir => line(format_args!("d /{name} {owner}")),
            NodeKind::File(_) | NodeKind::HardLink(_) => line(format_args!("C /{name} {owner}")),
            NodeKind::Symlink(target) => line(format_args!("L /{name} - - - - {}", escaped(target))),
            NodeKind::Fifo => line(format_args!("p /{name} {owner}")),
            // Devices are udev's; in a package's /var there are none.
            NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } => {}
        }
    }
    lines
}

/// A path as tmpfiles.d takes it: `%` begins a specifier, white space and quotes end a word.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '%' => out.push_str("%%"),
            ' ' | '\t' | '\n' | '"' | '\'' | '\\' => {
                let _ = write!(out, "\\x{:02x}", c as u32); // writing to a String cannot fail
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> TreePath {
        TreePath::parse(s).unwrap()
    }

    fn configured() -> Tree {
        let mut tree = Tree::new();
        for (path, node) in [
            ("etc/ssh/ssh_host_ed25519_key", Node::text("secret", 0o600)),
            ("etc/ssh/sshd_config", Node::text("x", 0o644)),
            ("etc/machine-id", Node::text("0123\n", 0o444)),
            ("etc/resolv.conf", Node::text("nameserver 192.0.2.1\n", 0o644)),
            ("var/lib/dpkg/status", Node::text("Package: x\n", 0o644)),
            ("var/lib/with space/100%", Node::text("x", 0o600).owned(5, 6)),
            ("var/mail", Node::dir(0o2775).owned(0, 8)),
            ("var/run", Node::symlink("/run")),
        ] {
            tree.insert(p(path), node).unwrap();
        }
        tree
    }

    #[test]
    fn nothing_of_one_machine_stays() {
        let tree = finish(configured()).unwrap();
        assert!(tree.get(&p("etc/ssh/ssh_host_ed25519_key")).is_none());
        assert!(tree.get(&p("etc/ssh/sshd_config")).is_some());
        assert!(tree.file(&p("etc/machine-id")).unwrap().is_empty());
        assert!(matches!(&tree.get(&p("etc/resolv.conf")).unwrap().kind, NodeKind::Symlink(_)));
        assert!(
            matches!(&tree.get(&p("etc/systemd/system/apt-daily.timer")).unwrap().kind, NodeKind::Symlink(t) if t == "/dev/null")
        );
    }

    /// The settings of a unit and its drop-ins, as `(section, key, value)`.
    fn settings(tree: &Tree, file: &str) -> Vec<(String, String, String)> {
        let content = tree.file(&p(&format!("{UNITS}/{file}"))).expect(file).to_vec(1 << 20).unwrap();
        let (mut section, mut found) = (String::new(), vec![]);
        for line in String::from_utf8(content).unwrap().lines() {
            if line.starts_with('[') {
                section = line.into();
            } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                found.push((section.clone(), key.into(), value.into()));
            }
        }
        found
    }

    #[test]
    fn a_boot_that_hangs_is_a_boot_that_failed() {
        let tree = finish(configured()).unwrap();
        let has = |file: &str, section: &str, key: &str, value: &str| {
            let found = settings(&tree, file);
            assert!(
                found.iter().any(|(s, k, v)| s == section && k == key && v == value),
                "{file}: no {key}={value} in {found:?}"
            );
        };
        let complete = "boot-complete.target.d/forge.conf";
        has(complete, "[Unit]", "JobTimeoutSec", "10min");
        has(complete, "[Unit]", "OnFailure", "forge-boot-failed.service");
        has(complete, "[Unit]", "Requires", "forge-slot-check.service");
        has("forge-boot-failed.service", "[Unit]", "SuccessAction", "reboot");
        // Else the boot would be given up while blocks are still read.
        has("forge-slot-check.service", "[Service]", "TimeoutStartSec", "8min");
        has("forge-slot-check.service", "[Unit]", "Before", "boot-complete.target");
        has("emergency.service.d/forge.conf", "[Unit]", "SuccessAction", "reboot-force");
        for (dir, unit) in ENABLED.iter().filter(|(_, unit)| unit.starts_with("forge-")) {
            assert!(
                tree.file(&p(&format!("{UNITS}/{unit}"))).is_some(),
                "{dir} wants {unit}, which is not there"
            );
        }
    }

    #[test]
    fn var_is_rebuilt_but_for_what_describes_the_root() {
        let text = var_from_factory(&configured());
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "d /var/lib 0755 0 0",
                "L+ /var/lib/dpkg - - - - /usr/share/factory/var/lib/dpkg",
                "d /var/lib/with\\x20space 0755 0 0",
                "C /var/lib/with\\x20space/100%% 0600 5 6",
                "d /var/mail 2775 0 8",
                "L /var/run - - - - /run",
            ]
        );
    }
}
