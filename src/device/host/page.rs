//! The box's own page, for somebody beside it with a telephone or a laptop: what the screen says, as HTML at `/` and as JSON
//! at `/status.json`, until the box has joined.
//!
//! It reads nothing but the first line of a request and changes nothing. Its packets live for one hop, so that nobody behind
//! a router reads it. One connection is served at a time, for two seconds at most: whoever holds it open holds up this page
//! and nothing else.

use super::announce::Announcement;
use super::screen;
use crate::device::state::State;
use crate::device::view::View;
use crate::host::fs;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The document around what [`html`] writes.
const DOCUMENT: &str = include_str!("../../../templates/device/page.html");
/// Tried in order: a workload that publishes a port has it for itself.
const PORTS: [u16; 3] = [80, 8080, 4280];
/// Which ports the payload's workloads publish, `80/tcp` a line.
const TAKEN: &str = "usr/lib/forge/payload/host-ports";
/// The most of that file that is read: 4,096 ports.
const MAX_TAKEN: u64 = 40 << 10;
/// For all of one request and its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A browser's request line and headers.
const MAX_REQUEST: usize = 8 << 10;
/// Between two tries to open a port that was taken.
const RETRY: Duration = Duration::from_secs(60);

/// The page, open or not.
#[derive(Default)]
pub struct Page {
    open: Option<Open>,
    tried: Option<Instant>,
}

struct Open {
    listener: Arc<TcpListener>,
    documents: Arc<Mutex<Documents>>,
    announcement: Option<Announcement>,
    port: u16,
}

#[derive(Default)]
struct Documents {
    html: String,
    json: String,
}

impl Page {
    /// Shows `view`: opens the page below the box's `root` where it is not open, and closes it once the box has joined.
    /// Returns where it is. That no port is free is no error: the screen says the same.
    pub fn show(&mut self, root: &Path, view: &View) -> Option<String> {
        if view.state >= State::Joined {
            self.open = None;
            return None;
        }
        if self.open.is_none() && self.tried.is_none_or(|at| at.elapsed() > RETRY) {
            self.tried = Some(Instant::now());
            self.open = taken(root).and_then(|taken| Open::listen(&taken)).ok();
        }
        self.open.as_mut().map(|open| open.show(view))
    }
}

impl Open {
    fn listen(taken: &[u16]) -> io::Result<Open> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for port in PORTS.into_iter().filter(|port| !taken.contains(port)) {
            match bind(port) {
                Ok(listener) => return Open::serve(listener),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn serve(listener: TcpListener) -> io::Result<Open> {
        let port = listener.local_addr()?.port();
        let (listener, documents) = (Arc::new(listener), Arc::<Mutex<Documents>>::default());
        let (socket, shown) = (listener.clone(), documents.clone());
        std::thread::Builder::new().name("page".into()).stack_size(256 << 10).spawn(move || {
            // Ends when the socket is shut down.
            while let Ok((stream, _)) = socket.accept() {
                let _ = answer(stream, &shown); // whoever left does not want it
            }
        })?;
        Ok(Open { listener, documents, announcement: None, port })
    }

    fn show(&mut self, view: &View) -> String {
        // The label on a box has its address; the smallest, for ports are found in any order.
        let mac = view.links.iter().filter_map(|link| link.mac.as_deref()).min();
        if let (None, Some(mac)) = (&self.announcement, mac) {
            self.announcement = Announcement::start(mac, self.port).ok(); // an address does as well
        }
        let host = self.announcement.as_ref().map_or("this box's address", |a| a.host());
        let url =
            if self.port == 80 { format!("http://{host}/") } else { format!("http://{host}:{}/", self.port) };
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        *documents = Documents { html: html(view), json: status(view).to_string() };
        url
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both); // wakes the thread
    }
}

/// Ports that workloads publish; none where no payload says.
fn taken(root: &Path) -> io::Result<Vec<u16>> {
    let mut text = String::new();
    match fs::open_regular(&root.join(TAKEN)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other?.take(MAX_TAKEN).read_to_string(&mut text)?,
    };
    Ok(text.lines().filter_map(|line| line.strip_suffix("/tcp")?.parse().ok()).collect())
}

/// Listens on every address of the box, for neighbours alone.
fn bind(port: u16) -> io::Result<TcpListener> {
    let every =
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    let listener = TcpListener::bind(&every[..])?; // the second where the kernel has no IPv6
    rustix::net::sockopt::set_ip_ttl(&listener, 1)?;
    if listener.local_addr()?.is_ipv6() {
        rustix::net::sockopt::set_ipv6_unicast_hops(&listener, Some(1))?;
    }
    Ok(listener)
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, documents: &Mutex<Documents>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut request = Vec::with_capacity(1 << 10);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > MAX_REQUEST {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 1 << 10];
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            got => request.extend_from_slice(&bytes[..got]),
        }
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let response = {
        let documents = documents.lock().unwrap_or_else(PoisonError::into_inner);
        respond(line, &documents)
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(response.as_bytes())
}

/// The answer to a request with this first line.
fn respond(line: &[u8], documents: &Documents) -> String {
    let mut words = line.split(|b| *b == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/") => ("200 OK", "text/html; charset=utf-8", &*documents.html),
        (b"GET" | b"HEAD", b"/status.json") => ("200 OK", "application/json", &*documents.json),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "text/plain", "There are / and /status.json.\n"),
        _ => ("405 Method Not Allowed", "text/plain", "This page is to be read.\n"),
    };
    let length = body.len();
    let body = if method == b"HEAD" { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}"
    )
}

/// What a program reads.
fn status(view: &View) -> serde_json::Value {
    let port = |link: &crate::device::effects::Link| json!({ "name": link.name, "mac": link.mac, "cable": link.carrier, "addresses": link.addresses });
    json!({
        "state": view.state,
        "word": view.word(),
        "code": view.code.map(|code| code.id()),
        "title": view.code.map(|code| code.title()),
        "detail": view.detail,
        "device": view.device.as_ref().map(ToString::to_string),
        "words": view.words,
        "node": view.node,
        "serial": view.serial,
        "ports": view.links.iter().map(port).collect::<Vec<_>>(),
        "fleet": view.endpoints,
        "clock": view.now.rfc3339(),
        "again_in_s": view.again_in.map(|wait| wait.as_secs()),
    })
}

/// What a person reads.
fn html(view: &View) -> String {
    let mut body = String::new();
    let mut paragraph = |text: &str| {
        if !text.is_empty() {
            let _ = writeln!(body, "<p>{}</p>", escaped(text)); // writing to a String cannot fail
        }
    };
    if let Some(code) = view.code {
        paragraph(&format!("{code}: {}.", code.title()));
        paragraph(code.cause());
        paragraph(code.remedy());
    }
    paragraph(&view.detail);
    paragraph(&view.support);
    body.push_str("<dl>\n");
    for (name, value) in screen::facts(view) {
        let _ = writeln!(body, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
    }
    body.push_str("</dl>\n");
    if let Some(image) = view.qr.as_deref().and_then(screen::qr) {
        let image = image.render::<qrcode::render::svg::Color<'_>>().build();
        // Behind the XML declaration, which HTML does not have.
        body.push_str(image.find("<svg").map_or("", |start| &image[start..]));
        body.push('\n');
    }
    DOCUMENT.replace("@WORD@", view.word()).replace("@BODY@", &body)
}

/// Text as HTML has it, without control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars().filter(|c| !c.is_control()) {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enroll::code::Code;

    fn view() -> View {
        View {
            code: Some(Code::AwaitsApproval),
            detail: "<script>alert(1)</script>".into(),
            words: Some("lusab babad gutih tugad lusab babad".into()),
            qr: Some("https://fleet.example/e#fd-x.lusab-babad".into()),
            ..View::default()
        }
    }

    /// Asks the page of `open`; the whole answer.
    fn ask(open: &Open, request: &[u8]) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, open.port)).unwrap();
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_neighbour_reads_what_the_screen_says() {
        let mut open = Open::serve(bind(0).unwrap()).unwrap();
        open.show(&view());
        let page = ask(&open, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        for part in ["200 OK", "WAITING FOR APPROVAL", "E-CLAIM-01", "lusab babad", "<svg", "&lt;script&gt;"]
        {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script"));
        let status = ask(&open, b"GET /status.json HTTP/1.1\r\n\r\n");
        let (_, json) = status.split_once("\r\n\r\n").unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((json["code"].as_str(), json["state"].as_str()), (Some("E-CLAIM-01"), Some("fresh")));
        let view = View { code: None, state: State::Claimed, ..view() };
        open.show(&view);
        assert!(!ask(&open, b"GET / HTTP/1.1\r\n\r\n").contains("E-CLAIM-01"));
    }

    #[test]
    fn it_takes_no_input_and_waits_for_nobody() {
        let mut open = Open::serve(bind(0).unwrap()).unwrap();
        open.show(&view());
        assert!(ask(&open, b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").contains("405"));
        assert!(ask(&open, b"GET /../etc/shadow HTTP/1.1\r\n\r\n").contains("404"));
        let silent = TcpStream::connect((Ipv4Addr::LOCALHOST, open.port)).unwrap();
        assert!(ask(&open, b"GET / HTTP/1.1\r\n\r\n").contains("200 OK"), "after two seconds");
        drop(silent);
        let endless = vec![b'a'; MAX_REQUEST * 2];
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, open.port)).unwrap();
        let _ = stream.write_all(&endless);
        assert!(ask(&open, b"GET / HTTP/1.1\r\n\r\n").contains("200 OK"));
    }

    #[test]
    fn a_workloads_port_is_the_workloads() {
        let root = tempfile::tempdir().unwrap();
        assert!(taken(root.path()).unwrap().is_empty());
        fs::write_atomic(&root.path().join(TAKEN), b"80/tcp\n53/udp\n8080/tcp\n", 0o644).unwrap();
        assert_eq!(taken(root.path()).unwrap(), [80, 8080]);
    }

    #[test]
    fn once_joined_nobody_answers() {
        let mut page = Page { open: Some(Open::serve(bind(0).unwrap()).unwrap()), tried: None };
        let port = page.open.as_ref().unwrap().port;
        assert!(page.show(Path::new("/nonexistent"), &view()).is_some());
        assert_eq!(page.show(Path::new("/nonexistent"), &View { state: State::Joined, ..view() }), None);
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(10), "still open");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
