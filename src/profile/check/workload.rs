//! What workloads need of the runtime and of one another, and what none of them could do.

use super::Check;
use crate::model::{Arch, Bytes};
use crate::profile::diagnostic::{Fault, Place};
use crate::profile::fragment::Node;
use crate::profile::value::size;

impl<'c> Check<'c, '_> {
    /// `[[workload]]`, each and all together.
    pub(super) fn workloads(&mut self, arch: Arch) {
        let kinds = ["manifests", "helm", "vm", "model"];
        let distribution = self.word(&["kubernetes", "distribution"], "none");
        let unable: &[&str] = match (distribution, self.word(&["agent", "kind"], "none")) {
            // EdgeCore runs what its cluster sends; manifests say here which images it finds on the box.
            ("none", "kubeedge") => &["helm"],
            ("none", _) => &["manifests", "helm"],
            ("podman", _) => &["helm"],
            _ => &[],
        };
        for workload in self.root.items(&["workload"]) {
            let has: Vec<&Node> = kinds.iter().filter_map(|kind| workload.at(&[kind])).collect();
            let place = workload.at(&["name"]).unwrap_or(workload).place;
            match has[..] {
                [] if !workload.items(&["images"]).is_empty() => {} // carried for others to run
                [] if workload.table().is_some() => {
                    let fault = Fault::new(
                        place,
                        "this workload has nothing to run",
                        "add one of `manifests`, `helm`, `vm` and `model`, or `images` to carry",
                    );
                    self.fault(fault);
                }
                [first, second, ..] => {
                    let fault = Fault::new(
                        second.place,
                        "a workload is one of `manifests`, `helm`, `vm` and `model`",
                        "make two workloads",
                    );
                    self.fault(fault.related(first.place, "it is this already"));
                }
                _ => {}
            }
            if let Some(manifests) = workload.at(&["manifests"])
                && manifests.list().is_some_and(<[Node]>::is_empty)
            {
                self.fault(Fault::new(
                    manifests.place,
                    "there is no manifest in the list",
                    "name a YAML file",
                ));
            }
            for kind in unable {
                if let Some(node) = workload.at(&[kind]) {
                    let fault = Fault::new(
                        node.place,
                        format!("distribution `{distribution}` cannot run `{kind}`"),
                        format!(
                            "set kubernetes.distribution to {}",
                            if *kind == "helm" {
                                "\"k3s\" or \"rke2\""
                            } else {
                                "\"podman\", \"k3s\" or \"rke2\""
                            }
                        ),
                    );
                    self.fault(fault);
                }
            }
            for path in [&["helm", "chart"], &["vm", "disk"], &["model", "source"]] {
                if let Some(node) = workload.at(path)
                    && node.text() == Some("release")
                {
                    let fault = Fault::new(
                        node.place,
                        format!("`{}` has no upstream release", path.join(".")),
                        "`https://…`, `file:PATH` or `oci:REFERENCE`",
                    );
                    self.fault(fault);
                }
            }
            self.image_paths(workload);
            self.chart(workload);
            self.guest(workload, arch);
        }
        self.mounts();
        self.guests_fit();
    }

    fn image_paths(&mut self, workload: &'c Node) {
        if let Some(paths) = workload.at(&["image-paths"])
            && workload.at(&["manifests"]).is_none()
            && (workload.at(&["helm"]).is_none() || self.root.at(&["helm", "version"]).is_none())
        {
            let fault = Fault::new(
                paths.place,
                "`image-paths` reads manifests and rendered charts, and this workload has none",
                "add `manifests`, name a Helm by `helm.version`, or name the images in `images`",
            );
            self.fault(fault);
        }
    }

    fn chart(&mut self, workload: &'c Node) {
        let Some(chart) = workload.at(&["helm", "chart"]) else { return };
        let text = chart.text().unwrap_or_default();
        if text.starts_with("http") && workload.at(&["helm", "version"]).is_none() {
            let help = "add version = \"…\": a repository has many";
            self.fault(Fault::new(chart.place, "a chart of a repository needs `helm.version`", help));
        }
        if self.word(&["kubernetes", "role"], "server") == "agent" {
            let fault = Fault::new(
                chart.place,
                "an agent installs no chart: its server does",
                "carry the chart's images with `images`, and install it from the server",
            );
            self.fault(fault.related(self.place(&["kubernetes", "role"]), "an agent deploys nothing"));
        }
    }

    /// `[helm]`: a source is of a version.
    pub(super) fn helm(&mut self) {
        if self.root.at(&["helm", "source"]).is_some() {
            let place = self.place(&["helm", "source"]);
            self.needed("helm", &[("version", "\"v3.17.3\"")], "a source of Helm", place);
        }
    }

    /// `[gitops]`: a server of a cluster follows a repository that is said.
    pub(super) fn gitops(&mut self) {
        let place = self.place(&["gitops", "kind"]);
        let kind = self.word(&["gitops", "kind"], "none");
        if kind == "none" {
            self.pointless("gitops", &["url", "branch", "path", "secret"], "kind `none`", place);
            return;
        }
        self.needed(
            "gitops",
            &[("url", "\"https://git.example/sites.git\"")],
            &format!("kind `{kind}`"),
            place,
        );
        if kind == "argocd" {
            self.pointless("gitops", &["secret"], "kind `argocd`", place);
        }
        let distribution = self.word(&["kubernetes", "distribution"], "none");
        if !["k3s", "rke2"].contains(&distribution) || self.word(&["kubernetes", "role"], "server") == "agent"
        {
            let fault = Fault::new(
                place,
                "only the server of a cluster follows a repository",
                "set kubernetes.distribution to \"k3s\" or \"rke2\", with role \"server\"",
            );
            self.fault(fault);
        }
    }

    fn guest(&mut self, workload: &'c Node, arch: Arch) {
        let Some(vm) = workload.at(&["vm"]) else { return };
        let distribution = self.word(&["kubernetes", "distribution"], "none");
        let because = self.place(&["kubernetes", "distribution"]);
        for key in ["ports", "bridge"] {
            if let Some(node) = vm.at(&[key])
                && ["k3s", "rke2"].contains(&distribution)
            {
                let fault = Fault::new(
                    node.place,
                    format!("`{key}` is for guests without a cluster"),
                    "write a Service that selects `kubevirt.io/vm: NAME`",
                );
                self.fault(fault.related(because, "KubeVirt runs it"));
            }
        }
        if let (Some(ports), Some(bridge)) = (vm.at(&["ports"]), vm.at(&["bridge"])) {
            let fault = Fault::new(
                ports.place,
                "a guest on a bridge has an address of its own, and takes no ports of the host",
                "remove `ports` or `bridge`",
            );
            self.fault(fault.related(bridge.place, "it is on this bridge"));
        }
        if let Some(machine) = vm.at(&["machine"]).filter(|m| m.text() == Some("legacy"))
            && arch != Arch::Amd64
        {
            let fault = Fault::new(
                machine.place,
                format!("there is no machine `legacy` for {arch}"),
                "remove `machine`, or build the profile for amd64 alone",
            );
            self.fault(fault);
        }
    }

    /// Models are mounted over directories that can be made at boot, none in another's.
    fn mounts(&mut self) {
        let mut seen: Vec<(&str, Place)> = vec![];
        for mount in self.root.items(&["workload"]).iter().filter_map(|w| w.at(&["model", "mount"])) {
            let Some(path) = mount.text().filter(|path| path.starts_with('/')) else { continue };
            let below = |dir: &&str| path.strip_prefix(*dir).is_some_and(|rest| rest.starts_with('/'));
            if !MOUNTABLE.iter().any(&below) || RUNTIMES.iter().any(|dir| path == *dir || below(dir)) {
                let fault = Fault::new(
                    mount.place,
                    format!("nothing can be mounted at `{path}`"),
                    "a path below /var, /srv, /opt or /home, and in no runtime's own directory: /var/lib/models/NAME",
                );
                self.fault(fault);
            }
            let clash = seen.iter().find(|(other, _)| {
                let inside =
                    |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
                inside(path, other) || inside(other, path)
            });
            if let Some((other, place)) = clash {
                let fault = Fault::new(
                    mount.place,
                    format!("`{path}` and `{other}` hide one another"),
                    "give each model a directory of its own",
                );
                let place = *place;
                self.fault(fault.related(place, "the other"));
            }
            seen.push((path, mount.place));
        }
    }

    /// What virtual machines are given cannot be more than the machine has.
    fn guests_fit(&mut self) {
        let guests = || self.root.items(&["workload"]).iter().filter_map(|w| w.at(&["vm", "memory"]));
        let all: u64 = guests().filter_map(|n| size(n.text()?)).map(|b| b.0).sum();
        let Some(hardware) = self.root.at(&["hardware", "memory"]) else { return };
        let Some(has) = hardware.text().and_then(size) else { return };
        let largest = guests().filter_map(|n| Some((size(n.text()?)?, n.place))).max_by_key(|(b, _)| *b);
        if let Some((largest, place)) = largest.filter(|_| all > has.0) {
            let fault = Fault::new(
                place,
                format!("virtual machines are given {}, the machine has {has}", Bytes(all)),
                format!(
                    "this one takes {largest}: give it less, or set hardware.memory to what the machine has"
                ),
            );
            self.fault(fault.related(hardware.place, "what it must fit"));
        }
    }
}

/// Directories of the state partition, in which mount points can be made.
const MOUNTABLE: [&str; 4] = ["/var", "/srv", "/opt", "/home"];
/// Directories that a runtime or forge keeps its own state in.
const RUNTIMES: [&str; 6] = [
    "/var/lib/containers",
    "/var/lib/forge",
    "/var/lib/kubeedge",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/lib/systemd",
];
