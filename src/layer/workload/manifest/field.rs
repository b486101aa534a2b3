//! Fields that name container images in objects of kinds that forge does not know: an operator's custom resources.

use super::yaml::Node;

/// The prefix of a model's storage that is an image (KServe, "modelcar").
const OCI_SCHEME: &str = "oci://";

/// Where objects of one kind name an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageField {
    /// The objects' `kind`.
    pub kind: String,
    /// Keys with dots between; `[]` behind one stands for every item of its list.
    pub path: String,
}

impl ImageField {
    /// The nodes at the field: none where the object leaves it out, many through lists.
    pub(super) fn of<'n>(&self, object: &'n Node) -> Vec<&'n Node> {
        let mut at = vec![object];
        for key in self.path.split('.') {
            let (key, is_list) = key.strip_suffix("[]").map_or((key, false), |key| (key, true));
            let found = at.into_iter().filter_map(|node| node.get(key));
            at = match is_list {
                true => found.filter_map(Node::items).flatten().map(AsRef::as_ref).collect(),
                false => found.collect(),
            };
        }
        at
    }
}

/// An image's name as it is written in a field, without what only says that it is one.
pub(super) fn name(written: &str) -> &str {
    written.strip_prefix(OCI_SCHEME).unwrap_or(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::workload::manifest::parse_with;

    #[test]
    fn fields_are_followed_through_lists_and_may_be_absent() {
        let text = "kind: EMQX\nmetadata: {name: e}\nspec:\n  image: emqx/emqx:5.8\n  brokers:\n  - {image: \"a.example/b:1\"}\n  \
                    - {name: none}\n  - {image: \"oci://a.example/model:2\"}\n---\nkind: EMQX\nspec: {}\n---\nkind: Other\nspec: {image: x:1}\n";
        let field = |path: &str| ImageField { kind: "EMQX".into(), path: path.into() };
        let fields = [field("spec.image"), field("spec.brokers[].image"), field("spec.none.image")];
        let manifest = parse_with("x.yaml", text.as_bytes(), &fields).unwrap();
        let names: Vec<_> = manifest.images().map(|i| i.name.to_string()).collect();
        assert_eq!(names, ["docker.io/emqx/emqx:5.8", "a.example/b:1", "a.example/model:2"]);
        let faults = parse_with("x.yaml", b"kind: EMQX\nspec: {image: [x]}\n", &fields).unwrap_err();
        assert_eq!(faults[0].to_string(), "x.yaml:2:15: `spec.image` names no container image");
    }
}
