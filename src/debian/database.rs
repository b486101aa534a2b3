//! What dpkg remembers of packages that were unpacked: `/var/lib/dpkg` as dpkg 1.22 would have left it.
//!
//! Pure: texts in, texts out. The formats are dpkg's own (dpkg's `doc/triggers.txt` and `lib/dpkg`); dpkg rewrites the
//! status file in its own order of fields when it configures the first package.

use super::deb::{Control, fields};
use crate::tree::TreePath;
use std::collections::{BTreeMap, BTreeSet};

/// dpkg's directory, from the root.
pub const ADMIN: &str = "var/lib/dpkg";

/// `info/NAME.*`, where packages of which several architectures may be installed at once carry theirs.
pub fn info_name(control: &Control) -> String {
    let field = |name| control.field(name).unwrap_or_default();
    match control.field("Multi-Arch") {
        Some("same") => format!("{}:{}", field("Package"), field("Architecture")),
        _ => field("Package").to_string(),
    }
}

/// The conffiles of a package; those that are only to be removed on upgrades are none of a fresh tree's.
///
/// # Errors
/// Names the line that is no path.
pub fn conffiles(control: &Control) -> anyhow::Result<BTreeSet<TreePath>> {
    let lines = control.lines("conffiles").filter(|l| l.starts_with('/'));
    Ok(lines.map(TreePath::parse).collect::<Result<_, _>>()?)
}

/// The status file's paragraph of a package that is unpacked and not configured, with the empty line behind it.
pub fn status(control: &Control) -> String {
    let mut out = String::new();
    for (name, value) in fields(&control.text) {
        if name.eq_ignore_ascii_case("Status") || name.eq_ignore_ascii_case("Conffiles") {
            continue; // dpkg's own fields, not a package's
        }
        let space = if value.is_empty() || value.starts_with('\n') { "" } else { " " };
        out.push_str(&format!("{name}:{space}{value}\n"));
        if name.eq_ignore_ascii_case("Package") {
            out.push_str("Status: install ok unpacked\n");
        }
    }
    let mut head = "Conffiles:\n";
    for line in control.lines("conffiles") {
        let (path, flag) = match line.strip_prefix("remove-on-upgrade") {
            Some(path) => (path.trim(), " remove-on-upgrade"),
            None => (line, ""),
        };
        out.push_str(&format!("{head} {path} newconffile{flag}\n"));
        head = "";
    }
    out.push('\n');
    out
}

/// `info/*.list`: a line a path, in the archive's order, the root being `/.`.
pub fn list(paths: &[TreePath]) -> String {
    paths.iter().map(|p| if p.as_str().is_empty() { "/.\n".into() } else { format!("/{p}\n") }).collect()
}

/// Who wants to know of what: the triggers that packages are interested in, and what sets them off.
#[derive(Debug, Default)]
pub struct Triggers {
    /// From a trigger's name, or a path with its slash, to the lines of the packages interested in it.
    interests: BTreeMap<String, Vec<String>>,
    /// Paths in the order in which packages declared them.
    order: Vec<String>,
}

impl Triggers {
    /// Notes the interests of a package (deb-triggers(5)).
    pub fn declare(&mut self, control: &Control) {
        for line in control.lines("triggers") {
            let mut words = line.split_whitespace();
            let (Some(verb), Some(trigger)) = (words.next(), words.next()) else { continue };
            let suffix = match verb {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => continue,
            };
            let who = format!("{}{suffix}", info_name(control));
            let lines = self.interests.entry(trigger.into()).or_default();
            if !lines.contains(&who) {
                lines.push(who);
                self.order.push(trigger.into());
            }
        }
    }

    /// The files below `triggers/`, by name.
    pub fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for trigger in &self.order {
            let at = seen.entry(trigger).and_modify(|n| *n += 1).or_insert(0_usize);
            let Some(who) = self.interests.get(trigger).and_then(|lines| lines.get(*at)) else { continue };
            if trigger.starts_with('/') {
                *files.entry("File".to_string()).or_insert_with(String::new) += &format!("{trigger} {who}\n");
            } else {
                *files.entry(trigger.clone()).or_insert_with(String::new) += &format!("{who}\n");
            }
        }
        files
    }

    /// What unpacking a package sets off: lines of `triggers/Unincorp`, awaited by nobody.
    pub fn activated(&self, control: &Control, paths: &[TreePath]) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for line in control.lines("triggers") {
            let mut words = line.split_whitespace();
            if let (Some(verb), Some(trigger)) = (words.next(), words.next())
                && verb.starts_with("activate")
                && self.interests.contains_key(trigger)
            {
                out.insert(format!("{trigger} -\n"));
            }
        }
        for path in paths {
            for at in path.ancestors().chain([path.clone()]) {
                let trigger = format!("/{}", at.as_str());
                if self.interests.contains_key(&trigger) {
                    out.insert(format!("{trigger} -\n"));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &str, files: &[(&str, &str)]) -> Control {
        let files = files.iter().map(|(n, t)| (n.to_string(), (t.as_bytes().to_vec(), 0o644))).collect();
        Control { text: text.into(), files }
    }

    #[test]
    fn a_paragraph_keeps_its_lines_and_gains_dpkgs() {
        let a = control(
            "Package: a\nArchitecture: amd64\nStatus: forged\nMulti-Arch: same\nDescription: x\n y\n .\n z\n",
            &[("conffiles", "/etc/a\nremove-on-upgrade /etc/old\n")],
        );
        assert_eq!(
            status(&a),
            "Package: a\nStatus: install ok unpacked\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\n y\n .\n z\n\
             Conffiles:\n /etc/a newconffile\n /etc/old newconffile remove-on-upgrade\n\n"
        );
        assert_eq!(conffiles(&a).unwrap().len(), 1);
        assert_eq!(info_name(&a), "a:amd64");
        let paths = ["./", "./usr/", "./usr/x"].map(|p| TreePath::parse(p).unwrap());
        assert_eq!(list(&paths), "/.\n/usr\n/usr/x\n");
    }

    #[test]
    fn triggers_by_path_and_name() {
        let mut triggers = Triggers::default();
        triggers.declare(&control(
            "Package: m\n",
            &[("triggers", "# none\ninterest-noawait /usr/share/man\ninterest cache\n")],
        ));
        triggers.declare(&control("Package: n\n", &[("triggers", "interest-await cache\n")]));
        let files = triggers.files();
        assert_eq!(files["File"], "/usr/share/man m/noawait\n");
        assert_eq!(files["cache"], "m\nn\n");
        let b = control("Package: b\n", &[("triggers", "activate-noawait cache\nactivate unknown\n")]);
        let path = TreePath::parse("usr/share/man/man1/b.1").unwrap();
        let set: Vec<_> = triggers.activated(&b, &[path]).into_iter().collect();
        assert_eq!(set, ["/usr/share/man -\n", "cache -\n"]);
    }
}
