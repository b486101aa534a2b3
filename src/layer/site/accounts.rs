//! Users and groups: the packages' `passwd`, `shadow` and `group` with a site's people added.
//!
//! passwd(5), shadow(5), group(5). No one has a password; the date of the last change is left empty, because it would make
//! the image depend on the day it was built.

use crate::tree::{Node, Tree, TreePath};
use anyhow::{Context as _, bail};

/// The first id of a person (Debian Policy §9.2.2).
const FIRST_PERSON: u32 = 1000;
/// The last.
const LAST_PERSON: u32 = 59999;
/// The longest account file that is read.
const MAX_FILE: u64 = 1 << 20;

/// A person who logs in with an SSH key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name: `[a-z_][a-z0-9_-]*`, at most 32.
    pub name: String,
    /// User and group id; the first free one from 1000 where the profile names none.
    pub uid: Option<u32>,
    /// Groups of the packages that the user is a member of.
    pub groups: Vec<String>,
    /// Public keys, as authorized_keys(5) has them, one each.
    pub ssh_keys: Vec<String>,
    /// Login shell.
    pub shell: String,
}

/// The three files, as lines.
#[derive(Clone, Debug)]
pub struct Accounts {
    passwd: Vec<String>,
    shadow: Vec<String>,
    group: Vec<String>,
    /// Owner of `shadow`: root and Debian's group shadow.
    shadow_group: u32,
    homes: Vec<(String, u32)>,
}

impl Accounts {
    /// Reads the accounts that packages made.
    ///
    /// # Errors
    /// When `passwd` or `group` is missing or is not text.
    pub fn read(below: &Tree) -> anyhow::Result<Accounts> {
        let lines = |file: &str| -> anyhow::Result<Vec<String>> {
            let content = below
                .file(&TreePath::parse(file)?)
                .with_context(|| format!("the packages have no /{file}"))?;
            let text =
                String::from_utf8(content.to_vec(MAX_FILE)?).with_context(|| format!("reading /{file}"))?;
            Ok(text.lines().map(String::from).collect())
        };
        let shadow_group = below.get(&TreePath::parse("etc/shadow")?).map_or(0, |n| n.gid);
        Ok(Accounts {
            passwd: lines("etc/passwd")?,
            shadow: lines("etc/shadow")?,
            group: lines("etc/group")?,
            shadow_group,
            homes: vec![],
        })
    }

    /// Adds `users`.
    ///
    /// # Errors
    /// When a name is taken or not a login name, an id is taken, a group does not exist, or a key is not one line.
    pub fn with(mut self, users: &[User]) -> anyhow::Result<Accounts> {
        for user in users {
            self.add(user).with_context(|| format!("adding user `{}`", user.name))?;
        }
        Ok(self)
    }

    fn add(&mut self, user: &User) -> anyhow::Result<()> {
        let name = &user.name;
        let first = |c: u8| c.is_ascii_lowercase() || c == b'_';
        let good = name.len() <= 32
            && name.bytes().next().is_some_and(first)
            && name.bytes().all(|c| first(c) || c.is_ascii_digit() || c == b'-');
        if !good {
            bail!("a login name is at most 32 of a-z, 0-9, `-` and `_`, and starts with a letter or `_`");
        }
        if find(&self.passwd, name).is_some() || find(&self.group, name).is_some() {
            bail!("the packages already have a user or group of that name");
        }
        if user.ssh_keys.iter().any(|key| key.trim().is_empty() || key.trim().chars().any(char::is_control)) {
            bail!("an SSH key is empty or has more than one line");
        }
        if user.shell.chars().any(|c| c == ':' || c.is_control()) || !user.shell.starts_with('/') {
            bail!("the shell `{}` is no absolute path", user.shell);
        }
        let taken = |id: u32| {
            [&self.passwd, &self.group].iter().any(|file| file.iter().any(|l| id_of(l) == Some(id)))
        };
        let uid = match user.uid {
            Some(uid) if taken(uid) => bail!("id {uid} is taken"),
            Some(uid) => uid,
            None => (FIRST_PERSON..=LAST_PERSON).find(|id| !taken(*id)).context("no id is free")?,
        };
        for group in &user.groups {
            let line = self.group.iter_mut().find(|l| l.split(':').next() == Some(group));
            let line = line.with_context(|| format!("there is no group `{group}`"))?;
            let separator = if line.ends_with(':') { "" } else { "," };
            *line = format!("{line}{separator}{name}");
        }
        self.passwd.push(format!("{name}:x:{uid}:{uid}::/home/{name}:{}", user.shell));
        self.shadow.push(format!("{name}:*::0:99999:7:::"));
        self.group.push(format!("{name}:x:{uid}:"));
        self.homes.push((name.clone(), uid));
        Ok(())
    }

    /// Ids of a user and a group by name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn ids(&self, owner: &str, group: &str) -> anyhow::Result<(u32, u32)> {
        let uid = find(&self.passwd, owner)
            .and_then(id_of)
            .with_context(|| format!("there is no user `{owner}`"))?;
        let gid = find(&self.group, group)
            .and_then(id_of)
            .with_context(|| format!("there is no group `{group}`"))?;
        Ok((uid, gid))
    }

    /// The files, and tmpfiles.d(5) lines that make homes.
    ///
    /// # Errors
    /// None in practice: the paths are constants.
    pub fn files(&self) -> anyhow::Result<Vec<(TreePath, Node)>> {
        let text = |lines: &[String]| lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect::<String>();
        let mut files = vec![
            (TreePath::parse("etc/passwd")?, Node::text(text(&self.passwd), 0o644)),
            (
                TreePath::parse("etc/shadow")?,
                Node::text(text(&self.shadow), 0o640).owned(0, self.shadow_group),
            ),
            (TreePath::parse("etc/group")?, Node::text(text(&self.group), 0o644)),
        ];
        if !self.homes.is_empty() {
            let lines: Vec<String> =
                self.homes.iter().map(|(name, uid)| format!("d /home/{name} 0700 {uid} {uid}")).collect();
            files.push((
                TreePath::parse("usr/lib/tmpfiles.d/forge-home.conf")?,
                Node::text(text(&lines), 0o644),
            ));
        }
        Ok(files)
    }
}

/// The line of `name`.
fn find<'a>(lines: &'a [String], name: &str) -> Option<&'a String> {
    lines.iter().find(|l| l.split(':').next() == Some(name))
}

/// The third field: a user's or a group's id.
fn id_of(line: impl AsRef<str>) -> Option<u32> {
    line.as_ref().split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let lines = |s: &str| s.lines().map(String::from).collect();
        Accounts {
            passwd: lines("root:x:0:0:root:/root:/bin/bash\nold:x:1000:1000::/home/old:/bin/sh"),
            shadow: lines("root:*:1:0:99999:7:::"),
            group: lines("root:x:0:\nsudo:x:27:\nadm:x:4:old\nold:x:1000:"),
            shadow_group: 42,
            homes: vec![],
        }
    }

    fn user(name: &str) -> User {
        User {
            name: name.into(),
            uid: None,
            groups: vec![],
            ssh_keys: vec!["ssh-ed25519 AAAA x".into()],
            shell: "/bin/bash".into(),
        }
    }

    #[test]
    fn a_user_gets_the_first_free_id_and_no_password() {
        let with =
            accounts().with(&[User { groups: vec!["sudo".into(), "adm".into()], ..user("ops") }]).unwrap();
        assert_eq!(with.passwd.last().unwrap(), "ops:x:1001:1001::/home/ops:/bin/bash");
        assert_eq!(with.shadow.last().unwrap(), "ops:*::0:99999:7:::");
        assert_eq!(with.group[1..3], ["sudo:x:27:ops", "adm:x:4:old,ops"]);
        assert_eq!(with.ids("ops", "sudo").unwrap(), (1001, 27));
    }

    #[test]
    fn what_would_break_the_files_is_refused() {
        for (says, user) in [
            ("login name", user("a:b")),
            ("login name", user("Root")),
            ("login name", user("x\ny")),
            ("already", user("root")),
            ("id 1000 is taken", User { uid: Some(1000), ..user("new") }),
            ("no group `gone`", User { groups: vec!["gone".into()], ..user("new") }),
            ("more than one line", User { ssh_keys: vec!["a\nb".into()], ..user("new") }),
            ("no absolute path", User { shell: "/bin/sh:x".into(), ..user("new") }),
        ] {
            let error = format!("{:#}", accounts().with(&[user]).unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
