//! KubeEdge: a device's request for a certificate → what its EdgeCore joins CloudCore with.
//!
//! CloudCore signs for whoever has its token, under any name, other names and uses included, and holds no request against
//! its own signature. So the token stays between fleet and CloudCore; what a device asks for is read by
//! [`crate::enroll::csr`], which takes one request for one name; and what CloudCore gives is looked at before it is granted.
//!
//! ```text
//! Secret kubeedge/tokensecret   HASH.JWT: SHA-256 of CloudCore's authority, and the token of the day
//! GET /ca.crt                   the authority, DER, from anybody: held against HASH
//! GET /edge.crt                 the request as the body, DER, and the JWT; certificate, DER
//! ```
//!
//! What CloudCore signed is good until it lapses, for it knows no revocation. A box that was revoked gets no other
//! certificate, and stops EdgeCore by itself once it hears of it; one that does not hear, or does not care, is kept out by
//! the cluster alone. Deleting its Node ends its session and takes its pods; it connects again with the certificate that it
//! has, and is a node again when its EdgeCore starts anew. So CloudCore's `edgeCertSigningDuration` (days, 365 where unset)
//! bounds it: as long as boxes may be off, for here they are renewed at 60 % of it.
//!
//! Written for KubeEdge 1.20 to 1.23: `cloud/pkg/cloudhub/servers/httpserver`.

use super::api::Api;
use super::{Joining, file, files, is_authority, is_https};
use crate::enroll::csr::{self, EDGECORE, VerifiedRequest, to_pem};
use crate::enroll::grant::Item;
use crate::fleet::granting::Unfit;
use crate::host::rest::{self, Answer, Call, Roots};
use crate::model::{Digest, Epoch};
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use x509_parser::prelude::*;
use zeroize::Zeroizing;

/// Of a certificate's life, in percent, after which it is asked for anew: enough is left for a box that is off for months.
const RENEW_AT: i64 = 60;

/// Where CloudCore is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudCore {
    /// Where it signs, port 10002: an address that its certificate has.
    pub https: String,
    /// Where EdgeCore talks to it, port 10000: `HOST:PORT`.
    pub websocket: String,
    /// Where EdgeCore brings logs and `exec`, port 10004, if at all: `HOST:PORT`.
    pub tunnel: Option<String>,
    /// Where its secrets are.
    #[serde(default = "namespace")]
    pub namespace: String,
}

fn namespace() -> String {
    "kubeedge".into()
}

/// CloudCore's own words: who it is, and who may have it sign.
struct Token {
    authority: Digest,
    jwt: Zeroizing<String>,
}

impl CloudCore {
    /// Whether its addresses are some.
    pub(super) fn is_sound(&self) -> bool {
        is_https(&self.https)
            && [Some(&self.websocket), self.tunnel.as_ref()].iter().flatten().all(|a| is_authority(a))
    }

    /// What EdgeCore joins with.
    ///
    /// # Errors
    /// [`Unfit`] for a request that is not for the device's name alone; what API and CloudCore say.
    pub fn join(&self, api: &Api, joining: &Joining<'_>) -> anyhow::Result<Vec<Item>> {
        let request = request(joining)?;
        let token = self.token(api)?;
        let authority = self.authority(&token)?;
        let certificate = self.signed(&token, &authority, &request, joining.node)?;
        let renew_after = looked_at(&certificate, &request, joining.node)
            .context("looking at the certificate that CloudCore gave")?;
        let mut overlay = json!({ "modules": {
            "edged": { "hostnameOverride": joining.node, "nodeLabels": joining.device.labels },
            "edgeHub": { "httpServer": self.https, "websocket": { "server": self.websocket } },
        }});
        if let Some(tunnel) = &self.tunnel {
            overlay["modules"]["edgeStream"] = json!({ "enable": true, "server": tunnel });
        }
        let own_key = Item::OwnKey {
            r#use: EDGECORE.into(),
            path: "/etc/kubeedge/certs/server.key".into(),
            spki_sha256: request.spki_sha256(),
            renew_after,
        };
        let pem = |der: &[u8]| to_pem("CERTIFICATE", der);
        let granted = files(vec![
            file("/etc/kubeedge/ca/rootCA.crt", 0o644, pem(&authority).as_bytes()),
            file("/etc/kubeedge/certs/server.crt", 0o644, pem(&certificate).as_bytes()),
            file("/etc/kubeedge/config/50-forge.json", 0o600, &serde_json::to_vec_pretty(&overlay)?),
        ]);
        Ok(vec![own_key, granted])
    }

    fn token(&self, api: &Api) -> anyhow::Result<Token> {
        let data = api.secret(&self.namespace, "tokensecret", "tokendata")?;
        let text = std::str::from_utf8(&data).context("reading CloudCore's token")?;
        let (hash, jwt) = text.trim().split_once('.').context("CloudCore's token has no digest")?;
        let authority =
            format!("sha256:{hash}").parse().context("reading the digest of CloudCore's token")?;
        Ok(Token { authority, jwt: Zeroizing::new(jwt.into()) })
    }

    fn authority(&self, token: &Token) -> anyhow::Result<Vec<u8>> {
        let url = format!("{}/ca.crt", self.https);
        let call = Call { method: "GET", url: &url, roots: Roots::Anybody, headers: &[], body: None };
        let Answer { status, body } = rest::call(&call)?;
        ensure!(status == 200, "{url} answers {status}");
        let found = Digest::of(&body);
        ensure!(
            found == token.authority,
            "{url} shows the authority {found}, and CloudCore's token names {}",
            token.authority
        );
        Ok(body)
    }

    fn signed(
        &self,
        token: &Token,
        authority: &[u8],
        request: &VerifiedRequest,
        node: &str,
    ) -> anyhow::Result<Vec<u8>> {
        let url = format!("{}/edge.crt", self.https);
        let bearer = Zeroizing::new(format!("Bearer {}", *token.jwt));
        let answer = rest::call(&Call {
            method: "GET",
            url: &url,
            roots: Roots::Der(authority),
            // Without a header of uses it is for clients alone.
            headers: &[("Authorization", &bearer), ("NodeName", node)],
            body: Some(&request.der),
        });
        let Answer { status, body } = answer.with_context(|| {
            format!(
                "its certificate has the addresses that CloudCore was first started with: see that {} is one",
                self.https
            )
        })?;
        let said: String =
            String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect();
        ensure!(status == 200, "{url} answers {status}: {said}");
        Ok(body)
    }
}

/// The request for EdgeCore's certificate.
fn request(joining: &Joining<'_>) -> Result<VerifiedRequest, Unfit> {
    let csr = joining.csrs.iter().find(|csr| csr.r#use == EDGECORE).ok_or_else(|| {
        Unfit("it asks for no certificate: its image has no EdgeCore, or its request came on a stick".into())
    })?;
    let der = STANDARD
        .decode(&csr.der)
        .map_err(|_| Unfit("a request for a certificate that is not base64".into()))?;
    csr::verify(&der, joining.node).map_err(|bad| Unfit(format!("the request for a certificate: {bad}")))
}

/// When a certificate is to be asked for anew, if it is one for `node` and the requested key, for clients, and for nothing
/// else.
fn looked_at(der: &[u8], request: &VerifiedRequest, node: &str) -> anyhow::Result<Epoch> {
    let (_, certificate) = X509Certificate::from_der(der).context("it is none")?;
    ensure!(certificate.public_key().raw == request.spki, "it is for another key");
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().and_then(|cn| cn.as_str().ok());
    ensure!(name == Some(&format!("system:node:{node}")) && names.next().is_none(), "it is for another name");
    ensure!(certificate.subject_alternative_name()?.is_none(), "it has other names");
    let usage = certificate.extended_key_usage()?.context("it says not for what it is")?.value;
    ensure!(
        usage.client_auth && !usage.server_auth && !usage.any && usage.other.is_empty(),
        "it is not for clients alone"
    );
    let (from, until) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    ensure!(until > from, "it is never valid");
    Ok(Epoch(from + (until - from) / 100 * RENEW_AT))
}
