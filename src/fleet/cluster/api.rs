//! The Kubernetes API, as far as boxes join by it: a secret read or made, an object deleted.
//!
//! Four calls over [`crate::host::rest`], with JSON as the API's reference has it. The crate `kube` would bring a hundred
//! others for them, a runtime's worth of watches and caches, and readers of kubeconfig files, which hold more power than
//! this needs: a service account's token and a role of a few lines will do.

use crate::host::rest::{self, Answer, Call, Roots};
use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// An API server, and who calls it.
pub struct Api {
    server: String,
    ca: Vec<u8>,
    authorization: Zeroizing<String>,
}

/// A secret, as far as it is looked at.
#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, Zeroizing<String>>,
}

impl Api {
    /// The API at `server`, whose certificate is of `ca` (PEM), for the holder of `token`.
    pub fn new(server: &str, ca: Vec<u8>, token: &str) -> Api {
        let authorization = Zeroizing::new(format!("Bearer {token}"));
        Api { server: server.trim_end_matches('/').into(), ca, authorization }
    }

    /// The authority that its certificate is of, PEM.
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    /// One value of a secret.
    ///
    /// # Errors
    /// When there is none, or it may not be read.
    pub fn secret(&self, namespace: &str, name: &str, key: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let answer = self.call("GET", &path, None)?;
        if answer.status != 200 {
            return Err(refused("GET", &path, &answer));
        }
        let body = Zeroizing::new(answer.body);
        let secret: Secret =
            serde_json::from_slice(&body).with_context(|| format!("reading secret {name}"))?;
        let value =
            secret.data.get(key).with_context(|| format!("secret {namespace}/{name} has no {key}"))?;
        Ok(Zeroizing::new(
            STANDARD.decode(value.as_bytes()).with_context(|| format!("reading secret {name}"))?,
        ))
    }

    /// Makes a secret.
    ///
    /// # Errors
    /// When it may not be made, or is there.
    pub fn create_secret(&self, namespace: &str, secret: &Value) -> anyhow::Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        let body = Zeroizing::new(serde_json::to_vec(secret)?);
        match self.call("POST", &path, Some(&body))? {
            Answer { status: 200..=202, .. } => Ok(()),
            answer => Err(refused("POST", &path, &answer)),
        }
    }

    /// Deletes the object at `path`; fine where there is none.
    ///
    /// # Errors
    /// When it may not be deleted.
    pub fn delete(&self, path: &str) -> anyhow::Result<()> {
        match self.call("DELETE", path, None)? {
            Answer { status: 200..=202 | 404, .. } => Ok(()),
            answer => Err(refused("DELETE", path, &answer)),
        }
    }

    fn call(&self, method: &str, path: &str, body: Option<&[u8]>) -> anyhow::Result<Answer> {
        rest::call(&Call {
            method,
            url: &format!("{}{path}", self.server),
            roots: Roots::Pem(&self.ca),
            headers: &[
                ("Authorization", &self.authorization),
                ("Accept", "application/json"),
                ("Content-Type", "application/json"),
            ],
            body,
        })
    }
}

/// What the API server said no with: the `message` of its Status, which names the account and what it may not.
fn refused(method: &str, path: &str, answer: &Answer) -> anyhow::Error {
    let status: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let message = status.as_ref().and_then(|s| s["message"].as_str()).unwrap_or("no reason given");
    let message: String = message.chars().filter(|c| !c.is_control()).take(300).collect();
    anyhow!("the API server answers {} to {method} {path}: {message}", answer.status)
}

/// A name that may stand in a path of the API: a DNS label or several (RFC 1123).
///
/// # Errors
/// When it is none: nothing is deleted under a name that leads elsewhere.
pub fn name(text: &str) -> anyhow::Result<&str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if text.is_empty() || text.len() > 253 || !text.bytes().all(plain) || text.contains("..") {
        bail!("`{text}` is no name of an object");
    }
    Ok(text)
}
