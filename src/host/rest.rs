//! One call of an API over TLS: a request → a status and a body, whatever the status is.
//!
//! For programs of a cluster, which have an authority of their own: none of the platform's is believed. Nothing is repeated
//! and no redirect followed; whoever calls knows what may be done twice. Sizes and times are bounded.

use crate::error::{Kind, Mark as _};
use anyhow::{Context as _, ensure};
use reqwest::{Certificate, Method};
use std::time::Duration;

/// For a connection to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// For all of a call: shorter than a device's patience, so that it hears why.
const CALL: Duration = Duration::from_secs(30);
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Who is believed to be the server.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// Whoever has a certificate of these authorities, PEM.
    Pem(&'a [u8]),
    /// Whoever has a certificate of this authority, DER.
    Der(&'a [u8]),
    /// Anybody: for what is held against a digest afterwards, and nothing secret is sent.
    Anybody,
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'a str,
    /// https.
    pub url: &'a str,
    /// Who is believed.
    pub roots: Roots<'a>,
    /// Names and values; values may be secrets.
    pub headers: &'a [(&'a str, &'a str)],
    /// Sent with `GET`, too.
    pub body: Option<&'a [u8]>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// At most a mebibyte.
    pub body: Vec<u8>,
}

/// Makes a call. Not to be made on a thread that drives tasks.
///
/// # Errors
/// [`Kind::Fetch`] with the URL, when nobody answers, somebody else does, or too much is answered.
pub fn call(call: &Call<'_>) -> anyhow::Result<Answer> {
    super::http::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(make(call))
        .with_context(|| format!("calling {} {}", call.method, call.url))
        .kind(Kind::Fetch)
}

async fn make(call: &Call<'_>) -> anyhow::Result<Answer> {
    ensure!(call.url.starts_with("https://"), "it is no https: URL");
    let builder = reqwest::Client::builder()
        .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(CALL)
        .redirect(reqwest::redirect::Policy::none());
    let builder = match call.roots {
        Roots::Pem(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem)?),
        Roots::Der(der) => builder.tls_certs_only([Certificate::from_der(der)?]),
        Roots::Anybody => builder.tls_danger_accept_invalid_certs(true),
    };
    let mut request = builder.build()?.request(Method::from_bytes(call.method.as_bytes())?, call.url);
    for (name, value) in call.headers {
        let mut value = reqwest::header::HeaderValue::from_str(value).context("a header that is none")?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    if let Some(body) = call.body {
        request = request.body(body.to_vec());
    }
    let mut response = request.send().await?;
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await? {
        ensure!(body.len() + chunk.len() <= MAX_ANSWER, "the answer is larger than {MAX_ANSWER} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.status().as_u16(), body })
}
