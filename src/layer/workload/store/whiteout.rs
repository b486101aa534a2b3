//! A layer's tree as a tar spells it → as overlayfs wants it.
//!
//! OCI image-spec v1.1, layer.md §Whiteouts: `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` hides all that
//! its directory has there. Overlayfs (Linux, Documentation/filesystems/overlayfs.rst) says the same with a character
//! device 0:0 named NAME and the attribute `trusted.overlay.opaque=y`.

use crate::tree::{Node, NodeKind, Tree, TreeError, TreePath};

const PREFIX: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// The attribute of a directory that hides what is below it.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// An entry that no layer of a container image may have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadLayer {
    /// A whiteout of nothing, of a directory's own entries, or of AUFS' private kind.
    #[error("`{0}` is no whiteout that OCI knows")]
    Whiteout(TreePath),
    /// Overlayfs' own attributes: from outside they could redirect a directory to another layer's.
    #[error("`{path}` has the attribute `{xattr}`, which is overlayfs' own")]
    OverlayXattr {
        /// The entry.
        path: TreePath,
        /// The attribute's name.
        xattr: String,
    },
    /// A device node; a container gets its devices from the runtime.
    #[error("`{0}` is a device node; containers get their devices from the runtime")]
    Device(TreePath),
    /// Entries contradict each other.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Translates whiteouts and refuses what could reach beyond the layer. Device nodes in `dev/` are left out: the runtime
/// mounts its own there. In a `base` layer whiteouts are left out as well, as they have nothing to hide and overlayfs
/// would show them.
pub fn to_overlay(layer: &Tree, base: bool) -> Result<Tree, BadLayer> {
    let mut out = Tree::new();
    let mut hidden = vec![];
    let mut opaque = vec![];
    let mut links = vec![];
    for (path, node) in layer.iter() {
        if let Some(xattr) = node.xattrs.keys().find(|name| is_overlays(name)) {
            return Err(BadLayer::OverlayXattr { path: path.clone(), xattr: xattr.clone() });
        }
        if let Some(name) = path.name().strip_prefix(PREFIX) {
            let dir = path.parent().unwrap_or_default();
            let is_file = matches!(node.kind, NodeKind::File(_) | NodeKind::HardLink(_));
            match name {
                _ if !is_file => return Err(BadLayer::Whiteout(path.clone())),
                _ if path.name() == OPAQUE => opaque.push(dir),
                "" | "." | ".." => return Err(BadLayer::Whiteout(path.clone())),
                _ if name.starts_with(PREFIX) => return Err(BadLayer::Whiteout(path.clone())),
                name => hidden.push(dir.join(name).map_err(|_| BadLayer::Whiteout(path.clone()))?),
            }
            continue;
        }
        match &node.kind {
            NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } => {
                if path.components().next() != Some("dev") {
                    return Err(BadLayer::Device(path.clone()));
                }
            }
            // A target may come later in path order.
            NodeKind::HardLink(_) => links.push((path.clone(), node.clone())),
            _ => out.insert(path.clone(), node.clone())?,
        }
    }
    for (path, node) in links {
        out.insert(path, node)?;
    }
    if base {
        return Ok(out);
    }
    for path in hidden {
        match out.get(&path) {
            // The layer hides what was there and brings its own directory of that name.
            Some(node) if node.is_dir() => opaque.push(path),
            Some(_) => {}
            None => {
                let whiteout =
                    Node { kind: NodeKind::CharDevice { major: 0, minor: 0 }, ..Node::text("", 0) };
                out.insert(path, whiteout)?;
            }
        }
    }
    for dir in opaque {
        if let Some(node) = out.get(&dir).cloned() {
            let mut node = node;
            node.xattrs.insert(OPAQUE_XATTR.into(), b"y".to_vec());
            out.insert(dir, node)?;
        }
    }
    Ok(out)
}

fn is_overlays(xattr: &str) -> bool {
    xattr.starts_with("trusted.overlay.") || xattr.starts_with("user.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> TreePath {
        TreePath::parse(s).unwrap()
    }

    fn layer(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            tree.insert(p(path), Node::text("", 0o644)).unwrap();
        }
        tree
    }

    fn is_whiteout(tree: &Tree, path: &str) -> bool {
        tree.get(&p(path)).is_some_and(|n| n.kind == NodeKind::CharDevice { major: 0, minor: 0 })
    }

    #[test]
    fn whiteouts_become_devices_and_opaque_directories() {
        let out = to_overlay(&layer(&[".wh.a", "d/.wh.b", "o/.wh..wh..opq", "o/x", ".wh.n", "n/y"]), false)
            .unwrap();
        assert!(is_whiteout(&out, "a") && is_whiteout(&out, "d/b"));
        for dir in ["o", "n"] {
            assert_eq!(out.get(&p(dir)).unwrap().xattrs[OPAQUE_XATTR], b"y", "{dir}");
        }
        assert!(out.iter().all(|(path, _)| !path.name().starts_with(".wh.")));
    }

    #[test]
    fn a_layer_that_replaces_a_file_keeps_its_own() {
        let out = to_overlay(&layer(&[".wh.a", "a"]), false).unwrap();
        assert!(matches!(out.get(&p("a")).unwrap().kind, NodeKind::File(_)));
    }

    #[test]
    fn a_base_layer_has_nothing_to_hide() {
        let out = to_overlay(&layer(&[".wh.a", "d/.wh..wh..opq", "d/x"]), true).unwrap();
        assert!(out.get(&p("a")).is_none());
        assert!(out.get(&p("d")).unwrap().xattrs.is_empty());
    }

    #[test]
    fn hostile_whiteouts_are_refused() {
        for bad in [".wh.", "d/.wh..", "d/.wh...", ".wh..wh.plnk", ".wh..wh..wh..opq", ".wh.dir/x"] {
            assert!(matches!(to_overlay(&layer(&[bad]), false), Err(BadLayer::Whiteout(_))), "{bad}");
        }
    }

    #[test]
    fn a_redirect_into_another_layer_is_refused() {
        let mut tree = Tree::new();
        let mut dir = Node::dir(0o755);
        dir.xattrs.insert("trusted.overlay.redirect".into(), b"/etc".to_vec());
        tree.insert(p("d"), dir).unwrap();
        assert!(matches!(to_overlay(&tree, false), Err(BadLayer::OverlayXattr { .. })));
    }

    #[test]
    fn devices_are_left_out_of_dev_and_refused_elsewhere() {
        let disk = Node { kind: NodeKind::BlockDevice { major: 8, minor: 0 }, ..Node::text("", 0o666) };
        let fake = Node { kind: NodeKind::CharDevice { major: 0, minor: 0 }, ..Node::text("", 0) };
        for (path, node, refused) in
            [("dev/sda", &disk, false), ("srv/sda", &disk, true), ("etc/shadow", &fake, true)]
        {
            let mut tree = Tree::new();
            tree.insert(p(path), node.clone()).unwrap();
            match to_overlay(&tree, false) {
                Ok(out) => assert!(!refused && out.get(&p(path)).is_none(), "{path}"),
                Err(fault) => assert!(refused && matches!(fault, BadLayer::Device(_)), "{path}: {fault}"),
            }
        }
    }
}
