//! KubeEdge's cloud on this machine: etcd, a Kubernetes API and CloudCore, with nothing of a cluster's that an edge node
//! does not need. Whoever is asked by a box or by its fleet is at an address of this machine's own, where an emulated box
//! reaches it, too.

use super::given;
use crate::vm::free_port;
use forge::host::rest::{self, Answer, Call, Roots};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What the fleet is let in with: it may read one secret.
pub const TOKEN: &str = "the-fleets-own-0123456789abcdef";
/// What the test and CloudCore are let in with: anything.
const ADMIN: &str = "the-tests-own-0123456789abcdef";

/// Everything ends when this is dropped.
pub struct Cloud {
    dir: PathBuf,
    running: Vec<Child>,
    cloudcore: Option<Child>,
    /// `https://…` of the Kubernetes API.
    pub api: String,
    /// `HOST:PORT` at which CloudCore signs.
    pub signs_at: String,
    /// `HOST:PORT` at which EdgeCore talks to it.
    pub talks_at: String,
}

impl Cloud {
    /// Starts it all in `dir`, which is its own; waits until CloudCore signs.
    pub fn start(dir: &Path) -> Cloud {
        std::fs::create_dir(dir).unwrap();
        let host = address();
        let port = free_port();
        let mut cloud = Cloud {
            dir: dir.into(),
            running: vec![],
            cloudcore: None,
            api: format!("https://localhost:{port}"),
            signs_at: format!("{host}:{}", free_port()),
            talks_at: format!("{host}:{}", free_port()),
        };
        cloud.start_api(port);
        let crds = std::fs::read_dir(given("FORGE_E2E_KUBEEDGE_CRDS")).unwrap();
        for crd in crds.map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(crd).unwrap();
            cloud.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &text);
        }
        cloud.let_the_fleet_in();
        cloud.configure_cloudcore(&host);
        cloud.start_cloudcore();
        cloud
    }

    fn start_api(&mut self, port: u16) {
        let names = ["localhost".to_string()];
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(self.authority(), cert.pem()).unwrap();
        std::fs::write(self.dir.join("api.key"), signing_key.serialize_pem()).unwrap();
        let tokens = format!("{TOKEN},fleet,1\n{ADMIN},admin,2,system:masters\n");
        std::fs::write(self.dir.join("tokens.csv"), tokens).unwrap();
        let url = || format!("http://127.0.0.1:{}", free_port());
        let (client, peer) = (url(), url());
        let mut etcd = Command::new("etcd");
        etcd.args([
            "--data-dir",
            "etcd",
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.arg("--initial-cluster").arg(format!("default={peer}"));
        self.spawn("etcd", &mut etcd);
        let mut api = Command::new(given("FORGE_E2E_APISERVER"));
        api.args(["--bind-address=127.0.0.1", "--cert-dir=run", "--authorization-mode=RBAC"])
            .args([
                "--tls-cert-file=api.crt",
                "--tls-private-key-file=api.key",
                "--token-auth-file=tokens.csv",
            ])
            .args(["--service-account-key-file=api.crt", "--service-account-signing-key-file=api.key"])
            .args([
                "--service-account-issuer=https://kubernetes.example",
                "--disable-admission-plugins=ServiceAccount",
            ])
            .args(["--service-cluster-ip-range=10.96.0.0/16", &format!("--etcd-servers={client}")])
            .arg(format!("--secure-port={port}"));
        std::fs::create_dir(self.dir.join("run")).unwrap();
        self.spawn("api", &mut api);
        let ready = || self.call("GET", "/readyz", None).is_ok_and(|answer| answer.status == 200);
        self.wait("the API server", Duration::from_secs(120), ready);
    }

    fn let_the_fleet_in(&self) {
        let named = |kind: &str, name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
        self.post("/api/v1/namespaces", &json!({ "metadata": { "name": "kubeedge" } }).to_string());
        let of = "/apis/rbac.authorization.k8s.io/v1/namespaces/kubeedge";
        let metadata = json!({ "name": "fleet" });
        let rule = json!({ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["tokensecret"], "verbs": ["get"] });
        self.post(&format!("{of}/roles"), &json!({ "metadata": metadata, "rules": [rule] }).to_string());
        let binding = json!({ "metadata": metadata, "roleRef": named("Role", "fleet"), "subjects": [named("User", "fleet")] });
        self.post(&format!("{of}/rolebindings"), &binding.to_string());
    }

    fn configure_cloudcore(&self, host: &str) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": { "server": self.api, "certificate-authority": self.authority() } }],
            "users": [{ "name": "it", "user": { "token": ADMIN } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        });
        std::fs::write(self.dir.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let port = |authority: &str| authority.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let config = json!({
            "apiVersion": "cloudcore.config.kubeedge.io/v1alpha2", "kind": "CloudCore",
            "commonConfig": { "monitorServer": { "bindAddress": format!("127.0.0.1:{}", free_port()) } },
            "kubeAPIConfig": { "kubeConfig": self.dir.join("kubeconfig"), "master": "" },
            "modules": {
                "cloudHub": {
                    "advertiseAddress": [host],
                    "https": { "port": port(&self.signs_at) },
                    "websocket": { "port": port(&self.talks_at) },
                    "unixsocket": { "enable": false },
                    "tlsCAFile": self.dir.join("ca.crt"), "tlsCAKeyFile": self.dir.join("ca.key"),
                    "tlsCertFile": self.dir.join("server.crt"), "tlsPrivateKeyFile": self.dir.join("server.key"),
                },
                "iptablesManager": { "enable": false },
            },
        });
        std::fs::write(self.dir.join("cloudcore.yaml"), config.to_string()).unwrap();
    }

    /// Starts CloudCore; waits until it signs.
    pub fn start_cloudcore(&mut self) {
        let mut cloudcore = Command::new(given("FORGE_E2E_CLOUDCORE"));
        cloudcore.args(["--config", "cloudcore.yaml"]);
        self.cloudcore = Some(self.child("cloudcore", &mut cloudcore));
        let url = format!("https://{}/ca.crt", self.signs_at);
        let call = Call { method: "GET", url: &url, roots: Roots::Anybody, headers: &[], body: None };
        let signs = || rest::call(&call).is_ok_and(|answer| answer.status == 200);
        self.wait("CloudCore", Duration::from_secs(120), signs);
    }

    /// Kills CloudCore: boxes talk to nobody.
    pub fn stop_cloudcore(&mut self) {
        self.cloudcore.take().into_iter().for_each(end);
    }

    /// The certificate that the API shows.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("api.crt")
    }

    /// Makes an object, JSON or YAML, at the path of its collection.
    pub fn post(&self, path: &str, object: &str) {
        let answer = self.call("POST", path, Some(object)).unwrap();
        assert_eq!(answer.status, 201, "{path}: {}", String::from_utf8_lossy(&answer.body));
    }

    /// Waits until the node `name` is ready; what it is, as `kubectl get nodes` would say it.
    pub fn ready_node(&self, name: &str, timeout: Duration) -> String {
        let mut said = String::new();
        self.wait(&format!("node {name}"), timeout, || {
            let Some(node) = self.node(name) else { return false };
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let info = |key: &str| node["status"]["nodeInfo"][key].as_str().unwrap_or("?").to_string();
            said = format!("{}, {}", info("kubeletVersion"), info("containerRuntimeVersion"));
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        said
    }

    /// Says of the node that nobody knows how it is, as a cluster's controllers do in time: whoever says next that it is
    /// ready is alive.
    pub fn forget_heartbeats(&self, name: &str) {
        let mut node = self.node(name).unwrap();
        for condition in node["status"]["conditions"].as_array_mut().unwrap() {
            condition["status"] = "Unknown".into();
        }
        let path = format!("/api/v1/nodes/{name}/status");
        let answer = self.call("PUT", &path, Some(&node.to_string())).unwrap();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }

    fn node(&self, name: &str) -> Option<Value> {
        let answer = self.call("GET", &format!("/api/v1/nodes/{name}"), None).ok()?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).unwrap())
    }

    fn call(&self, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<Answer> {
        let kind = match body {
            Some(body) if !body.starts_with('{') => "application/yaml",
            _ => "application/json",
        };
        let admin = format!("Bearer {ADMIN}");
        let pem = std::fs::read(self.authority()).unwrap();
        rest::call(&Call {
            method,
            url: &format!("{}{path}", self.api),
            roots: Roots::Pem(&pem),
            headers: &[("Authorization", &admin), ("Accept", "application/json"), ("Content-Type", kind)],
            body: body.map(str::as_bytes),
        })
    }

    /// Waits for `done`; panics with the last words of every program.
    fn wait(&self, what: &str, timeout: Duration, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            if start.elapsed() > timeout {
                let logs = ["etcd", "api", "cloudcore"].map(|name| {
                    let text = std::fs::read_to_string(self.dir.join(name).with_extension("log"));
                    let text = text.unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    format!("{name}:\n{}\n", lines[lines.len().saturating_sub(12)..].join("\n"))
                });
                panic!("no {what} after {timeout:?}\n{}", logs.concat());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn spawn(&mut self, name: &str, command: &mut Command) {
        let child = self.child(name, command);
        self.running.push(child);
    }

    fn child(&self, name: &str, command: &mut Command) -> Child {
        let log = std::fs::File::create(self.dir.join(name).with_extension("log")).unwrap();
        command.current_dir(&self.dir).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.stop_cloudcore();
        // The API before its database.
        while let Some(child) = self.running.pop() {
            end(child);
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill(); // it may have ended
    let _ = child.wait();
}

/// This machine's address towards others. No packet is sent.
fn address() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("a network of this machine");
    socket.local_addr().unwrap().ip().to_string()
}
