//! A cluster over TLS, as far as boxes join by it: the paths, heads and bodies of the Kubernetes API, of k3s' servers and of
//! KubeEdge's CloudCore, as their own clients use them. It keeps what was made and deleted, and signs as CloudCore does:
//! for whoever has the token, whatever the request says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge::fleet::cluster::Clusters;
use forge::model::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, PublicKeyData, SignatureAlgorithm,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// What the cluster has, and how CloudCore behaves.
#[derive(Default)]
pub struct State {
    pub nodes: BTreeSet<String>,
    /// By `NAMESPACE/NAME`.
    pub secrets: BTreeMap<String, Value>,
    /// Method and path of each call, in order.
    pub calls: Vec<String>,
    /// Requests that CloudCore signed.
    pub signed: Vec<Vec<u8>>,
    /// How many days a certificate lasts.
    pub days: i64,
    /// The instant at which a certificate begins.
    pub now: i64,
    /// CloudCore shows this authority in place of its own.
    pub foreign: Option<Vec<u8>>,
    /// CloudCore gives such uses and names to whatever it signs.
    pub serving: bool,
    /// The API says no.
    pub forbidden: bool,
}

/// A cluster that runs as long as this is there.
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    pub api: SocketAddr,
    pub cloudcore: SocketAddr,
    ca_pem: String,
    authority: Vec<u8>,
    /// The fleet reads token and authority in it when it needs them.
    dir: tempfile::TempDir,
}

/// What the fleet is let in with.
const TOKEN: &str = "the-fleets-service-account";
/// CloudCore's token of the day.
pub const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3OTU5OTk5OTl9.c2lnbmF0dXJl";

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2120, 1, 1));
        Authority { params, key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap() }
    }
    fn certificate(&self) -> rcgen::Certificate {
        self.params.self_signed(&self.key).unwrap()
    }
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
    fn server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

/// A public key as a request has it.
struct Requested(Vec<u8>);

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

type Handler = dyn Fn(&Request) -> (u16, Vec<u8>) + Send + Sync;

impl Cluster {
    pub fn start() -> Cluster {
        let state = Arc::new(Mutex::new(State { days: 365, now: 1_795_305_600, ..State::default() }));
        let (ours, cloud) = (Authority::new("cluster"), Arc::new(Authority::new("KubeEdge")));
        let (ca_pem, authority) = (ours.certificate().pem(), cloud.certificate().der().to_vec());
        let token = format!("{}.{JWT}", Digest::of(&authority).hex());
        let tokensecret = json!({ "data": { "tokendata": STANDARD.encode(token) } });
        state.lock().unwrap().secrets.insert("kubeedge/tokensecret".into(), tokensecret);
        let (here, pem) = (state.clone(), ca_pem.clone());
        let api = serve(ours.server(), Box::new(move |request| answer_api(&here, &pem, request)));
        let (here, der, signer) = (state.clone(), authority.clone(), cloud.clone());
        let cloudcore =
            serve(cloud.server(), Box::new(move |request| answer_cloudcore(&here, &der, &signer, request)));
        Cluster { state, api, cloudcore, ca_pem, authority, dir: tempfile::tempdir().unwrap() }
    }

    /// What the fleet has to know of the cluster, which boxes of `profile` join as `kind`.
    pub fn describe(&self, profile: &str, kind: &str) -> Clusters {
        let join = match kind {
            "kubeedge" => {
                format!("https = \"https://{0}\", websocket = \"127.0.0.1:10000\"", self.cloudcore)
            }
            "k3s-server" => String::new(),
            _ => format!("server = \"https://{}\"", self.api),
        };
        let text = format!(
            "[[cluster]]\nname = \"test\"\nprofiles = [\"{profile}\"]\n\
             api = {{ server = \"https://{}\", ca = \"ca.pem\", token = \"token\" }}\n\
             join = {{ {kind} = {{ {join} }} }}\n",
            self.api
        );
        for (name, text) in [("clusters.toml", &*text), ("ca.pem", &self.ca_pem), ("token", TOKEN)] {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }
        Clusters::load(self.dir.path(), &[7; 32]).unwrap()
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// CloudCore's authority, DER.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }
}

fn answer_api(state: &Mutex<State>, ca: &str, request: &Request) -> (u16, Vec<u8>) {
    let mut state = state.lock().unwrap();
    state.calls.push(format!("{} {}", request.method, request.path));
    if (&*request.method, &*request.path) == ("GET", "/cacerts") {
        return (200, ca.as_bytes().to_vec());
    }
    let no = |status: u16, message: &str| {
        (
            status,
            json!({ "kind": "Status", "status": "Failure", "message": message }).to_string().into_bytes(),
        )
    };
    if request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return no(401, "Unauthorized");
    }
    if state.forbidden {
        return no(
            403,
            "secrets is forbidden: User \"system:serviceaccount:forge:fleet\" cannot create resource",
        );
    }
    let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    match (&*request.method, &parts[..]) {
        ("DELETE", ["api", "v1", "nodes", name]) => match state.nodes.remove(*name) {
            true => (200, b"{}".to_vec()),
            false => no(404, "not found"),
        },
        ("DELETE", ["api", "v1", "namespaces", space, "secrets", name]) => {
            match state.secrets.remove(&format!("{space}/{name}")) {
                Some(_) => (200, b"{}".to_vec()),
                None => no(404, "not found"),
            }
        }
        ("GET", ["api", "v1", "namespaces", space, "secrets", name]) => {
            match state.secrets.get(&format!("{space}/{name}")) {
                Some(secret) => (200, secret.to_string().into_bytes()),
                None => no(404, "not found"),
            }
        }
        ("POST", ["api", "v1", "namespaces", space, "secrets"]) => {
            assert_eq!(request.headers["content-type"], "application/json");
            let secret: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(secret["metadata"]["namespace"], *space);
            let name = format!("{space}/{}", secret["metadata"]["name"].as_str().unwrap());
            match state.secrets.insert(name, secret) {
                None => (201, b"{}".to_vec()),
                Some(_) => no(409, "already exists"),
            }
        }
        _ => no(404, "the server could not find the requested resource"),
    }
}

fn answer_cloudcore(
    state: &Mutex<State>,
    authority: &[u8],
    signer: &Authority,
    request: &Request,
) -> (u16, Vec<u8>) {
    let mut state = state.lock().unwrap();
    state.calls.push(format!("{} {}", request.method, request.path));
    match (&*request.method, &*request.path) {
        ("GET", "/ca.crt") => (200, state.foreign.clone().unwrap_or_else(|| authority.to_vec())),
        ("GET", "/edge.crt") => {
            if request.headers.get("authorization") != Some(&format!("Bearer {JWT}")) {
                return (401, b"token validation failure".to_vec());
            }
            assert!(!request.headers.contains_key("extkeyusages"));
            let (_, csr) = X509CertificationRequest::from_der(&request.body).unwrap();
            let info = &csr.certification_request_info;
            let common = info.subject.iter_common_name().next().unwrap().as_str().unwrap();
            assert_eq!(common, format!("system:node:{}", request.headers["nodename"]));
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
            params.distinguished_name.push(DnType::CommonName, common);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            if state.serving {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            }
            // rcgen's dates are days: enough here.
            let day = |at: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at as u64);
            (params.not_before, params.not_after) = (day(state.now), day(state.now + state.days * 86_400));
            let key = Requested(info.subject_pki.subject_public_key.data.to_vec());
            let certificate = params.signed_by(&key, &signer.issuer()).unwrap();
            state.signed.push(request.body.clone());
            (200, certificate.der().to_vec())
        }
        _ => (404, vec![]),
    }
}

/// Answers calls for as long as the test program runs.
fn serve(tls: Arc<ServerConfig>, handler: Box<Handler>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handler: Arc<Handler> = handler.into();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (tls, handler) = (tls.clone(), handler.clone());
            std::thread::spawn(move || drop(converse(socket, tls, &*handler)));
        }
    });
    address
}

fn converse(socket: TcpStream, tls: Arc<ServerConfig>, handler: &Handler) -> std::io::Result<()> {
    let connection = ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, socket));
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace().map(str::to_string);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let (status, body) = handler(&Request { method, path, headers, body });
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    stream.flush()?;
    stream.conn.send_close_notify();
    stream.flush()
}
