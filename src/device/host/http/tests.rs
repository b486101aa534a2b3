//! Against real sockets, a real TLS server, and peers that are no such thing.

use super::*;
use crate::model::{Digest, Epoch};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::BufRead as _;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

/// Longer than anything on a loopback takes, shorter than a test may hang.
const SHORT: Patience = Patience { connect: Duration::from_secs(5), total: Duration::from_secs(2) };

/// A fleet's authority and an endpoint's certificate, valid in 2026 and 2027.
struct Pki {
    ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    spki: Digest,
}

fn pki(name: &str) -> Pki {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Pki {
        ca_pem: ca.pem(),
        chain: vec![certificate.der().clone()],
        spki: Digest::of(rcgen::PublicKeyData::subject_public_key_info(&key)),
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    }
}

/// A server for one connection; what it read of the request, up to the empty line and the body's length.
fn serve(
    pki: &Pki,
    answer: impl FnOnce(&mut dyn Write) + Send + 'static,
) -> (SocketAddr, JoinHandle<String>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pki.chain.clone(), pki.key.clone_key())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        tls_exchange(Arc::new(config), tcp, answer)
    });
    (address, server)
}

fn tls_exchange(
    config: Arc<rustls::ServerConfig>,
    tcp: TcpStream,
    answer: impl FnOnce(&mut dyn Write),
) -> String {
    let connection = rustls::ServerConnection::new(config).unwrap();
    let mut stream = io::BufReader::new(rustls::StreamOwned::new(connection, tcp));
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line), Ok(1..)) {
            return request; // the client did not like the certificate
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        request += &line;
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    request += &String::from_utf8(body).unwrap();
    let stream = stream.get_mut();
    answer(stream);
    let _ = stream.flush();
    stream.conn.send_close_notify();
    let _ = stream.conn.complete_io(&mut stream.sock);
    request
}

fn says(text: &str) -> impl FnOnce(&mut dyn Write) + Send + 'static {
    let text = text.to_string();
    move |stream| {
        let _ = stream.write_all(text.as_bytes()); // the client may have seen enough
    }
}

fn pinned(pins: &[Digest]) -> Trust {
    Trust { pins: pins.to_vec(), authorities: vec![], floor: Epoch(0) }
}

fn call(address: SocketAddr, host: &str, trust: &Trust, proxy: Option<Proxy>) -> Result<Answer, Failure> {
    let origin = Origin { host: host.into(), port: address.port() };
    let client = Client::new(origin, trust, proxy, SHORT).unwrap();
    client.call(&Request { method: "POST", target: "/v1/enroll", body: Some(b"{}") })
}

const OK: &str = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn a_pinned_key_answers_whatever_the_name_and_the_dates_are() {
    // The certificate is for another name, and lapsed long before the clock's floor.
    let pki = pki("other.example");
    for floor in [0, 4_000_000_000] {
        let (address, server) = serve(&pki, says(OK));
        let trust = Trust { floor: Epoch(floor), ..pinned(&[Digest::of("another"), pki.spki]) };
        let answer = call(address, "127.0.0.1", &trust, None).unwrap();
        let wanted = Answer { status: 202, retry_after: Some(Duration::from_secs(7)), body: b"{}".to_vec() };
        assert_eq!(answer, wanted);
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /v1/enroll HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.ends_with("Content-Length: 2\r\n\r\n{}"), "{request}");
    }
}

#[test]
fn another_key_is_refused_although_name_and_dates_are_right() {
    let (address, server) = serve(&pki("127.0.0.1"), says(OK));
    let refused = call(address, "127.0.0.1", &pinned(&[Digest::of("the fleet's")]), None).unwrap_err();
    assert!(matches!(refused, Failure::Certificate { .. }), "{refused}");
    assert_eq!(server.join().unwrap(), "", "nothing was sent");
}

#[test]
fn an_authority_answers_for_its_name_and_not_before_or_after_its_time() {
    let right = pki("127.0.0.1");
    let foreign = pki("127.0.0.1");
    let named = pki("fleet.example");
    let trust =
        |ca: &Pki, floor| Trust { pins: vec![], authorities: vec![ca.ca_pem.clone()], floor: Epoch(floor) };
    // 2027 and 2030; a machine whose clock is in 2026 or behind is lifted to the floor.
    for (server_pki, believed, floor, good) in [
        (&right, &right, 1_800_000_000, true),
        (&right, &right, 1_900_000_000, false),
        (&right, &foreign, 1_800_000_000, false),
        (&named, &named, 1_800_000_000, false),
    ] {
        let (address, server) = serve(server_pki, says(OK));
        let answer = call(address, "127.0.0.1", &trust(believed, floor), None);
        assert_eq!(answer.is_ok(), good, "{answer:?}");
        assert!(good || matches!(answer, Err(Failure::Certificate { .. })), "{answer:?}");
        server.join().unwrap();
    }
    let nonsense = Trust { authorities: vec!["none".into()], ..pinned(&[]) };
    assert!(Client::new(Origin::parse("https://h").unwrap(), &nonsense, None, SHORT).is_err());
}

#[test]
fn what_answers_in_the_fleets_place_is_told() {
    let pki = pki("127.0.0.1");
    for (text, why) in [
        ("HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\n\r\n", "redirect"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html>", "web page"),
        ("HTTP/1.1 511 Network Authentication Required\r\n\r\n", "login"),
    ] {
        let (address, server) = serve(&pki, says(text));
        let refused = call(address, "127.0.0.1", &pinned(&[pki.spki]), None).unwrap_err();
        let Failure::Portal { why: told, .. } = &refused else { panic!("{refused}") };
        assert!(told.contains(why), "{told}");
        server.join().unwrap();
    }
    // A portal that speaks plain HTTP on the endpoint's port.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = tcp.read(&mut [0; 4096]);
    });
    let refused = call(address, "127.0.0.1", &pinned(&[pki.spki]), None).unwrap_err();
    assert!(matches!(refused, Failure::Portal { .. }), "{refused}");
    server.join().unwrap();
}

#[test]
fn a_cut_an_oversized_and_a_slow_answer_end_in_their_own_errors() {
    let pki = pki("127.0.0.1");
    type Answers = Box<dyn FnOnce(&mut dyn Write) + Send>;
    let ask = |answer: Answers| {
        let (address, server) = serve(&pki, answer);
        let started = Instant::now();
        let refused = call(address, "127.0.0.1", &pinned(&[pki.spki]), None).unwrap_err();
        server.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(5));
        refused.to_string()
    };
    let cut = ask(Box::new(says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")));
    assert!(cut.contains("cut short"), "{cut}");
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1);
    let large = ask(Box::new(says(&large)));
    assert!(large.contains("more than 1048576"), "{large}");
    let endless = ask(Box::new(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"8000\r\n").is_ok()
            && stream.write_all(&[b'x'; 0x8000]).is_ok()
            && stream.write_all(b"\r\n").is_ok()
        {}
    }));
    assert!(endless.contains("more than 1048576"), "{endless}");
    // A byte now and then: each read succeeds, and the whole still ends.
    let slow = |head: &'static str| {
        move |stream: &mut dyn Write| {
            let _ = stream.write_all(head.as_bytes());
            for _ in 0..80 {
                std::thread::sleep(Duration::from_millis(50));
                if stream.write_all(b"a").and_then(|()| stream.flush()).is_err() {
                    break;
                }
            }
        }
    };
    let in_head = ask(Box::new(slow("HTTP/1.1 200 OK\r\nX: ")));
    assert!(in_head.contains("took too long for an answer"), "{in_head}");
    let in_body = ask(Box::new(slow("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")));
    assert!(in_body.contains("took too long for the body"), "{in_body}");
}

#[test]
fn a_connection_that_is_cut_without_a_word_is_no_whole_body() {
    let pki = pki("127.0.0.1");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pki.chain.clone(), pki.key.clone_key())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp).unwrap();
        }
        let mut stream = rustls::Stream::new(&mut connection, &mut tcp);
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"half\":").unwrap();
        stream.flush().unwrap(); // and no close_notify
    });
    let refused = call(address, "127.0.0.1", &pinned(&[pki.spki]), None).unwrap_err();
    assert!(refused.to_string().contains("cut short"), "{refused}");
    server.join().unwrap();
}

/// A proxy for one connection: answers `CONNECT` with `status`, and leads to `target` where that is 200.
fn proxy(status: u16, target: SocketAddr) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let mut reader = io::BufReader::new(client.try_clone().unwrap());
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            reader.read_line(&mut request).unwrap();
        }
        (&client).write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).unwrap();
        if status == 200 {
            let upstream = TcpStream::connect(target).unwrap();
            let (mut up, mut down) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            let back = std::thread::spawn(move || {
                let _ = io::copy(&mut &upstream, &mut down);
                let _ = down.shutdown(std::net::Shutdown::Both);
            });
            let _ = io::copy(&mut reader, &mut up);
            let _ = up.shutdown(std::net::Shutdown::Both);
            back.join().unwrap();
        }
        request
    });
    (address, server)
}

#[test]
fn a_proxy_is_asked_by_name_with_its_credentials_and_can_say_no() {
    let pki = pki("fleet.example");
    let (target, server) = serve(&pki, says(OK));
    let (address, proxy_server) = proxy(200, target);
    let url = format!("http://box:p%40ss@{address}");
    // The name is the proxy's to look up: nothing here could.
    let answer = call(target, "fleet.example", &pinned(&[pki.spki]), Proxy::parse(&url)).unwrap();
    assert_eq!(answer.status, 202);
    server.join().unwrap();
    let asked = proxy_server.join().unwrap();
    assert!(asked.starts_with(&format!("CONNECT fleet.example:{} HTTP/1.1\r\n", target.port())), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic Ym94OnBAc3M=\r\n"), "{asked}");
    let (address, proxy_server) = proxy(407, target);
    let refused =
        call(target, "fleet.example", &pinned(&[pki.spki]), Proxy::parse(&format!("http://{address}")));
    assert!(matches!(refused, Err(Failure::Proxy { status: 407, .. })), "{refused:?}");
    proxy_server.join().unwrap();
}

#[test]
fn nobody_there_and_nobody_speaking_are_two_things() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = call(gone, "127.0.0.1", &pinned(&[Digest::of("x")]), None).unwrap_err();
    assert!(matches!(refused, Failure::Connect { .. }), "{refused}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = Origin { host: "127.0.0.1".into(), port: silent.local_addr().unwrap().port() };
    let patience = Patience { connect: Duration::from_millis(100), ..SHORT };
    let client = Client::new(origin, &pinned(&[Digest::of("x")]), None, patience).unwrap();
    let refused = client.call(&Request { method: "GET", target: "/", body: None }).unwrap_err();
    assert!(matches!(refused, Failure::Slow { .. }), "{refused}");
}

#[test]
fn addresses_of_endpoints_are_read_or_refused() {
    for (url, host, port) in [
        ("https://fleet.example", "fleet.example", 443),
        ("https://192.0.2.7:8443", "192.0.2.7", 8443),
        ("https://[2001:db8::1]:8443/", "2001:db8::1", 8443),
    ] {
        let origin = Origin::parse(url).unwrap();
        assert_eq!((&*origin.host, origin.port), (host, port));
    }
    for bad in [
        "http://h",
        "https://",
        "https://h:0",
        "https://h:x",
        "https://u@h",
        "https://h/p",
        "https://[::1",
        "https://h\r\nX: y",
    ] {
        assert!(Origin::parse(bad).is_none(), "{bad}");
    }
}
