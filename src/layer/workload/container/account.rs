//! A user as the profile names it → the numbers that the image's own passwd and group files give it.
//!
//! Numbers, because Kubernetes' `runAsNonRoot` cannot judge a name, and because a name would be looked up again on the
//! device.

use crate::tree::{Tree, TreePath};

/// The longest passwd or group file that is read, in bytes; real ones have a few kilobytes.
const MAX_DATABASE: u64 = 1 << 20;

/// A user or group that the image does not have.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BadUser {
    /// The name is not in the file.
    #[error("`{name}` is not in its /{database}")]
    Unknown {
        /// User or group.
        name: String,
        /// `etc/passwd` or `etc/group`.
        database: &'static str,
    },
    /// The file is not there, is too long or is no text.
    #[error("its /{0} cannot be read")]
    Unreadable(&'static str),
}

/// `UID:GID` of `user`, spelled as [`super::Spec::user`] may be, in `tree`. A number without a group gets the group that
/// passwd gives it, or 0, as the runtimes do.
pub fn resolve(user: &str, tree: &Tree) -> Result<String, BadUser> {
    let (user, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let (uid, primary) = match user.parse::<u32>() {
        Ok(uid) => (uid, lookup(tree, "etc/passwd", |f| f.get(2) == Some(&user), 3)?.unwrap_or(0)),
        Err(_) => {
            let uid = required(tree, "etc/passwd", user)?;
            (uid, lookup(tree, "etc/passwd", |f| f[0] == user, 3)?.unwrap_or(0))
        }
    };
    let gid = match group {
        None => primary,
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => required(tree, "etc/group", group)?,
        },
    };
    Ok(format!("{uid}:{gid}"))
}

fn required(tree: &Tree, database: &'static str, name: &str) -> Result<u32, BadUser> {
    lookup(tree, database, |fields| fields[0] == name, 2)?
        .ok_or_else(|| BadUser::Unknown { name: name.chars().take(80).collect(), database })
}

/// The number in `column` of the first line that `wanted` takes; `None` where no line is or the file is missing.
fn lookup(
    tree: &Tree,
    database: &'static str,
    wanted: impl Fn(&[&str]) -> bool,
    column: usize,
) -> Result<Option<u32>, BadUser> {
    let unreadable = || BadUser::Unreadable(database);
    let path = TreePath::parse(database).map_err(|_| unreadable())?;
    let Some(content) = tree.resolve(&path).and_then(|p| tree.file(&p).cloned()) else { return Ok(None) };
    let bytes = content.to_vec(MAX_DATABASE).map_err(|_| unreadable())?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable())?;
    let line = text.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|fields| wanted(fields));
    Ok(line.and_then(|fields| fields.get(column)?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        for (path, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:34::/var/www:/usr/sbin/nologin\n"),
            ("etc/group", "root:x:0:\nssl-cert:x:101:\n"),
        ] {
            tree.insert(TreePath::parse(path).unwrap(), Node::text(text, 0o644)).unwrap();
        }
        tree
    }

    #[test]
    fn names_become_numbers() {
        for (user, numbers) in [
            ("www-data", "33:34"),
            ("33", "33:34"),
            ("4000", "4000:0"),
            ("www-data:ssl-cert", "33:101"),
            ("1:2", "1:2"),
        ] {
            assert_eq!(resolve(user, &tree()).as_deref(), Ok(numbers), "{user}");
        }
    }

    #[test]
    fn who_is_not_there_is_named() {
        assert_eq!(
            resolve("nginx", &tree()),
            Err(BadUser::Unknown { name: "nginx".into(), database: "etc/passwd" })
        );
        assert_eq!(
            resolve("0:wheel", &tree()),
            Err(BadUser::Unknown { name: "wheel".into(), database: "etc/group" })
        );
        assert!(resolve("", &tree()).is_err());
    }
}
