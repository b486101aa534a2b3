//! The operator's page in a real browser, headless, driven over its DevTools pipe: what it shows, and what its buttons do.

use super::boxes::{Box, Fleet, hardware};
use super::serve::start;
use crate::support::tool;
use forge::enroll::bootstrap::Mode;
use forge::enroll::claim::State;
use forge::fleet::operator::{self, Wanted};
use forge::fleet::{Device, Home};
use rustix::process::{Pid, Signal};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A browser with one page, spoken to over a WebSocket (RFC 6455, text frames alone).
struct Browser {
    _processes: Processes,
    socket: BufReader<TcpStream>,
    calls: u64,
}

impl Browser {
    fn open(program: &Path, profile: &Path, url: &str) -> Browser {
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                "--no-sandbox", // tests may run as root, whom the sandbox refuses
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                "--remote-allow-origins=*",
                "--ignore-certificate-errors", // self-signed; boxes pin the key
                "--window-size=1440,900",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0);
        let mut processes = Processes(command.spawn().unwrap());
        let said = BufReader::new(processes.0.stderr.take().unwrap());
        let line = said.lines().map_while(Result::ok).find(|l| l.contains("DevTools listening on"));
        let line = line.expect("the browser says where it listens");
        let address = line.split("ws://").nth(1).unwrap().split('/').next().unwrap().to_string();
        // The page's own socket stands in the list of targets.
        let mut target = String::new();
        for _ in 0..100 {
            let mut list = BufReader::new(TcpStream::connect(&address).unwrap());
            write!(list.get_mut(), "GET /json/list HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let (mut length, mut line) = (0, String::new());
            while line != "\r\n" {
                line.clear();
                list.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("Content-Length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut json = vec![0; length];
            list.read_exact(&mut json).unwrap();
            let targets: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
            let page = targets.as_array().and_then(|t| t.iter().find(|t| t["type"] == "page").cloned());
            if let Some(page) = page {
                target = page["webSocketDebuggerUrl"].as_str().unwrap().into();
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let path = target.splitn(4, '/').nth(3).unwrap();
        let mut socket = TcpStream::connect(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        .unwrap();
        let mut socket = BufReader::new(socket);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            socket.read_line(&mut line).unwrap();
        }
        Browser { _processes: processes, socket, calls: 0 }
    }

    fn command(&mut self, method: &str, parameters: serde_json::Value) -> serde_json::Value {
        self.calls += 1;
        let text =
            serde_json::json!({ "id": self.calls, "method": method, "params": parameters }).to_string();
        // A masked text frame; the mask may be anything, zero included.
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((text.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.bytes());
        self.socket.get_mut().write_all(&frame).unwrap();
        loop {
            let answer: serde_json::Value = serde_json::from_slice(&self.frame()).unwrap();
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut message = vec![];
        loop {
            let mut head = [0; 2];
            self.socket.read_exact(&mut head).unwrap();
            let mut length = u64::from(head[1] & 127);
            if length >= 126 {
                let mut wide = [0; 8];
                let from = if length == 126 { 6 } else { 0 };
                self.socket.read_exact(&mut wide[from..]).unwrap();
                length = u64::from_be_bytes(wide);
            }
            let at = message.len();
            message.resize(at + length as usize, 0);
            self.socket.read_exact(&mut message[at..]).unwrap();
            if head[0] & 0x80 != 0 {
                return message;
            }
        }
    }

    fn eval(&mut self, script: &str) -> serde_json::Value {
        let parameters =
            serde_json::json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let result = self.command("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{script}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    fn until(&mut self, script: &str) {
        let start = Instant::now();
        while self.eval(script) != true {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "never: {script}; {}",
                self.eval("document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kept where `FORGE_TEST_SCREENSHOTS` says, for a person's eye.
    fn screenshot(&mut self, name: &str) {
        let shot = self.command("Page.captureScreenshot", serde_json::json!({ "format": "png" }));
        let png = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            shot["data"].as_str().unwrap(),
        );
        let png = png.unwrap();
        assert!(png.len() > 10_000, "an empty picture");
        if let Some(dir) = std::env::var_os("FORGE_TEST_SCREENSHOTS") {
            std::fs::write(Path::new(&dir).join(format!("{name}.png")), png).unwrap();
        }
    }
}

/// A group of processes that ends with the value: the program is a script that starts the browser, which starts more.
struct Processes(Child);

impl Drop for Processes {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn an_operator_sees_and_decides_on_the_page() {
    let Some(program) = tool("chromium-headless-shell").or_else(|| tool("chromium")) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("fleet");
    let fleet = Fleet::of_seed(1);
    let served = start(&dir, &fleet.root);
    let keys = served.description.grant_keys.clone();
    let mut connection = served.endpoint.connect().unwrap();
    let mut send = |request: &forge::fleet::Request| connection.send(request).unwrap();
    let models = ["Protectli VP2420", "ASUS NUC 13 Pro", "Supermicro E302-12E", "OnLogic Helix 330"];
    let new = |name: &str, bundle: &super::boxes::Bundle, serial: &str| {
        let mut facts = hardware(serial);
        facts.model = models[serial.len() * 7 % 4].into();
        facts.macs = vec![format!("02:42:c0:00:02:{:02x}", serial.bytes().last().unwrap())];
        let mut one = Box::new(name, &fleet, bundle, facts);
        one.fleet_keys.clone_from(&keys);
        one
    };
    // A fleet's usual morning: most have joined, some wait, two quarrel, one was stolen.
    for n in 0..60 {
        let (name, serial) = (format!("store-{:03}", n + 1), format!("PF4X{:04}", 2301 + n * 7));
        new(&name, &fleet.own_bundle(&name, &serial), &serial).join(&mut send).unwrap();
    }
    let batch = fleet.bundle("spring", Mode::Batch, 50, |_| {});
    let mut waiting: Vec<Box> =
        (0..4).map(|n| new(&format!("w{n}"), &batch, &format!("WS-90{n}1"))).collect();
    for one in &mut waiting {
        assert_eq!(one.claim(&mut send).0, 202);
    }
    let bundle = fleet.own_bundle("store-061", "PF4X9999");
    assert_eq!(new("real", &bundle, "PF4X9999").claim(&mut send).0, 201);
    assert_eq!(new("thief", &bundle, "PF4X9999").claim(&mut send).0, 409);
    // What a hostile box says of itself is text.
    let mut hostile = new("hostile", &batch, "<img src=x onerror=document.title='owned'>");
    assert_eq!(hostile.claim(&mut send).0, 202);
    let store = Home::open(&dir).unwrap().store().unwrap();
    let find = |name: &str| operator::show(&store, name).unwrap().row.device.id;
    let revoke =
        operator::Order::Revoke { device: find("store-007"), reason: "stolen from the car park".into() };
    operator::carry_out(&store, revoke, "operator", forge::host::clock::now()).unwrap();

    let url = format!("https://{}/", served.endpoint.address);
    let mut browser = Browser::open(&program, &scratch.path().join("profile"), &url);
    browser.until("document.querySelector('#login')?.open === true");
    browser.screenshot("login");
    let sign_in = |browser: &mut Browser, token: &str| {
        browser.eval(&format!(
            "document.querySelector('#token').value = '{token}'; document.querySelector('#login button').click(); null"
        ));
    };
    sign_in(&mut browser, "a-wrong-token");
    browser.until("document.querySelector('#wrong').textContent.includes('not the operator')");
    sign_in(&mut browser, &served.token);
    browser.until(
        "document.body.dataset.ready === 'yes' && document.querySelectorAll('#rows tr').length === 50",
    );
    browser.until("document.querySelector('#pulse').textContent.trim() === 'live'");
    let counts =
        browser.eval("[...document.querySelectorAll('#states b')].map(b => b.textContent).join(' ')");
    assert_eq!(counts, "67 2 5 0 59 0 1", "all, quarantined, pending, approved, joined, denied, revoked");
    let first = browser.eval("document.querySelector('#rows tr').innerText");
    assert!(first.as_str().unwrap().contains("quarantined"), "who waits for a person comes first: {first}");
    assert_eq!(browser.eval("document.querySelectorAll('#rows tr.pending').length"), 5);
    assert_eq!(browser.eval("document.querySelector('#rows img')"), serde_json::Value::Null);
    assert_eq!(browser.eval("document.title"), "forge fleet");
    assert_eq!(browser.eval("document.cookie"), "");
    browser.screenshot("light");
    let dark = serde_json::json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.command("Emulation.setEmulatedMedia", dark);
    browser.screenshot("dark");

    // Approve one that waits: its six words are said again, and the box is let in.
    let id = waiting[0].id();
    let words = forge::enroll::identity::words(forge::sign::Signer::public_key(&waiting[0].key));
    browser.eval("document.querySelector('#q').value = 'WS-9001'; document.querySelector('#q').dispatchEvent(new Event('input')); null");
    browser.until("document.querySelectorAll('#rows tr').length === 1");
    browser.eval("document.querySelector('#rows button').click(); null");
    browser.until("document.querySelector('#ask').open");
    assert!(
        browser
            .eval("document.querySelector('#ask .big-words').textContent")
            .as_str()
            .unwrap()
            .contains(&words)
    );
    browser.screenshot("approve");
    browser.eval("document.querySelector('#ask button[value=yes]').click(); null");
    browser.until("document.querySelector('#rows tr')?.className === 'approved'");
    let device = store.read(|c| Device::load(c, &id)).unwrap().unwrap();
    assert_eq!((device.state, device.reason.as_str()), (State::Approved, "approved by an operator"));
    assert_eq!(waiting[0].join(&mut send).map(|name| name.starts_with("box-")), Ok(true));
    browser.until("document.querySelector('#rows tr')?.className === 'joined'"); // by itself

    // Everything about one box.
    browser.eval("document.querySelector('#rows tr').click(); null");
    browser.until("document.querySelector('#box').open");
    let text = browser.eval("document.querySelector('#box').innerText");
    for part in [id.as_str(), "WS-9001", "approve by operator (page)", "batch spring"] {
        assert!(text.as_str().unwrap().contains(part), "{part}: {text}");
    }
    browser.screenshot("box");
    browser.eval("document.querySelector('#box').close(); null");

    // Deny and revoke, with a reason that the box will show.
    for (n, button, order, state) in [(1, 1, "not ours", State::Denied), (2, 2, "stolen", State::Revoked)] {
        browser.eval(&format!("document.querySelector('#q').value = 'WS-90{n}1'; document.querySelector('#q').dispatchEvent(new Event('input')); null"));
        browser.until(&format!("document.querySelectorAll('#rows tr').length === 1 && document.querySelector('#rows').innerText.includes('WS-90{n}1')"));
        browser.eval(&format!("document.querySelectorAll('#rows button')[{button}].click(); null"));
        browser.eval(&format!("document.querySelector('#ask input').value = '{order}'; document.querySelector('#ask button[value=yes]').click(); null"));
        browser.until(&format!("document.querySelector('#rows tr')?.className === '{}'", state.as_str()));
        let device = store.read(|c| Device::load(c, &waiting[n].id())).unwrap().unwrap();
        assert_eq!((device.state, device.reason.as_str()), (state, order));
    }
    // Filters and pages.
    browser.eval("document.querySelector('#q').value = ''; document.querySelector('#q').dispatchEvent(new Event('input')); null");
    browser.until("document.querySelectorAll('#rows tr').length === 50");
    browser.eval("document.querySelector('#next').click(); null");
    browser.until("document.querySelectorAll('#rows tr').length === 17");
    browser.eval("document.querySelector('#states .quarantined').click(); null");
    browser.until("document.querySelectorAll('#rows tr').length === 2");
    assert!(
        browser.eval("document.querySelector('#rows').innerText").as_str().unwrap().contains("E-CLAIM-03")
    );
    // The policy lets no other script run.
    browser.eval("const s = document.createElement('script'); s.textContent = 'document.title = \"owned\"'; document.body.append(s); null");
    assert_eq!(browser.eval("document.title"), "forge fleet");
    let phone = serde_json::json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
    browser.command("Emulation.setDeviceMetricsOverride", phone);
    browser.screenshot("phone");
    let listing = operator::list(&store, &Wanted::default(), forge::host::clock::now()).unwrap();
    assert_eq!((listing.counts["denied"], listing.counts["revoked"]), (1, 2));
}
