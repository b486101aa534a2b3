//! One request, one answer: HTTP/1.1 (RFC 9112) over TLS with pinned keys, through a proxy where there is one.
//!
//! Written on rustls and httparse alone and not on a client library, because of what a device needs of it: a clock that is
//! not believed, a verifier of its own, one deadline over all that a slow peer can draw out, no redirect followed (it is a
//! login page), and an error for each way in which a network says no. A connection serves one request, so nothing of one
//! answer can be taken for the next. Knows no protocol of enrollment: bodies are bytes, and what is signed in them is
//! checked by others.

mod answer;
mod proxy;
mod range;
mod tls;

pub use proxy::Proxy;
pub use range::opened;
pub use tls::{Trust, configuration};

use super::resolve::{self, Unresolved};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For name, connection, proxy and TLS handshake together.
    pub connect: Duration,
    /// For all of it, however slowly the peer sends.
    pub total: Duration,
}

/// Where to, and whom to believe there.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Origin {
    /// Reads `https://HOST[:PORT]`.
    pub fn parse(url: &str) -> Option<Origin> {
        Origin::of_authority(url.strip_prefix("https://")?, 443)
    }

    /// Reads `HOST[:PORT]` of a plain HTTP address.
    pub fn plain(authority: &str) -> Option<Origin> {
        Origin::of_authority(authority, 80)
    }

    fn of_authority(authority: &str, default: u16) -> Option<Origin> {
        let authority = authority.trim_end_matches('/');
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map_or(Some(default), |p| p.parse().ok().filter(|p| *p != 0))?;
        let letters = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':');
        let sound = !host.is_empty() && host.len() <= 253 && host.bytes().all(letters);
        sound.then(|| Origin { host: host.into(), port })
    }

    /// `HOST:PORT` as in a URL.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// JSON, for `POST`.
    pub body: Option<&'a [u8]>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 299 or 400 to 599.
    pub status: u16,
    /// How long to wait before the next request, where the answer says so in seconds.
    pub retry_after: Option<Duration>,
    /// At most [`MAX_BODY`] bytes.
    pub body: Vec<u8>,
}

/// The longest body that is read, in bytes.
pub const MAX_BODY: usize = crate::enroll::MAX_BODY;

/// Why there is no answer. What the peer said is cut and cleaned before it gets here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The name has no address.
    #[error(transparent)]
    Name(#[from] Unresolved),
    /// Nobody answers at any address.
    #[error("connecting to {to}: {why}")]
    Connect {
        /// The name or address.
        to: String,
        /// What the kernel says of the last address.
        why: io::Error,
    },
    /// The proxy does not let the call through.
    #[error("the proxy {proxy} answers {status}")]
    Proxy {
        /// The proxy, without its password.
        proxy: String,
        /// Its answer.
        status: u16,
    },
    /// The peer's certificate is not one that is believed.
    #[error("the certificate of {host} is not accepted: {why}")]
    Certificate {
        /// The endpoint.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something answers that is not the fleet: a redirect, a page, no TLS, no HTTP, too much.
    #[error("something else answers in the place of {host}: {why}")]
    Portal {
        /// The endpoint.
        host: String,
        /// What gave it away.
        why: String,
    },
    /// The connection or the answer broke off.
    #[error("the answer of {host} {why}")]
    Broken {
        /// The endpoint.
        host: String,
        /// How.
        why: String,
    },
    /// A deadline passed.
    #[error("{host} took too long for {what}")]
    Slow {
        /// The endpoint.
        host: String,
        /// For what.
        what: &'static str,
    },
}

/// Makes calls. Cheap to make anew when the bundle says something else.
pub struct Client {
    origin: Origin,
    tls: Arc<rustls::ClientConfig>,
    proxy: Option<Proxy>,
    patience: Patience,
}

impl Client {
    /// A client of `origin`, which proves itself by `trust`.
    ///
    /// # Errors
    /// When an authority of `trust` is no certificate.
    pub fn new(
        origin: Origin,
        trust: &Trust,
        proxy: Option<Proxy>,
        patience: Patience,
    ) -> anyhow::Result<Client> {
        Ok(Client { origin, tls: configuration(trust)?, proxy, patience })
    }

    /// Makes the call.
    ///
    /// # Errors
    /// [`Failure`]. No failure says that the endpoint has not acted on the request.
    pub fn call(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let host = &self.origin.host;
        let end = Instant::now() + self.patience.total;
        let mut tcp = self.connect()?;
        let name = rustls::pki_types::ServerName::try_from(host.clone())
            .map_err(|e| self.broken(format!("cannot be asked for: {e}")))?;
        let mut tls = rustls::ClientConnection::new(self.tls.clone(), name)
            .map_err(|e| self.broken(format!("cannot be asked for: {e}")))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).map_err(|e| self.in_handshake(&e))?;
        }
        tcp.deadline = end;
        let mut stream = rustls::StreamOwned::new(tls, tcp);
        let sent = stream.write_all(&self.encode(request)).and_then(|()| stream.flush());
        sent.map_err(|e| self.in_exchange(&e, "the request"))?;
        let mut reader = io::BufReader::new(stream);
        let head = answer::head(&mut reader).map_err(|e| self.answered(e, "an answer"))?;
        if let Some(why) = head.portal() {
            return Err(Failure::Portal { host: host.clone(), why });
        }
        let body = answer::body(&head, &mut reader, MAX_BODY).map_err(|e| self.answered(e, "the body"))?;
        Ok(Answer { status: head.status, retry_after: head.retry_after, body })
    }

    /// The request's bytes. Everything in it is the caller's or was checked when it was read.
    fn encode(&self, request: &Request<'_>) -> Vec<u8> {
        let authority = self.origin.authority();
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: forge-device/{}\r\nAccept: application/json\r\nConnection: close\r\n",
            request.method,
            request.target,
            env!("CARGO_PKG_VERSION"),
        );
        if let Some(body) = request.body {
            text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        let mut bytes = (text + "\r\n").into_bytes();
        bytes.extend_from_slice(request.body.unwrap_or_default());
        bytes
    }

    /// A connection to the origin, through the proxy where there is one; its deadline is that of connecting.
    fn connect(&self) -> Result<Timed, Failure> {
        let deadline = Instant::now() + self.patience.connect.min(self.patience.total);
        let target = self.proxy.as_ref().map_or(&self.origin, |proxy| &proxy.origin);
        let addresses = resolve::addresses(&target.host, deadline.saturating_duration_since(Instant::now()))?;
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for (n, ip) in addresses.iter().enumerate() {
            // A dead address must leave time for the next.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (addresses.len() - n) as u32;
            if share.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&SocketAddr::new(*ip, target.port), share) {
                Ok(tcp) => {
                    let mut tcp = Timed { tcp, deadline };
                    if let Some(proxy) = &self.proxy {
                        proxy.tunnel(&mut tcp, &self.origin.authority()).map_err(|e| match e {
                            proxy::Refused::Status(status) => {
                                Failure::Proxy { proxy: proxy.origin.authority(), status }
                            }
                            proxy::Refused::Io(why) => Failure::Connect { to: proxy.origin.authority(), why },
                        })?;
                    }
                    return Ok(tcp);
                }
                Err(e) => last = e,
            }
        }
        Err(Failure::Connect { to: target.authority(), why: last })
    }

    fn broken(&self, why: String) -> Failure {
        Failure::Broken { host: self.origin.host.clone(), why }
    }

    fn in_handshake(&self, error: &io::Error) -> Failure {
        let host = self.origin.host.clone();
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => {
                Failure::Certificate { host, why: why.to_string() }
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                Failure::Portal { host, why: "it does not speak TLS".into() }
            }
            Some(other) => Failure::Portal { host, why: format!("its TLS is none: {other}") },
            None => self.in_exchange(error, "a TLS connection"),
        }
    }

    fn in_exchange(&self, error: &io::Error, what: &'static str) -> Failure {
        let host = self.origin.host.clone();
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Slow { host, what },
            io::ErrorKind::UnexpectedEof => Failure::Broken { host, why: "is cut short".into() },
            _ => Failure::Broken { host, why: format!("breaks off: {error}") },
        }
    }

    fn answered(&self, error: answer::Bad, what: &'static str) -> Failure {
        match error {
            answer::Bad::Io(e) => self.in_exchange(&e, what),
            answer::Bad::Not(why) => {
                Failure::Portal { host: self.origin.host.clone(), why: format!("its answer {why}") }
            }
        }
    }
}

/// A connection that ends at an instant, however slowly the peer sends.
#[derive(Debug)]
struct Timed {
    tcp: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.left()?))?;
        self.tcp.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.left()?))?;
        self.tcp.write(buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

#[cfg(test)]
mod tests;
