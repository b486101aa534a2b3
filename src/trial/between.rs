//! What may stand between a box and its fleet: a captive portal, a proxy, a firewall that looks into TLS. Real servers, on
//! this machine.

use crate::device::host::http::{self, Trust};
use crate::host::cancel::Cancel;
use crate::model::{Digest, Epoch};
use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How many connections a portal answers itself before somebody logs in.
const UNTIL_LOGIN: u32 = 4;
/// A request's head is not read beyond this.
const MAX_HEAD: u64 = 16 << 10;

/// One of them.
pub enum Between {
    /// A captive portal.
    Portal(Portal),
    /// An HTTP proxy.
    Proxy(Proxy),
    /// A firewall that looks into TLS.
    Inspector(Inspector),
}

impl Between {
    /// Says that it was met.
    ///
    /// # Errors
    /// When no connection came.
    pub fn check(&self) -> anyhow::Result<()> {
        let (what, met) = match self {
            Between::Portal(portal) => ("portal", portal.0.met()),
            Between::Proxy(proxy) => ("proxy", proxy.0.met()),
            Between::Inspector(inspector) => ("inspector", inspector.listener.met()),
        };
        ensure!(met > 0, "nothing came through the {what}");
        Ok(())
    }
}

/// Answers everything with a redirect to a login page at first, whatever it is asked; then leads on.
pub struct Portal(Listener);

impl Portal {
    /// Stands before `fleet`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(fleet: SocketAddr) -> std::io::Result<Portal> {
        Listener::start(move |mut stream, n| {
            if n < UNTIL_LOGIN {
                const PAGE: &str = "<html><title>Welcome to the guest network</title></html>";
                let head = format!(
                    "HTTP/1.1 302 Found\r\nLocation: http://login.invalid/\r\nContent-Length: {}\r\n\r\n",
                    PAGE.len()
                );
                stream.write_all(format!("{head}{PAGE}").as_bytes())?;
                // Taken in, so that the answer is not lost to a reset.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut stream.take(MAX_HEAD), &mut std::io::sink());
                return Ok(());
            }
            splice(stream, TcpStream::connect(fleet)?)
        })
        .map(Portal)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port
    }
}

/// An HTTP proxy that knows one host, whatever it is called.
pub struct Proxy(Listener);

impl Proxy {
    /// Stands before `fleet`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(fleet: SocketAddr) -> std::io::Result<Proxy> {
        Listener::start(move |stream, _| {
            let mut head = BufReader::new(stream.try_clone()?.take(MAX_HEAD)).lines();
            let request = head.next().transpose()?.unwrap_or_default();
            while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            let mut stream = stream;
            if !request.starts_with("CONNECT ") {
                return stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
            }
            let fleet = TcpStream::connect(fleet)?;
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            splice(stream, fleet)
        })
        .map(Proxy)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port
    }
}

/// Ends TLS, reads, and goes on to the fleet, with a certificate of its own authority, as companies' firewalls do.
pub struct Inspector {
    listener: Listener,
    authority: String,
}

impl Inspector {
    /// Stands before `fleet`, whose key has one of the digests `pins`, and is called `name`.
    ///
    /// # Errors
    /// When no port is free or no key can be made.
    pub fn start(fleet: SocketAddr, pins: Vec<Digest>, name: &str) -> anyhow::Result<Inspector> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let own = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![name.to_string()])?.signed_by(&own, &Issuer::new(params, key))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(own.serialize_der().into()),
            )?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let client = http::configuration(&Trust { pins, authorities: vec![], floor: Epoch(0) })?;
        let connector = tokio_rustls::TlsConnector::from(client);
        let name = ServerName::from(fleet.ip());
        let carry = move |stream: TcpStream| {
            let (acceptor, connector, name) = (acceptor.clone(), connector.clone(), name.clone());
            async move {
                let mut inside = acceptor.accept(tokio::net::TcpStream::from_std(stream)?).await?;
                let outside = tokio::net::TcpStream::connect(fleet).await?;
                let mut outside = connector.connect(name, outside).await?;
                tokio::io::copy_bidirectional(&mut inside, &mut outside).await.map(drop)
            }
        };
        let listener = Listener::start(move |stream, _| {
            stream.set_nonblocking(true)?;
            tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(carry(stream))
        })
        .context("standing between the box and its fleet")?;
        Ok(Inspector { listener, authority })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// Its authority, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

/// A thread that takes connections until it is dropped.
struct Listener {
    port: u16,
    met: Arc<AtomicU32>,
    stop: Cancel,
}

impl Listener {
    fn start(
        serve: impl Fn(TcpStream, u32) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> std::io::Result<Listener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (port, stop, met) =
            (listener.local_addr()?.port(), Cancel::default(), Arc::new(AtomicU32::new(0)));
        let (stopped, counted, serve) = (stop.clone(), met.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.is_cancelled() {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (serve, n) = (serve.clone(), counted.fetch_add(1, Ordering::Relaxed));
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                    let _ = serve(stream, n); // a connection that breaks is the box's to try again
                });
            }
        });
        Ok(Listener { port, met, stop })
    }

    fn met(&self) -> u32 {
        self.met.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)); // wakes it, so that it sees
    }
}

/// Carries bytes both ways until both sides have ended.
fn splice(one: TcpStream, other: TcpStream) -> std::io::Result<()> {
    let carry = |mut from: TcpStream, mut to: TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let (from, to) = (one.try_clone()?, other.try_clone()?);
    let back = std::thread::spawn(move || carry(other, one));
    carry(from, to);
    let _ = back.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every connection with `fleet`.
    fn fleet() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"fleet");
            }
        });
        address
    }

    fn ask(port: u16, request: &[u8]) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(request).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn a_portal_answers_first_and_then_leads_on() {
        let portal = Portal::start(fleet()).unwrap();
        for _ in 0..UNTIL_LOGIN {
            assert!(ask(portal.port(), b"\x16\x03\x01").starts_with("HTTP/1.1 302"));
        }
        assert_eq!(ask(portal.port(), b"\x16\x03\x01"), "fleet");
        Between::Portal(portal).check().unwrap();
    }

    #[test]
    fn a_proxy_leads_to_the_fleet_alone() {
        let proxy = Proxy::start(fleet()).unwrap();
        assert!(Between::Proxy(Proxy::start(fleet()).unwrap()).check().is_err(), "nobody came");
        let answer = ask(proxy.port(), b"CONNECT fleet.invalid:8443 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("fleet"), "{answer}");
        assert!(ask(proxy.port(), b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }
    #[test]
    fn an_inspector_is_believed_by_its_authority_alone() {
        // The fleet is an inspector too: it has a key and a certificate, and sends what it is sent behind it.
        let behind = Inspector::start(fleet(), vec![], "127.0.0.1").unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, behind.port()));
        let inspector = Inspector::start(address, vec![Digest::of("not its key")], "127.0.0.1").unwrap();
        let ask = |authorities: Vec<String>| {
            let trust = Trust { pins: vec![], authorities, floor: Epoch(0) };
            let origin = http::Origin { host: "127.0.0.1".into(), port: inspector.port() };
            let patience = http::Patience { connect: Duration::from_secs(5), total: Duration::from_secs(5) };
            let client = http::Client::new(origin, &trust, None, patience).unwrap();
            client.call(&http::Request { method: "GET", target: "/", body: None }).unwrap_err()
        };
        let foreign = ask(vec![behind.authority().into()]);
        assert!(matches!(foreign, http::Failure::Certificate { .. }), "{foreign}");
        let broken = ask(vec![inspector.authority().into()]);
        assert!(!matches!(broken, http::Failure::Certificate { .. }), "past its certificate: {broken}");
    }
}
