//! os-release(5): the packages' own, with the image's name and, in the kernel image, its version.
//!
//! The version stands there and in no file of the root, so that a new version of the workloads leaves the root's bytes as
//! they are. systemd-boot sorts its entries by it (UAPI.1, "Boot Loader Entry sort order").

use crate::tree::{Tree, TreePath};
use anyhow::Context as _;

/// More than any distribution's os-release, in bytes.
const MAX: u64 = 64 * 1024;

/// The text for image `name`, of `version` where one is told.
///
/// # Errors
/// When `os` has no `/usr/lib/os-release`, or it is not text.
pub fn compose(os: &Tree, name: &str, version: Option<&str>) -> anyhow::Result<String> {
    let path = TreePath::parse("usr/lib/os-release")?;
    let content = os.file(&path).with_context(|| format!("the packages bring no /{path}"))?;
    let text = String::from_utf8(content.to_vec(MAX)?).with_context(|| format!("reading /{path}"))?;
    let own = text.lines().filter(|l| {
        !["IMAGE_ID=", "IMAGE_VERSION="].iter().any(|key| l.starts_with(key)) && !l.trim().is_empty()
    });
    // Both words are narrow enough to need no quotes.
    let image = [Some(format!("IMAGE_ID={name}")), version.map(|v| format!("IMAGE_VERSION={v}"))]
        .into_iter()
        .flatten();
    Ok(own.map(String::from).chain(image).map(|l| l + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    #[test]
    fn name_and_version_replace_what_was_there() {
        let mut os = Tree::new();
        os.insert(
            TreePath::parse("usr/lib/os-release").unwrap(),
            Node::text("ID=debian\nIMAGE_ID=x\n", 0o644),
        )
        .unwrap();
        assert_eq!(
            compose(&os, "store", Some("1.2")).unwrap(),
            "ID=debian\nIMAGE_ID=store\nIMAGE_VERSION=1.2\n"
        );
        assert_eq!(compose(&os, "store", None).unwrap(), "ID=debian\nIMAGE_ID=store\n");
    }
}
