//! What KubeEdge's EdgeCore needs and refuses, said before its first boot says it.

use super::Check;
use crate::profile::diagnostic::{Fault, Place};
use crate::profile::fragment::{Node, Value};
use crate::secret;

/// Where the configuration has CloudCore's token, which makes its holder any node.
const TOKEN: &str = "modules.edgeHub.token";
/// Where it says where CloudCore is.
const ADDRESSES: [&str; 2] = ["modules.edgeHub.httpServer", "modules.edgeHub.websocket.server"];

impl<'c> Check<'c, '_> {
    /// `[agent]` with `kind = "kubeedge"`, chosen at `because`.
    pub(super) fn kubeedge(&mut self, because: Place) {
        self.needed("agent", &[("version", "\"v1.22.1\"")], "kind `kubeedge`", because);
        if let Some(version) = self.root.at(&["agent", "version"])
            && version.text().is_some_and(|text| text.contains('+'))
        {
            let help = "KubeEdge's versions are three numbers, such as \"v1.22.1\"";
            self.fault(Fault::new(version.place, "this is not a version of KubeEdge", help));
        }
        let distribution = self.word(&["kubernetes", "distribution"], "none");
        if distribution != "none" {
            let fault = Fault::new(
                because,
                format!("EdgeCore runs the pods itself, and so does distribution `{distribution}`"),
                "remove `kubernetes.distribution`: EdgeCore brings containerd along and needs no other",
            );
            let place = self.place(&["kubernetes", "distribution"]);
            self.fault(fault.related(place, "the other"));
        }
        if let Some(token) = self.agents(TOKEN) {
            let fault = Fault::new(token.place, "CloudCore's token is a credential", secret::HELP);
            self.fault(fault.label("makes its holder any node, for a day"));
        }
        if self.word(&["enroll", "mode"], "none") == "none" {
            for key in ADDRESSES {
                if self.agents(key).is_some() {
                    continue;
                }
                let fault = Fault::new(
                    because,
                    format!("nothing says where CloudCore is: no grant, and no `{key}`"),
                    format!(
                        "add \"{key}\" = \"…\" to `agent.config`, or join through a fleet: enroll.mode = \"fleet\""
                    ),
                );
                self.fault(fault);
            }
        }
        for workload in self.root.items(&["workload"]) {
            if let Some(required) = workload.at(&["required"]).filter(|r| r.value == Value::Boolean(true)) {
                let fault = Fault::new(
                    required.place,
                    "no boot can wait for a workload that a cluster far away decides on",
                    "remove `required`; the workload's images are carried along all the same",
                );
                self.fault(fault.related(because, "EdgeCore runs what its cluster sends"));
            }
        }
        self.labels();
    }

    /// The value that `agent.config` has at `path`, whose first keys may be written as one, with points.
    fn agents(&self, path: &str) -> Option<&'c Node> {
        let keys: Vec<&str> = path.split('.').collect();
        (1..=keys.len()).find_map(|joined| {
            let (first, rest) = keys.split_at(joined);
            self.root.at(&["agent", "config", &first.join(".")])?.at(rest)
        })
    }
}
