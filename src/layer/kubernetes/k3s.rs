//! k3s: names and places of its release.
//!
//! Written for v1.31 and later: `--help` of `k3s server`, and <https://docs.k3s.io/installation/airgap>. A server of v1.21
//! was seen to run from an image, too (`hack/e2e k3s`). Before v1.30.13, v1.31.9, v1.32.5 and v1.33.1 an archive of images is
//! imported at each start; forge keeps a server that stands alone from that, an agent of that age it does not.

use super::cluster::{Distribution, Role};

/// One program that is also `kubectl`, `crictl` and `ctr` by the name that it is called by.
#[derive(Clone, Copy, Debug)]
pub struct K3s;

impl Distribution for K3s {
    fn name(&self) -> &'static str {
        "k3s"
    }
    fn documentation(&self) -> &'static str {
        "https://docs.k3s.io"
    }
    fn unit(&self, role: Role) -> &'static str {
        match role {
            Role::Server => "k3s.service",
            Role::Agent => "k3s-agent.service",
        }
    }
    fn program_in_release(&self) -> Option<&'static str> {
        None
    }
    fn links(&self) -> &'static [(&'static str, &'static str)] {
        &[("kubectl", "k3s"), ("crictl", "k3s"), ("ctr", "k3s")]
    }
    fn kubectl(&self) -> &'static str {
        "/usr/local/bin/kubectl"
    }
}
