//! Models and other large data → their part of the payload partition, and a mount unit that shows it where pods look.
//!
//! ```text
//! models/NAME/…                                    the files, once
//! units/system/VAR-LIB-MODELS-NAME.mount           binds them to `mount` on the host
//! units/system/local-fs.target.wants/…             switches that on
//! units/system/boot-complete.target.requires/…     likewise, of a required one
//! ```
//!
//! Units of a payload become the boot's by forge's generator (`templates/os`), so that the root partition knows of no
//! model. Pods see a model by `hostPath`, which names the mount point.

use crate::layer::workload::PAYLOAD;
use crate::tree::{BadPath, Content, Node, Tree, TreeError, TreePath};
use std::fmt::Write as _;

/// Directory of units that the payload brings, below the payload's root.
pub const SYSTEM_UNITS: &str = "units/system";
/// Directory of models, below the payload's root.
pub const MODELS: &str = "models";

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The workload's name.
    pub name: String,
    /// Whether a boot without it is bad.
    pub required: bool,
    /// Where the host has it, absolute.
    pub mount: String,
    /// Its files.
    pub files: Vec<Part>,
}

/// A part of a model.
#[derive(Clone, Debug)]
pub enum Part {
    /// A file at a path.
    File(TreePath, Content),
    /// The files of an archive, as it has them.
    Archive(Tree),
}

/// A model that cannot be put together.
#[derive(Debug, thiserror::Error)]
#[error("model `{model}`: {fault}")]
pub struct ModelError {
    /// The workload's name.
    pub model: String,
    /// What is wrong.
    pub fault: ModelFault,
}

/// What can be wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFault {
    /// A path that none can be.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Files that contradict one another.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An archive with what is neither file, directory nor link.
    #[error("`{0}` is neither a file, a directory nor a link")]
    Special(TreePath),
}

/// The payload's part for `models`.
///
/// # Errors
/// [`ModelError`], naming the model.
pub fn payload_tree(models: &[Model]) -> Result<Tree, ModelError> {
    let mut tree = Tree::new();
    for model in models {
        put(&mut tree, model).map_err(|fault| ModelError { model: model.name.clone(), fault })?;
    }
    Ok(tree)
}

fn put(tree: &mut Tree, model: &Model) -> Result<(), ModelFault> {
    let home = TreePath::parse(&format!("{MODELS}/{}", model.name))?;
    tree.insert(home.clone(), Node::dir(0o755))?;
    for part in &model.files {
        match part {
            Part::File(path, content) => {
                tree.insert(home.join(path.as_str())?, Node::file(content.clone(), 0o644))?;
            }
            Part::Archive(files) => {
                for (path, node) in files.iter().filter(|(path, _)| !path.as_str().is_empty()) {
                    tree.insert(home.join(path.as_str())?, plain(path, node, &home)?)?;
                }
            }
        }
    }
    let unit = format!("{}.mount", escaped(&model.mount));
    let text = format!(
        "[Unit]\nDescription=Model {}\n\n[Mount]\nWhat={PAYLOAD}/{home}\nWhere={}\nType=none\nOptions=bind,ro,nodev,nosuid\n",
        model.name, model.mount
    );
    tree.insert(TreePath::parse(&format!("{SYSTEM_UNITS}/{unit}"))?, Node::text(text, 0o644))?;
    switch_on(tree, "local-fs.target.wants", &unit)?;
    if model.required {
        switch_on(tree, "boot-complete.target.requires", &unit)?;
    }
    Ok(())
}

/// Pulls a unit of the payload in through the directory of links `dir`.
pub fn switch_on(tree: &mut Tree, dir: &str, unit: &str) -> Result<(), TreeError> {
    let link = TreePath::parse(&format!("{SYSTEM_UNITS}/{dir}/{unit}"))?;
    tree.insert(link, Node::symlink(format!("../{unit}")))
}

/// An archive's entry as every pod may read it: owners and modes of whoever packed it mean nothing on the device.
fn plain(path: &TreePath, node: &Node, home: &TreePath) -> Result<Node, ModelFault> {
    use crate::tree::NodeKind;
    let executable = node.mode & 0o111;
    match &node.kind {
        NodeKind::Dir => Ok(Node::dir(0o755)),
        NodeKind::File(content) => Ok(Node::file(content.clone(), 0o644 | executable)),
        NodeKind::Symlink(target) => Ok(Node::symlink(target.clone())),
        NodeKind::HardLink(target) => Ok(Node {
            kind: NodeKind::HardLink(home.join(target.as_str())?),
            ..Node::text("", 0o644 | executable)
        }),
        _ => Err(ModelFault::Special(path.clone())),
    }
}

/// A path as the name of its unit. systemd.unit(5), "String Escaping for Inclusion in Unit Names".
pub fn escaped(path: &str) -> String {
    let mut name = String::new();
    for (at, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b if b.is_ascii_alphanumeric() || b":_.".contains(&b) => name.push(char::from(b)),
            b => {
                let _ = write!(name, "\\x{b:02x}"); // writing to a String cannot fail
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> TreePath {
        TreePath::parse(s).unwrap()
    }

    fn model(files: Vec<Part>) -> Model {
        Model { name: "shelf".into(), required: true, mount: "/var/lib/models/shelf-vision".into(), files }
    }

    #[test]
    fn unit_names_are_those_of_systemd_escape() {
        for (path, name) in [
            ("/var/lib/models/shelf", "var-lib-models-shelf"),
            ("/srv/a-b/c d/é", "srv-a\\x2db-c\\x20d-\\xc3\\xa9"),
            ("/.x/.y", "\\x2ex-.y"),
        ] {
            assert_eq!(escaped(path), name);
        }
    }

    #[test]
    fn files_are_there_once_and_a_unit_binds_them() {
        let mut archive = Tree::new();
        archive.insert(p("labels/de.txt"), Node::text("x", 0o600).owned(7, 7)).unwrap();
        let file = Part::File(p("w/1.onnx"), Content::from(b"weights".to_vec()));
        let tree = payload_tree(&[model(vec![file, Part::Archive(archive)])]).unwrap();
        assert!(tree.file(&p("models/shelf/w/1.onnx")).is_some());
        let label = tree.get(&p("models/shelf/labels/de.txt")).unwrap();
        assert_eq!((label.mode, label.uid), (0o644, 0));
        let unit = "units/system/var-lib-models-shelf\\x2dvision.mount";
        let text = String::from_utf8(tree.file(&p(unit)).unwrap().to_vec(1 << 16).unwrap()).unwrap();
        assert!(
            text.contains("What=/usr/lib/forge/payload/models/shelf\nWhere=/var/lib/models/shelf-vision\n"),
            "{text}"
        );
        for dir in ["local-fs.target.wants", "boot-complete.target.requires"] {
            let link = p(&format!("units/system/{dir}/var-lib-models-shelf\\x2dvision.mount"));
            assert_eq!(tree.resolve(&link).unwrap(), p(unit));
        }
    }

    #[test]
    fn an_archive_with_a_device_is_refused() {
        let mut archive = Tree::new();
        let device =
            Node { kind: crate::tree::NodeKind::BlockDevice { major: 8, minor: 0 }, ..Node::text("", 0o666) };
        archive.insert(p("sda"), device).unwrap();
        let fault = payload_tree(&[model(vec![Part::Archive(archive)])]).unwrap_err().to_string();
        assert_eq!(fault, "model `shelf`: `sda` is neither a file, a directory nor a link");
    }
}
