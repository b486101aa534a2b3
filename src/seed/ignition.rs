//! Ignition's configuration, specification 3.3.0: files, people and authorities.

use super::files::{self, File};
use super::{Files, Seed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

/// The seed's files.
pub fn files(seed: &Seed) -> Files {
    vec![("ignition/config.ign", config(seed).to_string() + "\n")]
}

fn config(seed: &Seed) -> Json {
    let hostname = File { path: "/etc/hostname".into(), text: format!("{}\n", seed.name), mode: 0o644 };
    let mut all = vec![hostname];
    all.extend(files::proxy(seed));
    all.extend(files::time(seed));
    all.extend(files::authorities(seed));
    all.extend(files::network_manager(seed));
    let written: Vec<Json> = all
        .iter()
        .map(|file| json!({ "path": file.path, "mode": file.mode, "overwrite": true, "contents": { "source": data(&file.text) } }))
        .collect();
    let people: Vec<Json> =
        seed.users.iter().map(|(name, keys)| json!({ "name": name, "sshAuthorizedKeys": keys })).collect();
    let mut ignition = json!({ "version": "3.3.0" });
    if !seed.authorities.is_empty() {
        let trusted: Vec<Json> = seed.authorities.iter().map(|pem| json!({ "source": data(pem) })).collect();
        ignition["security"] = json!({ "tls": { "certificateAuthorities": trusted } });
    }
    if let Some(proxy) = &seed.proxy {
        ignition["proxy"] = json!({ "httpProxy": proxy, "httpsProxy": proxy });
    }
    let zone = format!("../usr/share/zoneinfo/{}", seed.timezone);
    json!({
        "ignition": ignition,
        "passwd": { "users": people },
        "storage": { "files": written, "links": [{ "path": "/etc/localtime", "target": zone, "overwrite": true }] },
    })
}

/// A data URL (RFC 2397).
fn data(text: &str) -> String {
    format!("data:;base64,{}", STANDARD.encode(text))
}
