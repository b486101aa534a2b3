//! The order of things: which packages are unpacked when, and where their scripts run.
//!
//! As dpkg and the tools that call it for a new system do it (Debian policy §6.5, §7.2): the essential packages and all
//! they need are unpacked at once, with all packages that have no `preinst`; then the essential ones' `preinst` scripts
//! run and they are configured. Each other package with a `preinst` follows in the first *wave* in which what it
//! `Pre-Depends` on is configured: script, files. The rest is the tree's own `dpkg --configure -a`.
//!
//! Pure but for [`Scripts`], which runs inside the sandbox.

use super::deb::Control;
use super::stand_in::PROGRAMS;
use crate::host::sandbox;
use crate::model::{Arch, Epoch};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};

/// A package's place among others; indices are ranks.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether it is marked `Essential`.
    pub essential: bool,
    /// Whether it has a `preinst`.
    pub preinst: bool,
    /// Ranks of what it needs before its files may be unpacked.
    pub pre_depends: BTreeSet<usize>,
    /// Ranks of what it needs, `Pre-Depends` included.
    pub depends: BTreeSet<usize>,
}

/// Resolves relations among the packages that are there, in the order of `controls`. A dependency on nothing that is
/// there is left out: whether the set is complete was the solver's business, and dpkg asks again.
pub fn members(controls: &[&Control]) -> Vec<Member> {
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for (rank, control) in controls.iter().enumerate() {
        for provided in names(control.field("Provides").unwrap_or_default()).flatten() {
            named.entry(provided).or_insert(rank);
        }
    }
    for (rank, control) in controls.iter().enumerate() {
        named.insert(control.field("Package").unwrap_or_default(), rank);
    }
    let resolve = |control: &Control, field: &str, rank: usize| -> BTreeSet<usize> {
        let clauses = names(control.field(field).unwrap_or_default());
        let chosen = clauses.flat_map(|mut clause| clause.find_map(|name| named.get(name).copied()));
        chosen.filter(|other| *other != rank).collect()
    };
    let member = |(rank, control): (usize, &&Control)| {
        let pre_depends = resolve(control, "Pre-Depends", rank);
        Member {
            name: control.field("Package").unwrap_or_default().into(),
            essential: control.field("Essential") == Some("yes"),
            preinst: control.files.contains_key("preinst"),
            depends: resolve(control, "Depends", rank).union(&pre_depends).copied().collect(),
            pre_depends,
        }
    };
    controls.iter().enumerate().map(member).collect()
}

/// The names of a relation field: clauses, of which each has alternatives.
pub fn names(field: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    field.split(',').map(|clause| {
        clause.split('|').map(|one| one.trim().split([' ', '(', ':', '[', '<']).next().unwrap_or_default())
    })
}

/// Packages that are unpacked together, ranks in the order in which their scripts run.
#[derive(Debug, PartialEq)]
pub struct Wave {
    /// What must be configured before.
    pub configure: Vec<usize>,
    /// What is unpacked.
    pub unpack: Vec<usize>,
}

/// The essential packages and all that they need, in an order that dpkg can configure.
pub fn essential(members: &[Member]) -> BTreeSet<usize> {
    let start = (0..members.len()).filter(|rank| members[*rank].essential).collect();
    closure(members, start)
}

/// The waves. The first is unpacked before any script runs and configures nothing.
pub fn waves(members: &[Member]) -> Vec<Wave> {
    let essential = essential(members);
    let first: BTreeSet<usize> =
        (0..members.len()).filter(|rank| essential.contains(rank) || !members[*rank].preinst).collect();
    let mut waiting: BTreeSet<usize> = (0..members.len()).filter(|rank| !first.contains(rank)).collect();
    let mut configured: BTreeSet<usize> = BTreeSet::new();
    let mut waves = vec![Wave { configure: vec![], unpack: sorted(members, &first) }];
    while !waiting.is_empty() {
        let needs = |rank: usize| closure(members, members[rank].pre_depends.clone());
        let mut ready: BTreeSet<usize> =
            waiting.iter().copied().filter(|rank| needs(*rank).is_disjoint(&waiting)).collect();
        if ready.is_empty() {
            // A circle of Pre-Depends, which policy forbids: dpkg would need --force, too.
            ready.extend(waiting.first());
        }
        let mut before: BTreeSet<usize> = ready.iter().flat_map(|rank| needs(*rank)).collect();
        before.extend(&essential);
        before.retain(|rank| !configured.contains(rank) && !waiting.contains(rank));
        configured.extend(&before);
        waiting.retain(|rank| !ready.contains(rank));
        waves.push(Wave { configure: sorted(members, &before), unpack: sorted(members, &ready) });
    }
    waves
}

fn closure(members: &[Member], start: BTreeSet<usize>) -> BTreeSet<usize> {
    let mut all = start.clone();
    let mut todo: Vec<usize> = start.into_iter().collect();
    while let Some(rank) = todo.pop() {
        todo.extend(members[rank].depends.iter().filter(|other| all.insert(**other)));
    }
    all
}

/// Dependencies first, otherwise by rank; circles are cut where they are met.
fn sorted(members: &[Member], of: &BTreeSet<usize>) -> Vec<usize> {
    let mut out = vec![];
    let mut seen = BTreeSet::new();
    for start in of {
        // Depth first, without recursion: chains of dependencies are as long as an archive makes them.
        let mut stack = vec![(*start, false)];
        while let Some((rank, done)) = stack.pop() {
            if done {
                out.push(rank);
            } else if seen.insert(rank) {
                stack.push((rank, true));
                stack.extend(
                    members[rank].depends.iter().rev().filter(|o| of.contains(o)).map(|o| (*o, false)),
                );
            }
        }
    }
    out
}

/// Runs scripts and dpkg inside the sandbox, in an environment that is the same everywhere.
pub struct Scripts {
    env: Vec<(String, String)>,
    arch: String,
    dpkg: String,
}

impl Scripts {
    /// `dpkg` is the version of dpkg that is unpacked in the tree.
    pub fn new(arch: Arch, epoch: Epoch, dpkg: &str) -> Scripts {
        let path = format!("{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let env = [
            ("PATH", path.as_str()),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("SOURCE_DATE_EPOCH", &epoch.0.to_string()),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            ("DEBCONF_NOWARNINGS", "yes"),
            // The kernel's hooks make no initramfs: forge composes its own.
            ("INITRD", "No"),
            // Hash tables in a fixed order, in debconf's database and in Python's bytecode.
            ("PERL_HASH_SEED", "0"),
            ("PYTHONHASHSEED", "0"),
        ];
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Scripts { env, arch: arch.to_string(), dpkg: dpkg.into() }
    }

    /// The environment that scripts see.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    fn call(
        &self,
        program: &str,
        args: &[&str],
        more: &[(&str, &str)],
        line: impl FnMut(&str),
    ) -> anyhow::Result<()> {
        let env: Vec<(&str, &str)> =
            self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).chain(more.iter().copied()).collect();
        sandbox::call(program, args, &env, line)
    }

    /// Runs the `preinst` of a package that was never there before; its control files are where dpkg has them then.
    ///
    /// # Errors
    /// When it ends with another status than 0.
    pub fn preinst(&self, name: &str, directory: &str) -> anyhow::Result<()> {
        let env = [
            ("DPKG_MAINTSCRIPT_PACKAGE", name),
            ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1"),
            ("DPKG_MAINTSCRIPT_ARCH", &self.arch),
            ("DPKG_MAINTSCRIPT_NAME", "preinst"),
            ("DPKG_MAINTSCRIPT_DEBUG", "0"),
            ("DPKG_RUNNING_VERSION", &self.dpkg),
            ("DPKG_ADMINDIR", "/var/lib/dpkg"),
            ("DPKG_ROOT", ""),
        ];
        self.call(&format!("{directory}/preinst"), &["install"], &env, |_| {})
            .with_context(|| format!("running the preinst script of {name}"))
    }

    /// Configures packages, or all that wait for it, and processes their triggers.
    ///
    /// # Errors
    /// What dpkg says.
    pub fn configure(&self, names: Option<&[&str]>) -> anyhow::Result<()> {
        let mut args = vec!["--configure", "--force-unsafe-io", "--log=/dev/null"];
        match names {
            Some(names) => args.extend(names),
            None => args.push("--pending"),
        }
        self.call("/usr/bin/dpkg", &args, &[], sandbox::progress).context("configuring packages")
    }

    /// Asks dpkg for packages that are not wholly installed.
    ///
    /// # Errors
    /// With dpkg's words, when there are any.
    pub fn audit(&self) -> anyhow::Result<()> {
        let mut words = String::new();
        self.call("/usr/bin/dpkg", &["--audit"], &[], |line| {
            words.push_str(line);
            words.push('\n');
        })?;
        if words.is_empty() { Ok(()) } else { anyhow::bail!("dpkg --audit says:\n{}", words.trim()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(name: &str, more: &str, preinst: bool) -> Control {
        let files = preinst.then(|| ("preinst".to_string(), (vec![], 0o755))).into_iter().collect();
        Control { text: format!("Package: {name}\n{more}"), files }
    }

    #[test]
    fn scripts_wait_for_what_they_pre_depend_on() {
        let controls = [
            control("base", "Essential: yes\nDepends: libc (>= 2)\n", true),
            control("libc", "Depends: base\n", true),
            control("plain", "Depends: late\n", false),
            control("late", "Pre-Depends: nothing | virtual:any (>= 1)\n", true),
            control("helper", "Provides: virtual (= 2)\nDepends: plainer\n", true),
            control("plainer", "", false),
        ];
        let members = members(&controls.iter().collect::<Vec<_>>());
        assert_eq!(
            waves(&members),
            [
                Wave { configure: vec![], unpack: vec![1, 0, 2, 5] },
                Wave { configure: vec![1, 0], unpack: vec![4] },
                Wave { configure: vec![5, 4], unpack: vec![3] },
            ]
        );
    }

    #[test]
    fn circles_end() {
        let controls = [control("a", "Pre-Depends: b\n", true), control("b", "Pre-Depends: a\n", true)];
        let unpacked: Vec<usize> = waves(&members(&controls.iter().collect::<Vec<_>>()))
            .into_iter()
            .flat_map(|w| w.unpack)
            .collect();
        assert_eq!(unpacked, [0, 1]);
    }
}
