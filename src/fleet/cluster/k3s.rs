//! k3s and RKE2: a device → what its agent joins a server with, or what its server starts with.
//!
//! A token is made for one device and holds for an hour, in which it has to be used; afterwards the agent has a certificate,
//! and the token on its disk is worth nothing. The node's password is the fleet's, the same for a device each time, so that
//! no power cut loses it. A device that is new under a name has the cluster forget what it knew by that name: the node, and
//! the password that only the box before had.
//!
//! Written for k3s v1.31 and later: <https://docs.k3s.io/cli/token>; Kubernetes' bootstrap tokens:
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens>.

use super::api::{Api, name};
use super::{Joining, file, files};
use crate::enroll::grant::{File, Item};
use crate::host::rest::{self, Call, Roots};
use crate::model::{Digest, Epoch};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// How long a token holds, in seconds.
const TOKEN_S: i64 = 3600;
/// Where both have their secrets.
const NAMESPACE: &str = "kube-system";

/// What an agent joins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The servers' address: of k3s at port 6443, of RKE2 at 9345.
    pub server: String,
}

/// One of the two.
pub struct Product {
    name: &'static str,
}

/// k3s.
pub const K3S: Product = Product { name: "k3s" };
/// RKE2.
pub const RKE2: Product = Product { name: "rke2" };

impl Product {
    /// What an agent joins with.
    ///
    /// # Errors
    /// What the cluster says.
    pub fn join(&self, agent: &Agent, api: &Api, joining: &Joining<'_>) -> anyhow::Result<Vec<Item>> {
        let node = name(joining.node)?;
        if joining.is_new() {
            api.delete(&format!("/api/v1/nodes/{node}"))?;
            let password = format!("{node}.node-password.{}", self.name);
            api.delete(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/{password}"))?;
        }
        let authority = authority(agent, api)?;
        let token = bootstrap_token()?;
        api.create_secret(NAMESPACE, &secret(&token, self.name, node, joining.now))?;
        let token = Zeroizing::new(format!("K10{}::{}", authority.hex(), *token));
        Ok(self.files(joining, vec![("server", json!(agent.server)), ("token", json!(*token))]))
    }

    /// What a server that is its own cluster starts with: agents at its site join by its token, which the fleet can tell
    /// again.
    ///
    /// # Errors
    /// Never for a device with a name.
    pub fn serve(&self, joining: &Joining<'_>) -> anyhow::Result<Vec<Item>> {
        name(joining.node)?;
        let token = joining.lasting("server-token");
        Ok(self.files(joining, vec![("token", json!(*token))]))
    }

    fn files(&self, joining: &Joining<'_>, more: Vec<(&str, Value)>) -> Vec<Item> {
        let labels = &joining.device.labels;
        let mut lines = Zeroizing::new(String::from("# Granted by the fleet.\n"));
        // A value of JSON is one of YAML.
        *lines += &format!("node-name: {}\n", json!(joining.node));
        if !labels.is_empty() {
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            *lines += &format!("node-label+: {}\n", json!(labels));
        }
        for (key, value) in more {
            *lines += &format!("{key}: {value}\n");
        }
        let password = joining.lasting("node-password");
        let config = format!("/etc/rancher/{}/config.yaml.d/50-forge.yaml", self.name);
        let granted: Vec<File> = vec![
            file("/etc/rancher/node/password", 0o600, password.as_bytes()),
            file(config, 0o600, lines.as_bytes()),
        ];
        vec![files(granted)]
    }
}

/// What the agent will hold the servers' authority against: the digest of the file that they show as it is, and of several
/// certificates the root's own. The servers are known by the API's authority, which they share.
fn authority(agent: &Agent, api: &Api) -> anyhow::Result<Digest> {
    let url = format!("{}/cacerts", agent.server.trim_end_matches('/'));
    let call = Call { method: "GET", url: &url, roots: Roots::Pem(api.ca()), headers: &[], body: None };
    let answer = rest::call(&call)?;
    ensure!(answer.status == 200, "{url} answers {}", answer.status);
    let mut certificates = vec![];
    for block in x509_parser::pem::Pem::iter_from_buffer(&answer.body) {
        certificates.push(block.with_context(|| format!("reading {url}"))?.contents);
    }
    let is_root = |der: &Vec<u8>| {
        x509_parser::parse_x509_certificate(der)
            .is_ok_and(|(_, c)| c.subject().as_raw() == c.issuer().as_raw())
    };
    match &certificates[..] {
        [_] => Ok(Digest::of(&answer.body)),
        several => {
            let root = several.iter().find(|der| is_root(der));
            Ok(Digest::of(root.with_context(|| format!("{url} has no root"))?))
        }
    }
}

/// `ID.SECRET`, six and sixteen of `a` to `z` and `0` to `9`.
fn bootstrap_token() -> anyhow::Result<Zeroizing<String>> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut token = Zeroizing::new(String::with_capacity(23));
    while token.len() < 23 {
        let mut byte = [0];
        getrandom::fill(&mut byte).map_err(|e| anyhow::anyhow!("asking the system for randomness: {e}"))?;
        if token.len() == 6 {
            token.push('.');
        }
        // Of 256, the last four would make four letters likelier than the others.
        if byte[0] < 252 {
            token.push(char::from(LETTERS[usize::from(byte[0]) % 36]));
        }
    }
    Ok(token)
}

fn secret(token: &str, product: &str, node: &str, now: Epoch) -> Value {
    let (id, secret) = token.split_once('.').unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("bootstrap-token-{id}"), "namespace": NAMESPACE },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "description": format!("forge: {node} joins"),
            "token-id": id,
            "token-secret": secret,
            // Kubernetes' token cleaner deletes it then.
            "expiration": Epoch(now.0 + TOKEN_S).rfc3339(),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": format!("system:bootstrappers:{product}:default-node-token"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kubernetes_and_holds_for_an_hour() {
        let tokens: Vec<_> = (0..200).map(|_| bootstrap_token().unwrap()).collect();
        for token in &tokens {
            let (id, secret) = token.split_once('.').unwrap();
            let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            assert!(id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret), "{}", **token);
        }
        assert_ne!(tokens[0], tokens[1]);
        let made = secret("abcdef.0123456789abcdef", "k3s", "store-042", Epoch(1_795_305_600));
        assert_eq!(made["metadata"]["name"], "bootstrap-token-abcdef");
        assert_eq!(made["stringData"]["expiration"], "2026-11-22T01:00:00Z");
        assert_eq!(made["stringData"]["token-secret"], "0123456789abcdef");
    }
}
