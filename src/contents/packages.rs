//! dpkg's status file → installed packages with versions and sizes (dpkg, deb-control(5) §Installed-Size).

use super::Package;
use crate::debian::deb822;
use crate::model::Bytes;
use crate::tree::TreePath;
use std::collections::BTreeMap;

/// Whose packages a status file lists.
pub enum Place<'a> {
    /// Those of the tree itself.
    System,
    /// Those of the layer with this id of a container store.
    StoreLayer(&'a str),
}

/// Whose status file `path` is; `None` where it is none. On a device `/var` is empty at first, so that its root may keep
/// the database in the factory directory.
pub fn place(path: &TreePath) -> Option<Place<'_>> {
    match path.as_str() {
        "var/lib/dpkg/status" | "usr/share/factory/var/lib/dpkg/status" => Some(Place::System),
        other => {
            let (before, id) = other.strip_suffix("/diff/var/lib/dpkg/status")?.rsplit_once('/')?;
            (before == "overlay" || before.ends_with("/overlay")).then_some(Place::StoreLayer(id))
        }
    }
}

/// The installed packages of a status file. What is not text stands for itself as U+FFFD.
pub fn installed(status: &[u8]) -> BTreeMap<String, Package> {
    let text = String::from_utf8_lossy(status);
    let mut packages = BTreeMap::new();
    for paragraph in deb822::paragraphs(&text) {
        let field = |name| paragraph.get(name);
        let present = field("Status").is_some_and(|s| s.ends_with(" installed"));
        if let (true, Some(name), Some(version)) = (present, field("Package"), field("Version")) {
            let kibibytes = field("Installed-Size").and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
            let size = Bytes(kibibytes.saturating_mul(1024));
            packages.insert(name.to_string(), Package { version: version.into(), size });
        }
    }
    packages
}
