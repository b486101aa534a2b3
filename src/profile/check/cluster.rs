//! What a Kubernetes distribution with an API server needs and refuses, said before its first boot says it.

use super::Check;
use crate::profile::diagnostic::{Fault, Place};
use crate::profile::fragment::{Node, Value};
use crate::secret;

/// The longest name of a label, and its longest value, in bytes (Kubernetes' `validation.LabelValueMaxLength`).
const MAX_LABEL: usize = 63;
/// The longest prefix of a label's key, in bytes: a DNS name (RFC 1123).
const MAX_PREFIX: usize = 253;

impl<'c> Check<'c, '_> {
    /// `[kubernetes]` with `distribution` k3s or RKE2, chosen at `because`.
    pub(super) fn cluster(&mut self, distribution: &str, because: Place) {
        let (mark, example) = match distribution {
            "k3s" => ("+k3s", "\"v1.34.2+k3s1\""),
            _ => ("+rke2r", "\"v1.34.2+rke2r1\""),
        };
        let choice = format!("distribution `{distribution}`");
        self.needed("kubernetes", &[("version", example)], &choice, because);
        if let Some(version) = self.root.at(&["kubernetes", "version"])
            && version.text().is_some_and(|text| !text.contains(mark))
        {
            let fault = Fault::new(
                version.place,
                format!("this is not a version of {distribution}"),
                format!("{distribution}'s versions end in `{mark}` and a number, such as {example}"),
            );
            self.fault(fault);
        }
        self.labels();
        self.agents_workloads();
        if let Some(registries) = self.root.at(&["kubernetes", "registries"]) {
            self.registries(registries);
        }
    }

    /// The site's labels become the node's, which does not start with one that it may not have.
    pub(super) fn labels(&mut self) {
        for (key, entry) in self.root.at(&["site", "labels"]).and_then(Node::table).into_iter().flatten() {
            let fault = if !is_label_key(key) {
                let help =
                    "letters, digits, `-`, `_` and `.`, at most 63; before it perhaps a DNS name and `/`";
                Fault::new(entry.key, format!("`{key}` is no key of a node's label"), help)
            } else if !may_label_itself(key) {
                let help = "use a name of your own, such as `shop.example/tier`";
                Fault::new(entry.key, format!("a node may not give itself the label `{key}`"), help)
            } else if entry.node.text().is_some_and(|value| !(value.is_empty() || is_label_name(value))) {
                let help = "letters, digits, `-`, `_` and `.`, at most 63, first and last a letter or digit";
                Fault::new(entry.node.place, "this is no value of a node's label", help)
            } else {
                continue;
            };
            self.fault(fault);
        }
    }

    /// An agent brings images along, and its server what is run from them.
    fn agents_workloads(&mut self) {
        if self.word(&["kubernetes", "role"], "server") != "agent" {
            return;
        }
        let because = self.place(&["kubernetes", "role"]);
        for workload in self.root.items(&["workload"]) {
            if let Some(required) = workload.at(&["required"]).filter(|r| r.value == Value::Boolean(true)) {
                let fault = Fault::new(
                    required.place,
                    "no boot of an agent can wait for a workload: its server says where that runs",
                    "remove `required`; the workload's images are carried along all the same",
                );
                self.fault(fault.related(because, "an agent deploys nothing"));
            }
        }
    }

    /// Credentials of registries, however deep.
    fn registries(&mut self, node: &'c Node) {
        for (key, entry) in node.table().into_iter().flatten() {
            if ["auth", "password", "identity_token", "token"].contains(&key.as_str()) {
                self.fault(Fault::new(entry.key, format!("`{key}` is a credential"), secret::HELP));
            } else {
                self.registries(&entry.node);
            }
        }
    }
}

fn is_label_name(s: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    (1..=MAX_LABEL).contains(&s.len())
        && s.starts_with(ends)
        && s.ends_with(ends)
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_label_key(key: &str) -> bool {
    let label = |l: &str| {
        is_label_name(l) && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    match key.split_once('/') {
        Some((prefix, name)) => {
            prefix.len() <= MAX_PREFIX && prefix.split('.').all(label) && is_label_name(name)
        }
        None => is_label_name(key),
    }
}

/// Kubernetes keeps its own names from nodes (`--node-labels` of kubelet), but for those under which nodes sort themselves.
fn may_label_itself(key: &str) -> bool {
    let Some((prefix, name)) = key.split_once('/') else { return true };
    let below = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    below("node.kubernetes.io")
        || below("kubelet.kubernetes.io")
        || (prefix == "topology.kubernetes.io" && ["region", "zone"].contains(&name))
        || (prefix == "kubernetes.io" && ["arch", "hostname", "os"].contains(&name))
}
