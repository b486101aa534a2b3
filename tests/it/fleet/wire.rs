//! Requests over a real socket: TLS with the endpoint's key pinned, HTTP/1.1 by hand, so that a test can also misbehave.

use forge::fleet::{Request, Response};
use forge::model::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Takes the one key, and no other, whatever the certificate says of names and times.
#[derive(Debug)]
struct Pinned {
    spki: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|_| rustls::Error::General("no certificate".into()))?;
        if Digest::of(parsed.public_key().raw) == self.spki {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("another key than the pinned one".into()))
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Where an endpoint listens, and which key it has.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Endpoint {
    pub fn pinned(address: SocketAddr, spki: Digest) -> Endpoint {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { spki, provider }))
            .with_no_client_auth();
        // Every box is new to the endpoint: no session is taken up again.
        config.resumption = rustls::client::Resumption::disabled();
        Endpoint { address, config: Arc::new(config) }
    }

    pub fn connect(&self) -> io::Result<Connection> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        Ok(Connection(BufReader::new(StreamOwned::new(tls, socket))))
    }
}

/// A connection, for one request after the other.
pub struct Connection(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Connection {
    /// Sends a box's request.
    pub fn send(&mut self, request: &Request) -> io::Result<Response> {
        let target = format!("{}?{}", request.path, request.query);
        let (status, retry_after_s, body) = self.call(&request.method, &target, "", &request.body)?;
        let content_type = "application/json";
        Ok(Response { status, retry_after_s, content_type, body, hold: None, trouble: None })
    }

    /// Sends any request, with header lines that end in CR LF each: status, Retry-After, body.
    pub fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<(u16, Option<u32>, Vec<u8>)> {
        let mut message = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        )
        .into_bytes();
        message.extend(body);
        let stream = self.0.get_mut();
        stream.write_all(&message)?;
        stream.flush()?;
        let (mut status, mut length, mut retry_after_s) = (0, 0, None);
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            } else if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().map_err(io::Error::other)?;
            } else if let Some(value) = text.strip_prefix("content-length: ") {
                length = value.parse().map_err(io::Error::other)?;
            } else if let Some(value) = text.strip_prefix("retry-after: ") {
                retry_after_s = value.parse().ok();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, retry_after_s, body))
    }

    /// The socket below, for who wants to be rude.
    pub fn raw(&mut self) -> &mut StreamOwned<ClientConnection, TcpStream> {
        self.0.get_mut()
    }
}
