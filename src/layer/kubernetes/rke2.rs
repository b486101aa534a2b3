//! RKE2: names and places of its release.
//!
//! Written for v1.31 and later: `rke2 server --help`, and <https://docs.rke2.io/install/airgap>. Agents join at port 9345;
//! the API server is at 6443.

use super::cluster::{Distribution, Role};

/// One program that takes kubelet, containerd and kubectl out of an image of its own into its state directory.
#[derive(Clone, Copy, Debug)]
pub struct Rke2;

impl Distribution for Rke2 {
    fn name(&self) -> &'static str {
        "rke2"
    }
    fn documentation(&self) -> &'static str {
        "https://docs.rke2.io"
    }
    fn unit(&self, role: Role) -> &'static str {
        match role {
            Role::Server => "rke2-server.service",
            Role::Agent => "rke2-agent.service",
        }
    }
    fn program_in_release(&self) -> Option<&'static str> {
        Some("bin/rke2")
    }
    fn links(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("kubectl", "/var/lib/rancher/rke2/bin/kubectl"),
            ("crictl", "/var/lib/rancher/rke2/bin/crictl"),
            ("ctr", "/var/lib/rancher/rke2/bin/ctr"),
        ]
    }
    fn kubectl(&self) -> &'static str {
        "/var/lib/rancher/rke2/bin/kubectl"
    }
}
