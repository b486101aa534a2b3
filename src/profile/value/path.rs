//! Paths: of the image, absolute and inside of it; and of this machine, relative to the file that names them.

use super::parsed;
use crate::profile::fragment::Node;
use crate::profile::shape::{Content, Definitions, Reader, Shape, Wrong};
use crate::profile::word::text;
use crate::tree::TreePath;
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

/// A path inside the image, absolute in the profile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(TreePath);

impl ImagePath {
    /// Checks `s`: absolute, normal, and in a directory whose content comes from the image.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(s: &str) -> Result<ImagePath, Wrong> {
        let shown: String = s.chars().take(200).collect();
        if !s.starts_with('/') {
            return Err(Wrong::new(
                format!("`{shown}` is not an absolute path"),
                format!("a path in the image, such as `/{}`", shown.trim_start_matches("./")),
            ));
        }
        let normal = TreePath::parse(s)
            .map_err(|bad| Wrong::new(bad.to_string(), "a path in the image, such as `/etc/motd`"))?;
        if normal == TreePath::root() {
            return Err(Wrong::new("`/` is not a file", "a path in the image, such as `/etc/motd`"));
        }
        if s.ends_with('/') || s.chars().any(char::is_control) || format!("/{}", normal.as_str()) != s {
            return Err(Wrong::new(
                format!("`{shown}` is not the plain name of a file"),
                format!("write `/{}`", normal.as_str()),
            ));
        }
        // Mounted over at boot: a file there would never be seen.
        let first = normal.components().next().unwrap_or_default();
        if ["proc", "sys", "dev", "run", "tmp"].contains(&first) {
            return Err(Wrong::new(
                format!("`/{first}` is made anew at each boot, a file of the image cannot be seen there"),
                "use `/etc`, `/usr` or `/opt`",
            ));
        }
        Ok(ImagePath(normal))
    }

    /// The path from the root of the tree.
    pub fn tree(&self) -> &TreePath {
        &self.0
    }
}

impl Serialize for ImagePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("/{}", self.0.as_str()))
    }
}

impl Shape for ImagePath {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<ImagePath> {
        parsed(node, reader, "a path in the image", ImagePath::parse)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^/[^/]" })
    }
}

/// A file beside the profile, by its path from the main profile's directory.
///
/// In the profile, a path is relative to the file that names it. `..` may lead out of the directory: it is the
/// engineer's own machine; an absolute path is refused, for it means nothing on another one.
macro_rules! files {
    ($( $(#[doc = $doc:literal])+ $name:ident : $content:expr; )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The path from the main profile's directory.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Shape for $name {
            fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
                let path = text(node, reader, "a path", false)?;
                reader.file(node, &path, $content).map($name)
            }
            fn schema(_: &mut Definitions) -> Json {
                json!({ "type": "string", "pattern": "^[^/]" })
            }
        }
    )+ };
}
files! {
    /// A file whose content goes into the image, by its path from the main profile's directory.
    InputFile: Content::File;
    /// A file of Kubernetes manifests that goes into the image, by its path from the main profile's directory.
    ManifestFile: Content::Manifest;
    /// A key or certificate that stays on this machine, by its path from the main profile's directory.
    KeyFile: Content::Key;
}
