//! dpkg's own records of exceptions → where a file goes instead, and whose it is.

use crate::tree::TreePath;
use anyhow::{anyhow, bail};
use std::collections::BTreeMap;

/// What there is to know about the tree before unpacking: dpkg's own records.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// From a path to its other place and the package that is exempt.
    pub diversions: BTreeMap<TreePath, (TreePath, String)>,
    /// Owner, group and mode by path.
    pub overrides: BTreeMap<TreePath, (u32, u32, u32)>,
}

impl Rules {
    /// Reads `var/lib/dpkg/diversions` (three lines each: from, to, package) and `statoverride` (`user group mode path`,
    /// names being those of the tree's own `etc/passwd` and `etc/group`).
    ///
    /// # Errors
    /// Names the line that makes no sense.
    pub fn parse(diversions: &str, statoverride: &str, passwd: &str, group: &str) -> anyhow::Result<Rules> {
        let mut rules = Rules::default();
        let lines: Vec<&str> = diversions.lines().collect();
        for three in lines.chunks(3) {
            let [from, to, package] = three else {
                bail!("reading diversions: the last one has not three lines")
            };
            rules.diversions.insert(TreePath::parse(from)?, (TreePath::parse(to)?, (*package).into()));
        }
        let id = |name: &str, names: &str| match name.strip_prefix('#') {
            Some(number) => number.parse().ok(),
            None => names.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
            }),
        };
        for line in statoverride.lines() {
            let parsed = || {
                let mut fields = line.splitn(4, ' ');
                let (user, group_name, mode) = (fields.next()?, fields.next()?, fields.next()?);
                let mode = u32::from_str_radix(mode, 8).ok()?;
                let path = TreePath::parse(fields.next()?).ok()?;
                Some((path, (id(user, passwd)?, id(group_name, group)?, mode)))
            };
            let (path, entry) = parsed().ok_or_else(|| anyhow!("reading statoverride `{line}`"))?;
            rules.overrides.insert(path, entry);
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_trees_and_half_an_entry_is_none() {
        let rules =
            Rules::parse("/f\n/f.real\nb\n", "#7 crontab 2755 /x y\n", "", "root:x:0:\ncrontab:x:101:\n")
                .unwrap();
        let p = |s: &str| TreePath::parse(s).unwrap();
        assert_eq!(rules.diversions[&p("f")], (p("f.real"), "b".to_string()));
        assert_eq!(rules.overrides[&p("x y")], (7, 101, 0o2755));
        assert!(Rules::parse("/f\n", "", "", "").is_err());
        assert!(Rules::parse("", "nobody root 755 /x", "", "root:x:0:").is_err());
    }
}
