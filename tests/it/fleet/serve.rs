//! The real program over real sockets: killed in the middle, stopped politely, and visited by rude strangers.

use super::boxes::{Box, Bundle, Fleet, hardware};
use super::wire::Endpoint;
use forge::enroll::bootstrap::Mode;
use forge::enroll::claim::path;
use forge::enroll::issue::Description;
use forge::fleet::{Device, Home, Store, operator};
use forge::sign::{PrivateKey, Signer as _};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A running `forge fleet serve`; killed when dropped.
pub struct Served {
    pub child: Child,
    pub endpoint: Endpoint,
    pub description: Description,
    pub token: String,
}

/// Starts the program over `dir`, for bundles that `root` signs.
pub fn start(dir: &Path, root: &PrivateKey) -> Served {
    let public = dir.with_extension("root.pub");
    std::fs::write(&public, root.public_key().to_pem()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_forge"))
        .args(["--json", "fleet", "serve", "--name", "shops", "--listen", "127.0.0.1:0", "--trust"])
        .arg(&public)
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let listening = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
        .find(|value| value["type"] == "listening")
        .expect("it says where it listens");
    let home = Home::open(dir).unwrap();
    let description = home.public().unwrap();
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    let endpoint = Endpoint::pinned(address, description.spki_sha256[0]);
    Served { child, endpoint, description, token: home.token().unwrap().to_string() }
}

impl Served {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// An operator's call.
    pub fn api(&self, method: &str, call: &str, body: &str) -> (u16, serde_json::Value) {
        let headers = format!("Authorization: Bearer {}\r\n", self.token);
        let mut connection = self.endpoint.connect().unwrap();
        let (status, _, body) =
            connection.call(method, &format!("/api/v1/{call}"), &headers, body.as_bytes()).unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boxes with the keys of the endpoint's own making, which only its directory knows.
fn fleet_of(served: &Served, root: Fleet) -> Fleet {
    // Boxes believe the endpoint's grant key; its private half stays where it is.
    assert_eq!(served.description.grant_keys.len(), 1);
    root
}

fn new_box(served: &Served, fleet: &Fleet, name: &str, bundle: &Bundle, serial: &str) -> Box {
    let mut one = Box::new(name, fleet, bundle, hardware(serial));
    one.fleet_keys.clone_from(&served.description.grant_keys);
    one
}

#[test]
fn no_answered_claim_is_lost_when_the_endpoint_is_killed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("fleet");
    let fleet = Fleet::of_seed(1);
    let answered: Mutex<Vec<usize>> = Mutex::default();
    let mut kills = 0;
    for round in 0..5 {
        let mut served = start(&dir, &fleet.root);
        let (next, dead) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let endpoint = served.endpoint.clone();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while dead.load(Ordering::Relaxed) == 0 {
                        let n = round * 10_000 + next.fetch_add(1, Ordering::Relaxed);
                        let bundle = fleet.own_bundle(&format!("s{n}"), &format!("SN{n}"));
                        let mut one = Box::new(&format!("{n}"), &fleet, &bundle, hardware(&format!("SN{n}")));
                        one.fleet_keys.clone_from(&served.description.grant_keys);
                        // Whatever breaks at the kill is a box without an answer.
                        let claimed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            let mut connection = endpoint.connect().ok()?;
                            one.claim(&mut |request| match connection.send(request) {
                                Ok(response) => response,
                                Err(_) => std::panic::resume_unwind(std::boxed::Box::new("no answer")),
                            })
                            .1
                        }));
                        match claimed {
                            Ok(Some(_)) => answered.lock().unwrap().push(n),
                            _ => break,
                        }
                    }
                });
            }
            // In the middle of it: an instant that differs from round to round.
            while answered.lock().unwrap().len() < (round + 1) * 40 {
                std::thread::sleep(Duration::from_millis(3 + round as u64));
            }
            kill_process(Pid::from_child(&served.child), Signal::KILL).unwrap();
            kills += 1;
            dead.store(1, Ordering::Relaxed);
        });
        served.child.wait().unwrap();
    }
    let answered = answered.into_inner().unwrap();
    let store = Store::open(&dir.join("fleet.db")).unwrap();
    for n in &answered {
        let one = Box::new(&format!("{n}"), &fleet, &fleet.own_bundle("any", "x"), hardware("x"));
        let device = store.read(|c| Device::load(c, &one.id())).unwrap();
        assert_eq!(device.expect("answered, so it is on the disk").node, Some(format!("s{n}")));
    }
    // And each of them is told the same again.
    let served = start(&dir, &fleet.root);
    let fleet = fleet_of(&served, fleet);
    for n in answered.iter().step_by(20) {
        let bundle = fleet.own_bundle(&format!("s{n}"), &format!("SN{n}"));
        let mut one = new_box(&served, &fleet, &format!("{n}"), &bundle, &format!("SN{n}"));
        let mut connection = served.endpoint.connect().unwrap();
        assert_eq!(one.claim(&mut |request| connection.send(request).unwrap()).0, 200);
    }
    println!("{kills} kills, {} answered claims, none lost", answered.len());
}

#[test]
fn who_waits_is_answered_when_an_operator_speaks_and_a_stop_is_polite() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("fleet");
    let fleet = Fleet::of_seed(1);
    let mut served = start(&dir, &fleet.root);
    let bundle = fleet.bundle("spring", Mode::Batch, 10, |_| {});
    let mut one = new_box(&served, &fleet, "one", &bundle, "SN1");
    let mut connection = served.endpoint.connect().unwrap();
    assert_eq!(one.claim(&mut |request| connection.send(request).unwrap()).0, 202);

    // Held open: answered by the approval, which comes from another process, and not by the fifty seconds.
    let id = one.id();
    let wait = |name: &str| {
        let mut connection = served.endpoint.connect().unwrap();
        let target = format!("{}?nonce={name:0>16}&wait=50", path(&id, ""));
        std::thread::spawn(move || {
            let start = Instant::now();
            (connection.call("GET", &target, "", b"").map(|answer| answer.0), start.elapsed())
        })
    };
    let waiting = wait("a");
    std::thread::sleep(Duration::from_millis(600));
    let approved = Command::new(env!("CARGO_BIN_EXE_forge"))
        .args(["--json", "fleet", "approve", &id.as_str()[..12], "--dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    let (status, held) = waiting.join().unwrap();
    assert_eq!(status.unwrap(), 200);
    assert!(held > Duration::from_millis(500) && held < Duration::from_secs(10), "held {held:?}");

    // The page's interface: nothing without the token, and everything with it.
    let mut stranger = served.endpoint.connect().unwrap();
    for (method, call) in [("GET", "devices"), ("GET", "devices/x"), ("POST", "orders")] {
        assert_eq!(stranger.call(method, &format!("/api/v1/{call}"), "", b"{}").unwrap().0, 401, "{call}");
        let wrong = "Authorization: Bearer wrong\r\nCookie: token=x\r\n";
        assert_eq!(stranger.call(method, &format!("/api/v1/{call}"), wrong, b"{}").unwrap().0, 401, "{call}");
    }
    let (status, listing) = served.api("GET", "devices?state=approved&q=sn1", "");
    assert_eq!((status, listing["total"].as_u64()), (200, Some(1)));
    assert_eq!(listing["devices"][0]["id"], id.as_str());
    let order = serde_json::json!({ "order": "revoke", "device": id, "reason": "stolen" }).to_string();
    assert_eq!(served.api("POST", "orders", &order).0, 200);
    assert_eq!(served.api("POST", "orders", "{\"order\":\"format-disk\"}").0, 409);
    assert_eq!(one.ask(&mut |request| connection.send(request).unwrap()).0, 403);
    let (status, _, text) = stranger.call("GET", "/metrics", "", b"").unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(status == 200 && text.contains("forge_fleet_devices{state=\"revoked\"} 1"), "{text}");
    assert!(text.contains("forge_fleet_requests_total{call=\"claim\",status=\"202\"} 1"), "{text}");
    assert_eq!(stranger.call("GET", "/healthz", "", b"").unwrap().0, 200);

    // A stop answers who waits, ends by itself, and leaves the whole audit in the file.
    let mut two = new_box(&served, &fleet, "two", &bundle, "SN2");
    assert_eq!(two.claim(&mut |request| connection.send(request).unwrap()).0, 202);
    drop((connection, stranger));
    served.signal(Signal::INT);
    let stop = Instant::now();
    assert!(served.child.wait().unwrap().success());
    assert!(stop.elapsed() < Duration::from_secs(8), "{:?}", stop.elapsed());
    let log = std::fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    for action in ["claim", "approve", "revoke"] {
        assert!(log.contains(&format!("\"action\":\"{action}\"")), "{log}");
    }
    assert!(log.contains("operator (command line)") && log.contains("operator (page)"));
}

#[test]
fn rude_strangers_cost_little_and_secrets_stay_inside() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("fleet");
    let fleet = Fleet::of_seed(1);
    let served = start(&dir, &fleet.root);
    std::fs::create_dir_all(dir.join("grants/all/etc/forge")).unwrap();
    let secret = "hush-5f0c1d";
    std::fs::write(dir.join("grants/all/etc/forge/join.token"), secret).unwrap();

    // One says nothing, one stops in the middle of a header, one in the middle of a body, one speaks no TLS.
    let mut silent = std::net::TcpStream::connect(served.endpoint.address).unwrap();
    let mut slow = served.endpoint.connect().unwrap();
    slow.raw().write_all(b"GET /v1/hello?nonce=0123456789abcdef HTTP/1.1\r\nHost:").unwrap();
    let mut plain = std::net::TcpStream::connect(served.endpoint.address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let start = Instant::now();
    for stream in [&mut silent, &mut plain] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.read_to_end(&mut vec![]);
    }
    let _ = slow.raw().read_to_end(&mut vec![]);
    assert!(start.elapsed() < Duration::from_secs(20), "let go after {:?}", start.elapsed());
    let mut large = served.endpoint.connect().unwrap();
    let (status, _, _) =
        large.call("POST", "/v1/enroll?nonce=0123456789abcdef", "", &vec![b'x'; (1 << 20) + 1]).unwrap();
    assert_eq!(status, 413);

    // A box joins meanwhile; what it got is in none of the files, answers or logs in the clear.
    let mut one = new_box(&served, &fleet, "one", &fleet.own_bundle("s1", "SN1"), "SN1");
    let mut connection = served.endpoint.connect().unwrap();
    let mut seen: Vec<u8> = vec![];
    let mut send = |request: &forge::fleet::Request| {
        let response = connection.send(request).unwrap();
        seen.extend(&response.body);
        response
    };
    assert_eq!(one.claim(&mut send).0, 201);
    let grant = one.grant(&mut send).unwrap();
    let (_, material) = one.open(&grant);
    let material = serde_json::to_string(&material).unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret);
    assert!(material.contains(&encoded), "the box itself has it");
    assert_eq!(one.ack(&mut send, &grant), 200);
    for call in ["devices", "devices/s1"] {
        seen.extend(served.api("GET", call, "").1.to_string().bytes());
    }
    std::thread::sleep(Duration::from_millis(500));
    for file in ["audit.jsonl", "fleet.db", "fleet.db-wal", "fleet.json"] {
        seen.extend(std::fs::read(dir.join(file)).unwrap());
    }
    let ticket_seed = one.bundle.ticket_seed.unwrap();
    let home = Home::open(&dir).unwrap();
    let token = home.token().unwrap();
    for hidden in [secret.as_bytes(), encoded.as_bytes(), &ticket_seed[..], token.as_bytes()] {
        assert!(!seen.windows(hidden.len()).any(|window| window == hidden), "a secret outside");
    }
}

#[test]
fn an_order_while_the_endpoint_writes_is_carried_out() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("fleet.db");
    let (one, two) = (Arc::new(Store::open(&path).unwrap()), Store::open(&path).unwrap());
    let writer = std::thread::spawn(move || {
        for n in 0..200 {
            one.write(move |c| Ok(c.execute("INSERT INTO barred VALUES ('ticket', ?1, 0, '')", [n])?))
                .unwrap();
        }
    });
    for _ in 0..50 {
        let order = operator::Order::Window { minutes: 1, boxes: 1, batch: None };
        operator::carry_out(&two, order, "operator", forge::model::Epoch(0)).unwrap();
    }
    writer.join().unwrap();
    let counts = |sql| two.read(|c| Ok(c.query_row(sql, [], |row| row.get::<_, i64>(0))?)).unwrap();
    assert_eq!((counts("SELECT count(*) FROM barred"), counts("SELECT count(*) FROM opened")), (200, 50));
}
