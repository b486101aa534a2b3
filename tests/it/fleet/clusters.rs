//! Grants for boxes that join clusters: what they have in them, what the cluster is left with, and what nobody is granted.

use super::boxes::{Box, Fleet, START, hardware};
use super::{End, service_with};
use crate::cluster::{Cluster, JWT};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forge::enroll::claim::{Csr, GrantRequest, State, path};
use forge::enroll::code::Code;
use forge::enroll::csr::CertificateKey;
use forge::enroll::grant::{Item, Material};
use forge::fleet::cluster::Clusters;
use forge::fleet::{Settings, Store, audit, operator};
use forge::model::{Digest, Epoch};
use forge::sign::dsse::Envelope;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
use serde_json::Value;
use std::sync::Arc;

/// An endpoint whose boxes join a cluster of that kind.
fn end(fleet: &Fleet, cluster: &Cluster, kind: &str) -> End {
    over(fleet, cluster.describe("store", kind))
}

/// An endpoint of a fleet that knows `clusters`.
pub fn over(fleet: &Fleet, clusters: Clusters) -> End {
    let store = Arc::new(Store::in_memory().unwrap());
    End {
        service: service_with(fleet, store, Settings::default(), std::boxed::Box::new(clusters)),
        now: START,
    }
}

/// Asks for a grant with `csrs`: its material, or status and reason.
pub fn ask(of: &mut Box, end: &End, csrs: Vec<Csr>) -> Result<(Vec<u8>, Material), (u16, String)> {
    let request = GrantRequest { nonce: of.grant_nonce.clone(), csrs, have_generation: of.generation };
    let payload = serde_json::to_vec(&request).unwrap();
    let answer = of.call(&mut end.send(), "POST", &path(&of.id(), "grant"), Some(payload));
    if answer.status != 200 {
        return Err((answer.status, answer.body["reason"].as_str().unwrap().into()));
    }
    let envelope: Envelope = serde_json::from_value(answer.body).unwrap();
    let bytes = serde_json::to_vec(&envelope).unwrap();
    let material = of.open(&bytes).1;
    Ok((bytes, material))
}

pub fn file(material: &Material, path: &str) -> String {
    let files = material.items.iter().flat_map(|item| match item {
        Item::Files { files } => files.clone(),
        Item::OwnKey { .. } => vec![],
    });
    let found = files.into_iter().find(|f| f.path == path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(STANDARD.decode(found.content.as_bytes()).unwrap()).unwrap()
}

fn csr(der: &[u8]) -> Vec<Csr> {
    vec![Csr { r#use: "edgecore".into(), der: STANDARD.encode(der) }]
}

#[test]
fn an_agent_gets_a_token_of_an_hour_and_the_cluster_forgets_the_box_before() {
    for (kind, product) in [("k3s-agent", "k3s"), ("rke2-agent", "rke2")] {
        let (fleet, cluster) = (Fleet::of_seed(1), Cluster::start());
        let end = end(&fleet, &cluster, kind);
        let bundle = fleet.own_bundle("store-042", "SN1");
        let password_secret = format!("kube-system/store-042.node-password.{product}");
        let config = format!("/etc/rancher/{product}/config.yaml.d/50-forge.yaml");
        let mut old = Box::new("old", &fleet, &bundle, hardware("SN1"));
        old.claim(&mut end.send());
        let (envelope, first) = ask(&mut old, &end, vec![]).unwrap();
        let text = file(&first, &config);
        assert!(text.contains("node-name: \"store-042\"\n"), "{text}");
        assert!(text.contains("node-label+: [\"site=store-042\"]\n"), "{text}");
        assert!(text.contains(&format!("server: \"https://{}\"\n", cluster.api)), "{text}");
        // The token is in the cluster, for that long, and names the authority that the servers show.
        let hash = Digest::of(cluster.ca_pem()).hex();
        let token = text.split(&format!("token: \"K10{hash}::")).nth(1).expect(&text);
        let (id, rest) = token.split_once('.').unwrap();
        let secret =
            cluster.state.lock().unwrap().secrets[&format!("kube-system/bootstrap-token-{id}")].clone();
        assert_eq!(secret["type"], "bootstrap.kubernetes.io/token");
        assert_eq!(secret["stringData"]["token-secret"], rest[..16]);
        assert_eq!(secret["stringData"]["expiration"], Epoch(START.0 + 3600).rfc3339());
        let group = format!("system:bootstrappers:{product}:default-node-token");
        assert_eq!(secret["stringData"]["auth-extra-groups"], group);
        // An answer that was lost costs no second token.
        let tokens = |cluster: &Cluster| {
            let state = cluster.state.lock().unwrap();
            state.secrets.keys().filter(|k| k.contains("bootstrap-token")).count()
        };
        assert_eq!((ask(&mut old, &end, vec![]).unwrap().0, tokens(&cluster)), (envelope.clone(), 1));
        old.ack(&mut end.send(), &envelope);
        // It joins, and the cluster keeps the node and the password's hash. A later grant has the same password, and takes
        // neither away.
        let password = file(&first, "/etc/rancher/node/password");
        let joined = |cluster: &Cluster| {
            let mut state = cluster.state.lock().unwrap();
            state.nodes.insert("store-042".into());
            state.secrets.insert(password_secret.clone(), Value::Null);
        };
        joined(&cluster);
        old.grant_nonce = forge::enroll::envelope::Nonce::from_random([9; 16]);
        let (_, again) = ask(&mut old, &end, vec![]).unwrap();
        assert_eq!(file(&again, "/etc/rancher/node/password"), password);
        assert!(cluster.state.lock().unwrap().nodes.contains("store-042"));
        assert!(cluster.state.lock().unwrap().secrets.contains_key(&password_secret));

        // Another disk in its place: threat 27.
        end.operate(operator::Order::Replace { old: old.id(), new: None }).unwrap();
        let mut new = Box::new("new", &fleet, &bundle, hardware("SN1"));
        new.claim(&mut end.send());
        let (_, granted) = ask(&mut new, &end, vec![]).unwrap();
        assert!(file(&granted, &config).contains("node-name: \"store-042\"\n"));
        assert!(!cluster.state.lock().unwrap().nodes.contains("store-042"), "the node that was the old box");
        assert!(!cluster.state.lock().unwrap().secrets.contains_key(&password_secret));
        assert_ne!(file(&granted, "/etc/rancher/node/password"), password, "the old box has it");
        let before = tokens(&cluster);
        assert_eq!(ask(&mut old, &end, vec![]).unwrap_err().0, 403, "it gets nothing more");
        assert_eq!(tokens(&cluster), before);
    }
}

#[test]
fn a_server_that_stands_alone_gets_a_token_of_its_own_and_asks_no_cluster() {
    let (fleet, cluster) = (Fleet::of_seed(1), Cluster::start());
    let end = end(&fleet, &cluster, "k3s-server");
    let token = |name: &str, serial: &str| {
        let mut one = Box::new(name, &fleet, &fleet.own_bundle(name, serial), hardware(serial));
        one.claim(&mut end.send());
        let (_, material) = ask(&mut one, &end, vec![]).unwrap();
        let text = file(&material, "/etc/rancher/k3s/config.yaml.d/50-forge.yaml");
        text.lines().find(|l| l.starts_with("token: ")).unwrap().to_string()
    };
    assert_ne!(token("store-1", "SN1"), token("store-2", "SN2"));
    assert_eq!(cluster.calls(), [""; 0]);
}

#[test]
fn edgecore_gets_a_certificate_and_nothing_that_signs_others() {
    let (fleet, cluster) = (Fleet::of_seed(1), Cluster::start());
    let end = end(&fleet, &cluster, "kubeedge");
    let mut barn = Box::new("barn", &fleet, &fleet.own_bundle("barn-7", "SN1"), hardware("SN1"));
    barn.claim(&mut end.send());
    let key = CertificateKey::generate().unwrap();
    let request = key.request("barn-7").unwrap();
    let (envelope, material) = ask(&mut barn, &end, csr(&request)).unwrap();
    assert_eq!(
        cluster.state.lock().unwrap().signed,
        std::slice::from_ref(&request),
        "passed on as it was verified"
    );
    let Item::OwnKey { path, spki_sha256, renew_after, .. } = &material.items[0] else {
        panic!("{material:?}")
    };
    assert_eq!((path.as_str(), *spki_sha256), ("/etc/kubeedge/certs/server.key", key.spki_sha256()));
    assert_eq!(renew_after.0, START.0 + 365 * 86_400 / 100 * 60);
    let certificate = file(&material, "/etc/kubeedge/certs/server.crt");
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    assert_eq!(Digest::of(certificate.public_key().raw), key.spki_sha256());
    assert_eq!(
        certificate.subject().iter_common_name().next().unwrap().as_str().unwrap(),
        "system:node:barn-7"
    );
    let authority = file(&material, "/etc/kubeedge/ca/rootCA.crt");
    assert_eq!(
        x509_parser::pem::parse_x509_pem(authority.as_bytes()).unwrap().1.contents,
        cluster.authority()
    );
    let overlay: Value =
        serde_json::from_str(&file(&material, "/etc/kubeedge/config/50-forge.json")).unwrap();
    let modules = &overlay["modules"];
    assert_eq!(modules["edged"]["hostnameOverride"], "barn-7");
    assert_eq!(modules["edged"]["nodeLabels"]["site"], "barn-7");
    assert_eq!(modules["edgeHub"]["httpServer"], format!("https://{}", cluster.cloudcore));
    assert_eq!(modules["edgeHub"]["websocket"]["server"], "127.0.0.1:10000");
    // CloudCore's token is nowhere in it, nor any key.
    let all = serde_json::to_string(&material.items).unwrap();
    for secret in [JWT, "PRIVATE KEY"] {
        assert!(
            !all.contains(secret) && !all.contains(STANDARD.encode(secret).trim_end_matches('=')),
            "{secret}"
        );
    }
    // An answer that was lost costs no second certificate.
    assert_eq!(ask(&mut barn, &end, csr(&key.request("barn-7").unwrap())).unwrap().0, envelope);
    assert_eq!(cluster.state.lock().unwrap().signed.len(), 1);
}

/// Threat 25.
#[test]
fn a_request_for_more_than_the_boxs_own_name_is_refused_and_never_reaches_cloudcore() {
    let (fleet, cluster) = (Fleet::of_seed(1), Cluster::start());
    let end = end(&fleet, &cluster, "kubeedge");
    let mut barn = Box::new("barn", &fleet, &fleet.own_bundle("barn-7", "SN1"), hardware("SN1"));
    barn.claim(&mut end.send());
    let key = CertificateKey::generate().unwrap();
    let made = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let text = |s: &str| DnValue::Utf8String(s.into());
        params.distinguished_name.push(DnType::OrganizationName, text("system:nodes"));
        params.distinguished_name.push(DnType::CommonName, text("system:node:barn-7"));
        change(&mut params);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    let mut unsigned = key.request("barn-7").unwrap();
    *unsigned.last_mut().unwrap() ^= 1;
    for (what, der, said) in [
        ("another node's name", key.request("barn-8").unwrap(), "not for system:node:barn-7"),
        (
            "CloudCore's own name",
            made(&|p| {
                p.subject_alt_names = vec![rcgen::SanType::DnsName("cloudcore.example".try_into().unwrap())];
            }),
            "more than a subject",
        ),
        (
            "to serve",
            made(&|p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]),
            "more than a subject",
        ),
        (
            "a group beside the nodes'",
            made(&|p| p.distinguished_name.push(DnType::OrganizationalUnitName, "system:masters")),
            "not for system:node:barn-7",
        ),
        ("a key that it does not have", unsigned, "not signed by its own key"),
        ("nothing readable", b"\x30\x80".to_vec(), "no request for a certificate"),
    ] {
        let (status, reason) = ask(&mut barn, &end, csr(&der)).unwrap_err();
        assert!(status == 422 && reason.contains(said), "{what}: {status} {reason}");
    }
    // The operator who let it in reads why it gets nothing, and reads it once however often it asks.
    for _ in 0..2 {
        let (status, reason) = ask(&mut barn, &end, vec![]).unwrap_err();
        assert!(status == 422 && reason.contains("asks for no certificate"), "{reason}");
    }
    let noted = end.service.store().read(|c| audit::newest(c, None, 20)).unwrap();
    let noted =
        noted.iter().filter(|e| e.action == "no grant" && e.detail.contains("asks for no certificate"));
    assert_eq!(noted.count(), 1);
    let many: Vec<Csr> = (0..5).flat_map(|_| csr(&[0])).collect();
    assert_eq!(ask(&mut barn, &end, many).unwrap_err().0, 422);
    assert_eq!(cluster.calls(), [""; 0], "nothing of it was passed on");
    assert_eq!(end.device(&barn).state, State::Approved);
    assert_eq!(end.device(&barn).generation, 0);
    assert!(
        ask(&mut barn, &end, csr(&key.request("barn-7").unwrap())).is_ok(),
        "and the right one is granted"
    );
    assert_eq!(Code::CertificateRefused.id(), "E-GRANT-03");
}

#[test]
fn what_cloudcore_should_not_have_said_is_not_granted() {
    let fleet = Fleet::of_seed(1);
    let trouble = |change: &dyn Fn(&Cluster)| {
        let cluster = Cluster::start();
        let end = end(&fleet, &cluster, "kubeedge");
        change(&cluster);
        let mut barn = Box::new("barn", &fleet, &fleet.own_bundle("barn-7", "SN1"), hardware("SN1"));
        barn.claim(&mut end.send());
        let key = CertificateKey::generate().unwrap();
        let request = GrantRequest {
            nonce: barn.grant_nonce.clone(),
            csrs: csr(&key.request("barn-7").unwrap()),
            have_generation: 0,
        };
        let place = path(&barn.id(), "grant");
        let body = barn.signed("POST", &place, &serde_json::to_vec(&request).unwrap());
        let request = forge::fleet::Request {
            method: "POST".into(),
            path: place,
            query: "nonce=0123456789abcdef".into(),
            body,
        };
        let response = end.service.handle(&request, end.now);
        assert_eq!(response.status, 503, "the box comes again");
        let told = response.trouble.unwrap();
        assert!(told.contains("asking cluster `test` for barn-7"), "{told}");
        assert!(
            !told.contains(JWT) && !String::from_utf8_lossy(&response.body).contains("cluster"),
            "{told}"
        );
        (told, cluster)
    };
    let (told, cluster) = trouble(&|c| c.state.lock().unwrap().foreign = Some(b"another".to_vec()));
    assert!(told.contains("CloudCore's token names"), "{told}");
    assert!(!cluster.calls().iter().any(|c| c.contains("/edge.crt")), "who is not CloudCore gets no token");
    let (told, _) = trouble(&|c| c.state.lock().unwrap().serving = true);
    assert!(told.contains("not for clients alone"), "{told}");
    let (told, _) = trouble(&|c| c.state.lock().unwrap().forbidden = true);
    assert!(told.contains("403") && told.contains("cannot create resource"), "{told}");
    let (told, _) = trouble(&|c| drop(c.state.lock().unwrap().secrets.remove("kubeedge/tokensecret")));
    assert!(told.contains("404") && told.contains("tokensecret"), "{told}");
}

/// An endpoint before a cluster that somebody runs, and the true time; nothing where none is named.
fn real(fleet: &Fleet, kind: &str) -> Option<(End, std::path::PathBuf)> {
    let Some(dir) = std::env::var_os("FORGE_TEST_CLUSTERS") else {
        println!("skipped: FORGE_TEST_CLUSTERS names no directory with {kind}/clusters.toml");
        return None;
    };
    let dir = std::path::Path::new(&dir).join(kind);
    let clusters = Clusters::load(&dir, &[7; 32]).unwrap();
    let store = Arc::new(Store::in_memory().unwrap());
    let service = service_with(fleet, store, Settings::default(), std::boxed::Box::new(clusters));
    Some((End { service, now: forge::host::clock::now() }, dir))
}

/// Against a real API server and CloudCore: by hand, for neither is in any archive.
#[test]
fn a_real_cloudcore_signs_for_the_boxs_own_name_alone() {
    let fleet = Fleet::of_seed(1);
    let Some((end, dir)) = real(&fleet, "kubeedge") else { return };
    let mut barn = Box::new("barn", &fleet, &fleet.own_bundle("barn-7", "SN1"), hardware("SN1"));
    barn.claim(&mut end.send());
    let key = CertificateKey::generate().unwrap();
    assert_eq!(ask(&mut barn, &end, csr(&key.request("barn-8").unwrap())).unwrap_err().0, 422);
    let (_, material) = ask(&mut barn, &end, csr(&key.request("barn-7").unwrap())).unwrap();
    let certificate = file(&material, "/etc/kubeedge/certs/server.crt");
    // For who wants to show them to CloudCore.
    for (name, text) in [
        ("ca.crt", file(&material, "/etc/kubeedge/ca/rootCA.crt")),
        ("server.crt", certificate.clone()),
        ("server.key", key.to_pem().to_string()),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
    assert_eq!(Digest::of(pem.parse_x509().unwrap().public_key().raw), key.spki_sha256());
}

/// Against a real API server, with `/cacerts` of a k3s server beside it.
#[test]
fn a_real_api_server_knows_the_token_and_forgets_the_box_before() {
    let fleet = Fleet::of_seed(1);
    let Some((end, dir)) = real(&fleet, "k3s-agent") else { return };
    let mut shop = Box::new("shop", &fleet, &fleet.own_bundle("store-042", "SN1"), hardware("SN1"));
    shop.claim(&mut end.send());
    let (_, material) = ask(&mut shop, &end, vec![]).unwrap();
    let text = file(&material, "/etc/rancher/k3s/config.yaml.d/50-forge.yaml");
    let token = text.split("::").nth(1).unwrap().split('"').next().unwrap();
    let document: toml::Table =
        toml::from_str(&std::fs::read_to_string(dir.join("clusters.toml")).unwrap()).unwrap();
    let server = document["cluster"][0]["api"]["server"].as_str().unwrap();
    let api = |token: &str| {
        let api =
            forge::fleet::cluster::api::Api::new(server, std::fs::read(dir.join("ca.pem")).unwrap(), token);
        api.secret("kube-system", "any", "any").unwrap_err().to_string()
    };
    let user = format!("system:bootstrap:{}", token.split('.').next().unwrap());
    assert!(api(token).contains("403") && api(token).contains(&user), "{}", api(token));
    assert!(api("abcdef.0123456789abcdef").contains("401"));
}
