//! A server that misbehaves on purpose, and a client that is held against it.

use super::*;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A request: its path and the first byte of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub path: String,
    pub from: Option<u64>,
}

/// Serves on a port of its own; `answer` gets the connection, the request and its number from 0.
pub(crate) struct Server {
    base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn new(answer: impl Fn(&mut TcpStream, &Seen, usize) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let Some(Ok(first)) = lines.next() else { return };
                    let path = first.split(' ').nth(1).unwrap().to_string();
                    let mut from = None;
                    for line in lines.by_ref().map_while(Result::ok).take_while(|l| !l.is_empty()) {
                        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                            from = range.trim_end_matches('-').parse().ok();
                        }
                    }
                    let seen = Seen { path, from };
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(seen.clone());
                        log.len() - 1
                    };
                    answer(&mut stream, &seen, number);
                });
            }
        });
        Server { base, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/blob", self.base)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub(crate) fn reply(stream: &mut TcpStream, status: &str, headers: &str, length: usize, body: &[u8]) {
    // The client may have gone: that is what some tests are about.
    let _ =
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    let _ = stream.write_all(body);
}

/// A well-behaved server's answer, range or not.
pub(crate) fn serve(stream: &mut TcpStream, seen: &Seen, all: &[u8]) {
    match seen.from {
        None => reply(stream, "200 OK", "", all.len(), all),
        Some(from) if from as usize >= all.len() => reply(stream, "416 Range Not Satisfiable", "", 0, b""),
        Some(from) => {
            let rest = &all[from as usize..];
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", all.len() - 1, all.len());
            reply(stream, "206 Partial Content", &range, rest.len(), rest);
        }
    }
}

pub(crate) fn impatient() -> Client {
    let ms = Duration::from_millis;
    Client::with_patience(Patience { connect: ms(500), read: ms(300), tries: 3, backoff: ms(1) }).unwrap()
}

pub(crate) fn body() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
}

pub(crate) fn expect(all: &[u8]) -> Expect {
    Expect { digest: Digest::of(all), size: Some(all.len() as u64) }
}

/// Downloads into a file that begins with `start`; the result and the file's content.
fn download(server: &Server, start: &[u8], expect: Expect) -> (anyhow::Result<()>, Vec<u8>) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(start).unwrap();
    let cancel = Cancel::default();
    let result = impatient().download(&server.url(), &mut file, expect, &|_| {}, &cancel);
    let mut content = vec![];
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut content).unwrap();
    (result, content)
}

pub(crate) fn assert_fails(result: anyhow::Result<()>, kind: Kind, parts: &[&str]) {
    let error = result.unwrap_err();
    let text = error::chain(&error).join(": ");
    assert_eq!(error::kind(&error), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn a_cut_connection_is_resumed_where_it_was_cut() {
    let all = body();
    let served = all.clone();
    let server = Server::new(move |stream, seen, number| match number {
        0 => reply(stream, "200 OK", "", served.len(), &served[..100_000]),
        _ => serve(stream, seen, &served),
    });
    let (result, content) = download(&server, b"", expect(&all));
    result.unwrap();
    assert_eq!(content, all);
    let from: Vec<_> = server.seen().iter().map(|s| s.from).collect();
    assert_eq!(from, [None, Some(100_000)]);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let all = body();
    let served = all.clone();
    let server = Server::new(move |stream, _, _| reply(stream, "200 OK", "", served.len(), &served));
    let (result, content) = download(&server, &all[..5000], expect(&all));
    result.unwrap();
    assert_eq!(content, all);
    assert_eq!(server.seen()[0].from, Some(5000));
}

#[test]
fn another_range_than_the_asked_one_is_not_pasted_in() {
    let all = body();
    let served = all.clone();
    let server = Server::new(move |stream, seen, _| match seen.from {
        Some(_) => reply(stream, "206 Partial Content", "Content-Range: bytes 0-9/99\r\n", 10, &[0; 10]),
        None => serve(stream, seen, &served),
    });
    let (result, content) = download(&server, &all[..5000], expect(&all));
    result.unwrap();
    assert_eq!(content, all);
}

#[test]
fn a_wrong_beginning_from_an_earlier_run_is_thrown_away() {
    let all = body();
    let served = all.clone();
    let server = Server::new(move |stream, seen, _| serve(stream, seen, &served));
    for start in [vec![7; 5000], vec![7; all.len()], vec![7; all.len() + 1]] {
        let (result, content) = download(&server, &start, expect(&all));
        result.unwrap();
        assert_eq!(content, all);
    }
}

#[test]
fn other_content_is_refused_with_both_digests_and_nothing_is_kept() {
    let all = body();
    let mut changed = all.clone();
    changed[1000] ^= 1;
    let got = Digest::of(&changed).to_string();
    let server = Server::new(move |stream, seen, _| serve(stream, seen, &changed));
    let (result, content) = download(&server, b"", expect(&all));
    assert_fails(result, Kind::Verify, &[&server.url(), &Digest::of(&all).to_string(), &got]);
    assert!(content.is_empty());
}

#[test]
fn a_truncated_or_overlong_file_is_refused_by_its_size() {
    let all = body();
    for served in [all[..all.len() - 1].to_vec(), [&all[..], &[0]].concat()] {
        let (wanted, got) = (all.len().to_string(), served.len().to_string());
        let server = Server::new(move |stream, seen, _| serve(stream, seen, &served));
        let (result, content) = download(&server, b"", expect(&all));
        assert_fails(result, Kind::Verify, &[&server.url(), &wanted, &got]);
        assert!(content.is_empty());
    }
}

#[test]
fn an_endless_answer_is_cut_off() {
    let server = Server::new(|stream, _, _| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[0; 4096]).is_ok() {}
    });
    let (result, _) = download(&server, b"", expect(&[0; 10_000]));
    assert_fails(result, Kind::Verify, &["expected 10000 bytes"]);
    let result = impatient().get(&server.url(), 10_000, &Cancel::default());
    assert_fails(result.map(drop), Kind::Fetch, &["larger than 10000 bytes"]);
}

#[test]
fn busy_servers_are_asked_again_and_refusals_are_not() {
    for (status, tries) in
        [("503 Busy", 3), ("429 Slow Down", 3), ("408 Late", 3), ("404 Not Found", 1), ("403 No", 1)]
    {
        let server = Server::new(move |stream, _, _| reply(stream, status, "", 0, b""));
        let result = impatient().get(&server.url(), 100, &Cancel::default());
        assert_fails(result.map(drop), Kind::Fetch, &[&server.url(), &status[..3]]);
        assert_eq!(server.seen().len(), tries, "{status}");
    }
    let server = Server::new(|stream, seen, number| match number {
        0 => reply(stream, "503 Busy", "Retry-After: 0\r\n", 0, b""),
        _ => serve(stream, seen, b"at last"),
    });
    assert_eq!(impatient().get(&server.url(), 100, &Cancel::default()).unwrap(), b"at last");
}

#[test]
fn a_redirect_loop_ends() {
    let server = Server::new(|stream, _, _| reply(stream, "302 Found", "Location: /blob\r\n", 0, b""));
    let result = impatient().get(&server.url(), 100, &Cancel::default());
    assert_fails(result.map(drop), Kind::Fetch, &["redirect"]);
    assert_eq!(server.seen().len(), REDIRECTS + 1);
}

#[test]
fn a_redirect_out_of_tls_is_one() {
    let url = |s: &str| reqwest::Url::parse(s).unwrap();
    assert!(is_downgrade(&url("https://a.example/x"), &url("http://a.example/x")));
    assert!(!is_downgrade(&url("https://a.example/x"), &url("https://b.example/y")));
    assert!(!is_downgrade(&url("http://a.example/x"), &url("https://a.example/x")));
    assert!(!is_downgrade(&url("http://a.example/x"), &url("http://b.example/x")));
}

#[test]
fn a_server_that_stalls_or_trickles_is_left() {
    for pause in [60_000, 20] {
        let server = Server::new(move |stream, _, _| {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(pause));
            }
        });
        let (result, content) = download(&server, b"", Expect { size: Some(100_000), ..expect(b"") });
        assert_fails(result, Kind::Fetch, &[&server.url()]);
        assert!(!content.is_empty(), "what came is kept for another try");
    }
}

#[test]
fn an_address_where_nobody_listens_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/x");
    let result = impatient().get(&url, 100, &Cancel::default());
    assert_fails(result.map(drop), Kind::Fetch, &[&url, "refused"]);
}

#[test]
fn cancelling_ends_a_transfer_at_once() {
    let server = Server::new(|_, _, _| std::thread::sleep(Duration::from_secs(60)));
    let cancel = Cancel::default();
    let other = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        other.cancel();
    });
    let client = Client::new().unwrap();
    assert_fails(client.get(&server.url(), 100, &cancel).map(drop), Kind::Interrupted, &[]);
}

#[test]
fn offline_refuses_by_name_and_still_reads_files() {
    let error = Client::offline().get("http://mirror.example/x", 9, &Cancel::default()).unwrap_err();
    assert_eq!(error::kind(&error), Kind::Fetch);
    assert_eq!(error::hints(&error).len(), 1);
    assert!(error.to_string().contains("http://mirror.example/x"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a file");
    std::fs::write(&path, b"local").unwrap();
    let url = format!("file://{}/a%20file", dir.path().display());
    assert_eq!(Client::offline().get(&url, 9, &Cancel::default()).unwrap(), b"local");
    assert!(Client::offline().get(&url, 4, &Cancel::default()).is_err());
    assert!(Client::offline().get("ftp://mirror.example/x", 4, &Cancel::default()).is_err());
}

#[test]
fn the_first_failure_stops_the_rest() {
    let started = AtomicU64::new(0);
    let items: Vec<u64> = (0..1000).collect();
    let result = Client::offline().each(&items, &Cancel::default(), |i| {
        started.fetch_add(1, Ordering::Relaxed);
        if *i == 3 { Err(anyhow!("third")) } else { Ok(*i) }
    });
    assert_eq!(result.unwrap_err().to_string(), "third");
    let all = Client::offline().each(&items, &Cancel::default(), |i| Ok(*i)).unwrap();
    assert_eq!(all, items);
}
