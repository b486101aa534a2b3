//! A box is replaced under its name in a real cluster: k3s as the server, and as the agent of either box. Ignored without
//! `hack/e2e k3s`, which makes a network for it: server and agents are on one machine, each box with directories of its own.
//!
//! Releases before v1.27 may know no tokens that hold for a while. Theirs is put in the place of the granted one; the
//! authority's digest before it stays the fleet's, and so does everything else.

use super::boxes::{Box, Fleet, hardware};
use super::clusters::{ask, file, over};
use super::{End, operator};
use crate::fixture::ok;
use forge::enroll::grant::{Item, Material};
use forge::fleet::cluster::Clusters;
use forge::host::clock;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NODE: &str = "store-042";
/// The server's own, which boxes of old releases join with.
const TOKEN: &str = "of-the-server";
const SERVER: &str = "https://127.0.0.1:6443";
/// A cluster or an agent starts within this on a busy machine.
const START: Duration = Duration::from_secs(240);
/// What README says that the fleet's account may do, and a token for it.
const ACCOUNT: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: fleet, namespace: kube-system}
---
apiVersion: v1
kind: Secret
metadata: {name: fleet, namespace: kube-system, annotations: {kubernetes.io/service-account.name: fleet}}
type: kubernetes.io/service-account-token
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: fleet}
rules: [{apiGroups: [""], resources: [nodes], verbs: [delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: fleet, namespace: kube-system}
rules: [{apiGroups: [""], resources: [secrets], verbs: [create, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fleet}
subjects: [{kind: ServiceAccount, name: fleet, namespace: kube-system}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fleet}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: fleet, namespace: kube-system}
subjects: [{kind: ServiceAccount, name: fleet, namespace: kube-system}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: fleet}
"#;

#[test]
#[ignore = "hack/e2e k3s BINARY IMAGES"]
fn a_replaced_box_joins_a_real_cluster_under_the_old_ones_name_and_the_old_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path());
    let account = dir.path().join("account");
    cluster.describe(&account);
    let fleet = Fleet::of_seed(1);
    let end = End { now: clock::now(), ..over(&fleet, Clusters::load(&account, &[7; 32]).unwrap()) };
    let bundle = fleet.own_bundle_with(NODE, "SN1", |document| {
        let ticket = document.ticket.as_mut().unwrap();
        (ticket.not_before.0, ticket.not_after.0) = (end.now.0 - 60, end.now.0 + 3600);
        document.issued_at = end.now;
    });

    let mut old = Box::new("old", &fleet, &bundle, hardware("SN1"));
    old.claim(&mut end.send());
    let (envelope, granted) = ask(&mut old, &end, vec![]).unwrap();
    old.ack(&mut end.send(), &envelope);
    let tokens = cluster.kubectl(&["-n", "kube-system", "get", "secrets", "-o", "name"]);
    println!("{}", tokens.lines().filter(|line| line.contains("bootstrap-token")).collect::<String>());
    assert_eq!(tokens.matches("bootstrap-token-").count(), 1);
    let agent = cluster.agent("old", &granted);
    let first = cluster.wait_until_ready();
    println!("the old box: node {first}");
    drop(agent);

    end.operate(operator::Order::Replace { old: old.id(), new: None }).unwrap();
    let mut new = Box::new("new", &fleet, &bundle, hardware("SN1"));
    new.claim(&mut end.send());
    let (envelope, granted) = ask(&mut new, &end, vec![]).unwrap();
    new.ack(&mut end.send(), &envelope);
    assert_eq!(cluster.kubectl(&["get", "nodes", "-o", "name"]), "", "the node that was the old box");
    let secrets = cluster.kubectl(&["-n", "kube-system", "get", "secrets", "-o", "name"]);
    assert!(!secrets.contains("node-password"), "{secrets}");
    let agent = cluster.agent("new", &granted);
    let second = cluster.wait_until_ready();
    println!("the new box: node {second}");
    assert_ne!(first, second);
    drop(agent);

    // The old box comes back, with all that it ever had.
    let agent = cluster.again("old");
    let refusal = cluster.wait_for_log("old", "password rejected");
    println!("the old box again: {refusal}");
    std::thread::sleep(Duration::from_secs(15)); // it tries again every few seconds
    assert_eq!(cluster.node(), second, "it is the new box's still");
    drop(agent);
    let _agent = cluster.again("new");
    cluster.wait_for_log("new", "Successfully registered node");
    assert_eq!(cluster.wait_until_ready(), second);
}

/// A server, and boxes beside it. Everything ends with it.
struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    _server: Running,
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

impl Cluster {
    fn start(dir: &Path) -> Cluster {
        let program: PathBuf = std::env::var_os("FORGE_E2E_K3S").expect("hack/e2e k3s").into();
        let log = File::create(dir.join("server.log")).unwrap();
        let mut server = Command::new(&program);
        server.args(["server", "--disable-agent", "--token", TOKEN, "--data-dir"]).arg(dir.join("server"));
        server.arg("--write-kubeconfig").arg(dir.join("kubeconfig"));
        server.arg("--disable=coredns,servicelb,traefik,local-storage,metrics-server");
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let server = Running(server.spawn().unwrap());
        let cluster = Cluster { program, dir: dir.into(), _server: server };
        cluster.wait("a namespace", || cluster.try_kubectl(&["get", "namespace", "kube-system"]));
        cluster
    }

    /// What the fleet has to know of it, and may do in it.
    fn describe(&self, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        let manifest = to.join("account.yaml");
        std::fs::write(&manifest, ACCOUNT).unwrap();
        self.kubectl(&["apply", "-f", manifest.to_str().unwrap()]);
        let read = [
            "-n",
            "kube-system",
            "get",
            "secret",
            "fleet",
            "-o",
            "go-template={{.data.token | base64decode}}",
        ];
        let token = self.wait("a token", || self.try_kubectl(&read).filter(|token| token.len() > 100));
        let ca = std::fs::read(self.dir.join("server/server/tls/server-ca.crt")).unwrap();
        let clusters = format!(
            "[[cluster]]\nname = \"real\"\nprofiles = [\"store\"]\n\
             api = {{ server = \"{SERVER}\", ca = \"ca.pem\", token = \"token\" }}\n\
             join = {{ k3s-agent = {{ server = \"{SERVER}\" }} }}\n"
        );
        for (name, bytes) in
            [("clusters.toml", clusters.as_bytes()), ("ca.pem", &ca), ("token", token.as_bytes())]
        {
            std::fs::write(to.join(name), bytes).unwrap();
        }
    }

    /// Starts a box with what it was granted.
    fn agent(&self, name: &str, granted: &Material) -> Running {
        for item in &granted.items {
            let Item::Files { files } = item else { continue };
            for path in files.iter().map(|f| &f.path) {
                let to = self.dir.join(name).join(path.strip_prefix("/etc/rancher/").unwrap());
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::write(to, self.adapted(file(granted, path))).unwrap();
            }
        }
        self.again(name)
    }

    /// A granted file, with a token that this release knows.
    fn adapted(&self, text: String) -> String {
        let said = ok(Command::new(&self.program).arg("--version"));
        let minor = said.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok()).unwrap();
        match text.split_once("token: ") {
            Some((before, token)) if minor < 27 => {
                let (authority, _) = token.split_once("::").unwrap();
                format!("{before}token: {authority}::node:{TOKEN}\"\n")
            }
            _ => text,
        }
    }

    /// Starts a box with what it has.
    fn again(&self, name: &str) -> Running {
        // The directories of a machine, as far as an agent shares none of them with another.
        const BOX: &str = "mount -t tmpfs tmpfs /run && mkdir -p /etc/rancher /var/lib/kubelet /var/lib/cni && \
             mount --bind \"$1\" /etc/rancher && \
             mount -t tmpfs tmpfs /var/lib/kubelet && mount -t tmpfs tmpfs /var/lib/cni && shift && exec \"$@\"";
        let log = File::create(self.dir.join(format!("{name}.log"))).unwrap();
        let mut agent = Command::new("unshare");
        agent.args(["--mount", "--propagation", "private", "sh", "-ec", BOX, "sh"]).arg(self.dir.join(name));
        agent.arg(&self.program).arg("agent").arg("--data-dir").arg(self.dir.join(format!("{name}.state")));
        // The server has the port beside its own. Cgroups are the machine's that runs the tests.
        agent.args(["--lb-server-port=7444", "--snapshotter=native", "--kubelet-arg=cgroups-per-qos=false"]);
        agent.args(["--kubelet-arg=enforce-node-allocatable=", "--kubelet-arg=fail-swap-on=false"]);
        agent.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(agent.spawn().unwrap())
    }

    /// The node's own number, once its kubelet has said that it is ready since the last box was stopped.
    fn wait_until_ready(&self) -> String {
        let since =
            ["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}"];
        self.wait("a node that is ready", || self.try_kubectl(&since).filter(|status| status == "True"));
        self.node()
    }

    fn node(&self) -> String {
        let all = self.kubectl(&[
            "get",
            "nodes",
            "-o",
            "jsonpath={.items[*].metadata.name} {.items[*].metadata.uid}",
        ]);
        assert!(all.starts_with(&format!("{NODE} ")) && all.matches(' ').count() == 1, "{all}");
        all
    }

    /// The first line of a box's log that has `text` in it.
    fn wait_for_log(&self, name: &str, text: &str) -> String {
        let log = || std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap();
        self.wait(text, || log().lines().find(|line| line.contains(text)).map(String::from))
    }

    fn wait<T>(&self, what: &str, ask: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = ask() {
                return found;
            }
            if start.elapsed() > START {
                for log in std::fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().path()) {
                    if log.extension().is_some_and(|e| e == "log") {
                        let text = std::fs::read_to_string(&log).unwrap();
                        let lines: Vec<_> = text.lines().rev().take(15).collect();
                        println!("{}, the last line first:\n{}", log.display(), lines.join("\n"));
                    }
                }
                panic!("no {what} after {START:?}");
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("kubectl").args(arguments).arg("--kubeconfig").arg(self.dir.join("kubeconfig"));
        command
    }
    fn kubectl(&self, arguments: &[&str]) -> String {
        ok(&mut self.command(arguments))
    }
    fn try_kubectl(&self, arguments: &[&str]) -> Option<String> {
        let out = self.command(arguments).output().unwrap();
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }
}
